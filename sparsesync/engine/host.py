"""This machine, and every operation on it.

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
    """A file that a scan found, and if it was measured the bytes and the number of its data extents."""

    file: "Sparse"
    data: int
    extents: int


class LocalHost:
    """This machine. ``digest`` is what the other end of a comparison computes, too."""

    name = "this host"

    def __init__(self, digest: Optional["Digest"] = None) -> None:
        self._digest = digest

    @property
    def digest(self) -> "Digest":
        """What content is compared by."""
        if self._digest is None:
            raise ValueError("no digest was agreed on")
        return self._digest

    def scan(
        self, path: str, options: "ScanOptions", *, measured: bool = False, on_error: OnError = None
    ) -> Iterator[Scanned]:
        """Yield what :func:`.tree.scan.scan` finds below ``path``, in no certain order; ``measured``: with its data."""
        from .files.status import data_size
        from .tree.scan import scan

        for file in scan(path, options, parallel=True, on_error=on_error):
            try:
                data, count = data_size(file.path, options.holes) if measured else (0, 0)
            except OSError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            yield Scanned(file, data, count)

    @contextlib.contextmanager
    def layers(self, path: str, holes: str) -> Iterator[Tuple[int, Iterator["Layer"]]]:
        """Give the size of a file or block device, and where there is data and what is reserved."""
        from .files.extents import layers

        with _opened(path) as (fd, size):
            yield size, layers(fd, 0, size, holes)

    @contextlib.contextmanager
    def checksums(self, path: str, block: int, holes: str) -> Iterator[Tuple[int, Iterator["Run"]]]:
        """Give the size of a file or block device, and its runs of ``block`` with data, for a block map."""
        from .tree.block_map import checksums

        with _opened(path) as (fd, size):
            yield size, checksums(fd, size, block, holes)

    def preset(self, preset: str, source: str) -> List["ExcludedPath"]:
        """Return the places below ``source`` that a preset leaves out."""
        from .queries.presets import preset_patterns

        return list(preset_patterns(preset, [source]))

    def directory(self) -> str:
        """Return what a relative path is relative to."""
        return os.getcwd()

    def query(self, query: str, **arguments: Any) -> Any:
        """Return the answer to one of the queries of :mod:`.queries.registry`, a NamedTuple.

        Raises OSError, ValueError.
        """
        from .queries.registry import answer_query

        return answer_query(query, **arguments)

    @contextlib.contextmanager
    def locked(self, path: str, parents: bool) -> Iterator[None]:
        """Make a destination directory, if it is missing, and hold its lock. Raises OSError; EBUSY: it is taken."""
        from .queries.probe import lock

        fd = lock(path, make=True, parents=parents)
        try:
            yield
        finally:
            os.close(fd)

    def contents(self, parts: Sequence[Range], full: bool) -> List[List[Any]]:
        """Return for each part of a file what :func:`.tree.manifest.contents` says. Raises OSError."""
        from .tree.manifest import contents

        return [contents(path, offset, length, self.digest, full) for path, offset, length in parts]

    def manifest(self, root: str, full: bool, holes: str, tally: "Tally") -> Iterator["Event"]:
        """Yield what is at ``root``, for a comparison: see :mod:`.tree.manifest`."""
        from .tree.manifest import manifest

        return manifest(root, self.digest, full, holes, tally)

    def digests(self, root: str, block: int, ranges: Sequence[Range], on_error: OnError) -> Iterator[Optional[bytes]]:
        """Yield for each range its digests by ``block``, one after the other; None if the file is in trouble."""
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
        """Return this machine as the source of a transfer."""
        from .roles import LocalSource

        return LocalSource(settings)

    def destination(self, resume: bool = False) -> "LocalDestination":
        """Return this machine as the destination of a transfer; ``resume``: partial files are kept."""
        from .roles import LocalDestination

        return LocalDestination(resume)


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
