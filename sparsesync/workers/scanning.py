"""A tree scanned by many workers: each looks through some directories, and hands back those that it has not come to.

The scan is a line of parts. A part is some directories, in the order in which one process would come to them; when a
worker has answered, it is what was found, and is followed by new parts with the directories that are left::

    [/]                                  the first task: a worker looks through directories for a short while
    (found) [a b] [c d]                  what it has not come to is cut into parts for others
    (found) (found) [b/x] (found) [d]    what stands first, and is found, is yielded

So the order is that of one process, whoever answers first, and a large directory tree is cut as it turns out to be
large. Parts are given out from the front of the line, and not far ahead of it: memory holds what those have found.

A file with several names is yielded once, by the first of them in the line.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..engine.errors import OnError
from ..engine.files.claims import allocated
from ..engine.files.status import data_size
from ..engine.host import LocalHost, Scanned
from ..engine.tree.scan import ScanOptions, Sparse, scan
from .engines import count_workers
from .file_copy import absolute
from .run import Do, Given, Run
from .task import Answer, Changed, answered, version

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_TASK_SECONDS = 0.25
"""How long a task goes on with the next directory: many times as long as it takes to give it out."""
_TASK_FILES = 2000
"""How many files it may have found by then."""
_AHEAD = 16
"""How many answers that cannot be yielded yet are kept, of each worker."""

_STALE = "another directory than the coordinator has: do all workers see it by the same path?"


class _Enough(Exception):
    """The task is over, though directories are left."""


def scan_task(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Look through some directories, and return an :class:`.task.Answer` as a plain tuple.

    ``parts`` has what was found, in order: tuples of a path, its stat, and the sizes of
    :class:`..engine.host.Scanned`; or (path, number, message) for an error. Last comes what is left of the directories.
    """
    return answered(request, _scan)


def _scan(request: tuple[Any, ...], answer: Answer) -> Answer:
    _, directories, path, inode, device, fields, measured, zeros = request
    options = ScanOptions(*fields)
    top = os.stat(path) if path.endswith("/") else os.lstat(path)
    if top.st_ino != inode:
        raise Changed(_STALE, path)
    found: list[tuple[Any, ...]] = []
    until = time.monotonic() + _TASK_SECONDS

    def told(error: OSError) -> None:
        found.append((os.fsdecode(error.filename or path), error.errno, error.strerror))

    def check() -> None:
        if looked and (time.monotonic() >= until or len(found) >= _TASK_FILES):
            raise _Enough
        looked.append(True)

    looked: list[bool] = []
    waiting = list(directories)
    with contextlib.suppress(_Enough):
        for file in scan(path, options, on_error=told, check=check, waiting=waiting):
            try:
                sizes = data_size(file.path, options.holes, zeros) if measured else (0, 0, 0)
            except OSError as error:
                told(error)
                continue
            found.append((file.path, _plain(file.st, top.st_dev, device), *sizes))
    return answer._replace(parts=(*found, tuple(waiting)))


def _plain(st: os.stat_result, here: int, there: int) -> tuple[Any, ...]:
    """Return a stat as plain values. The filesystem of the top has the number that it has for the coordinator."""
    fields: Any = st.__reduce__()
    values, more = fields[1]
    if st.st_dev == here:
        values = (*values[: stat.ST_DEV], there, *values[stat.ST_DEV + 1 :])
    return tuple(values), dict(more)


class _Part:
    """Some directories, the last one first; when they have been looked through, what was found."""

    def __init__(self, directories: tuple[str, ...], behind: _Part | None = None) -> None:
        self.directories = directories
        self.found: list[tuple[Any, ...]] | None = None
        self.given = False
        self.behind = behind


def scan_by(
    executor: Executor,
    path: str,
    options: ScanOptions,
    *,
    measured: bool = False,
    zeros: bool = False,
    on_error: OnError = None,
) -> Iterator[Scanned]:
    """Yield what :meth:`..engine.host.LocalHost.scan` does, as an executor's workers find it.

    The order is that of one process.

    Raises OSError if ``path`` itself cannot be examined, or if the workers are gone.
    """
    if options.follow and os.path.islink(path):
        path = path + "/" if os.path.isdir(path) else os.path.realpath(path)
    top = os.stat(path) if path.endswith("/") else os.lstat(path)
    if not stat.S_ISDIR(top.st_mode):
        yield from LocalHost().scan(path, options, measured=measured, zeros=zeros, on_error=on_error)
        return
    sent = absolute(path)
    seen: set[tuple[int, int]] = set()
    prune = {sent + each[len(path) :] for each in options.prune if each.startswith(path)}
    asked = sent, top.st_ino, top.st_dev, tuple(options._replace(prune=prune, follow=False)), measured, zeros
    for name, *more in _ScanRun(executor, asked).found():
        name = path + name[len(sent) :]
        if len(more) == 2:  # an error
            error = OSError(more[0], more[1], name)
            if on_error is None:
                raise error
            on_error(error)
            continue
        st = os.stat_result(*more[0])
        if st.st_nlink > 1 and not options.every_link:
            if (st.st_dev, st.st_ino) in seen:
                continue
            seen.add((st.st_dev, st.st_ino))
        yield Scanned(Sparse(name, st.st_size, allocated(st), st), *more[1:])


class _ScanRun(Run):
    """The tasks of one scan. It is what gives out its tasks, too: the first part of the line that is not given out."""

    def __init__(self, executor: Executor, asked: tuple[Any, ...]) -> None:
        workers = count_workers(executor)
        super().__init__(executor, workers, asked[0])
        self._asked = asked
        self._workers = workers
        self._line: _Part | None = _Part(())

    def found(self) -> Iterator[tuple[Any, ...]]:
        """Yield what is found, in order."""
        for _ in self.turns(self):
            while self._line is not None and self._line.found is not None:
                yield from self._line.found
                self._line = self._line.behind

    def __iter__(self) -> _ScanRun:
        return self

    def __next__(self) -> _Part:
        part, kept = self._line, 0
        while part is not None and part.given:
            kept += part.found is not None
            part = part.behind
        if part is None or kept > _AHEAD * self._workers:
            raise StopIteration  # for now: an answer may bring more
        part.given = True
        return part

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what looks through the directories of a part."""
        return scan_task, (version(), given.task.directories, *self._asked)

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        """Take what was found, and put what is left of the directories behind it, in parts for all workers."""
        part: _Part = given.task
        *found, left = answer.parts
        size = -(-len(left) // self._workers) or 1
        behind = part.behind
        for start in range(0, len(left), size):  # the last directory comes first
            behind = _Part(left[start : start + size], behind)
        part.found, part.behind, part.directories = found, behind, ()
        return True
