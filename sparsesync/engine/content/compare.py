"""Whether two files are equal, and if not, where they part.

A hole reads as zeros, so :func:`first_difference` looks only where there is data: it walks the extents of
both files in step (:func:`_segments`; a file whose map is not believed is all data), compares where both
have data, wants zeros where one has, and passes over what is a hole in both. A hole in one file equals
data of zeros in the other. A file that does not know its size (:func:`files.claims.is_view`) has no
extents to walk, and is read on beside the other until one of them ends.

Both are read side by side into two buffers that are used again and again, so memory stays the same whatever the size of
the files. Of very many small extents a second process compares a part (:mod:`hands.range_helper`).

Buffers are compared with ``bytearray.startswith(memoryview)``, which is memcmp in
CPython. ``memoryview == memoryview`` unpacks every byte and is some 70 times slower,
and slices of bytes or bytearrays are copies.
"""

from itertools import islice, takewhile
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from ..errors import OnProgress, TruncatedError
from ..files.claims import believes, file_size, is_view
from ..files.extents import Extent, extents
from ..files.syscalls import read_full
from .hands.range_helper import FEW_RANGES, RangeHelper

BUFFER_BYTES = 256 * 1024
"""How much of each file is held at a time; measured: with more, the two fall out of the CPU's cache."""

_PROGRESS_BYTES = 1 << 20

Segment = Tuple[int, int, bool, bool]
"""(offset, length, whether A has data there, whether B has)."""


class Tally:
    """The bytes of one side of a comparison that were read, and those that were believed to be holes."""

    def __init__(self, read: int = 0, believed: int = 0) -> None:
        self.read = read
        self.believed = believed

    def __repr__(self) -> str:
        return "Tally(read={}, believed={})".format(self.read, self.believed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tally) and vars(self) == vars(other)

    def asdict(self) -> Dict[str, int]:
        """Return the fields by name, for JSON."""
        return dict(vars(self))


def first_difference(
    a_fd: int,
    b_fd: int,
    full: bool = False,
    *,
    holes: str = "auto",
    tallies: Optional[Tuple[Tally, Tally]] = None,
    progress: OnProgress = None,
    a_path: Optional[str] = None,
    b_path: Optional[str] = None,
) -> Optional[int]:
    """Return the offset of the first byte in which two open files differ, or None if they are equal.

    Only data is read. If one file is the beginning of the other, they differ at the end of the shorter.

    ``full``: read the holes too.
    ``holes``: whether the files' maps are believed (:func:`files.claims.believes`). All of a file is read if its map is
    not.
    ``tallies``: of A and of B; the bytes read and believed are added.
    ``progress``: called with the bytes compared since the last call.
    ``a_path``, ``b_path``: the names in messages.

    Raises TruncatedError if a file shrinks meanwhile, OSError as lseek(2) and pread(2).
    """
    tallies = tallies or (Tally(), Tally())
    if _is_view(a_fd, a_path) or _is_view(b_fd, b_path):
        return _read_on(a_fd, b_fd, tallies, progress, a_path, b_path)
    a_size, b_size = file_size(a_fd), file_size(b_fd)
    common = min(a_size, b_size)
    if full:
        segments = iter([(0, common, True, True)])
    else:
        segments = _segments(_extents(a_fd, common, holes, a_path), _extents(b_fd, common, holes, b_path))
    before = tallies[0].read, tallies[1].read
    size = min(BUFFER_BYTES, common)

    def first(segments: Iterable[Segment], tallies: Tuple[Tally, Tally], progress: OnProgress) -> Optional[int]:
        return first_in(a_fd, b_fd, segments, size, tallies, progress, a_path, b_path)

    found = _first_by_two(first, segments, size, tallies, progress)
    for tally, read in zip(tallies, before):
        tally.believed += max(0, (common if found is None else found) - (tally.read - read))
    # What vanishes with the end of a file looks like a hole, and would be judged as one.
    for fd, path in ((a_fd, a_path), (b_fd, b_path)):
        if file_size(fd) < common:
            raise TruncatedError(path)
    if found is None and a_size != b_size:
        return common
    return found


def _is_view(fd: int, path: Optional[str]) -> bool:
    try:
        return is_view(fd)
    except OSError as error:
        error.filename = path
        raise


def _read_on(
    a_fd: int,
    b_fd: int,
    tallies: Tuple[Tally, Tally],
    progress: OnProgress,
    a_path: Optional[str],
    b_path: Optional[str],
) -> Optional[int]:
    """As :func:`first_difference`, found by reading both until one of them ends."""
    a, b = bytearray(BUFFER_BYTES), bytearray(BUFFER_BYTES)
    a_view, b_view = memoryview(a), memoryview(b)
    offset = 0
    while True:
        a_count, b_count = fill(a_fd, a_view, offset, a_path), fill(b_fd, b_view, offset, b_path)
        count = min(a_count, b_count)
        tallies[0].read += a_count
        tallies[1].read += b_count
        if progress is not None and count:
            progress(count)
        if not a.startswith(b_view[:count]):
            return offset + _parting(a, b_view, count)
        offset += count
        if a_count != b_count:
            return offset
        if not count:
            return None


