"""What a run has to respect of the program that it is part of.

Our own command has the process to itself: the standard streams, the signals, the environment. In somebody else's
program nothing of that is ours. So whatever starts a process, waits for one or has something to say may be given an
:class:`Embedding`, and does it the caller's way; None stands for the command.

What waits asks :attr:`Embedding.check` again and again. That is how a deadline, or an exception in the caller's thread,
ends what another thread is doing: as a connection ends that is lost, so that what was received is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Callable, NamedTuple

from .engine.errors import LinkError

Write = Callable[[bytes], object]

WAIT_SECONDS = 0.1
"""Seconds after which whoever waits looks whether it still should."""


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
