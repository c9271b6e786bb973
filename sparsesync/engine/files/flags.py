"""What chattr(1) and lsattr(1) show of a file: its flags, and the project that a quota counts it for.

A file that takes the place of another gets that one's flags (:func:`carry`), as if somebody had written to the old
file. NOCOW has to be set while the new file is empty. Immutable and append-only are no flags to carry: who has
them cannot be replaced, and :func:`why_refused` says so. A filesystem without flags refuses all of these calls.
"""

import contextlib
import errno
import fcntl
import os
import struct
import sys
from typing import List, Optional

_GETFLAGS = 0x80086601
_SETFLAGS = 0x40086602
"""FS_IOC_GETFLAGS and FS_IOC_SETFLAGS: ioctl_iflags(2)."""

_ROOM = bytes(8)
"""The calls are declared to take a long, and have an int in it."""

_COMPRESSED, _SYNC, _IMMUTABLE, _APPEND = 0x04, 0x08, 0x10, 0x20
_CARRIED = _COMPRESSED | _SYNC | 0x40 | 0x80 | 0x400 | 0x4000 | 0x00800000
"""FS_COMPR_FL, SYNC, NODUMP, NOATIME, NOCOMP, JOURNAL_DATA and NOCOW: linux/fs.h."""

_FSGETXATTR = 0x801C581F
_FSSETXATTR = 0x401C5820
_FSXATTR = struct.Struct("=5I8s")
_COWEXTSIZE = 0x00010000
"""FS_IOC_FSGETXATTR, its counterpart, struct fsxattr and FS_XFLAG_COWEXTSIZE: ioctl_xfs_fsgetxattr(2), linux/fs.h."""
_NOCOW = 0x00800000
_SCARCE = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR])
"""What says nothing of the directory."""
_REALTIME_OR_DAX = 0x00000001 | 0x00008000
"""FS_NOCOW_FL, and FS_XFLAG_REALTIME and FS_XFLAG_DAX."""


def _flags(fd: int) -> Optional[int]:
    """Return the flags of an open file, or None if its filesystem has none."""
    try:
        held = fcntl.ioctl(fd, _GETFLAGS, _ROOM)
    except OSError:
        return None
    return int.from_bytes(held[:4], sys.byteorder)


_NAMES = (
    (_IMMUTABLE, "immutable (i)"),
    (_APPEND, "append-only (a)"),
    (0x40, "no dump (d)"),
    (_COMPRESSED, "compressed (c)"),
    (0x00800000, "no copy-on-write (C)"),
)
"""chattr(1)."""

_EXTENTS = 0x00080000
"""FS_EXTENT_FL, which ext4 has of its own accord: linux/fs.h."""


def names(fd: int) -> Optional[List[str]]:
    """Return the names of the flags that change what can be done with an open file; None if there are no flags."""
    flags = _flags(fd)
    if not flags or flags == _EXTENTS:  # as nearly all are
        return None if flags is None else []
    return [name for flag, name in _NAMES if flags & flag]


def is_compressed(fd: int) -> bool:
    """Return whether an open file, or a new file in an open directory, is compressed."""
    return bool((_flags(fd) or 0) & _COMPRESSED)


def is_plainly_placed(fd: int) -> bool:
    """Return whether an open file is copied on write, and its physical offsets are those of one device.

    False if the filesystem does not say. A file of XFS' realtime device has offsets of that device.
    """
    state = bytearray(_FSXATTR.size)
    flags = _flags(fd)
    try:
        fcntl.ioctl(fd, _FSGETXATTR, state)
    except OSError:
        return False
    return flags is not None and not flags & _NOCOW and not _FSXATTR.unpack(state)[0] & _REALTIME_OR_DAX


def why_refused(path: str, directory: Optional[int] = None) -> Optional[str]:
    """Return the flag of a file or of its directory that forbids writing to the file, in words, or None.

    ``directory``: an open one that a relative ``path`` begins in.
    """
    for place, what in ((path, "it"), (os.path.dirname(path) or ".", "its directory")):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            continue
        try:
            why = forbids_replacing(fd, what)
        finally:
            os.close(fd)
        if why is not None:
            return why
    return None


