"""Content piece by piece, from what has no map and to what takes bytes only one after the other.

The one is a file of the kernel's or a pipe, the other a mount without random access.

Sizes and offsets are bytes.
"""

import os
from itertools import chain
from typing import Iterable, Iterator, Tuple

from ..errors import TruncatedError, error_path
from ..files.extents import Extent
from ..files.syscalls import read_into
from .workers import PIECE_BYTES

_ZEROS = bytes(PIECE_BYTES)


def read_on(source: int, source_path: str) -> Iterator[Tuple[int, memoryview]]:
    """Yield all there is to read in an open file, as (offset, data). The data is valid until the next step."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = 0
    with error_path(source_path):
        count = read_into(source, buffer, offset)
        while count:
            yield offset, buffer[:count]
            offset += count
            count = read_into(source, buffer, offset)


def read_ranges(source: int, ranges: Iterable[Extent], source_path: str) -> Iterator[Tuple[int, memoryview]]:
    """Yield the content of the ranges as (offset, data). The data is valid until the next step."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    with error_path(source_path):
        for offset, length in ranges:
            while length:
                count = read_into(source, buffer[:length], offset)
                if not count:
                    raise TruncatedError(source_path)
                yield offset, buffer[:count]
                offset += count
                length -= count


def read_stream(source: int, source_path: str) -> Iterator[Tuple[int, memoryview]]:
    """Yield what comes from a pipe or the like, as (offset, data). The data is valid until the next step.

    All parts but the last have the same size.
    """
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = filled = 0
    with error_path(source_path):
        count = os.readv(source, [buffer])
        while count:
            filled += count
            if filled == len(buffer):
                yield offset, buffer
                offset, filled = offset + filled, 0
            count = os.readv(source, [buffer[filled:]])
    if filled:
        yield offset, buffer[:filled]


def not_zeros(content: memoryview, offset: int, block: int) -> Iterator[Extent]:
    """Yield the parts of ``content`` that are not blocks of zeros, as (index in ``content``, length).

    ``offset``: that of ``content`` in its file, by which blocks are counted.
    """
    if _ZEROS.startswith(content):
        return
    size = len(content)
    start = at = 0
    while at < size:
        stop = min(at + block - (offset + at) % block, size)
        if _ZEROS.startswith(content[at:stop]):
            if at > start:
                yield start, at - start
            start = stop
        at = stop
    if size > start:
        yield start, size - start


def write_in_order(target: int, pieces: Iterable[Tuple[int, memoryview]], size: int) -> int:
    """Write pieces, and zeros between them, one after the other, and return the bytes written.

    ``pieces``: (offset, data), ascending.
    ``size``: of the file, which ends with zeros if the pieces end before.
    """
    end = 0
    for offset, data in chain(pieces, [(size, memoryview(b""))]):
        while end < offset:
            end += os.write(target, _ZEROS[: offset - end])
        while data:
            count = os.write(target, data)
            data, end = data[count:], end + count
    return end
