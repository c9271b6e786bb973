"""What rsync prints while it runs, taken apart: progress, totals, and the rest, which is the user's.

The totals are asked for with ``--stats`` and the progress with ``--info=progress2`` (rsync(1)), both without
thousands separators by ``--no-human-readable``. Where the user has asked for output of that kind, nothing is
added and nothing taken away: then there is no progress while rsync runs, and its share of what was sent is known only
if it says so.
"""

from __future__ import annotations

import re
from typing import Callable

from ..engine.errors import OnProgress
from ..rsync.command import Command

_PROGRESS = re.compile(rb"\s*([0-9]+)\s+[0-9]+%\s.*", re.DOTALL)
_TOTAL = re.compile(rb"(Number of [a-z ]+|Total [a-z ]+|Literal data|Matched data|File list [a-z ]+): ([0-9]+).*")
_CLOSING = re.compile(rb"sent ([0-9,]+) bytes  received ([0-9,]+) bytes .*|total size is [0-9,]+ .*")


class RsyncOutput:
    """A reader of rsync's output. ``write``: called with the output that is not interpreted."""

    def __init__(self, command: Command, shown: bool, write: Callable[[bytes], object]) -> None:
        self._write = write
        own = any([command.verbose, command.stats, command.progress, command.itemize, command.value("info")])
        self.options: list[str] = [] if own else ["--stats", "--no-human-readable"]
        if shown and not own:
            self.options.append("--info=progress2")
        self.advance: OnProgress = None
        self._numbers: dict[str, int] = {}
        self._done = 0
        self._rest = b""
        self._in_totals = False

    def feed(self, said: bytes) -> None:
        """Read some output."""
        if not self.options:
            self._write(said)
        *lines, self._rest = re.split(rb"(?<=[\r\n])", self._rest + said)
        for line in lines:
            self._line(line)

    def end(self) -> None:
        """End the output."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _line(self, line: bytes) -> None:
        text = line.rstrip(b"\r\n")
        if not self.options:
            closing = _CLOSING.fullmatch(text)
            if closing and closing[1]:
                sent, received = (int(number.replace(b",", b"")) for number in closing.groups())
                self._numbers.update({"Total bytes sent": sent, "Total bytes received": received})
            return
        progress, total = _PROGRESS.fullmatch(text), _TOTAL.fullmatch(text)
        if progress and "--info=progress2" in self.options:
            done = int(progress[1])
            if self.advance is not None and done > self._done:
                self.advance(done - self._done)
            self._done = max(done, self._done)
        elif total:
            self._numbers[total[1].decode()] = int(total[2])
            self._in_totals = True
        elif _CLOSING.fullmatch(text):
            self._in_totals = True
        elif text or (not self._in_totals and not line.startswith((b"\n", b"\r"))):
            self._write(line)

    @property
    def wire(self) -> int | None:
        """The bytes that rsync sent and received; None if it did not say."""
        if "Total bytes sent" not in self._numbers:
            return None
        return self._numbers["Total bytes sent"] + self._numbers.get("Total bytes received", 0)

    @property
    def literal(self) -> int | None:
        """The bytes of content that rsync wrote; None if it did not say."""
        return self._numbers.get("Literal data")
