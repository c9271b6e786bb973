"""What a migration is going to do, before it does it.

rsync is asked, by the same dry run as before every seeding (:mod:`rsync.listing`), once more with ``--delete`` to learn
what there is at the destination and not at the source. Of the files it would transfer, the sparse ones go by extents.
Where there is no destination yet, the answer is that for an empty directory here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import IO

from ..embedding import Embedding
from ..engine.roles import Opening, Planned, SourceSettings
from ..engine.transfer.records import Space
from ..hosts.base import Host
from ..hosts.transfer import needs as estimate
from ..rsync import command as rsync
from ..rsync.listing import LISTED, dry_run, parse_listing, source_path, unescape
from ..rsync.program import Status, environment, program
from ..seeding.options.own import SeedOptions
from ..seeding.seeder import Seeding
from .called.result import MigrationError
from .request import MigrationCommand

_PARTIAL = ".sparsesync-partial"
_CREATED = re.compile(rb"[<>c][fdLDS]\+{9} ")
_DELETED = re.compile(rb"\*deleting +[0-9]+ (.+)//")
_MAX_EXAMPLES = 3
_MAX_FORBIDDEN = 1000


@dataclass
class Files:
    """The number of files, with their bytes of apparent size and of data."""

    count: int = 0
    size: int = 0
    data: int = 0

    def add(self, size: int, data: int) -> None:
        """Count a file."""
        self.count += 1
        self.size += size
        self.data += data


@dataclass
class Plan:
    """The plan of a pass.

    ``seeds``: files copied by extents.
    ``others``: files copied by rsync.
    ``replaced``: the largest number of bytes held twice while a file is replaced.
    ``created``: the number of new names.
    ``deleted``: the number of names that ``--delete`` removes.
    ``extra``: the number of names at the destination that the source does not have.
    ``examples``: some of the deleted or extra names.
    ``space``: what each filesystem needs.
    ``forbidden``: some of the paths at the destination that must not be written to, each with the reason.
    ``handoff``: why rsync copies everything, or None.
    """

    seeds: Files = field(default_factory=Files)
    others: Files = field(default_factory=Files)
    replaced: int = 0
    created: int = 0
    deleted: int = 0
    extra: int = 0
    examples: list[str] = field(default_factory=list)
    space: list[Space] = field(default_factory=list)
    forbidden: list[tuple[str, str]] = field(default_factory=list)
    handoff: str | None = None


def make(
    asked: MigrationCommand, of: Host, to: Host, shares: bool, exists: bool, free: int, names: IO[str] | None = None
) -> Plan:
    """Return the plan for what is asked, from the host ``of`` to the host ``to``.

    ``shares``: files within one filesystem there share extents.
    ``exists``: whether the destination does.
    ``free``: bytes.
    ``names``: gets a line of JSON for each name: what is done with it, the name, its data and its size.

    Raises MigrationError if rsync cannot list what it would do, OSError, LinkError.
    """
    argv, destination = asked.argv(), asked.path
    command = rsync.parse(argv, asked.environ)
    plan = Plan(handoff=command.handoff)
    count = 0
    partial: list[str] = []
    taken: set[str] = set()

    def tell(*row: str | int) -> None:
        if names is not None:
            names.write(json.dumps(row) + "\n")

    with answer(argv, exists, asked.embedding, delete=not command.delete) as listing:
        for line in listing:
            deleted = _DELETED.match(line)
            if deleted:
                name = os.fsdecode(deleted[1])
                if name.endswith(_PARTIAL):
                    partial.append(name)
                elif command.delete or name != "lost+found/":
                    count += 1
                    plan.examples += [name] * (len(plan.examples) < _MAX_EXAMPLES)
                    if command.delete:
                        tell("deleted", name)
            plan.created += _CREATED.match(line) is not None
        read, written = of.source(SourceSettings(follow=command.links_followed)), to.destination()
        seeding = Seeding(command, SeedOptions(), read, written, lambda line: None, check=asked.check)
        if exists:
            reason = written.open(destination, Opening(many=True, one_source=False))
            if reason:
                raise ValueError(reason)
        try:
            sparse = []
            room = 0
            listing.seek(0)
            for planned in seeding.planning.find(listing) if command.handoff is None else ():
                plan.seeds.add(planned.size, planned.data)
                tell("by extents", planned.name, planned.data, planned.size)
                room += planned.room
                sparse.append(planned)
                directory, base = os.path.split(planned.name)
                taken.add(os.path.join(directory, f".{base}{_PARTIAL}"))
            for planned in seeding.others(listing, iter(sparse)):
                plan.others.add(planned.size, planned.data)
                tell("by rsync", planned.name, planned.size, planned.size)
            if exists:
                written.expect(estimate(read, sparse, shares))
                written.expect(estimate(read, seeding.others(listing, iter(sparse)), shares))
                plan.space = written.space()
                _look_at_destination(plan, to, destination, chain(sparse, seeding.others(listing, iter(sparse))))
                plan.replaced *= not command.inplace
        finally:
            read.close()
            written.close()
    # A partial file is taken up by what it was to become; one that nothing takes up is a leftover.
    leftovers = [name for name in partial if name not in taken]
    plan.examples = [*plan.examples, *leftovers][:_MAX_EXAMPLES]
    plan.deleted, plan.extra = (count + len(leftovers), 0) if command.delete else (0, count + len(leftovers))
    if not plan.space:
        needed = room + plan.others.size
        plan.space = [Space(needed if not exists else 0, free, destination)]
    return plan


def _look_at_destination(plan: Plan, host: Host, destination: str, planned: Iterator[Planned]) -> None:
    """Find the largest file that is going to be replaced, and what must not be."""
    batch = list(islice(planned, 500))
    while batch:
        paths = [os.path.join(destination, each.name) for each in batch]
        plan.replaced = max([plan.replaced, *(sizes[1] for sizes in host.query("sizes", paths=paths).found if sizes)])
        for path, why in zip(paths, host.query("forbidden", paths=paths).reasons):
            if why is not None:
                plan.forbidden += [(path, why)] * (len(plan.forbidden) < _MAX_FORBIDDEN)
        batch = list(islice(planned, 500))


@contextlib.contextmanager
def answer(
    argv: Sequence[str], exists: bool, embedding: Embedding | None, *, delete: bool = False, strict: bool = False
) -> Iterator[IO[bytes]]:
    """Give rsync's listing of what it would do.

    ``delete``: with ``--delete``.
    ``strict``: raise at any trouble.

    Raises MigrationError.
    """
    with contextlib.ExitStack() as stack:
        listing = stack.enter_context(tempfile.TemporaryFile())
        nowhere = None
        if not exists:
            nowhere = stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsesync-")) + "/"
        options = ["--delete"] if delete and exists else []
        environ = embedding.environ if embedding else os.environ
        command = rsync.parse(argv, environ)
        status, said = dry_run(
            command, listing, options=options, destination=nowhere, environ=environ, embedding=embedding
        )
        if status not in ([Status.OK] if strict else LISTED):
            raise MigrationError(status, f"rsync cannot say what it would do: {_said(status, said)}")
        yield listing


_NARROWING = frozenset(
    ["update", "existing", "ignore-existing", "size-only", "checksum", "modify-window", "delete", "hard-links"]
)
"""Options by which a file is not listed because of what is at the destination, or under another name."""


@contextlib.contextmanager
def covered(asked: MigrationCommand) -> Iterator[IO[bytes]]:
    """Give rsync's listing of every file that is covered, whatever the destination has. Raises MigrationError."""
    argv = asked.argv()
    command = rsync.parse(argv, asked.environ)
    options = [token for each in command.options if each.name not in _NARROWING for token in each.tokens]
    with answer([*options, *argv[argv.index("--") :]], False, asked.embedding, strict=True) as listing:
        yield listing