def forbids_replacing(fd: int, what: str = "it") -> Optional[str]:
    """Return the flag of an open file by which it can be neither written to nor replaced, in words, or None."""
    flags = _flags(fd) or 0
    for flag, word, letter in ((_IMMUTABLE, "immutable", "i"), (_APPEND, "append-only", "a")):
        if flags & flag:
            return "{} is {}; chattr -{} lifts that".format(what, word, letter)
    return None


def carry(old: int, new: int) -> List[str]:
    """Give the open file ``new`` the flags and the project of the open file ``old``.

    Returns a description of each that the filesystem does not take; NOCOW, for instance, only suits an empty file.
    """
    # A server of FUSE may hold the question up until what is written is closed, and mostly has no flags at all.
    flags = _flags(old)
    current = None if flags is None else _flags(new)
    if flags is None or current is None:
        return []
    lost: List[str] = []
    wanted = current & ~_CARRIED | flags & _CARRIED
    if wanted != current:
        with contextlib.suppress(OSError):
            fcntl.ioctl(new, _SETFLAGS, wanted.to_bytes(4, sys.byteorder) + bytes(4))
        if _flags(new) != wanted:
            lost.append("the flags that lsattr shows")
    return lost + _carry_project(old, new)


def _carry_project(old: int, new: int) -> List[str]:
    states = bytearray(_FSXATTR.size), bytearray(_FSXATTR.size)
    try:
        for fd, state in zip((old, new), states):
            fcntl.ioctl(fd, _FSGETXATTR, state)
    except OSError:
        return []
    project = _FSXATTR.unpack(states[0])[3]
    flags, extent, count, current, size, rest = _FSXATTR.unpack(states[1])
    if project == current:
        return []
    try:
        fcntl.ioctl(new, _FSSETXATTR, _FSXATTR.pack(flags, extent, count, project, size, rest))
    except OSError:
        return ["the project"]
    return []


def copy_on_write_by_block(fd: int, by_block: bool) -> None:
    """Make writes to an open file copy one shared block at a time; False restores the default.

    By default XFS allocates 128 KiB around each such block, and keeps the rest for minutes. In a clone with scattered
    updates that is many times what changed. A size that a user has set is left as it is.
    """
    state = bytearray(_FSXATTR.size)
    try:
        fcntl.ioctl(fd, _FSGETXATTR, state)
        flags, extent, count, project, size, rest = _FSXATTR.unpack(state)
        block = os.fstat(fd).st_blksize
        if by_block and not flags & _COWEXTSIZE:
            flags, size = flags | _COWEXTSIZE, block
        elif not by_block and flags & _COWEXTSIZE and size == block:
            flags, size = flags & ~_COWEXTSIZE, 0
        else:
            return
        fcntl.ioctl(fd, _FSSETXATTR, _FSXATTR.pack(flags, extent, count, project, size, rest))
    except OSError:
        pass  # another filesystem, which has no such habit


def refusal(error: OSError, path: str, name: str, directory: int) -> OSError:
    """Return the error to raise for ``path``, with the reason where the system only says EPERM or ETXTBSY.

    ``path`` is for messages. The file is ``name`` in the open ``directory``.
    """
    if error.errno == errno.ETXTBSY:
        busy = "it is in use; a program that runs can be replaced, without --inplace and --overlay"
        return OSError(error.errno, busy, path)
    why = why_refused(name, directory) if error.errno == errno.EPERM else None
    return error if why is None else PermissionError(errno.EPERM, why, path)


def cannot_replace(error: OSError, path: str, name: str, directory: int) -> OSError:
    """Return :func:`refusal` for a file beside which nothing can be made. It names what can be done instead."""
    told = refusal(error, path, name, directory)
    if error.errno in _SCARCE or not os.access(name, os.W_OK, dir_fd=directory, effective_ids=True):
        return told
    why = "nothing can be made beside it ({});".format(error.strerror)
    if told is not error:
        why = "{}, or".format(told.strerror)
    elif error.errno in (errno.EPERM, errno.EACCES):
        why = "its directory may not be written to;"
    return OSError(error.errno, why + " write into it in place (--inplace)", path)


def keeps_names(directory: int) -> bool:
    """Return whether an open directory is append-only: a name can be made there, but not removed or replaced.

    False if the directory may not be read.
    """
    flags = _flags(directory)
    if flags is None:  # perhaps it is open as a place only (O_PATH)
        try:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            return False
        try:
            flags = _flags(fd)
        finally:
            os.close(fd)
    return bool((flags or 0) & _APPEND)
