"""engine/content/compare.py, judged by cmp(1) and by reading whole small files."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesync.engine.content import compare
from sparsesync.engine.content import differing as update
from sparsesync.engine.content.compare import first_difference
from sparsesync.engine.content.differing import differing
from sparsesync.engine.errors import TruncatedError
from sparsesync.engine.files import syscalls
from sparsesync.engine.files.extents import extents

KIB = 1024
TIB = 1 << 40

Range = tuple[int, int]
Read = tuple[int, int, int]
Runs = list[tuple[int, int, int]]
"""(offset, length, byte) of what is written."""
Pair = tuple[int, Runs, int, Runs]


def write(path: str | Path, size: int, *runs: tuple[int, bytes]) -> str | Path:
    """A sparse file for real: ``runs`` are (offset, bytes)."""
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, data in runs:
            file.seek(offset)
            file.write(data)
    return path


class Opened:
    """The descriptors of files, closed at the end."""

    def __init__(self, *paths: str | Path) -> None:
        self.fds = [os.open(path, os.O_RDWR) for path in paths]

    def __enter__(self) -> list[int]:
        return self.fds

    def __exit__(self, *exc_info: object) -> None:
        for fd in self.fds:
            os.close(fd)


def first(a: str | Path, b: str | Path, **options: Any) -> int | None:
    with Opened(a, b) as (a_fd, b_fd):
        return first_difference(a_fd, b_fd, **options)


def by_cmp(a: str | Path, b: str | Path) -> int | None:
    """The first difference according to cmp(1)."""
    result = subprocess.run(["cmp", a, b], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if result.returncode == 0:
        return None
    assert result.returncode == 1
    if "which is empty" in result.stderr:
        return 0
    number = re.search(r"(?:byte|char) (\d+)", result.stdout + result.stderr)
    assert number is not None
    return int(number[1]) if "EOF" in result.stderr else int(number[1]) - 1


def by_reading(a: str | Path, b: str | Path, offset: int, length: int, block: int) -> list[Range]:
    """The blocks that differ, one by one, found in the whole content."""
    a_data, b_data = Path(a).read_bytes(), Path(b).read_bytes()
    blocks = []
    while length:
        count = min(block - offset % block, length)
        if a_data[offset : offset + count] != b_data[offset : offset + count]:
            blocks.append((offset, count))
        offset += count
        length -= count
    return blocks


def merged(ranges: Iterable[Range]) -> list[Range]:
    result: list[Range] = []
    for offset, length in ranges:
        if result and sum(result[-1]) == offset:
            result[-1] = (result[-1][0], result[-1][1] + length)
        else:
            result.append((offset, length))
    return result


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Read]:
    """Every read that delta makes, as (descriptor, offset, bytes)."""
    calls = []
    read_into = syscalls.read_into

    def counting(fd: int, view: memoryview, offset: int) -> int:
        count = read_into(fd, view, offset)
        calls.append((fd, offset, count))
        return count

    monkeypatch.setattr(syscalls, "read_into", counting)
    return calls


# A few byte values only, and zeros among them, so that two random files often agree.
runs = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 24).map(lambda block: block * 4 * KIB), st.integers(0, 96 * KIB)),
        st.one_of(st.just(4 * KIB), st.integers(1, 20 * KIB)),
        st.sampled_from([0, 0, 1, 2]),
    ),
    max_size=6,
)
sizes = st.one_of(st.integers(0, 25).map(lambda block: block * 4 * KIB), st.integers(0, 100 * KIB))


@st.composite
def pairs(draw: Any) -> Pair:
    """(size of A, its runs, size of B, its runs); B is often A with a few changes."""
    a_size, a_runs = draw(sizes), draw(runs)
    b_runs = draw(runs)
    if draw(st.booleans()):
        b_runs = a_runs + b_runs[:1]
    b_size = draw(st.one_of(st.just(a_size), st.just(a_size), sizes))
    return a_size, a_runs, b_size, b_runs


def layout(path: str, size: int, runs: Runs) -> str | Path:
    return write(
        path,
        size,
        *((offset, bytes([value]) * min(length, size - offset)) for offset, length, value in runs if offset < size),
    )


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(pairs(), st.booleans(), st.sampled_from([4 * KIB, 7000, 64 * KIB, compare.BUFFER_BYTES]))
def test_first_difference_is_that_of_cmp(pair: Pair, full: bool, buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(compare, "BUFFER_BYTES", buffer):
        a = layout(folder + "/a", pair[0], pair[1])
        b = layout(folder + "/b", pair[2], pair[3])
        assert first(a, b, full=full) == first(b, a, full=full) == by_cmp(a, b)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    pairs(),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from([1, 512, 1000, 4 * KIB, 64 * KIB, 1 << 20]),
    st.sampled_from([4 * KIB, 7000, compare.BUFFER_BYTES]),
)
def test_differing_is_what_reading_all_finds(pair: Pair, part: tuple[float, float], block: int, buffer: int) -> None:
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(update, "BUFFER_BYTES", buffer):
        a = layout(folder + "/a", pair[0], pair[1])
        b = layout(folder + "/b", pair[2], pair[3])
        start = int(part[0] * pair[0])
        length = int(part[1] * (pair[0] - start))
        with Opened(a, b) as (a_fd, b_fd):
            assert list(differing(a_fd, b_fd, start, length, block)) == merged(by_reading(a, b, start, length, block))


@settings(max_examples=100, deadline=None)
@given(
    pairs(),
    st.sampled_from([512, 4 * KIB]),
    st.sampled_from([4 * KIB, 64 * KIB]),
    st.sampled_from([1, 8 * KIB, 1 << 30]),
)
def test_a_caller_may_write_to_b_on_the_way(pair: Pair, block: int, buffer: int, longest: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        a = layout(folder + "/a", pair[0], pair[1])
        b = layout(folder + "/b", pair[2], pair[3])
        os.truncate(b, pair[0])
        expected = by_reading(a, b, 0, pair[0], block)
        written = []
        with Opened(a, b) as (a_fd, b_fd), mock.patch.multiple(update, BUFFER_BYTES=buffer, MAX_RANGE_BYTES=longest):
            for offset, length in differing(a_fd, b_fd, 0, pair[0], block):
                os.pwrite(b_fd, os.pread(a_fd, length, offset), offset)
                written.append((offset, length))
        assert merged(written) == merged(expected)
        assert Path(a).read_bytes() == Path(b).read_bytes()


spans = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), max_size=8)


@given(spans, spans)
def test_segments_cover_what_either_has(a_spans: list[Range], b_spans: list[Range]) -> None:
    def placed(spans: list[Range]) -> list[Range]:
        position, extents = 0, []
        for gap, length in spans:
            extents.append((position + gap, length))
            position += gap + length
        return extents

    def bytes_of(extents: list[Range]) -> set[int]:
        return {byte for offset, length in extents for byte in range(offset, offset + length)}

    a, b = placed(a_spans), placed(b_spans)
    seen: dict[int, tuple[bool, bool]] = {}
    last = 0
    for offset, length, a_has, b_has in compare._segments(iter(a), iter(b)):
        assert offset >= last and length > 0 and (a_has or b_has)
        last = offset + length
        seen.update((byte, (a_has, b_has)) for byte in range(offset, last))
    a_bytes, b_bytes = bytes_of(a), bytes_of(b)
    assert seen == {byte: (byte in a_bytes, byte in b_bytes) for byte in a_bytes | b_bytes}


def test_nothing_is_read_of_two_holes(tmp_path: Path, reads: list[Read]) -> None:
    a, b = write(tmp_path / "a", TIB), write(tmp_path / "b", TIB)
    assert first(a, b) is None
    assert reads == []


def test_only_data_is_read(tmp_path: Path, reads: list[Read]) -> None:
    block = os.urandom(4 * KIB)
    a = write(tmp_path / "a", TIB, (0, block), (TIB // 2, block), (TIB - 4 * KIB, block))
    b = write(tmp_path / "b", TIB, (0, block), (TIB // 2, block), (TIB - 4 * KIB, block[:-1]), (TIB - 1, b"\0"))
    assert first(a, b) in (None, TIB - 1)
    assert sum(count for _, _, count in reads) == 6 * 4 * KIB


def test_full_reads_the_holes(tmp_path: Path, reads: list[Read]) -> None:
    a, b = write(tmp_path / "a", 1 << 20), write(tmp_path / "b", 1 << 20)
    assert first(a, b, full=True) is None
    assert sum(count for _, _, count in reads) == 2 << 20


def test_zeros_equal_a_hole_which_is_not_read(tmp_path: Path, reads: list[Read]) -> None:
    a, b = write(tmp_path / "a", TIB, (TIB // 4, bytes(1 << 20))), write(tmp_path / "b", TIB)
    with Opened(a, b) as (a_fd, b_fd):
        assert sum(length for _, length in extents(a_fd)) == 1 << 20
        assert first_difference(a_fd, b_fd) is None
        assert first_difference(b_fd, a_fd) is None
        assert {fd for fd, _, _ in reads} == {a_fd}
    assert sum(count for _, _, count in reads) == 2 << 20


def test_data_against_a_hole_differs_at_its_first_byte_that_is_not_zero(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", TIB, (TIB // 4, bytes(5000) + b"x")), write(tmp_path / "b", TIB)
    assert first(a, b) == first(b, a) == TIB // 4 + 5000


def test_sizes_part_at_the_end_of_the_shorter(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", TIB), write(tmp_path / "b", TIB + 1)
    assert first(a, b) == first(b, a) == TIB
    assert first(write(tmp_path / "none", 0), b) == 0
    assert first(write(tmp_path / "c", TIB + 1, (10, b"x")), a) == 10


@pytest.mark.slow
def test_many_extents_take_no_memory(tmp_path: Path) -> None:
    count = 50_000
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        fd = os.open(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, count * 8 * KIB)
        for at in range(count):
            os.pwrite(fd, b"x" * 100, at * 8 * KIB)
        os.close(fd)
    tracemalloc.start()
    try:
        assert first(*paths) is None
        assert tracemalloc.get_traced_memory()[1] < 4 * compare.BUFFER_BYTES
    finally:
        tracemalloc.stop()


def test_progress_adds_up_to_the_data(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    a = write(tmp_path / "a", TIB, (1 << 30, data), (1 << 35, data))
    b = write(tmp_path / "b", TIB, (1 << 30, data), (1 << 35, data))
    told: list[int] = []
    assert first(a, b, progress=told.append) is None
    assert sum(told) == 6 << 20
    assert len(told) == 6


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = os.urandom(300 * KIB)
    a, b = write(tmp_path / "a", len(data), (0, data)), write(tmp_path / "b", len(data), (0, data))
    with open(b, "r+b") as file:
        file.seek(200_000)
        file.write(bytes([data[200_000] ^ 1]))
    read_into = syscalls.read_into
    monkeypatch.setattr(syscalls, "read_into", lambda fd, view, offset: read_into(fd, view[:999], offset))
    assert first(a, b) == 200_000
    with Opened(a, b) as (a_fd, b_fd):
        assert list(differing(a_fd, b_fd, 0, len(data))) == [(200_000 // 4096 * 4096, 4096)]


def test_a_range_beyond_the_end_of_a_is_an_error(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 10_000), write(tmp_path / "b", 20_000)
    with Opened(a, b) as (a_fd, b_fd), pytest.raises(TruncatedError, match="truncated") as caught:
        list(differing(a_fd, b_fd, 4096, 10_000, a_path="the source"))
    assert caught.value.filename == "the source"


def test_what_lies_beyond_the_end_of_b_differs_even_if_zeros(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a", 20_000), write(tmp_path / "b", 5000)
    with Opened(a, b) as (a_fd, b_fd):
        assert list(differing(a_fd, b_fd, 0, 20_000)) == [(4096, 20_000 - 4096)]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("data", [b"x", b""])
def test_a_file_that_shrinks_meanwhile_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int, data: bytes
) -> None:
    paths = [write(tmp_path / name, 1 << 20, (0, b"x" * 300 * KIB), ((1 << 20) - 1, data)) for name in "ab"]
    read_into = syscalls.read_into

    def shrinking(fd: int, view: memoryview, offset: int) -> int:
        count = read_into(fd, view, offset)
        os.truncate(paths[which], 300 * KIB)
        return count

    monkeypatch.setattr(syscalls, "read_into", shrinking)
    with Opened(*paths) as (a_fd, b_fd), pytest.raises(TruncatedError) as caught:
        first_difference(a_fd, b_fd, a_path="0", b_path="1")
    assert caught.value.filename == str(which)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_read_error_names_the_file(tmp_path: Path, bad: int) -> None:
    path = write(tmp_path / "a", 10_000, (0, b"x" * 10_000))
    with Opened(path, path) as fds:
        fds[bad], good = os.open(path, os.O_WRONLY), fds[bad]
        os.close(good)
        with pytest.raises(OSError) as caught:
            list(differing(fds[0], fds[1], 0, 10_000, a_path="0", b_path="1"))
        assert caught.value.filename == str(bad)
        with pytest.raises(OSError) as caught:
            first_difference(fds[0], fds[1], a_path="0", b_path="1")
        assert caught.value.filename == str(bad)


def test_blocks_are_whole_wherever_the_range_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update, "BUFFER_BYTES", 8 * KIB)
    a, b = write(tmp_path / "a", 1 << 20, (20_481, b"x"), (40_959, b"x")), write(tmp_path / "b", 1 << 20)
    with Opened(a, b) as (a_fd, b_fd):
        for start in (0, 1, 100, 5000):
            assert list(differing(a_fd, b_fd, start, 100_000)) == [(20_480, 4096), (36_864, 4096)]


def test_ranges_are_not_held_back(tmp_path: Path, reads: list[Read]) -> None:
    a, b = write(tmp_path / "a", 1 << 30, (5000, b"x")), write(tmp_path / "b", 1 << 30)
    with Opened(a, b) as (a_fd, b_fd):
        assert next(differing(a_fd, b_fd, 0, 1 << 30)) == (4096, 4096)
    assert sum(count for _, _, count in reads) == 2 * compare.BUFFER_BYTES


def test_an_empty_range(tmp_path: Path, reads: list[Read]) -> None:
    a = write(tmp_path / "a", 10)
    with Opened(a, a) as (a_fd, b_fd):
        assert list(differing(a_fd, b_fd, 5, 0)) == []
        assert first(write(tmp_path / "b", 0), write(tmp_path / "c", 0)) is None
        with pytest.raises(ValueError):
            list(differing(a_fd, b_fd, 0, 10, 0))
    assert reads == []
