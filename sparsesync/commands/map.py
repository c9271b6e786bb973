"""``sparsesync map``: the map of a file, in its forms.

All of them come from one stream that an end gives (:mod:`hosts.pool`), the file's extents in order;
:func:`~.engine.files.extents.segments` makes it data and hole in turn, covering the file without a gap. A bmap file is
made from runs of blocks with their checksums instead, and waits in a temporary file, because its head counts what its
body lists. What is drawn is a row of cells (:mod:`console.drawing.strip`), whatever the number of extents, as text or
as a picture (:mod:`console.drawing.picture`); two files are read side by side.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TextIO

from ..console import streams
from ..console.drawing.picture import Grid, draw, grid
from ..console.drawing.strip import Cells, Strip, differing, shade
from ..console.messages import print_line
from ..console.streams import takes
from ..console.units import iec
from ..engine.files.claims import SECTOR_BYTES
from ..engine.files.extents import Layer, segments
from ..hosts.base import Location
from ..hosts.pool import HostPool, is_remote
from .options import add_holes, add_remote_end

if TYPE_CHECKING:
    from ..console.document import Document
    from ..engine.tree.block_map import Run

BMAP_BLOCK_BYTES = 4096
"""The block of a bmap file; bmaptool maps in the filesystem's blocks, which are these nearly everywhere."""

