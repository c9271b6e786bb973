"""What a run has to respect of the program that it is part of.

Our own command has the process to itself: the standard streams, the signals, the environment. In somebody else's
program nothing of that is ours. So whatever starts a process, waits for one or has something to say may be given an
:class:`Embedding`, and does it the caller's way; None stands for the command.

What waits asks :attr:`Embedding.check` again and again. That is how a deadline, or an exception in the caller's thread,
ends what another thread is doing: as a connection ends that is lost, so that what was received is kept.

What a function of the caller's raises is none of our errors, whatever its class, and comes back to the caller as it
was: :class:`Passing`.
"""

from __future__ import annotations

import os
import select
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, TypeVar

from .engine.errors import LinkError

if TYPE_CHECKING:
    import subprocess

_T = TypeVar("_T")

Write = Callable[[bytes], object]

WAIT_SECONDS = 0.1
"""Seconds after which whoever waits looks whether it still should."""


def ends_within(process: subprocess.Popen[Any], seconds: float) -> bool:
    """Return whether a process ends within so many seconds.

    It is noticed at once where the kernel tells it (pidfd_open(2), Linux 5.3). Else subprocess looks now and then, and
    after a while 20 times a second.
    """
    if process.poll() is not None:
        return True
    try:
        fd = os.pidfd_open(process.pid)
    except (AttributeError, OSError):
        from subprocess import TimeoutExpired

        try:
            process.wait(seconds)
        except TimeoutExpired:
            return False
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(1000 * seconds)
    finally:
        os.close(fd)
    return process.poll() is not None


class Stopped(LinkError):
    """The caller wants no more of it. What is raised to the caller is another exception."""


class NoAgentError(LinkError):
    """A host that is there, and on which no agent can run."""


class Embedding(NamedTuple):
    """The caller's wishes.

    ``environ``: the environment of every process.
    ``check``: called while something is waited for; raises :class:`Stopped`.
    ``warn``, ``inform``: called with a line for people, without its end; ``inform`` for each file.
    ``tail``: returns the last that was said on standard error, if another host is in it.
    ``stdout``, ``stderr``: called with what processes print there; None: the process's own.
    ``directory``: where processes start; None: in the current one.
    """

    environ: Mapping[str, str]
    check: Callable[[], object]
    warn: Callable[[str], object]
    inform: Callable[[str], object]
    tail: Callable[[], str]
    stdout: Write | None = None
    stderr: Write | None = None
    directory: str | None = None


class Passing:
    """A context that raises what functions of the caller's have raised inside it.

    Inside, that is :class:`Stopped`, which is taken for the error of no file.
    """

    def __init__(self) -> None:
        self._raised: Exception | None = None

    def through(self, function: Callable[[_T], object] | None) -> Callable[[_T], None] | None:
        """Return what is to be called instead of a function of the caller's. Any thread may call it."""
        if function is None:
            return None
        own = function

        def call(argument: _T) -> None:
            try:
                own(argument)
            except Exception as error:
                self._raised = self._raised or error
                raise Stopped("the caller wants no more of it") from None

        return call

    def generator(self, found: Generator[_T, None, None]) -> Generator[_T, None, None]:
        """Yield what a generator yields that calls such functions."""
        with self:
            yield from found

    def __enter__(self) -> Passing:
        return self

    def __exit__(self, *exc_info: object) -> None:
        raised, self._raised = self._raised, None
        if raised is not None:
            context = raised.__context__
            try:
                raise raised
            finally:
                raised.__context__ = context
