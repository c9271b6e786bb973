"""``sparsesync map``: the map of a file, in its forms.

All of them come from one stream that an end gives (:mod:`hosts.pool`), the file's extents in order;
:func:`~.engine.files.extents.segments` makes it data and hole in turn, covering the file without a gap. A bmap file is
made from runs of blocks with their checksums instead, and waits in a temporary file, because its head counts what its
body lists.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, TextIO

from ..console.units import iec
from ..engine.files.claims import SECTOR_BYTES
from ..engine.files.extents import Layer, segments
from ..hosts.base import Location
from ..hosts.pool import HostPool
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
    command.add_argument("file", metavar="FILE")
    add_holes(command)
    add_remote_end(command)
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--format", choices=["qemu", "bmap"], help="as qemu-img map --output=json, or a bmap 2.0 file")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    with HostPool(arguments.rsh, arguments.python, prefix=arguments.remote_prefix) as hosts:
        location = hosts.locate(arguments.file)
        if arguments.json:
            show_json(arguments.document, location, arguments.holes)
        else:
            show(sys.stdout, location, arguments.format, arguments.file, arguments.holes)
    return 0


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


def _write_table(out: TextIO, size: int, layers: Iterable[Layer]) -> None:
    import shutil

    width = max(10, shutil.get_terminal_size().columns - 2)
    count = data = ranges = kept = 0
    shares, reserved = [0.0] * width, [0.0] * width
    cell = size / width
    index = border = inside = 0
    rest = iter(layers)
    listed = list(islice(rest, _MAX_LISTED_SEGMENTS))
    for offset, length, is_data in chain(listed, rest):
        if not is_data:
            ranges += 1
            kept += length
            _shade(reserved, size, offset, length)
            continue
        count += 1
        data += length
        end = offset + length
        # Where there are many, most of them end in the cell of the one before.
        if end <= border:
            inside += length
        else:
            shares[index] += inside / cell
            _shade(shares, size, offset, length)
            index, inside = min(int(end / cell), width - 1), 0
            border = int((index + 1) * cell)
    if inside:
        shares[index] += inside / cell
    full, part, hole, unwritten = _marks(out.encoding)
    bar = "".join(
        full if share >= 0.999 else part if share > 0 else unwritten if held > 0 else hole
        for share, held in zip(shares, reserved)
    )
    out.write(f"[{bar}]\n" if size else "[empty]\n")
    if listed:
        out.write(f"{'offset':>16} {'length':>16}\n")
    for offset, length, is_data in listed:
        out.write(f"{offset:>16} {length:>16}  {iec(length)}{'' if is_data else ' reserved'}\n")
    more = count + ranges - len(listed)
    if more:
        out.write(f"{'... and':>16} {more:>16}  more\n")
    held = f", {iec(kept)} reserved" if kept else ""
    out.write(f"{count} extent{'' if count == 1 else 's'}: {iec(data)} data of {iec(size)}{held}\n")


def _shade(shares: list[float], size: int, offset: int, length: int) -> None:
    """Add to each cell of the bar the share of it that an extent fills."""
    cell = size / len(shares)
    first = min(int(offset / cell), len(shares) - 1)
    last = min(int((offset + length - 1) / cell), len(shares) - 1)
    for index in range(first, last + 1):
        filled = min(offset + length, (index + 1) * cell) - max(offset, index * cell)
        shares[index] += max(filled, 0) / cell


def _marks(encoding: str | None) -> tuple[str, ...]:
    marks = "█▒·□"
    try:
        marks.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return tuple("#+.o")
    return tuple(marks)
