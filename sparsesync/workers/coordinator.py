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
from .file_copy import FileCopy, absolute
from .plan import largest_first
from .run import Do, Given, Run, untrue
from .task import Answer, check_task, copy_task

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_MAX_SAME = 600
"""How often a task may come to the one worker that must not do it."""
_HOLD_SECONDS = 0.02
"""How long that worker keeps it, so that the other of two may take it."""

_FLUSH_SECONDS = 1.0
"""How often the journal is flushed. A line that a power cut takes away costs a task, and no more."""

GRACE_SECONDS = 60.0
"""How long late workers are waited for before the file gets its name."""


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
        self._keep = False

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
        if self._check_other and self._workers < 2:
            raise ValueError("there is only one worker, and what it wrote is to be read back by another")
        self._keep = True
        path = target.path
        real = os.path.realpath(path) if os.path.islink(path) else path
        run = CopyRun(self._executor, self._workers, copy, self._check_other, work.source_path)
        try:
            tasks = copy.tasks(work, ranges, os.path.dirname(absolute(real)))
            run.all_of(largest_first(tasks))
            if run.outstanding or target.continued:
                copy.withdraw(target)
                if not run.settle(GRACE_SECONDS):
                    copy.give_back(target)
                    what = "a worker does not answer, and may still write: end the workers, and run this again"
                    raise OSError(errno.EBUSY, what, target.path)
            copy.check_source(work)
        except BaseException as error:
            self._keep = target.taken_up and not getattr(error, "untrue", False) and copy.any_done
            target.keep = self._keep
            raise
        return copy.written

    def __exit__(self, *exc_info: object) -> None:
        """Remove the journal, unless there is something to go on with."""
        self._copy.close(self._keep and exc_info[0] is not None)


class CopyRun(Run):
    """The tasks of one copy.

    ``checks``: another worker reads back what one wrote.
    """

    def __init__(self, executor: Executor, workers: int, copy: FileCopy, checks: bool, path: str) -> None:
        super().__init__(executor, workers, path)
        self._copy = copy
        self._checks = checks
        self._flushed = time.monotonic()

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what copies, or reads back."""
        request, copied = self._copy.requested(given.task), given.copied
        if copied is None:
            return copy_task, tuple(request)
        hold = min(10, given.same) * _HOLD_SECONDS
        return check_task, tuple(request._replace(ranges=copied.ranges or request.ranges, not_by=copied.by, hold=hold))

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        """Have what was copied read back, if that is wanted, and note what is done."""
        if answer.kind == "same":
            given.same += 1
            if given.same > _MAX_SAME:
                what = f"no other worker than {answer.by} could be had to read back what it wrote"
                raise OSError(errno.EAGAIN, what, self._path)
            if not given.out:  # the one who wrote it takes one of two, and while it keeps that, another is free
                self.give(given)
                self.give(given)
            return False
        if self._checks and future not in given.checks:
            if given.copied is None:
                given.copied = answer
                self.give(given)
            return False
        if given.copied is not None:
            if answer.digest != given.copied.digest:
                what = f"what {given.copied.by} wrote is not what {answer.by} has read back"
                raise untrue(OSError(errno.EIO, what, self._path))
            answer = given.copied
        self._copy.take(given.task, answer.written)
        return True

    def idle(self) -> None:
        """Flush the journal."""
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._copy.flush()
            self._flushed = time.monotonic()