def are_covered(asked: MigrationCommand, paths: Collection[str]) -> set[str]:
    """Return those of some paths at the source that the command covers, or that have covered files below."""
    command = rsync.parse(asked.argv(), asked.environ)
    wanted = {os.path.normpath(path): path for path in paths}
    known = set()
    with covered(asked) as listing:
        for entry in parse_listing(listing):
            path = source_path(command, entry)
            name = "" if path is None else os.path.normpath(path)
            while name and name not in known and name != "/":
                if name in wanted:
                    known.add(name)
                name = os.path.dirname(name)
    return {wanted[name] for name in known}


def check_options(asked: MigrationCommand) -> None:
    """Have rsync check its options before anything depends on them. Raises MigrationError."""
    argv = asked.argv()
    with tempfile.TemporaryDirectory(prefix="sparsesync-") as nowhere:
        options = [*argv[: argv.index("--")], "--dry-run", "--quiet"]
        done = subprocess.run(
            [program(asked.environ), *options, "--", "/dev/null", f"{nowhere}/"],
            env=environment(asked.environ), cwd=asked.directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
    if done.returncode:
        raise MigrationError(done.returncode, _said(done.returncode, done.stderr))


def _said(status: int, said: bytes) -> str:
    # Whoever prints it escapes it again.
    return os.fsdecode(unescape((said.strip().split(b"\n") or [b""])[0])) or f"status {status}"
