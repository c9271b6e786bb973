"""One file that workers copy: its tasks, and what is around them, from a temporary to a file that has its name.

::

    a new temporary, or that of a run that broke off, if the journal is of the same source
    the tasks that are not done yet, each as a request for a worker
    nobody has the temporary any more, the source is unchanged -> it may take its name

Who gives the requests out is not known here: :mod:`coordinator` does it for one file, and :mod:`bundles` for many.

**Late workers.** A task that was given out twice, here or by the engine, may still write when the other has answered,
and so may one of a run that broke off. It writes what the source held, but whoever wrote to the finished file meanwhile
would lose that. So who writes shares a lock, mostly of the journal, and before the file gets its name the coordinator
has that alone (:meth:`FileCopy.take_away`). If somebody may be late, the temporary gets another name, which no worker
knows (``.NAME.sparsesync-done``), and they stop when they see that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Any

from ..engine.content.hands.writer import Work
from ..engine.errors import OnProgress
from ..engine.files.claims import allocated, knows_holes
from ..engine.files.extents import Extent
from ..engine.files.status import is_recent
from ..engine.files.writing.stripes import like_replaced, stripe_bytes
from ..engine.files.writing.target import Target
from ..engine.text import hidden_name, name_limit
from .journal import Journal
from .plan import UNIT_BYTES, Task, plan, share_of
from .run import untrue
from .task import CHANGED, Answer, Identity, Request, identity, lock, machine, version

_MAX_UNIT_BYTES = 64 << 20

_ORPHANS_SECONDS = 2.0
"""How long workers of a run that broke off, which answer nobody, are waited for before the file gets its name.

