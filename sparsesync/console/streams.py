"""Standard output and standard error, and where else a result goes.

File names are bytes, terminals have encodings, and a descriptor may be closed, full or somebody else's. Here that is
dealt with once, before anything is printed (:func:`prepare`).
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, TextIO

STDOUT = "standard output"
"""What standard output is called in an error's filename."""

_ANY_NAME = "sparsesync.any_name"


class _StandardOutput(io.FileIO):
    """Descriptor 1; what goes wrong there is not taken for a trouble with a file that is being read."""

    def write(self, data: Any) -> int:
        from ..engine.errors import error_path

        with error_path(STDOUT):
            return super().write(data)


def prepare() -> None:
    """Make standard output and standard error accept any file name, and open them if they are closed."""
    # A file opened later would get the number that is free, and rsync's pipes too. Output that
    # has nowhere to go is an error once there is any; a complaint is not.
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)
    codecs.register_error(_ANY_NAME, _as_it_is)
    if sys.stdout is sys.__stdout__:
        encoding = sys.stdout.encoding if sys.stdout else None
        out = io.BufferedWriter(_StandardOutput(1, "w", closefd=False))
        sys.stdout = io.TextIOWrapper(out, encoding, line_buffering=os.isatty(1))
    # To a terminal that lacks a character its bytes may be control characters, as 0x9B is.
    any_name = "backslashreplace" if os.isatty(1) else _ANY_NAME
    for stream, errors in ((sys.stdout, any_name), (sys.stderr, "backslashreplace")):
        stream.reconfigure(errors=errors)  # type: ignore[union-attr]


def flush_output() -> None:
    """Hand on what this program has printed, before another prints. There may be no such stream, or none like it."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        sys.stdout.flush()


def is_open(number: int) -> bool:
    """Return whether a standard descriptor is what this process was started with.

    Where it was closed, the next file that is opened gets its number, and what is written for people would be in that
    file. No file that Python opens is inheritable.
    """
    try:
        return os.get_inheritable(number)
    except OSError:
        return False


def write_error(said: bytes) -> None:
    """Write to descriptor 2, if it is open, waiting for a terminal that does not take more at the moment."""
    rest = memoryview(said if is_open(2) else b"")
    while rest:
        try:
            rest = rest[os.write(2, rest) :]
        except BlockingIOError:
            import select

            poll = select.poll()
            poll.register(2, select.POLLOUT)
            poll.poll()
        except OSError:
            return  # there is nobody to hear it, and nobody to tell


def write_output(said: bytes) -> None:
    """Write to descriptor 1, if it is open. Whoever writes goes on if it is full or closed."""
    with contextlib.suppress(OSError):
        while said and is_open(1):
            said = said[os.write(1, said) :]


def _as_it_is(error: UnicodeError) -> tuple[str | bytes, int]:
    """Handle a codec's error: write what the terminal's encoding lacks as the bytes of the file name."""
    assert isinstance(error, UnicodeEncodeError)
    try:
        return os.fsencode(error.object[error.start : error.end]), error.end
    except UnicodeEncodeError:
        return codecs.backslashreplace_errors(error)


def takes(out: TextIO, marks: str) -> bool:
    """Return whether a stream is for people who see ``marks``: its encoding has them, and so has the locale.

    In the C locale Python writes UTF-8 all the same, and then says that LC_CTYPE was C.UTF-8 (PEP 538, 540).
    """
    try:
        marks.encode(out.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    if out is not sys.stdout:
        return True
    ctype, lang = (os.environ.get(name, "") for name in ("LC_CTYPE", "LANG"))
    named = os.environ.get("LC_ALL") or (lang if ctype == "C.UTF-8" else ctype or lang)
    return named not in ("", "C", "POSIX")


def give_up_output() -> None:
    """Discard buffered output, so that it does not raise again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def check_report(path: str) -> None:
    """Raise OSError, before anything is done, if a report cannot be written."""
    directory = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not os.path.isdir(directory):
        raise FileNotFoundError(errno.ENOENT, "its directory does not exist", path)
    if not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def write_report(path: str, report: dict[str, Any]) -> None:
    """Write what was done, as JSON, as :func:`output` does. Raises OSError."""
    import json

    with output(path) as file:
        file.write(json.dumps(report, indent=1).encode("ascii") + b"\n")


@contextlib.contextmanager
def output(path: str | None) -> Iterator[BinaryIO]:
    """Open the file for a result: a regular file is replaced as a whole; else as a shell's redirection to ``path``."""
    from ..engine.content.copy_file import existing, replacing
    from ..engine.errors import error_path

    if path is None:
        yield sys.stdout.buffer
        return
    old = existing(path)
    with error_path(path):
        # What is standard output already (/dev/stdout) has to stay the file that it is.
        if old is None or (stat.S_ISREG(old.st_mode) and not os.path.samestat(old, os.fstat(1))):
            with replacing(path, old) as target, open(target.fd, "wb", closefd=False) as out:
                yield out
        else:
            with open(path, "wb") as out:
                yield out
