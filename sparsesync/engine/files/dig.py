"""Make holes of what reads as zeros in a file that is there, in place, and change nothing else of it.

A hole is punched where zeros were read. Whoever writes there between the two loses what he wrote. So nobody may: the
file is dug only while the kernel keeps everybody else from opening it (:func:`~.syscalls.take_lease`)::

    open it, and take the lease          somebody has it open, or mapped: it is left as it is
    for each 4 MiB of its data:
        read it; which blocks are zeros?
        has anybody asked for the file?  then it is given up here
        punch, and set the modification time back

Whoever asks for the file waits for as long as 4 MiB take, and not for all of it. He gets it anyway after the time that
the kernel allows a holder of a lease (proc_sys_fs(5), lease-break-time: 45 s). So only a process that is stopped for
that long just between the last question and the punch, which are two system calls in a row, could do any harm.

A lease proves nothing where others than this kernel can write: on a server's, a cluster's or a FUSE filesystem, or on
an overlay, whose files have two names. There nothing is dug (:data:`_ALONE`). Nor is what punching takes more from than
blocks: a setuid bit, or capabilities (:func:`_keeps_privileges`). What is reserved is a hole already, and stays
reserved.

Other names of the file, and files that share its extents, go on reading what they did: the blocks that are given up
are those of this file only. Offsets and lengths are bytes. Failures are OSError.

:func:`punch` is for whoever knows what is to be a hole. It reads nothing, so nobody's lease is needed.
"""

import errno
import os
import stat
from typing import Iterable, Iterator, NamedTuple, Optional, Tuple

from ..errors import OnProgress, error_path
from .extents import Extent, nonzero, own_extents
from .mounts import filesystem_of
from .status import special_file
from .syscalls import drop_lease, filesystem_at, has_lease, punch_only, take_lease

_ALONE = frozenset(["ext4", "ext3", "xfs", "btrfs", "tmpfs", "f2fs", "bcachefs", "zfs"])
"""Local filesystems: whoever writes to a file of theirs, by NFS too, has it open in this kernel."""

_CHUNK_BYTES = 4 << 20


class Dug(NamedTuple):
    """The result of one file: the bytes of data that are holes now, and why it was given up, or None."""

    holes: int
    why: Optional[str] = None


def dig(
    name: str,
    ranges: Optional[Iterable[Extent]] = None,
    *,
    directory: Optional[int] = None,
    size: Optional[int] = None,
    follow: bool = False,
    progress: OnProgress = None,
) -> Dug:
    """Make holes of the blocks of zeros in a file, by default in all of it.

    ``ranges``: ascending. Only whole blocks in them are read.
    ``directory``: the descriptor that ``name`` is relative to, if given.
    ``size``: a file of another size is left alone.
    ``follow``: follow a symlink.
    ``progress``: called with the bytes read since the last call.

    Raises OSError if the file cannot be opened, or its holes may not be changed; EBUSY if another process has it open.
    """
    fd = _open(name, directory, size, follow, os.O_RDWR | os.O_NOATIME)
    try:
        if filesystem_of(fd) not in _ALONE:
            raise OSError(errno.EOPNOTSUPP, "its filesystem cannot tell who else writes to it", name)
        try:
            take_lease(fd)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "somebody has it open", name) from None
        st = os.fstat(fd)  # as nobody can change it any more
        if not _keeps_privileges(fd, st):
            what = "it has a setuid or setgid bit, or capabilities, which punching may take away"
            raise OSError(errno.EPERM, what, name)
        holes, why = 0, None
        try:
            for offset, length in _data(fd, st, ranges):
                dug, why = _dig(fd, st, offset, length)
                holes += dug
                if why is not None:
                    break
                if progress is not None:
                    progress(length)
        finally:
            drop_lease(fd)
        return Dug(holes, why)
    finally:
        os.close(fd)


