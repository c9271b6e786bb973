"""Two large files, or many small ones, compared by many workers.

Of large files each worker compares a span, and the first difference is the smallest found. :class:`Comparing` takes the
place of :func:`..engine.content.compare.first_difference`. It maps both files and plans
the union of their data, as a copy is planned (:mod:`plan`), in ascending order, and gives out nothing that lies behind
a difference. A worker makes sure that it has the same two files, maps them again and reads, in both, what any of these
maps calls data. Devices and files of the kernel's are compared by the caller's thread.

Of two trees many pairs of files with little data go into one task (:class:`Pairs`). Each pair is waited for in its
turn, so that what is found comes in the order of one process. What a worker cannot compare, or finds changed, the
caller's thread does again, and tells as ever.

Sizes and offsets are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import struct
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engine.content.compare import BUFFER_BYTES, Tally, first_difference, first_in
from ..engine.errors import OnProgress, TruncatedError, error_path
from ..engine.files.claims import allocated, believes, file_size, is_view
from ..engine.files.extents import Extent, extents
from ..engine.files.status import open_quietly
from .engines import count_workers
from .file_copy import absolute
from .plan import LEAST_BYTES, Task, plan, share_of, union, unpack
from .run import Do, Given, Run, gone_text, parts_of
from .task import Answer, Identity, answered, compare_identity, identity, identity_of, version

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_WORTH_TASKS = 4
"""How many tasks' data two files have to have, so that they are given out by themselves."""

_MOST_PAIRS = 256
"""Of a task: to give one out takes as long as to compare a few small files."""
_MOST_AHEAD = 32768
"""How many pairs are held, each in about a kilobyte."""


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


def _data_of(a_st: os.stat_result, b_st: os.stat_result, full: bool) -> int:
    """Return about how many bytes there are to compare."""
    common = min(a_st.st_size, b_st.st_size)
    return common if full else min(common, max(allocated(a_st), allocated(b_st)))


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
        data = _data_of(a_st, b_st, full)
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


def pairs_task(request: tuple[Any, ...]) -> tuple[Any, ...]:
    """Compare pairs of files that a request names, and return an :class:`.task.Answer` as a plain tuple.

    ``parts`` has an Answer of each pair, as of :func:`compare_task`, but for ``digest``: it has the bytes read and
    believed of each file, and the progress.
    """

    def each(request: tuple[Any, ...], answer: Answer) -> Answer:
        _, full, holes, pairs = request
        told = (answered((version(), pair, full, holes), _compare_pair) for pair in json.loads(pairs))
        return answer._replace(parts=tuple(told))

    return answered(request, each)


def _compare_pair(request: tuple[Any, ...], answer: Answer) -> Answer:
    _, pair, full, holes = request
    tallies = Tally(), Tally()
    progress = 0

    def tell(count: int) -> None:
        nonlocal progress
        progress += count

    with contextlib.ExitStack() as stack:
        fds: list[int] = []
        for path, is_ in pair:
            fds.append(open_quietly(path))
            stack.callback(os.close, fds[-1])
            compare_identity(fds[-1], is_, path)
        (a_fd, b_fd), ((a, _), (b, _)) = fds, pair
        found = first_difference(a_fd, b_fd, full, holes=holes, tallies=tallies, progress=tell, a_path=a, b_path=b)
        for fd, (path, is_) in zip(fds, pair):
            compare_identity(fd, is_, path)
    counts = struct.pack("<5Q", *(count for tally in tallies for count in (tally.read, tally.believed)), progress)
    return answer._replace(written=0 if found is None else found + 1, digest=counts)


class Pair:
    """Two files that a worker compares.

    ``begun``: they are in a task.
    ``answer``: what the worker has said, once it has.
    """

    def __init__(self, files: tuple[Any, ...]) -> None:
        self.files = files
        self.begun = False
        self.answer: Answer | None = None


class Pairs(Run):
    """Pairs of files with little data, and their tasks. Use :meth:`add`, and later :meth:`wait`; at the end close it.

    ``ahead``: how many pairs to add before the first is waited for.
    """

    def __init__(
        self,
        executor: Executor,
        full: bool,
        holes: str,
        tallies: tuple[Tally, Tally] | None,
        progress: OnProgress,
    ) -> None:
        super().__init__(executor, count_workers(executor), "")
        self._full = full
        self._holes = holes
        self._tallies = tallies or (Tally(), Tally())
        self._progress = progress
        self._filling: list[Pair] = []
        self._data = 0
        self._failed: OSError | None = None
        self._ready: deque[list[Pair]] = deque()
        self.ahead: int = min(_MOST_AHEAD, (self._in_flight + 1) * _MOST_PAIRS)

    def add(self, a: str, b: str, a_st: os.stat_result, b_st: os.stat_result) -> Pair | None:
        """Take two regular files, and return the pair; None if they are too large, and not for these tasks."""
        data = _data_of(a_st, b_st, self._full)
        if data >= _WORTH_TASKS * LEAST_BYTES:
            return None
        pair = Pair(tuple((absolute(path), identity_of(st)) for path, st in ((a, a_st), (b, b_st))))
        self._filling.append(pair)
        self._data += data
        if len(self._filling) >= _MOST_PAIRS or self._data >= LEAST_BYTES:
            self._begin()
        return pair

    def _begin(self) -> None:
        for pair in self._filling:
            pair.begun = True
        self._ready.append(self._filling)
        self._filling, self._data = [], 0
        self._work(0)

    def _work(self, seconds: float | None) -> None:
        # What has failed once is not to be had later: of some pairs there will be no answer.
        if self._failed is not None:
            raise self._failed
        try:
            self._listen(seconds)
            self.fill(self)
            self._give_slow_ones_again()
        except OSError as error:
            self._failed = error
            raise

    def __iter__(self) -> Pairs:
        return self

    def __next__(self) -> list[Pair]:
        if not self._ready:
            raise StopIteration  # for now
        return self._ready.popleft()

    def wait(self, pair: Pair) -> tuple[bool, int | None]:
        """Return whether a worker has compared the pair, and the offset of the first byte in which it differs, if any.

        Raises OSError, without a file, if the workers are gone.
        """
        if not pair.begun:
            self._begin()
        while pair.answer is None:
            self._work(None)
        return pair.answer.kind == "done", pair.answer.written - 1 if pair.answer.written else None

    def close(self) -> None:
        """Have nothing more compared."""
        self._cancel()

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what compares pairs."""
        # As one string: dask looks at each part of a tuple, and takes longer for that than for all else.
        return pairs_task, (version(), self._full, self._holes, json.dumps([pair.files for pair in given.task]))

    def check(self, answer: Answer) -> None:
        """Raise OSError, without a file, unless the worker has tried all pairs."""
        if answer.kind != "done":
            raise OSError(errno.EPROTO, answer.message or "a worker has sent no answer")

    def gone(self, error: BaseException) -> OSError:
        """Return what to raise for an engine that runs no more tasks."""
        return OSError(errno.ECHILD, gone_text(error, self.goes_on))

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        """Take what was found."""
        for pair, told in zip(given.task, parts_of(answer, len(given.task))):
            pair.answer = told
            if told.kind == "done":
                *counts, progress = struct.unpack("<5Q", told.digest)
                for tally, read, believed in zip(self._tallies, counts[::2], counts[1::2]):
                    tally.read += read
                    tally.believed += believed
                if self._progress is not None and progress:
                    self._progress(progress)
        return True


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
