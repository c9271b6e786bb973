"""Many files copied by workers at once: files with few data together in one task, large ones in several.

Each file is a stream of steps (:func:`..engine.content.copy.copying`) that stops where ranges are to be copied, so that
as many are under way as the workers need, and no more::

    the next file     its steps begin: a temporary with its size; then its ranges are planned, as of one file (plan)
    a bundle          the tasks of files, until there is enough data, or there are enough files, for one to be given out
    an answer         each file all of whose tasks are done goes on: it gets its attributes and its name

The files come with the large ones first (:func:`.plan.large_files_first`), so that in the end bundles are left, which
take every worker about as long.

A file that fails is a file that fails: its steps are told, and the rest goes on. An engine that is gone, or a worker
that does not see the files, ends all. A file with several tasks has a journal (:mod:`journal`), and is gone on with by
the next run. Of a bundle the next run does all.

A worker that was given the tasks of a file, and has not answered, may still write to it when others have. Then the
file waits until nobody does (:meth:`.file_copy.FileCopy.take_away`). If that does not come to be, the file has failed.

Each file that is under way has descriptors open, so their limit (RLIMIT_NOFILE) bounds how many go into a bundle.
Sizes and offsets are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ..engine.content.copy import after_hands
from ..engine.content.hands.writer import Asked, Hands, Threads, Work
from ..engine.errors import LinkError
from ..engine.files.extents import Extent
from ..engine.files.writing.target import Target
from .coordinator import GRACE_SECONDS, LOOK_SECONDS
from .engines import count_workers
from .file_copy import FileCopy
from .plan import LEAST_BYTES, MOST_EXTENTS, Task, largest_first
from .run import CheckedRun, Do, Given, compare_digests, gone_text, parts_of, raise_failure
from .task import Answer, NotBy, bundle_task, check_task, version

if TYPE_CHECKING:
    from concurrent.futures import Executor

Steps = Generator[Asked, int, None]

_MOST_FILES = 64
"""Of a bundle: to give one out takes as long as to copy a few small files."""

_DESCRIPTORS = 5
"""That a file needs, while it is under way."""

_FLUSH_SECONDS = 1.0
_EXTENT_BYTES = 16


class WorkersHands(Hands):
    """The hands for one file of many. What asks for them is given to workers by :func:`copy_all`.

    ``data``: about how many bytes the file has.
    ``directory``: the absolute path of the temporary's directory.
    ``check_other``: have another worker read back what one wrote.
    """

    def __init__(self, workers: int, data: int, directory: str, check_other: bool = False) -> None:
        self.copy: FileCopy = FileCopy(workers, check_other, journaled=data > LEAST_BYTES)
        self.directory = directory

    def partial(self, directory: int, name: str) -> tuple[int, str]:
        """Return the partial file."""
        return self.copy.partial(directory, name)

    def begin(self, source: int, source_path: str, target: Target) -> None:
        """Continue the copy of an earlier run, if the target has a partial file that is one."""
        self.copy.begin(source, target)

    def write(self, work: Work, ranges: Iterable[Extent]) -> int:
        """Copy what workers cannot."""
        return Threads().write(work, ranges)

    def __exit__(self, *exc_info: object) -> None:
        """Remove the journal, unless there is something to go on with."""
        self.copy.close()


class _File:
    """A file that is under way.

    ``left``: how many of its tasks are not done.
    ``out``: how many answers may still come.
    ``planned``: all its tasks are known.
    """

    def __init__(self, steps: Steps, hands: WorkersHands, work: Work) -> None:
        self.steps = steps
        self.hands = hands
        self.work = work
        self.left = self.out = 0
        self.planned = self.over = False


class _Bundle(NamedTuple):
    """Tasks that are given out together, each with its file."""

    parts: list[tuple[_File, Task]]


def copy_all(
    executor: Executor, files: Iterable[Steps], check: Callable[[], object], check_other: bool = False
) -> None:
    """Run the steps of all files, and have an executor's workers copy what they ask of :class:`WorkersHands`.

    ``check``: called now and then; what it raises ends all.
    ``check_other``: have another worker read back what one wrote.

    Raises LinkError if the workers are gone, and what the steps raise.
    """
    with _BundleRun(executor, count_workers(executor), check, check_other) as run:
        run.all_of(run.bundles(iter(files)))
        run.end()


class _BundleRun(CheckedRun):
    """The tasks of many files. A context manager: files that are under way at its end are given up."""

    def __init__(
        self, executor: Executor, workers: int, check: Callable[[], object], check_other: bool = False
    ) -> None:
        super().__init__(executor, workers, "", check_other)
        self._check = check
        self._files: set[_File] = set()
        self._waiting: set[_File] = set()
        self._flushed = time.monotonic()
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if descriptors == resource.RLIM_INFINITY:
            descriptors = 1 << 20
        # Half of them are for others. One bundle more than is given out is being filled.
        self._most_files = max(1, min(_MOST_FILES, descriptors // 2 // _DESCRIPTORS // (self._in_flight + 1)))

    def __enter__(self) -> _BundleRun:
        return self

    def bundles(self, files: Iterator[Steps]) -> Iterator[_Bundle]:
        """Yield the bundles of all files, and go on with those that workers have nothing to do for."""
        parts: list[tuple[_File, Task]] = []
        data = extents = 0
        for steps in files:
            self._check()
            asked = _until_asked(steps, next, steps)
            if asked is None:
                continue
            file = _File(steps, asked.hands, asked.work)  # type: ignore[arg-type]
            self._files.add(file)
            for task in self._planned(file, asked.ranges):
                if parts and data + task.data > LEAST_BYTES:
                    yield _Bundle(parts)
                    parts, data, extents = [], 0, 0
                if file.over:  # another of its tasks has failed meanwhile
                    break
                file.left += 1
                parts.append((file, task))
                data, extents = data + task.data, extents + len(task.ranges) // _EXTENT_BYTES
                if len(parts) >= self._most_files or data >= LEAST_BYTES or extents >= MOST_EXTENTS:
                    yield _Bundle(parts)
                    parts, data, extents = [], 0, 0
            file.planned = True
            self._go_on(file)
        if parts:
            yield _Bundle(parts)

    def _planned(self, file: _File, ranges: Iterable[Extent]) -> Iterator[Task]:
        try:
            yield from largest_first(file.hands.copy.tasks(file.work, ranges, file.hands.directory))
        except OSError as error:
            self._end(file, file.steps.throw, error)

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what copies a bundle, or reads it back. One more may have its files open then."""
        for file, _ in given.task.parts:
            file.out += 1
        return super().request(given)

    def to_copy(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what copies a bundle."""
        requests = (tuple(file.hands.copy.requested(task)) for file, task in given.task.parts)
        return bundle_task, (version(), tuple(requests))

    def to_check(self, given: Given, copied: Answer, not_by: NotBy) -> tuple[Do, tuple[Any, ...]]:
        """Return what reads back a bundle. What failed is read, too, and nobody looks at that."""
        answers = parts_of(copied, len(given.task.parts))
        requests = (file.hands.copy.to_be_read(task, told) for (file, task), told in zip(given.task.parts, answers))
        return check_task, (version(), tuple(requests), tuple(not_by))

    def back(self, given: Given) -> None:
        """Go on with files that waited only for this."""
        for file, _ in given.task.parts:
            file.out -= 1
            if file in self._waiting:
                self._go_on(file)

    def done(self, given: Given, copied: Answer, checked: Answer | None) -> None:
        """Note what is done, and go on with the files that are."""
        count = len(given.task.parts)
        read_back = [None] * count if checked is None else parts_of(checked, count)
        for (file, task), told, read in zip(given.task.parts, parts_of(copied, count), read_back):
            if file.over:
                continue
            try:
                raise_failure(told, file.work.source_path)
                if read is not None:
                    compare_digests(told, read, file.work.target.path)
                file.hands.copy.take(task, told.written)
            except OSError as error:
                if isinstance(error, LinkError):
                    raise
                _check_seen(file, error)
                self._end(file, file.steps.throw, error)
                continue
            file.left -= 1
            self._go_on(file)

    def check(self, answer: Answer) -> None:
        """Raise LinkError unless the worker has tried all of the bundle."""
        if answer.kind != "done":
            raise LinkError(answer.message or "a worker has sent no answer", retryable=False)

    def _go_on(self, file: _File) -> None:
        """Go on with a file if all its tasks are done, and nobody may write to it any more."""
        if file.left or not file.planned or file.over:
            return
        copy = file.hands.copy
        try:
            if not copy.take_away(file.work.target, file.out > 0):
                self._waiting.add(file)
                return
            copy.check_source(file.work)
        except OSError as error:
            self._end(file, file.steps.throw, error)
            return
        self._end(file, file.steps.send, copy.written)

    def _end(self, file: _File, go: Callable[..., Asked], what: object) -> None:
        file.over = True
        self._files.discard(file)
        self._waiting.discard(file)
        if _until_asked(file.steps, go, what) is not None:
            raise RuntimeError("a file's ranges are copied once")

    def idle(self) -> None:
        """Have on the disk what journals say, and go on with files that wait no longer."""
        self._check()
        for file in list(self._waiting):
            self._go_on(file)
        if time.monotonic() > self._flushed + _FLUSH_SECONDS:
            for file in self._files:
                file.hands.copy.flush()
            self._flushed = time.monotonic()

    def gone(self, error: BaseException) -> OSError:
        """Return what to raise for an engine that runs no more tasks."""
        return LinkError(gone_text(error, True))  # at least with the files that have their names

    def end(self) -> None:
        """Wait for workers that are late. A file to which one may still write has failed."""
        end = time.monotonic() + GRACE_SECONDS
        while (self.outstanding or self._waiting) and time.monotonic() < end:
            self.settle(LOOK_SECONDS)
            self.idle()
        for file in list(self._files):
            what = "a worker does not answer, and may still write to it"
            self._end(file, file.steps.throw, OSError(errno.EBUSY, what, file.work.target.path))

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.ExitStack() as stack:
            for file in self._files:
                stack.callback(file.steps.close)


def _until_asked(steps: Steps, go: Callable[..., Asked], what: object) -> Asked | None:
    """Go on with steps until they ask for workers, and return what they ask for; None at their end."""
    try:
        asked = go(what)
        while not (isinstance(asked.hands, WorkersHands) and asked.hands.copy.possible):
            asked = after_hands(steps, asked)
    except StopIteration:
        return None
    return asked


def _check_seen(file: _File, error: OSError) -> None:
    """Raise LinkError if a worker has not found a file that is here, and as it was."""
    request = file.hands.copy.request
    if request is None or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
        return
    try:
        file.hands.copy.check_source(file.work)
        st = os.stat(request.source)
        temporary = os.stat(os.path.join(request.directory, request.name), follow_symlinks=False)
    except OSError:
        return
    if (st.st_ino, temporary.st_ino) == (request.source_is[0], request.inode):
        said = f"{error.filename}: {error.strerror}: all workers have to see both ends by the same paths"
        raise LinkError(said, retryable=False) from error
