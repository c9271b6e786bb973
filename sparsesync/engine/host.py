"""The local machine, and every operation on it.

An operation is a method of :class:`LocalHost`, and is written nowhere else. The agent (:mod:`.agent`) serves a
LocalHost over a connection; sparsesync.hosts.remote asks an agent for the same method. So a caller need not know which
of the two it has.

Source and destination of a transfer are roles of a host (:mod:`.roles`). What a method needs is imported when
it is called: a command uses few of them.
"""

import contextlib
import os
from typing import TYPE_CHECKING, Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .errors import OnError, error_path

if TYPE_CHECKING:
    from .content.compare import Tally
    from .files.extents import Layer
    from .queries.presets import ExcludedPath
    from .roles import LocalDestination, LocalSource, SourceSettings
    from .tree.block_map import Run
    from .tree.manifest import Event
    from .tree.scan import ScanOptions, Sparse
    from .wire.capabilities import Digest

Range = Tuple[str, int, int]
"""A file, and an offset and a length in it, in bytes."""


class Scanned(NamedTuple):
    """A file that a scan found. If it was measured: the bytes and the number of its data extents.

    ``zeros``: the bytes of data that are blocks of zeros, if these were asked for.
    """

    file: "Sparse"
    data: int
    extents: int
    zeros: int = 0


class LocalHost:
    """The local machine."""

    name = "this host"

    def __init__(self, digest: Optional["Digest"] = None) -> None:
        self._digest = digest

    @property
    def digest(self) -> "Digest":
        """The digest that content is compared by. The other end of a comparison computes the same."""
        if self._digest is None:
            raise ValueError("no digest was agreed on")
        return self._digest

    def scan(
        self,
        path: str,
        options: "ScanOptions",
        *,
        measured: bool = False,
        zeros: bool = False,
        on_error: OnError = None,
    ) -> Iterator[Scanned]:
        """Yield what :func:`.tree.scan.scan` finds below ``path``, in any order.

        ``measured``: with the bytes and the number of the data extents.
        ``zeros``: if it is measured, read the data, and count the zeros.
        """
        from .files.status import data_size
        from .tree.scan import scan

        for file in scan(path, options, parallel=True, on_error=on_error):
            try:
                sizes = data_size(file.path, options.holes, zeros) if measured else (0, 0, 0)
            except OSError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            yield Scanned(file, *sizes)

    @contextlib.contextmanager
    def layers(self, path: str, holes: str) -> Iterator[Tuple[int, Iterator["Layer"]]]:
        """Give the size of a file or block device, and its data and reserved ranges."""
        from .files.extents import layers

        with _opened(path) as (fd, size):
            yield size, layers(fd, 0, size, holes)

    @contextlib.contextmanager
    def checksums(self, path: str, block: int, holes: str) -> Iterator[Tuple[int, Iterator["Run"]]]:
        """Give the size of a file or block device, and its runs of ``block`` bytes with data, for a block map."""
        from .tree.block_map import checksums

        with _opened(path) as (fd, size):
            yield size, checksums(fd, size, block, holes)

    def preset(self, preset: str, source: str) -> List["ExcludedPath"]:
        """Return the paths below ``source`` that a preset excludes."""
        from .queries.presets import preset_patterns

        return list(preset_patterns(preset, [source]))

    def directory(self) -> str:
        """Return the directory that relative paths start from."""
        return os.getcwd()

    def query(self, query: str, **arguments: Any) -> Any:
        """Return the answer to a query of :mod:`.queries.registry`, a NamedTuple.

        Raises OSError, and ValueError for an unknown query.
        """
        from .queries.registry import answer_query

        return answer_query(query, **arguments)

    @contextlib.contextmanager
    def locked(self, path: str, parents: bool) -> Iterator[None]:
        """Hold the lock of a destination directory, making the directory if it is missing.

        ``parents``: make missing parents too.

        Raises OSError; EBUSY if the lock is taken.
        """
        from .queries.probe import lock

        fd = lock(path, make=True, parents=parents)
        try:
            yield
        finally:
            os.close(fd)

    def contents(self, parts: Sequence[Range], full: bool) -> List[List[Any]]:
        """Return what :func:`.tree.manifest.contents` returns, for each part of a file. Raises OSError."""
        from .tree.manifest import contents

        return [contents(path, offset, length, self.digest, full) for path, offset, length in parts]

    def manifest(
        self,
        root: str,
        full: bool,
        holes: str,
        tally: "Tally",
        rules: Optional[Sequence[Any]] = None,
        attributes: bool = False,
    ) -> Iterator["Event"]:
        """Yield the events of what is at ``root``, for a comparison: see :mod:`.tree.manifest`."""
        from .tree.manifest import manifest

        return manifest(root, self.digest, full, holes, tally, rules, attributes)

    def digests(self, root: str, block: int, ranges: Sequence[Range], on_error: OnError) -> Iterator[Optional[bytes]]:
        """Yield the joined digests of the blocks of each range, or None if the file cannot be read.

        ``block``: bytes.
        """
        from .tree.manifest import digests

        for path, offset, length in ranges:
            found = None
            try:
                found = digests(root, path, offset, length, block, self.digest)
            except OSError as error:
                if on_error is None:
                    raise
                on_error(error)
            yield found

    def source(self, settings: "SourceSettings") -> "LocalSource":
        """Return the local machine as the source of a transfer."""
        from .roles import LocalSource

        return LocalSource(settings)

    def destination(self, resume: bool = False, partial: bool = False, only_new: bool = False) -> "LocalDestination":
        """Return the local machine as the destination of a transfer. Options as :class:`~.roles.LocalDestination`."""
        from .roles import LocalDestination

        return LocalDestination(resume, partial, only_new)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[Tuple[int, int]]:
    from .files.claims import file_size
    from .files.status import open_source

    fd = open_source(path)
    try:
        with error_path(path):
            yield fd, file_size(fd)
    finally:
        os.close(fd)
