"""What has changed in a file since a clone of it was kept: found by where its data is, and nothing is read.

Two clones (FICLONE) are compared, one made some time ago and one made now, so both are quiet while the file itself may
be written to. Their maps are walked side by side::

    both have an extent, written, of known flags,
    at the same physical offset                        -> unchanged: the disk has these bytes once
    both have a hole, or reserved ranges               -> unchanged: both read as zeros
    anything else                                      -> changed

*Why that is safe.* Nothing is concluded from what was once: both maps are asked for now. If two files have the same
physical block at the same moment, a read of either gives the bytes of that block, so they are equal, whatever has
happened to either since: writes, dedupe, defragmentation, balance, a copy over it. It is enough that

* the physical offset tells where each byte is. XFS and btrfs say so of extents without other flags. A compressed extent
  (ENCODED) has one offset for all its bytes, an inline one is in the metadata, a delayed one is nowhere yet: changed.
  On btrfs an offset is of the one address space of all its devices. XFS has another device, the realtime one, with
  offsets of its own: a file on it is not compared, nor is one with DAX.
* what is in the page cache is on the disk. FIEMAP flushes first (FIEMAP_FLAG_SYNC), and nobody writes to the clones.
* both maps are of the same moment. They are not quite: balance or defragmentation could move an extent of the old clone
  away after it was looked up, and one of the new clone to where it was, before that is looked up. So the old clone is
  looked up again after the new one. Where it has moved, all is changed.
* the old clone still is what it was when it was kept. A shared block is not overwritten in place, on XFS and btrfs.
  Of a file without copy-on-write (nodatacow, a swap file) that is true of a shared block too, but it is not tried:
  btrfs clones none into a file with copy-on-write, XFS no swap file, and such a clone is not compared. That nobody has
  written to the old clone itself is for its keeper to see (sparsesync.tracking): it shows in its change time.

A clone of a file in another subvolume of btrfs is one as any other; that is where the tracking may be kept.
Dedupe gives an extent another place, and so makes a needless "changed", or an "unchanged" that is true.

On ext4 and others there are no clones, and on old kernels FIEMAP of a shared file takes minutes: then nothing is
known (:func:`changes` returns None), and digests decide, as for a file without a clone.

Who knows the changes from elsewhere, a dirty bitmap, asks for no clones (:func:`within`).

Offsets and lengths are bytes. Everything streams, with one answer of the kernel's for each file at a time.
"""

import contextlib
import os
from collections import deque
from typing import Deque, Iterable, Iterator, List, Optional, Tuple

from ..files.claims import SECTOR_BYTES, asks_fiemap
from ..files.extents import Extent, extents, nonzero
from ..files.fiemap import UNDERSTOOD, UNWRITTEN, Placed, placed
from ..files.flags import is_plainly_placed
from ..files.mounts import filesystem_of

Change = Tuple[int, int, bool]
"""(offset, length, whether there may be data now); what is no data is a hole."""

_KNOWN = frozenset(["xfs", "btrfs"])
"""The filesystems for which the argument above was made."""

_BLOCK_BYTES = 64 * 1024
"""The largest block of a filesystem."""

_LONGEST_BYTES = 16 << 20
"""Where data that was found by reading is cut, so that it still is in the page cache when it is read again."""

_AHEAD_CHANGES = 64
_AHEAD_BYTES = 256 * 1024
"""How much of how many changes is read ahead: 16 MiB at most. The kernel reads on in long ones by itself."""

_HOLE, _UNKNOWN = None, "unknown"

_UNCERTAIN_FLAG = 0x2
"""FIEMAP_EXTENT_UNKNOWN."""

_Piece = Tuple[int, object]
"""Where a part of a file ends, and its place: the physical offset less the offset, _HOLE or _UNKNOWN."""


def changes(new: int, old: int) -> Optional[Iterator[Change]]:
    """Return the ranges of the open file ``new`` that may differ from ``old``, ascending, or None if unknown.

    Both are clones that nobody writes to. What lies in no range is equal in both files, or a hole in both.

    Iterating raises OSError as FIEMAP does.
    """
    first, second = os.fstat(new), os.fstat(old)
    if first.st_dev != second.st_dev or filesystem_of(new) not in _KNOWN or not asks_fiemap(new):
        return None
    if not (is_plainly_placed(new) and is_plainly_placed(old)):
        return None
    return _joined(_walk(new, old, first.st_size, second.st_size))


