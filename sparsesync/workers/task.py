"""What a worker does: :func:`copy_task` and :func:`bundle_task`, and :func:`check_task`, which reads back.

They are functions of a module that is installed wherever they run, and take and return plain tuples, so that any engine
can carry them, and so that another version of the package can say no to what it would not understand.

A task trusts nobody. It opens both files itself and makes sure that they are those that the coordinator has open: by
inode, size and times. It asks the source's map again, and copies what either map calls data. It has the data on the
disk, and looks at the source once more, before it answers. What it writes is what the source holds, so it may run
twice, or late. It may run even when the copy is over: therefore it looks now and then whether the temporary still has
its name, and stops if not. As long as it may write it shares a lock (:func:`lock`), which the coordinator has to have
alone before the file gets its name. That holds for a task, too, which the engine has given to another by itself.

A symlink that leads to the source is followed, as for whoever named it. On the way to the temporary only those of root
and of our own user are (:func:`..engine.files.beneath.open_trusted`), and the temporary itself is none.

Sizes and offsets are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import stat
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, Callable, NamedTuple

from ..engine.content.hands.writer import RangeWriter
from ..engine.content.pieces import read_ranges
from ..engine.errors import TruncatedError, error_path
from ..engine.files.beneath import open_trusted
from ..engine.files.extents import extents
from ..engine.files.mounts import mount_of
from ..engine.files.status import open_quietly
from .plan import pack, union, unpack

Identity = tuple[int, int, int, int]
"""Inode, size, and the times of the last change of content and of anything, in nanoseconds."""

_LOOK_SECONDS = 0.5
"""How often a task looks whether its temporary is still there."""

_LOCKED_BYTE = 1 << 62
"""Beyond what any program has to lock in the finished file."""

CHANGED = "it changed meanwhile: do it again"
_STALE = "another file than the coordinator has open: are both on the same filesystem?"


class Request(NamedTuple):
    """A task, and all that a worker needs for it.

    ``version``: of the package that asks.
    ``machine``: where it runs (:func:`machine`).
    ``source_is``: the identity of the file at the path ``source``.
    ``directory``, ``name``: where the temporary is, whose inode is ``inode``.
    ``start``, ``stop``: the span of the task.
    ``ranges``: the data in it, packed.
    ``believed``: the source's map may be asked again.
    ``kernel``: copy_file_range(2) may be used.
    ``zero_block``: as of :class:`..engine.content.hands.writer.Work`.
    ``digest``: a digest is wanted.
    ``flush``: it is to be on the disk before the answer. Otherwise it is only to be seen by the coordinator, on the
    same machine or another.
    ``locked``: the name, in the same directory, of the file whose lock tells who may write; "" for none.
    """

    version: str
    machine: str
    source: str
    source_is: Identity
    directory: str
    name: str
    inode: int
    start: int
    stop: int
    ranges: bytes
    believed: bool
    kernel: bool
    zero_block: int
    digest: bool
    flush: bool = True
    locked: str = ""


class NotBy(NamedTuple):
    """Who must not do a task: the worker that named itself so. It keeps it for so long that another may be free then.

    ``hold``: seconds.
    """

    by: str
    hold: float


class Answer(NamedTuple):
    """What a worker has to say.

    ``kind``: "done"; "failed", for an error of the system; "changed", "stopped", "refused", with a ``message``; "same",
    for a worker that must not do it.
    ``by``: the worker.
    ``written``: bytes.
    ``digest``: of the content of ``ranges``, which are packed, and are more than the plan's if the map has grown.
    ``parts``: of a bundle, the answer of each request, as a plain tuple.
    """

    kind: str
    by: str
    written: int = 0
    digest: bytes = b""
    ranges: bytes = b""
    errno: int | None = None
    message: str = ""
    path: str = ""
    parts: tuple[tuple[Any, ...], ...] = ()


class _Stopped(Exception):
    """The copy is over."""


class Changed(Exception):
    """A file is not what the coordinator has open."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.message = message
        self.path = path


