"""workers/journal.py: what is read again is what was written, and nothing else is believed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesync.workers.journal import Journal
from sparsesync.workers.plan import Task, pack

HEADER = {"source": [1, 2, 3, 4], "recent": False}


def task(number: int) -> Task:
    return Task(number, number * 100, number * 100 + 100, 7, pack([(number * 100 + 1, 7)]))


@contextmanager
def journal(folder: Path) -> Iterator[Journal]:
    directory = os.open(folder, os.O_RDONLY)
    made = Journal(directory, "journal")
    os.close(directory)
    try:
        yield made
    finally:
        made.close(True)


def written(folder: Path, numbers: list[int]) -> bytes:
    with journal(folder) as made:
        made.begin({**HEADER, "share": 5})
        for number in numbers:
            made.add(task(number), number + 1)
    return (folder / "journal").read_bytes()


@given(numbers=st.lists(st.integers(0, 300), unique=True), cut=st.integers(0, 60), junk=st.binary(max_size=30))
@settings(deadline=None, max_examples=50)
def test_what_was_cut_or_damaged_is_not_done(numbers: list[int], cut: int, junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = written(folder, numbers)
        (folder / "journal").write_bytes(text[: len(text) - cut] + junk)
        with journal(folder) as made:
            found = made.take_up(HEADER)
            if found is None:
                return
            assert found["share"] == 5
            done = [number for number in range(310) if made.written(task(number)) is not None]
            assert set(done) <= set(numbers) and len(done) >= len(numbers) - cut
            assert all(made.written(task(number)) == number + 1 for number in done)
            made.begin(None)
            made.add(task(305), 306)
        with journal(folder) as again:
            assert again.take_up(HEADER) == found and again.written(task(305)) == 306
            assert all(again.written(task(number)) == number + 1 for number in done)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=50)
def test_anything_may_stand_there(junk: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "journal").write_bytes(junk)
        with journal(Path(name)) as made:
            assert made.take_up(HEADER) is None


def test_whose_journal_is_not_believed(tmp_path: Path) -> None:
    written(tmp_path, [1])
    place = tmp_path / "journal"
    for change in (
        lambda: os.chmod(place, 0o622),
        lambda: (os.chmod(place, 0o600), os.link(place, tmp_path / "second")),
        lambda: (os.unlink(tmp_path / "second"), os.rename(place, tmp_path / "x"), os.symlink("x", place)),
        lambda: (os.unlink(place), os.mkfifo(place)),
    ):
        change()
        with journal(tmp_path) as made:
            assert made.take_up(HEADER) is None
    os.unlink(place)
    written(tmp_path, [1])
    for other in ({"source": [1, 2, 3, 5]}, {"recent": True}, {"more": 1}):
        with journal(tmp_path) as made:
            assert made.take_up({**HEADER, **other}) is None
    with journal(tmp_path) as made:
        assert made.take_up(HEADER) is not None
        other_plan = task(1)._replace(ranges=pack([(101, 8)]))
        assert made.written(other_plan) is None and made.written(task(1)) == 2
