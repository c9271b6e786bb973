"""A file as a row of cells, each of which knows how much of it is data, and how much is reserved.

A file may have millions of extents, and neither a terminal nor an eye has as many places. So the file is cut into
cells of equal length, and what is kept is a number for each. A :class:`Strip` is filled by what passes it: whoever
reads a map anyway need not keep it. Two files are drawn to one scale, and :func:`differing` tells, range by range,
where their maps are not the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ...engine.files.extents import segments
from ..units import iec

if TYPE_CHECKING:
    from ...engine.files.extents import Layer


class Cells:
    """How much of each of ``count`` cells of a file of ``size`` bytes is filled. Ranges are added ascending."""

    def __init__(self, size: int, count: int) -> None:
        self.ranges: int = 0
        self.total: int = 0
        """The number of ranges, and their bytes."""
        self._shares = [0.0] * count
        self._cell = size / count
        self._index = self._border = self._inside = 0

    def add(self, offset: int, length: int) -> None:
        """Fill a range."""
        self.ranges += 1
        self.total += length
        end = offset + length
        # Where there are many, most of them end in the cell of the one before.
        if end <= self._border:
            self._inside += length
            return
        self._settle()
        cell, shares = self._cell, self._shares
        last = min(int(end / cell), len(shares) - 1)
        for index in range(min(int(offset / cell), last), last + 1):
            filled = min(end, (index + 1) * cell) - max(offset, index * cell)
            shares[index] += max(filled, 0) / cell
        self._index = min(int(end / cell), len(shares) - 1)
        self._border = int((self._index + 1) * cell)

    def _settle(self) -> None:
        if self._inside:
            self._shares[self._index] += self._inside / self._cell
            self._inside = 0

    def shares(self) -> list[float]:
        """Return which share of each cell is filled, from 0 to about 1."""
        self._settle()
        return self._shares


class Strip:
    """A file of ``size`` bytes with a ``name``, by cells that cover ``scale`` bytes."""

    def __init__(self, name: str, size: int, scale: int, count: int) -> None:
        self.name = name
        self.size = size
        self.data: Cells = Cells(scale, count)
        self.reserved: Cells = Cells(scale, count)

    def passing(self, layers: Iterable[Layer]) -> Iterator[Layer]:
        """Yield the data and reserved ranges of the file as they are, and draw them."""
        add, reserve = self.data.add, self.reserved.add
        for layer in layers:
            offset, length, data = layer
            (add if data else reserve)(offset, length)
            yield layer

    def summary(self) -> str:
        """Return what there is of the file, for people."""
        count, kept = self.data.ranges, self.reserved.total
        held = f", {iec(kept)} reserved" if kept else ""
        return f"{count} extent{'' if count == 1 else 's'}: {iec(self.data.total)} data of {iec(self.size)}{held}"


def shade(share: float, most: int) -> int:
    """Return the shade of a cell of which a share is filled: 0 if nothing of it is, ``most`` if all of it is."""
    if share <= 0:
        return 0
    return most if share >= 0.999 else min(1 + int(share * (most - 1)), most - 1)


def differing(scale: int, a: Iterable[Layer], b: Iterable[Layer]) -> Iterator[tuple[int, int]]:
    """Yield the (offset, length) of the ranges where two maps differ, ascending, none next to another.

    What is behind the end of the shorter file is a hole. Both maps are read to their ends.

    ``scale``: the size of the longer file in bytes.
    """
    ours, theirs = segments(scale, a), segments(scale, b)
    stop = a_stop = b_stop = 0
    a_is = b_is = (False, False)
    first = -1
    while stop < scale:
        if a_stop == stop:
            offset, length, data, reserved = next(ours)
            a_stop, a_is = offset + length, (data, reserved)
        if b_stop == stop:
            offset, length, data, reserved = next(theirs)
            b_stop, b_is = offset + length, (data, reserved)
        if a_is != b_is:
            first = stop if first < 0 else first
        elif first >= 0:
            yield first, stop - first
            first = -1
        stop = min(a_stop, b_stop)
    if first >= 0:
        yield first, scale - first
    for rest in (ours, theirs):
        next(rest, None)  # a remote host's answer has an end, too
