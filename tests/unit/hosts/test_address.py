"""Names of other hosts, and where a pulled file comes from."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.hosts.address import (
    QUOTES_ARGUMENTS,
    Far,
    NotForUs,
    check_python,
    far_end,
    pulled_from,
    split_remote,
    split_shell,
    why_not_plain,
)
from sparsesync.rsync import command as rsync
from tests.support.filesystems import need, need_tools


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("host:path", (None, "host", "path")),
        ("user@host:/a b", ("user", "host", "/a b")),
        ("host:", (None, "host", "")),
        ("[::1]:/x", (None, "::1", "/x")),
        ("me@[fe80::1%eth0]:x:y", ("me", "fe80::1%eth0", "x:y")),
        ("host:a:b", (None, "host", "a:b")),
        ("a/b:c", None),
        ("./a:b", None),
        ("/a:b", None),
        ("plain", None),
        ("", None),
    ],
)
def test_split_remote(path: str, parts: tuple[str | None, str, str] | None) -> None:
    found = split_remote(path)
    assert (tuple(found) if found else None) == parts


@pytest.mark.parametrize("path", ["host::module", "rsync://host/module", "-oProxyCommand=x:y", "-l@h:x", ":x"])
def test_what_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=re.escape(path)):
        split_remote(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ssh -p 22", ["ssh", "-p", "22"]),
        ("ssh -o 'ProxyCommand nc %h 1'", ["ssh", "-o", "ProxyCommand nc %h 1"]),
        ('ssh -i "a b"', ["ssh", "-i", "a b"]),
        (r"ssh -i a\b", ["ssh", "-i", r"a\b"]),
        ("ssh -i a#b", ["ssh", "-i", "a#b"]),
        ("ssh -i a\tb", ["ssh", "-i", "a\tb"]),
    ],
)
def test_split_shell_as_rsync_does(text: str, words: list[str], tmp_path: Path) -> None:
    assert split_shell(text) == words
    need_tools("rsync")
    # rsync itself is asked: a shell that writes down what it was called with.
    fake = tmp_path / "ssh"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/said\n')
    fake.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["rsync", "-e", text, "host:x", str(tmp_path)], env=environ, capture_output=True)
    said = (tmp_path / "said").read_text().splitlines()
    assert said[: len(words)] == [*words[1:], "host"]


def far(*paths: str, rsync_path: str | None = None, rsh: str | None = None, family: str | None = None) -> Far:
    return far_end(paths, rsh, rsync_path, family, {})


@pytest.mark.parametrize(
    ("rsync_path", "prefix"),
    [
        (None, ""),
        ("rsync", ""),
        ("/usr/bin/rsync", ""),
        ("sudo rsync", "sudo"),
        ("sudo -n /opt/x/rsync", "sudo -n"),
        ("cd /a/b && rsync", "cd /a/b &&"),
    ],
)
def test_what_rsync_path_puts_first(rsync_path: str | None, prefix: str) -> None:
    assert far("a", "h:b", rsync_path=rsync_path).prefix == prefix


@pytest.mark.parametrize("rsync_path", ["rsync --fake-super", "myrsync", "/opt/rsync3", "sudo"])
def test_another_program_is_not_for_us(rsync_path: str) -> None:
    with pytest.raises(NotForUs):
        far("a", "h:b", rsync_path=rsync_path)


def test_far_end() -> None:
    assert far("a", "b", "me@h:c") == Far("me", "h", True, ("c",), ("ssh",), "")
    assert far("h:a", ":b", "c") == Far(None, "h", False, ("a", "b"), ("ssh",), "")
    assert far("a", "h:", family="-6").shell == ("ssh", "-6")
    assert far("a", "h:", rsh="lsh", family="-6") == Far(None, "h", True, (".",), ("lsh",), "")


@pytest.mark.parametrize(
    ("path", "quoted", "plain"),
    [
        ("/a/b c", True, True),
        ("/a/b c", False, False),
        ("/a/b-c_1.2", False, True),
        ("~/x", True, True),
        ("~other/x", True, False),
        ("/a/*", True, False),
        ("/a/[b]", True, False),
        ("/a/$x", True, True),
        ("/a/$x", False, False),
    ],
)
def test_why_not_plain(path: str, quoted: bool, plain: bool) -> None:
    assert (why_not_plain(Far(None, "h", True, (path,), ("ssh",), ""), quoted) is None) == plain


@pytest.mark.parametrize(
    ("sources", "name", "relative", "path"),
    [
        (["/a/"], "x/y", False, "/a/x/y"),
        (["/a"], "a/x", False, "/a/x"),
        (["/a"], "b/x", False, None),
        (["/a/b"], "b", False, "/a/b"),
        (["."], "x", False, "./x"),
        (["a/.."], "x", False, "a/../x"),
        (["/a", "/b"], "b/x", False, "/b/x"),
        (["/a/", "/b/"], "x", False, None),
        (["/a/c", "/b/c"], "c/x", False, None),
        (["/a/b"], "a/b/c", True, "/a/b/c"),
        (["a/b"], "a/b/c", True, "a/b/c"),
        (["/a/./b"], "b/c", True, "/a/b/c"),
        (["/a//b/./c/"], "c/d", True, "/a//b/c/d"),
        (["/./a"], "a/x", True, "/a/x"),
        (["/a/b"], "a/x", True, None),
    ],
)
def test_pulled_from(sources: list[str], name: str, relative: bool, path: str | None) -> None:
    assert pulled_from(sources, name, relative=relative, files_from=False) == path


@given(st.text(), st.text())
def test_a_path_with_a_slash_before_the_colon_is_local(a: str, b: str) -> None:
    assert split_remote("/" + a + ":" + b) is None
    assert split_remote("./" + a + ":" + b) is None


HOME = "/home/of somebody"
ODD = "~/.-=+:,@%^ab $`'\"\\!#&;|<>(){}\n\r\t\x01\x7f\x9b\u202e\u3000é\udcff"


@pytest.mark.parametrize("mode", ["quoted", "old"])
@given(
    # With another colon it would be a daemon's.
    path=st.text(st.sampled_from(ODD), min_size=1, max_size=6).filter(lambda path: not path.startswith(":")),
    relative=st.booleans(),
    push=st.booleans(),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_plain_arrives_as_it_is(tmp_path: Path, mode: str, path: str, relative: bool, push: bool) -> None:
    """rsync itself is asked: a remote shell writes down what its last argument has become over there."""
    need_tools("rsync")
    need(rsync.version() >= QUOTES_ARGUMENTS, "this rsync quotes nothing")
    reason = why_not_plain(Far(None, "h", True, (path,), ("ssh",), ""), mode == "quoted", relative=relative)
    if reason is not None:
        assert path in reason  # and what a shell would make of it is not tried
        return
    fake = tmp_path / "rsh"
    fake.write_text(
        f"#!/bin/sh\nshift; HOME='{HOME}'; cd /; "
        f'eval "set -- $*"; for last; do :; done; printf %s "$last" >\'{tmp_path}/arrived\'; exit 1\n'
    )
    fake.chmod(0o755)
    options = ["-R"] * relative + ["--old-args"] * (mode == "old")
    paths = [str(fake), f"h:{path}"] if push else [f"h:{path}", str(tmp_path / "into")]
    argv = ["rsync", "-r", *options, "-e", str(fake), *paths]
    subprocess.run(argv, capture_output=True, env={**os.environ, "RSYNC_OLD_ARGS": ""})
    arrived = os.fsdecode((tmp_path / "arrived").read_bytes())
    wanted = HOME + path[1:] if path.startswith("~/") else path
    assert arrived in (wanted, f"./{wanted}")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("a\nb", "depends on the far shell"),
        ("a\x07b", "depends on the far shell"),
        ("a\\", "depends on the far shell"),
        ("=ls", "depends on the far shell"),
        ("~", "whether that is a home"),
    ],
)
def test_what_even_a_rsync_that_quotes_does_not_carry(path: str, why: str) -> None:
    assert why in str(why_not_plain(far("a", f"h:{path}"), True))


def test_what_the_far_rsync_reads_itself() -> None:
    for path in ("~/x", "a/../b"):
        assert why_not_plain(far("a", f"h:{path}"), True) is None
        assert why_not_plain(far("a", f"h:{path}"), True, secluded=True) is not None


@pytest.mark.parametrize(
    ("argv", "environ", "secluded"),
    [
        ([], {}, False),
        (["-s"], {}, True),
        (["--protect-args"], {}, True),
        (["-s", "--no-secluded-args"], {}, False),
        (["-s", "--no-s"], {}, False),
        ([], {"RSYNC_PROTECT_ARGS": "1"}, True),
        ([], {"RSYNC_PROTECT_ARGS": "0"}, False),
        (["--no-protect-args"], {"RSYNC_PROTECT_ARGS": "1"}, False),
    ],
)
def test_whether_the_far_rsync_reads_the_paths(argv: list[str], environ: dict[str, str], secluded: bool) -> None:
    assert rsync.secludes(rsync.parse([*argv, "a", "h:b"], environ), environ) == secluded


@pytest.mark.parametrize("odd", [*" \t\n\r\0\x1b\x7f\x9b'\"`$;&|<>(){}*?!\u202e\u2028\udcff", "$(id)", "`id`"])
def test_hosts_and_users_that_are_none(odd: str) -> None:
    for path in (f"a{odd}b:x", f"[a{odd}b]:x", f"me@a{odd}b:x", f"a{odd}b@host:x"):
        with pytest.raises(ValueError, match="cannot hold"):
            split_remote(path)
        with pytest.raises(NotForUs, match="cannot hold"):
            far("a", path)


@pytest.mark.parametrize("path", ["-x:y", "[-oProxyCommand=id]:y", "me@-x:y", "-l@h:y", "@h:y"])
def test_hosts_and_users_that_ssh_takes_for_options(path: str) -> None:
    with pytest.raises(ValueError, match="there is no host"):
        split_remote(path)


def test_names_that_are_used() -> None:
    for path in ("my_host-1.example.org:x", "DOMAIN\\me@h:x", "münchen:x", "me@example.org@h:x", "[::1%eth0]:x"):
        assert split_remote(path) is not None


@pytest.mark.parametrize("name", ["python3", "/usr/bin/python3.11", "./py", "/opt/my python/bin/python", "a+b=c"])
def test_a_python_there(name: str) -> None:
    check_python(name)


@pytest.mark.parametrize(
    "name", ["", "-c", " x", "$(id)", "`id`", '"', "'", "a\\b", "a\nb", "!", "~/x", "a;b", "a*", "é"]
)
def test_what_is_no_python(name: str) -> None:
    with pytest.raises(ValueError, match="is no path of a Python"):
        check_python(name)
