"""``sparsesync dig``: what is zeros in files becomes holes, in place and without changing anything else of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from ..console.messages import print_line
from ..console.progress import data_bar
from ..console.units import iec
from ..engine.files.claims import allocated
from ..engine.files.dig import dig
from ..hosts.pool import is_remote
from .options import Troubles, add_progress

_SIZES = ("size", "allocated", "dug")
"""What there is to be said of a file, in bytes."""


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("files", nargs="+", metavar="FILE")
    command.add_argument("--json", action="store_true", help="one JSON object")
    add_progress(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    troubles = Troubles()
    total = dict.fromkeys(_SIZES, 0)
    rows = _dig_each(arguments, troubles, total)
    if arguments.json:
        arguments.document.open_list("files")
        done = False
        for path, sizes in rows:
            done = True
            arguments.document.item({"path": path, **sizes})
        arguments.document.add({"total": total})
        if not done:
            arguments.document.failure = troubles.first
        return troubles.status
    for path, sizes in rows:
        held = f"{iec(sizes['allocated'])} of {iec(sizes['size'])} allocated"
        print_line(f"{path}: {iec(sizes['dug'])} of zeros became holes, {held}")
    return troubles.status


def _dig_each(
    arguments: argparse.Namespace, troubles: Troubles, total: dict[str, int]
) -> Iterator[tuple[str, dict[str, int]]]:
    """Dig the files, and yield each one's path and sizes, which are added to ``total``."""
    for path in arguments.files:
        try:
            if is_remote(path):
                raise ValueError(f"{path}: only files of this machine can be dug; run the same command there")
            held, fd, name = allocated(os.stat(path)), arguments.progress_fd, os.path.basename(path)
            with data_bar(held, "digging", arguments.quiet, fd, name) as advance:
                dug = dig(path, follow=True, progress=advance)
            st = os.stat(path)
        except (OSError, ValueError) as error:
            troubles(error)
            continue
        if dug.why is not None:
            troubles(ValueError(f"{path}: {dug.why}; the rest of it is as it was"))
        sizes = dict(zip(_SIZES, (st.st_size, allocated(st), dug.holes)))
        for name, more in sizes.items():
            total[name] += more
        yield path, sizes
