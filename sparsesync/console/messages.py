"""Lines for people: what is printed on standard output and standard error, and how an error reads.

A name, an error, a host, a peer may have said any of it. So :func:`print_line` and :func:`print_error` escape the
line, whatever it is made of (:mod:`engine.text`); whoever makes a line for them does not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

from ..engine.text import escape_name

_HINTS = {
    errno.EFBIG: "the filesystem's limit, or 'ulimit -f'",
    errno.EROFS: "mount it writable, or name another destination",
    errno.EDQUOT: "of the user, the group, the project or the subvolume",
}


def print_line(line: str) -> None:
    """Print a line, escaped, on ``sys.stdout``, which a library's caller may have replaced."""
    line = escape_name(line)
    try:
        print(line)
    except UnicodeEncodeError:
        print(line.encode("ascii", "backslashreplace").decode())


def as_bytes(line: str) -> bytes:
    """Return a line for people as the bytes to write where rsync's own output goes."""
    return f"{escape_name(line)}\n".encode(sys.getfilesystemencoding(), "backslashreplace")


def print_error(what: Exception | str) -> None:
    """Print an error, or a message about one, on standard error."""
    text = what if isinstance(what, str) else format_error(what)
    with contextlib.suppress(OSError):  # there is nobody to hear it, and what is being done goes on
        print(f"sparsesync: {escape_name(text)}", file=sys.stderr)


def with_hint(text: str, number: int | None) -> str:
    """Return what an error says, with what to do about it or where to look."""
    return f"{text} ({_HINTS[number]})" if number in _HINTS else text


def format_error(error: Exception) -> str:
    """Return an error as text for people: the path, what happened, what to do. The text is not escaped."""
    from ..engine.errors import NoSpaceError
    from .units import iec

    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    text = str(error.strerror)
    if isinstance(error, NoSpaceError):
        text = f"no space: {iec(error.needed)} are needed, {iec(error.free)} are free"
    else:
        text = with_hint(text, error.errno)
    if error.filename is None or isinstance(error.filename, int):  # a descriptor says nothing
        return text
    return f"{os.fsdecode(error.filename) or repr('')}: {text}"