_MAX_LISTED_SEGMENTS = 40
_BATCH_ITEMS = 1000


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("files", nargs="+", metavar="FILE", help="with a second one: where their maps differ")
    add_holes(command)
    add_remote_end(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--format", choices=["qemu", "bmap"], help="as qemu-img map --output=json, or a bmap 2.0 file")
    form.add_argument("--svg", metavar="FILE", help="draw the map into a file, for a browser")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    listed = arguments.json or arguments.format
    names = arguments.files
    if len(names) > 2 or (listed and len(names) > 1):
        raise ValueError(
            f"{names[-1]}: {'a list is of one file' if listed else 'two maps can be compared, and no more'}"
        )
    with HostPool(arguments.rsh, arguments.python, prefix=arguments.remote_prefix) as hosts:
        if arguments.svg is not None or len(names) > 1:
            _draw(hosts, names, arguments.holes, arguments.svg)
        elif arguments.json:
            show_json(arguments.document, hosts.locate(names[0]), arguments.holes)
        else:
            show(sys.stdout, hosts.locate(names[0]), arguments.format, names[0], arguments.holes)
    return 0


def _draw(hosts: HostPool, names: Sequence[str], holes: str, path: str | None) -> None:
    """Draw one map, or two and where they differ: as a picture to ``path``, or as text."""
    if len(names) == 2 and all(map(is_remote, names)):
        locations = [*hosts.locate_pair(*names)]  # two answers at once are two connections
    else:
        locations = [hosts.locate(name) for name in names]
    with contextlib.ExitStack() as opened:
        maps = [opened.enter_context(where.host.layers(where.path, holes)) for where in locations]
        size = max(size for size, _ in maps)
        shape = Grid(1, _bar_width()) if path is None else grid(size)
        strips = [Strip(name, each, size, shape.cells) for name, (each, _) in zip(names, maps)]
        passing = [strip.passing(layers) for strip, (_, layers) in zip(strips, maps)]
        differs = None
        if len(names) == 2:
            differs = Cells(size, shape.cells)
            for offset, length in differing(size, *passing):
                differs.add(offset, length)
        else:
            deque(passing[0], 0)
    if path is None:
        assert differs is not None
        _compare(sys.stdout, size, strips, differs)
        return
    with streams.output(path) as raw:
        out = io.TextIOWrapper(raw, "ascii", "xmlcharrefreplace")
        draw(out, size, strips, differs, shape)
        out.detach()


def show(out: TextIO, location: Location, form: str | None, name: str, holes: str = "auto") -> None:
    """Write the map of a file.

    ``form``: "qemu", "bmap", or None for a table.
    ``holes``: whether the map is believed (:func:`engine.files.claims.believes`).

    Raises LinkError, and OSError if the file cannot be read.
    """
    if form == "bmap":
        with location.host.checksums(location.path, BMAP_BLOCK_BYTES, holes) as (size, runs):
            _write_bmap(out, size, runs, name)
        return
    with location.host.layers(location.path, holes) as (size, layers):
        if form == "qemu":
            out.write("[")
            for index, batch in enumerate(_batches(_qemu(size, layers))):
                out.write(",\n" * bool(index) + batch)
            out.write("]\n")
        else:
            _write_table(out, size, layers)


def show_json(document: Document, location: Location, holes: str = "auto") -> None:
    """Add the map of a file to an object. Raises as :func:`show`."""
    with location.host.layers(location.path, holes) as (size, layers):
        document.add({"size": size})
        document.open_list("ranges")
        for batch in _batches(_json(size, layers)):
            document.items(batch)


def _batches(items: Iterator[str]) -> Iterator[str]:
    """Join items to lines, since there may be millions."""
    batch = list(islice(items, _BATCH_ITEMS))
    while batch:
        yield ",\n".join(batch)
        batch = list(islice(items, _BATCH_ITEMS))


def _json(size: int, layers: Iterable[Layer]) -> Iterator[str]:
    for offset, length, data, reserved in segments(size, layers):
        kind = 'true, "reserved": false' if data else f'false, "reserved": {"true" if reserved else "false"}'
        yield f'{{"offset": {offset}, "length": {length}, "data": {kind}}}'


def _qemu(size: int, layers: Iterable[Layer]) -> Iterator[str]:
    """As ``qemu-img map --output=json -f raw`` (qemu-img(1)): one layer, and sizes in whole sectors of 512 bytes.

    qemu-img rounds the file's end up to a sector, and what it adds is a hole; so is what is reserved. These are the
    fields of qemu 7; since 8.2 it prints ``compressed`` too, which is always false for a raw file.
    """
    if size == 0:
        yield '{"start": 0, "length": 0, "depth": 0, "present": false, "zero": false, "data": false}'
    data_only = ((offset, length, True) for offset, length, data in layers if data)
    for start, length, data, _ in segments(-(-size // SECTOR_BYTES) * SECTOR_BYTES, data_only):
        kind = 'false, "data": true' if data else 'true, "data": false'
        yield (
            f'{{"start": {start}, "length": {length}, "depth": 0, "present": true, "zero": {kind}, "offset": {start}}}'
        )


def _write_bmap(out: TextIO, size: int, runs: Iterable[Run], name: str) -> None:
    """Write a block map, version 2.0, as bmaptool(1) does, with the SHA-256 of each range.

    The file holds its own checksum, computed with zeros in the checksum's place. All of it is ASCII: a name may have
    what XML does not allow, and is only a comment.
    """
    # Only here: these import half of a web browser.
    import hashlib
    import shutil
    import tempfile
    from xml.sax.saxutils import escape

    with tempfile.TemporaryFile("w+", encoding="ascii") as body:
        mapped = 0
        for first, last, checksum in runs:
            mapped += last - first + 1
            blocks = f"{first}-{last}" if last > first else f"{first}"
            body.write(f'    <Range chksum="{checksum}"> {blocks} </Range>\n')
        body.write("  </BlockMap>\n</bmap>\n")
        zeros = "0" * 64
        shown = re.sub("-(?=-)", "- ", escape(name.encode("unicode_escape").decode("ascii")))
        head = f"""<?xml version="1.0" ?>
<!-- Block map of {shown}: made by sparsesync. Only the ranges listed hold data. -->
<bmap version="2.0">
  <ImageSize> {size} </ImageSize>
  <BlockSize> {BMAP_BLOCK_BYTES} </BlockSize>
  <BlocksCount> {-(-size // BMAP_BLOCK_BYTES)} </BlocksCount>
  <MappedBlocksCount> {mapped} </MappedBlocksCount>
  <ChecksumType> sha256 </ChecksumType>
  <BmapFileChecksum> {zeros} </BmapFileChecksum>
  <BlockMap>
"""
        own = hashlib.sha256(head.encode("ascii"))
        body.seek(0)
        for line in body:
            own.update(line.encode())
        out.write(head.replace(zeros, own.hexdigest()))
        body.seek(0)
        shutil.copyfileobj(body, out)


def _bar_width() -> int:
    import shutil

    return max(10, shutil.get_terminal_size().columns - 2)


def _write_table(out: TextIO, size: int, layers: Iterable[Layer]) -> None:
    strip = Strip("", size, size, _bar_width())
    rest = strip.passing(layers)
    listed = list(islice(rest, _MAX_LISTED_SEGMENTS))
    deque(rest, 0)
    marks = _marks(out)
    out.write(f"[{_bar(strip, marks)}]\n{_legend(marks)}\n" if size else "[empty]\n")
    if listed:
        out.write(f"{'offset':>16} {'length':>16}\n")
    for offset, length, is_data in listed:
        out.write(f"{offset:>16} {length:>16}  {iec(length)}{'' if is_data else ' reserved'}\n")
    more = strip.data.ranges + strip.reserved.ranges - len(listed)
    if more:
        out.write(f"{'... and':>16} {more:>16}  more\n")
    out.write(strip.summary() + "\n")


def _compare(out: TextIO, size: int, strips: Sequence[Strip], differs: Cells) -> None:
    """Write two maps, one under the other, with a mark below each place where they differ."""
    marks = _marks(out)
    for strip in strips:
        print_line(f"{strip.name}: {strip.summary()}")
        out.write(f"[{_bar(strip, marks)}]\n")
    out.write(" " + "".join(" ^"[share > 0] for share in differs.shares()).rstrip() + "\n")
    out.write(f"{_legend(marks)}  ^ differs\n")
    ranges = f"in {differs.ranges} range{'' if differs.ranges == 1 else 's'}, {iec(differs.total)}"
    told = f"the maps differ {ranges}" if differs.ranges else "the maps are equal"
    out.write(f"{told}; content is compared by verify\n")


def _bar(strip: Strip, marks: Sequence[str]) -> str:
    hole, *shades, reserved = marks
    shares = zip(strip.data.shares(), strip.reserved.shares())
    return "".join(
        shades[shade(share, len(shades)) - 1] if share > 0 else reserved if held > 0 else hole for share, held in shares
    )


def _legend(marks: Sequence[str]) -> str:
    hole, *shades, reserved = marks
    return f" {shades[-1]} data  {''.join(reversed(shades[:-1]))} in part  {reserved} reserved  {hole} hole"


def _marks(out: TextIO) -> str:
    """Return what stands for a hole, for data, from little to all of a place, and for what is reserved."""
    marks = "·░▒▓█□"
    return marks if takes(out, marks) else ".-+*#o"