def measure(name: str, ranges: Iterable[Extent], *, directory: Optional[int] = None, size: Optional[int] = None) -> int:
    """Return the bytes of data in ranges of a file, in whole blocks. Nothing is read or changed.

    The parameters are those of :func:`dig`. Raises OSError.
    """
    fd = _open(name, directory, size, False, os.O_RDONLY)
    try:
        if filesystem_of(fd) not in _ALONE:
            return 0
        return sum(length for _, length in _data(fd, os.fstat(fd), ranges))
    finally:
        os.close(fd)


def punch(path: str, ranges: Iterable[Extent]) -> None:
    """Make holes of ranges of a file, whatever is in them. Its size stays.

    Raises OSError as :func:`sparsesync.api.mapping.punch`.
    """
    fd = _open(path, None, None, True, os.O_RDWR)
    try:
        with error_path(path):
            size, block = os.fstat(fd).st_size, filesystem_at(fd).f_frsize
            for offset, length in ranges:
                end = offset + length
                # The block in which the file ends is a hole only if all of it is punched.
                end = end if end < size else -(-size // block) * block
                if offset < end and not punch_only(fd, offset, end - offset):
                    raise OSError(errno.EOPNOTSUPP, "its filesystem cannot punch holes", path)
    finally:
        os.close(fd)


def _open(name: str, directory: Optional[int], size: Optional[int], follow: bool, flags: int) -> int:
    st = os.stat(name, dir_fd=directory, follow_symlinks=follow)
    if not stat.S_ISREG(st.st_mode):
        raise special_file(name)
    # Somebody else's lease would be waited for.
    flags |= os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    fd = os.open(name, flags, dir_fd=directory)
    now = os.fstat(fd)
    if not os.path.samestat(st, now) or (size is not None and now.st_size != size):
        os.close(fd)
        raise OSError(errno.ESTALE, "it was changed meanwhile", name)
    return fd


def _keeps_privileges(fd: int, st: os.stat_result) -> bool:
    """Return whether an open file has no privileges that a write would remove: capabilities(7)."""
    if st.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return False
    try:
        os.getxattr(fd, "security.capability")
    except OSError as error:
        return error.errno in (errno.ENODATA, errno.EOPNOTSUPP)
    return False


def _data(fd: int, st: os.stat_result, ranges: Optional[Iterable[Extent]]) -> Iterator[Extent]:
    """Yield the data in whole blocks of ranges of an open file, in pieces of at most 4 MiB.

    The last block of a file counts as whole, though the file ends within it.
    """
    block = filesystem_at(fd).f_frsize
    for offset, length in [(0, st.st_size)] if ranges is None else ranges:
        start, end = _whole(offset, offset + length, block, st.st_size)
        for position, count in own_extents(fd, start, end, exactly=True) if start < end else ():
            position, stop = _whole(position, position + count, block, st.st_size)
            while position < stop:
                piece = min(stop, position - position % _CHUNK_BYTES + _CHUNK_BYTES)
                yield position, piece - position
                position = piece


def _whole(start: int, end: int, block: int, size: int) -> Tuple[int, int]:
    return -(-start // block) * block, size if end >= size else end - end % block


def _dig(fd: int, st: os.stat_result, start: int, length: int) -> Tuple[int, Optional[str]]:
    """Make holes of the blocks of zeros in a piece of a leased file. Returns the fields of :class:`Dug`.

    ``st``: has the time that the file keeps.
    """
    block = filesystem_at(fd).f_frsize
    zeros = list(_between(nonzero(fd, start, length, block), start, start + length))
    holes = 0
    for offset, count in zeros:
        if not has_lease(fd):
            return holes, "somebody opened it meanwhile"
        try:
            if not punch_only(fd, offset, -(-count // block) * block):
                return holes, "its filesystem cannot punch holes"
        finally:
            os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
        holes += count
    return holes, None


def _between(parts: Iterable[Extent], start: int, end: int) -> Iterator[Extent]:
    for offset, length in parts:
        if offset > start:
            yield start, offset - start
        start = offset + length
    if start < end:
        yield start, end - start
