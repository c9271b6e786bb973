"""What the kernel can do with an open file, in small functions: the calls a copy is made of.

:func:`clone`, :func:`copy_range`, :func:`read_into`, :func:`write_all`, :func:`punch` and :func:`preallocate` change or
read content. :func:`keeps_holes` tries what a filesystem makes of a hole. :func:`flush_directory` and
:func:`flush_filesystem` have it on the disk. :func:`take_lease` keeps all others from opening a file. A call that a
filesystem does not offer is tried once per pair of filesystems, and the refusal is remembered for the life of the
process.

Sizes and offsets are bytes. Failures are OSError.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import warnings
from typing import Any, Callable, Optional, Set, Tuple, Union

from ..errors import NoSpaceError
from .claims import allocated, file_size, is_anybodys, knows_holes, may_compress
from .extents import has_data, own_extents
from .fiemap import is_reserved, records, reserved
from .mounts import filesystem_of, noted

FICLONE = 0x40049409
"""_IOW(0x94, 9, int): ioctl_ficlone(2)."""

_KEEP_SIZE = 0x01
_PUNCH = _KEEP_SIZE | 0x02
"""FALLOC_FL_KEEP_SIZE, and with it FALLOC_FL_PUNCH_HOLE: fallocate(2)."""

_ZEROS = bytes(256 * 1024)

_SETSIG = 10
"""F_SETSIG: fcntl(2), linux/fcntl.h."""

UNSUPPORTED = frozenset([errno.EOPNOTSUPP, errno.EXDEV, errno.ENOSYS, errno.ENOTTY])
"""What a call says that the filesystem does not offer, or not between these two."""

_CANNOT_SAY = frozenset([errno.EINVAL, errno.EIO, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM])
"""What statvfs(3) says of a mount, mostly of FUSE, that does not count its blocks."""

NO_SIZE = frozenset([errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESPIPE, errno.EINVAL, errno.EIO])
"""What a mount says that cannot set a size in advance (rclone without a cache), or write beyond the end."""

NO_ORDER = NO_SIZE - {errno.EIO}
"""What a mount says to a write that is not at the end; EIO is what a disk says, too."""

_BLOCK_BYTES = 4096
_SAMPLED_EXTENTS = 32
_TRIAL_BYTES = 64 * 1024

_refused: Set[Tuple[str, int, str, int, str]] = set()


def _once(call: str, source: int, target: int, attempt: Callable[[], Any], *stats: Optional[os.stat_result]) -> Any:
    """Return the result of ``attempt``, or None if these filesystems refuse the call, now or earlier.

    ``stats``: as ``of`` and ``to`` of :func:`clone`.
    """
    of, to = stats or (None, None)
    # The number alone may soon be that of another filesystem: of a loop device, or of a disk that was unplugged.
    of = os.fstat(source) if of is None else of
    to = os.fstat(target) if to is None else to
    key = call, of.st_dev, filesystem_of(source, of), to.st_dev, filesystem_of(target, to)
    if key in _refused:
        return None
    try:
        return attempt()
    except OSError as error:
        if error.errno in UNSUPPORTED:
            _refused.add(key)
            return None
        raise


def share(source: int, target: int) -> int:
    """Make the open file ``target`` share all of ``source``'s extents. Raises OSError as ioctl_ficlone(2)."""
    return fcntl.ioctl(target, FICLONE, source)


def clone(source: int, target: int, of: Optional[os.stat_result] = None, to: Optional[os.stat_result] = None) -> bool:
    """Make ``target`` share all of ``source``'s extents (FICLONE), and return whether that was possible.

    ``of``, ``to``: the stats of ``source``, and of ``target`` or another file of the same filesystem, if known.
    """
    try:
        return _once("clone", source, target, lambda: share(source, target), of, to) is not None
    except OSError as error:
        # Of this pair of files only: one is nodatacow, a swap file, immutable: ioctl_ficlone(2)
        if error.errno in (errno.EINVAL, errno.ETXTBSY, errno.EPERM):
            return False
        raise


def copy_range(source: int, target: int, offset: int, length: int) -> Optional[int]:
    """Call copy_file_range(2) with the same offset in both files. Returns the bytes copied, or None if unsupported.

    It is for regular files only.
    """
    if not hasattr(os, "copy_file_range") or not stat.S_ISREG(os.fstat(source).st_mode):
        return None
    count: Optional[int] = _once(
        "copy_file_range", source, target, lambda: os.copy_file_range(source, target, length, offset, offset)
    )
    return count


if hasattr(os, "preadv"):

    def read_into(fd: int, view: memoryview, offset: int) -> int:
        """Read at ``offset`` into ``view``, and return the bytes read; 0 at the end of the file."""
        return os.preadv(fd, [view], offset)

