"""What is known of the pieces when a copy is interrupted."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from sparsesync.engine.content import copy, update
from sparsesync.engine.content.hands import writer
from sparsesync.engine.content.hands.workers import PIECE_BYTES, Helpers
from sparsesync.engine.files.writing.target import Target
from sparsesync.hosts.stderr_relay import StderrRelay


class Interrupted(BaseException):
    pass


@pytest.fixture
def interrupts() -> Iterator[int]:
    """The number of a signal that raises Interrupted."""

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_the_pieces_are_done_when_an_interruption_is_heard(interrupts: int) -> None:
    def work(offset: int, length: int) -> int:
        os.kill(os.getpid(), interrupts)
        time.sleep(0.1)  # without it the piece may be done before the signal is
        return length

    helpers = Helpers(lambda: work)

    def use() -> None:
        try:
            helpers.offer(0, 4096)
            helpers.finish()
        finally:
            helpers.stop()

    with pytest.raises(Interrupted):
        use()
    assert helpers.done == helpers.result == 4096


def test_a_piece_of_which_nobody_is_told_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal may come when it is in the queue, and before a thread is woken."""
    helpers = Helpers(lambda: lambda offset, length: length)
    try:
        with monkeypatch.context() as patched:

            def interrupted() -> None:
                raise Interrupted

            patched.setattr(helpers._queue.not_empty, "notify", interrupted)
            with pytest.raises(Interrupted):
                helpers.offer(0, 4096)
    finally:
        stopping = threading.Thread(target=helpers.stop, daemon=True)
        stopping.start()
        stopping.join(20)
    assert not stopping.is_alive() and helpers.done == 4096


def test_a_piece_that_is_put_and_not_counted_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a signal may have it that comes between the two."""
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    helpers = Helpers(lambda: lambda offset, length: length)
    with monkeypatch.context() as patched:
        put = helpers._queue._put

        def interrupted(piece: object) -> None:
            put(piece)  # type: ignore[arg-type]
            raise Interrupted

        patched.setattr(helpers._queue, "_put", interrupted)
        with pytest.raises(Interrupted):
            helpers.offer(0, 4096)
    helpers.stop()
    assert helpers.done == 4096 and told == []


@pytest.mark.parametrize("make", [lambda: Helpers(lambda: lambda offset, length: length), StderrRelay])
def test_what_interrupts_the_start_of_a_thread_ends_it(
    monkeypatch: pytest.MonkeyPatch, make: Callable[[], object]
) -> None:
    real, started = threading.Thread.start, list[threading.Thread]()

    def start(thread: threading.Thread) -> None:
        real(thread)
        started.append(thread)
        raise Interrupted

    monkeypatch.setattr(threading.Thread, "start", start)
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(Interrupted):
        make()
    for thread in started:
        thread.join(10)
    assert not any(thread.is_alive() for thread in started) and sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_complete_where_a_helper_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    (tmp_path / "src").write_bytes(os.urandom(8 * PIECE_BYTES))
    caller, tried, real = threading.get_ident(), threading.Event(), writer.RangeWriter.copy_piece

    def copy_piece(ranges: writer.RangeWriter, buffer: memoryview, offset: int, length: int) -> int:
        if threading.get_ident() == caller:
            tried.wait(10)
            raise Interrupted
        tried.set()
        if fails:
            raise OSError("a bad disk")
        return real(ranges, buffer, offset, length)

    monkeypatch.setattr(writer.RangeWriter, "copy_piece", copy_piece)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with open(tmp_path / "src", "rb") as source, Target(directory, "new", "new") as target:
            # An error may be heard before the interruption is, if it comes before the next piece is offered.
            with pytest.raises((Interrupted, OSError)):
                copy.by_hands(copy.copying(source.fileno(), target, reflink="never"))
            assert (target.reached > 0) is not fails
            written = os.pread(target.fd, target.reached, 0)
            assert written == (tmp_path / "src").read_bytes()[: target.reached]
    finally:
        os.close(directory)


@pytest.mark.parametrize("tracked", [False, True])
def test_no_thread_is_left_when_an_update_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool) -> None:
    """What compares is not left to the garbage collector, which may come when the program has ended and it with it."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    size = 16 << 20
    (tmp_path / "src").write_bytes(b"new!" * (size // 4))
    (tmp_path / "old").write_bytes(b"old!" * (size // 4))
    threads = set(threading.enumerate())

    def fail(count: int) -> None:
        raise OSError(errno.EDQUOT, "no more")

    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        with open(tmp_path / "src", "rb") as source, Target(directory, "old", "old", inplace=True) as target:
            changes = [(0, size, True)]
            if tracked:
                write = partial(update.update, source.fileno(), target, changes=changes, size=size, pace=fail)
            else:
                write = partial(copy.by_hands, copy.copying(source.fileno(), target, pace=fail))
            with pytest.raises(OSError, match="no more") as raised:
                write()
            assert set(threading.enumerate()) == threads, raised.traceback
    finally:
        os.close(directory)
