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

PathLike = Union[str, "os.PathLike[str]"]


class Source(Protocol):
    """Where the files of a transfer come from."""

    @property
    def settings(self) -> SourceSettings:
        """How it is read."""

    def look(self, files: Iterable[tuple[str, str]]) -> Iterator[SparseStat | None]:
        """Yield what there is of each file that is sparse, else None. A file is its path and its name."""

    def ask_mode(self, path: str) -> Callable[[], int | None]:
        """Return what gives the mode of what is at ``path``, behind symlinks; None if there is nothing.

        It may be called when other things have been asked: one wait is for all.
        """

    def measure(self, path: str) -> tuple[int, int]:
        """Return the size of a file, and what it will take; bytes. Raises OSError."""

    def extents(self, path: str, name: str) -> Iterator[Extent]:
        """Yield where the data of a file is. Raises OSError."""

    def close(self) -> None:
        """Let go of the source."""


class Destination(Protocol):
    """Where they go."""

    def find(self, path: str, opening: Opening) -> str | None:
        """Return why it is left to rsync to open the root, or None. Nothing is opened."""

    def open(self, path: str, opening: Opening, needs: Iterable[SpaceNeed] = ()) -> str | None:
        """Open the root of a transfer, and expect ``needs``. Returns why that is left to rsync, or None."""

    def open_copy(self, path: str, name: str, options: CopyOptions) -> str:
        """Open the destination of a copy. Returns the path of the file it will be. Raises OSError."""

    def expect(self, needs: Iterable[SpaceNeed]) -> None:
        """Count what is going to be written."""

    def space(self) -> list[Space]:
        """Return what all that was expected needs, by filesystem."""

    def touch(self, names: Sequence[str]) -> None:
        """Give files the time of now."""

    def states(self, names: Sequence[str]) -> Iterator[tuple[int, int] | None]:
        """Yield what each file takes, in bytes, and its modification time; None if it is there no more."""

    def dig(self, name: str, size: int, holes: Sequence[Extent], asks: bool) -> Dug:
        """Make holes of what is zeros in a file, where its source has ``holes``; ``asks``: only say what is data there.

        ``size``: another size and the file is left. What is in the way is the answer's reason.
        """

    def close(self) -> None:
        """Let go of the destination."""


class Host(Protocol):
    """A machine. See :class:`~..engine.host.LocalHost` for what the operations do."""

    @property
    def name(self) -> str:
        """What people call it."""

    def scan(
        self, path: str, options: ScanOptions, *, measured: bool = False, on_error: OnError = None
    ) -> Iterator[Scanned]: ...

    def layers(self, path: str, holes: str) -> AbstractContextManager[tuple[int, Iterator[Layer]]]: ...

    def checksums(self, path: str, block: int, holes: str) -> AbstractContextManager[tuple[int, Iterator[Run]]]: ...

    def preset(self, preset: str, source: str) -> list[ExcludedPath]: ...

    def directory(self) -> str: ...

    def query(self, query: str, **arguments: Any) -> Any: ...

    def locked(self, path: str, parents: bool) -> AbstractContextManager[None]: ...

    def contents(self, parts: Sequence[Range], full: bool) -> list[list[Any]]: ...

    def manifest(self, root: str, full: bool, holes: str, tally: Tally) -> Iterator[Event]: ...

    def digests(self, root: str, block: int, ranges: Sequence[Range], on_error: OnError) -> Iterator[bytes | None]: ...

    def source(self, settings: SourceSettings) -> Source: ...

    def destination(self, resume: bool = False) -> Destination: ...


class Location(NamedTuple):
    """Where a path is: ``path`` at ``host``; ``prefix`` and a path from there make one to be given to us."""

    host: Host
    path: str
    prefix: str
