"""Content piece by piece, from what cannot be asked where its data is: a file of the kernel's, a pipe.

Sizes and offsets are bytes.
"""

import os
from typing import Iterator, Tuple

from ..errors import error_path
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
