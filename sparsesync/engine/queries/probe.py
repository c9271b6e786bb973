"""What the filesystem of a destination can hold, found out by trying.

A hidden file beside what will be there is made, tried out and removed; nothing is asked of the filesystem's
name, since what it can do depends on how it was made and mounted. Where there are no holes, no large
file is made.
"""

import contextlib
import errno
import fcntl
import os
import struct
from typing import Callable, Iterator, NamedTuple, Optional, Tuple

from ..files import syscalls
from ..files.claims import allocated
from ..files.extents import has_data
from ..files.mounts import filesystem_type, mount_of
from .mounts import location_key

_TRIAL_BYTES = 8 << 20
_MIB = 1 << 20
_TRIED = ("holes", "punch", "clone", "xattrs", "trusted", "acls", "largest", "nanoseconds")
_TRIAL_MTIME_NS = 1600000000123456789

_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in [
        (0x01, 6, 0xFFFFFFFF), (0x02, 4, 1), (0x04, 4, 0xFFFFFFFF), (0x10, 4, 0xFFFFFFFF), (0x20, 0, 0xFFFFFFFF),
    ]
)  # fmt: skip
"""An ACL with a user beside owner, group and others: linux/posix_acl_xattr.h, acl(5)."""


class Probe(NamedTuple):
    """A destination, and the filesystem that it is or will be on.

    ``kind``: the letter of ls(1) for its type, "" if it is missing.
    ``parent``: whether its directory exists.
    ``real``: its path without symlinks.
    ``place``: its location (:func:`mounts.location_key`).
    ``device``, ``type``: the number and the type of the filesystem.
    ``free``: bytes.
    ``inodes``: the number of free inodes, -1 for no limit.
    ``refused``: why nothing can be written there, or None.
    ``full``: whether that is for lack of room.
    ``largest``: whether a file of the requested size can be made.
    ``nanoseconds``: whether times keep their nanoseconds.
    ``busy``: whether a migration to it is running.
    """

    kind: str
    parent: bool
    real: str
    place: str
    device: int
    type: str
    free: int
    inodes: int
    refused: Optional[str]
    full: bool
    holes: bool
    punch: bool
    clone: bool
    xattrs: bool
    trusted: bool
    acls: bool
    largest: bool
    nanoseconds: bool
    busy: bool


def _device_and_type(directory: str) -> Tuple[int, str]:
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)  # that the directory can be read is for others to find out
    try:
        device = os.fstat(fd).st_dev
        return device, filesystem_type(device, mount_of(fd)) or ""
    finally:
        os.close(fd)


def probe(path: str, largest: int = 0) -> Probe:
    """Test the filesystem of ``path`` by writing to it. Raises OSError.

    ``largest``: the size of the largest file to come, in bytes.
    """
    path = os.path.abspath(path)
    exists = os.path.isdir(path)
    parent = os.path.isdir(os.path.dirname(path))
    kind = "d" if exists else "-" if os.path.lexists(path) else ""
    holder = path
    while not os.path.isdir(holder):
        holder = os.path.dirname(holder)
    space = syscalls.filesystem_at(holder)
    device, type = _device_and_type(holder)
    refused = None
    full = False
    tried = dict.fromkeys(_TRIED, False)
    try:
        with _scratch(holder) as fd:
            tried = _try(fd, holder, largest)
    except OSError as error:
        refused = os.strerror(error.errno) if error.errno else str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return Probe(
        kind,
        parent,
        os.path.realpath(path),
        location_key(path),
        device,
        type,
        syscalls.free_space(space),
        space.f_favail if space.f_files else -1,
        refused,
        full,
        busy=exists and _is_locked(path),
        **tried,
    )


@contextlib.contextmanager
def _scratch(directory: str) -> Iterator[int]:
    path = os.path.join(directory, ".sparsesync-probe." + os.urandom(4).hex())
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)
        os.unlink(path)


def _try(fd: int, directory: str, largest: int) -> "dict[str, bool]":
    os.ftruncate(fd, _TRIAL_BYTES)
    os.pwrite(fd, b"x" * _MIB, _TRIAL_BYTES - _MIB)
    holes = allocated(os.fstat(fd)) < _TRIAL_BYTES // 2
    syscalls.punch(fd, _TRIAL_BYTES - _MIB, _MIB)
    punched = holes and not has_data(fd, _TRIAL_BYTES - _MIB, _MIB)
    with _scratch(directory) as other:
        cloned = _works(lambda: fcntl.ioctl(other, syscalls.FICLONE, fd))
    # A filesystem without holes would write all of a file that is made longer. Where it cannot end it says so.
    large = _works(lambda: os.lseek(fd, largest, os.SEEK_SET))
    if large and holes:
        large = _works(lambda: os.ftruncate(fd, largest))
    return {
        "holes": holes,
        "punch": punched,
        "clone": cloned,
        "xattrs": _works(lambda: os.setxattr(fd, "user.sparsesync", b"x")),
        "trusted": os.geteuid() == 0 and _works(lambda: os.setxattr(fd, "trusted.sparsesync", b"x")),
        "acls": _works(lambda: os.setxattr(fd, "system.posix_acl_access", _ACL)),
        "largest": large,
        "nanoseconds": _keeps_time(fd),
    }


def _keeps_time(fd: int) -> bool:
    os.utime(fd, ns=(_TRIAL_MTIME_NS, _TRIAL_MTIME_NS))
    return os.fstat(fd).st_mtime_ns == _TRIAL_MTIME_NS


def _works(call: Callable[[], object]) -> bool:
    try:
        call()
        return True
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
            raise
        return False


def lock(path: str, make: bool = False, parents: bool = False) -> int:
    """Take the lock of a destination directory, and return the descriptor that holds it.

    The lock is flock(2) on the directory itself: nothing is written, and the lock ends with its holder.

    ``make``: make the directory if it is missing.
    ``parents``: make missing parents too.

    Raises OSError; EBUSY if another migration has the lock.
    """
    if make and not os.path.isdir(path):
        if parents:
            os.makedirs(path, exist_ok=True)
        else:
            os.mkdir(path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EWOULDBLOCK:
            raise OSError(errno.EBUSY, "another migration is running into it, wait for it", path) from None
        raise
    return fd


def _is_locked(path: str) -> bool:
    try:
        os.close(lock(path))
        return False
    except OSError as error:
        return error.errno == errno.EBUSY
