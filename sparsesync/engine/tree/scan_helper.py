"""A second process that takes a part in the scan of a large tree.

Nearly all the time of a scan goes into one lstat for each file, in the kernel and in Python, and on a second
processor another process can do half of them (:mod:`engine.second`). The scan has a list of directories that wait. From
it :meth:`Helper.give` takes a few for the helper, which looks through them as the scan itself would, and
:meth:`Helper.answers` brings what it came upon there: directories, files that may be sparse, errors. What becomes of
those is decided by the scan alone, so the helper sends no more than it takes to ask again: files that may be sparse are
few. It only reads, so that it can be ended when it is not needed.
"""

import errno
import os
from typing import Callable, Iterator, List, Tuple, Union

from ..second import SecondProcess

Found = Union[os.stat_result, OSError]
LookThrough = Callable[[str], Iterator[Tuple[str, Found]]]

_SHARED_DIRECTORIES = 64
"""Directories that are given at a time."""

_BATCH_PATHS = 1000
"""Paths in an answer."""


class Helper:
    """The second process. ``look_through`` scans one directory. Raises OSError as fork(2), pipe(2)."""

    def __init__(self, look_through: LookThrough) -> None:
        def answer(directories: List[str]) -> Iterator[List[Tuple[str, int]]]:
            batch: List[Tuple[str, int]] = []
            for directory in directories:
                for path, found in look_through(directory):
                    batch.append((path, found.errno or errno.EIO if isinstance(found, OSError) else 0))
                    if len(batch) == _BATCH_PATHS:
                        yield batch
                        batch = []
            yield batch

        self._second = SecondProcess(answer, "scan")
        self._pid = self._second.pid

    @property
    def busy(self) -> bool:
        """Whether it has directories to look through."""
        return self._second.waiting > 0

    def give(self, waiting: List[str]) -> None:
        """Hand some of the ``waiting`` directories to the helper, if it is idle."""
        count = min(_SHARED_DIRECTORIES, len(waiting) // 2)
        if not self.busy and count:
            self._second.ask(waiting[:count])
            del waiting[:count]

    def answers(self, wait: bool) -> Iterator[Tuple[str, Found]]:
        """Yield what ``look_through`` found so far. ``wait``: also all there is to come."""
        for found in self._second.answers(wait):
            for path, number in found or ():
                try:
                    yield path, OSError(number, os.strerror(number), path) if number else os.lstat(path)
                except OSError as error:
                    yield path, error

    def close(self) -> None:
        """End the process, even if it is busy."""
        self._second.close()
