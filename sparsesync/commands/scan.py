"""``sparsesync scan``: the sparse files below paths, the one with the largest holes first."""

from __future__ import annotations

import argparse
import json
import os
import sys

from ..console.messages import print_line
from ..console.sorting import Sorted
from ..console.units import iec
from ..engine.tree.scan import ScanOptions
from ..hosts.pool import HostPool
from .options import Troubles, add_holes, add_one_file_system, add_remote_end, byte_size, write_list


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("paths", nargs="+", metavar="PATH")
    command.add_argument(
        "--min-size", type=byte_size, default=0, metavar="SIZE", help="smallest apparent size, e.g. 100M"
    )
    command.add_argument("--all", action="store_true", help="list every regular file, not only the sparse ones")
    add_one_file_system(command)
    add_holes(command)
    add_remote_end(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("-0", "--null", action="store_true", help="paths only, each ended by a NUL")
    form.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    options = ScanOptions(
        arguments.one_file_system,
        every_file=arguments.all,
        min_size=arguments.min_size,
        follow=True,
        holes=arguments.holes,
    )
    troubles = Troubles()
    found, count = Sorted(), 0
    known: dict[object, int] = {}
    with HostPool(arguments.rsh, arguments.python, prefix=arguments.remote_prefix) as hosts:
        for path in arguments.paths:
            try:
                host, below, prefix = hosts.locate(path)
                for scanned in host.scan(below, options, measured=not arguments.null, on_error=troubles):
                    file, count = scanned.file, count + 1
                    sizes = file.size, file.allocated, scanned.data, scanned.extents
                    inode = known.setdefault(host, len(known)), file.st.st_dev, file.st.st_ino
                    found.add(*inode, count, prefix + file.path, *sizes)
            except OSError as error:
                troubles(error)

    rows, total, last = Sorted(), {"files": 0, "size": 0, "allocated": 0, "data": 0}, None
    for row in found:
        path, size, allocated, data, count = row[4:]
        if row[:3] == last:  # a link, or the same file below two paths
            continue
        last = row[:3]
        # What is reserved is allocated, and saved all the same.
        rows.add((allocated if arguments.null else min(allocated, data)) - size, path, size, allocated, data, count)
        for name, more in zip(total, (1, size, allocated, data)):
            total[name] += more
    _show(rows, total, arguments)
    return troubles.status


def _show(rows: Sorted, total: dict[str, int], arguments: argparse.Namespace) -> None:
    if arguments.null:
        for _, path, *_ in rows:
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        return
    if arguments.json:
        names = ("path", "size", "allocated", "data", "extents")
        write_list("files", (json.dumps(dict(zip(names, row[1:]))) for row in rows), {"total": total})
        return
    if total["files"]:
        print_line(f"{'apparent':>10} {'allocated':>10} {'data':>10} {'extents':>8}  path")
    for _, path, size, allocated, data, count in rows:
        sizes = f"{iec(size):>10} {iec(allocated):>10} {iec(data):>10}"
        print_line(f"{sizes} {count:>8}  {path}")
    kind = f"{'file' if arguments.all else 'sparse file'}{'' if total['files'] == 1 else 's'}"
    print_line(f"{total['files']} {kind}: {iec(total['size'])} apparent, {iec(total['allocated'])} allocated")
