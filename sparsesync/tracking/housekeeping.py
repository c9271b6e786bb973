"""What a directory of clones and records holds: list it, check it, and drop what is not wanted any more.

:func:`kept` looks at each entry (:mod:`entry`) without its lock and changes nothing, so what a run under way has there
may be one moment old. :func:`drop` takes the lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from ..console.units import iec
from ..engine.files.claims import allocated, file_size
from ..engine.files.fiemap import SHARED, UNWRITTEN, placed
from ..engine.files.status import identity_at
from .entry import SNAPSHOT, Entry
from .record import Record
from .store import OPEN_ENTRY, Store, is_key


class Kept(NamedTuple):
    """An entry: its key, and its record, or None.

    ``held``: bytes that its snapshots keep, and no other file shares; None if the filesystem does not tell.
    ``trouble``: what is wrong with it, in words, or None.
    ``orphan``: the source is gone.
    """

    key: str
    record: Record | None
    held: int | None
    trouble: str | None
    orphan: bool


def open_directory(path: str) -> int:
    """Return a descriptor of a directory of clones. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def kept(directory: int, idle: bool = False) -> Iterator[Kept]:
    """Yield what an open directory keeps, in the order of the keys. Raises OSError.

    ``idle``: without what a run is working with, this one or another.
    """
    for key in sorted(filter(is_key, os.listdir(directory))):
        try:
            fd = os.open(key, OPEN_ENTRY, dir_fd=directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Kept(key, None, None, error.strerror, False)
            continue
        try:
            if idle:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield _look(fd, key)
        except BlockingIOError:
            continue
        finally:
            os.close(fd)


def excess(directory: int, path: str) -> str | None:
    """Return what to say if the snapshots of an open directory hold more than their files have, or None.

    What a run is working with is not counted: it holds what changed since. Raises OSError.
    """
    held = files = 0
    sources = set()
    for each in kept(directory, idle=True):
        held += each.held or 0
        if each.record is not None:
            sources.add(each.record.source.path)
    for source in sources:
        with contextlib.suppress(OSError):  # it is gone
            files += allocated(os.stat(source))
    if held <= files:
        return None
    advice = "'sparsesync track list' tells of which, and 'track drop' removes them"
    return f"{path}: its snapshots hold {iec(held)}, which is more than the {iec(files)} of their files; {advice}"


def check_room(store: Store) -> None:
    """Warn if the snapshots of a store hold more than their files have. Raises OSError."""
    warning = excess(store.fd, store.path)
    if warning is not None:
        store.say(warning)


def _look(fd: int, key: str) -> Kept:
    record, trouble = None, None
    try:
        record = Entry(fd, key, lambda said: None).read()
        if record is None:
            trouble = "there is no record: a run is under way, or was killed"
    except ValueError as error:
        trouble = f"its record cannot be read: {error}"
    if record is not None:
        found = identity_at(record.snapshot.path, fd)
        if found is None:
            trouble = "its snapshot is gone"
        elif found != record.snapshot.identity:
            trouble = "its snapshot was written to, or is a copy from elsewhere"
    held: int | None = 0
    for name in os.listdir(fd):
        if not name.endswith(SNAPSHOT):
            continue
        with contextlib.suppress(FileNotFoundError):
            more = _held(fd, name)
            held = None if held is None or more is None else held + more
    return Kept(key, record, held, trouble, record is not None and not os.path.exists(record.source.path))


def _held(directory: int, name: str) -> int | None:
    """Return the bytes of a file that it shares with no other, or None if the filesystem does not tell."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return 0
        position, end, total = 0, file_size(fd), 0
        while position < end:
            found, position = placed(fd, position, end)
            total += sum(length for _, _, length, flags in found if not flags & (SHARED | UNWRITTEN))
        return total
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY):
            return None
        raise
    finally:
        os.close(fd)


def drop(directory: int, key: str) -> None:
    """Remove an entry. Raises OSError; EBUSY if a run is under way with it, EINVAL for what is no key."""
    if not is_key(key):
        raise OSError(errno.EINVAL, "is not the key of a file that is tracked; 'list' tells them", key)
    fd = os.open(key, OPEN_ENTRY, dir_fd=directory)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "a run is under way with it", key) from None
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        os.rmdir(key, dir_fd=directory)
    finally:
        os.close(fd)
