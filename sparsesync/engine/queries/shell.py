"""A command that is run for a migration: to stop what uses the files, and to start it again.

It runs in a session of its own, so that it can be ended with all that it has started: when the program here is
interrupted, or when whoever asked for it from another machine has gone. First it is asked to end (SIGTERM), and only
after some seconds killed.
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

_POLL_SECONDS = 0.2
"""Seconds after which it is looked whether anybody still wants the command."""

_INTERRUPTED_SECONDS = 10
"""Seconds that a command has to end by itself when it is interrupted."""

_ABANDONED_SECONDS = 2
"""The same where nobody can see how long it takes."""


class Ran(NamedTuple):
    """The exit status of a command. A negative one is the signal that ended it."""

    status: int


def run(
    command: str,
    given_up: Callable[[], Any] = lambda: False,
    out: Optional[int] = None,
    environ: Optional[Dict[str, str]] = None,
    directory: Optional[str] = None,
) -> Ran:
    """Run a command with ``sh -c``.

    ``out``: the descriptor that gets its output; None: standard error.
    ``environ``, ``directory``: the command's, by default this process's.

    The command and its child processes are ended if an exception interrupts this, ``given_up`` raises one, or it
    returns True.
    """
    process: Any = None
    seconds = _INTERRUPTED_SECONDS
    try:
        with _uninterrupted():
            process = subprocess.Popen(
                ["sh", "-c", command],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if out is None else out,
                stderr=out,
                env=environ,
                cwd=directory,
                start_new_session=True,
            )
        while True:
            try:
                return Ran(process.wait(_POLL_SECONDS))
            except subprocess.TimeoutExpired:
                if given_up():
                    seconds = _ABANDONED_SECONDS
                    raise ConnectionError(errno.ECONNABORTED, "the requesting host has disconnected") from None
    except BaseException:
        if process is None:
            raise
        # A second interruption must not leave it running either: it could undo what is done next.
        try:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back the signals that would raise an exception here, until this is over.

    A command may have begun when Popen() has not returned yet. Nobody would know of it, or end it.
    """
    came: List[int] = []
    held: Dict[int, Callable[[int, Any], Any]] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            handler = signal.getsignal(number)
            if callable(handler):
                held[number] = handler
                signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for each, handler in held.items():
            signal.signal(each, handler)
    for each in came:
        held[each](each, None)
