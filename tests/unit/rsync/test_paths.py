"""What the paths of an rsync command line mean."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.rsync import command as rsync
from sparsesync.rsync.paths import (
    QUOTES_ARGUMENTS,
    NotForUs,
    RemoteEnd,
    means_contents,
    pulled_from,
    remote_end,
    sent_as_top,
    why_not_plain,
)
from sparsesync.rsync.process import version
from tests.support.filesystems import need, need_tools


@pytest.mark.parametrize(
    ("source", "contents"),
    [("a/", True), ("/", True), (".", True), ("a/.", True), ("a/..", True), ("a", False), ("a/.b", False)],
)
def test_means_contents(source: str, contents: bool) -> None:
    assert means_contents(source) == contents


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ways=st.lists(st.sampled_from(["/", "//", "/./", "/././", "/.//"]), min_size=3, max_size=3),
    start=st.sampled_from(["", "./", "././", ".//", "TOP/", "TOP/./", "TOP/.//"]),
    end=st.sampled_from(["", "/", "/.", "/./", "/./.", "//"]),
    depth=st.integers(0, 2),
    relative=st.booleans(),
)
def test_whose_mode_the_destination_gets(
    tmp_path_factory: pytest.TempPathFactory, ways: list[str], start: str, end: str, depth: int, relative: bool
) -> None:
    need_tools("rsync")
    top = tmp_path_factory.mktemp("modes")
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/f").touch()
    modes = {top: 0o711, top / "a": 0o751, top / "a/b": 0o750}
    for path, mode in modes.items():
        path.chmod(mode)
    source = start.replace("TOP", str(top)) + "".join(n + way for n, way in zip(["a", "b"][:depth], ways)).rstrip("/")
    source = (source or ".") + end
    assert os.path.realpath(top / source).startswith(str(top))  # it is copied with all that is below
    options = ["-R"] if relative else []
    done = subprocess.run(["rsync", "-r", *options, source, top / "dst/"], cwd=top, umask=0o022, capture_output=True)
    if not os.path.isdir(top / "dst"):
        assert done.returncode  # a path of "/" alone, say
        return
    found = sent_as_top(source, relative)
    expected = 0o755 if found is None else os.stat(top / found).st_mode & 0o777
    assert oct((top / "dst").stat().st_mode & 0o777) == oct(expected), source


def far(*paths: str, rsync_path: str | None = None, rsh: str | None = None, family: str | None = None) -> RemoteEnd:
    return remote_end(paths, rsh, rsync_path, family, {})


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
    assert far("a", "b", "me@h:c") == RemoteEnd("me", "h", True, ("c",), ("ssh",), "")
    assert far("h:a", ":b", "c") == RemoteEnd(None, "h", False, ("a", "b"), ("ssh",), "")
    assert far("a", "h:", family="-6").shell == ("ssh", "-6")
    assert far("a", "h:", rsh="lsh", family="-6") == RemoteEnd(None, "h", True, (".",), ("lsh",), "")


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
    assert (why_not_plain(RemoteEnd(None, "h", True, (path,), ("ssh",), ""), quoted) is None) == plain


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
    need(version() >= QUOTES_ARGUMENTS, "this rsync quotes nothing")
    reason = why_not_plain(RemoteEnd(None, "h", True, (path,), ("ssh",), ""), mode == "quoted", relative=relative)
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
        ("a\nb", "depends on the remote host's shell"),
        ("a\x07b", "depends on the remote host's shell"),
        ("a\\", "depends on the remote host's shell"),
        ("=ls", "depends on the remote host's shell"),
        ("~", "whose home that is"),
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


@pytest.mark.parametrize("odd", [" ", "\n", "\x1b", "'", "$(id)", "\u202e"])
def test_a_host_that_is_none_is_left_to_rsync(odd: str) -> None:
    with pytest.raises(NotForUs, match="cannot hold"):
        far("a", f"me@a{odd}b:x")
