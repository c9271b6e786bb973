"""``sparsesync scan``: the sparse files below paths, the one that saves most first.

What is saved is what of the apparent size is not allocated. More could be saved where a file takes more than its data,
most of all by what is reserved: a copy, holes as holes, does not take that.
"""

from __future__ import annotations

import argparse
import os
import sys
from itertools import islice

from ..console.messages import print_line
from ..console.sorting import Sorted
from ..console.units import iec
from ..engine.tree.scan import ScanOptions
from ..hosts.pool import HostPool
from .options import Troubles, add_holes, add_one_file_system, add_remote_end, byte_size

_SIZES = ("size", "allocated", "data", "extents", "saved", "could")
"""What there is to be said of a file, besides its path. ``could``: the bytes that could be saved besides."""

_NOT_WORTH_BYTES = 64 << 10
"""What a file may take for its map and its last block, and no copy would save."""


_TOLD = {"size": "apparent", "allocated": "allocated", "saved": "saved", "could": "more could be"}
"""What is said of all files together, and in which words."""


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
    command.add_argument(
        "--sort",
        choices=[*_SIZES[:-1], "path"],
        default="saved",
        help="largest first, or by path; saved: with what could be (default: %(default)s)",
    )
    command.add_argument("--top", type=_count, metavar="N", help="list the first N only; the total is that of all")
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
    found, count, scanned_any = Sorted(), 0, False
    known: dict[object, int] = {}
    measured = not arguments.null or arguments.sort in ("data", "extents")
    with HostPool(arguments.rsh, arguments.python, prefix=arguments.remote_prefix) as hosts:
        for path in arguments.paths:
            try:
                host, below, prefix = hosts.locate(path)
                for scanned in host.scan(below, options, measured=measured, on_error=troubles):
                    file, count = scanned.file, count + 1
                    measures = file.size, file.allocated, scanned.data, scanned.extents
                    inode = known.setdefault(host, len(known)), file.st.st_dev, file.st.st_ino
                    found.add(*inode, count, prefix + file.path, *measures)
                scanned_any = True
            except OSError as error:
                troubles(error)

    rows, total, last = Sorted(), dict.fromkeys(("files", *_SIZES), 0), None
    for row in found:
        path, size, allocated, data, count = row[4:]
        if row[:3] == last:  # a link, or the same file below two paths
            continue
        last = row[:3]
        saved, could = max(0, size - allocated), min(size, allocated) - data if measured else 0
        could = could if could > _NOT_WORTH_BYTES else 0
        sizes = dict(zip(_SIZES, (size, allocated, data, count, saved, could)))
        order = {**sizes, "saved": saved + could}
        rows.add(path if arguments.sort == "path" else -order[arguments.sort], path, *sizes.values())
        for name, more in (("files", 1), *sizes.items()):
            total[name] += more
    if scanned_any or count or arguments.json:
        _show(rows, total, arguments)
    return troubles.status


def _show(rows: Sorted, total: dict[str, int], arguments: argparse.Namespace) -> None:
    shown = islice(rows, arguments.top)
    if arguments.null:
        for _, path, *_ in shown:
            sys.stdout.buffer.write(os.fsencode(path) + b"\0")
        return
    if arguments.json:
        arguments.document.open_list("files")
        for row in shown:
            arguments.document.item(dict(zip(("path", *_SIZES), row[1:])))
        arguments.document.add({"total": total})
        return
    if total["files"]:
        heads = ("apparent", "allocated", "data", "saved", "could be")
        print_line(f"{''.join(f'{head:>10} ' for head in heads)}{'extents':>8}  path")
    for _, path, size, allocated, data, count, saved, could in shown:
        columns = "".join(f"{iec(each):>10} " for each in (size, allocated, data, saved, could))
        print_line(f"{columns}{count:>8}  {path}")
    kind = f"{'file' if arguments.all else 'sparse file'}{'' if total['files'] == 1 else 's'}"
    told = ", ".join(f"{iec(total[name])} {word}" for name, word in _TOLD.items() if name != "could" or total[name])
    print_line(f"{total['files']} {kind}: {told}")


def _count(text: str) -> int:
    try:
        count = int(text)
    except ValueError:
        count = 0
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of files")
    return count
