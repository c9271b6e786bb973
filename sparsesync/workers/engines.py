"""What runs the tasks: dask, MPI, or anything that a function returns.

:func:`engine` opens what a person names. Nothing is imported that is not asked for: dask.distributed is the extra
``[dask]`` and mpi4py the extra ``[mpi]``, and each is needed only by who names it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Callable

from . import KINDS

if TYPE_CHECKING:
    from concurrent.futures import Executor

_LOOK_SECONDS = 0.1
_END_SECONDS = 10.0
"""How long a pool of processes has to end, when all that it was given is done or given up."""

_NOISY = ("asyncio", "concurrent.futures", "distributed", "distributed.client", "tornado", "tornado.application")


def check_name(name: str) -> None:
    """Raise ValueError unless ``name`` is that of an engine."""
    kind, _, rest = name.partition(":")
    if not (name == "mpi" or (kind == "dask" and rest) or re.fullmatch(r"[\w.]+:[\w.]+", name)):
        raise ValueError(f"{name!r} is no engine for workers: {KINDS}")


@contextlib.contextmanager
def engine(name: str) -> Iterator[Executor]:
    """Give the executor that ``name`` stands for, and close it at the end.

    ``name``: "dask:local" starts workers on this machine. "dask:ADDRESS" and "dask:FILE.json" are those of a running
    scheduler. "mpi" are the ranks that mpi4py.futures has. "MODULE:FUNCTION" is what that function returns.

    Raises ValueError for another name, or if the package is not installed; OSError if the engine cannot be reached.
    """
    check_name(name)
    kind, _, rest = name.partition(":")
    if name == "mpi":
        opened = _mpi(name)
    elif kind == "dask":
        opened = _dask(name, rest)
    else:
        opened = _made(name, kind, rest)
    with _signals_left_to_us(), opened as executor:
        yield executor


@contextlib.contextmanager
def _signals_left_to_us() -> Iterator[None]:
    """Have processes that are forked meanwhile end by SIGTERM, or with this one, and leave an interrupt to it."""
    # What our handlers raise, a process pool's worker would take for the error of its task, and never end. And it holds
    # both ends of its queue of tasks: if this process is killed, it would wait for the next one for good.
    import ctypes

    if not _forking:
        _note_forking()
        os.register_at_fork(before=_note_forking, after_in_child=partial(_as_a_worker, os.getpid()))
    _forks.append(ctypes.CDLL(None).prctl)
    try:
        yield
    finally:
        _forks.pop()


_forks: list[Callable[..., object]] = []
"""prctl(2), for each engine that is open."""
_forking: list[int] = []
"""The process that forks: who has been forked may come too late to ask for its parent."""
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _note_forking() -> None:
    _forking[:] = [os.getpid()]


def _as_a_worker(parent: int) -> None:
    if not _forks:
        return
    if parent in _forking:  # not a fork of a fork
        for prctl in _forks:
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def count_workers(executor: Any) -> int:
    """Return about how many tasks an executor does at a time; the processors of this machine if it does not say."""
    client: Any = getattr(executor, "_client", None)
    if hasattr(client, "nthreads"):  # of dask
        return max(1, sum(int(threads) for threads in client.nthreads().values()))
    found = getattr(executor, "num_workers", None) or getattr(executor, "_max_workers", None)
    return found if isinstance(found, int) and found > 0 else os.cpu_count() or 1


def why_closed(executor: Any) -> str | None:
    """Return why an executor runs no more tasks, if that is known. What it was given may never be answered."""
    # Of a scheduler that was killed dask forgets some futures, and gives up after half a minute.
    if getattr(getattr(executor, "_client", None), "status", None) == "closed":
        return "the scheduler is lost"
    # A pool of processes needs more threads than the one that was started.
    thread = getattr(executor, "_executor_manager_thread", None)
    return "the pool's thread has ended" if thread is not None and not thread.is_alive() else None


def has_workers(executor: Any) -> bool:
    """Return False for a scheduler that is known to have no workers. It is asked, which may take a while."""
    client: Any = getattr(executor, "_client", None)
    with contextlib.suppress(Exception):  # one that is lost is told otherwise
        return not hasattr(client, "nthreads") or bool(client.nthreads())
    return True


@contextlib.contextmanager
def _dask(name: str, where: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError as error:
        raise _missing(name, "dask", error) from None
    try:
        if where == "local":
            with _interrupts_held():  # from the new processes for good: they inherit that
                client = Client(
                    processes=True, threads_per_worker=1, dashboard_address=None, silence_logs=50,
                    # Without a dashboard it still listens, on a port that another may have, and tells of that.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                )  # fmt: skip
        elif where.endswith(".json"):
            _await_file(where)
            client = Client(scheduler_file=where)
        else:
            client = Client(where)
    except Exception as error:  # what dask raises is its own; of a worker that dies meanwhile a RuntimeError
        number = error.errno if isinstance(error, OSError) and error.errno else errno.ECHILD
        what = "its workers cannot be started" if where == "local" else "the scheduler cannot be reached"
        raise OSError(number, f"{what}: {error}", name) from error
    with _losses_told_once(), client:
        yield client.get_executor(pure=False)


def _await_file(path: str) -> None:
    """Wait for the file of a scheduler that is being started, as long as dask waits for one with an address."""
    import dask.utils

    end = time.monotonic() + dask.utils.parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise FileNotFoundError(errno.ENOENT, "there is no such file, which it writes when it starts")
        time.sleep(_LOOK_SECONDS)


@contextlib.contextmanager
def _losses_told_once() -> Iterator[None]:
    """Have dask and concurrent.futures say nothing of a scheduler that is lost: whoever gives out tasks tells of it."""
    import logging

    with contextlib.ExitStack() as stack:
        for name in _NOISY:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        yield


@contextlib.contextmanager
def _mpi(name: str) -> Iterator[Executor]:
    try:
        from mpi4py.futures import MPIPoolExecutor
    except ImportError as error:
        raise _missing(name, "mpi", error) from None
    except RuntimeError as error:  # there is no MPI on this machine
        raise ValueError(f"{name}: {str(error).partition(chr(10))[0]}") from None
    with MPIPoolExecutor() as executor:
        yield executor


@contextlib.contextmanager
def _made(name: str, module: str, function: str) -> Iterator[Executor]:
    from importlib import import_module

    try:
        made: Any = import_module(module)
    except ImportError as error:
        raise ValueError(f"{name}: {error}") from None
    for part in function.split("."):
        made = getattr(made, part, None)
    try:
        executor: Any = made() if callable(made) else None
    except Exception as error:  # it is somebody's own
        raise ValueError(f"{name}: it raises {type(error).__name__}: {error}") from error
    if not hasattr(executor, "submit"):
        raise ValueError(f"{name}: it is no function that returns an executor (concurrent.futures.Executor)")
    if not hasattr(executor, "__exit__"):
        yield executor
        return
    _have_spawned_end_with_us(executor)
    try:
        with _lack_of_threads_told_once(), executor, contextlib.ExitStack() as stack:
            stack.callback(_have_ended, executor)
            yield executor
    except RuntimeError as error:
        # That a pool's own thread could not be started was heard when it was given a task.
        if "cannot join thread" not in str(error):
            raise
        if error.__context__ is not None:
            raise error.__context__ from None


def _have_spawned_end_with_us(executor: Any) -> None:
    """Have the processes of a pool that does not fork them do what is done after a fork (:func:`_as_a_worker`)."""
    method = getattr(getattr(executor, "_mp_context", None), "get_start_method", lambda: "fork")
    if method() != "fork" and hasattr(executor, "_initializer"):
        executor._initargs = (executor._initializer, executor._initargs)
        executor._initializer = _as_spawned


def _as_spawned(then: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """Begin a process of a pool. ``then``: how it would have begun."""
    from multiprocessing import parent_process

    def end_with(parent: Any) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with, args=[parent_process()], daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if then is not None:
        then(*arguments)


@contextlib.contextmanager
def _lack_of_threads_told_once() -> Iterator[None]:
    """Have a pool's thread say nothing when it can start no other: whoever gives out tasks tells of it."""
    before = threading.excepthook

    def tell(what: threading.ExceptHookArgs) -> None:
        if not (isinstance(what.exc_value, RuntimeError) and "can't start new thread" in str(what.exc_value)):
            before(what)

    threading.excepthook = tell
    try:
        yield
    finally:
        threading.excepthook = before


def _have_ended(executor: Any) -> None:
    """Have the processes of a pool killed if they go on after it has been asked to end."""
    # One that is killed while it waits for a task has the lock by which others wait for theirs. A pool that hears of
    # that while it is ending, waits for them for good.
    processes = [*(getattr(executor, "_processes", None) or {}).values()]

    def kill() -> None:
        for process in processes:
            with contextlib.suppress(ValueError):  # it has ended
                process.kill()

    timer = threading.Timer(_END_SECONDS, kill)
    timer.daemon = True
    try:
        timer.start()
    except RuntimeError:  # there may be no more threads, and without them a pool does not end
        kill()


def _missing(name: str, extra: str, error: ImportError) -> ValueError:
    return ValueError(f"{name}: {error}; it comes with the extra [{extra}]: pip install 'sparsesync[{extra}]'")
