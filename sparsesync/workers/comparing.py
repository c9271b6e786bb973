"""Two large files compared by many workers: each compares a span, and the first difference is the smallest found.

:class:`Comparing` takes the place of :func:`..engine.content.compare.first_difference`. It maps both files and plans
the union of their data, as a copy is planned (:mod:`plan`), in ascending order, and gives out nothing that lies behind
a difference. A worker makes sure that it has the same two files, maps them again and reads, in both, what any of these
maps calls data. Files with little data, devices and files of the kernel's are compared by the caller's thread.

Sizes and offsets are bytes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engine.content.compare import BUFFER_BYTES, Tally, first_difference, first_in
from ..engine.errors import OnProgress, TruncatedError, error_path
from ..engine.files.claims import allocated, believes, file_size, is_view
from ..engine.files.extents import Extent, extents
from ..engine.files.status import open_quietly
from .plan import LEAST_BYTES, Task, plan, share_of, union, unpack
from .run import Do, Given, Run
from .task import Answer, Identity, answered, compare_identity, identity, version

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_WORTH_TASKS = 4
"""How many tasks' data two files have to have, so that they are given out."""


class _Side(NamedTuple):
    """One of two files: its path, what it is, and whether its map may be asked."""

    path: str
    is_: Identity
    believed: bool


def compare_task(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Compare the spans of two files that a request names, and return an :class:`.task.Answer` as a plain tuple.

    ``written`` is the offset of the first difference, plus 1, or 0. ``digest`` has the bytes read of each file.
    """
    return answered(request, _compare)


def _compare(request: tuple[Any, ...], answer: Answer) -> Answer:
    _, start, stop, ranges, sides = request
    tallies = Tally(), Tally()
    with contextlib.ExitStack() as stack:
        fds: list[int] = []
        maps = [unpack(ranges)]
        for side in (_Side(*each) for each in sides):
            fds.append(open_quietly(side.path))
            stack.callback(os.close, fds[-1])
            compare_identity(fds[-1], side.is_, side.path)
            if side.believed:
                maps.append(extents(fds[-1], start, stop, "trust"))
        (a, b), (a_path, b_path) = fds, (side[0] for side in sides)
        segments = ((offset, length, True, True) for offset, length in _union(maps))
        found = first_in(a, b, segments, BUFFER_BYTES, tallies, None, a_path, b_path)
        for fd, side in zip(fds, sides):
            compare_identity(fd, side[1], side[0])
    read = struct.pack("<QQ", tallies[0].read, tallies[1].read)
    return answer._replace(written=0 if found is None else found + 1, digest=read)


def _union(maps: list[Iterator[Extent]]) -> Iterator[Extent]:
    whole = maps[0]
    for each in maps[1:]:
        whole = union(whole, each)
    return whole


class Comparing:
    """Compares two open files as :func:`..engine.content.compare.first_difference` does, by an executor's workers.

    ``workers``: about how many there are.
    """

    def __init__(self, executor: Executor, workers: int) -> None:
        self._executor = executor
        self._workers = max(1, workers)

    def __call__(
        self,
        a_fd: int,
        b_fd: int,
        full: bool = False,
        *,
        holes: str = "auto",
        tallies: tuple[Tally, Tally] | None = None,
        progress: OnProgress = None,
        a_path: str = "a",
        b_path: str = "b",
    ) -> int | None:
        """Return the offset of the first byte in which two open files differ, or None if they are equal."""
        a_st, b_st = os.fstat(a_fd), os.fstat(b_fd)
        common = min(a_st.st_size, b_st.st_size)
        data = common if full else min(common, max(allocated(a_st), allocated(b_st)))
        plain = stat.S_ISREG(a_st.st_mode) and stat.S_ISREG(b_st.st_mode) and not (is_view(a_fd) or is_view(b_fd))
        if not plain or data < _WORTH_TASKS * LEAST_BYTES:
            return first_difference(
                a_fd, b_fd, full, holes=holes, tallies=tallies, progress=progress, a_path=a_path, b_path=b_path
            )
        sides: list[_Side] = []
        for fd, path in ((a_fd, a_path), (b_fd, b_path)):
            with error_path(path):
                sides.append(_Side(os.path.abspath(path), identity(fd), believes(fd, holes)))
        if full or not (sides[0].believed and sides[1].believed):
            ranges = iter([(0, common)])
        else:
            ranges = union(extents(a_fd, 0, common, "trust"), extents(b_fd, 0, common, "trust"))
        tallies = tallies or (Tally(), Tally())
        before = [tally.read for tally in tallies]
        compared = _CompareRun(self._executor, self._workers, sides, tallies, progress)
        compared.all_of(compared.before_the_first(plan(ranges, common, share_of(data, self._workers))))
        for tally, read in zip(tallies, before):
            tally.believed += max(0, (common if compared.first is None else compared.first) - (tally.read - read))
        for fd, path in ((a_fd, a_path), (b_fd, b_path)):
            if file_size(fd) < common:
                raise TruncatedError(path)
        if compared.first is None and a_st.st_size != b_st.st_size:
            return common
        return compared.first


class _CompareRun(Run):
    """The tasks of one comparison. ``first``: the offset of the first difference so far."""

    def __init__(
        self,
        executor: Executor,
        workers: int,
        sides: list[_Side],
        tallies: tuple[Tally, Tally],
        progress: OnProgress,
    ) -> None:
        super().__init__(executor, workers, sides[0].path)
        self._sides = tuple(tuple(side) for side in sides)
        self._tallies = tallies
        self._progress = progress
        self.first: int | None = None

    def before_the_first(self, tasks: Iterator[Task]) -> Iterator[Task]:
        """Yield the tasks in which an earlier difference may be."""
        for task in tasks:
            if self.first is not None and task.start > self.first:
                return
            yield task

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what compares."""
        task = given.task
        return compare_task, (version(), task.start, task.stop, task.ranges, self._sides)

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        """Take what was found."""
        if answer.written and (self.first is None or answer.written <= self.first):
            self.first = answer.written - 1
        for tally, read in zip(self._tallies, struct.unpack("<QQ", answer.digest)):
            tally.read += read
        if self._progress is not None:
            self._progress(given.task.data)
        return True
