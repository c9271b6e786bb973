"""The second process does every second batch: nothing of what is put in place, or told, differs."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from sparsesync.engine.errors import OnProgress
from sparsesync.engine.roles import LocalDestination, LocalSource, OnResult, Opening, Planned, SourceSettings
from sparsesync.engine.transfer.records import FileResult
from sparsesync.hosts.local import second
from sparsesync.hosts.local.second import SMALL_BYTES, is_possible, put_by_two
from tests.support.filesystems import sparse_file

HERE = os.getpid()


class Ends:
    """A source and a destination, and who has put which batch in place."""

    def __init__(self, top: Path) -> None:
        self.source = LocalSource(SourceSettings())
        self.destination = LocalDestination()
        assert self.destination.open(str(top / "dst"), Opening(many=True, one_source=True)) is None
        self.results: list[FileResult] = []
        self.done = 0
        self.top = top

    def put(self, files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        """Say who was asked for a file, as its reason."""
        for file in files:
            with open(self.top / "dst" / file.name, "x") as made:
                made.write(file.source)
            on_result(FileResult(file.name, file.size, file.data, 0, "here" if os.getpid() == HERE else "there"))
            if progress is not None:
                progress(file.data)

    def run(self, files: Iterable[Planned], put: Callable[..., None] | None = None) -> list[tuple[str, str | None]]:
        """Return the names of the results, and who put each file in place."""

        def count(done: int) -> None:
            self.done += done

        put_by_two(self.source, self.destination, iter(files), put or self.put, self.results.append, count)
        return [(result.name, result.reason) for result in self.results]


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    monkeypatch.setattr(second, "BATCH_FILES", 3)
    pids: list[int] = []
    fork = os.fork

    def counted() -> int:
        pids.append(fork())
        return pids[-1]

    monkeypatch.setattr(os, "fork", counted)
    for name in [*map(str, range(20)), "d/x", "d/y"]:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        sparse_file(tmp_path / "src" / name, 1 << 20, [(0, 4096)])
    made = Ends(tmp_path)
    yield made
    made.destination.close()
    made.source.close()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]  # all have ended, and were waited for


def _files(top: Path, names: Iterable[object], data: int = 4096) -> list[Planned]:
    return [Planned(str(name), f"{top}/src/{name}", 1 << 20, data) for name in names]


def test_the_results_come_in_the_order_of_the_files(tmp_path: Path, ends: Ends) -> None:
    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        if os.getpid() != HERE:
            time.sleep(0.05)
        ends.put(files, on_result, progress)

    told = ends.run(_files(tmp_path, range(20)), put)
    assert [name for name, _ in told] == [str(n) for n in range(20)]
    # Two batches are given to it; what it cannot take as well is done meanwhile.
    assert [who for _, who in told[:9]] == 6 * ["there"] + 3 * ["here"]
    assert ends.done == 20 * 4096
    assert {path.name for path in (tmp_path / "dst").iterdir()} == {str(n) for n in range(20)}


def test_no_more_results_are_kept_than_few(tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        if os.getpid() != HERE:
            time.sleep(0.1)
        else:
            untold.append(len({*map(str, done)} - {result.name for result in ends.results}))
        ends.put(files, on_result, progress)

    def noted() -> Iterator[Planned]:
        for file in _files(tmp_path, range(18)):
            done.append(file.name)
            yield file

    monkeypatch.setattr(second, "_MAX_UNTOLD", 2)
    done: list[str] = []
    untold: list[int] = []
    ends.run(noted(), put)
    assert max(untold) <= 3 * 4 and len(ends.results) == 18


def test_what_has_much_data_is_done_here(tmp_path: Path, ends: Ends) -> None:
    large = _files(tmp_path, [18], data=SMALL_BYTES + 1)
    large += [file._replace(room=1 << 30) for file in _files(tmp_path, [19])]  # its map is not believed
    told = ends.run([*_files(tmp_path, range(6)), *large, *_files(tmp_path, range(6, 12))])
    assert [name for name, _ in told] == [str(n) for n in (*range(6), 18, 19, *range(6, 12))]
    who = dict(told)
    assert (who["18"], who["19"], who["0"]) == ("here", "here", "there")


def test_a_name_that_comes_twice_is_not_written_twice_at_once(tmp_path: Path, ends: Ends) -> None:
    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        for file in files:
            if os.getpid() != HERE:
                time.sleep(0.02)
            elif file.name == "2":
                assert (tmp_path / "dst/2").exists()
            (tmp_path / "dst" / file.name).touch()
            on_result(FileResult(file.name, 1, 1, 0, "here" if os.getpid() == HERE else "there"))

    names = [0, 1, 2, 3, 4, 5, 6, 2, 7, 8, 9, 10]
    told = ends.run(_files(tmp_path, names), put)
    assert [name for name, _ in told] == [str(n) for n in names]
    assert [who for name, who in told if name == "2"] == ["there", "here"]


def test_the_second_process_is_in_another_directory_where_there_is_one(tmp_path: Path, ends: Ends) -> None:
    """And a name that comes twice is still done in the order of the files, and the results are told in that."""
    for name in ("d", "e"):
        (tmp_path / "dst" / name).mkdir()
        (tmp_path / "src" / name).mkdir(exist_ok=True)
    names = [*range(9), "d/0", "d/1", "d/2", 3, "e/0", "e/1", "e/2", "e/3"]
    for name in names:
        sparse_file(tmp_path / "src" / str(name), 1 << 20, [(0, 4096)])
    begun = tmp_path / "begun"

    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        if os.getpid() != HERE:
            begun.touch()
            time.sleep(0.02)
        while os.getpid() == HERE and not begun.exists():
            time.sleep(0.001)
        for file in files:
            assert file.source != "again" or (tmp_path / "dst" / file.name).exists()
            (tmp_path / "dst" / file.name).touch()
            on_result(FileResult(file.name, 1, 1, 0, "here" if os.getpid() == HERE else "there"))

    files = _files(tmp_path, names)
    files[12] = files[12]._replace(source="again")
    told = ends.run(files, put)
    assert [name for name, _ in told] == [str(n) for n in names]
    assert told[9:12] == [(f"d/{n}", "there") for n in range(3)]


def test_the_second_process_makes_no_directory(tmp_path: Path, ends: Ends) -> None:
    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        files = list(files)
        assert os.getpid() == HERE or (tmp_path / "dst/d").is_dir() or files[0].name == "0"
        ends.put(files, on_result, progress)

    assert ("d/x", "there") in ends.run(_files(tmp_path, [0, 1, 2, "d/x", 3, "d/y"]), put)


def test_who_cannot_make_a_directory_tells_it_as_without(tmp_path: Path, ends: Ends) -> None:
    (tmp_path / "dst/d").write_bytes(b"in the way")
    reasons = dict(ends.run(_files(tmp_path, [0, 1, 2, "d/x", 3, 4]), put_none))
    assert reasons == {**dict.fromkeys("012", "there"), **dict.fromkeys(["d/x", "3", "4"], "here")}


def put_none(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
    """Say who was asked."""
    for file in files:
        on_result(FileResult(file.name, 1, 1, 0, "here" if os.getpid() == HERE else "there"))


def test_a_warning_is_given_here(tmp_path: Path, ends: Ends) -> None:
    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        for file in files:
            warnings.warn(f"{file.name} is odd", RuntimeWarning, stacklevel=1)
            on_result(FileResult(file.name, 1, 1, 0))

    with pytest.warns(RuntimeWarning) as told:
        ends.run(_files(tmp_path, range(6)), put)
    assert sorted(str(each.message) for each in told) == [f"{n} is odd" for n in range(6)]


def test_a_warning_that_both_have_is_given_once(tmp_path: Path, ends: Ends) -> None:
    """What is said of a filesystem names no file."""

    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        for file in files:
            warnings.warn("it has no map", RuntimeWarning, stacklevel=1)
            on_result(FileResult(file.name, 1, 1, 0, "here" if os.getpid() == HERE else "there"))

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        assert {who for _, who in ends.run(_files(tmp_path, range(20)), put)} == {"here", "there"}
    assert [str(each.message) for each in told] == ["it has no map"]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_killed_one_has_not_done_is_done_here(tmp_path: Path, ends: Ends, end: signal.Signals) -> None:
    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        files = list(files)
        if os.getpid() != HERE and files[0].name == "3":
            os.kill(os.getpid(), end)
        ends.put(files, on_result, progress)

    told = ends.run(_files(tmp_path, range(20)), put)
    assert [name for name, _ in told] == [str(n) for n in range(20)]
    assert [who for _, who in told] == 3 * ["there"] + 17 * ["here"]


def test_what_ends_the_first_ends_the_second(tmp_path: Path, ends: Ends) -> None:
    def put(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        if os.getpid() == HERE:
            while not (tmp_path / "begun").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
        try:
            (tmp_path / "begun").touch()
            signal.pause()
        finally:
            (tmp_path / "tidy").touch()

    with pytest.raises(KeyboardInterrupt):
        ends.run(_files(tmp_path, range(9)), put)
    assert (tmp_path / "tidy").exists()


def test_without_another_process_all_is_done_here(tmp_path: Path, ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", fork)
    assert ends.run(_files(tmp_path, range(12))) == [(str(n), "here") for n in range(12)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # the last directory at each end


def test_files_that_have_to_do_with_others_are_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second, "possible", lambda: True)
    source = LocalSource(SourceSettings())
    for options, expected in (
        ({}, True),
        ({"inplace": True}, False),
        ({"fuzzy": 1}, False),
        ({"bases": ["../x"]}, True),
    ):
        destination = LocalDestination()
        assert destination.open(str(tmp_path / "dst"), Opening(True, True, **options)) is None  # type: ignore[arg-type]
        assert is_possible(source, destination) is expected, options
        destination.close()
