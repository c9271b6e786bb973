"""A second process that puts a part of many small files in place.

For a file with little data nearly all the time goes into Python, and into the kernel's calls for its name. Both are
done on one processor, and where there is another, a process can do a part of the files there::

    the second process has room    -> it gets a batch of files, of other directories if there is one
    else                           -> the next batch is put in place here
    its results come               -> all that are next in the order of the files are told

In one directory the two would wait for each other: names are made there one by one. What is told of the files, in which
order, and by whom, is as it is without a second process. Whoever is faster does more. A file with more data than
:data:`SMALL_BYTES` is done here, with the threads that help there.

The second process is a fork, and has the source and the destination as they were. It writes nothing but the files:
directories are made here, before. Where one file may have to do with another (:func:`is_possible`), there is none. It
leaves no temporary file when it is ended, and is waited for. If somebody kills it, what it has not told of is done
here.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from ...engine.errors import LeftToRsync, OnProgress
from ...engine.roles import LocalDestination, LocalSource, OnResult, Planned
from ...engine.second import HasEnded, SecondProcess, possible
from ...engine.transfer.records import FileResult

SMALL_BYTES = 64 * 1024
"""The most data of a file that goes to the second process."""

BATCH_FILES = 50
"""Files that are done at a time: some milliseconds' work."""

_MAX_AHEAD = 24
"""Batches among which one of other directories is looked for."""

_MAX_GIVEN = 2
"""Batches with the second process: one that it does, and one for which it need not wait."""

_MAX_UNTOLD = 64
"""Batches whose results wait for those of an earlier one. Then that is waited for."""

PutAll = Callable[[Iterable[Planned], OnResult, OnProgress], None]
"""Puts files in place, and tells their results and the bytes of data done."""


def is_possible(source: LocalSource, destination: LocalDestination) -> bool:
    """Return whether there is another processor, and files can be put in place at the same time.

    That is not so in place, where two names may be those of one file, nor where any file may be the basis of another,
    nor for files whose content is in a clone.
    """
    return not (source.tracked or source.listed) and destination.place.is_apart and possible()


def put_by_two(
    source: LocalSource,
    destination: LocalDestination,
    files: Iterator[Planned],
    put: PutAll,
    on_result: OnResult,
    progress: OnProgress,
) -> None:
    """Put files in place as ``put`` does, and have a second process do a part of those that are small."""
    batches: deque[_Batch] = deque()

    def here(batch: _Batch) -> None:
        results: list[FileResult] = []
        put(batch.files, results.append, progress)
        batch.results = results

    def tell() -> None:
        while batches and batches[0].results is not None:
            for result in batches.popleft().results or ():
                on_result(result)

    def take(second: _Second, wait: bool) -> None:
        for lost in second.take(wait):
            here(lost)

    coming = _batches(files)
    ahead: deque[_Batch] = deque()
    with contextlib.ExitStack() as stack:
        second: _Second | None = None
        while True:
            while len(ahead) < _MAX_AHEAD and (not ahead or len(batches) < _MAX_UNTOLD):
                following = next(coming, None)
                if following is None:
                    break
                ahead.append(following)
                batches.append(following)
            if not ahead:
                break
            given = _apart(ahead) if second is None or second.has_room else None
            if given is not None and _prepare(source, destination, given):
                if second is None:
                    with contextlib.suppress(OSError):  # there may be no more processes: setrlimit(2)
                        second = stack.enter_context(_Second(put, progress))
                if second is not None:
                    ahead.remove(given)
                    second.give(given)
                    continue
            batch = ahead.popleft()
            if second is not None and second.is_at(batch):
                take(second, wait=True)
            here(batch)
            if second is not None:
                take(second, wait=len(batches) > _MAX_UNTOLD)
            tell()
        if second is not None:
            take(second, wait=True)
        tell()


class _Batch:
    """Files that are done one after the other, and their results, when there are some.

    ``is_small``: whether it may be given away.
    """

    def __init__(self, files: list[Planned], is_small: bool) -> None:
        self.files = files
        self.is_small = is_small
        self.directories: set[str] = {file.name.rpartition("/")[0] for file in files}
        self.results: list[FileResult] | None = None


