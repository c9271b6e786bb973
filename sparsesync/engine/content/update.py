"""Bring a file that has the content of an earlier clone to that of a later one: write what has changed, and no more.

The target has all of the earlier content to begin with, in place or as a clone of the old file (:mod:`changes` says
what changed between the two)::

    changed, and data now   compare with what is there, write the blocks that differ
    changed, and a hole     punch
    all else                is not touched, and not read

What changed by its place alone, by defragmentation or a copy over itself, so is read once and not written.
"""

import os
from contextlib import closing
from typing import Iterable, Iterator

from ..errors import OnProgress, TruncatedError, error_path
from ..files.extents import Extent, nonzero
from ..files.syscalls import copy_range, read_into, write_all
from ..files.target import Target
from .changes import Change
from .compare import MAX_RANGE_BYTES, all_differing
from .copy import zero_block
from .workers import PIECE_BYTES


def update(
    source: int,
    target: Target,
    changes: Iterable[Change],
    size: int,
    *,
    zeros: bool = False,
    progress: OnProgress = None,
    pace: OnProgress = None,
    source_path: str = "source",
) -> int:
    """Write the changes of the open file ``source``, of ``size`` bytes, to ``target``. Return the bytes written.

    ``zeros``: make holes of blocks of zeros too.
    ``progress``: called with the bytes compared since the last call.
    ``pace``: called with the bytes written since the last call.

    Raises TruncatedError, OSError as the system calls do.
    """
    written = 0
    with error_path(target.path):
        if os.fstat(target.fd).st_size != size:
            os.ftruncate(target.fd, size)
        ranges = _punched(source, target, changes, zero_block(target) if zeros else 0)
        with closing(all_differing(source, target.fd, ranges, source_path, target.path, progress)) as differing:
            for offset, length in differing:
                copy_bytes(source, target.fd, offset, length, source_path)
                written += length
                if pace is not None:
                    pace(length)
    return written


def _punched(source: int, target: Target, changes: Iterable[Change], block: int) -> Iterator[Extent]:
    """Yield what is data, and punch the rest. ``block``: of zeros, that are to be holes; 0 leaves them."""
    for offset, length, is_data in changes:
        position = offset
        if is_data and block:
            for start, count in nonzero(source, offset, length, block, MAX_RANGE_BYTES):
                target.punch(position, start - position)
                position = start + count
                yield start, count
        elif is_data:
            position = offset + length
            yield offset, length
        target.punch(position, offset + length - position)


def copy_bytes(source: int, target: int, offset: int, length: int, source_path: str) -> None:
    """Copy a range of an open file to the same place of another, by the kernel where it can. Raises TruncatedError."""
    buffer = memoryview(bytearray(0))
    while length:
        done = copy_range(source, target, offset, length)
        if done is None:
            buffer = buffer or memoryview(bytearray(min(length, PIECE_BYTES)))
            with error_path(source_path):
                done = read_into(source, buffer[: min(length, len(buffer))], offset)
            write_all(target, buffer[:done], offset)
        if not done:
            raise TruncatedError(source_path)
        offset += done
        length -= done
