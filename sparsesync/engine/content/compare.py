"""Which blocks of two files differ.

Two questions, answered by reading both files side by side into two buffers that are
used again and again, so memory stays the same whatever the size of the files::

    for each buffer's worth of the range:
        read A, read B
        equal as a whole?  -> on to the next         # one memcmp, most often the end of it
        not equal          -> look closer: block by block, or for the one byte

:func:`differing` yields the ranges that an update has to write, in whole blocks. It has
read what it yields and nothing it has yet to yield, so the caller may write a range to B
before asking for the next. :func:`all_differing` does it for many ranges, and has other threads help with large ones.

:func:`first_difference` says whether two files are equal and, if not, where they part.
A hole reads as zeros, so it looks only where there is data: it walks the extents of
both files in step (:func:`_segments`; a file whose map is not believed is all data), compares where both
have data, wants zeros where one has, and passes over what is a hole in both. A hole in one file equals
data of zeros in the other. A file that does not know its size (:func:`files.claims.is_view`) has no
extents to walk, and is read on beside the other until one of them ends.

Buffers are compared with ``bytearray.startswith(memoryview)``, which is memcmp in
CPython. ``memoryview == memoryview`` unpacks every byte and is some 70 times slower,
and slices of bytes or bytearrays are copies.
"""

from collections import deque
from functools import partial
from typing import Callable, Deque, Dict, Generator, Iterable, Iterator, List, Optional, Tuple

from ..errors import OnProgress, TruncatedError
from ..files.claims import believes, file_size, is_view
from ..files.extents import Extent, extents
from ..files.syscalls import read_full
from .hands.workers import PIECE_BYTES, Helpers, helps, pieces

BUFFER_BYTES = 256 * 1024
"""How much of each file is held at a time; measured: with more, the two fall out of the CPU's cache."""

MAX_RANGE_BYTES = 16 << 20
"""Where a range that differs is cut: the caller reads it again, and then it should still be in the page cache."""

_PIECE_BYTES = 1 << 20
"""How much one thread compares at a time."""

_MAX_PIECES_DONE = 64
"""Pieces that are compared before one that is not: then it is waited for."""

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