def version() -> str:
    """Return the version of the package that runs here."""
    # Whoever calls a task has imported the package, and nothing below its top may do so by name.
    return str(vars(sys.modules[__name__.partition(".")[0]])["__version__"])


@functools.lru_cache(maxsize=1)
def machine() -> str:
    """Return what tells this machine from others: the kernel's boot, or its name."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return os.uname().nodename


def identity(fd: int) -> Identity:
    """Return the identity of an open file."""
    return identity_of(os.fstat(fd))


def identity_of(st: os.stat_result) -> Identity:
    """Return the identity of a file by its stat."""
    return st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns


def copy_task(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy what a :class:`Request` asks for, and return an :class:`Answer`, both as plain tuples."""
    return answered(request, _copy)


def bundle_task(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copy what several requests ask for: a version, and a tuple of :class:`Request` as plain tuples.

    The answer is "done", whatever became of each.
    """

    def each(request: tuple[Any, ...], answer: Answer) -> Answer:
        return answer._replace(parts=tuple(answered(part, _copy) for part in request[1]))

    return answered(request, each)


def check_task(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Read back what several requests name: a version, a tuple of them, and a :class:`NotBy`, as plain tuples.

    The answer is as of :func:`bundle_task`.
    """

    def each(request: tuple[Any, ...], answer: Answer) -> Answer:
        not_by = NotBy(*request[2])
        if not_by.by == answer.by:
            time.sleep(not_by.hold)
            return answer._replace(kind="same")
        return answer._replace(parts=tuple(answered(part, _check) for part in request[1]))

    return answered(request, each)


def answered(request: tuple[Any, ...], do: Callable[[tuple[Any, ...], Answer], Answer]) -> tuple[Any, ...]:
    """Return what ``do`` returns, or an :class:`Answer` that tells what went wrong, as a plain tuple.

    ``request``: begins with a version.
    ``do``: called with the request, and with the answer that it is to complete.
    """
    by = f"{os.uname().nodename}, process {os.getpid()}"
    if request[0] != version():
        message = f"a worker ({by}) has sparsesync {version()}, and not {request[0]}: install the same version"
        return tuple(Answer("refused", by, message=message))
    try:
        return tuple(do(request, Answer("done", by)))
    except _Stopped:
        return tuple(Answer("stopped", by, message="the temporary file is gone"))
    except Changed as error:
        return tuple(Answer("changed", by, message=error.message, path=error.path))
    except TruncatedError as error:
        return tuple(Answer("changed", by, message="it was truncated while it was read", path=error.filename))
    except OSError as error:
        path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        return tuple(Answer("failed", by, errno=error.errno, message=f"{error.strerror or error} ({by})", path=path))


def _copy(request: tuple[Any, ...], answer: Answer) -> Answer:
    task = Request(*request)
    with contextlib.ExitStack() as stack:
        source = open_quietly(task.source)
        stack.callback(os.close, source)
        compare_identity(source, task.source_is, task.source)
        directory = _open_directory(task, stack)
        _share_lock(directory, task, stack)
        target = _open_temporary(directory, task, os.O_RDWR, stack)
        ranges = task.ranges
        if task.believed:
            with error_path(task.source):
                ranges = pack(union(unpack(ranges), extents(source, task.start, task.stop, "trust")))
        digest = hashlib.blake2b(ranges, digest_size=16)
        same = task.machine == machine() and mount_of(source) == mount_of(target) != b""
        writer = RangeWriter(
            source,
            target,
            task.kernel and same and not task.digest,
            task.zero_block,
            _Watch(directory, task).look,
            task.source,
            1,
            digest.update if task.digest else None,
        )
        with error_path(os.path.join(task.directory, task.name)):
            written = writer.write(unpack(ranges))
            # What a local disk is to get is seen by all of its machine before.
            if task.flush or task.machine != machine() or not os.major(os.fstat(target).st_dev):
                os.fdatasync(target)
        compare_identity(source, task.source_is, task.source)
    more = b"" if ranges == task.ranges else ranges
    return answer._replace(written=written, digest=digest.digest() if task.digest else b"", ranges=more)


def _check(request: tuple[Any, ...], answer: Answer) -> Answer:
    task = Request(*request)
    with contextlib.ExitStack() as stack:
        directory = _open_directory(task, stack)
        target = _open_temporary(directory, task, os.O_RDONLY, stack)
        look = _Watch(directory, task).look
        digest = hashlib.blake2b(task.ranges, digest_size=16)
        for _, data in read_ranges(target, unpack(task.ranges), os.path.join(task.directory, task.name)):
            digest.update(data)
            look(len(data))
    return answer._replace(digest=digest.digest())


def compare_identity(fd: int, wanted: Identity, path: str) -> None:
    """Raise Changed unless an open file is the coordinator's."""
    now = identity(fd)
    if now != tuple(wanted):
        raise Changed(_STALE if now[0] != wanted[0] else CHANGED, path)


def lock(fd: int, kind: int) -> bool:
    """Share the lock of an open file (F_RDLCK), have it alone (F_WRLCK), or give it back (F_UNLCK).

    It belongs to the open file description, as one of flock(2), and is one of the lock manager's, so that a shared
    filesystem has it on all its machines: fcntl(2), F_OFD_SETLK.

    Returns False where there are no such locks. Raises BlockingIOError if somebody else has it.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi", kind, os.SEEK_SET, _LOCKED_BYTE, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
        return False
    return True


def _open_directory(task: Request, stack: contextlib.ExitStack) -> int:
    directory = open_trusted(task.directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, directory)
    return directory


def _open_named(directory: int, name: str, access: int, stack: contextlib.ExitStack) -> int:
    """Return a descriptor of a file of the coordinator's. Raises _Stopped if it is not there."""
    try:
        fd = os.open(name, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise _Stopped from None
    stack.callback(os.close, fd)
    return fd


def _share_lock(directory: int, task: Request, stack: contextlib.ExitStack) -> None:
    """Share the lock of those who may write, for as long as the stack lasts. Raises _Stopped if nobody may any more."""
    if task.locked:
        fd = _open_named(directory, task.locked, os.O_RDONLY, stack)
        try:
            lock(fd, fcntl.F_RDLCK)
        except BlockingIOError:
            raise _Stopped from None
        stack.callback(lock, fd, fcntl.F_UNLCK)  # also if a process was forked meanwhile, and has it open


def _open_temporary(directory: int, task: Request, access: int, stack: contextlib.ExitStack) -> int:
    """Return a descriptor of the temporary. Raises _Stopped if it is not there."""
    target = _open_named(directory, task.name, access, stack)
    st = os.fstat(target)
    if not stat.S_ISREG(st.st_mode) or st.st_ino != task.inode:
        raise OSError(errno.ESTALE, _STALE, os.path.join(task.directory, task.name))
    return target


class _Watch:
    """Looks, while a task goes on, whether its temporary still has its name."""

    def __init__(self, directory: int, task: Request) -> None:
        self._directory = directory
        self._task = task
        self._next = time.monotonic() + _LOOK_SECONDS

    def look(self, count: int) -> None:
        """Raise _Stopped if it has not. ``count``: the bytes done since the last call."""
        if time.monotonic() < self._next:
            return
        try:
            st = os.stat(self._task.name, dir_fd=self._directory, follow_symlinks=False)
        except FileNotFoundError:
            raise _Stopped from None
        if st.st_ino != self._task.inode:
            raise _Stopped
        self._next = time.monotonic() + _LOOK_SECONDS


def answers(found: object) -> Iterator[Answer]:
    """Yield what a worker returned, if that is an answer."""
    if isinstance(found, (tuple, list)) and len(found) == len(Answer._fields):
        yield Answer(*found)