def within(fd: int, ranges: Iterable[Extent], believed: bool) -> Iterator[Change]:
    """Yield ranges of an open file, of which somebody else says that they changed, as what they are now.

    ``ranges``: ascending, apart, and not beyond the end.
    ``believed``: whether the file's map is. If not, the ranges are read, and blocks of zeros are no data.

    Raises OSError as lseek(2) and pread(2).
    """
    for offset, length in ranges:
        position, end = offset, offset + length
        held = extents(fd, offset, end, "trust") if believed else nonzero(fd, offset, length, longest=_LONGEST_BYTES)
        for start, count in held:
            if start > position:
                yield position, start - position, False
            yield start, count, True
            position = start + count
        if position < end:
            yield position, end - position, False


def read_ahead(fd: int, changes: Iterable[Change]) -> Iterator[Change]:
    """Yield changes, and have the data of the next ones read from the disk meanwhile.

    They are small, and far from each other: a disk that is asked for one at a time mostly waits.
    """
    coming: Deque[Change] = deque()
    for change in changes:
        coming.append(change)
        offset, length, is_data = change
        if is_data and hasattr(os, "posix_fadvise"):
            with contextlib.suppress(OSError):  # whoever reads it tells
                os.posix_fadvise(fd, offset, min(length, _AHEAD_BYTES), os.POSIX_FADV_WILLNEED)
        if len(coming) > _AHEAD_CHANGES:
            yield coming.popleft()
    while coming:
        yield coming.popleft()


def _walk(new: int, old: int, size: int, old_size: int) -> Iterator[Change]:
    ends: List[Placed] = []
    if size != old_size:
        # The last block of the shorter one has bytes beyond its end, of which nobody knows.
        last = min(size, old_size) // _BLOCK_BYTES * _BLOCK_BYTES
        ends = [(last, 0, _BLOCK_BYTES, _UNCERTAIN_FLAG)]
    position = 0
    while position < size:
        if ends and position >= ends[0][0]:
            there, upto = ends, size  # beyond the end of the old one is a hole
            now, upto = placed(new, position, upto)
            again = there
        else:
            stop = ends[0][0] if ends else size
            there, upto = placed(old, position, stop)
            now, upto = placed(new, position, upto)
            again, _ = placed(old, position, upto)
        if list(pieces(there, position, upto)) != list(pieces(again, position, upto)):
            there = [(position, 0, upto - position, _UNCERTAIN_FLAG)]  # it has moved meanwhile
        for change in differences(there, now, position, upto):
            yield change
        position = upto


def differences(old: Iterable[Placed], new: Iterable[Placed], start: int, end: int) -> Iterator[Change]:
    """Yield where two lists of extents, ascending, do not tell for certain that a range of two files is equal."""
    olds, news = pieces(old, start, end), pieces(new, start, end)
    position = start
    old_end = new_end = start
    there = here = _HOLE  # type: object
    while position < end:
        if old_end == position:
            old_end, there = next(olds)
        if new_end == position:
            new_end, here = next(news)
        stop = min(old_end, new_end)
        if here != there or here is _UNKNOWN:
            yield position, stop - position, here is not _HOLE
        position = stop


def pieces(extents: Iterable[Placed], start: int, end: int) -> Iterator[_Piece]:
    """Yield what a list of extents tells of [start, end), without a gap. What it tells twice, or badly, is unknown."""
    position = start
    for offset, physical, length, flags in extents:
        stop = min(offset + length, end)
        if offset >= end:
            break
        if not length or (offset < position and position > start):  # who knows what else is wrong
            yield end, _UNKNOWN
            return
        if stop <= position:
            continue
        if offset > position:
            yield offset, _HOLE
        position = stop
        if flags & ~UNDERSTOOD or (offset | physical | length) % SECTOR_BYTES:
            yield stop, _UNKNOWN
        elif flags & UNWRITTEN:
            yield stop, _HOLE
        else:
            yield stop, (physical - offset if physical else _UNKNOWN)
    if position < end:
        yield end, _HOLE


def _joined(changes: Iterator[Change]) -> Iterator[Change]:
    """Yield changes, with neighbours of one kind as one."""
    start = end = 0
    kind = False
    for offset, length, data in changes:
        if offset != end or data is not kind:
            if end > start:
                yield start, end - start, kind
            start, kind = offset, data
        end = offset + length
    if end > start:
        yield start, end - start, kind