def differing(
    a_fd: int,
    b_fd: int,
    offset: int,
    length: int,
    block: int = 4096,
    *,
    a_path: Optional[str] = None,
    b_path: Optional[str] = None,
    buffers: Optional[Tuple[bytearray, bytearray]] = None,
) -> Iterator[Extent]:
    """Yield the parts of [offset, offset + length) where A's bytes are not B's, ascending, as (offset, length).

    Blocks are counted from the start of the file, whatever the range. Neighbouring parts are merged, up to about
    MAX_RANGE_BYTES bytes. What lies beyond B's end differs.

    ``block``: bytes.
    ``a_path``, ``b_path``: the names in messages.
    ``buffers``: optional pair of BUFFER_BYTES arrays, reused between calls. If given, ``block`` must not exceed
    BUFFER_BYTES.

    Raises ValueError if ``block`` is less than 1, TruncatedError if A ends before the range does, OSError as pread(2).
    """
    if block < 1:
        raise ValueError("a block has at least one byte, not {}".format(block))
    end = offset + length
    size = max(BUFFER_BYTES // block, 1) * block
    if buffers is None:
        buffers = bytearray(max(min(size, length), 0)), bytearray(max(min(size, length), 0))
    a, b = buffers
    a_view, b_view = memoryview(a), memoryview(b)
    run_start = run_end = offset
    while offset < end:
        count = min(size - offset % block, end - offset)
        if _fill(a_fd, a_view[:count], offset, a_path) < count:
            raise TruncatedError(a_path)
        b_count = _fill(b_fd, b_view[:count], offset, b_path)
        if b_count < count or not a.startswith(b_view[:count]):
            at = 0
            while at < count:
                stop = min(at + block - (offset + at) % block, count)
                if stop > b_count or not a.startswith(b_view[at:stop], at):
                    if offset + at != run_end:
                        if run_end > run_start:
                            yield run_start, run_end - run_start
                        run_start = offset + at
                    run_end = offset + stop
                at = stop
        offset += count
        # A run that has ended must not wait for the next one, which may be far away.
        if run_end > run_start and (run_end < offset or run_end - run_start >= MAX_RANGE_BYTES):
            yield run_start, run_end - run_start
            run_start = run_end
    if run_end > run_start:
        yield run_start, run_end - run_start


def all_differing(
    a: int,
    b: int,
    ranges: Iterable[Extent],
    a_path: str,
    b_path: str,
    progress: OnProgress = None,
    jobs: Optional[int] = None,
) -> Generator[Extent, None, None]:
    """Yield what :func:`differing` yields, for many ranges. Other threads compare pieces of the large ones.

    Whoever takes it closes it: until then the threads are there. The garbage collector may come as late as when the
    program ends. The threads are gone by then, and would be waited for forever.

    ``jobs``: how many threads in all; None is two.
    ``progress``: called with the bytes compared since the last call, by the caller's thread. What differs among them
    was yielded, and the next step was asked for.
    """
    found: Dict[int, List[Extent]] = {}
    order: Deque[Extent] = deque()
    untold = 0
    helper: Optional[Helpers] = None

    def compare(buffers: Tuple[bytearray, bytearray], offset: int, length: int) -> int:
        found[offset] = list(differing(a, b, offset, length, a_path=a_path, b_path=b_path, buffers=buffers))
        return length

    def settled(untold: int) -> Generator[Extent, None, int]:
        """Yield what differs in the pieces whose turn it is, and return the bytes that are still to be told."""
        while order and order[0][0] in found:
            offset, length = order.popleft()
            for run in found.pop(offset):
                yield run
            untold += length
            if progress is not None and untold >= _PROGRESS_BYTES:
                progress(untold)
                untold = 0
        return untold

    own = _comparing_buffers()
    try:
        for offset, length in ranges:
            if helper is None and length > PIECE_BYTES and helps(jobs):
                helper = Helpers(lambda: partial(compare, _comparing_buffers()), None if jobs is None else jobs - 1)
            for piece, count in pieces(offset, length, _PIECE_BYTES):
                order.append((piece, count))
                if helper is None or count <= PIECE_BYTES or not helper.offer(piece, count):
                    compare(own, piece, count)
                if helper is not None and len(order) > _MAX_PIECES_DONE:
                    helper.wait()
                untold = yield from settled(untold)
        if helper is not None:
            helper.finish()
        untold = yield from settled(untold)
        if progress is not None and untold:
            progress(untold)
    finally:
        if helper is not None:
            helper.stop()


def _comparing_buffers() -> Tuple[bytearray, bytearray]:
    return bytearray(BUFFER_BYTES), bytearray(BUFFER_BYTES)


def first_difference(
    a_fd: int,
    b_fd: int,
    full: bool = False,
    *,
    holes: str = "auto",
    tallies: Optional[Tuple[Tally, Tally]] = None,
    progress: Optional[Callable[[int], object]] = None,
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
    found = first_in(a_fd, b_fd, segments, min(BUFFER_BYTES, common), tallies, progress, a_path, b_path)
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
    progress: Optional[Callable[[int], object]],
    a_path: Optional[str],
    b_path: Optional[str],
) -> Optional[int]:
    """As :func:`first_difference`, found by reading both until one of them ends."""
    a, b = bytearray(BUFFER_BYTES), bytearray(BUFFER_BYTES)
    a_view, b_view = memoryview(a), memoryview(b)
    offset = 0
    while True:
        a_count, b_count = _fill(a_fd, a_view, offset, a_path), _fill(b_fd, b_view, offset, b_path)
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


def first_in(
    a_fd: int,
    b_fd: int,
    segments: Iterable[Segment],
    size: int,
    tallies: Tuple[Tally, Tally],
    progress: Optional[Callable[[int], object]],
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
                if _fill(a_fd, a_view, offset, a_path) < count:
                    raise TruncatedError(a_path)
            if b_has:
                b_read += count
                if _fill(b_fd, b_view, offset, b_path) < count:
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


def _fill(fd: int, view: memoryview, offset: int, path: Optional[str]) -> int:
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
