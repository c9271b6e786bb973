"""Which files a run is going to seed: the sparse ones among those that rsync lists.

rsync lists them in a dry run, and takes a moment to end when it has. So a :class:`Planning` looks at each as soon as it
is listed, where that is done on this machine, and is complete when the dry run is. What it finds counts only if the dry
run ends well.

A small file is looked at by its stat alone, unless a person is told of it: what it holds, to the byte, is found out
when it is copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Callable

from ...engine.roles import LocalSource, Planned
from ...hosts.base import Source
from ...rsync import command as rsync
from ...rsync.listing import parse_listing, source_path
from ..options.own import SeedOptions
from .plan import Plan

_BATCH_FILES = 4096


class Planning:
    """The plan of one run, and what it counts. Sizes are bytes.

    ``check``: called for each file that is looked at; what it raises ends the planning.
    """

    def __init__(
        self, command: rsync.Command, options: SeedOptions, source: Source, check: Callable[[], object] = lambda: None
    ) -> None:
        self.plan: Plan = Plan()
        self._command = command
        self._options = options
        self._source = source
        self._check = check
        self.is_heard: bool = isinstance(source, LocalSource)
        """Whether it can hear the lines while rsync lists. The connection to another host is rsync's meanwhile."""
        # Roughly, what is reserved counts as data, and the hole may seem smaller than it is.
        self._roughly = not command.dry_run and options.min_hole <= 1
        self.begin()

    def begin(self) -> None:
        """Forget everything: rsync begins to list, perhaps once more."""
        self.plan.close()
        self.plan = Plan()
        self.left: list[tuple[str, str, int]] = []
        """Files that are left to rsync: the name, why, and the bytes of holes."""
        self.files: int = 0
        self.data: int = 0
        self.sparse: int = 0
        """How many of the files have holes."""
        self.holes: int = 0

    def hear(self, lines: Iterable[bytes]) -> None:
        """Plan the sparse ones among the files of some lines of rsync's. Raises OSError, LinkError."""
        for planned in self.find(lines, self._roughly):
            self.plan.add(planned)
            self.files += 1
            self.data += planned.data
            self.sparse += planned.size > planned.data
            self.holes += planned.size - planned.data

    def find(self, lines: Iterable[bytes], roughly: bool = False) -> Iterator[Planned]:
        """Yield the listed files that are sparse at the source and can be seeded. Raises LinkError.

        ``roughly``: as of :meth:`~...hosts.base.Source.look`.
        """
        candidates: list[tuple[str, str, int]] = []
        for entry in parse_listing(lines):
            source = source_path(self._command, entry)
            if source is not None:
                candidates.append((os.fsdecode(entry.name), source, entry.size))
            if len(candidates) == _BATCH_FILES:
                yield from self._those_sparse(candidates, roughly)
                candidates = []
        yield from self._those_sparse(candidates, roughly)

    def _those_sparse(self, candidates: list[tuple[str, str, int]], roughly: bool) -> Iterator[Planned]:
        found = self._source.look(((source, name) for name, source, _ in candidates), roughly)
        # With these each name of a file is a decision of its own, and rsync must find all of them as they were.
        by_name = self._command.hard_links and (self._command.backup or self._command.update)
        for (name, source, size), looked in zip(candidates, found):
            self._check()
            if looked is None:
                continue
            hole = size - looked.data
            if looked.size != size:
                self.left.append((name, "it could not be looked at, or changed after rsync listed it", hole))
            elif hole < self._options.min_hole:
                continue
            elif by_name and looked.links > 1:
                self.left.append((name, "what becomes of its other hard links is for rsync to decide", hole))
            else:
                yield Planned(name, source, size, *looked[1:])

    def close(self) -> None:
        """Discard the plan."""
        self.plan.close()
