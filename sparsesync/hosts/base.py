"""What a host is, wherever it is: the types that :class:`LocalHost` and :class:`RemoteHost` have in common.

A host has the operations of :class:`~..engine.host.LocalHost`, which documents them. Source and destination of a
transfer are roles of it. A path that a person gives is somewhere: that is a :class:`Location`. No caller has to know
which kind of host it has::

    with HostPool() as hosts:
        location = hosts.locate("host:vms")
        for found in location.host.scan(location.path, ScanOptions()):
            print(location.prefix + found.file.path)

What a remote host cannot read comes as OSError with the file named ``host:path``; any other failure is a LinkError.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Protocol, Union

if TYPE_CHECKING:
    from ..engine.content.compare import Tally
    from ..engine.content.copy_file import CopyOptions
    from ..engine.errors import OnError
    from ..engine.files.dig import Dug
    from ..engine.files.extents import Extent, Layer
    from ..engine.files.status import SparseStat
    from ..engine.host import Range, Scanned
    from ..engine.queries.presets import ExcludedPath
    from ..engine.roles import Opening, SourceSettings
    from ..engine.transfer.records import Space, SpaceNeed
    from ..engine.tree.block_map import Run
    from ..engine.tree.manifest import Event
    from ..engine.tree.scan import ScanOptions

PathLike = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
"""What a caller may give for a path. Only a ``str`` can be on another host."""

Rsh = Union[str, Sequence[str], None]
"""The remote shell's command, or its words; None for RSYNC_RSH, else ssh."""


def several(paths: PathLike | Iterable[PathLike]) -> list[PathLike]:
    """Return the paths that a caller gave as one path or as several."""
    return [paths] if isinstance(paths, (str, bytes, os.PathLike)) else [*paths]


class Source(Protocol):
    """The source of a transfer."""

    @property
    def settings(self) -> SourceSettings:
        """How the source is read."""

    def look(self, files: Iterable[tuple[str, str]], roughly: bool = False) -> Iterator[SparseStat | None]:
        """Yield the SparseStat of each file, or None if it is not sparse. A file is its path and its name.

        ``roughly``: what small files hold need not be told to the byte (:func:`~..engine.files.status.stat_sparse`).
        """

    def ask_mode(self, path: str) -> Callable[[], int | None]:
        """Return a function that returns the mode of ``path``, following symlinks, or None if nothing is there.

        Calling it after other requests makes one wait do for all.
        """

    def measure(self, path: str) -> tuple[int, int]:
        """Return the size of a file, and the bytes that a copy takes. Raises OSError."""

    def extents(self, path: str, name: str) -> Iterator[Extent]:
        """Yield the data extents of a file. Raises OSError."""

    def close(self) -> None:
        """Close the source."""


class Destination(Protocol):
    """The destination of a transfer."""

    def find(self, path: str, opening: Opening) -> str | None:
        """Return why opening the root is left to rsync, or None. Nothing is opened."""

    def open(self, path: str, opening: Opening, needs: Iterable[SpaceNeed] = ()) -> str | None:
        """Open the root of a transfer, and expect ``needs``. Returns why that is left to rsync, or None."""

    def open_copy(self, path: str, name: str, options: CopyOptions) -> str:
        """Open the destination of a copy, and return the path of the new file. Raises OSError."""

    def expect(self, needs: Iterable[SpaceNeed]) -> None:
        """Add ``needs`` to the space that will be written."""

    def space(self) -> list[Space]:
        """Return the space needed for everything expected, by filesystem."""

    def touch(self, names: Sequence[str]) -> None:
        """Set the modification time of files to now."""

    def states(self, names: Sequence[str]) -> Iterator[tuple[int, ...] | None]:
        """Yield the allocated bytes, the modification time and the identity of each file, or None if it is gone."""

    def dig(self, name: str, size: int, holes: Sequence[Extent], asks: bool) -> Dug:
        """Make holes of the zeros in a file, where its source has ``holes``. ``asks``: only return the bytes of data.

        ``size``: a file of another size is left alone. An error is the result's reason.
        """

    def close(self) -> None:
        """Close the destination."""


class Host(Protocol):
    """A machine. :class:`~..engine.host.LocalHost` documents the operations in full."""

    @property
    def name(self) -> str:
        """The name of the host in messages."""

    def scan(
        self, path: str, options: ScanOptions, *, measured: bool = False, zeros: bool = False, on_error: OnError = None
    ) -> Iterator[Scanned]:
        """Yield the sparse files at or below ``path``. ``measured``: with their data. ``zeros``: with zeros in that."""

    def layers(self, path: str, holes: str) -> AbstractContextManager[tuple[int, Iterator[Layer]]]:
        """Give the size of a file, and its data and reserved ranges."""

    def checksums(self, path: str, block: int, holes: str) -> AbstractContextManager[tuple[int, Iterator[Run]]]:
        """Give the size of a file, and its runs of ``block`` bytes with data, for a block map."""

    def preset(self, preset: str, source: str) -> list[ExcludedPath]:
        """Return the paths below ``source`` that a preset excludes."""

    def directory(self) -> str:
        """Return the directory that relative paths start from."""

    def query(self, query: str, **arguments: Any) -> Any:
        """Return the answer to a query, a NamedTuple."""

    def locked(self, path: str, parents: bool) -> AbstractContextManager[None]:
        """Hold the lock of a destination directory. ``parents``: make missing parents."""

    def contents(self, parts: Sequence[Range], full: bool) -> list[list[Any]]:
        """Return the digest of each part of a file."""

    def manifest(
        self, root: str, full: bool, holes: str, tally: Tally, rules: Sequence[Any] | None, attributes: bool
    ) -> Iterator[Event]:
        """Yield the events of what is at ``root``, for a comparison."""

    def digests(self, root: str, block: int, ranges: Sequence[Range], on_error: OnError) -> Iterator[bytes | None]:
        """Yield the joined digests of the blocks of each range, or None if the file cannot be read."""

    def source(self, settings: SourceSettings) -> Source:
        """Return the host as the source of a transfer."""

    def destination(self, resume: bool = False) -> Destination:
        """Return the host as the destination of a transfer. ``resume``: keep and continue partial files."""


class Location(NamedTuple):
    """``path`` at ``host``. ``prefix`` and a path from there make a path as the user would give it."""

    host: Host
    path: str
    prefix: str
