"""What a caller in Python gets of the lines of a run: in a function, or in a file.

rsync writes bytes, and its progress returns to the beginning of a line instead of ending it. :class:`Splitter` makes
whole lines of that, and :func:`recipient` hands them on, as text where the caller wants text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import IO, Any, Callable, Union

OnLine = Callable[[str, str], object]
"""Gets the name of a stream, "stdout" or "stderr", and a line without its end."""

Output = Union[OnLine, IO[str], IO[bytes]]

Recipient = Callable[[str, Sequence[bytes]], None]
"""Gets the name of a stream, and lines with their ends."""

_LONGEST_BYTES = 64 * 1024
"""What has no end by then is cut, so that nobody fills our memory."""


class Splitter:
    """Takes what comes on a stream, in any pieces, and returns it in lines with their ends."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, said: bytes) -> list[bytes]:
        """Return the lines that are whole."""
        *lines, self._rest = re.split(rb"(?<=[\n])|(?<=\r)(?!\n)", self._rest + said)
        if len(self._rest) > _LONGEST_BYTES:
            return [*lines, *self.end()]
        return lines

    def end(self) -> list[bytes]:
        """Return what is left."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def recipient(output: Any) -> Recipient:
    """Return what hands lines on to a function or a file. Raises TypeError, and what a file that is closed raises."""
    if hasattr(output, "write"):
        try:
            output.write("")
        except TypeError:
            output.write(b"")
            return lambda stream, lines: output.write(b"".join(lines))
        return lambda stream, lines: _write_text(output, _text(b"".join(lines)))
    if not callable(output):
        raise TypeError(f"output has to be a function or a file, not {type(output).__name__}")

    def call(stream: str, lines: Sequence[bytes]) -> None:
        for line in lines:
            text = _text(line).rstrip("\r\n")
            if text or line.endswith(b"\n"):  # what only returns to the beginning of its line is none
                output(stream, text)

    return call


def _text(said: bytes) -> str:
    return said.decode(sys.getfilesystemencoding(), "backslashreplace")


def _write_text(file: IO[str], text: str) -> None:
    try:
        file.write(text)
    except UnicodeEncodeError as error:
        file.write(text.encode(error.encoding, "backslashreplace").decode(error.encoding))
