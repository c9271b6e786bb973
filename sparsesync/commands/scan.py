"""``sparsesync scan``: the sparse files below paths, the one that saves most first.

What is saved is what of the apparent size is not allocated. More could be saved where a file takes more than its data,
most of all by what is reserved: a copy, holes as holes, does not take that. Nor are zeros that were written anything
that has to be stored. They are found by reading, so they count only where that is asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable

from ..console import streams
from ..console.messages import print_line
from ..console.progress import data_bar
from ..console.sorting import Sorted
from ..console.units import iec
from ..engine.tree.scan import ScanOptions
from ..hosts.pool import HostPool, is_remote
from .options import Troubles, add_engine, add_holes, add_one_file_system, add_progress, add_remote_end, byte_size

if TYPE_CHECKING:
    from ..engine.host import Scanned

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
    command.add_argument("--zeros", action="store_true", help="read all files, for zeros that could be holes as well")
    command.add_argument("--all", action="store_true", help="list every regular file, not only the sparse ones")
    add_one_file_system(command)
    add_holes(command)
    add_remote_end(command)
    add_engine(command, "scan")
    add_progress(command)
    command.add_argument(
        "--sort",
        choices=[*_SIZES[:-1], "path"],
        default="saved",
        help="largest first, or by path; saved: with what could be (default: %(default)s)",
    )
    command.add_argument("--top", type=_count, metavar="N", help="list the first N only; the total is that of all")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--tree", action="store_true", help="show which folders have most of it below them")
    form.add_argument("-0", "--null", action="store_true", help="paths only, each ended by a NUL")
    form.add_argument("--json", action="store_true", help="one JSON object")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    options = ScanOptions(
        arguments.one_file_system,
        every_file=arguments.all or arguments.zeros,
        min_size=arguments.min_size,
        follow=True,
        holes=arguments.holes,
    )
    troubles = Troubles()
    found, count, scanned_any = Sorted(), 0, False
    known: dict[object, int] = {}
    measured = not arguments.null or arguments.zeros or arguments.sort in ("data", "extents")
    with (
        _scan_by(arguments) as by_workers,
        HostPool(arguments.rsh, arguments.python, prefix=arguments.remote_prefix) as hosts,
        data_bar(None, "reading", arguments.quiet or not arguments.zeros, arguments.progress_fd) as advance,
    ):
        for path in arguments.paths:
            try:
                host, below, prefix = hosts.locate(path)
                look = host.scan if by_workers is None else by_workers
                for scanned in look(below, options, measured=measured, zeros=arguments.zeros, on_error=troubles):
                    file, count = scanned.file, count + 1
                    if advance is not None:
                        advance(scanned.data)
                    if not (arguments.all or scanned.zeros or scanned.data < file.size or not arguments.zeros):
                        continue
                    measures = file.size, file.allocated, scanned.data, scanned.extents, scanned.zeros
                    inode = known.setdefault(host, len(known)), file.st.st_dev, file.st.st_ino
                    # A link that was named has led elsewhere.
                    top = len(prefix + below) if file.path.startswith(below) else len(prefix + file.path)
                    found.add(*inode, count, top, prefix + file.path, *measures)
                scanned_any = True
            except OSError as error:
                troubles(error)

    rows, total, last = Sorted(), dict.fromkeys(("files", *_SIZES), 0), None
    for row in found:
        top, path, size, allocated, data, count, zeros = row[4:]
        if row[:3] == last:  # a link, or the same file below two paths
            continue
        last = row[:3]
        saved, could = max(0, size - allocated), min(size, allocated) - data if measured else 0
        could = (could if could > _NOT_WORTH_BYTES else 0) + zeros
        sizes = dict(zip(_SIZES, (size, allocated, data, count, saved, could)))
        order = {**sizes, "saved": saved + could, "path": saved + could}
        if arguments.tree:
            names = [path[:top].rstrip("/"), *filter(None, path[top:].split("/"))]
            rows.add("\0".join(names), order[arguments.sort], *sizes.values())
        else:
            rows.add(path if arguments.sort == "path" else -order[arguments.sort], path, *sizes.values())
        for name, more in (("files", 1), *sizes.items()):
            total[name] += more
    if scanned_any or count or arguments.json:
        _show(rows, total, arguments)
    if arguments.json and not scanned_any:
        arguments.document.failure = troubles.first
    return troubles.status


@contextlib.contextmanager
def _scan_by(arguments: argparse.Namespace) -> Iterator[Callable[..., Iterator[Scanned]] | None]:
    """Give what scans by the workers that are named, if any. Raises ValueError, OSError."""
    if not arguments.workers:
        yield None
        return
    if any(map(is_remote, arguments.paths)):
        raise ValueError("workers see the paths through a shared filesystem; none can be host:path")
    from ..workers.engines import engine
    from ..workers.scanning import scan_by

    with engine(arguments.workers) as executor:
        yield partial(scan_by, executor)


def _show(rows: Sorted, total: dict[str, int], arguments: argparse.Namespace) -> None:
    every_file = arguments.all or arguments.zeros
    if arguments.tree:
        _show_lines(_branches(rows, arguments.top), total, every_file)
        return
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
    _show_lines((row[1:] for row in shown), total, every_file)


def _branches(rows: Sorted, count: int | None) -> Iterator[tuple[Any, ...]]:
    """Yield rows of the folders and files that have most, as a tree."""
    import shutil

    from ..console.drawing.tree import drawn, largest

    count = count or max(10, shutil.get_terminal_size().lines - 4)
    branches = largest(((names.split("\0"), numbers) for names, *numbers in rows), count)
    marks = "├└│" if streams.takes(sys.stdout, "├└│") else "|`|"
    return ((line or "/", *sums[1:]) for line, sums in drawn(branches, marks))


def _show_lines(rows: Iterable[tuple[Any, ...]], total: dict[str, int], every_file: bool) -> None:
    if total["files"]:
        heads = ("apparent", "allocated", "data", "saved", "could be")
        print_line(f"{''.join(f'{head:>10} ' for head in heads)}{'extents':>8}  path")
    for path, size, allocated, data, count, saved, could in rows:
        columns = "".join(f"{iec(each):>10} " for each in (size, allocated, data, saved, could))
        print_line(f"{columns}{count:>8}  {path}")
    kind = f"{'file' if every_file else 'sparse file'}{'' if total['files'] == 1 else 's'}"
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
