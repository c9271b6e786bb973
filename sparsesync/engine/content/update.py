"""Bring a file that has the content of an earlier clone to that of a later one: write what has changed, and no more.

The target has all of the earlier content to begin with, in place or as a clone of the old file (:mod:`changes` says
what changed between the two)::

    changed, and data now   write it, or where it may only have moved: compare, and write the blocks that differ
    changed, and a hole     punch
    all else                is not touched, and not read

What was written to is read once, at the source. But by defragmentation, balance or a copy over itself all of a file
changes its place, and nothing else. Then what has moved is one long range. So of each piece of a long range the first
block is compared, and if that is equal, all of the piece.
"""

import os
from contextlib import closing
from typing import Iterable, Iterator

from ..errors import OnProgress, TruncatedError, error_path
from ..files.extents import Extent, nonzero
from ..files.syscalls import copy_range, read_into, resize, write_all
from ..files.writing.target import Target
from .changes import Change
from .copy import zero_block
from .differing import MAX_RANGE_BYTES, all_differing, differing
from .hands.workers import PIECE_BYTES, pieces

SHORT_BYTES = 64 * 1024
"""To look whether a range of so many bytes has only moved may cost as much as to write it."""

SAMPLE_BYTES = 4096
"""How much of a piece is compared first."""

_SAMPLED_BYTES = 1 << 20
"""How long a piece is."""


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
    ``progress``: called with the bytes done since the last call.
    ``pace``: called with the bytes written since the last call.

    Raises TruncatedError, OSError as the system calls do.
    """
    written = 0

    def write(offset: int, length: int) -> None:
        nonlocal written
        copy_bytes(source, target.fd, offset, length, source_path)
        written += length
        if pace is not None:
            pace(length)

    def doubtful() -> Iterator[Extent]:
        for offset, length in _punched(source, target, changes, zero_block(target) if zeros else 0):
            for piece, count in pieces(offset, length, _SAMPLED_BYTES):
                if length > SHORT_BYTES and _begins_alike(source, target, piece, count, source_path):
                    yield piece, count
                    continue
                write(piece, count)
                if progress is not None:
                    progress(count)

    with error_path(target.path):
        if os.fstat(target.fd).st_size != size:
            resize(target.fd, size)
        with closing(all_differing(source, target.fd, doubtful(), source_path, target.path, progress)) as found:
            for offset, length in found:
                write(offset, length)
    return written


def _begins_alike(source: int, target: Target, offset: int, length: int, source_path: str) -> bool:
    sample = min(length, SAMPLE_BYTES)
    return next(differing(source, target.fd, offset, sample, a_path=source_path, b_path=target.path), None) is None


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
