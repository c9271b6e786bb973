"""The two ends of a seeding: both here, or one of them on another host.

A transfer has a few operations, the same in three kinds, and :mod:`seeding.seeder` does not ask which it has::

    look, source_mode        what is at the source
    destination_mode, ...    what is at the destination
    open, expect, space, touch, states
    run                      put the files in place

:class:`Local` copies through the kernel; the two with an agent at the far end are in :mod:`transfer_remote`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Protocol

from ..console.progress import Advance
from ..engine.content.copy import copy_content
from ..engine.errors import Leave, NoSpaceError
from ..engine.files.beneath import Sources, look_at
from ..engine.files.status import Looked, at
from ..engine.transfer.destination import Place
from ..engine.transfer.outgoing import Outgoing, outgoing
from ..engine.transfer.records import Need, Result, Space, reason
from ..engine.wire.rate_limit import Pace

OnResult = Callable[[Result], None]


class Planned(NamedTuple):
    """A sparse file that is to be seeded: its name in the transfer, its path at the source; sizes are bytes.

    The fields from ``links`` on are as :class:`~.engine.files.status.Looked` has them.
    """

    name: str
    source: str
    size: int
    data: int
    links: int = 1
    mtime_ns: int = 0
    recent: bool = False
    reserved: int = 0
    room: int = 0


@dataclass(frozen=True)
class Settings:
    """What a transfer obeys, mostly rsync's options.

    ``follow``, ``listed``: how the files of the source are found (:class:`~.engine.files.beneath.Sources`).
    ``bwlimit``: bytes per second; ``compress``: (algorithm, level); ``attributes``: carry over all that a file has.
    ``live``: the source may be written to meanwhile. ``shares``: extents may be shared within a filesystem, so that
    what goes there may take no room. ``holes``: whether the source's maps are believed
    (:func:`~.engine.files.claims.believes`). ``preallocate``: the destination reserves what the source has reserved.
    """

    follow: bool = False
    listed: bool = False
    attributes: bool = False
    sparse: bool = False
    shares: bool = True
    live: bool = False
    holes: str = "auto"
    preallocate: bool = False
    bwlimit: int | None = None
    compress: tuple[str | None, int | None] | None = None


class Transfer(Protocol):
    """What :mod:`seeding.seeder` needs of the two ends."""

    def look(self, files: Iterable[tuple[str, str]]) -> Iterator[Looked | None]:
        """What there is of each at the source that is a sparse file, else None; a file is its path and its name."""

    def source_mode(self, path: str) -> int | None:
        """The mode of what is at ``path``, behind symlinks; None if there is nothing."""

    def destination_mode(self, path: str) -> tuple[int | None, bool]:
        """The same at the destination, and whether there is at least a symlink."""

    def open(self, path: str, single: str | None, make: int | None, **options: Any) -> None:
        """Open the destination; see :class:`~.engine.transfer.destination.Place`. Raises OSError."""

    def expect(self, planned: Iterable[Planned]) -> None:
        """Count what is going to be written."""

    def space(self) -> list[Space]:
        """What all that was expected needs, by filesystem."""

    def run(self, planned: Iterator[Planned], on_result: OnResult, progress: Advance) -> None:
        """Put the files in place. Raises LinkError; what goes wrong with one file is in its result."""

    def touch(self, names: Sequence[str]) -> None:
        """Give files at the destination the time of now."""

    def states(self, names: Sequence[str]) -> Iterator[tuple[int, int] | None]:
        """What each file at the destination takes, in bytes, and its modification time; None if it is there no more."""

    def close(self) -> None:
        """Let go of the destination."""


class SourceHere:
    """The operations of a source on this machine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.sources = Sources(settings.follow, settings.listed)

    def look(self, files: Iterable[tuple[str, str]]) -> Iterator[Looked | None]:
        return look_at(files, self.sources, self.settings.holes, self.settings.preallocate)

    def source_mode(self, path: str) -> int | None:
        return at(path)[0]

    def outgoing(self, planned: Iterator[Planned], on_result: OnResult) -> Iterator[Outgoing]:
        for file in planned:
            try:
                yield outgoing(
                    file.source,
                    file.name,
                    self.sources,
                    with_attributes=self.settings.attributes,
                    data=file.data + file.reserved,
                    live=self.settings.live,
                    holes=self.settings.holes,
                )
            except OSError as error:
                on_result(failed(file.name, file.size, error, True))


class DestinationHere:
    """The operations of a destination on this machine."""

    settings: Settings
    place: Place | None = None
    _resume = False

    def destination_mode(self, path: str) -> tuple[int | None, bool]:
        return at(path)

    def open(self, path: str, single: str | None, make: int | None, **options: Any) -> None:
        self.place = Place(
            path, single, make=make, resume=self._resume, preallocate=self.settings.preallocate, **options
        )

    def _at(self) -> Place:
        assert self.place is not None  # it is opened first
        return self.place

    def expect(self, planned: Iterable[Planned]) -> None:
        self._at().expect(Need(file.name, file.room, self._device(file)) for file in planned)

    def _device(self, file: Planned) -> int | None:
        return None

    def space(self) -> list[Space]:
        return self._at().space()

    def touch(self, names: Sequence[str]) -> None:
        self._at().touch(names)

    def states(self, names: Sequence[str]) -> Iterator[tuple[int, int] | None]:
        return self._at().states(names)

    def close(self) -> None:
        if self.place is not None:
            self.place.close()
            self.place = None


class Local(SourceHere, DestinationHere):
    """Both ends on this machine."""

    def _device(self, file: Planned) -> int | None:
        if not self.settings.shares:
            return None
        try:
            return os.stat(file.source, follow_symlinks=self.settings.follow).st_dev
        except OSError:
            return None

    def run(self, planned: Iterator[Planned], on_result: OnResult, progress: Advance) -> None:
        paced = _paced(progress, self.settings.bwlimit)
        for file in self.outgoing(planned, on_result):
            try:
                on_result(self._copy(file, paced))
            except (OSError, ValueError, Leave) as error:
                on_result(failed(file.spec.name, file.spec.size, error, getattr(error, "filename", None) == file.path))
            finally:
                file.close()
        self._at().settle()

    def close(self) -> None:
        self.sources.close()
        super().close()

    def _copy(self, file: Outgoing, progress: Advance) -> Result:
        spec = file.spec
        source = file.open()
        with self._at().target(spec) as target:
            sparse = "always" if self.settings.sparse else "auto"
            data = copy_content(
                source, target, sparse=sparse, holes=file.holes, progress=progress, source_path=file.path
            )
            file.check(os.fstat(source))
            self._at().finish(target, spec)
        return Result(spec.name, spec.size, data, 0, allocated=target.allocated)


def check_space(transfer: Transfer) -> None:
    """Raises NoSpaceError if what was expected does not fit."""
    for needed, free, path in transfer.space():
        if needed > free:
            raise NoSpaceError(needed, free, path)


def _paced(progress: Advance, bwlimit: int | None) -> Advance:
    if bwlimit is None:
        return progress
    pace = Pace(bwlimit)

    def advance(count: int) -> None:
        pace.spend(count)
        if progress is not None:
            progress(count)

    return advance


def failed(name: str, size: int, error: Exception, at_source: bool) -> Result:
    """The result of a file that an error left to rsync."""
    space = (error.needed, error.free) if isinstance(error, NoSpaceError) else None
    return Result(name, size, 0, 0, reason(error, name), space, getattr(error, "errno", None), at_source)
