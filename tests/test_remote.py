"""Names of other hosts, and where a pulled file comes from."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.remote import Far, NotForUs, far_end, pulled_from, split_remote, split_shell, why_not_plain
from tests.filesystems import need_tools


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
