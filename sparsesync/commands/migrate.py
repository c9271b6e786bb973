"""``sparsesync migrate``: its arguments, and what it prints. The work is done by :mod:`migration.run`.

What stands behind ``--`` is rsync's; :func:`main.main` takes it off and gives it as ``rsync_options``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import BinaryIO, Callable

from .. import __version__
from ..console import streams
from ..console.document import ending, schema
from ..console.messages import print_error, print_line
from ..console.progress import Whole, progress
from ..migration import text
from ..migration.called.result import MigrationError, clauses
from ..migration.request import Commands, Request
from ..migration.run import INTERRUPTED, Migration
from ..rsync.program import Status
from .options import Parser, add_progress, add_remote_end, add_streams, preset_names


def add(command: Parser) -> None:
    """Add the command's arguments to its parser."""
    command.hint = _hint
    command.usage = "sparsesync migrate [options] [HOST:]SRC... [HOST:]DEST [-- RSYNC OPTIONS]"
    command.description = "rsync -aHAX --numeric-ids --one-file-system, wrapped as by sync. DEST is a directory."
    command.add_argument("paths", nargs="+", metavar="PATH", help=argparse.SUPPRESS)
    command.add_argument("--check", action="store_true", help="only look at both machines, and say what is in the way")
    command.add_argument("-n", "--dry-run", action="store_true", help="look, say what would be done, and do nothing")
    command.add_argument("--final", action="store_true", help="the pass during which services are stopped")
    for when, what in (
        ("before", "stop services: first of all"),
        ("after", "start services: when all is moved and verified"),
        ("on-failure", "start them again: whenever the pass does not come to its end"),
    ):
        command.add_argument(f"--{when}", metavar="CMD", help=f"a shell command at the source, to {what}")
        command.add_argument(f"--{when}-dest", metavar="CMD", help="the same at the destination")
    command.add_argument("--allow-live", action="store_true", help="in the final pass, go on though files are in use")
    command.add_argument(
        "--track", metavar="DIR", help="keep clones there: a pass costs what changed since the last one"
    )
    add_streams(command)
    command.add_argument("--verify", action="store_true", help="in the final pass, compare the content by digest, too")
    command.add_argument("--verify=full", dest="verify_full", action="store_true", help="the same, and read the holes")
    command.add_argument(
        "--preset",
        type=preset_names,
        metavar="NAME[,NAME...]",
        help="what kind of tree it is: none, docker, system, and as in the manual (default: by its looks)",
    )
    command.add_argument("--exclude-from", action="append", default=[], metavar="FILE", help="as rsync's")
    command.add_argument("--exclude-sparse", action="store_true", help="leave out all sparse files")
    command.add_argument("--skip-docker-loop", action="store_true", help="leave out devicemapper's loop files")
    command.add_argument("--report", metavar="FILE", help="write what was done to FILE, as JSON")
    command.add_argument("--json", action="store_true", help="print that report, and nothing else")
    add_progress(command)
    add_remote_end(command)
    command.set_defaults(run=run)


def _hint(option: str) -> str | None:
    from ..rsync.options import LETTERS, LONGS

    known = option[2:] in LONGS if option.startswith("--") else option[1:2] in LETTERS
    return f"options of rsync stand behind the paths and --: migrate SRC DEST -- {option}" if known else None


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    given = vars(arguments)
    *sources, destination = arguments.paths
    request = Request(
        tuple(sources),
        destination,
        options=tuple(arguments.rsync_options),
        exclude_from=tuple(arguments.exclude_from),
        commands=Commands(**{name: given[name] for name in Commands.__dataclass_fields__}),
        **{name: given[name] for name in (
            "preset", "exclude_sparse", "skip_docker_loop", "check", "dry_run", "final", "verify_full", "allow_live",
            "track", "rsh", "python", "remote_prefix", "streams",
        )},
        verify=arguments.verify or arguments.verify_full,
    )  # fmt: skip
    say = (lambda kind, value: None) if arguments.json else text.print_event
    out = sys.stderr.buffer if arguments.json else sys.stdout.buffer
    every_file = bool(arguments.report or arguments.json)
    if arguments.report:
        streams.check_report(arguments.report)

    def bar(total: int) -> Whole:
        return progress(total, arguments.quiet, arguments.progress_fd)

    try:
        migration = Migration(request, say, _writer(out), bar, every_file)
    except (OSError, ValueError) as error:
        if arguments.report:
            status, failure = ending(error)
            early = {"schema": schema("migrate"), "status": status, "failure": failure}
            streams.write_report(arguments.report, early)
        raise
    migration.report["versions"] = {"sparsesync": __version__}
    try:
        migration.run()
        return 0
    except MigrationError as failed:
        # What went wrong, and what was done about it, is a line each.
        for line in [str(failed).removesuffix(clauses(migration.told)), *migration.told]:
            print_error(line)
        return failed.status
    except (KeyboardInterrupt, SystemExit):
        if not migration.begun:
            print_error("interrupted; nothing was done")
            raise
        print_error(INTERRUPTED)
        return Status.SIGNAL
    finally:
        report = migration.report
        if arguments.report:
            streams.write_report(arguments.report, report)
        if arguments.json:
            arguments.document.add(report)
        elif "sync" in report or "downtime" in report:
            for line in text.summary(report):
                print_line(line)
            if report["pass"] == "first" and report["status"] in (Status.OK, Status.VANISHED):
                words = ["sparsesync", "migrate", "--final", *arguments.words]
                words += ["--", *arguments.rsync_options] if arguments.rsync_options else []
                print_line(f"next         stop what writes there, then: {shlex.join(words)}")


def _writer(out: BinaryIO) -> Callable[[bytes], None]:
    def write(said: bytes) -> None:
        out.write(said)
        out.flush()

    return write