def _apart(ahead: Iterable[_Batch]) -> _Batch | None:
    """Return the first small batch that has no directory of an earlier one, or else the first of all if it is small.

    A name that comes twice has one directory, so what comes first is done first.
    """
    first: _Batch | None = None
    earlier: set[str] = set()
    for batch in ahead:
        if first is None:
            first = batch
        elif batch.is_small and batch.directories.isdisjoint(earlier):
            return batch
        earlier |= batch.directories
    return first if first is not None and first.is_small else None


def _batches(files: Iterator[Planned]) -> Iterator[_Batch]:
    """Yield the files in order. One with much data is a batch of its own, and one with half of its files may end early.

    So it is mostly of one directory.
    """
    batch: list[Planned] = []
    above = ""
    for file in files:
        if 2 * len(batch) >= BATCH_FILES and file.name.rpartition("/")[0] != above:
            yield _Batch(batch, True)
            batch = []
        above = file.name.rpartition("/")[0]
        if max(file.data, file.room) > SMALL_BYTES:  # all of it is read where its holes are not believed
            if batch:
                yield _Batch(batch, True)
            yield _Batch([file], False)
            batch = []
            continue
        batch.append(file)
        if len(batch) == BATCH_FILES:
            yield _Batch(batch, True)
            batch = []
    if batch:
        yield _Batch(batch, True)


def _prepare(source: LocalSource, destination: LocalDestination, batch: _Batch) -> bool:
    """Make the directories of a batch. Returns False if one is not to be had, which whoever needs it will tell."""
    last = None
    try:
        for file in batch.files:
            above = file.name.rpartition("/")[0]
            if above != last:
                last = above
                destination.place.prepare(source.open(file.source, file.name, file.data).spec)
    except (OSError, ValueError, LeftToRsync):
        batch.is_small = False
        return False
    return True


class _Second:
    """The second process, as a context manager. Raises OSError as fork(2), pipe(2)."""

    def __init__(self, put: PutAll, progress: OnProgress) -> None:
        self._put = put
        self._progress = progress
        self._given: deque[_Batch] = deque()
        self._told: list[tuple[str, str, int]] = []
        self._is_there = True
        self._process = SecondProcess(self._answer, "put files in place")

    def __enter__(self) -> _Second:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the process, which removes what is not finished, and wait for that."""
        self._process.close(tidy=True)

    @property
    def has_room(self) -> bool:
        """Whether it can be given a batch."""
        return self._is_there and len(self._given) < _MAX_GIVEN

    def is_at(self, batch: _Batch) -> bool:
        """Return whether it may be at work on a file that is in a batch, too."""
        names = {file.name for file in batch.files}
        return any(file.name in names for given in self._given for file in given.files)

    def give(self, batch: _Batch) -> None:
        """Have a batch done."""
        self._given.append(batch)
        self._process.ask([tuple(file) for file in batch.files])

    def take(self, wait: bool) -> list[_Batch]:
        """Take the results so far, and return the batches that will have none, since the process has ended.

        ``wait``: take the results of all that was given. Raises OSError.
        """
        lost: list[_Batch] = []
        try:
            for found, told in filter(None, self._process.answers(wait)):
                for text, file, line in told:
                    warnings.warn_explicit(text, RuntimeWarning, file, line, registry=_warned(file))
                results = [FileResult(*result) for result in found]
                self._given.popleft().results = results
                data = sum(result.data for result in results)
                if self._progress is not None and data:
                    self._progress(data)
        except HasEnded:
            self._is_there = False
            lost += self._given
            self._given.clear()
        return lost

    def _answer(self, files: list[tuple[Any, ...]]) -> Iterator[tuple[list[tuple[Any, ...]], list[Any]]]:
        def note(
            message: Warning | str,
            category: object,
            filename: str,
            lineno: int,
            file: object = None,
            line: object = None,
        ) -> None:
            self._told.append((str(message), filename, lineno))

        warnings.showwarning = note
        found: list[FileResult] = []
        self._put((Planned(*file) for file in files), found.append, None)
        yield [tuple(result) for result in found], self._told
        self._told.clear()


def _warned(file: str) -> dict[Any, Any]:
    """Return where :mod:`warnings` notes what was told of a module, so that it is not told by both processes."""
    for module in [*sys.modules.values()]:
        if getattr(module, "__file__", None) == file:
            return vars(module).setdefault("__warningregistry__", {})  # type: ignore[no-any-return]
    return {}
