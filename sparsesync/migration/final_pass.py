"""The pass of a migration during which services are stopped.

::

    --before            services stop
    the sources         are they what was looked at? A --before may have unmounted one
    files in use        are there any left? Then no further, unless --allow-live
    sync                what has changed since the first pass
    flush               all that either pass has written is on the disk
    verify              proof.py
    --after             services start, over there perhaps

Whatever fails, a signal too: --on-failure, first over there and then here, and services are as they were. That must
work when all else does not: over a new connection if the old one is lost, whatever is signalled meanwhile, and
with nobody to read what is printed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable, Protocol

from ..console.progress import Whole
from ..console.streams import write_error
from ..engine.errors import LinkError
from ..engine.host import LocalHost
from ..engine.queries.survey import BOUND
from ..hosts.base import Host, Location
from ..hosts.pool import HostPool
from ..hosts.remote import RemoteHost
from ..hosts.stderr_relay import StderrRelay
from ..rsync.program import Status
from .called.result import MigrationError, clauses
from .findings import STOP, WARNING, Finding, stops
from .preflight import Facts
from .proof import Verified, prove
from .request import MigrationCommand, Request

_ABANDONED_SECONDS = 3
"""Seconds in which a command on another host ends whose answer nobody waits for any more: queries.shell.run()."""


class Parts(Protocol):
    """The methods of the migration that the final pass calls."""

    hosts: HostPool
    source: Location
    destination: Location
    asked: MigrationCommand
    request: Request
    report: dict[str, Any]
    say: Callable[[str, Any], object]
    told: list[str]

    def one_pass(self, whole: Whole) -> None:
        """Run one sync. Raises MigrationError unless it copies everything."""

    def ask_in_use(self, facts: Facts) -> Any:
        """Return the files of the sources that are in use now."""

    def in_use(self, facts: Facts, used: Any, level: str) -> list[Finding]:
        """Return a finding for each file in use that the command covers."""

    def name(self, path: str) -> str:
        """Return the name in the transfer of a path at the source, or "" if it has none."""


class FinalPass:
    """The final pass of a migration."""

    def __init__(self, migration: Parts, facts: Facts) -> None:
        self.migration = migration
        self.facts = facts
        self.source: Location = migration.source
        self.destination: Location = migration.destination
        self.asked: MigrationCommand = migration.asked
        self.request: Request = migration.request
        self.report: dict[str, Any] = migration.report
        self._begun = ""
        self._under_way = False

    def run(self, whole: Whole) -> None:
        """Run the pass. Raises MigrationError, after --on-failure."""
        commands = self.request.commands
        down = time.monotonic()
        try:
            self._call("before", self.source, commands.before)
            self._call("before-dest", self.destination, commands.before_dest)
            self._check_sources()
            if not self.request.allow_live:
                self._wait_until_unused()
            self.migration.one_pass(whole)
            with whole.phase(None, "flushing"):
                self._flush()
            with whole.phase(None, "verifying") as advance:
                self._verified(prove(self.source, self.destination, self.asked, advance))
            self._call("after", self.source, commands.after)
            self._call("after-dest", self.destination, commands.after_dest)
        except BaseException as error:
            with _undisturbed():
                told = self.migration.told = self._start_again()
            status = _status(error)
            if status is None:
                raise
            message = "interrupted" if status == Status.SIGNAL and not isinstance(error, Exception) else str(error)
            raise MigrationError(status, message + clauses(told)) from None
        finally:
            self.report["downtime"] = round(time.monotonic() - down, 3)

    def _check_sources(self) -> None:
        """Raise MigrationError if a source is not the one examined: --before may have unmounted it."""
        for source, survey in self.facts.surveys.items():
            device, inode = self.source.host.query("identity", path=source).numbers
            what = "was mounted, unmounted or replaced since it was looked at; nothing was copied"
            if (device, inode) != (survey.device, survey.inode):
                raise MigrationError(1, f"{self.facts.at_source(source)} {what}")
            for path, kind, _ in survey.mounts if not self.asked.command.one_file_system else ():
                if kind == BOUND:
                    continue  # no number told it
                above = os.path.dirname(path)
                here, there = (self.source.host.query("identity", path=each).numbers[0] for each in (path, above))
                if here == there:
                    raise MigrationError(1, f"{self.facts.at_source(path)} {what}")

    def _wait_until_unused(self) -> None:
        """Raise MigrationError if files are in use and stay so: what was told to stop may take a moment to end."""
        for pause in (0.1, 0.3, 0.6, 1.0, 0):
            found = self.migration.in_use(self.facts, self.migration.ask_in_use(self.facts), STOP)
            if not found:
                return
            time.sleep(pause)
        self.migration.say("findings", found)
        raise MigrationError(1, f"{stops(len(found))}; nothing was copied")

    def _flush(self) -> None:
        """Raise MigrationError unless all of the destination is on its disk.

        One flush of the filesystem is used instead of rsync's --fsync, which leaves out names, directories, and every
        file of the first pass.
        """
        started = time.monotonic()
        try:
            flushed = self.destination.host.query("flush", path=self.asked.path).paths
        except LinkError:
            raise
        except OSError as error:
            advice = "look for the disk's errors in the kernel's log, then run the same command with --verify=full"
            what = f"{error.filename}: could not be flushed to the disk ({error.strerror})"
            raise MigrationError(Status.FILE_IO, f"{what}; {advice}") from None
        self.report["flushed"] = {"paths": flushed, "seconds": round(time.monotonic() - started, 3)}

    def _verified(self, verified: Verified) -> None:
        differences = verified.differences
        if self.request.allow_live:
            # Files in use go on changing, and with them the times of their directories.
            self.migration.in_use(self.facts, self.migration.ask_in_use(self.facts), WARNING)
            names = {self.migration.name(each["path"]) for each in self.report["in_use"]}
            differences = [each for each in differences if each[0] not in names and not each[0].endswith("/")]
        self.report["verified"] = {
            "by_rsync": True,
            "by_digest": self.request.verify,
            "files": verified.files,
            "data": verified.data,
            "full": self.request.verify_full,
            "read": {"source": verified.read[0], "destination": verified.read[1]},
            "believed": {"source": verified.believed[0], "destination": verified.believed[1]},
            "differences": verified.differences,
        }
        if verified.differences:
            self.migration.say("differences", verified.differences)
        if differences:
            count = f"{len(differences)} name{' differs' if len(differences) == 1 else 's differ'}"
            advice = "remove what differs at the destination and run the same command again"
            raise MigrationError(1, f"{count} after the final pass; {advice}")

    def _call(self, what: str, side: Location, command: str | None) -> None:
        """Run one of the commands. Raises MigrationError if it fails, LinkError."""
        if command is None:
            return
        self.asked.check()
        self.migration.say("command", (what, side.host.name, command))
        self._begun = what
        self._run_command(what, side.host, command, self.asked.check)

    def _run_command(self, what: str, host: Host, command: str, check: Callable[[], object] = lambda: None) -> None:
        """Run a command. ``check``: called while it runs; what it raises ends the command."""
        started = time.monotonic()
        self._under_way = True
        with self._embedded(host, check) as more:
            status = host.query("run", command=command, **more).status
        self._under_way = False
        self.report.setdefault("commands", []).append(
            {"what": what, "host": host.name, "command": command, "status": status,
             "seconds": round(time.monotonic() - started, 3)}
        )  # fmt: skip
        if status:
            raise MigrationError(1, f"--{what} failed on {host.name} with status {status}: {command}")

    @contextlib.contextmanager
    def _embedded(self, host: Host, check: Callable[[], object]) -> Iterator[dict[str, Any]]:
        """Give what a command has to respect of the program that it is run for, if it is run on this machine."""
        embedding = self.asked.embedding
        if embedding is None or not isinstance(host, LocalHost):
            yield {}
            return
        relay = StderrRelay(embedding.stderr or write_error)
        try:
            environ, directory = dict(embedding.environ), embedding.directory
            yield {"given_up": check, "out": relay.sink, "environ": environ, "directory": directory}
        finally:
            relay.started()
            relay.close()

    def _start_again(self) -> list[str]:
        """Run --on-failure at both ends, come what may; returns what there is to be said of it."""
        commands = self.request.commands
        told = []
        abandoned, self._under_way = self._under_way, False
        # What --after-dest may have started over there has to be stopped before services are started here.
        for what, side, command in (
            ("on-failure-dest", self.destination, commands.on_failure_dest),
            ("on-failure", self.source, commands.on_failure),
        ):
            if command is None:
                continue
            if abandoned and isinstance(side.host, RemoteHost):
                side.host.leave()  # or the agent would not know that nobody waits for the command
                time.sleep(_ABANDONED_SECONDS)
            try:
                # Nothing is printed before it is done: standard output may be what has failed.
                with self.migration.hosts.alive(side.host) as host:
                    self._run_command(what, host, command)
                told.append(f"--{what} was run on {side.host.name}")
            except (MigrationError, OSError, ValueError) as error:
                told.append(f"--{what} COULD NOT BE RUN on {side.host.name}, run it by hand: {command} ({error})")
        ran = [each["what"] for each in self.report.get("commands", ())]
        if commands.after_dest and not commands.on_failure_dest and self._begun == "after-dest":
            told.append(f"what --after-dest has started on {self.destination.host.name} may be running there")
        if not told and "before" in ran:
            told.append("no --on-failure was given: what --before stopped is still stopped")
        return told


def _status(error: BaseException) -> int | None:
    """Return the exit status for the exception that ended the pass, or None for a bug."""
    if isinstance(error, MigrationError):
        return error.status
    if isinstance(error, LinkError):
        return Status.PROTOCOL
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return Status.SIGNAL
    return 1 if isinstance(error, (OSError, ValueError)) else None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals wait: whoever presses Ctrl-C twice wants the services back, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    # Not SIG_IGN, which the command would inherit.
    old = {number: signal.signal(number, lambda *ignored: None) for number in numbers}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