else:  # Python 3.6

    def read_into(fd: int, view: memoryview, offset: int) -> int:
        """Read at ``offset`` into ``view``; the bytes read, 0 at the end of the file."""
        data = os.pread(fd, len(view), offset)
        view[: len(data)] = data
        return len(data)


def read_full(fd: int, view: memoryview, offset: int) -> int:
    """Read at ``offset`` until ``view`` is full or the file ends, and return the bytes read."""
    done = read_into(fd, view, offset)
    while 0 < done < len(view):
        count = read_into(fd, view[done:], offset + done)
        if not count:
            break
        done += count
    return done


def write_all(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written


_fallocate: Optional[Callable[..., int]] = None


def _load_fallocate() -> Callable[..., int]:
    # ctypes costs as much to import as all of the engine, and only updates in place punch.
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, "fallocate64", None) or libc.fallocate
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

    def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
        return 0 if function(fd, mode, offset, length) == 0 else ctypes.get_errno()

    return fallocate


def punch(fd: int, offset: int, length: int) -> None:
    """Make a range of an open file a hole, without changing the file's size.

    Where the filesystem cannot punch, or only says that it has, data in the range is overwritten with zeros.
    """
    if length <= 0 or (_punches(fd, offset, length) and punch_only(fd, offset, length)):
        return
    zeros = memoryview(_ZEROS)
    data = iter([(offset, length)])
    if stat.S_ISREG(os.fstat(fd).st_mode):
        data = own_extents(fd, offset, min(offset + length, file_size(fd)))
    for start, count in data:
        while count:
            size = min(count, len(zeros))
            write_all(fd, zeros[:size], start)
            start += size
            count -= size


def _punches(fd: int, offset: int, length: int) -> bool:
    """Return whether what an open file's filesystem says that it has punched is zeros then.

    Where nothing is known of the filesystem, that is tried in the range, which has to become zeros whatever comes: once
    as long as it is mounted.
    """
    if not is_anybodys(fd) or not stat.S_ISREG(os.fstat(fd).st_mode):
        return True
    tried = os.fstat(fd).st_dev, "punches"
    size = min(length, file_size(fd) - offset, _TRIAL_BYTES)
    if tried not in noted() and size > 2:
        write_all(fd, memoryview(b"\xff" * size), offset)
        found = bytearray(size)
        if punch_only(fd, offset + 1, size - 2):
            with contextlib.suppress(OSError):  # what cannot be read back is not believed
                read_full(fd, memoryview(found), offset)
            if found == b"\xff" + bytes(size - 2) + b"\xff":
                noted().add(tried)
    return tried in noted()


def punch_only(fd: int, offset: int, length: int) -> bool:
    """Make a range of an open file a hole, keeping its size. Returns False if the filesystem does not support that."""
    return _allocates("punch", fd, _PUNCH, offset, length)


def release(fd: int) -> None:
    """Punch the ranges that an open file, a clone, has reserved, since btrfs clones reservations too.

    A clone that looks sparse, and whose first extents are not reserved, is not searched further: that would take a
    fifth of the clone's time. A reservation that is left shares the source's.
    """
    st = os.fstat(fd)
    if not allocated(st) or not knows_holes(fd, st):
        return
    try:
        if allocated(st) < st.st_size:
            first = records(fd, 0, st.st_size, _SAMPLED_EXTENTS)[0]
            if not any(is_reserved(flags) for _, _, flags in first):
                return
        for offset, length in reserved(fd, 0, st.st_size):
            if not has_data(fd, offset, length):  # a hole is one for both
                punch(fd, offset, length)
    except OSError as error:
        if error.errno not in UNSUPPORTED:  # no FIEMAP, and so no reservations that can be seen
            raise


def resize(fd: int, size: int, trusted: bool = False) -> None:
    """Set the size of an open file. Raises OSError, with EOPNOTSUPP also if the filesystem only says that it did.

    ``trusted``: the filesystem is known to be none that does so.
    """
    os.ftruncate(fd, size)
    if not trusted and os.fstat(fd).st_size != size and is_anybodys(fd):
        raise OSError(errno.EOPNOTSUPP, "its filesystem does not set the size of a file")


def cut(fd: int, end: int, size: int) -> None:
    """Make all from ``end`` to ``size`` of an open file a hole by truncating, or by punching where that is refused."""
    try:
        resize(fd, end)
    except OSError:
        if not is_anybodys(fd):
            raise
        return punch(fd, end, size - end)
    try:
        resize(fd, size)
    except OSError:
        if not is_anybodys(fd) or end >= size:
            raise
        write_all(fd, memoryview(b"\0"), size - 1)


def preallocate(fd: int, offset: int, length: int) -> bool:
    """Reserve a range of an open file, keeping its size. Returns False if the filesystem does not support that."""
    return _allocates("preallocate", fd, _KEEP_SIZE, offset, length)


