"""The hands of a copy by workers: what is around the tasks, from a temporary to a file that has its name.

:class:`Coordinator` is what copies the ranges (:class:`..engine.content.writer.Hands`)::

    with a new temporary, or that of a run that broke off, if the journal is of the same source:
        have all tasks done (:mod:`run`)
        nobody has the temporary any more, the source is unchanged -> it takes its name

**Late workers.** A task that was given out twice may still write when the other has answered. It writes what the source
held, but whoever wrote to the finished file meanwhile would lose that. So before the file gets its name the temporary
gets another, which no worker knows (``.NAME.sparsesync-done``), and they stop when they see that. One that does not
answer at all is an error.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ..engine.content.writer import Hands, Threads, Work
from ..engine.errors import OnProgress
from ..engine.files.claims import allocated
from ..engine.files.extents import Extent
from ..engine.files.status import is_recent
from ..engine.files.writing.target import Target
from ..engine.text import hidden_name, name_limit
from .journal import Journal
from .plan import UNIT_BYTES, Task, largest_first, plan, share_of
from .run import Do, Given, Run, untrue
from .task import CHANGED, Answer, Identity, Request, check_task, copy_task, identity, machine, version

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_MAX_UNIT_BYTES = 64 << 20

_MAX_SAME = 600
"""How often a task may come to the one worker that must not do it."""
_HOLD_SECONDS = 0.02
"""How long that worker keeps it, so that the other of two may take it."""

_FLUSH_SECONDS = 1.0
"""How often the journal is flushed. A line that a power cut takes away costs a task, and no more."""

_GRACE_SECONDS = 60.0
"""How long late workers are waited for before the file gets its name."""

_ORPHANS_SECONDS = 2.0
"""The same for workers of a run that broke off, which answer nobody."""


class Coordinator(Hands):
    """Hands for one copy: workers that an executor has. A context manager.

    ``workers``: about how many there are.
    ``check_other``: have another worker read back what one wrote.
    """

    def __init__(self, executor: Executor, workers: int, check_other: bool = False) -> None:
        self._executor = executor
        self._workers = max(1, workers)
        self._check_other = check_other
        self._identity: Identity | None = None
        self._journal: Journal | None = None
        self._header: dict[str, Any] = {}
        self._keep = False

    def partial(self, directory: int, name: str) -> tuple[int, str]:
        """Return the partial file. That of a run which was killed when it had withdrawn it gets its name back."""
        partial, withdrawn = _names(directory, name)
        with contextlib.suppress(OSError):
            fd = os.open(withdrawn, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of a run that goes on it is not ours
                try:
                    os.stat(partial, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    os.rename(withdrawn, partial, src_dir_fd=directory, dst_dir_fd=directory)
            finally:
                os.close(fd)
        return directory, partial

    def begin(self, source: int, source_path: str, target: Target) -> None:
        """Continue the copy of an earlier run, if the target has a partial file that is one."""
        found = None
        if target.temporary is None:
            raise OSError(errno.EPERM, "its directory is append-only, and workers need a partial file", target.path)
        if stat.S_ISREG(os.fstat(source).st_mode):
            self._identity = identity(source)
            directory = target.temporary_directory
            name = hidden_name(target.name, ".sparsesync-journal", name_limit(directory))
            self._journal = Journal(directory, name)
            if target.resumed:
                found = self._journal.take_up(self._wanted(target))
        if target.resumed and found is None:
            target.renew()
            if target.resumed:
                raise OSError(errno.EBUSY, "another run is writing it", target.path)
        target.continued = found is not None
        self._header = found or {}

    def _wanted(self, target: Target) -> dict[str, Any]:
        return {
            "sparsesync": version(),
            "source": list(self._identity or ()),
            "temporary": os.fstat(target.fd).st_ino,
            "check": self._check_other,
            "recent": False,
        }

    def write(self, work: Work, ranges: Iterable[Extent]) -> int:
        """Have every range copied, and return the bytes written. Raises OSError."""
        if self._identity is None or self._journal is None:  # a device has another inode elsewhere
            return Threads().write(work, ranges)
        target = work.target
        if identity(work.source) != self._identity:
            raise _changed(work.source_path)
        if self._check_other and self._workers < 2:
            raise ValueError("there is only one worker, and what it wrote is to be read back by another")
        if not self._header:
            self._journal.begin(self._new_header(work))
        else:
            self._journal.begin(None)
        self._keep = True
        run = CopyRun(self._executor, self._workers, self._journal, self._requests(work), work.progress)
        size = self._identity[1]
        try:
            tasks = plan(ranges, size, int(self._header["share"]), int(self._header["unit"]))
            run.all_of(largest_first(run.without_done(tasks)))
            self._withdraw(target, run)
            if identity(work.source) != self._identity:
                raise _changed(work.source_path)
        except BaseException as error:
            self._keep = not getattr(error, "untrue", False) and run.any_done
            target.keep = self._keep
            raise
        return run.written

    def _new_header(self, work: Work) -> dict[str, Any]:
        st, held = os.fstat(work.source), os.fstat(work.target.fd)
        block = held.st_blksize
        self._header = {
            **self._wanted(work.target),
            "recent": is_recent(max(st.st_mtime_ns, st.st_ctime_ns)),
            "share": share_of(min(allocated(st), st.st_size) if work.believed else st.st_size, self._workers),
            "unit": block if block % UNIT_BYTES == 0 and block <= _MAX_UNIT_BYTES else UNIT_BYTES,
        }
        return self._header

    def _requests(self, work: Work) -> Request:
        """Return a request that lacks only its task."""
        assert self._identity is not None
        path = work.target.path
        real = os.path.realpath(path) if os.path.islink(path) else path
        return Request(
            version=version(),
            machine=machine(),
            source=os.path.abspath(work.source_path),
            source_is=self._identity,
            directory=os.path.dirname(os.path.abspath(real)),
            name=str(work.target.temporary),
            inode=os.fstat(work.target.fd).st_ino,
            start=0,
            stop=0,
            ranges=b"",
            believed=work.believed,
            kernel=work.kernel,
            zero_block=work.zero_block,
            digest=self._check_other,
        )

    def _withdraw(self, target: Target, run: CopyRun) -> None:
        """Return when no worker has the temporary any more."""
        if not run.outstanding and not target.continued:
            return
        partial, withdrawn = _names(target.temporary_directory, target.name)
        target.withdraw(withdrawn)
        if target.continued:
            time.sleep(_ORPHANS_SECONDS)
        if not run.settle(_GRACE_SECONDS):
            target.withdraw(partial)
            what = "a worker does not answer, and may still write: end the workers, and run this again"
            raise OSError(errno.EBUSY, what, target.path)

    def __exit__(self, *exc_info: object) -> None:
        """Remove the journal, unless there is something to go on with."""
        if self._journal is not None:
            self._journal.close(self._keep and exc_info[0] is not None)


class CopyRun(Run):
    """The tasks of one copy.

    ``request``: what all requests have in common. With ``digest`` another worker reads back what one wrote.
    ``written``: bytes.
    ``any_done``: there is something for a later run to go on with.
    """

    def __init__(
        self, executor: Executor, workers: int, journal: Journal, request: Request, progress: OnProgress
    ) -> None:
        super().__init__(executor, workers, request.source)
        self._journal = journal
        self._request = request
        self._progress = progress
        self._flushed = time.monotonic()
        self.written: int = 0
        self.any_done: bool = False

    def without_done(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """Yield the tasks that no earlier run has done."""
        for task in tasks:
            written = self._journal.written(task)
            if written is None:
                yield task
            else:
                self._count(task, written)

    def _count(self, task: Task, written: int) -> None:
        self.written += written
        self.any_done = True
        if self._progress is not None:
            self._progress(task.data)

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what copies, or reads back."""
        task, copied = given.task, given.copied
        if copied is None:
            return copy_task, tuple(self._request._replace(start=task.start, stop=task.stop, ranges=task.ranges))
        hold = min(10, given.same) * _HOLD_SECONDS
        return check_task, tuple(
            self._request._replace(ranges=copied.ranges or task.ranges, not_by=copied.by, hold=hold)
        )

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        """Have what was copied read back, if that is wanted, and note what is done."""
        if answer.kind == "same":
            given.same += 1
            if given.same > _MAX_SAME:
                what = f"no other worker than {answer.by} could be had to read back what it wrote"
                raise OSError(errno.EAGAIN, what, self._request.source)
            if not given.out:  # the one who wrote it takes one of two, and while it keeps that, another is free
                self.give(given)
                self.give(given)
            return False
        if self._request.digest and future not in given.checks:
            if given.copied is None:
                given.copied = answer
                self.give(given)
            return False
        if given.copied is not None:
            if answer.digest != given.copied.digest:
                what = f"what {given.copied.by} wrote is not what {answer.by} has read back"
                raise untrue(OSError(errno.EIO, what, self._request.source))
            answer = given.copied
        self._journal.add(given.task, answer.written)
        self._count(given.task, answer.written)
        return True

    def idle(self) -> None:
        """Flush the journal."""
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            self._journal.flush()
            self._flushed = time.monotonic()


def _names(directory: int, name: str) -> tuple[str, str]:
    """Return the names of the partial file, while workers have it and when they no longer may."""
    limit = name_limit(directory)
    return hidden_name(name, ".sparsesync-tasks", limit), hidden_name(name, ".sparsesync-done", limit)


def _changed(path: str) -> OSError:
    return untrue(OSError(errno.ESTALE, CHANGED, path))
