"""How a copy is cut into tasks: a stream of extents in, a stream of tasks out.

A task is a span of the file and the data extents within it. The spans follow each other without a gap, and each border
is a multiple of the plan's unit, so that no two tasks share a page of the page cache, a block, or a stripe::

    extents     ##    #####################      ###
    units       |  .  |  .  |  .  |  .  |  .  |  .  |
    tasks       [ 1            )[ 2      )[ 3       ]

A task ends where it has its share of data, or its share of extents, whichever is first. So no task is large in memory
either, and only one is held at a time, but for :func:`largest_first`.

Sizes and offsets are bytes.
"""

from __future__ import annotations

import heapq
import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from ..engine.files.extents import Extent

MOST_BYTES = 256 << 20
"""The most data of a task, unless its unit is larger."""

LEAST_BYTES = 16 << 20
"""The least that a task's share of data is made: below that, giving it out would take longer than doing it."""

MOST_EXTENTS = 1024
"""The most extents of a task, unless there are more in one unit."""

UNIT_BYTES = 64 * 1024
"""The largest page and the largest block of Linux."""

_TASKS_A_WORKER = 4
"""So that workers of different speed end at about the same time."""

_WINDOW = 64
"""Tasks that are read ahead, to find the largest."""

_MOST_LARGE = 1024
"""Files of a tree that are held, to be given out before the others: more than that end at about the same time."""

_File = TypeVar("_File")


class Task(NamedTuple):
    """A span of a file, and the data in it: ``ranges`` are extents, packed (:func:`unpack`). ``number``: from 0."""

    number: int
    start: int
    stop: int
    data: int
    ranges: bytes

    @property
    def checksum(self) -> int:
        """What tells this task from one with the same number in another plan. Not 0."""
        return zlib.crc32(self.ranges, zlib.crc32(struct.pack("<QQ", self.start, self.stop))) or 1


def plan(ranges: Iterable[Extent], size: int, share: int, unit: int = UNIT_BYTES) -> Iterator[Task]:
    """Yield the tasks for the data extents of a file, ascending.

    ``ranges``: ascending and disjoint.
    ``size``: of the file.
    ``share``: the most data of a task, if that is more than a unit.
    ``unit``: what a border of a task is a multiple of.
    """
    share = max(share // unit, 1) * unit
    numbers = itertools.count()
    start = data = 0
    parts: list[Extent] = []
    for offset, length in ranges:
        while length:
            # What has begun within a unit has to end in the same task.
            first = -(-sum(parts[-1]) // unit) * unit if parts else offset
            if offset >= first and (data >= share or len(parts) >= MOST_EXTENTS):
                stop = offset // unit * unit
                yield Task(next(numbers), start, stop, data, pack(parts))
                start, data, parts = stop, 0, []
            room = max(share - data, 0)
            end = offset + length
            border = max((offset + room) // unit * unit, (offset // unit + 1) * unit)
            count = min(end, border) - offset
            parts.append((offset, count))
            data += count
            offset, length = offset + count, length - count
    if parts:
        yield Task(next(numbers), start, size, data, pack(parts))


def share_of(data: int, workers: int) -> int:
    """Return the data of one task, so that each of the workers gets some. ``data``: about what there is."""
    return min(MOST_BYTES, max(LEAST_BYTES, data // (workers * _TASKS_A_WORKER)))


def largest_first(tasks: Iterator[Task]) -> Iterator[Task]:
    """Yield the tasks, of those that have been read ahead always the one with most data."""
    heap = [(-task.data, task.number, task) for task in itertools.islice(tasks, _WINDOW)]
    heapq.heapify(heap)
    for task in tasks:
        yield heapq.heapreplace(heap, (-task.data, task.number, task))[2]
    while heap:
        yield heapq.heappop(heap)[2]


def large_files_first(read: Callable[[], Iterable[_File]], data: Callable[[_File], int]) -> Iterator[_File]:
    """Yield all files: first the largest, as many as are held, in descending order; then the others in theirs.

    A file whose data goes into a bundle with that of others is not large.

    ``read``: returns the files. It is called twice, so that only the large ones are held.
    ``data``: returns the data of a file.
    """
    sizes = ((data(file), -number, file) for number, file in enumerate(read()))
    # The number decides between two of one size, before files are compared that have no order.
    large = heapq.nlargest(_MOST_LARGE, (each for each in sizes if each[0] > LEAST_BYTES))
    first = {-number for _, number, _ in large}
    for _, _, file in large:
        yield file
    for number, file in enumerate(read()):
        if number not in first:
            yield file


def pack(ranges: Iterable[Extent]) -> bytes:
    """Return extents as bytes, which take a tenth of the memory of tuples."""
    flat = [*itertools.chain.from_iterable(ranges)]
    return struct.pack(f"<{len(flat)}Q", *flat)


def unpack(ranges: bytes) -> Iterator[Extent]:
    """Yield extents that were packed."""
    yield from struct.iter_unpack("<QQ", ranges)


def union(a: Iterable[Extent], b: Iterable[Extent]) -> Iterator[Extent]:
    """Yield what is in one of two streams of ascending extents, as ascending extents that do not touch."""
    start = stop = -1
    for offset, length in heapq.merge(a, b):
        if offset > stop:
            if stop > start:
                yield start, stop - start
            start = offset
            stop = offset
        stop = max(stop, offset + length)
    if stop > start:
        yield start, stop - start
