"""The program rsync: which one it is, how to become it, and what its exit statuses mean.

It is the one that SPARSESYNC_RSYNC names, else the first in PATH that is not sparsesync itself.

sparsesync may stand in PATH as ``rsync``: a link to its command, or a script that runs it, which no comparison of files
tells from a script that runs rsync. So what is no program in machine code is asked for its version, with one word more
(:data:`QUESTION`). rsync does not look at that word, sparsesync answers it with its own name, and it comes through
whatever is in between, ``sudo`` and its empty environment too. Nothing of that stays in the environment of the rsync
that is started, so its children are no different.

A script that runs sparsesync, but answers ``--version`` by rsync itself, would still go round. That is counted in the
environment, and ends.
"""

from __future__ import annotations

import errno
import functools
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import NoReturn

from ..engine.errors import Error

QUESTION = "sparsesync-or-rsync?"
"""Given as a path along with ``--version``."""

_NAMED = "SPARSESYNC_RSYNC"
_DEPTH = "SPARSESYNC_DEPTH"
_MAX_DEPTH = 8
"""sparsesync that runs rsync that runs sparsesync, and so on: a hook of a daemon may, but not that often."""


class Status(IntEnum):
    """The exit statuses of rsync that are used: rsync(1), EXIT VALUES."""

    OK = 0
    SYNTAX = 1
    PROTOCOL_VERSION = 2
    SELECTION = 3
    UNSUPPORTED = 4
    START = 5
    SOCKET = 10
    FILE_IO = 11
    PROTOCOL = 12
    DIAGNOSTICS = 13
    """Also what a line of the output is too long for."""
    USER_SIGNAL = 19
    SIGNAL = 20
    PARTIAL = 23
    VANISHED = 24
    MAX_DELETE = 25
    TIMEOUT = 30
    CONNECTION_TIMEOUT = 35
    REMOTE_FAILED = 124
    REMOTE_KILLED = 125
    REMOTE_NOT_RUN = 126
    REMOTE_NOT_FOUND = 127
    SSH = 255
    """ssh(1), EXIT STATUS: it could not log in, or lost the connection."""


REFUSED = frozenset([Status.SYNTAX, Status.PROTOCOL_VERSION, Status.SELECTION, Status.UNSUPPORTED, Status.START])
"""rsync does not even begin with such a command, and will not the next time."""

NO_CONNECTION = frozenset(
    [
        Status.SOCKET, Status.PROTOCOL, Status.TIMEOUT, Status.CONNECTION_TIMEOUT, Status.REMOTE_FAILED,
        Status.REMOTE_KILLED, Status.REMOTE_NOT_RUN, Status.REMOTE_NOT_FOUND, Status.SSH,
    ]
)  # fmt: skip
"""The other host is not there, or no longer."""

NOT_BEGUN = frozenset([Status.PROTOCOL, Status.REMOTE_NOT_RUN, Status.REMOTE_NOT_FOUND])
"""The other host's rsync may not have begun: it is not there, or refuses its options."""

NEVER_SPOKE = b"(0 bytes received so far)"
"""rsync says it of an rsync that has ended before its first word."""

LOST = frozenset([Status.SOCKET, Status.PROTOCOL, Status.TIMEOUT, Status.CONNECTION_TIMEOUT, Status.SSH])
"""Of a run: the same. Which it is of a login that fails depends on whether rsync or ssh is the first to notice."""


class RsyncTooOldError(Error, RuntimeError):
    """An rsync on this machine that is too old for seeding."""


def program(environ: Mapping[str, str] = os.environ) -> str:
    """Return the path of rsync. Raises FileNotFoundError, of "rsync", if there is none."""
    if _depth(environ) >= _MAX_DEPTH:
        _not_found(f"leads back to sparsesync; {_NAMED}=/path/to/rsync names the real one")
    return _find(environ.get(_NAMED) or "rsync", environ.get("PATH", os.defpath))


def environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment to start rsync with."""
    return {**environ, _DEPTH: str(_depth(environ) + 1)}


def become(argv: Sequence[str]) -> NoReturn:
    """Become rsync, with these arguments. Raises as :func:`program`, OSError."""
    path = program()
    # Python ignores both, and what is ignored stays so.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execve(path, ["rsync", *argv], environment())


def shown_status(returncode: int) -> int:
    """Return an exit status as a shell has it: 128 and the number of the signal that ended the process."""
    return returncode if returncode >= 0 else 128 - returncode


def _depth(environ: Mapping[str, str]) -> int:
    given = environ.get(_DEPTH, "")
    return int(given) if given.isdecimal() else 0


@functools.lru_cache
def _find(name: str, path: str) -> str:
    places = [name] if "/" in name else [os.path.join(place or ".", name) for place in path.split(os.pathsep)]
    found = [place for place in places if _can_be_run(place)]
    for place in found:
        if not _is_sparsesync(place):
            return place
    if found:
        _not_found(f"is sparsesync itself ({found[0]}); {_NAMED}=/path/to/rsync names the real one")
    if name != "rsync":
        _not_found(f"is not at {name}, which {_NAMED} names")
    _not_found("is not installed; install it, for instance: apt install rsync")


def _not_found(why: str) -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, why, "rsync")


def _can_be_run(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)
    except (OSError, ValueError):
        return False


def _is_sparsesync(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            if file.read(4) == b"\x7fELF":
                return False
    except OSError:
        pass  # it may be run and not read
    import subprocess

    try:
        asked = subprocess.run(
            [path, "--version", "--", QUESTION],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except OSError:
        return False  # whoever starts it will hear why
    return asked.stdout.startswith(b"sparsesync ")
