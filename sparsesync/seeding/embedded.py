"""``sync`` in somebody else's program: what is the caller's stays the caller's.

The standard streams are the caller's, the environment, the directory, the signals and the thread. A handler of a signal
may raise in the caller's thread, at any moment, and so may what it gives us to call. Nothing of ours may break at such
a moment. So the work is done in a thread of its own, in which no handler runs, and the caller's thread attends to what
is the caller's::

    the caller's thread                      the thread that works
    calls output, progress and cancel   <-   has something to tell, and waits until it is told
    looks at the clock
    an exception: it is kept in mind    ->   check() raises where something is waited for: processes and connections
                                             are ended, as they are when a connection is lost
    all that was started has ended      <-   is over
    the exception goes on

So ``output``, ``progress`` and ``cancel`` are called in the thread that has called us, one at a time. What a run has to
say of itself goes to ``output``, or to the logger of the package.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Generic, TypeVar

from ..console.lines import Output, Recipient, Splitter, recipient
from ..console.messages import as_bytes
from ..console.streams import write_error
from ..embedding import WAIT_SECONDS, Embedding, Stopped
from ..engine.errors import OnProgress
from ..engine.text import escape_name
from ..hosts.base import PathLike, Rsh
from ..hosts.pool import Connections
from ..rsync.paths import is_remote
from . import run
from .options.call import arguments
from .result import RsyncError, SyncCancelledError, SyncResult, SyncTimeoutError
from .seeder import SEEDING

if TYPE_CHECKING:
    from concurrent.futures import Executor

_Result = TypeVar("_Result")

LOGGER = "sparsesync"

_START_SECONDS = 1.0
"""A thread that has not begun by then was never started."""

_TAIL_LINES = 20
_TAIL_LINE_BYTES = 1000


def sync(
    sources: PathLike | Iterable[PathLike],
    destination: PathLike,
    options: str | Sequence[str] = (),
    *,
    output: Output | None = None,
    progress: Callable[[Done], object] | None = None,
    timeout: float | None = None,
    cancel: threading.Event | Callable[[], object] | None = None,
    check: bool = False,
    rsh: Rsh | Connections = None,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: PathLike | None = None,
    executor: Executor | None = None,
) -> SyncResult:
    """Seed, and run rsync, as :func:`sparsesync.api.transfers.sync`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    environ = dict(os.environ if env is None else env)
    directory = None if cwd is None else os.path.abspath(os.fsdecode(cwd))
    logins: Connections | None = None
    if isinstance(rsh, Connections):
        logins = rsh
        rsh, python = logins.words, logins.python
    seed, argv = arguments(sources, destination, options, rsh, python, environ, directory)
    if executor is not None:
        if seed.workers is not None or seed.jobs is not None:
            raise ValueError("executor does not go together with --seed-workers and --seed-jobs")
        seed = seed._replace(executor=executor)
    lines = None if output is None else recipient(output)
    keeps_tail = check or any(map(is_remote, argv[argv.index("--") :]))
    caller: Caller[SyncResult] = Caller(lines, progress, asks(cancel), deadline, keeps_tail)
    command = ["rsync", *argv]
    embedding = caller.embedding(environ, directory, seed.verbose)
    result = caller.attend(
        lambda: run.run(argv, seed, bar=caller.bar, embedding=embedding, logins=logins),
        lambda: SyncTimeoutError(command, timeout or 0.0, None, caller.tail()),
        lambda: SyncCancelledError("sync was cancelled by its caller"),
    )
    if check and not result.ok:
        raise RsyncError(result.returncode, result.command, None, caller.tail(), result)
    return result


def asks(cancel: threading.Event | Callable[[], object] | None) -> Callable[[], object] | None:
    """Return the function that tells whether the caller cancels. Raises TypeError."""
    asks = getattr(cancel, "is_set", cancel)
    if asks is not None and not callable(asks):
        raise TypeError(f"cancel has to be an Event or a function, not {type(cancel).__name__}")
    return asks


class Done(int):
    """Bytes that were done since the last call, of ``total`` in all, as far as known."""

    total: int


