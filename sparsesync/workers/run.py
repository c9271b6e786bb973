"""Tasks, given out to an executor.

What :class:`Run` does::

    while tasks are left, or given out:
        give out as many as keep the workers busy, the largest first
        wait for an answer
            done       -> the task is done, or has another step
            failed     -> that is the error of all
            no answer  -> the engine has lost it: give it out again, a few times
        what takes five times the median is given out a second time; the first answer counts

:class:`CheckedRun` is for tasks that another worker may be asked to read back: that is the other step.

An executor is anything with ``submit``, whose futures have ``add_done_callback``, ``cancel`` and ``result``. That a
task was cancelled is believed only of an engine that tells which tasks run: dask cancels any task, and the worker goes
on with it.

Sizes and offsets are bytes.
"""

from __future__ import annotations

import contextlib
import errno
import queue
import statistics
import time
import warnings
from collections import deque
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any, Callable, TypeVar

from ..engine.errors import LinkError
from .engines import has_workers, why_closed
from .task import Answer, NotBy, answers

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_MAX_FAILURES = 3
"""How often the engine may lose one task."""

_POLL_SECONDS = 0.5
_ASK_SECONDS = 5.0
"""How often a scheduler is asked whether it has workers."""
_SLOW = 5
"""A task that takes so many times the median is given out a second time, but not before _SLOW_SECONDS."""
_SLOW_SECONDS = 5.0
_MEDIAN_OF = 101

_MAX_SAME = 600
"""How often a task may come to the one worker that must not do it."""
_HOLD_SECONDS = 0.02
"""How long that worker keeps it, so that the other of two may take it."""


Do = Callable[..., Any]
_Task = TypeVar("_Task")


class Given:
    """A task that was given out: the futures that are out, those of them that read back, and what has come of it.

    ``since``: when this step of it was first given out.
    ``begun``: when each future was.
    """

    def __init__(self, task: Any) -> None:
        self.task = task
        self.copied: Answer | None = None
        self.out: set[Any] = set()
        self.checks: set[Any] = set()
        self.since: float = 0.0
        self.begun: dict[Any, float] = {}
        self.failures = self.same = 0
        self.done = False


