"""``sparsesync exclude``: an exclude file for rsync, or another of the programs in :data:`~.exclude.FORMATS`.

What is in it comes from :mod:`exclude`. Here it gets a head of comments, and its lines their ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import BinaryIO, NamedTuple

from .. import __version__
from ..console import streams
from ..console.sorting import Sorted
from ..console.units import iec
from ..engine.errors import OnError
from ..engine.text import escape_name
from ..exclude import FORMATS, PatternOptions, place_patterns, preset_places, quoter, sparse_names
from ..hosts.pool import HostPool
from .options import Troubles, add_one_file_system, add_remote_end, byte_size, preset_names


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("sources", nargs="+", metavar="SRC", help="as given to rsync: 'dir' and 'dir/' differ")
    command.add_argument("-o", "--output", metavar="FILE", help="write to FILE (default: standard output)")
    command.add_argument("-R", "--relative", action="store_true", help="as rsync's")
    command.add_argument("-0", "--null", action="store_true", help="for rsync --from0: any file name can be carried")
    command.add_argument(
        "--min-size", type=byte_size, default="1M", metavar="SIZE", help="smallest apparent size (default: %(default)s)"
    )
    command.add_argument(
        "--min-ratio",
        type=_ratio,
        default="0.5",
        metavar="R",
        help="smallest share of hole, 0 to 1 (default: %(default)s); what is left out is in no backup",
    )
    command.add_argument(
        "--preset",
        type=lambda given: preset_names(given, none=False),
        metavar="NAME[,NAME...]",
        help="add what such a tree is not copied with: docker, system, and as in the manual",
    )
    command.add_argument(
        "--format",
        choices=list(FORMATS),
        default="rsync",
        help="whose exclude file to write (default: %(default)s); "
        "tar has to be run with --anchored --exclude-from=FILE, kopia has it as SRC/.kopiaignore",
    )
    command.add_argument("--json", action="store_true", help="one JSON object; the file is written for -o only")
    add_one_file_system(command)
    add_remote_end(command)
    command.set_defaults(run=run)


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 1")
    return ratio


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    troubles = Troubles()
    written = arguments.output is not None or not arguments.json
    with streams.output(arguments.output) if written else contextlib.nullcontext() as out:
        found = write(
            out,
            arguments.sources,
            PatternOptions(
                arguments.relative,
                arguments.min_size,
                arguments.min_ratio,
                arguments.one_file_system,
                arguments.preset,
                arguments.format,
                # JSON holds any name, as --from0 does.
                arguments.null or (not written and arguments.format == "rsync"),
            ),
            on_error=troubles,
            command=f"sparsesync {__version__}",
            rsh=arguments.rsh,
            python=arguments.python,
            prefix=arguments.remote_prefix,
        )
    if arguments.json:
        arguments.document.open_list("patterns")
        for pattern in found.each():
            arguments.document.item(pattern)
        arguments.document.add({"total": {"files": found.files, "size": found.size, "allocated": found.allocated}})
    return troubles.status


class Found(NamedTuple):
    """What is left out: patterns, and of how many files, their apparent size and their allocated bytes."""

    patterns: Sorted
    files: int
    size: int
    allocated: int

    def each(self) -> Iterator[str]:
        """Yield each pattern once, in order."""
        return (pattern for (pattern,), _ in groupby(self.patterns))


def write(
    out: BinaryIO | None,
    sources: Sequence[str],
    options: PatternOptions,
    *,
    on_error: OnError = None,
    command: str = "sparsesync",
    rsh: str | None = None,
    python: str | None = None,
    prefix: str = "",
) -> Found:
    """Write an exclude file: comments that say what was found and how, and the patterns.

    ``out``: None: only return what would be in it.
    ``options.null``: end each line with a NUL, for ``rsync --from0``.
    ``command``: the program's name in the comments.

    A file for tar has no comments, because tar does not know them; use it as ``tar --anchored --exclude-from``.

    The other parameters and the exceptions are those of :func:`~.api.exclude_patterns`.
    """
    relative, min_size, min_ratio, _, preset, format, null = options
    if null and format != "rsync":
        raise ValueError("-0 is for rsync's --from0; the other formats are lines of text")
    quote = quoter(format, null)
    end = b"\0" if null else b"\n"
    count = size = allocated = 0
    linked: set[tuple[int, int]] = set()
    patterns = Sorted()
    with HostPool(rsh, python, prefix=prefix) as hosts:
        locations = [hosts.locate(source) for source in sources]
        places = preset_places(locations, options)
        for pattern in place_patterns(places, relative, quote):
            patterns.add(pattern)
        for name, found in sparse_names(locations, places, options, on_error):
            patterns.add(quote(name))
            inode = found.st.st_dev, found.st.st_ino
            if inode in linked:
                continue
            if found.st.st_nlink > 1:
                linked.add(inode)
            count += 1
            size += found.size
            allocated += found.allocated
    left_out = Found(patterns, count, size, allocated)
    if out is None:
        return left_out
    usage = "rsync --from0 --exclude-from=FILE" if null else FORMATS[format].usage
    if usage:
        given = " ".join(map(escape_name, sources))
        said = " --relative" * relative + f" --preset {preset}" * bool(preset)
        said += f" --min-size {min_size} --min-ratio {min_ratio:g}"
        files = "1 sparse file" if count == 1 else f"{count} sparse files"
        for line in (
            f"# {files}: {iec(size)} apparent, {iec(allocated)} allocated",
            f"# made by {command} exclude{said} {given}",
            f"# use: {usage}",
        ):
            out.write(os.fsencode(line) + end)
    for pattern in left_out.each():
        out.write(os.fsencode(pattern) + end)
    return left_out
