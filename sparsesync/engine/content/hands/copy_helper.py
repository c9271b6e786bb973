"""A second process that copies a part of a file of very many small extents.

To copy 4 KiB takes a few microseconds, in the kernel and in Python, so a million extents take seconds; threads of one
Python take turns at that. Here this process goes on looking for the extents, since that can be done only one after the
other, and hands them over in batches::

    batch = the next extents
    two batches are with the helper  -> copy it here
    else                             -> give it to the helper          (:mod:`engine.second`)

The answers come in the order of the batches, so it is known what the helper has not done. If it is killed, this process
does that itself. Before each range the helper makes sure that this process is still there. So it does not write to a
file that another run may have taken up.

Sizes and offsets are bytes.
"""

import contextlib
import os
from collections import deque
from typing import Callable, Deque, Iterable, Iterator, List, Optional

from ...files.extents import Extent
from ...second import HasEnded, SecondProcess

_BATCH_RANGES = 256
_BATCH_BYTES = 4 << 20
"""What is handed over at a time, at most: about a millisecond's work."""

_MAX_BATCHES = 2
"""With the helper: one that it copies, and one for which it need not wait."""


class CopyHelper:
    """The second process.

    ``copy``: called in it; copies ranges, and returns the bytes written.
    ``longest``: the longest range that it gets, in bytes.
    ``done``: bytes of the ranges that it has copied.
    ``written``: bytes that it has written.

    Raises OSError as fork(2) and pipe(2).
    """

    def __init__(self, copy: Callable[[Iterable[Extent]], int], longest: int) -> None:
        self.done: int = 0
        self.written: int = 0
        self._copy = copy
        self._longest = longest
        self._given: Deque[List[Extent]] = deque()
        self._is_there = True
        self._parent = os.getpid()
        self._second = SecondProcess(self._answer, "copy")

    def leave(self, ranges: Iterable[Extent]) -> Iterator[Extent]:
        """Give the helper a part of the ranges, yield the others, and wait for it. Raises what it raised."""
        for batch in self._batches(ranges):
            if batch[0][1] <= self._longest and self._has_room():
                self._given.append(batch)
                self._second.ask(batch)
            else:
                for extent in batch:
                    yield extent
        with contextlib.suppress(HasEnded):
            self._take(wait=True)
        while self._given:
            for extent in self._given[0]:
                yield extent
            self._given.popleft()

    def _has_room(self) -> bool:
        if self._is_there:
            try:
                self._take(wait=False)
            except HasEnded:
                self._is_there = False
        return self._is_there and len(self._given) < _MAX_BATCHES

    def _batches(self, ranges: Iterable[Extent]) -> Iterator[List[Extent]]:
        """Yield the ranges in batches. One that is too long for the helper is a batch of its own."""
        batch: List[Extent] = []
        size = 0
        for extent in ranges:
            if extent[1] > self._longest:
                if batch:
                    yield batch
                yield [extent]
                batch, size = [], 0
                continue
            batch.append(extent)
            size += extent[1]
            if len(batch) == _BATCH_RANGES or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    @property
    def missing(self) -> Optional[int]:
        """The offset of the first range that it has and that may not be copied; None if there is none."""
        return self._given[0][0][0] if self._given else None

    def close(self) -> None:
        """End the process, even if it is busy."""
        self._second.close()

    def _take(self, wait: bool) -> None:
        for written in self._second.answers(wait):
            if written is not None:
                self.written += written
                self.done += sum(length for _, length in self._given.popleft())

    def _answer(self, batch: List[Extent]) -> Iterator[int]:
        yield self._copy(self._while_needed(batch))

    def _while_needed(self, batch: List[Extent]) -> Iterator[Extent]:
        for extent in batch:
            if os.getppid() != self._parent:
                os._exit(1)
            yield extent
