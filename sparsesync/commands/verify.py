"""``sparsesync verify``: each difference of two files or trees, as a line or in one JSON object."""

from __future__ import annotations

import argparse
import contextlib

from ..comparison.compare import verify
from ..console.messages import print_line
from ..console.progress import data_bar
from ..engine.content.compare import Tally
from .options import Troubles, add_holes, add_remote_end, write_list

_DIFFERENCES = {
    "content": "content differs at byte {offset}",
    "missing": "missing in {b}",
    "extra": "only in {b}",
    "type": "of another type in {b}",
    "link": "the symlink leads elsewhere in {b}",
    "device": "another device in {b}",
}


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("a", metavar="A")
    command.add_argument("b", metavar="B")
    command.add_argument("--full", action="store_true", help="read the holes too")
    command.add_argument("--json", action="store_true", help="one JSON object; also what was read, and what believed")
    add_holes(command)
    add_remote_end(command)
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    troubles = Troubles()
    tallies = Tally(), Tally()
    different = False
    with contextlib.ExitStack() as stack:
        if arguments.json:
            import json
            import tempfile

            # It is printed when it is known that all of it can be.
            listed = stack.enter_context(tempfile.SpooledTemporaryFile(1 << 20, "w+", encoding="ascii"))
        advance = stack.enter_context(data_bar(None, "verifying", arguments.quiet))
        for difference in verify(
            arguments.a,
            arguments.b,
            full=arguments.full,
            holes=arguments.holes,
            tallies=tallies,
            on_error=troubles,
            progress=advance,
            rsh=arguments.rsh,
            python=arguments.python,
            prefix=arguments.remote_prefix,
        ):
            different = True
            if arguments.json:
                listed.write(json.dumps(difference.asdict()) + "\n")
                continue
            what = _DIFFERENCES[difference.kind].format(offset=difference.offset, b=arguments.b)
            print_line(f"{difference.path or arguments.a}: {what}")
        if arguments.json:
            listed.seek(0)
            a, b = ({"read": tally.read, "believed": tally.believed} for tally in tallies)
            write_list("differences", (line.rstrip("\n") for line in listed), {"a": a, "b": b})
    return 2 if troubles.status else int(different)
