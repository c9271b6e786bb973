"""Where the data of a file is.

A sparse file is a list of data extents with holes between them. Where its filesystem is believed (:mod:`claims`), a map
tells them:

* lseek(2) with SEEK_DATA and SEEK_HOLE walks from one data extent to the next without reading anything. It sees data
  that is written but not yet flushed.
* FIEMAP tells what is *reserved*, preallocated and never written (:mod:`fiemap`). SEEK_DATA calls that data as soon as
  it is in the page cache. It is a hole all the same, for who copies: it reads as zeros.

Where it is not believed, the file is read, and blocks of zeros are the holes (:func:`nonzero`).

:func:`extents` gives the data by the map or by reading. Where FIEMAP helps with the map (ext4, XFS, btrfs, overlay)::

    for each record of FIEMAP, up to 512 by one call:
        written, delayed, or uncertain    -> data
        reserved, or no record at all     -> one lseek: is there data?  no -> a hole, both say so
            they disagree (just written, or cached): flush that range, and ask FIEMAP again what is reserved;
            where a flush does not settle it (btrfs, overlay), read what is data for lseek

The only answer that means "no data from here on" is ENXIO. Any other error, an answer that goes back or makes no
progress, an offset beyond the end: the rest counts as data, so that no walk can hang and no byte is passed over.

Everything streams: a file may have millions of extents, and none of these
functions keeps more than a batch. All offsets and lengths are bytes. The functions
move the descriptor's file offset, so use positioned reads beside them.
"""

import errno
import os
import stat
from typing import Any, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from . import fiemap
from .claims import ZERO_BLOCK_BYTES, asks_fiemap, believes, cache_hides, file_size, knows_holes, looks_sparse

Extent = Tuple[int, int]

Layer = Tuple[int, int, bool]
"""(offset, length, whether it is data); what is not data is reserved."""


class Segment(NamedTuple):
    """A part of a file: ``offset`` and ``length`` in bytes, whether it is ``data``, and whether it is ``reserved``.

    If it is neither, it is a hole that takes no room.
    """

    offset: int
    length: int
    data: bool
    reserved: bool

    def asdict(self) -> Dict[str, Any]:
        """Return the fields by name, for JSON."""
        return self._asdict()


_READ_BYTES = 1 << 20
_CHUNK_BYTES = 256 * 1024

_ZEROS = bytes(_CHUNK_BYTES)


def is_sparse(fd: int, holes: str = "auto") -> bool:
    """Return whether the open file has a hole. A reserved range is one.

    If the map is not believed, the file is read, but only if ``st_blocks`` indicate a hole, or ``holes`` is "read".

    ``holes``: as for :func:`believes`, which also documents the exceptions.
    """
    st = os.fstat(fd)
    believed = believes(fd, holes, st)
    if not believed and holes != "read" and stat.S_ISREG(st.st_mode) and not looks_sparse(st):
        return False
    size, end = file_size(fd, st), 0
    for offset, length in extents(fd, 0, size, "trust" if believed else "read"):
        if offset > end:
            return True
        end = offset + length
    return end < size


def extents(
    fd: int, start: int = 0, end: Optional[int] = None, holes: str = "auto", st: Optional[os.stat_result] = None
) -> Iterator[Extent]:
    """Yield the data extents of an open file between two offsets, ascending, as (offset, length).

    Extents are cut to [start, end). The end of the file is read once: appended data is not mapped, and a file that
    shrinks is mapped as far as it goes. A reserved range is no data, even if it is cached.

    ``holes``: "trust" believes the filesystem's map, "read" looks for blocks of zeros instead, "check" and "auto"
    decide as :func:`believes`.
    ``st``: the file's stat, if it was just taken.

    Raises ValueError for an unknown ``holes``, OSError as :func:`believes` and, if the file is read, as
    :func:`nonzero`.
    """
    st = os.fstat(fd) if st is None else st
    size = file_size(fd, st)
    end = size if end is None else min(end, size)
    if start >= end:
        return iter(())
    if not believes(fd, holes, st):
        return nonzero(fd, start, end - start)
    return mapped(fd, start, end, st)


def mapped(fd: int, start: int, end: int, st: os.stat_result) -> Iterator[Extent]:
    """Yield the data extents of an open file whose map is believed (:func:`believes`), as :func:`extents`.

    ``end``: at most the file's size.
    ``st``: the file's stat.
    """
    return _mapped(fd, start, end) if asks_fiemap(fd, st) else _sought(fd, start, end)