def _first_by_two(
    first: Callable[[Iterable[Segment], Tuple[Tally, Tally], OnProgress], Optional[int]],
    segments: Iterable[Segment],
    size: int,
    tallies: Tuple[Tally, Tally],
    progress: OnProgress,
) -> Optional[int]:
    """As ``first``, which is :func:`first_in` of two files. Of very many segments a second process compares a part."""

    def do(segments: Iterable[Segment]) -> Tuple[Optional[int], int, int]:
        read = Tally(), Tally()
        return first(segments, read, None), read[0].read, read[1].read

    def took(result: Tuple[Optional[int], int, int], count: int) -> None:
        offset, tallies[0].read, tallies[1].read = result[0], tallies[0].read + result[1], tallies[1].read + result[2]
        if offset is not None:
            found.append(offset)
        if progress is not None:
            progress(count)

    found: List[int] = []
    segments = iter(segments)
    offset = first(islice(segments, FEW_RANGES), tallies, progress)
    if offset is not None:
        return offset
    rest, helper = RangeHelper.for_rest(segments, do, took, size, "compare")
    if helper is None:
        return first(rest, tallies, progress)
    try:
        # What lies behind a difference is not asked for, and what lies before one may still be with the helper.
        for part in (takewhile(lambda _: not found, helper.leave(rest)), helper.missing()):
            offset = first(part, tallies, progress)
            if offset is not None:
                found.append(offset)
    finally:
        helper.close()
    return min(found, default=None)


def first_in(
    a_fd: int,
    b_fd: int,
    segments: Iterable[Segment],
    size: int,
    tallies: Tuple[Tally, Tally],
    progress: OnProgress,
    a_path: Optional[str],
    b_path: Optional[str],
) -> Optional[int]:
    """Return the offset of the first byte in the segments that differs, reading into buffers of ``size`` bytes.

    The other parameters are those of :func:`first_difference`.
    """
    a, b = bytearray(size), bytearray(size)
    zeros = memoryview(bytes(size))
    found = None
    untold = a_read = b_read = cut = 0
    a_view = b_view = memoryview(b"")
    for offset, length, a_has, b_has in segments:
        while length:
            count = min(size, length)
            if count != cut:  # of a file of many small extents this is what takes the time
                cut, a_view, b_view = count, memoryview(a)[:count], memoryview(b)[:count]
            if a_has:
                a_read += count
                if fill(a_fd, a_view, offset, a_path) < count:
                    raise TruncatedError(a_path)
            if b_has:
                b_read += count
                if fill(b_fd, b_view, offset, b_path) < count:
                    raise TruncatedError(b_path)
            one = a if a_has else b
            other = b_view if a_has and b_has else zeros[:count]
            if not one.startswith(other):
                found = offset + _parting(one, other, count)
                break
            offset += count
            length -= count
            untold += count
            if progress is not None and untold >= _PROGRESS_BYTES:
                progress(untold)
                untold = 0
        if found is not None:
            break
    tallies[0].read += a_read
    tallies[1].read += b_read
    if progress is not None and untold:
        progress(untold)
    return found


def _segments(a: Iterator[Extent], b: Iterator[Extent]) -> Iterator[Segment]:
    """Two streams of extents as one, ascending, without what neither has."""
    a_extent, b_extent = next(a, None), next(b, None)
    position = 0
    while a_extent is not None and b_extent is not None:
        if a_extent == b_extent:
            yield a_extent[0], a_extent[1], True, True
            a_extent, b_extent = next(a, None), next(b, None)
            continue
        a_start, b_start = a_extent[0], b_extent[0]
        a_end, b_end = a_start + a_extent[1], b_start + b_extent[1]
        position = max(position, min(a_start, b_start))
        a_has, b_has = a_start <= position, b_start <= position
        stop = min(a_end if a_has else a_start, b_end if b_has else b_start)
        yield position, stop - position, a_has, b_has
        position = stop
        if a_end == stop:
            a_extent = next(a, None)
        if b_end == stop:
            b_extent = next(b, None)
    # One of the two has run out.
    for extent, rest, a_has in ((a_extent, a, True), (b_extent, b, False)):
        while extent is not None:
            start = max(position, extent[0])
            yield start, extent[0] + extent[1] - start, a_has, not a_has
            extent = next(rest, None)


def _extents(fd: int, end: int, holes: str, path: Optional[str]) -> Iterator[Extent]:
    try:
        if not believes(fd, holes):
            yield 0, end  # to look for zeros first would be to read it twice
            return
        for extent in extents(fd, 0, end, "trust"):
            yield extent
    except OSError as error:
        error.filename = path
        raise


def fill(fd: int, view: memoryview, offset: int, path: Optional[str]) -> int:
    """Read into all of ``view``. Returns the bytes read: fewer at the end of the file. Raises OSError as pread(2)."""
    try:
        return read_full(fd, view, offset)
    except OSError as error:
        error.filename = path
        raise


def _parting(one: bytearray, other: memoryview, count: int) -> int:
    """Return the first index at which two buffers differ, given that it is below ``count``."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if one.startswith(other[low:middle], low):
            low = middle
        else:
            high = middle
    return low
