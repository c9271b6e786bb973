"""The hands of a copy by workers: one file (:mod:`file_copy`), and its tasks given out (:mod:`run`).

A worker that does not answer at all is an error: it may still write.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..engine.content.hands.writer import Hands, Threads, Work
from ..engine.files.extents import Extent
from ..engine.files.writing.target import Target
from ..engine.transfer.place.parents import NO_ROOM
from .file_copy import FileCopy, absolute
from .plan import largest_first
from .run import CheckedRun, Do, Given, check_enough, compare_digests, parts_of
from .task import Answer, NotBy, check_task, copy_task, version

if TYPE_CHECKING:
    from concurrent.futures import Executor

_FLUSH_SECONDS = 1.0
"""How often the journal is flushed. A line that a power cut takes away costs a task, and no more."""

GRACE_SECONDS = 60.0
"""How long late workers are waited for before the file gets its name."""

LOOK_SECONDS = 0.05
"""How often it is looked whether they are out of it."""


class Coordinator(Hands):
    """Hands for one copy: workers that an executor has. A context manager.

    ``workers``: about how many there are.
    ``check_other``: have another worker read back what one wrote.
    """

    def __init__(self, executor: Executor, workers: int, check_other: bool = False) -> None:
        self._executor = executor
        self._workers = max(1, workers)
        self._check_other = check_other
        self._copy = FileCopy(self._workers, check_other)

    def partial(self, directory: int, name: str) -> tuple[int, str]:
        """Return the partial file."""
        return self._copy.partial(directory, name)

    def begin(self, source: int, source_path: str, target: Target) -> None:
        """Continue the copy of an earlier run, if the target has a partial file that is one."""
        self._copy.begin(source, target)

    def write(self, work: Work, ranges: Iterable[Extent]) -> int:
        """Have every range copied, and return the bytes written. Raises OSError."""
        copy, target = self._copy, work.target
        if not copy.possible:
            return Threads().write(work, ranges)
        copy.check_source(work)
        if self._check_other:
            check_enough(self._workers)
        path = target.path
        real = os.path.realpath(path) if os.path.islink(path) else path
        run = CopyRun(self._executor, self._workers, copy, self._check_other, work.source_path)
        try:
            tasks = copy.tasks(work, ranges, os.path.dirname(absolute(real)))
            run.all_of(largest_first(tasks))
            end = time.monotonic() + GRACE_SECONDS
            while not copy.take_away(target, bool(run.outstanding)):
                if time.monotonic() > end:
                    copy.give_back(target)
                    what = "a worker does not answer, and may still write: end the workers, and run this again"
                    raise OSError(errno.EBUSY, what, target.path)
                run.settle(LOOK_SECONDS)
            copy.check_source(work)
        except Exception as error:
            full = isinstance(error, OSError) and error.errno in NO_ROOM
            target.keep = copy.resumable and not full and not getattr(error, "untrue", False)
            raise
        return copy.written

    def __exit__(self, *exc_info: object) -> None:
        """Remove the journal, unless there is something to go on with."""
        self._copy.close()


class CopyRun(CheckedRun):
    """The tasks of one copy."""

    def __init__(self, executor: Executor, workers: int, copy: FileCopy, checks: bool, path: str) -> None:
        super().__init__(executor, workers, path, checks)
        self._copy = copy
        self._flushed = time.monotonic()

    @property
    def goes_on(self) -> bool:
        """Whether there is a partial file, and a task is done."""
        return self._copy.resumable

    def to_copy(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what copies."""
        return copy_task, tuple(self._copy.requested(given.task))

    def to_check(self, given: Given, copied: Answer, not_by: NotBy) -> tuple[Do, tuple[Any, ...]]:
        """Return what reads back."""
        return check_task, (version(), (self._copy.to_be_read(given.task, copied),), tuple(not_by))

    def done(self, given: Given, copied: Answer, checked: Answer | None) -> None:
        """Note what is done, if what was read back is that."""
        if checked is not None:
            compare_digests(copied, parts_of(checked, 1)[0], self._path)
        self._copy.take(given.task, copied.written)

    def idle(self) -> None:
        """Flush the journal."""
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._copy.flush()
            self._flushed = time.monotonic()
