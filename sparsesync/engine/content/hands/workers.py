"""Threads that take a part of a copy, or of a comparison, while the caller's goes on.

A large range is cut into :func:`pieces`. Each is offered to the :class:`Helpers`; what they do not take, since enough
is waiting, the caller does itself. So it never waits for them but at the end, or where it needs an answer.

One thread keeps a second core busy. Further ones start if the caller's own pieces are mostly waiting (:class:`Clock`),
since a disk that is read serves several reads at once; where the content is cached, more threads only get in each
other's way. Sizes and offsets are bytes.
"""

import contextlib
import os
import time
from functools import lru_cache, partial
from typing import Callable, Iterator, List, Optional, Tuple

from ...files.extents import Extent

PIECE_BYTES = 256 * 1024
"""How much one thread copies at a time; measured: smaller costs calls, larger falls out of the CPU's cache."""

_MAX_HELPERS = 3
"""Threads beside the caller's; measured: 15 % less for a copy from a cold disk than with one, and 6 gain no more."""

_UNTOLD_SECONDS = 0.5
"""After which a thread looks whether there is a piece that it was not told of."""

_TIMED_PIECES = 8
"""Pieces after which it is asked whether they were mostly waited for."""


def pieces(offset: int, length: int, size: int) -> Iterator[Extent]:
    """Yield a range in parts of ``size`` bytes. The last part may be shorter."""
    end = offset + length
    while offset < end:
        count = min(size, end - offset)
        yield offset, count
        offset += count


def helps(jobs: Optional[int]) -> bool:
    """Return whether more than one thread is to work. ``jobs``: how many in all; None is as many as help."""
    return _cores() > 1 if jobs is None else jobs > 1


@lru_cache(maxsize=None)
def _cores() -> int:
    # The C library opens a file of sysfs to find out, which costs as much as all else that a small file is asked.
    return os.cpu_count() or 1


class Clock:
    """A clock that tells a thread that computes from one that waits for a disk."""

    def __init__(self) -> None:
        self._pieces = 0
        self._wall = self._busy = 0.0

    def read(self) -> Tuple[float, float]:
        """Return the time now: of the clock, and of the thread's processor, in seconds."""
        return time.monotonic(), time.clock_gettime(time.CLOCK_THREAD_CPUTIME_ID)

    def mostly_waits(self, started: Tuple[float, float]) -> bool:
        """Return whether the last pieces took three times their processor time. Call it after each piece.

        ``started``: what :meth:`read` returned before the piece.
        """
        now = self.read()
        self._pieces += 1
        self._wall += now[0] - started[0]
        self._busy += now[1] - started[1]
        if self._pieces < _TIMED_PIECES:
            return False
        waits = self._wall > 3 * self._busy
        self._pieces, self._wall, self._busy = 0, 0.0, 0.0
        return waits


class Helpers:
    """Threads that work on the pieces they are offered, while the caller goes on.

    One thread is started, or all ``threads``; else :meth:`more` starts others.

    ``make``: called once per thread; returns the function that works on a piece, given its offset and length.
    ``done``: bytes of the pieces that are done.
    ``result``: the sum of what the function returned.
    ``threads``: how many are wanted; None is as many as help.
    """

    def __init__(self, make: Callable[[], Callable[[int, int], int]], threads: Optional[int] = None) -> None:
        # Most copies need no thread, and these take some of the time in which the program starts.
        import queue
        import threading

        self._full, self._empty = queue.Full, queue.Empty
        self._queue: queue.Queue[Optional[Extent]] = queue.Queue(max(4, 2 * (threads or 0)))
        self._make = make
        self._thread = partial(threading.Thread, daemon=True)
        self._threads: List[threading.Thread] = []
        self._wanted = _MAX_HELPERS if threads is None else threads
        self._lock = threading.Lock()
        self.done: int = 0
        self.result: int = 0
        self._error: Optional[BaseException] = None
        try:
            for _ in range(threads or 1):
                self.more()
        except BaseException:
            self.stop()
            raise

    def more(self) -> None:
        """Start another thread, unless there are enough."""
        if len(self._threads) < self._wanted:
            thread = self._thread(target=self._run, args=(self._make(),))
            self._threads.append(thread)  # a signal may come as soon as it has started
            try:
                thread.start()
            except RuntimeError:  # no more threads are allowed (RLIMIT_NPROC); the caller's own goes on
                self._threads.remove(thread)
                self._wanted = 0

    def _run(self, do: Callable[[int, int], int]) -> None:
        while True:
            try:
                # What a signal raises while a piece is put may come after that and before anybody is told of it.
                piece = self._queue.get(timeout=_UNTOLD_SECONDS)
            except self._empty:
                continue
            if piece is None:
                self._note_done()
                return
            if self._error is None:
                try:
                    result = do(piece[0], piece[1])
                    with self._lock:
                        self.result += result
                        self.done += piece[1]
                except BaseException as error:
                    self._error = error
            self._note_done()

    def _note_done(self) -> None:
        with contextlib.suppress(ValueError):  # a signal may also come before the piece that is put is counted
            self._queue.task_done()

    def offer(self, offset: int, length: int) -> bool:
        """Queue a piece and return True, or return False if enough pieces are waiting.

        Raises what an earlier piece raised.
        """
        if self._error is not None:
            raise self._error
        if not self._threads:
            return False
        try:
            self._queue.put_nowait((offset, length))
        except self._full:
            return False
        return True

    @property
    def failed(self) -> bool:
        """Whether a piece raised something. Those that were offered after it are not done."""
        return self._error is not None

    def wait(self) -> None:
        """Wait until the pieces offered so far are done. Raises what one of them raised."""
        self._queue.join()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """End the threads once the offered pieces are done. Raises what one of them raised."""
        self.stop()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the threads once the offered pieces are done, whatever they raise.

        What a signal raises meanwhile is raised then: until then the threads write to what the caller would close.
        """
        threads, self._threads = self._threads, []
        interruption: Optional[BaseException] = None
        while True:
            try:
                self._queue.join()
                break
            except BaseException as error:
                interruption = error
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            if thread.is_alive():
                thread.join()
        if interruption is not None:
            raise interruption
