"""A second process that takes a part in the scan of a large tree.

Nearly all the time of a scan goes into one lstat for each file, in the kernel and in Python, and on a second
processor another process can do half of them. The scan has a list of directories that wait. From it :meth:`Helper.give`
takes a few for the helper, which looks through them as the scan itself would, and :meth:`Helper.answers` brings what it
came upon there: directories, files that may be sparse, errors. What becomes of those is decided by the
scan alone, so the helper sends no more than it takes to ask again: files that may be sparse are few.

The two talk through pipes, in lists that :mod:`marshal` writes, none of them long. The helper is a fork: to start
another Python takes longer than the scan of most trees. It only reads, so that it can be killed when it is not needed.
"""

import errno
import marshal
import os
import select
import signal
import struct
from typing import Any, Callable, Iterator, List, Optional, Tuple, Union

Found = Union[os.stat_result, OSError]
LookThrough = Callable[[str], Iterator[Tuple[str, Found]]]

_SHARED_DIRECTORIES = 64
"""Directories that are given at a time."""

_BATCH_PATHS = 1000
"""Paths in an answer."""

_LENGTH = struct.Struct("=I")


def possible() -> bool:
    """Return whether a helper is useful and a fork is safe: no other thread may hold a lock meanwhile."""
    try:
        # Those of libraries are not in threading.
        return len(os.sched_getaffinity(0)) > 1 and len(os.listdir("/proc/self/task")) == 1
    except FileNotFoundError:
        return False


class Helper:
    """The second process. ``look_through`` scans one directory. Raises OSError as fork(2), pipe(2)."""

    def __init__(self, look_through: LookThrough) -> None:
        self.busy: bool = False
        asked, self._requests = os.pipe()
        self._answers, answering = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            try:
                os.close(self._requests)
                os.close(self._answers)
                _serve(look_through, asked, answering)
            except BaseException:
                # An interrupt, or that the scan has gone. Of anything else the scan learns by what is missing.
                os._exit(1)
            os._exit(0)
        os.close(asked)
        os.close(answering)

    def give(self, waiting: List[str]) -> None:
        """Hand some of the ``waiting`` directories to the helper, if it is idle."""
        count = min(_SHARED_DIRECTORIES, len(waiting) // 2)
        if not self.busy and count:
            self.busy = True
            try:
                _send(self._requests, waiting[:count])
            except BrokenPipeError:
                pass  # it is gone: there will be no answer, and that is the error
            del waiting[:count]

    def answers(self, wait: bool) -> Iterator[Tuple[str, Found]]:
        """Yield what ``look_through`` found so far. ``wait``: also all there is to come."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while self.busy and poll.poll(None if wait else 0):
            answer = _receive(self._answers)
            if answer is None:
                raise OSError(errno.EIO, "the process that helps to scan has ended")
            last, found = answer
            self.busy = not last
            for path, number in found:
                try:
                    yield path, OSError(number, os.strerror(number), path) if number else os.lstat(path)
                except OSError as error:
                    yield path, error

    def close(self) -> None:
        """End the process, even if it is busy."""
        os.close(self._requests)
        os.close(self._answers)
        os.kill(self._pid, signal.SIGKILL)
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:
            pass  # the program waits for children of its own, and got this one too


def _serve(look_through: LookThrough, asked: int, answering: int) -> None:
    directories = _receive(asked)
    while directories is not None:
        batch: List[Tuple[str, int]] = []
        for directory in directories:
            for path, found in look_through(directory):
                batch.append((path, found.errno or errno.EIO if isinstance(found, OSError) else 0))
                if len(batch) == _BATCH_PATHS:
                    _send(answering, (False, batch))
                    batch = []
        _send(answering, (True, batch))
        directories = _receive(asked)


def _send(fd: int, value: Any) -> None:
    data = marshal.dumps(value)
    left = memoryview(_LENGTH.pack(len(data)) + data)
    while left:
        left = left[os.write(fd, left) :]


def _receive(fd: int) -> Optional[Any]:
    """Return what :func:`_send` sent, or None at the end."""
    length = _read(fd, _LENGTH.size)
    return marshal.loads(_read(fd, _LENGTH.unpack(length)[0])) if length else None


def _read(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            return b""
        data += more
    return data
