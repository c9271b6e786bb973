"""Which blocks of two files differ.

Both files are read side by side into two buffers that are used again and again, so memory stays the same whatever the
size of the files::

    for each buffer's worth of the range:
        read A, read B
        equal as a whole?  -> on to the next         # one memcmp, most often the end of it
        not equal          -> look closer, block by block

:func:`differing` yields the ranges that an update has to write, in whole blocks. It has
read what it yields and nothing it has yet to yield, so the caller may write a range to B
before asking for the next. :func:`all_differing` does it for many ranges, and has other threads help with large ones.
"""

from collections import deque
from functools import partial
from typing import Deque, Dict, Generator, Iterable, Iterator, List, Optional, Tuple

from ..errors import OnProgress, TruncatedError
from ..files.extents import Extent
from .compare import BUFFER_BYTES, fill
from .hands.workers import PIECE_BYTES, Helpers, helps, pieces

MAX_RANGE_BYTES = 16 << 20
"""Where a range that differs is cut: the caller reads it again, and then it should still be in the page cache."""

_PIECE_BYTES = 1 << 20
"""How much one thread compares at a time."""

_MAX_PIECES_DONE = 64
"""Pieces that are compared before one that is not: then it is waited for."""

_PROGRESS_BYTES = 1 << 20


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
        if fill(a_fd, a_view[:count], offset, a_path) < count:
            raise TruncatedError(a_path)
        b_count = fill(b_fd, b_view[:count], offset, b_path)
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
