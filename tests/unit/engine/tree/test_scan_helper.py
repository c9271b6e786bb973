"""The second process of a scan: what it finds is what one alone finds, and nothing is left of it."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsesync.engine.tree import scan as room
from sparsesync.engine.tree import scan_helper
from sparsesync.engine.tree.scan import ScanOptions, scan
from sparsesync.engine.tree.scan_helper import Found, Helper

MIB = 1 << 20


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enough directories for a helper, each with a sparse file; some of them have two names."""
    monkeypatch.setattr(room, "possible", lambda: True)
    for number in range(300):
        directory = tmp_path / f"{number // 20}" / f"{number}\udcff\n"
        directory.mkdir(parents=True)
        (directory / "dense").write_bytes(b"x")
        with open(directory / "sparse", "wb") as file:
            file.truncate(MIB * (1 + number % 3))
        if number % 10 == 0:
            os.link(directory / "sparse", tmp_path / f"link{number}")
    return tmp_path


def gone(helpers: list[Helper]) -> bool:
    """Whether the processes have ended, and somebody has taken note of it."""
    return not any(Path(f"/proc/{helper._pid}").exists() for helper in helpers)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Helper]:
    """The helpers that were made."""
    made: list[Helper] = []

    class Counted(Helper):
        def __init__(self, look_through: scan_helper.LookThrough) -> None:
            super().__init__(look_through)
            made.append(self)

    monkeypatch.setattr(room, "Helper", Counted)
    return made


def test_it_finds_what_one_process_finds(tree: Path, counted: list[Helper]) -> None:
    for options in ({}, {"every_link": True}, {"every_file": True}, {"min_size": 2 * MIB}, {"prune": {f"{tree}/3"}}):
        alone = {(found.st.st_dev, found.st.st_ino): found for found in scan(str(tree), ScanOptions(**options))}  # type: ignore[arg-type]
        found = list(scan(str(tree), ScanOptions(**options), parallel=True))  # type: ignore[arg-type]
        assert {(it.st.st_dev, it.st.st_ino): it.size for it in found} == {key: it.size for key, it in alone.items()}
        if "every_link" in options:
            assert sorted(it.path for it in found) == sorted(
                it.path for it in scan(str(tree), ScanOptions(every_link=True))
            )
        else:
            assert len(found) == len(alone)
    assert len(counted) == 5
    assert gone(counted)


def test_a_small_tree_needs_no_helper(tmp_path: Path, counted: list[Helper]) -> None:
    (tmp_path / "a").mkdir()
    assert list(scan(str(tmp_path), parallel=True)) == [] and not counted


def test_nothing_is_left_of_it(tree: Path, counted: list[Helper]) -> None:
    found = scan(str(tree), parallel=True)
    while not counted:
        next(found)
    found.close()  # type: ignore[attr-defined]
    assert gone(counted)


def test_a_helper_that_dies_is_an_error(tree: Path, counted: list[Helper]) -> None:
    found = scan(str(tree), parallel=True)
    while not counted:
        next(found)
    os.kill(counted[0]._pid, signal.SIGKILL)
    with pytest.raises(OSError, match="has ended"):
        list(found)
    assert gone(counted)


def test_what_the_helper_meets_comes_back(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"")

    def look_through(directory: str) -> Iterator[tuple[str, Found]]:
        if directory == "full":
            for _ in range(2500):
                yield str(tmp_path / "there"), os.lstat(tmp_path)
        elif directory == "locked":
            yield "locked", PermissionError(errno.EACCES, "no", "locked")
        else:
            yield "gone", os.lstat(tmp_path)

    helper = Helper(look_through)
    try:
        waiting = ["full", "locked", "gone", "a", "b", "c"]
        helper.give(waiting)
        assert waiting == ["a", "b", "c"] and helper.busy
        helper.give(waiting)
        assert len(waiting) == 3
        found = list(helper.answers(wait=True))
        assert not helper.busy and len(found) == 2502
        # What it saw is not taken for granted: this is a file.
        assert found[0][1].st_size == 0  # type: ignore[union-attr]
        assert [(path, error.errno) for path, error in found if isinstance(error, OSError)] == [
            ("locked", errno.EACCES),
            ("gone", errno.ENOENT),
        ]
        assert list(helper.answers(wait=True)) == []
    finally:
        helper.close()


def test_it_ends_with_its_scan(tree: Path) -> None:
    """Even one that could not say goodbye."""
    reader, writer = os.pipe()
    scanning = os.fork()
    if not scanning:
        helper = Helper(lambda directory: iter([]))
        os.write(writer, b"%d" % helper._pid)
        os._exit(0)
    os.waitpid(scanning, 0)
    helper_pid = int(os.read(reader, 20))
    for _ in range(200):
        try:
            os.kill(helper_pid, 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{helper_pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("it is still there")
    os.close(reader)
    os.close(writer)


def test_beside_other_threads_there_is_no_fork() -> None:
    """Of Python's, and of libraries, which threading knows as little as these."""
    alone = subprocess.run(
        [sys.executable, "-c", """
import _thread, threading
from sparsesync.engine import second
second.os.sched_getaffinity = lambda process: {0, 1}
print(second.possible())
held = _thread.allocate_lock()
held.acquire()
_thread.start_new_thread(held.acquire, ())
print(second.possible(), threading.active_count())
"""],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert alone.stdout == "True\nFalse 1\n"


def test_one_that_a_dead_server_keeps_is_ended() -> None:
    """A call that waits for NFS is ended by SIGKILL, and by nothing else."""
    begun, begins = os.pipe()

    def look_through(directory: str) -> Iterator[tuple[str, Found]]:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        os.write(begins, b"x")
        time.sleep(60)
        yield from ()

    helper = Helper(look_through)
    helper.give(["a", "b"])
    assert os.read(begun, 1) == b"x"

    def late(*_: object) -> None:
        os.kill(helper._pid, signal.SIGKILL)
        pytest.fail("it is waited for")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    helper.close()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    assert gone([helper])
    os.close(begun)
    os.close(begins)
