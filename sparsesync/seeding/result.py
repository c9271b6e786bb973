"""What a run ends with: its result, or why there is none.

The exceptions are those that a user of :mod:`subprocess` catches. Sizes are bytes.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..engine.errors import Error


class Seeded(NamedTuple):
    """A seeded file: its name in the transfer, its apparent size and its data in bytes.

    ``sent``: the bytes of content that crossed the network, before compression.
    ``allocated``: its allocated bytes when it was put in place.
    """

    name: str
    size: int
    data: int
    sent: int = 0
    allocated: int = 0

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return self._asdict()


class SyncResult(NamedTuple):
    """The result of a run. ``status``: rsync's exit status. Sizes are bytes."""

    status: int = 0
    returncode: int = 0
    """``status`` as subprocess has it: if a signal ended rsync, the negative number of the signal."""
    seeded: Sequence[Seeded] = ()
    left: Sequence[tuple[str, str]] = ()
    """Sparse files that were left to rsync, each with the reason."""
    later: Sequence[str] = ()
    """Of a live source: sparse files in use that rsync was kept from; another run will bring what they lack."""
    handoff: str | None = None
    """Why nothing at all was seeded, or None."""
    refused: Sequence[str] = ()
    """Sparse files that the destination does not take; rsync was kept from reading all of their holes in vain."""
    holes: int = 0
    """What is lost with the files that were left: bytes of holes that rsync was to write as data, as far as known."""
    healed: Sequence[tuple[str, int]] = ()
    """Files that had lost holes and have them again, each with the bytes of these."""
    bytes: int = 0
    wire: int = 0
    """What the seeding of files sent and received over the network."""
    seconds: float = 0.0
    command: Sequence[str] = ()
    no_agent: bool = False
    """Whether nothing was seeded since no agent can run on the other host, which has no Python for instance."""
    failure: str | None = None
    """Why the run has ended before rsync ran, or None."""

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return {**self._asdict(), "seeded": [each._asdict() for each in self.seeded]}

    @property
    def ok(self) -> bool:
        """Whether rsync ended with status 0."""
        return self.status == 0


def as_report(result: SyncResult, remote: bool, sent: int | None = None, written: int | None = None) -> dict[str, Any]:
    """Return what a report says of a run, ready for JSON.

    ``remote``: whether one of the ends is another host.
    ``sent``, ``written``: the bytes that rsync sent, and those of content that it wrote, if it said so.
    """
    moved = sum(seeded.sent if remote else seeded.data for seeded in result.seeded)
    return {
        "command": [*result.command],
        "status": result.status,
        "seconds": round(result.seconds, 3),
        "left_to_rsync": result.handoff,
        "seeded": [seeded._asdict() for seeded in result.seeded],
        "left": result.left,
        "healed": result.healed,
        "later": result.later,
        "refused": result.refused,
        "holes": result.holes,
        "written_by_rsync": written,
        "sent": (result.wire if remote else moved) + (sent or 0),
        "sent_by_rsync": sent,
        "saved": sum(seeded.size for seeded in result.seeded) - moved,
    }


class RsyncError(Error, subprocess.CalledProcessError):
    """An rsync that ended with a status other than 0.

    ``returncode``, ``cmd``: as in subprocess.
    ``stderr``: the last lines of standard error.
    ``result``: the SyncResult.
    """

    def __init__(self, returncode: int, cmd: Sequence[str], output: None, stderr: str, result: SyncResult) -> None:
        subprocess.CalledProcessError.__init__(self, returncode, cmd, output, stderr)
        self.result = result

    def __str__(self) -> str:
        last = self.stderr.rstrip("\n").rpartition("\n")[2]
        how = f"ended with status {self.returncode}"
        if self.returncode < 0:
            how = f"was ended by signal {-self.returncode}"
        return f"rsync {how}: {last}" if last else f"rsync {how}"


class SyncTimeoutError(Error, subprocess.TimeoutExpired):
    """A run that took longer than its ``timeout``, and was ended. ``stderr``: the last lines of standard error."""

    def __init__(self, cmd: Sequence[str], timeout: float, output: None, stderr: str) -> None:
        subprocess.TimeoutExpired.__init__(self, cmd, timeout, output, stderr)

    def __str__(self) -> str:
        return f"sync took longer than {self.timeout} seconds, and was ended"


class SyncCancelledError(Error):
    """A run that was ended because its caller wanted that."""