def layers(fd: int, start: int = 0, end: Optional[int] = None, holes: str = "auto") -> Iterator[Layer]:
    """Yield data and reserved ranges between two offsets of an open file, ascending. All else is a hole.

    Data is as :func:`extents` has it. Reserved is what FIEMAP calls unwritten, where a filesystem has FIEMAP.
    """
    size = file_size(fd)
    end = size if end is None else min(end, size)
    unwritten: List[Extent] = []
    data = iter(())  # type: Iterator[Extent]
    if start < end:
        data = _mapped(fd, start, end, unwritten) if believes(fd, holes) else nonzero(fd, start, end - start)
    position = start
    for offset, length in data:
        if unwritten:
            for part in _cut(unwritten, position, offset):
                yield part
        if length:
            yield offset, length, True
        position = offset + length
    for part in _cut(unwritten, position, end):
        yield part


def segments(size: int, layers: Iterable[Layer]) -> Iterator[Tuple[int, int, bool, bool]]:
    """Yield the fields of each :class:`Segment` of a file, from start to end without a gap."""
    end = 0
    for offset, length, data in layers:
        if offset > end:
            yield end, offset - end, False, False
        yield offset, length, data, not data
        end = offset + length
    if end < size:
        yield end, size - end, False, False


def _cut(ranges: List[Extent], start: int, end: int) -> Iterator[Layer]:
    """Take what lies below ``end`` from ascending reserved ranges, and yield what of it lies in [start, end)."""
    while ranges and ranges[0][0] < end:
        offset, length = ranges.pop(0)
        first, stop = max(offset, start), min(offset + length, end)
        if first < stop:
            yield first, stop - first, False
        if offset + length > end:
            ranges.insert(0, (end, offset + length - end))


def own_extents(fd: int, start: int, end: int, exactly: bool = False) -> Iterator[Extent]:
    """Yield the data in a range of an open file that is being written, where a hole may be left as it is.

    As :func:`extents`, but a sample of the holes is not enough to believe the map.

    ``exactly``: False lets reserved and cached ranges count as data.
    """
    if not knows_holes(fd):
        return nonzero(fd, start, end - start)
    return extents(fd, start, end, "trust") if exactly else _sought(fd, start, end)


def has_data(fd: int, offset: int, length: int) -> bool:
    """Return whether there may be data in a range of an open file that is being written. Reads nothing."""
    st = os.fstat(fd)
    if not knows_holes(fd, st):
        return length > 0
    end = min(offset + length, file_size(fd, st))
    return next(_sought(fd, offset, end, reads=False), None) is not None


def _sought(fd: int, start: int, end: int, reads: bool = True) -> Iterator[Extent]:
    """Yield the data in a range by lseek(2) alone. Where that fails, the file is read, or all counts as data."""
    lseek, seek_data, seek_hole = os.lseek, os.SEEK_DATA, os.SEEK_HOLE
    position = start
    try:
        while position < end:
            data = lseek(fd, position, seek_data)
            if end <= data < file_size(fd):  # behind the range
                return
            stop = lseek(fd, data, seek_hole)
            if data < position or stop <= data or data >= end:
                break
            yield data, (stop if stop < end else end) - data
            position = stop
        else:
            return
    except OSError as error:
        if error.errno == errno.ENXIO and _has_no_data(fd, position):
            return
    for extent in nonzero(fd, position, end - position) if reads else [(position, end - position)]:
        yield extent


def _has_no_data(fd: int, offset: int) -> bool:
    """Whether the filesystem says that there is no data from an offset on."""
    try:
        os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    return False


def _mapped(fd: int, start: int, end: int, unwritten: Optional[List[Extent]] = None) -> Iterator[Extent]:
    """Yield the data in a range by FIEMAP and lseek(2) together.

    ``unwritten``: reserved ranges are added to it, before an extent that lies behind them is yielded. An extent of
    length 0 means that there are some, so that a caller who empties the list keeps it short.
    """
    lseek, seek_data, unwritten_flag, mask = os.lseek, os.SEEK_DATA, fiemap.UNWRITTEN, fiemap.MASK
    # Data is what lies in [run, stop), not yet yielded; run is -1 if there is none. All before it is decided.
    run, stop, asked = -1, start, start
    while stop < end:
        found = iter(())  # type: Iterator[fiemap.Record]
        before = asked
        try:
            if asked < end:
                found, asked = fiemap.records(fd, asked, end)
        except OSError:
            run, stop = yield from _join(run, stop, _sought(fd, stop, end))
            break
        if before == end:
            found = iter([(end, 0, 0)])  # so that the gap before the end is looked at as all others
        for offset, length, flags in found:
            if flags & mask == unwritten_flag:  # as is_reserved(), which is called too often here
                if unwritten is not None:
                    _append(unwritten, offset, length)
                continue
            if offset > stop:
                try:
                    data = lseek(fd, stop, seek_data)
                except OSError as error:
                    data = stop
                    if error.errno == errno.ENXIO:  # no data from here on
                        if offset >= end or offset >= file_size(fd):  # the end, or it shrank
                            end = stop
                            break
                        data = offset
                if data < offset:
                    run, stop = yield from _join(run, stop, _disputed(fd, stop, min(offset, end), asked))
                if offset > stop:
                    if run >= 0:
                        yield run, stop - run
                    run = offset
            elif run < 0:
                run = stop
            if offset + length > stop:
                stop = offset + length
        if unwritten:
            if run < 0:
                yield stop, 0
            elif unwritten[-1][0] >= stop:
                yield run, stop - run
                run = -1
    if run >= 0 and min(stop, end) > run:
        yield run, min(stop, end) - run


