"""The proof of a migration: what rsync would still do, and digests of the content.

rsync is the judge of all but content: run once more with ``--dry-run`` it names whatever it would change, be it an
owner, a mode, a time, an ACL or a name that is missing. It believes equal size and time, though. So with
``--verify`` every regular file that the command covers (rsync lists them, for an empty destination) is read at both
ends, and the digests are compared: both ends work at the same time, on parts of files. Holes are not read where the
filesystem's word counts (:mod:`.engine.files.extents`); with ``--verify=full`` they are, so that the proof does not
lean on the claim that the copy was made by. How much was read, and how much believed, is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ..engine.content.compare import Tally
from ..engine.errors import LinkError, OnProgress
from ..engine.host import Range
from ..hosts.base import Host, Location
from ..rsync import command as rsync
from ..rsync.listing import Listed, parse_listing, source_path
from .plan import answer, covered
from .request import MigrationCommand

_PART_BYTES = 1 << 30
_FRAME_BYTES = 128 * 1024


class Verified(NamedTuple):
    """The result of a proof.

    ``files``: the number of files compared.
    ``data``: the bytes of data compared.
    ``differences``: each a name, and what differs.
    ``read``, ``believed``: at the source and at the destination, the bytes read, and those believed to be holes.
    """

    files: int
    data: int
    differences: list[tuple[str, str]]
    read: tuple[int, int] = (0, 0)
    believed: tuple[int, int] = (0, 0)


def prove(source: Location, destination: Location, asked: MigrationCommand, progress: OnProgress) -> Verified:
    """Compare the source with the destination. Raises MigrationError, LinkError."""
    argv = asked.argv()
    differences: list[tuple[str, str]] = []
    with answer(argv, True, asked.embedding, strict=True) as listing:
        for line in listing:
            if b"//" not in line:
                continue  # no name of ours: "skipping non-regular file", where --no-links and the like have it so
            what, _, rest = line.partition(b" ")
            name = rest.strip().partition(b" ")[2].rpartition(b"//")[0]
            differences.append((os.fsdecode(name), f"rsync would still change it ({what.decode()})"))
    if not asked.request.verify:
        return Verified(0, 0, differences)
    files = data = 0
    full = asked.request.verify_full
    tallies = Tally(), Tally()
    with covered(asked) as listing, ThreadPoolExecutor(1) as other:
        for batch in _batches(_parts(rsync.parse(argv, asked.environ), parse_listing(listing), asked.path)):
            asked.check()
            theirs = other.submit(
                _contents, destination.host, [(part.destination, part.offset, part.length) for part in batch], full
            )
            ours = _contents(source.host, [(part.source, part.offset, part.length) for part in batch], full)
            for part, a, b in zip(batch, ours, theirs.result()):
                files += part.offset == 0
                for tally, said in zip(tallies, (a, b)):
                    if not isinstance(said, str):
                        tally.read += said[3]
                        tally.believed += max(0, min(part.length, said[0] - part.offset)) - said[3]
                if not isinstance(a, str) and not isinstance(b, str) and a[:3] == b[:3]:
                    data += int(a[1])
                else:
                    trouble = a if isinstance(a, str) else b if isinstance(b, str) else "its content differs"
                    differences.append((part.name, trouble))
            if progress is not None:
                progress(sum(int(each[1]) for each in ours if not isinstance(each, str)))
    read, believed = zip(*((tally.read, tally.believed) for tally in tallies))
    return Verified(files, data, differences, read, believed)


class _Part(NamedTuple):
    """A part of a file: its path at the source and at the destination, its name for people, offset and length."""

    source: str
    destination: str
    name: str
    offset: int
    length: int


def _parts(command: rsync.Command, listed: Iterable[Listed], path: str) -> Iterator[_Part]:
    for entry in listed:
        source, name = source_path(command, entry), os.fsdecode(entry.name)
        if source is None:
            why = "which of the sources it is from is not certain; migrate them one by one"
            raise ValueError(f"{name}: {why}")
        for offset in range(0, max(entry.size, 1), _PART_BYTES):
            yield _Part(source, os.path.join(path, name), name, offset, _PART_BYTES)


def _batches(parts: Iterator[_Part]) -> Iterator[list[_Part]]:
    """Parts that are asked for together: as many as a frame holds, and not too much to read."""
    batch: list[_Part] = []
    size = 0
    for part in parts:
        batch.append(part)
        size += len(ascii(part.source)) + len(ascii(part.destination)) + 40
        if size > _FRAME_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _contents(host: Host, parts: list[Range], full: bool) -> list[list[Any] | str]:
    """Return the host's answer for each part. For a part in trouble, that is the error as text."""
    try:
        return [*host.contents(parts, full)]
    except LinkError:
        raise
    except (OSError, ValueError) as error:
        if len(parts) == 1:
            return [str(error)]
        return [said for part in parts for said in _contents(host, [part], full)]
