"""The names of other hosts, ``user@host:path``, and of the shell and the Python that get there.

What an rsync command line means that names another host is for :mod:`rsync.paths`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..engine.errors import LoginError

_PYTHON = re.compile(r"[A-Za-z0-9_@%+=:,./][A-Za-z0-9_@%+=:,./ -]*")
_NO_NAME = re.compile(
    r"[\s\0-\x20\x7f-\x9f'\"`$\\;&<>|(){}*?!\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Remote(NamedTuple):
    """The parts of ``user@host:path``."""

    user: str | None
    host: str
    path: str

    @property
    def prefix(self) -> str:
        """What stands before the path: ``user@host:``."""
        return f"{self.user}@" * (self.user is not None) + (f"[{self.host}]:" if ":" in self.host else f"{self.host}:")


def split_remote(path: str) -> Remote | None:
    """Return the parts of a path on another host, or None for a local one.

    By rsync's rule, a path is on another host if a colon comes before the first slash.

    Raises ValueError for an rsync daemon (``host::module``), which no shell reaches, and for an empty host.
    """
    match = re.match(r"(?:([^/:\[]*)@)?(?:\[([^]/]*)\]|([^/:\[]*)):", path)
    if match is None:
        return None
    rest = path[match.end() :]
    host = match[2] if match[2] is not None else match[3]
    if rest.startswith(":") or (host == "rsync" and rest.startswith("//")):
        raise ValueError(f"{path}: an rsync daemon is not reached through a remote shell")
    if not host or host.startswith("-") or match[1] == "" or (match[1] or "").startswith("-"):
        raise ValueError(f"{path}: there is no host before the colon; a local file can be written ./{path}")
    # ssh puts both into commands where its configuration says so, ssh_config(5), TOKENS. In a user's name a
    # backslash may follow a domain.
    odd = _NO_NAME.search(host) or _NO_NAME.search((match[1] or "").replace("\\", ""))
    if odd:
        what = f"the name of a host or a user cannot hold {_shown(odd[0])}"
        raise ValueError(f"{path}: {what}; a local file can be written ./{path}")
    return Remote(match[1], host, rest)


def _shown(character: str) -> str:
    return "white space" if character.isspace() else character


def check_python(name: str) -> None:
    """Raise ValueError for the name of a remote Python that a shell might take for more than a path."""
    if not _PYTHON.fullmatch(name):
        allowed = "letters, digits, spaces and _@%+=:,./-, and does not begin with - or a space"
        raise ValueError(f"{name or repr('')}: is not the path of a Python on the other host; it has {allowed}")


def split_shell(text: str) -> list[str]:
    """Return the words of a remote shell's command as rsync splits it: quotes count, backslashes do not."""
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split = True
    words.escape = ""
    words.whitespace = " "
    words.commenters = ""
    found = list(words)
    if not found:
        raise ValueError("the remote shell's command is empty")
    return found


def until_ssh(command: Sequence[str]) -> int:
    """Return the number of words up to ssh in a remote shell's command, as in ``sshpass -e ssh``; 0 without it."""
    return next((count for count, word in enumerate(command, 1) if os.path.basename(word) == "ssh"), 0)


def with_words(shell: str, words: Sequence[str]) -> str:
    """Return the command of an ssh with more options. The first of equal options counts: ssh(1)."""
    if not words:
        return shell
    before = split_shell(shell)
    before = before[: until_ssh(before)]
    for end in [found.start() for found in re.finditer(" |$", shell)]:
        with contextlib.suppress(ValueError):  # in the middle of a quoted word
            if split_shell(shell[:end]) == before:
                return " ".join([shell[:end], *words]) + shell[end:]
    raise ValueError(f"{shell}: there is no ssh in it")


def remote_shell(given: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """Return the command of the remote shell: ``given``, else RSYNC_RSH, else ssh."""
    return given or environ.get("RSYNC_RSH") or "ssh"


def login_words(user: str | None, name: str) -> tuple[str, ...]:
    """Return the words that name a host to the remote shell."""
    return (*(["-l", user] if user else []), name)


@contextlib.contextmanager
def telling_files(*paths: object) -> Iterator[None]:
    """Say how a file here is written whose name looks like that of a host, if nobody can log in there."""
    try:
        yield
    except LoginError as error:
        meant = next((path for path in paths if isinstance(path, str) and ":" in path and os.path.lexists(path)), None)
        if meant is None:
            raise
        why = f"{error.args[0]}; the file of that name here is ./{meant}"
        raise LoginError(why, error.host, error.retryable) from None
