"""The map of a file, in the forms ``sparsesync map`` prints.

All of them come from one stream, :func:`segments`: data and hole in turn, covering the file
without a gap. Only the drawn bar needs a second pass, for the table, and the bmap file, whose
head counts what its body lists.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from typing import NamedTuple, TextIO
from xml.sax.saxutils import escape

from .engine.extents import Extent, extents, file_size
from .units import iec

BMAP_BLOCK = 4096
"""The block of a bmap file; bmaptool maps in the filesystem's blocks, which are these nearly everywhere."""

_LISTED = 40
_READ = 1 << 20


class Segment(NamedTuple):
    """A part of a file, in bytes: data, or a hole."""

    offset: int
    length: int
    data: bool


def segments(fd: int) -> Iterator[Segment]:
    """The parts of an open file, data and hole in turn, from its start to its end."""
    size = file_size(fd)
    end = 0
    for offset, length in extents(fd, 0, size):
        if offset > end:
            yield Segment(end, offset - end, False)
        yield Segment(offset, length, True)
        end = offset + length
    if end < size:
        yield Segment(end, size - end, False)


def show(out: TextIO, fd: int, form: str | None, name: str) -> None:
    """Write the map of an open file: ``json``, ``qemu``, ``bmap``, or for people where ``form`` is None."""
    if form == "json":
        _write_list(out, (segment._asdict() for segment in segments(fd)), ", ")
    elif form == "qemu":
        _write_list(out, _qemu(fd), ",\n")
    elif form == "bmap":
        _write_bmap(out, fd, name)
    else:
        _write_table(out, fd)


def _write_list(out: TextIO, items: Iterator[dict[str, object]], separator: str) -> None:
    out.write("[")
    before = ""
    for item in items:
        out.write(before + json.dumps(item))
        before = separator
    out.write("]\n")


def _qemu(fd: int) -> Iterator[dict[str, object]]:
    """As ``qemu-img map --output=json -f raw`` (qemu-img(1)): one layer, and sizes in whole sectors of 512 bytes.

    qemu-img rounds the file's end up to a sector, and what it adds is a hole. These are the fields of
    qemu 7; since 8.2 it prints ``compressed`` too, which is always false for a raw file.
    """
    size = file_size(fd)
    if size == 0:
        yield {"start": 0, "length": 0, "depth": 0, "present": False, "zero": False, "data": False}
    sectors = -(-size // 512) * 512
    pending: Segment | None = None
    for segment in _padded(fd, size, sectors):
        if pending and pending.data == segment.data:
            pending = Segment(pending.offset, pending.length + segment.length, pending.data)
            continue
        if pending:
            yield _qemu_entry(pending)
        pending = segment
    if pending:
        yield _qemu_entry(pending)


def _padded(fd: int, size: int, sectors: int) -> Iterator[Segment]:
    yield from segments(fd)
    if sectors > size:
        yield Segment(size, sectors - size, False)


def _qemu_entry(segment: Segment) -> dict[str, object]:
    return {
        "start": segment.offset,
        "length": segment.length,
        "depth": 0,
        "present": True,
        "zero": not segment.data,
        "data": segment.data,
        "offset": segment.offset,
    }


def _block_ranges(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """The first and last block of each run of blocks that hold any data."""
    first = last = -1
    for offset, length in extents(fd, 0, size):
        start, stop = offset // BMAP_BLOCK, (offset + length - 1) // BMAP_BLOCK
        if first >= 0 and start <= last + 1:
            last = max(last, stop)
            continue
        if first >= 0:
            yield first, last
        first, last = start, stop
    if first >= 0:
        yield first, last


def _write_bmap(out: TextIO, fd: int, name: str) -> None:
    """A block map, version 2.0, as bmaptool(1) makes and reads it; each range with its SHA-256.

    The file holds its own checksum too, taken with zeros in the checksum's place.
    """
    size = file_size(fd)
    mapped = sum(last - first + 1 for first, last in _block_ranges(fd, size))
    zeros = "0" * 64
    blocks = -(-size // BMAP_BLOCK)
    head = f"""<?xml version="1.0" ?>
<!-- Block map of {escape(name).replace("--", "- -")}: made by sparsesync. Only the ranges listed hold data. -->
<bmap version="2.0">
  <ImageSize> {size} </ImageSize>
  <BlockSize> {BMAP_BLOCK} </BlockSize>
  <BlocksCount> {blocks} </BlocksCount>
  <MappedBlocksCount> {mapped} </MappedBlocksCount>
  <ChecksumType> sha256 </ChecksumType>
  <BmapFileChecksum> {zeros} </BmapFileChecksum>
  <BlockMap>
"""
    import tempfile

    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape") as body:
        own = hashlib.sha256(head.encode("utf-8", "surrogateescape"))
        for first, last in _block_ranges(fd, size):
            blocks_text = f"{first}-{last}" if last > first else f"{first}"
            line = f'    <Range chksum="{_digest(fd, first, last, size)}"> {blocks_text} </Range>\n'
            own.update(line.encode())
            body.write(line)
        tail = "  </BlockMap>\n</bmap>\n"
        own.update(tail.encode())
        body.seek(0)
        out.write(head.replace(zeros, own.hexdigest()))
        shutil.copyfileobj(body, out)
        out.write(tail)


def _digest(fd: int, first: int, last: int, size: int) -> str:
    digest = hashlib.sha256()
    offset, end = first * BMAP_BLOCK, min((last + 1) * BMAP_BLOCK, size)
    while offset < end:
        data = os.pread(fd, min(_READ, end - offset), offset)
        if not data:
            break
        digest.update(data)
        offset += len(data)
    return digest.hexdigest()


def _write_table(out: TextIO, fd: int) -> None:
    size = file_size(fd)
    width = max(10, shutil.get_terminal_size().columns - 2)
    count = data = 0
    shares = [0.0] * width
    listed: list[Extent] = []
    for offset, length in extents(fd, 0, size):
        if count < _LISTED:
            listed.append((offset, length))
        count += 1
        data += length
        _shade(shares, size, offset, length)
    marks = _marks(out.encoding)
    bar = "".join(marks[0] if share >= 0.999 else marks[1] if share > 0 else marks[2] for share in shares)
    out.write(f"[{bar}]\n" if size else "[empty]\n")
    if listed:
        out.write(f"{'offset':>16} {'length':>16}\n")
    for offset, length in listed:
        out.write(f"{offset:>16} {length:>16}  {iec(length)}\n")
    if count > len(listed):
        out.write(f"{'... and':>16} {count - len(listed):>16}  more\n")
    out.write(f"{count} extent{'' if count == 1 else 's'}: {iec(data)} data of {iec(size)}\n")


def _shade(shares: list[float], size: int, offset: int, length: int) -> None:
    """Add to each cell of the bar the share of it that an extent fills."""
    cell = size / len(shares)
    first = min(int(offset / cell), len(shares) - 1)
    last = min(int((offset + length - 1) / cell), len(shares) - 1)
    for index in range(first, last + 1):
        filled = min(offset + length, (index + 1) * cell) - max(offset, index * cell)
        shares[index] += max(filled, 0) / cell


def _marks(encoding: str | None) -> str:
    marks = "█▒·"
    try:
        marks.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#+."
    return marks
