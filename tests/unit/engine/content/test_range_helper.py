"""The second process for very many small extents: what two do is what one alone does, and nothing is left of it."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.engine.content import compare
from sparsesync.engine.content.compare import Tally, first_difference
from sparsesync.engine.content.hands import range_helper, writer
from sparsesync.engine.content.hands.range_helper import RangeHelper
from sparsesync.engine.errors import TruncatedError

Helpers = list[RangeHelper[tuple[int, ...]]]

SIZE = 1 << 20
EVERYWHERE = [(offset, 512) for offset in range(0, SIZE, 1024)]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Helpers:
    """The helpers that were made, each after 10 ranges, and given 7 at a time."""
    helpers: Helpers = []

    class Noted(RangeHelper[tuple[int, ...]]):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            helpers.append(self)

    for user in (writer, compare):
        monkeypatch.setattr(user, "RangeHelper", Noted)
        monkeypatch.setattr(user, "FEW_RANGES", 10)
    monkeypatch.setattr(range_helper, "possible", lambda: True)
    monkeypatch.setattr(range_helper, "_BATCH_RANGES", 7)
    return helpers


@pytest.fixture
def files(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """A source of random bytes, and an empty target, both open."""
    (tmp_path / "source").write_bytes(os.urandom(SIZE))
    source, target = os.open(tmp_path / "source", os.O_RDWR), os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


def range_writer(source: int, target: int, told: list[int] | None = None) -> writer.RangeWriter:
    return writer.RangeWriter(source, target, False, 0, None if told is None else told.append, "source", 2)


def taken(result: Any, count: int) -> None:
    """Take a result, where nobody wants it."""


def gone(helpers: Sequence[RangeHelper[Any]]) -> bool:
    """Whether the processes have ended, and somebody has taken note of it."""
    return bool(helpers) and not any(Path(f"/proc/{helper._second.pid}").exists() for helper in helpers)


def expected(source: int, ranges: list[tuple[int, int]], size: int) -> bytes:
    content = bytearray(size)
    for offset, length in ranges:
        content[offset : offset + length] = os.pread(source, length, offset)
    return bytes(content)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 3000)), min_size=11, max_size=120))
def test_two_copy_what_one_copies(files: tuple[int, int], made: Helpers, lengths: list[tuple[int, int]]) -> None:
    source, target = files
    made.clear()
    ranges, end = [], 0
    for hole, length in lengths:
        ranges.append((end + hole, length))
        end += hole + length
    os.ftruncate(target, 0)
    os.ftruncate(target, end)
    told: list[int] = []
    written = range_writer(source, target, told).write(iter(ranges))
    data = sum(length for _, length in ranges)
    assert (written, sum(told)) == (data, data)
    assert os.pread(target, SIZE, 0) == expected(source, ranges, end)
    assert gone(made)


def test_few_ranges_need_no_second_process(files: tuple[int, int], made: Helpers) -> None:
    assert range_writer(*files).write(iter(EVERYWHERE[:10])) == 10 * 512
    assert made == []


def test_what_a_killed_one_has_not_done_is_done_here(files: tuple[int, int], made: Helpers) -> None:
    source, target = files

    def ranges() -> Iterator[tuple[int, int]]:
        for number, extent in enumerate(EVERYWHERE):
            if number == 500:
                os.kill(made[0]._second.pid, signal.SIGKILL)
            yield extent

    assert range_writer(source, target).write(ranges()) == SIZE // 2
    os.ftruncate(target, SIZE)
    assert os.pread(target, SIZE, 0) == expected(source, EVERYWHERE, SIZE)
    assert gone(made)


def test_its_error_is_the_error_of_the_copy(files: tuple[int, int], made: Helpers) -> None:
    """Whoever of the two comes to the end of the source: what is before the position is copied."""
    source, target = files
    os.ftruncate(source, SIZE // 2)
    ranges = range_writer(source, target)
    with pytest.raises(TruncatedError) as raised:
        ranges.write(iter(EVERYWHERE))
    assert raised.value.filename == "source"
    done = [extent for extent in EVERYWHERE if sum(extent) <= ranges.position]
    os.ftruncate(target, SIZE)
    assert os.pread(target, ranges.position, 0) == expected(source, done, SIZE)[: ranges.position]
    assert gone(made)


def test_a_limit_that_only_it_meets(files: tuple[int, int], made: Helpers) -> None:
    source, target = files

    class Limited(RangeHelper[tuple[int, int]]):
        def _answer(self, batch: list[tuple[int, int]]) -> Iterator[tuple[Any]]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))
            return super()._answer(batch)

    limited = Limited(range_writer(source, target)._alone(), taken, SIZE, "copy")
    try:
        with pytest.raises(OSError) as raised:
            list(limited.leave(iter(EVERYWHERE[512:])))
        assert raised.value.errno == errno.EFBIG
        assert limited.first_missing == SIZE // 2
    finally:
        limited.close()
    assert gone([limited])


def test_it_writes_nothing_for_a_process_that_is_gone(files: tuple[int, int]) -> None:
    """Another run may have taken up the file."""
    source, target = files
    reader, speaker = os.pipe()
    copying = os.fork()
    if not copying:
        helper = RangeHelper(range_writer(source, target)._alone(), taken, SIZE, "copy")
        os.kill(helper._second.pid, signal.SIGSTOP)
        helper._second.ask([(0, 512)])
        os.write(speaker, b"%d" % helper._second.pid)
        os.kill(os.getpid(), signal.SIGKILL)
    pid = int(os.read(reader, 20))
    os.waitpid(copying, 0)
    os.close(speaker)
    os.kill(pid, signal.SIGCONT)
    assert os.read(reader, 1) == b""  # it has ended, and nobody has the other end any more
    os.close(reader)
    assert os.fstat(target).st_size == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changed=st.sets(st.integers(0, SIZE - 1), max_size=3), killed=st.booleans())
def test_two_find_the_difference_that_one_finds(
    tmp_path: Path, made: Helpers, monkeypatch: pytest.MonkeyPatch, changed: set[int], killed: bool
) -> None:
    made.clear()
    content = bytearray(os.urandom(SIZE))
    (tmp_path / "a").write_bytes(content)
    for offset in changed:
        content[offset] ^= 1
    (tmp_path / "b").write_bytes(content)
    asked = 0

    def segments(*_: object) -> Iterator[tuple[int, int, bool, bool]]:
        nonlocal asked
        for offset in range(0, SIZE, 1024):
            asked += 1
            if asked == 200 and killed and made:
                os.kill(made[0]._second.pid, signal.SIGKILL)
            yield offset, 1024, True, True

    monkeypatch.setattr(compare, "_segments", segments)
    told: list[int] = []
    tallies = Tally(), Tally()
    with open(tmp_path / "a", "rb") as a, open(tmp_path / "b", "rb") as b:
        found = first_difference(a.fileno(), b.fileno(), tallies=tallies, progress=told.append)
    assert found == min(changed, default=None)
    if not changed:
        assert sum(told) == tallies[0].read == tallies[1].read == SIZE
    assert gone(made) or (found is not None and found < 10 * 1024)
