"""A second process that puts every second batch of many small files in place.

For a file with little data nearly all the time goes into Python, and into the kernel's calls for its name. Both are
done on one processor, and where there is another, a process can do half of the files there::

    a batch of files      put in place here, while
    the next one          is put in place there; its results are told when those of the first have been
    ...

So results come in the order of the files, and what is told of them, and by whom, is as it is without. A file with more
data than :data:`SMALL_BYTES`, and what comes in no full batch, is done here, with the threads that help there.

The second process is a fork, and has the source and the destination as they were. It writes nothing but the files:
directories are made here, before. Where one file may have to do with another (:func:`is_possible`), there is none. A
Ctrl-C reaches it as well. Of any other end of this one it hears by a signal, or when it has done its batch. Then it
leaves no temporary file, and is waited for.

That it ends too early, since somebody has killed it, is an error. rsync does what is left.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Callable

from ...engine.errors import LeftToRsync, OnProgress
from ...engine.roles import LocalDestination, LocalSource, OnResult, Planned
from ...engine.second import SecondProcess, possible
from ...engine.transfer.records import FileResult

SMALL_BYTES = 64 * 1024
"""The most data of a file that goes to the second process."""

BATCH_FILES = 100
"""Files that are done at a time, by each of the two."""

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
    """Put files in place as ``put`` does, and have a second process do half of those that are small.

    Raises OSError if the process ends too early.
    """
    with contextlib.ExitStack() as stack:
        second: _Second | None = None
        results: list[FileResult] = []
        for batch in _batches(files):
            own, others = batch[:BATCH_FILES], batch[BATCH_FILES:]
            if others and second is None and _prepare(source, destination, others):
                with contextlib.suppress(OSError):  # there may be no more processes: setrlimit(2)
                    second = stack.enter_context(_Second(put))
            shared = None
            if len(others) == BATCH_FILES and second is not None and _are_apart(source, destination, own, others):
                shared = second
                shared.give(others)
            _tell(results, on_result, progress)  # while the second process is at work
            put(own if shared else batch, on_result, progress)
            results = shared.results() if shared else []
        _tell(results, on_result, progress)


def _tell(results: Iterable[FileResult], on_result: OnResult, progress: OnProgress) -> None:
    for result in results:
        if progress is not None and result.data:
            progress(result.data)
        on_result(result)


def _batches(files: Iterator[Planned]) -> Iterator[list[Planned]]:
    """Yield the files in order: as many small ones as two can do, or what is not shared."""
    batch: list[Planned] = []
    for file in files:
        if max(file.data, file.room) > SMALL_BYTES:  # all of it is read where its holes are not believed
            yield [*batch, file]
            batch = []
            continue
        batch.append(file)
        if len(batch) == 2 * BATCH_FILES:
            yield batch
            batch = []
    yield batch


def _are_apart(
    source: LocalSource, destination: LocalDestination, own: Iterable[Planned], others: Iterable[Planned]
) -> bool:
    """Return whether no file is in both batches, and the directories of the ``others`` are there."""
    return {file.name for file in own}.isdisjoint(file.name for file in others) and _prepare(
        source, destination, others
    )


def _prepare(source: LocalSource, destination: LocalDestination, files: Iterable[Planned]) -> bool:
    """Make the directories of files. Returns False if one is not to be had, which whoever needs it will tell."""
    last = None
    try:
        for file in files:
            above = file.name.rpartition("/")[0]
            if above != last:
                last = above
                destination.place.prepare(source.open(file.source, file.name, file.data).spec)
    except (OSError, ValueError, LeftToRsync):
        return False
    return True


class _Second:
    """The second process, as a context manager. Raises OSError as fork(2), pipe(2)."""

    def __init__(self, put: PutAll) -> None:
        self._told: list[str] = []
        self._put = put
        self._process = SecondProcess(self._answer, "put files in place")

    def __enter__(self) -> _Second:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """End the process, which removes what is not finished, and wait for that."""
        self._process.close()

    def give(self, files: Iterable[Planned]) -> None:
        """Have files put in place."""
        self._process.ask([tuple(file) for file in files])

    def results(self) -> list[FileResult]:
        """Return the results of the files that were given, once all are done. Raises OSError."""
        results: list[FileResult] = []
        for found, told in filter(None, self._process.answers(wait=True)):
            for text in told:
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            results += [FileResult(*result) for result in found]
        return results

    def _answer(self, files: list[tuple[Any, ...]]) -> Iterator[tuple[list[tuple[Any, ...]], list[str]]]:
        warnings.showwarning = lambda message, *where, **how: self._told.append(str(message))
        found: list[FileResult] = []
        self._put((Planned(*file) for file in files), found.append, None)
        yield [tuple(result) for result in found], self._told
        self._told.clear()