class Run:
    """Tasks, from the first that is given out to the last answer. What they are, a subclass says.

    ``workers``: about how many the executor has.
    ``path``: the file in messages.
    """

    def __init__(self, executor: Executor, workers: int, path: str) -> None:
        self._executor = executor
        self._path = path
        # Some wait at the workers, so that none waits for the next.
        self._in_flight = workers + workers // 8 + 1
        self._given: set[Given] = set()
        self._again: deque[Given] = deque()
        self._heard: queue.SimpleQueue[tuple[Given, Future[Any]]] = queue.SimpleQueue()
        self._took: deque[float] = deque(maxlen=_MEDIAN_OF)
        self._looked = time.monotonic()
        self._looked_for_workers = self._looked
        self._has_workers = True
        self._tells = False
        self.outstanding: set[Future[Any]] = set()

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return the function of a worker's that does a task, and what it is to be called with."""
        raise NotImplementedError

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        """Take an answer, and return whether it ends the task. Raises OSError."""
        raise NotImplementedError

    def check(self, answer: Answer) -> None:
        """Raise OSError unless the worker has done the task."""
        raise_failure(answer, self._path)

    def idle(self) -> None:
        """Do what is to be done now and then."""

    def back(self, given: Given) -> None:
        """Take note that an answer to a task has come, or will not come any more."""

    def all_of(self, tasks: Iterator[_Task]) -> None:
        """Have all tasks done. Raises OSError for the first that cannot be."""
        for _ in self.turns(tasks):
            pass

    def turns(self, tasks: Iterator[_Task]) -> Generator[None, None, None]:
        """Have all tasks done, and yield after each turn. Raises OSError for the first that cannot be.

        ``tasks``: if there is none, it is asked again after the next answer.
        """
        try:
            while True:
                self.fill(tasks)
                if not self._given:
                    break
                self._listen()
                yield
                self._give_slow_ones_again()
            self._look_for_running()
            if self._tells:
                self._cancel()
        except BaseException:
            self._cancel()
            raise

    def fill(self, tasks: Iterator[_Task]) -> None:
        """Give out as many tasks as keep the workers busy. Raises OSError if the engine takes none."""
        while len(self._given) < self._in_flight:
            given = self._again.popleft() if self._again else None
            if given is None:
                task = next(tasks, None)
                if task is None:
                    break
                given = Given(task)
            self._given.add(given)
            self.give(given)

    def _cancel(self) -> None:
        """Have what is given out not be begun, where that can be had."""
        for future in list(self.outstanding):
            with contextlib.suppress(Exception):  # an engine may have no such thing, and says so in its own way
                if future.cancel():
                    self.outstanding.discard(future)

    def _look_for_running(self) -> None:
        self._tells = self._tells or any(_runs(future) for future in self.outstanding)

    def give(self, given: Given) -> None:
        """Give a task out, once more if it is out already. Raises OSError if the engine takes none."""
        do, request = self.request(given)
        try:
            future = self._executor.submit(do, request)
        except Exception as error:  # what an engine raises is its own
            raise self.gone(error) from error
        given.begun[future] = time.monotonic()
        given.since = given.since or given.begun[future]
        given.out.add(future)
        if given.copied is not None:
            given.checks.add(future)
        self.outstanding.add(future)
        future.add_done_callback(lambda done: self._heard.put((given, done)))

    @property
    def goes_on(self) -> bool:
        """Whether a later run goes on with what is done."""
        return False

    def gone(self, error: BaseException) -> OSError:
        """Return what to raise for an engine that runs no more tasks."""
        return OSError(errno.ECHILD, gone_text(error, self.goes_on), self._path)

    def _listen(self, seconds: float | None = None) -> None:
        """Wait for an answer, not for ever, and take all that have come."""
        with contextlib.suppress(queue.Empty):
            heard = self._heard.get(timeout=_POLL_SECONDS if seconds is None else seconds)
            while True:
                self._take(*heard)
                heard = self._heard.get_nowait()
        closed = why_closed(self._executor)
        if self._given and closed and self._heard.empty():  # in this order: it may answer a last time
            raise self.gone(ConnectionError(closed))
        self._tell_of_no_workers()
        self.idle()

    def _tell_of_no_workers(self) -> None:
        """Say once for each time that there are no workers, since others may come, and are waited for."""
        if time.monotonic() < self._looked_for_workers + _ASK_SECONDS:
            return
        before, self._has_workers = self._has_workers, has_workers(self._executor)
        self._looked_for_workers = time.monotonic()
        if before and not self._has_workers:
            warnings.warn("the scheduler has no workers: they are waited for", RuntimeWarning, stacklevel=2)

    def _take(self, given: Given, future: Future[Any]) -> None:
        self.outstanding.discard(future)
        given.out.discard(future)
        begun = given.begun.pop(future)
        self.back(given)
        try:
            answer = next(answers(future.result()))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # of the engine, a CancelledError among them, which is no Exception to some
            if not given.done and not given.out:
                given.failures += 1
                if given.failures > _MAX_FAILURES:
                    raise self.gone(error) from error
                given.since = 0.0
                self._given.discard(given)
                self._again.append(given)
            return
        if given.done:
            return
        if answer.kind != "same":
            self.check(answer)
            # Of what was given out twice, how long it took who has done it: the others wait no longer for their second.
            self._took.append(time.monotonic() - begun)
        if self.ends(given, future, answer):
            given.done = True
            self._given.discard(given)

    def _give_slow_ones_again(self) -> None:
        if len(self._took) < 3 or time.monotonic() < self._looked + _POLL_SECONDS:
            return
        self._looked = time.monotonic()
        self._look_for_running()
        late = time.monotonic() - max(_SLOW_SECONDS, _SLOW * statistics.median(self._took))
        for given in [given for given in self._given if given.since < late and len(given.out) == 1]:
            self.give(given)

    def settle(self, seconds: float) -> bool:
        """Wait until nothing is given out any more. Returns whether that came to be."""
        end = time.monotonic() + seconds
        while self.outstanding or not self._heard.empty():
            left = end - time.monotonic()
            if left <= 0:
                return False
            with contextlib.suppress(queue.Empty):
                given, future = self._heard.get(timeout=left)
                self.outstanding.discard(future)
                given.out.discard(future)
                self.back(given)
        return True


