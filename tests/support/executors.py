"""Executors that do what no engine should: for what a coordinator has to bear.

What is run in another process has to be found there by name, so functions that misbehave are here, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import multiprocessing
import os
import random
import signal
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Callable

from sparsesync.workers.plan import unpack
from sparsesync.workers.task import Request, bundle_task, copy_task

Do = Callable[..., Any]


class Stalling(ThreadPoolExecutor):
    """Threads, of which one does its task, the fifth that is given out, when ``go_on`` is set. ``late``: its answer."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.go_on = threading.Event()
        self.late: list[object] = []
        self._count = 0

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        self._count += 1
        return super().submit(self._stalled, do, *args) if self._count == 5 else super().submit(do, *args)

    def _stalled(self, do: Do, *args: Any) -> object:
        self.go_on.wait(20)
        self.late.append(do(*args))
        return self.late[-1]


class Forgetting(Stalling):
    """As dask: it never says that a task runs, cancels one that does, and has it go on."""

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        told: Future[Any] = Future()

        def answer(done: Future[Any]) -> None:
            if not told.cancelled():
                told.set_result(done.result())

        super().submit(do, *args, **more).add_done_callback(answer)
        return told


class Losing(ThreadPoolExecutor):
    """As dask when a connection breaks: a worker has the first task done that another still does.

    ``inside``: to be set when that one has begun to write; its thread is ``LOST``.
    """

    LOST = "lost"

    def __init__(self) -> None:
        super().__init__(2)
        self.inside = threading.Event()
        self._lost: threading.Thread | None = None

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        if self._lost is None:
            self._lost = threading.Thread(target=do, args=args, name=self.LOST)
            self._lost.start()
            self.inside.wait(20)
        return super().submit(do, *args, **more)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._lost is not None:
            self._lost.join()
        super().shutdown(wait, cancel_futures=cancel_futures)


class Unruly(Executor):
    """Runs tasks in any order, some twice, some late, and loses one in ten. ``seed`` decides which."""

    _max_workers = 3

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._waiting: list[tuple[Future[Any], Do, tuple[Any, ...]]] = []
        self._late: list[tuple[Do, tuple[Any, ...]]] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._changed:
            self._waiting.append((future, do, args))
            self._changed.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._ended:
                    self._changed.wait()
                if not self._waiting:
                    return
                time.sleep(0.001)  # for some more to choose from
                future, do, args = self._waiting.pop(self._random.randrange(len(self._waiting)))
            if not future.set_running_or_notify_cancel():
                continue
            fate = self._random.random()
            if fate < 0.1:
                future.set_exception(BrokenProcessPool("lost"))
                continue
            answer = do(*args)
            future.set_result(answer)
            if fate > 0.7:
                self._late.append((do, args))
            if fate > 0.8:
                again, same = self._late.pop(self._random.randrange(len(self._late)))
                again(*same)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()
        for do, args in self._late:  # when the file has got its name
            do(*args)


class Counting(ThreadPoolExecutor):
    """Threads; ``before`` is called with the number of each task before it is taken."""

    def __init__(self, before: Callable[[int], object]) -> None:
        super().__init__(2)
        self._before = before
        self.count = 0

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        self.count += 1
        self._before(self.count)
        return super().submit(do, *args, **more)


class Recording(ThreadPoolExecutor):
    """Two threads. ``given``: what each task was called with, in the order in which the tasks were given out."""

    def __init__(self) -> None:
        super().__init__(2)
        self.given: list[Any] = []

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        self.given += args
        return super().submit(do, *args, **more)


def killed_at_some_task() -> Executor:
    """Threads, whose process is killed at the task that SPARSESYNC_TEST_KILL numbers, if any."""
    at = int(os.environ.get("SPARSESYNC_TEST_KILL", 0))
    return Counting(lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == at else None)


def dies_once(marker: str, do: Do, *args: Any) -> Any:
    """Run a task; or end the process, if there is a file ``marker`` to remove."""
    try:
        os.unlink(marker)
    except FileNotFoundError:
        return do(*args)
    os.kill(os.getpid(), signal.SIGKILL)


def writes_before(path: str, do: Do, *args: Any) -> Any:
    """Run a task, after a file has been written to: the same byte."""
    with open(path, "r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(byte)
    return do(*args)


def writes_wrong(name: str, do: Do, request: Any) -> Any:
    """Run a task. If it has copied to a temporary of the file ``name``, change a byte of that."""
    answer = do(request)
    for each in request[1] if do is bundle_task else [request] if do is copy_task else []:
        asked = Request(*each)
        if asked.name.startswith(f".{name}."):
            # It may have failed by what another task has written, and be gone.
            with contextlib.suppress(FileNotFoundError), open(os.path.join(asked.directory, asked.name), "r+b") as file:
                (at, _), *_ = unpack(asked.ranges)
                file.seek(at)
                byte = file.read(1)
                file.seek(at)
                file.write(bytes([byte[0] ^ 1]))
    return answer


def changes_once(marker: str, source: str, do: Do, *args: Any) -> Any:
    """Run a task; before, write to its source, if there is a file ``marker`` to remove."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(marker)
        with open(source, "r+b") as file:
            file.seek(-7, os.SEEK_END)
            file.write(b"changed")
    return do(*args)


def stalls_once(marker: str, go_on: str, do: Do, *args: Any) -> Any:
    """Run a task; before, wait for a file ``go_on``, if there is a file ``marker`` to remove."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(marker)
        while not os.path.exists(go_on):
            time.sleep(0.01)
    return do(*args)


def two_threads() -> Executor:
    return ThreadPoolExecutor(2)


def two_processes() -> Executor:
    return ProcessPoolExecutor(2)


def two_spawned() -> Executor:
    return ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))


class Wrapped(Executor):
    """Hands each task to another executor, of two workers, by way of a function of this module."""

    _max_workers = 2

    def __init__(self, executor: Executor, by: Do, *first: Any) -> None:
        self._executor = executor
        self._by = functools.partial(by, *first)

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        return self._executor.submit(self._by, do, *args)


class TakesNoMore(Executor):
    """Hands tasks to another executor, of two workers, but for that of the number ``at`` and all behind it."""

    _max_workers = 2

    def __init__(self, executor: Executor, at: int) -> None:
        self._executor = executor
        self._left = at - 1

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("gone")
        return self._executor.submit(do, *args)


def sees_another_mount(there: str, here: str) -> None:
    """Have this process, and no other, see the folder ``there`` in place of ``here``: mount_namespaces(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private, bind = 0x20000, 1 << 18 | 1 << 14, 1 << 12
    for done in (
        libc.unshare(new_namespace),
        libc.mount(None, b"/", None, private, None),
        libc.mount(os.fsencode(there), os.fsencode(here), None, bind, None),
    ):
        if done:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
