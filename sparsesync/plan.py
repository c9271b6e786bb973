"""What a migration is going to do, before it does it.

rsync is asked, by the same dry run as before every seeding (:mod:`listing`), once more with ``--delete`` to learn what
there is at the destination and not at the source. Of the files it would transfer, the sparse ones go by extents. Where
there is no destination yet, the answer is that for an empty directory here.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from . import rsync
from .ends import End
from .engine.place import Space
from .listing import listing_argv, parse_listing, source_path
from .seeding import Seeding, SeedOptions
from .transfer import Planned, Transfer

_PARTIAL = ".sparsesync-partial"
_CREATED = re.compile(rb"[<>c][fdLDS]\+{9} ")
_DELETED = re.compile(rb"\*deleting +[0-9]+ (.+)//")
_EXAMPLES = 3


class RsyncFailed(RuntimeError):
    """rsync could not say what it would do. ``status`` is its exit status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Files:
    """How many files, with how many bytes apparent and how many of data."""

    count: int = 0
    size: int = 0
    data: int = 0

    def add(self, size: int, data: int) -> None:
        self.count += 1
        self.size += size
        self.data += data


@dataclass
class Plan:
    """What is going to be done. ``seeds`` go by extents, ``others`` by rsync.

    ``replaced`` is the most that is held twice while a file is replaced as a whole, in bytes. ``created`` counts new
    names, ``extra`` those at the destination that the source does not have, with some ``examples``; ``space`` is what
    is needed of each filesystem, ``handoff`` why rsync does all, or None.
    """

    seeds: Files = field(default_factory=Files)
    others: Files = field(default_factory=Files)
    replaced: int = 0
    created: int = 0
    extra: int = 0
    examples: list[str] = field(default_factory=list)
    space: list[Space] = field(default_factory=list)
    handoff: str | None = None


def make(argv: Sequence[str], transfer: Transfer, end: End, destination: str, exists: bool, free: int) -> Plan:
    """The plan for rsync's arguments ``argv``. ``destination`` is a path at ``end``, ``free`` are the bytes there.

    Raises RsyncFailed if rsync cannot say what it would do, OSError, LinkError.
    """
    command = rsync.parse(argv)
    plan = Plan(handoff=command.handoff)
    with answer(argv, exists, delete=not command.delete) as listing:
        for line in listing:
            deleted = _DELETED.match(line)
            if deleted and not command.delete:
                name = os.fsdecode(deleted[1])
                if not name.endswith(_PARTIAL):
                    plan.extra += 1
                    plan.examples += [name] * (len(plan.examples) < _EXAMPLES)
            plan.created += _CREATED.match(line) is not None
        seeding = Seeding(command, SeedOptions(), transfer, lambda line: None)
        if exists:
            transfer.open(destination, None, None)
        try:
            needs = []
            for planned in seeding.sparse(listing) if command.handoff is None else ():
                plan.seeds.add(planned.size, planned.data)
                needs.append(planned)
            for planned in seeding.others(listing, iter(needs)):
                plan.others.add(planned.size, planned.data)
            if exists:
                transfer.expect(needs)
                transfer.expect(seeding.others(listing, iter(needs)))
                plan.space = transfer.space()
                if not command.inplace:
                    plan.replaced = _replaced(end, destination, needs)
        finally:
            transfer.close()
    if not plan.space:
        needed = plan.seeds.data + plan.others.size
        plan.space = [Space(needed if not exists else 0, free, destination)]
    return plan


def _replaced(end: End, destination: str, needs: Sequence[Planned]) -> int:
    most = 0
    for start in range(0, len(needs), 500):
        paths = [os.path.join(destination, planned.name) for planned in needs[start : start + 500]]
        most = max([most, *(sizes[1] for sizes in end.ask("sizes", paths=paths).found if sizes)])
    return most


@contextlib.contextmanager
def answer(
    argv: Sequence[str], exists: bool, *, delete: bool = False, more: Sequence[str] = (), strict: bool = False
) -> Iterator[IO[bytes]]:
    """What rsync says it would do; ``more`` are options. Raises RsyncFailed, if ``strict`` at every trouble."""
    with contextlib.ExitStack() as stack:
        listing = stack.enter_context(tempfile.TemporaryFile())
        asked = listing_argv(rsync.parse(argv))
        if not exists:
            asked[-1] = stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsesync-")) + "/"
        end = asked.index("--")
        asked[end:end] = [*more, *(["--delete"] if delete and exists else [])]
        done = subprocess.run(
            ["rsync", *asked], stdin=subprocess.DEVNULL, stdout=listing, stderr=subprocess.PIPE
        )
        # 23 to 25 are partial transfers (rsync(1), EXIT VALUES): what was listed still holds.
        if done.returncode not in ((0,) if strict else (0, 23, 24, 25)):
            said = done.stderr.decode(errors="replace").strip().splitlines() or [f"status {done.returncode}"]
            raise RsyncFailed(done.returncode, f"rsync cannot say what it would do: {said[0]}")
        listing.seek(0)
        yield listing


def would_transfer(argv: Sequence[str], exists: bool) -> set[str]:
    """The paths at the source of all files that the command covers, of hard links the first one."""
    command = rsync.parse(argv)
    with answer(argv, exists, more=["--ignore-times"]) as listing:
        found = (source_path(command, entry) for entry in parse_listing(listing))
        return {os.path.normpath(path) for path in found if path is not None}
