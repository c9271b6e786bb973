"""Names of other hosts, and of what gets there."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.hosts.address import check_python, split_remote, split_shell
from tests.support.filesystems import need_tools


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


@given(st.text(), st.text())
def test_a_path_with_a_slash_before_the_colon_is_local(a: str, b: str) -> None:
    assert split_remote("/" + a + ":" + b) is None
    assert split_remote("./" + a + ":" + b) is None


@pytest.mark.parametrize("odd", [*" \t\n\r\0\x1b\x7f\x9b'\"`$;&|<>(){}*?!\u202e\u2028\udcff", "$(id)", "`id`"])
def test_hosts_and_users_that_are_none(odd: str) -> None:
    for path in (f"a{odd}b:x", f"[a{odd}b]:x", f"me@a{odd}b:x", f"a{odd}b@host:x"):
        with pytest.raises(ValueError, match="cannot hold"):
            split_remote(path)


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
    with pytest.raises(ValueError, match="is not the path of a Python"):
        check_python(name)