def _allocates(call: str, fd: int, mode: int, offset: int, length: int) -> bool:
    """fallocate(2) of a range. False: the filesystem does not offer it in this mode, which ``call`` names."""
    global _fallocate
    if _fallocate is None:
        _fallocate = _load_fallocate()
    fallocate = _fallocate

    def attempt() -> bool:
        code = errno.EINTR
        while code == errno.EINTR:
            code = fallocate(fd, mode, offset, length)
        if code:
            raise OSError(code, os.strerror(code))
        return True

    return _once(call, fd, fd, attempt) is not None


def take_lease(fd: int) -> None:
    """Make any other process that opens or truncates an open file wait for the lease's end: fcntl(2), F_SETLEASE.

    The kernel grants it only if nobody has the file open by another descriptor, or mapped. It ends with the
    descriptor, by :func:`drop_lease`, or a while after somebody asked for the file (proc_sys_fs(5),
    lease-break-time: 45 s). Raises BlockingIOError if somebody has the file open, OSError where there are no leases, or
    none for us.
    """
    # Whoever opens it before the lease is given back makes a signal. It must be none that ends us.
    fcntl.fcntl(fd, _SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)


def has_lease(fd: int) -> bool:
    """Return whether no process has tried to open an open file since its lease was taken."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK


def drop_lease(fd: int) -> None:
    """Release the lease of an open file."""
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def is_ours_alone(st: os.stat_result) -> bool:
    """Return whether only root and our own user may write to a file with this stat."""
    return st.st_uid in (0, os.geteuid()) and not st.st_mode & 0o022


def flush_directory(directory: int, path: str) -> None:
    """Flush the names in a directory, open for reading, to the disk. ``path``: what has just got its name there.

    Where the filesystem cannot flush a directory, all of the filesystem is flushed, and a warning says so. Raises
    OSError as fsync(2).
    """
    try:
        os.fsync(directory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        warnings.warn(
            "{}: its filesystem does not flush directories (fsync): a power cut may undo the name".format(path),
            RuntimeWarning,
            stacklevel=2,
        )
        flush_filesystem(directory)


def flush_filesystem(fd: int) -> None:
    """Flush all of an open file's filesystem to the disk: syncfs(2).

    Raises OSError if something could not be written, where the kernel reports that (Linux 5.8).
    """
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, AttributeError):
        os.sync()
        return
    if syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def filesystem_at(place: Union[int, str]) -> os.statvfs_result:
    """Return what statvfs(3) says of the filesystem of an open file, or of a path.

    A mount that cannot say, by an error, by blocks of no size or by a number that is all ones, is one of 0 bytes in all
    in blocks of 4 KiB.

    Raises OSError if the path cannot be reached.
    """
    flags = 0
    try:
        found = os.statvfs(place)
        if found.f_frsize and found.f_bsize and found.f_bfree >= 0 and found.f_bavail >= 0:
            return found
        flags = found.f_flag
    except OSError as error:
        if error.errno not in _CANNOT_SAY:
            raise
    return os.statvfs_result((_BLOCK_BYTES, _BLOCK_BYTES, 0, 0, 0, 0, 0, 0, flags, 255))


def keeps_holes(fd: int, size: int) -> bool:
    """Return whether the filesystem of a new, empty file keeps holes.

    Unless it is known to, that is tried: the file is made longer, by up to ``size``.
    """
    if knows_holes(fd):
        return True
    # FAT and its like fill the gap when a file is made longer. Nothing is made shorter again: a file that was,
    # ext4 (auto_da_alloc, ext4(5)) and XFS take for one being replaced, and write it out on close.
    gap = min(size, 1 << 20)
    before = filesystem_at(fd)
    resize(fd, gap)
    if allocated(os.fstat(fd)) < gap:
        return True
    # Some make st_blocks up from st_size (sshfs). Then it is the free space that tells.
    taken = (before.f_bfree - filesystem_at(fd).f_bfree) * before.f_frsize
    return before.f_blocks > 0 and taken < gap // 2


def free_space(filesystem: os.statvfs_result) -> int:
    """Return the bytes that this user may still allocate on a filesystem."""
    return (filesystem.f_bfree if os.geteuid() == 0 else filesystem.f_bavail) * filesystem.f_frsize


def check_room(fd: int, needed: int, path: str) -> None:
    """Raise NoSpaceError if ``needed`` bytes do not fit on the filesystem of an open file.

    Nothing is raised where free space is no verdict: a filesystem of 0 bytes in all, as some in memory or on a server
    are, or one that may compress. There the writes fail instead.

    ``path``: the file's name in messages.
    """
    filesystem = filesystem_at(fd)
    free = free_space(filesystem)
    if needed > free and filesystem.f_blocks and not may_compress(fd):
        raise NoSpaceError(needed, free, path)
