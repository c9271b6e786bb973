"""What a command line makes rsync print: the lines of files, totals, progress, a log file.

rsync turns ``-v`` into levels of information (``--info``, rsync(1)), and a line for each file into a format:
``--out-format`` as it was given, ``%i %n%L`` for ``-i``, ``%n%L`` for names alone. :func:`shown` says what comes of all
options together. The table of levels is rsync's own (``rsync --info=help``).

What we have to say of a run is in the log file, too: :func:`logging`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from ..console.messages import as_bytes
from .command import Command

_ITEMIZED = "%i %n%L"
_NAMED = "%n%L"
_HAS_ITEMIZE = re.compile(r"%'*-?[0-9]*'*i")
_ONLY_TRANSFERRED = re.compile(r"%'*-?[0-9]*'*([bcC])")


class Shown(NamedTuple):
    """What rsync prints. ``lines`` and ``logged`` are formats of a file's line, None where there is no such line."""

    lines: str | None
    logged: str | None
    """The format of a line in the log file."""
    names: int
    """The level of ``--info=name``."""
    stats: int
    progress: int
    human: int
    """How numbers are printed: 0 digits, 1 in groups of three, 2 in units of 1000, 3 of 1024."""
    unchanged: bool
    """Whether files that need nothing have a line, too."""

    @property
    def itemized(self) -> bool:
        """Whether a line shows what changes. Then a file with changed attributes has a line too."""
        return self.lines is not None and has_itemize(self.lines)

    @property
    def anything(self) -> bool:
        """Whether rsync prints anything about a transferred file."""
        return bool(self.lines is not None or self.logged or self.stats > 1 or self.progress)


def shown(command: Command) -> Shown:
    """Return what rsync prints, run with these options."""
    lines = command.value("out-format")
    itemize = sum(1 if option.name == "itemize-changes" else 0 for option in command.options)
    itemize = itemize if command.itemize else 0
    if lines is None and itemize:
        lines = _ITEMIZED
    named = min(command.verbose, 2)
    if command.progress and lines is None:
        named = max(1, named)
    names = _level(command, "name", named)
    stats = _level(command, "stats", 2 if command.stats else min(command.verbose, 1))
    progress = _level(command, "progress", int(command.progress))
    if lines is None and names:
        lines = _NAMED
    logged = None
    if command.value("log-file") is not None:
        given = command.value("log-file-format")
        logged = _ITEMIZED if given is None else given
    human = 1
    for option in command.options:
        if option.name == "human-readable":
            human += 1
        elif option.name == "no-human-readable":
            human = 0
    if command.quiet:
        lines, names, stats, progress = None, 0, 0, 0
    unchanged = lines is not None and has_itemize(lines) and (itemize > 1 or names > 1)
    return Shown(lines, logged or None, names, stats, progress, min(human, 3), unchanged)


def has_itemize(form: str) -> bool:
    """Return whether a format has ``%i``, what changes."""
    return bool(_HAS_ITEMIZE.search(form))


def why_untold(command: Command) -> str | None:
    """Return why only rsync itself can print its lines about a file, or None if the dry run has them."""
    what = shown(command)
    if not what.anything:
        return None
    if command.verbose > 2:
        return "what rsync says of its own work is wanted (-vvv)"
    for form in (what.lines, what.logged):
        found = _ONLY_TRANSFERRED.search(form or "")
        if found:
            return f"a format has %{found[1]}, which only a transfer knows"
    if what.logged and _follows_others(command.value("log-file") or ""):
        return "the log file is reached by a symlink of another user"
    apart = True
    for option in command.options:
        if option.name == "stderr":
            apart = not (option.value or "").startswith("a")
        elif option.name in ("msgs2stderr", "no-msgs2stderr"):
            apart = option.name.startswith("no-")
    return None if apart else "what rsync prints of files goes to standard error (--stderr=all)"


def open_log(path: str) -> int:
    """Open a log file as rsync does: log.c, logfile_open(): 0666 less the umask and 022. Raises OSError."""
    from ..engine.files.beneath import open_trusted

    return open_trusted(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode=0o644)


def logging(command: Command, speak: Callable[[str], object]) -> Callable[[str], None]:
    """Return what says a line of ours by ``speak``, and adds it to rsync's log file, if there is one, in its form."""
    path = command.value("log-file")

    def say(message: str) -> None:
        speak(message)
        if path is None:
            return
        line = f"{time.strftime('%Y/%m/%d %H:%M:%S')} [{os.getpid()}] sparsesync: {message}"
        with contextlib.suppress(OSError):  # rsync says what is wrong with it
            log = open_log(path)
            try:
                os.write(log, as_bytes(line))
            finally:
                os.close(log)

    return say


def _follows_others(path: str) -> bool:
    """Return whether a path leads through a symlink that newer versions of rsync do not follow."""
    from ..engine.files.beneath import open_trusted

    try:
        os.close(open_trusted(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ELOOP
    return False


def _level(command: Command, word: str, level: int) -> int:
    """Return the level of a word of ``--info``, by default ``level``."""
    for option in command.options:
        if option.name == "info":
            for each in (option.value or "").lower().split(","):
                match = re.fullmatch(r"([a-z]+?)([0-9]*)", each)
                if match and match[1] in (word, "all", "none"):
                    level = 0 if match[1] == "none" else int(match[2] or 1)
    return level
