"""What a caller gets of the lines of a run."""

from __future__ import annotations

import io
import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.console.lines import Splitter, recipient


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b"\r\n", b"bc"]).map(bytes)))
def test_nothing_is_lost_or_out_of_order(pieces: list[bytes]) -> None:
    splitter = Splitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)] + splitter.end()
    assert b"".join(lines) == b"".join(pieces)
    assert all(line.endswith((b"\n", b"\r")) for line in lines[:-1])
    assert not any(b"\n" in line[:-1] for line in lines)


def test_a_line_without_end_is_cut() -> None:
    splitter = Splitter()
    assert [len(line) for line in splitter.feed(b"x" * 70_000)] == [70_000]


def test_progress_comes_in_lines() -> None:
    said: list[tuple[str, str]] = []
    splitter = Splitter()
    call = recipient(lambda stream, line: said.append((stream, line)))
    for piece in (b"f\n\r  1%\r", b"  2%\r  3%\n\n", b"\xff"):
        call("stdout", splitter.feed(piece))
    call("stdout", splitter.end())
    assert [line for _, line in said] == ["f", "  1%", "  2%", "  3%", "", "\\xff"]


@pytest.mark.parametrize("mode", ["w+", "w+b"])
def test_files_of_every_kind(mode: str) -> None:
    with tempfile.NamedTemporaryFile(mode) as wrapped, io.StringIO() as text, io.BytesIO() as data:
        for output in (wrapped, text, data):
            recipient(output)("stderr", [b"a\n", b"b\r", b"c\n"])
            output.seek(0)
            assert output.read() in ("a\nb\rc\n", "a\nb\nc\n", b"a\nb\rc\n")


@pytest.mark.parametrize("wrong", [None, 1, "log"])
def test_what_is_neither(wrong: object) -> None:
    with pytest.raises(TypeError, match="a function or a file"):
        recipient(wrong)
