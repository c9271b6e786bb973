"""What rsync printed, read in pieces of any size: seeded files have the dry run's lines, and all else is as it was."""

from __future__ import annotations

import contextlib
import gc
import io
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.rsync.command import parse
from sparsesync.rsync.listing import MARK
from sparsesync.rsync.report import Report, _number, _parsed

DRY = (
    "created directory dst\n"
    f"cd+++++++++ 4096 ./// src{MARK}cd+++++++++ ./\n"
    f">f+++++++++ 9 a/img//src/a/img{MARK}>f+++++++++ a/img\n"
    f"cd+++++++++ 4096 a/// src/a{MARK}cd+++++++++ a/\n"
    f">f+++++++++ 5 plain//src/plain{MARK}>f+++++++++ plain\n"
    "\n"
    "Number of files: 4 (reg: 2, dir: 2)\n"
    "Number of created files: 4 (reg: 2, dir: 2)\n"
    "Number of regular files transferred: 2\n"
    "Total file size: 14 bytes\n"
    "Total transferred file size: 14 bytes\n"
)
REAL = (
    f"{MARK}./{MARK}.d..t...... ./\n"
    f"{MARK}plain{MARK}>f+++++++++ plain\n"
    f"{MARK}a/{MARK}.d...p..... a/\n"
    f"{MARK}a/img{MARK}.f...p..... a/img\n"
    "*deleting   old\n"
    "\n"
    "Number of files: 4 (reg: 2, dir: 2)\n"
    "Number of created files: 1 (reg: 1)\n"
    "Number of regular files transferred: 1\n"
    "Total file size: 14 bytes\n"
    "Total transferred file size: 5 bytes\n"
    "Literal data: 5 bytes\n"
    "Matched data: 0 bytes\n"
    "not ended"
)
WANTED = [
    "created directory dst", "cd+++++++++ ./", "cd+++++++++ a/", ">f+++++++++ a/img", ">f+++++++++ plain",
    "*deleting   old", "", "Number of files: 4 (reg: 2, dir: 2)", "Number of created files: 4 (reg: 2, dir: 2)",
    "Number of regular files transferred: 2", "Total file size: 14 bytes", "Total transferred file size: 14 bytes",
    "Literal data: 14 bytes", "Matched data: 0 bytes", "not ended",
]  # fmt: skip


def read(command: list[str], real: bytes, cuts: list[int]) -> bytes:
    out: list[bytes] = []
    report = Report(parse(command), io.BytesIO(DRY.replace("// src", "//src").encode()), {"a/img": 9}, (), True)
    with contextlib.closing(report), report.open(out.append) as (feed, _, _):
        start = 0
        for cut in [*sorted(cuts), len(real)]:
            feed(real[start:cut])
            start = cut
    return b"".join(out)


@given(st.lists(st.integers(0, len(REAL)), max_size=20))
def test_in_pieces_of_any_size(cuts: list[int]) -> None:
    said = read(["-ai", "--stats", "src/", "dst"], REAL.encode(), cuts)
    assert sorted(said.decode().split("\n")) == sorted(WANTED)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_what_it_does_not_know_it_passes_on(said: bytes, cuts: list[int]) -> None:
    found = read(["-ai", "src/", "dst"], said, cuts)
    rest = found
    for line in WANTED[:4]:
        rest = rest.replace(line.encode() + b"\n", b"", 1)
    assert rest == said


@given(st.integers(0, 1 << 60), st.integers(0, 3))
def test_numbers_are_rsyncs(value: int, human: int) -> None:
    shown = _number(value, human)
    unit = shown[-1:] if shown[-1:].isalpha() else b""
    back = _parsed(shown.removesuffix(unit), unit, human)
    assert back == value if human < 2 or not unit else abs(back - value) <= value // 100


def test_what_cannot_be_read_leaves_no_file_open() -> None:
    class Full(io.BytesIO):
        def __next__(self) -> bytes:
            raise OSError(28, "No space left on device")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(OSError, match="No space left"):
            Report(parse(["-i", "src/", "dst"]), Full(), {"img": 1}, (), True)
        gc.collect()
    assert not said


def test_a_line_that_looks_like_one_of_a_log_is_a_line() -> None:
    said = b"2026/11/29 01:02:03 [7] odd\n" + f"{MARK}plain{MARK}>f+++++++++ plain\n".encode()
    found = read(["-ai", "src/", "dst"], said, [])
    assert found.count(b"2026/11/29") == 1


def test_a_name_that_looks_like_a_total_is_a_name() -> None:
    said = b"Literal data: 5 bytes\nNumber of created files\n"
    assert said in read(["-aivv", "src/", "dst"], said, [])
