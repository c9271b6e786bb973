"""What rsync prints of a run, with the lines of the files that were seeded in it.

Nothing of ours goes to standard output. Where rsync prints nothing that tells of a file, or nothing was seeded, rsync
writes there by itself. Otherwise its output goes through a :class:`~.rsync.report.Report`.

What the destination refuses is kept from rsync, and told as rsync tells it: the file has its line and its share of the
totals, what fails is said on standard error (:func:`as_rsync_says`), and so is how the run ends (:func:`ending`).
"""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, TYPE_CHECKING, Callable, Optional

from ..console.streams import write_output
from ..engine.text import escape_name
from ..rsync.command import Command
from ..rsync.listing import parse_listing, source_path
from ..rsync.process import ESCAPES_LOG, version
from ..rsync.program import Status, environment, program
from ..rsync.verbosity import shown

if TYPE_CHECKING:
    from ..rsync.report import Report
    from .seeder import Refused, Seeding

Output = Optional[Callable[[bytes], object]]
"""What gets rsync's output; None: our standard output."""


def report_of(
    command: Command, listing: IO[bytes], seeding: Seeding, control: Sequence[str], environ: Mapping[str, str]
) -> Report | None:
    """Return the report of a run from the dry run's output, or None if rsync's own output is complete.

    ``control``: the words by which rsync's remote shell shares a connection. They are never printed.
    """
    told = shown(command).anything and not command.dry_run
    sent = {each.name: each.sent for each in seeding.seeded if told}
    refused = list(seeding.refused) if told and not tries_all(command) else []
    tried = [name for name, _ in seeding.left if told]
    if not (sent or tried):
        return None
    from ..rsync.report import Report

    escapes = shown(command).logged is not None and version(environ) >= ESCAPES_LOG
    alias = _alias(command, listing) if sent else ""
    return Report(command, listing, sent, tried, command.whole_file, " ".join(control), escapes, refused, alias)


def hiding(command: Command, control: Sequence[str], stack: contextlib.ExitStack) -> Report | None:
    """Return the report of a run in which nothing was seeded, or None if rsync's own output has no words of ours.

    ``control``: as in :func:`report_of`.
    """
    if not control or command.verbose < 2:
        return None
    from ..rsync.report import Report

    report = Report(command, io.BytesIO(), {}, (), command.whole_file, " ".join(control))
    stack.callback(report.close)
    return report


def _alias(command: Command, listing: IO[bytes]) -> str:
    """Return the name that the only file of a transfer may have at the destination, "" if there may be more files.

    rsync has its lines on how the file is there by that name, and all others by the transfer's.
    """
    listing.seek(0)
    files = list(islice(parse_listing(listing), 2))
    remote, pushes = command.remote, command.remote is not None and command.remote.push
    sources = command.sources if remote is None or pushes else remote.paths
    source = source_path(command, files[0]) if len(files) == len(sources) == 1 else None
    if source is None or os.path.normpath(source) != os.path.normpath(sources[0]):
        return ""
    return os.path.basename((remote.paths[0] if remote is not None and pushes else command.destination) or "")


def tries_all(command: Command) -> bool:
    """Return whether rsync is given what the destination refuses, too."""
    return command.sparse or command.dry_run or any(option.name == "delete-excluded" for option in command.options)


def as_rsync_says(why: Refused) -> bytes:
    """Return rsync's line on a file that the destination does not take."""
    text = escape_name(why.said).encode(errors="surrogateescape")
    return b"rsync: [receiver] %s: %s (%d)" % (text, os.strerror(why.errno).encode(), why.errno)


def ending(status: Status, command: Command, environ: Mapping[str, str]) -> bytes:
    """Return rsync's last line on standard error, where it would have ended with another status than it did."""
    if status != Status.PARTIAL:
        return b"rsync error: error in file IO (code 11) at receiver.c [receiver=%d.%d.%d]\n" % version(environ)
    # The line has a place in rsync's source. It knows that itself, of an end like this one: a source is missing.
    rsync = program(environ)
    missing = os.path.join(rsync, "none")
    argv = [rsync, "--dry-run", rsync, missing, "."]
    if command.remote is not None and not command.remote.push:
        shell = "sh -c 'shift; exec \"$@\"' sh"
        argv = [rsync, "--dry-run", f"--rsh={shell}", f"--rsync-path={rsync}", f"h:{rsync}", f"h:{missing}", "."]
    with tempfile.TemporaryDirectory(prefix="sparsesync-") as place:
        said = subprocess.run(argv, cwd=place, env=environment(environ), stdin=subprocess.DEVNULL, capture_output=True)
    lines = [line for line in said.stderr.splitlines(keepends=True) if line.startswith(b"rsync error: ")]
    return lines[-1] if lines else b""


@contextlib.contextmanager
def telling(
    report: Report | None, output: Output, told_by_report: bool = False
) -> Iterator[tuple[Output, list[str], list[int]]]:
    """Give the reader of rsync's output, and the options and descriptors that rsync gets for it.

    ``told_by_report``: what goes to ``output`` is the report's, too.
    """
    if report is None or (output is not None and not told_by_report):
        yield output, [], []
        return
    with report.open(output or write_output) as opened:
        yield opened
