"""A second process that does a part where a file has very many small extents.

To copy 4 KiB, or to compare them, takes a few microseconds, in the kernel and in Python, so a million extents take
seconds; threads of one Python take turns at that. Here this process goes on looking for the extents, since that can be
done only one after the other, and hands them over in batches::

    batch = the next ranges
    two batches are with the helper  -> do it here
    else                             -> give it to the helper          (:mod:`engine.second`)

The answers come in the order of the batches, so it is known what the helper has not done. If it is killed, this process
does that itself. Before each range the helper makes sure that this process is still there. So it does not write to a
file that another run may have taken up.

Sizes and offsets are bytes.
"""

import contextlib
import os
from collections import deque
from itertools import chain, islice
from typing import Any, Callable, Deque, Generic, Iterable, Iterator, List, Optional, Tuple, TypeVar

from ...second import HasEnded, SecondProcess, possible

R = TypeVar("R", bound=Tuple[Any, ...])

FEW_RANGES = 4096
"""Ranges after which a second process is worth it; measured: to start it takes as long as some 300 of them."""

_BATCH_RANGES = 256
_BATCH_BYTES = 4 << 20
"""What is handed over at a time, at most: about a millisecond's work."""

_MAX_BATCHES = 2
"""With the helper: one that it copies, and one for which it need not wait."""


class RangeHelper(Generic[R]):
    """The second process.

    ``do``: called in it with ranges that it is to copy or compare. Its result is plain values, for :mod:`marshal`.
    ``took``: called here with each result, and the bytes of the ranges.
    ``longest``: the longest range that it gets, in bytes.
    ``helps``: what it helps to do, for errors.

    A range is a tuple that begins with offset and length. Raises OSError as fork(2) and pipe(2).
    """

    def __init__(
        self, do: Callable[[Iterable[R]], Any], took: Callable[[Any, int], object], longest: int, helps: str
    ) -> None:
        self._do = do
        self._took = took
        self._longest = longest
        self._given: Deque[List[R]] = deque()
        self._is_there = True
        self._parent = os.getpid()
        self._second = SecondProcess(self._answer, helps)

    @classmethod
    def for_rest(
        cls,
        ranges: Iterator[R],
        do: Callable[[Iterable[R]], Any],
        took: Callable[[Any, int], object],
        longest: int,
        helps: str,
    ) -> "Tuple[Iterator[R], Optional[RangeHelper[R]]]":
        """Return the ranges, and who helps with them; None if none are left, or where there cannot be a helper.

        Call it when FEW_RANGES are done. The parameters are those of the class.
        """
        following = list(islice(ranges, 1))
        rest = chain(following, ranges)
        if following and possible():
            with contextlib.suppress(OSError):  # no more processes are allowed
                return rest, cls(do, took, longest, helps)
        return rest, None

    def leave(self, ranges: Iterable[R]) -> Iterator[R]:
        """Give the helper a part of the ranges, yield the others, and wait for it. Raises what it raised."""
        for batch in self._batches(ranges):
            if batch[0][1] <= self._longest and self._has_room():
                self._given.append(batch)
                self._second.ask(batch)
            else:
                for each in batch:
                    yield each
        for each in self.missing():
            yield each

    def missing(self) -> Iterator[R]:
        """Wait for the helper, and yield what it was given and, killed meanwhile, has not done."""
        with contextlib.suppress(HasEnded):
            self._take(wait=True)
        while self._given:
            for each in self._given[0]:
                yield each
            self._given.popleft()

    def _has_room(self) -> bool:
        if self._is_there:
            try:
                self._take(wait=False)
            except HasEnded:
                self._is_there = False
        return self._is_there and len(self._given) < _MAX_BATCHES

    def _batches(self, ranges: Iterable[R]) -> Iterator[List[R]]:
        """Yield the ranges in batches. One that is too long for the helper is a batch of its own."""
        batch: List[R] = []
        size = 0
        for each in ranges:
            if each[1] > self._longest:
                if batch:
                    yield batch
                yield [each]
                batch, size = [], 0
                continue
            batch.append(each)
            size += each[1]
            if len(batch) == _BATCH_RANGES or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    @property
    def first_missing(self) -> Optional[int]:
        """The offset of the first range that it was given and that may not be done; None if there is none."""
        return self._given[0][0][0] if self._given else None

    def close(self) -> None:
        """End the process, even if it is busy."""
        self._second.close()

    def _take(self, wait: bool) -> None:
        for result in self._second.answers(wait):
            if result is not None:
                self._took(result[0], sum(each[1] for each in self._given.popleft()))

    def _answer(self, batch: List[R]) -> Iterator[Tuple[Any]]:
        yield (self._do(self._while_needed(batch)),)

    def _while_needed(self, batch: List[R]) -> Iterator[R]:
        for each in batch:
            if os.getppid() != self._parent:
                os._exit(1)
            yield each