class CallersBar:
    """The progress of a run of several phases, for a caller: a :class:`~..console.progress.Whole`."""

    def __init__(self, advance: Callable[[int], None], shown: bool) -> None:
        self._advance = advance
        self.shown = shown

    def __enter__(self) -> CallersBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: the caller has been told all."""

    @contextlib.contextmanager
    def phase(self, total: int | None, what: str, quiet: bool = False) -> Iterator[OnProgress]:
        """Give the function to call with bytes done."""
        yield self._advance


class _Call:
    """Something to be called in the caller's thread. ``over`` is held until that is done."""

    def __init__(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.function = function
        self.arguments = arguments
        self.over = threading.Lock()
        self.over.acquire()


class Caller(Generic[_Result]):
    """A caller's thread, and what it wants.

    ``output``: gets the lines of both streams; None: they go where the process's own go.
    ``progress``, ``cancel``: as in :func:`~sparsesync.api.transfers.sync`.
    ``deadline``: by the clock of time.monotonic().
    ``keeps_tail``: have the last lines of standard error in :meth:`tail`, also without ``output``.
    """

    def __init__(
        self,
        output: Recipient | None = None,
        progress: Callable[[Done], object] | None = None,
        cancel: Callable[[], object] | None = None,
        deadline: float | None = None,
        keeps_tail: bool = False,
    ) -> None:
        self._output = output
        self._progress = progress
        self._cancel = cancel
        self._deadline = deadline
        self._keeps_tail = keeps_tail or output is not None
        # It is one of C, which an exception that a handler raises leaves whole.
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._stopped = self._begun = self._ended = False
        self._done = self._told = self._total = 0
        self._result: list[_Result] = []
        self._error: BaseException | None = None
        self._streams = {"stdout": Splitter(), "stderr": Splitter()}
        self._telling = threading.Lock()
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)

    def tail(self) -> str:
        """Return the last lines of standard error."""
        return b"".join(self._tail).decode(sys.getfilesystemencoding(), "backslashreplace")

    # In the caller's thread.

    def attend(
        self, work: Callable[[], _Result], expired: Callable[[], Exception], cancelled: Callable[[], Exception]
    ) -> _Result:
        """Return what ``work`` returns, or raise what it raises.

        ``expired``, ``cancelled``: return what to raise when the deadline has passed, and when the caller cancels.
        """
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._work, work), name="sparsesync", daemon=True)
        try:
            thread.start()
            while not self._ended:
                self._attend(self._next())
                if self._ended:
                    break
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    raise expired()
                if self._cancel is not None and self._cancel():
                    raise cancelled()
            self._tell_progress()
            if self._output is not None:
                for stream, splitter in self._streams.items():
                    self._output(stream, splitter.end())
        except BaseException:
            self._stopped = True
            self._leave()
            raise
        thread.join()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its frames know this object
        return self._result[0]

    def _next(self) -> _Call | None:
        wait = None
        if self._cancel is not None or self._deadline is not None:
            wait = WAIT_SECONDS
        if self._deadline is not None:
            wait = max(0.0, min(WAIT_SECONDS, self._deadline - time.monotonic()))
        try:
            return self._calls.get(timeout=wait)
        except queue.Empty:
            return None

    def _attend(self, call: _Call | None) -> None:
        if call is not None:
            call.function(*call.arguments)
            call.over.release()
        self._tell_progress()

    def _tell_progress(self) -> None:
        count = self._done - self._told
        if count and self._progress is not None:
            self._told += count
            done = Done(count)
            done.total = max(self._total, self._told)
            self._progress(done)

    def _leave(self) -> None:
        """Wait until the work is over. Another exception that a handler raises meanwhile is raised after that."""
        begins_by = time.monotonic() + _START_SECONDS
        another: BaseException | None = None
        while not self._ended and (self._begun or time.monotonic() < begins_by):
            try:
                with contextlib.suppress(queue.Empty):
                    call = self._calls.get(timeout=WAIT_SECONDS)
                    if call is not None:
                        call.over.release()
            except BaseException as error:
                another = error
        if another is not None:
            raise another

    def say_last(self, line: str) -> None:
        """Tell a line when the work is over and an exception on its way, instead of which ``output`` can raise none."""
        if self._output is None:
            import logging

            logging.getLogger(LOGGER).warning("%s", escape_name(line))
            return
        with contextlib.suppress(Exception):
            self._output("stderr", [as_bytes(f"sparsesync: {line}")])

    # In the thread that works, and in those that it starts.

    def _work(self, work: Callable[[], _Result]) -> None:
        self._begun = True
        try:
            self.check()
            self._result.append(work())
        except BaseException as error:
            self._error = error
        finally:
            self._ended = True
            self._calls.put(None)

    def check(self) -> None:
        """Raise Stopped if the caller wants no more."""
        if self._stopped:
            raise Stopped("the caller wants no more of it")

    def embedding(self, environ: Mapping[str, str], directory: str | None, verbose: bool) -> Embedding:
        """Return what processes and messages get of this caller. ``verbose``: give ``output`` what is told of files."""
        told = self._output is not None
        return Embedding(
            environ,
            self.check,
            self._warn,
            self._inform if verbose or not told else lambda line: None,
            self.tail,
            self._stdout if told else None,
            self._stderr if self._keeps_tail else None,
            directory,
        )

    @contextlib.contextmanager
    def bar(self, total: int | None, what: str, quiet: bool = False) -> Iterator[OnProgress]:
        """Give the function to call with bytes done, as a bar's. Only what is seeded counts."""
        counts = what == SEEDING
        self._total += (total or 0) if counts else 0
        yield self._advance if counts else lambda count: self.check()

    def whole(self, total: int) -> CallersBar:
        """Return the bar of a run of several phases, all of which count. ``total``: bytes."""
        self._total = total
        return CallersBar(self._advance, self._progress is not None)

    def _advance(self, count: int) -> None:
        self.check()
        if self._progress is not None:
            self._done += count
            if self._calls.empty():
                self._calls.put(None)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        call = _Call(function, arguments)
        self._calls.put(call)
        while not self._stopped and not call.over.acquire(timeout=WAIT_SECONDS):
            pass

    def _stdout(self, said: bytes) -> None:
        self._say("stdout", said)

    def _stderr(self, said: bytes) -> None:
        self._say("stderr", said)

    def _say(self, stream: str, said: bytes) -> None:
        with self._telling:
            lines = self._streams[stream].feed(said)
            if stream == "stderr":
                self._tail.extend(line[:_TAIL_LINE_BYTES] for line in lines)
            if self._output is None:
                write_error(said)
            elif lines:
                self._call(self._output, stream, lines)

    def _warn(self, line: str) -> None:
        if self._output is None:
            import logging

            self._tail.append(f"sparsesync: {escape_name(line)}\n".encode())
            self._call(logging.getLogger(LOGGER).warning, "%s", escape_name(line))
        else:
            self._stderr(as_bytes(f"sparsesync: {line}"))

    def _inform(self, line: str) -> None:
        if self._output is not None:
            self._stderr(as_bytes(f"sparsesync: {line}"))
            return
        logging = sys.modules.get("logging")  # nobody has asked for it without
        if logging is not None and logging.getLogger(LOGGER).isEnabledFor(logging.INFO):
            self._call(logging.getLogger(LOGGER).info, "%s", escape_name(line))
