"""The parts of a file as a block map lists them: runs of blocks that hold any data, each with its SHA-256.

The digest is of the whole blocks, with the zeros of a hole that shares one with data; of the last block of
a file only what there is.
"""

import hashlib
import os
from typing import Iterator, Tuple

from ..errors import TruncatedError
from ..files.extents import extents

Run = Tuple[int, int, str]
"""The first and the last block, and the SHA-256 of what is in them, in hexadecimal."""

_READ_BYTES = 1 << 20


def checksums(fd: int, size: int, block: int, holes: str = "auto") -> Iterator[Run]:
    """Yield the runs of an open file of ``size`` bytes, ascending.

    ``holes``: whether the map is believed (:func:`files.claims.believes`).

    Raises TruncatedError, OSError.
    """
    for first, last in _runs(fd, size, block, holes):
        digest = hashlib.sha256()
        offset, end = first * block, min((last + 1) * block, size)
        while offset < end:
            data = os.pread(fd, min(_READ_BYTES, end - offset), offset)
            if not data:
                raise TruncatedError
            digest.update(data)
            offset += len(data)
        yield first, last, digest.hexdigest()


def _runs(fd: int, size: int, block: int, holes: str) -> Iterator[Tuple[int, int]]:
    first = last = -1
    for offset, length in extents(fd, 0, size, holes):
        start, stop = offset // block, (offset + length - 1) // block
        if first >= 0 and start <= last + 1:
            last = max(last, stop)
            continue
        if first >= 0:
            yield first, last
        first, last = start, stop
    if first >= 0:
        yield first, last