That is so where locks may be those of one machine, or where there are none."""


class FileCopy:
    """The copy of one file.

    ``workers``: about how many there are.
    ``check_other``: have another worker read back what one wrote.
    ``journaled``: a later run may go on with what is done.
    ``written``: bytes.
    ``any_done``: there is something for a later run to go on with.
    """

    def __init__(self, workers: int, check_other: bool = False, journaled: bool = True) -> None:
        self._workers = workers
        self._check_other = check_other
        self._journaled = journaled
        self._identity: Identity | None = None
        self._journal: Journal | None = None
        self._header: dict[str, Any] = {}
        self._progress: OnProgress = None
        self._target: Target | None = None
        self._withdrawn: float | None = None
        self.written: int = 0
        self.any_done: bool = False
        self.request: Request | None = None

    @property
    def possible(self) -> bool:
        """Whether workers can do it, once it has begun: a device has another inode elsewhere."""
        return self._identity is not None

    @property
    def resumable(self) -> bool:
        """Whether there is something for a later run to go on with."""
        return self.any_done and self._journal is not None and self._target is not None and self._target.taken_up

    def partial(self, directory: int, name: str) -> tuple[int, str]:
        """Return the partial file. That of a run which was killed when it had withdrawn it gets its name back."""
        partial, withdrawn = _names(directory, name)
        with contextlib.suppress(OSError):
            fd = os.open(withdrawn, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of a run that goes on it is not ours
                if not _is_there(directory, partial):
                    os.rename(withdrawn, partial, src_dir_fd=directory, dst_dir_fd=directory)
            finally:
                os.close(fd)
        if not any(_is_there(directory, each) for each in (partial, withdrawn)):
            _discard_journal(directory, name)
        return directory, partial

    def begin(self, source: int, target: Target) -> None:
        """Continue the copy of an earlier run, if the target has a partial file that is one."""
        found = None
        if target.temporary is None:
            raise OSError(errno.EPERM, "its directory is append-only, and workers need a partial file", target.path)
        if stat.S_ISREG(os.fstat(source).st_mode):
            self._identity = identity(source)
            if self._journaled:
                directory = target.temporary_directory
                self._journal = Journal(directory, _journal_name(directory, target.name))
                if target.resumed:
                    found = self._journal.take_up(self._wanted(target))
        if found is None:
            self._begin_anew(target)
        target.continued = found is not None
        self._header = found or {}
        self._target = target
        self._note_any(self._journal is not None and self._journal.any_done)

    def _begin_anew(self, target: Target) -> None:
        """Have an empty temporary, with the stripes of the file that it will replace if it is worth a journal."""
        striped = None
        if self._journal is not None and target.taken_up:
            striped = like_replaced(target.directory, target.name, target.path)
        if striped is not None or target.resumed:
            _discard_journal(target.temporary_directory, target.name)
            target.renew(*filter(None, [striped]))
        if target.resumed and os.fstat(target.fd).st_size:
            raise OSError(errno.EBUSY, "another run is writing it", target.path)
        target.resumed = False

    def _note_any(self, done: bool) -> None:
        self.any_done = done
        if self._target is not None:
            self._target.continuable = self.resumable

    def _wanted(self, target: Target) -> dict[str, Any]:
        return {
            "sparsesync": version(),
            "source": list(self._identity or ()),
            "temporary": os.fstat(target.fd).st_ino,
            "check": self._check_other,
            "recent": False,
        }

    def tasks(self, work: Work, ranges: Iterable[Extent], directory: str) -> Iterator[Task]:
        """Yield the tasks that no earlier run has done.

        ``directory``: the absolute path of the temporary's directory.

        Raises OSError if the source has changed.
        """
        self.check_source(work)
        self._progress = work.progress
        assert self._identity is not None
        continued = bool(self._header)
        if not continued:
            self._header = self._new_header(work)
        if self._journal is not None:
            self._journal.begin(None if continued else self._header)
        self.request = self._request(work, directory)
        for task in plan(ranges, self._identity[1], int(self._header["share"]), int(self._header["unit"])):
            written = None if self._journal is None else self._journal.written(task)
            if written is None:
                yield task
            else:
                self._count(task, written)

    def _new_header(self, work: Work) -> dict[str, Any]:
        st, held = os.fstat(work.source), os.fstat(work.target.fd)
        block = stripe_bytes(work.target.fd, _MAX_UNIT_BYTES) or held.st_blksize
        return {
            **self._wanted(work.target),
            "recent": is_recent(max(st.st_mtime_ns, st.st_ctime_ns)),
            "share": share_of(min(allocated(st), st.st_size) if work.believed else st.st_size, self._workers),
            "unit": block if block % UNIT_BYTES == 0 and block <= _MAX_UNIT_BYTES else UNIT_BYTES,
        }

    def _request(self, work: Work, directory: str) -> Request:
        """Return a request that lacks only its task."""
        assert self._identity is not None
        return Request(
            version=version(),
            machine=machine(),
            source=absolute(work.source_path),
            source_is=self._identity,
            directory=directory,
            name=str(work.target.temporary),
            inode=os.fstat(work.target.fd).st_ino,
            start=0,
            stop=0,
            ranges=b"",
            believed=work.believed,
            kernel=work.kernel,
            zero_block=work.zero_block,
            digest=self._check_other,
            flush=self._journaled,
            locked=self._locked(work.target),
        )

    def _locked(self, target: Target) -> str:
        """Return the name of the file whose lock tells who may write."""
        if self._journal is not None:
            return self._journal.name
        # A partial file is locked by flock(2), which is one lock with these on some shared filesystems, as on NFS.
        return "" if target.taken_up and not knows_holes(target.fd) else str(target.temporary)

    def requested(self, task: Task) -> Request:
        """Return the request for a task."""
        assert self.request is not None
        return self.request._replace(start=task.start, stop=task.stop, ranges=task.ranges)

    def to_be_read(self, task: Task, copied: Answer) -> tuple[Any, ...]:
        """Return the request for what a worker has ``copied`` of a task, as a plain tuple."""
        return tuple(self.requested(task)._replace(ranges=copied.ranges or task.ranges))

    def take(self, task: Task, written: int) -> None:
        """Note that a task is done. ``written``: bytes."""
        if self._journal is not None:
            self._journal.add(task, written)
        self._count(task, written)

    def _count(self, task: Task, written: int) -> None:
        self.written += written
        self._note_any(True)
        if self._progress is not None:
            self._progress(task.data)

    def flush(self) -> None:
        """Have on the disk what the journal says."""
        if self._journal is not None:
            self._journal.flush()

    def check_source(self, work: Work) -> None:
        """Raise OSError if the source has changed."""
        if identity(work.source) != self._identity:
            raise untrue(OSError(errno.ESTALE, CHANGED, work.source_path))

    def take_away(self, target: Target, late: bool) -> bool:
        """Take the temporary from all workers, and return whether none may write to it any more. If not, ask again.

        ``late``: one has not answered.
        """
        alone = locks = False
        with contextlib.suppress(BlockingIOError):
            if self._journal is not None:
                locks = self._journal.lock()
            elif self._locked(target):
                locks = lock(target.fd, fcntl.F_WRLCK)
            alone = True
        # A filesystem that is known is of one machine, or has its locks on all of them.
        orphans = target.continued and not (locks and knows_holes(target.fd))
        if self._withdrawn is None and (late or orphans or not alone):
            target.withdraw(_names(target.temporary_directory, target.name)[1])
            self._withdrawn = time.monotonic()
        if late or not alone:
            return False
        return not orphans or time.monotonic() >= (self._withdrawn or 0) + _ORPHANS_SECONDS

    def give_back(self, target: Target) -> None:
        """Give the temporary its name again, so that a later run goes on with it."""
        target.withdraw(_names(target.temporary_directory, target.name)[0])

    def close(self) -> None:
        """Close the journal, and remove it unless the partial file, which is closed by now, was kept."""
        if self._journal is not None:
            self._journal.close(self._target is not None and self._target.keep and self._target.temporary is not None)
            self._journal = None


def absolute(path: str) -> str:
    """Return a path that a worker finds, too: as it is, since what is normalised may lead elsewhere."""
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


def _journal_name(directory: int, name: str) -> str:
    return hidden_name(name, ".sparsesync-journal", name_limit(directory))


def _discard_journal(directory: int, name: str) -> None:
    """Remove the journal of a temporary that is gone, or going. The next one may have its inode. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_journal_name(directory, name), dir_fd=directory)


def _is_there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _names(directory: int, name: str) -> tuple[str, str]:
    """Return the names of the partial file, while workers have it and when they no longer may."""
    limit = name_limit(directory)
    return hidden_name(name, ".sparsesync-tasks", limit), hidden_name(name, ".sparsesync-done", limit)