def _join(run: int, stop: int, pieces: Iterable[Extent]) -> Generator[Extent, None, Tuple[int, int]]:
    """Go on with the run of :func:`_mapped` over more data: yield what is complete, return what is not."""
    for offset, length in pieces:
        if run >= 0 and offset > stop:
            yield run, stop - run
            run = -1
        if run < 0:
            run = offset
        stop = offset + length
    return run, stop


def _append(ranges: List[Extent], offset: int, length: int) -> None:
    if ranges and sum(ranges[-1]) == offset:
        offset, length = ranges[-1][0], ranges.pop()[1] + length
    ranges.append((offset, length))


def _disputed(fd: int, start: int, end: int, flush_to: int) -> Iterator[Extent]:
    """Yield the data in a range that has none by FIEMAP, and has some by lseek(2).

    Such a range was written and is not yet on the disk, or was read and is cached. A range that is still reserved after
    a flush was never written. All up to ``flush_to`` is flushed together, since more such ranges are likely. What a
    flush does not settle is read. SEEK_HOLE is not used: each call walks through all that is cached.
    """
    position = start
    if cache_hides(fd) and _flushes(fd, start, max(end, flush_to) - start):
        asked = start
        try:
            while asked < end:
                found, asked = fiemap.records(fd, asked, end)
                for offset, length, flags in found:
                    offset, stop = max(offset, position), min(offset + length, end)
                    if offset < stop:
                        for extent in _read(fd, position, offset):
                            yield extent
                        if not fiemap.is_reserved(flags):
                            yield offset, stop - offset
                        position = stop
        except OSError:
            pass  # then what is left of it is read
    for extent in _read(fd, position, end):
        yield extent


def _flushes(fd: int, offset: int, length: int) -> bool:
    try:
        fiemap.flush(fd, offset, length)
    except OSError:
        return False  # so it is read
    return True


def _read(fd: int, start: int, end: int) -> Iterator[Extent]:
    """Yield the blocks in a range that are data by SEEK_DATA and are not zeros."""
    while start < end:
        try:
            start = max(start, os.lseek(fd, start, os.SEEK_DATA))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
        if start < end:
            count = min(_READ_BYTES, end - start)
            for extent in nonzero(fd, start, count):
                yield extent
            start += count


def nonzero(
    fd: int, offset: int, length: int, block: int = ZERO_BLOCK_BYTES, longest: Optional[int] = None
) -> Iterator[Extent]:
    """Yield the parts of a range that are not zeros, in whole blocks, found by reading.

    Blocks are counted from the start of the file. Neighbouring parts are merged. Ends early if the file was truncated.

    ``longest``: about the largest part, in bytes, so that a second reading finds it in the page cache.

    Raises OSError as pread(2), and if there is less to read than the size says.
    """
    end = offset + length
    run_start = run_end = offset
    while offset < end:
        data = os.pread(fd, min(_CHUNK_BYTES - offset % block, end - offset), offset)
        if not data:
            if file_size(fd) > offset:
                raise OSError(errno.EIO, "the file ends before its size says")
            break
        if data != _ZEROS[: len(data)]:
            at = 0
            while at < len(data):
                stop = min(at + block - (offset + at) % block, len(data))
                if data[at:stop] != _ZEROS[: stop - at]:
                    if offset + at != run_end:
                        if run_end > run_start:
                            yield run_start, run_end - run_start
                        run_start = offset + at
                    run_end = offset + stop
                at = stop
        offset += len(data)
        if longest is not None and run_end - run_start >= longest:
            yield run_start, run_end - run_start
            run_start = run_end
    if run_end > run_start:
        yield run_start, run_end - run_start
