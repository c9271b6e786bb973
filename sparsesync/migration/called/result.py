"""What a migration ends with: its result, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ...engine.errors import Error
from ...seeding.result import SyncCancelledError, SyncTimeoutError

if TYPE_CHECKING:
    from ...seeding.result import SyncResult


class MigrationResult(NamedTuple):
    """The result of a migration. ``status``: the exit status of the command. Sizes are bytes, times seconds."""

    status: int
    failure: str | None = None
    """What went wrong, and which of ``on_failure`` and ``on_failure_dest`` ran for it, or None."""
    findings: Sequence[tuple[str, str, str]] = ()
    """What the machines said, each a level ("ok", "warning" or "stop"), what it is about, and a text."""
    sync: SyncResult | None = None
    """The result of the pass, if there was one."""
    differences: Sequence[tuple[str, str]] = ()
    """What the proof has found: names, and what differs."""
    downtime: float | None = None
    """Seconds of the final pass, from ``before`` to ``after_dest``."""
    seconds: float = 0.0
    report: str = "{}"
    """The report of the command, as JSON."""

    @property
    def ok(self) -> bool:
        """Whether all that was asked for is done."""
        return self.status == 0

    def asdict(self) -> dict[str, Any]:
        """Return the report of the command, for JSON, without the version of sparsesync itself."""
        report: dict[str, Any] = json.loads(self.report)
        return report


class MigrationError(Error):
    """A migration that did not complete. The message says why.

    ``status``: the exit status of the command.
    ``result``: the MigrationResult.
    """

    def __init__(self, status: int, message: str, result: MigrationResult | None = None) -> None:
        super().__init__(status, message, result)
        self.status = status
        self.result = result

    def __str__(self) -> str:
        return str(self.args[1])


def clauses(told: Sequence[str]) -> str:
    """Return what is told after something else, each behind a semicolon."""
    return "".join(f"; {each}" for each in told)


class _Ended:
    """What is known of a migration that was ended.

    ``result``: the MigrationResult.
    ``told``: what became of the commands for a failure, after a semicolon.
    """

    result: MigrationResult | None = None
    told: str = ""


class MigrationTimeoutError(_Ended, SyncTimeoutError):
    """A migration that took longer than its ``timeout``, and was ended."""

    def __str__(self) -> str:
        return f"migrate took longer than {self.timeout} seconds, and was ended{self.told}"


class MigrationCancelledError(_Ended, SyncCancelledError):
    """A migration that was ended because its caller wanted that."""

    def __str__(self) -> str:
        return f"migrate was cancelled by its caller{self.told}"
