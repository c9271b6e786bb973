"""File names and errors as a line for people."""

from __future__ import annotations

import errno
import os
import re
import sys

_HINTS = {
    errno.EFBIG: "the filesystem's limit, or 'ulimit -f'",
    errno.EROFS: "mount it writable, or name another destination",
    errno.EDQUOT: "the old file is unchanged",
}


def printable(name: str) -> str:
    """A file name for people: control characters, and bytes that are no text, escaped as rsync does."""
    special = r"[\0-\x1f\x7f\udc80-\udcff]|\\(?=#[0-9]{3})"
    return re.sub(special, lambda found: f"\\#{ord(found[0]) & 0xFF:03o}", name)


def tell(line: str) -> None:
    """Print a line on standard output, whatever that is; in a library it is the caller's."""
    try:
        print(line)
    except UnicodeEncodeError:
        print(line.encode("ascii", "backslashreplace").decode())


def warn(line: str) -> None:
    """Print a line of ours on standard error."""
    print(f"sparsesync: {line}", file=sys.stderr)


def complain(error: Exception) -> None:
    """Print an error on standard error."""
    warn(describe(error))


def describe(error: Exception) -> str:
    """An error as one line for people: the path, what happened, what to do."""
    from .engine.fileio import NoSpaceError
    from .units import iec

    if not isinstance(error, OSError) or error.strerror is None:
        return printable(str(error))
    text = printable(error.strerror)
    if isinstance(error, NoSpaceError):
        text = f"no space: {iec(error.needed)} are needed, {iec(error.free)} are free"
    elif error.errno in _HINTS:
        text += f" ({_HINTS[error.errno]})"
    return text if error.filename is None else f"{printable(os.fsdecode(error.filename)) or repr('')}: {text}"
