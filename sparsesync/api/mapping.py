"""The holes of a file. :mod:`sparsesync.api` says what the parameters of all functions mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .choices import Holes


def extents(fd: int, start: int = 0, end: int | None = None, holes: Holes = "auto") -> Iterator[tuple[int, int]]:
    """Return the data extents of an open file between two offsets, ascending, each (offset, length) in bytes.

    Extents are cut to [``start``, ``end``). The end of the file is read once: appended data is not mapped, and a file
    that shrinks is mapped as far as it goes. Preallocated, unwritten ranges are no data. The file offset of ``fd`` is
    moved.

    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`.

    Raises ValueError for an unknown ``holes``, and OSError if the file has to be read and cannot be.
    """
    from ..engine.files import extents as module

    return module.extents(fd, start, end, holes)