class CheckedRun(Run):
    """Tasks that copy, each of which another worker reads back if ``checks`` is set."""

    def __init__(self, executor: Executor, workers: int, path: str, checks: bool) -> None:
        super().__init__(executor, workers, path)
        self._checks = checks

    def to_copy(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what copies, as :meth:`request`."""
        raise NotImplementedError

    def to_check(self, given: Given, copied: Answer, not_by: NotBy) -> tuple[Do, tuple[Any, ...]]:
        """Return what reads back what was copied, as :meth:`request`. ``copied``: what the worker who wrote it said."""
        raise NotImplementedError

    def done(self, given: Given, copied: Answer, checked: Answer | None) -> None:
        """Take note of a task that is done. ``checked``: what the other worker said, if it was read back.

        Raises OSError, also if what was read back is something else.
        """
        raise NotImplementedError

    def request(self, given: Given) -> tuple[Do, tuple[Any, ...]]:
        """Return what copies, or reads back."""
        if given.copied is None:
            return self.to_copy(given)
        hold = min(10, given.same) * _HOLD_SECONDS
        return self.to_check(given, given.copied, NotBy(given.copied.by, hold))

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        """Have what was copied read back, if that is wanted, and note what is done."""
        if answer.kind == "same":
            given.same += 1
            if given.same > _MAX_SAME:
                what = f"no other worker than {answer.by} could be had to read back what it wrote"
                raise OSError(errno.EAGAIN, what, self._path or None)
            if not given.out:  # the one who wrote it takes one of two, and while it keeps that, another is free
                self.give(given)
                self.give(given)
            return False
        if given.copied is None:
            if not self._checks:
                self.done(given, answer, None)
                return True
            given.copied, given.since = answer, 0.0
            self.give(given)
            return False
        if future not in given.checks:
            return False
        self.done(given, given.copied, answer)
        return True


def parts_of(answer: Answer, count: int) -> list[Answer]:
    """Return the answers to each of ``count`` requests. Raises LinkError if there are not as many."""
    parts = [found for part in answer.parts for found in answers(part)]
    if len(parts) != count:
        raise LinkError("a worker has sent no answer")
    return parts


def compare_digests(copied: Answer, checked: Answer, path: str) -> None:
    """Raise OSError unless another worker has read back what one wrote."""
    raise_failure(checked, path)
    if checked.digest != copied.digest:
        what = f"what {copied.by} wrote is not what {checked.by} has read back"
        raise untrue(OSError(errno.EIO, what, path))


def check_enough(workers: int) -> None:
    """Raise ValueError if there is no other worker to read back what one wrote."""
    if workers < 2:
        raise ValueError("there is only one worker, and what it wrote is to be read back by another")


def _runs(future: Future[Any]) -> bool:
    """Return whether an engine says that a task runs."""
    with contextlib.suppress(Exception):
        return bool(future.running())
    return False


def gone_text(error: BaseException, goes_on: bool) -> str:
    """Return what to say of an engine that runs no more tasks. ``goes_on``: as :attr:`Run.goes_on`."""
    again = "run this again, and it goes on where it was" if goes_on else "run this again"
    return f"the workers are gone ({type(error).__name__}: {error}): {again}"


def raise_failure(answer: Answer, path: str) -> None:
    """Raise the error that an answer tells of, if any."""
    path = answer.path or path
    if answer.kind == "failed":
        raise OSError(answer.errno or errno.EIO, answer.message, path)
    if answer.kind == "changed":
        raise untrue(OSError(errno.ESTALE, answer.message, path))
    if answer.kind == "stopped":
        raise OSError(errno.ESTALE, answer.message, path)
    if answer.kind != "done":
        raise OSError(errno.EPROTO, answer.message or "a worker has sent no answer", path)


def untrue(error: OSError) -> OSError:
    """Mark an error after which nothing of the temporary is of use."""
    error.untrue = True  # type: ignore[attr-defined]
    return error
