"""``sparsesync sync``: what its failures end with. The work is done by :mod:`seeding.run`.

Its arguments do not go through argparse: they are rsync's, and rsync is to be the one who reads them. The parser is for
the help, the pages of the manual and the shells' completion; :mod:`seeding.options.own` reads the options.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..console.messages import format_error, print_error
from ..console.streams import check_report, write_error, write_report
from ..engine.errors import LinkError, LoginError, NoSpaceError
from ..engine.files.claims import HOLES
from ..rsync.command import parse, paths, transfers
from ..rsync.paths import is_remote
from ..rsync.program import RsyncTooOldError, Status, become, environment, program
from ..seeding.options.own import split_options
from . import TROUBLE

if TYPE_CHECKING:
    import argparse

    from ..seeding.options.own import SeedOptions

_NOT_FOUND = 127
"""A command that is not there, as a shell says it."""


def add(command: argparse.ArgumentParser) -> None:
    """Add what there is to be told of the command to its parser."""
    from ..workers import KINDS

    command.usage = "sparsesync sync [RSYNC OPTIONS] SRC... DEST"
    command.description = (
        "Put the sparse files in place, then run rsync. All on the command line is rsync's, but for the options below: "
        "see rsync(1), and 'rsync --help'."
    )
    command.add_argument("--help", action="help", help="show this; all other options, -h too, are rsync's")
    command.add_argument("--seed-off", action="store_true", help="only run rsync")
    command.add_argument("--seed-required", action="store_true", help="end rather than leave a sparse file to rsync")
    command.add_argument("--seed-verbose", action="store_true", help="say what was seeded, and what was not and why")
    command.add_argument("--seed-min-hole", metavar="SIZE", help="leave files with less of holes to rsync (default: 1)")
    command.add_argument("--seed-holes", choices=HOLES, help="whether a filesystem's map of a file is believed")
    command.add_argument("--seed-no-heal", action="store_true", help="do not give files their holes back")
    command.add_argument(
        "--seed-no-space-check", action="store_true", help="start even if the data does not seem to fit"
    )
    command.add_argument("--seed-jobs", metavar="N", help="copy with N threads, on one machine")
    command.add_argument("--seed-workers", metavar="ENGINE", help=f"have workers copy, of {KINDS}")
    command.add_argument("--seed-check", choices=["other"], help="have another worker read back what one wrote")
    command.add_argument("--seed-track", metavar="DIR", help="keep clones there, and send what changed since")
    command.add_argument("--seed-track-verify", metavar="N", help="compare all of what is tracked every N runs")
    command.add_argument("--seed-progress-fd", metavar="N", help="write seeding's progress there, as lines of JSON")
    command.add_argument("--seed-report", metavar="FILE", help="write what was done to FILE, as JSON")
    command.add_argument("--seed-freeze", metavar="COMMAND", help="run before what is tracked is cloned")
    command.add_argument("--seed-thaw", metavar="COMMAND", help="run after that, come what may")
    command.add_argument("--seed-freeze-max", metavar="SECONDS", help="do not clone what would take longer")
    command.add_argument("--seed-streams", metavar="N", help="send by N connections, where one ssh is too slow")
    command.add_argument("--seed-python", metavar="PATH", help="the Python to use on the other host")


def show_help(parser: argparse.ArgumentParser, argv: list[str]) -> None:
    """Show rsync's help on standard output, and then ours on standard error, and exit."""
    import contextlib
    import subprocess

    with contextlib.suppress(FileNotFoundError):  # ours is no worse for it
        subprocess.run([program(), "--help"], env=environment(), check=False)
    with contextlib.redirect_stdout(sys.stderr):
        parser.parse_args(argv)


def run(argv: list[str]) -> int:
    """Run the command with the arguments that follow ``sync``, and return the exit status."""
    try:
        seed, rest = split_options(argv)
        if seed.report is not None:
            check_report(seed.report)
    except (OSError, ValueError) as error:
        print_error(error)
        return Status.SYNTAX
    if seed.report is None:
        return _run(rest, seed, {})
    from ..console.document import ending, schema

    command = parse(rest)
    *sources, destination = paths(rest) or [""]
    report: dict[str, Any] = {
        "schema": schema("sync"),
        "sources": sources,
        "destination": destination,
        "pass": "plan" if command.dry_run else "sync",
        "started": time.time(),
        "versions": {"sparsesync": __version__},
        "status": None,
        "failure": None,
    }
    try:
        status = _run(rest, seed, report)
    except BaseException as error:
        status, report["failure"] = ending(error)
        raise
    finally:
        report.update(status=status, seconds=round(time.time() - report["started"], 3))
        try:
            write_report(seed.report, report)
        except OSError as error:
            print_error(error)
            status = status or Status.FILE_IO
    return status


def _run(argv: list[str], seed: SeedOptions, report: dict[str, Any]) -> int:
    """Seed, run rsync, and return the exit status. The report is told what was done, or why not."""

    def fail(message: str, status: int) -> int:
        from ..rsync.verbosity import logging

        logging(parse(argv), print_error)(message)
        report["failure"] = message
        return status

    try:
        if not transfers(argv):
            become(argv)
        # A server starts often, and needs none of it.
        from ..console.progress import bars
        from ..seeding import run as seeding

        # A rank of MPI that becomes rsync never says to the others that it has ended.
        replace = seed.report is None and seed.workers != "mpi"
        result = seeding.run(argv, seed, replace=replace, bar=bars(seed.progress_fd))
        if seed.report is not None:
            from ..seeding.result import as_report

            report["sync"] = as_report(result, any(map(is_remote, paths(argv))))
        if result.status:
            report["failure"] = result.failure or f"rsync ended with status {result.status}"
        return result.status
    except NoSpaceError as error:
        said = f"{format_error(error)}; nothing was written (--seed-no-space-check to try all the same)"
        return fail(said, Status.FILE_IO)
    except LoginError as error:
        # The remote shell has said why; the rest is rsync's to say.
        from ..rsync.listing import run_refused

        report["failure"] = format_error(error)
        return run_refused(argv)
    except LinkError as error:
        # rsync over the same broken connection would not get far, and over a new one would send every hole.
        said = f"{error}"
        if error.host is not None:
            said += "; what was received is kept, run the same command again to go on from there"
        return fail(said, Status.PROTOCOL)
    except RsyncTooOldError as error:
        return fail(format_error(error), TROUBLE)
    except FileNotFoundError as error:
        if error.filename != "rsync":
            raise
        return fail(f"rsync {error.strerror}", _NOT_FOUND)
    except (KeyboardInterrupt, SystemExit) as error:
        report["failure"] = "interrupted"
        if isinstance(error, SystemExit) and not (isinstance(error.code, int) and error.code > 128):
            return TROUBLE
        from ..rsync.process import interrupted

        by_user = isinstance(error, SystemExit) and error.code == 128 + signal.SIGUSR1
        status = Status.USER_SIGNAL if by_user else Status.SIGNAL
        write_error(interrupted(status))
        return status
