"""What a filesystem says of a file's extents by FIEMAP (the kernel's Documentation/filesystems/fiemap.rst).

lseek(2) knows data and hole. FIEMAP also knows what is *reserved*: preallocated by fallocate(2) and never written, so
that it reads as zeros. lseek(2) calls such a range data as soon as any of it is in the page cache, read or
written; FIEMAP goes on calling it unwritten until what was written to it is on the disk.

So FIEMAP alone proves nothing of a file that was just written: :mod:`extents` asks lseek(2) as well, and
where the two disagree, :func:`flush` settles it.

All offsets and lengths are bytes. Every function raises OSError; EOPNOTSUPP or ENOTTY if the filesystem has no FIEMAP.
"""

import fcntl
import os
import struct
from typing import Callable, Iterator, List, Optional, Tuple

BATCH_EXTENTS = 512
"""The most extents in one answer."""

_FIEMAP = 0xC020660B
"""FS_IOC_FIEMAP, _IOWR('f', 11, struct fiemap): linux/fs.h."""

_REQUEST = struct.Struct("=QQIIII")
"""struct fiemap, linux/fiemap.h: start, length, flags, number of extents mapped, room for extents, reserved."""

_EXTENT = struct.Struct("=Q8xQ16xI12x")
"""struct fiemap_extent: logical offset, (physical), length, (reserved), flags, (reserved)."""

_PLACED = struct.Struct("=QQQ16xI12x")
"""struct fiemap_extent, with the physical offset."""

_FLAG_SYNC = 0x1
"""FIEMAP_FLAG_SYNC: have what was written on the disk first."""

_LAST = 0x1
UNWRITTEN = 0x800
SHARED = 0x2000
UNDERSTOOD = _LAST | UNWRITTEN | SHARED
"""The flags with which an extent's physical offset tells where each of its bytes is."""
MASK = UNWRITTEN | 0x2 | 0x4 | 0x8 | 0x100 | 0x200 | 0x400
"""FIEMAP_EXTENT_LAST, _UNWRITTEN; and _UNKNOWN, _DELALLOC, _ENCODED, _NOT_ALIGNED, _DATA_INLINE, _DATA_TAIL, which
all mean that there may be data."""

_SYNC = 0x1 | 0x2 | 0x4
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER: sync_file_range(2)."""

Record = Tuple[int, int, int]
"""(offset, length, flags)."""

Placed = Tuple[int, int, int, int]
"""(offset, physical offset, length, flags)."""


def records(fd: int, start: int, end: int, most: int = BATCH_EXTENTS) -> Tuple[Iterator[Record], int]:
    """Return the first extents in a range by FIEMAP, ascending, and the offset to continue at.

    Nothing is flushed. The first and the last may extend beyond the range. The offset is ``end`` if there are no more.

    ``most``: the largest number of extents.
    """
    found, following = _ask(fd, start, end, most, 0)
    return _EXTENT.iter_unpack(found), following


def placed(fd: int, start: int, end: int, most: int = BATCH_EXTENTS) -> Tuple[List[Placed], int]:
    """Return the first extents in a range, as :func:`records`, with the place of each. The file is flushed first."""
    found, following = _ask(fd, start, end, most, _FLAG_SYNC)
    return list(_PLACED.iter_unpack(found)), following


def _ask(fd: int, start: int, end: int, most: int, flags: int) -> Tuple[memoryview, int]:
    """Return the kernel's records of at most so many extents in a range, and the offset to continue at."""
    answer = bytearray(_REQUEST.size + most * _EXTENT.size)
    _REQUEST.pack_into(answer, 0, start, end - start, flags, 0, most, 0)
    fcntl.ioctl(fd, _FIEMAP, answer, True)
    count = min(_REQUEST.unpack_from(answer)[3], most)
    following = end
    if count == most:
        offset, length, last = _EXTENT.unpack_from(answer, len(answer) - _EXTENT.size)
        if not last & _LAST and start < offset + length < end:
            following = offset + length
    return memoryview(answer)[_REQUEST.size : _REQUEST.size + count * _EXTENT.size], following


def is_reserved(flags: int) -> bool:
    """Return whether an extent with these flags is preallocated and was certainly never written."""
    return flags & MASK == UNWRITTEN


def reserved(fd: int, start: int, end: int) -> Iterator[Tuple[int, int]]:
    """Yield the reserved parts of a range, ascending, as (offset, length). Nothing is flushed."""
    while start < end:
        found, following = records(fd, start, end)
        for offset, length, flags in found:
            first, stop = max(offset, start), min(offset + length, following)
            if is_reserved(flags) and first < stop:
                yield first, stop - first
        start = following


_sync_file_range: Optional[Callable[[int, int, int], int]] = None


def flush(fd: int, offset: int, length: int) -> None:
    """Flush a range to the disk and wait, so that FIEMAP reports what was written."""
    global _sync_file_range
    if _sync_file_range is None:
        _sync_file_range = _load_sync_file_range()
    error = _sync_file_range(fd, offset, length)
    if error:
        raise OSError(error, os.strerror(error))


def _sync_all(fd: int, offset: int, length: int) -> int:
    os.fdatasync(fd)
    return 0


def _load_sync_file_range() -> Callable[[int, int, int], int]:
    # ctypes takes as long to import as all of the engine, and few files are flushed.
    import ctypes

    function = getattr(ctypes.CDLL(None, use_errno=True), "sync_file_range", None)
    if function is None:
        return _sync_all
    function.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]

    def sync_file_range(fd: int, offset: int, length: int) -> int:
        return 0 if function(fd, offset, length, _SYNC) == 0 else ctypes.get_errno()

    return sync_file_range
