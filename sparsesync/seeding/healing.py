"""Holes come back: files that rsync leaves as they are, and that lost their holes some time ago, get them again.

An earlier run, plain rsync, or a run that was left to it may have written the holes of a file as data. Size and time
are equal since, so nobody would ever write it again. Here that is found, and mended in place::

    find    before rsync runs: its dry run has listed what it would leave as it is, so no filter and no option has to be
            understood here. Which of these are sparse at the source, and take more at the destination than their data?
    heal    when rsync is done: of these, and of what was to be seeded and was written by rsync after all, the ranges
            that are holes at the source become holes at the destination, where zeros are read there

No byte changes, nor a time, a mode or a name: see :mod:`.engine.files.dig`, also for who could be in the way. Then, and
wherever anything is not certain, a file stays as it is, and a line of its own says so to those who want to hear. What
has other names (``--link-dest``, ``-H``) has its holes under all of them then.

Sizes are bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import IO, Callable, TypeVar

from ..console.messages import format_error
from ..console.progress import BarFactory
from ..console.units import iec
from ..engine.errors import LinkError, OnProgress
from ..engine.files.extents import Extent
from ..engine.roles import Planned
from ..hosts.base import Destination, Source
from ..rsync import command as rsync
from ..rsync.listing import parse_unchanged, source_path
from .losses import is_filled
from .options.own import SeedOptions
from .planned.plan import Plan
from .settled import open_existing

_BATCH_FILES = 1000
_PIECE_BYTES = 16 << 30
"""Of a hole, so much is asked for at once: it takes half a minute to read."""

_Item = TypeVar("_Item")


class Healing:
    """The healing of one run.

    ``path``: the destination's, at its host.
    ``say``: called with a line for each file.
    ``check``: called for each file that is looked at, and while holes are made; what it raises ends the healing.
    ``healed``: the files that have holes again, each with their bytes.
    """

    def __init__(
        self,
        command: rsync.Command,
        options: SeedOptions,
        source: Source,
        destination: Destination,
        path: str,
        say: Callable[[str], None],
        bar: BarFactory,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.check = check
        self.command = command
        self.options = options
        self.source = source
        self.destination = destination
        self.path = path
        self.say = say
        self.bar = bar
        self.wanted: bool = options.heal and not command.preallocate  # what is reserved then, has to stay so
        self.found: int = 0
        self.healed: list[tuple[str, int]] = []
        self._plan: Plan = Plan()

    def find(self, unchanged: IO[bytes]) -> None:
        """Find the files that lost their holes among those that rsync leaves as they are. Raises OSError, LinkError.

        With ``--dry-run`` they are only reported.
        """
        for planned, allocated in self._states(self._sparse(unchanged)):
            # What is not there yet will be a link to what --link-dest has or to another name, or a copy.
            if allocated is not None and not is_filled(allocated, planned.data):
                continue
            if self.command.dry_run:
                if allocated is not None:
                    self._make_holes(planned, asks=True)
                continue
            self._plan.add(planned)
            self.found += 1

    def heal(self, more: Iterable[Planned]) -> None:
        """Restore the holes of the found files, and of those in ``more`` that need it. Raises OSError, LinkError."""
        if not self.wanted or self.command.dry_run:
            return
        states = self._states(chain(self._plan, more))
        found = ((planned, held or 0) for planned, held in states if is_filled(held or 0, planned.data))
        for batch in _batches(found, _BATCH_FILES):
            # By now a source may be another one, and so what its holes are.
            looked = self.source.look((planned.source, planned.name) for planned, _ in batch)
            filled = [
                (planned._replace(size=now.size, data=now.data), held - now.data)
                for (planned, held), now in zip(batch, looked)
                if now is not None and self._is_worth_it(now.size, now.data) and is_filled(held, now.data)
            ]
            if filled:
                total = sum(lost for _, lost in filled)
                with self.bar(total, "making holes", self.command.quiet > 0) as advance:
                    for planned, _ in filled:
                        self._make_holes(planned, advance)

    def close(self) -> None:
        """Discard the found files."""
        self._plan.close()

    def _sparse(self, unchanged: IO[bytes]) -> Iterator[Planned]:
        """Yield the listed files that are sparse at the source."""
        unchanged.seek(0)
        for batch in _batches(parse_unchanged(unchanged), _BATCH_FILES):
            paths = [source_path(self.command, entry) for entry in batch]
            known = [
                (os.fsdecode(entry.name), path, entry.size) for entry, path in zip(batch, paths) if path is not None
            ]
            for (name, path, size), found in zip(known, self.source.look((path, name) for name, path, _ in known)):
                self.check()
                if found is not None and found.size == size and self._is_worth_it(size, found.data):
                    yield Planned(name, path, *found)

    def _is_worth_it(self, size: int, data: int) -> bool:
        return size - data >= max(1, self.options.min_hole)

    def _states(self, files: Iterator[Planned]) -> Iterator[tuple[Planned, int | None]]:
        """Yield each file with its allocated bytes at the destination, None if it is missing."""
        is_open = None
        for batch in _batches(files, _BATCH_FILES):
            if is_open is None:
                is_open = open_existing(self.destination, self.path, self.command)
            states = self.destination.states([each.name for each in batch]) if is_open else [None] * len(batch)
            yield from ((planned, state[0] if state else None) for planned, state in zip(batch, states))

    def _make_holes(self, planned: Planned, advance: OnProgress = None, asks: bool = False) -> None:
        """Restore the holes of one file. ``asks``: only report them."""
        made, why = 0, None
        data = self.source.extents(planned.source, planned.name)
        try:
            for holes in _batches(_holes(data, planned.size), _BATCH_FILES):
                self.check()
                dug = self.destination.dig(planned.name, planned.size, holes, asks)
                made, why = made + dug.holes, dug.why
                if advance is not None:
                    advance(dug.holes)
                if why is not None:
                    break
            for _ in data:
                pass  # another host goes on to tell
        except LinkError:
            raise
        except OSError as error:
            why = format_error(error)
        if asks:
            if made:
                self.say(f"would make holes again in {planned.name}: up to {iec(made)}")
            return
        if made:
            self.healed.append((planned.name, made))
            self.say(f"made holes again in {planned.name}: {iec(made)}")
        if why is not None:
            self.say(f"holes of the source are data in {planned.name}: {why}")


def _holes(data: Iterable[Extent], size: int) -> Iterator[Extent]:
    """Yield the ranges of a file of ``size`` bytes that are not data, in pieces of at most 16 GiB."""
    end = 0
    for offset, length in chain(data, [(size, 0)]):
        stop = min(offset, size)
        while end < stop:
            count = min(stop - end, _PIECE_BYTES)
            yield end, count
            end += count
        end = max(end, offset + length)


def _batches(items: Iterable[_Item], most: int) -> Iterator[list[_Item]]:
    rest = iter(items)
    return iter(lambda: list(islice(rest, most)), [])
