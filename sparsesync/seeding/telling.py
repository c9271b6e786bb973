"""What rsync prints of a run, with the lines of the files that were seeded in it.

Nothing of ours goes to standard output. Where rsync prints nothing that tells of a file, or nothing was seeded, rsync
writes there by itself. Otherwise its output goes through a :class:`~.rsync.report.Report`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Callable, Optional

from ..console.streams import write_output
from ..rsync.command import Command
from ..rsync.process import ESCAPES_LOG, version
from ..rsync.verbosity import shown
from .seeder import Seeding

if TYPE_CHECKING:
    from ..rsync.report import Report

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
    tried = [name for name, _ in seeding.left if told]
    if not (sent or tried or (control and command.verbose > 1)):
        return None
    from ..rsync.report import Report

    escapes = shown(command).logged is not None and version(environ) >= ESCAPES_LOG
    return Report(command, listing, sent, tried, command.whole_file, " ".join(control), escapes)


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
