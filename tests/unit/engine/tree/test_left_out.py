"""What is left out by regexes of names: how a path becomes a name."""

from __future__ import annotations

import os

import pytest

from sparsesync.engine.tree.left_out import NameRules, left_out


def test_no_rules() -> None:
    assert left_out("a", None) is None


@pytest.mark.parametrize(
    ("source", "shown", "path", "name"),
    [
        ("x/a", "a", "x/a", b"/a"),
        ("x/a", "a", "x/a/b", b"/a/b"),
        ("x/a", "x/a", "x/a/b/c", b"/x/a/b/c"),
        ("x/a/", "", "x/a/b", b"/b"),
        ("x/a//", "", "x/a//b/c", b"/b/c"),
        (".", "", "./b", b"/b"),
        ("/", "", "/b", b"/b"),
        ("x/a/", "a", "x/a/", b"/a"),
        ("x", "\xff", "x/\udcfe", b"/\xff/\xfe"),
        ("x", "x", "x/é\n", "/x/é\n".encode()),
    ],
)
def test_a_directory_has_a_slash_behind_it(source: str, shown: str, path: str, name: bytes) -> None:
    regex = "".join(f"\\x{byte:02x}" for byte in name)
    for given in (NameRules(shown, rf"{regex}/\Z", rf"{regex}\Z"), [shown, rf"{regex}/\Z", rf"{regex}\Z", True]):
        answer = left_out(source, given)
        assert answer is not None
        assert answer(path, True) and answer(path, False)
        assert not answer(os.path.join(path, "more"), True)


def test_what_is_in_the_source_was_asked_for() -> None:
    answer = left_out("x/", NameRules("", "", ""))
    assert answer is not None
    assert not answer("x/", True) and answer("x/a", True) and answer("x/a", False)


def test_no_directory_is_looked_into() -> None:
    answer = left_out("x/", NameRules("", "(?!)", "(?!)", recursive=False))
    assert answer is not None
    assert answer("x/", True) and answer("x/a", True) and not answer("x/a", False)


@pytest.mark.parametrize("regex", ["(", "[", "*", "a{99999999999}", "\u0100", "(" * 10000])
def test_no_regex(regex: str) -> None:
    with pytest.raises(ValueError, match=r"regular|latin"):
        left_out("x", NameRules("", regex, ""))
