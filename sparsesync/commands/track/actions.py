"""The actions of ``sparsesync track``: list, check and drop what a directory of clones keeps."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator

from ...console.messages import print_error, print_line
from ...console.units import iec
from ...engine.errors import error_path
from ...tracking.housekeeping import Kept, drop, excess, kept, open_directory
from .. import TROUBLE
from ..options import Troubles


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("action", choices=["list", "check", "drop"])
    command.add_argument("directory", metavar="DIR", help="as of copy --track=DIR, or sync --seed-track=DIR")
    command.add_argument("keys", nargs="*", default=[], metavar="KEY", help="what to drop, as list tells it")
    command.add_argument("--orphans", action="store_true", help="drop: all whose source is gone")
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    if arguments.action != "drop" and (arguments.keys or arguments.orphans):
        raise ValueError("KEY and --orphans are for drop")
    if arguments.action == "drop" and not (arguments.keys or arguments.orphans):
        raise ValueError("drop needs a KEY, or --orphans")
    with error_path(arguments.directory):
        directory = open_directory(arguments.directory)
    try:
        if arguments.action == "drop":
            return _drop(arguments, directory)
        return _list(arguments, directory)
    finally:
        os.close(directory)


def _list(arguments: argparse.Namespace, directory: int) -> int:
    checks, status = arguments.action == "check", 0
    total = {"held": 0}

    def rows() -> Iterator[Kept]:
        nonlocal status
        for each in kept(directory):
            total["held"] += each.held or 0
            if checks and each.trouble is not None:
                status = TROUBLE
            if not checks or each.trouble is not None or each.orphan:
                yield each

    if arguments.json:
        arguments.document.open_list("files")
        for each in rows():
            arguments.document.item(_as_dict(each))
        arguments.document.add({"total": total})
        return status
    for each in rows():
        print_line(_line(each))
    if not checks:
        print_line(f"{iec(total['held'])} are held by snapshots alone")
        warning = excess(directory, arguments.directory)
        if warning is not None:
            print_error(warning)
    return status


def _line(each: Kept) -> str:
    if each.record is None:
        return f"{each.key} {each.trouble}"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(each.record.time))
    place = f"{each.record.source.path} -> {each.record.destination.path}"
    room = "" if each.held is None else f", {iec(each.held)} held"
    notes = [each.trouble, "its source is gone" if each.orphan else None]
    return f"{each.key} {when} {place}{room}" + "".join(f"; {note}" for note in notes if note)


def _as_dict(each: Kept) -> dict[str, object]:
    found: dict[str, object] = {"key": each.key, "held": each.held, "trouble": each.trouble, "orphan": each.orphan}
    if each.record is not None:
        found["source"], found["destination"] = each.record.source.path, each.record.destination.path
        found["time"], found["runs"] = each.record.time, each.record.runs
    return found


def _drop(arguments: argparse.Namespace, directory: int) -> int:
    troubles = Troubles()
    keys = list(arguments.keys)
    if arguments.orphans:
        keys += [each.key for each in kept(directory) if each.orphan and each.key not in keys]
    dropped = []
    for key in keys:
        try:
            drop(directory, key)
        except OSError as error:
            error.filename = os.path.join(arguments.directory, key)
            troubles(error)
        else:
            dropped.append(key)
    if arguments.json:
        arguments.document.add({"dropped": dropped})
    return troubles.status
