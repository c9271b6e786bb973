"""The holes of a file. :mod:`sparsesync.api` says what the parameters of all functions mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from ..engine.errors import OnProgress
    from ..engine.files.extents import Segment
    from ..hosts.base import PathLike, Rsh
    from .choices import Holes


def extents(
    file: PathLike | int, start: int = 0, end: int | None = None, holes: Holes = "auto"
) -> Iterator[tuple[int, int]]:
    """Yield the data extents of a file between two offsets, ascending, each (offset, length) in bytes.

    Extents are cut to [``start``, ``end``). The end of the file is read once: appended data is not mapped, and a file
    that shrinks is mapped as far as it goes. Preallocated, unwritten ranges are no data.

    ``file``: a path or a descriptor, of a regular file or a block device. A descriptor's file offset stays where it is.
    The file of a descriptor is opened again for that. Where that is not possible, without /proc or the permission, the
    offset is set back before each step ends, and another thread that reads by it meanwhile may read elsewhere.
    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`.

    Raises ValueError for an unknown ``holes``. The first step raises IsADirectoryError, shutil.SpecialFileError for a
    pipe or a socket, and OSError if the file cannot be opened, or has to be read and cannot be.
    """
    import os

    from ..engine.files.claims import check_holes
    from ..engine.files.status import extents_of

    check_holes(holes)
    return extents_of(file if isinstance(file, int) else os.fsdecode(file), start, end, holes)


def is_sparse(file: PathLike | int, holes: Holes = "auto") -> bool:
    """Return whether a file has a hole. A range that is preallocated and unwritten is one.

    Takes and raises what :func:`extents` does. A file whose map is not believed is read only if its ``st_blocks``
    indicate a hole, or if ``holes`` is "read". A block device is read.
    """
    import os

    from ..engine.files.status import has_hole

    return has_hole(file if isinstance(file, int) else os.fsdecode(file), holes)


def map(
    path: PathLike, *, holes: Holes = "auto", rsh: Rsh = None, python: str | None = None
) -> Generator[Segment, None, None]:
    """Yield the segments of a file, data and hole in turn, from its start to its end without a gap.

    ``path``: of a regular file or a block device; may be ``host:path``.
    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.

    Raises ValueError for an unknown ``holes``. The first step raises OSError if the file cannot be read, and LinkError
    if there is no connection.
    """
    from ..engine.files.claims import check_holes

    check_holes(holes)
    return _map(path, holes, rsh, python)


def _map(path: PathLike, holes: Holes, rsh: Rsh, python: str | None) -> Generator[Segment, None, None]:
    import itertools

    from ..engine.files.extents import Segment, segments
    from ..hosts.pool import HostPool

    with HostPool(rsh, python) as hosts:
        location = hosts.locate(path)
        with location.host.layers(location.path, holes) as (size, layers):
            yield from itertools.starmap(Segment, segments(size, layers))


def punch(path: PathLike, ranges: Iterable[tuple[int, int]]) -> None:
    """Make holes of ranges of a file, in place. What was in them reads as zeros.

    The size of the file stays. Of a block that a range has a part of, that part is filled with zeros. Nothing is
    checked: whoever writes to the ranges meanwhile may lose it.

    ``path``: of a regular file on this machine. A symlink is followed.
    ``ranges``: (offset, length) each, in bytes, in any order. What lies behind the end of the file is left out.

    Raises ValueError for a negative offset or length, before anything is punched, shutil.SpecialFileError for what is
    not a regular file, and OSError; EOPNOTSUPP if the filesystem cannot punch.
    """
    import os

    from ..engine.files.dig import punch

    ranges = list(ranges)
    for offset, length in ranges:
        if offset < 0 or length < 0:
            raise ValueError(f"an offset and a length are 0 or more bytes, not {offset} and {length}")
    punch(os.fsdecode(path), ranges)


def dig(path: PathLike, *, progress: OnProgress = None) -> int:
    """Make holes of the blocks of zeros in a file, in place, and return how many bytes of zeros became holes.

    Nothing else of the file changes, nor its times. While it is dug, nobody else may have it open.

    ``path``: of a regular file on this machine. A symlink is followed.
    ``progress``: called with the bytes of data read since the last call. If it raises, what is dug stays.

    Raises OSError: EBUSY if somebody has the file open, or opens it meanwhile, EOPNOTSUPP where the filesystem cannot
    punch, or cannot tell who else writes, EPERM for a file with a setuid bit or capabilities, which punching may take
    away; and shutil.SpecialFileError for what is not a regular file.
    """
    import errno
    import os

    from ..embedding import Passing
    from ..engine.files.dig import dig

    name = os.fsdecode(path)
    with Passing() as passing:
        dug = dig(name, follow=True, progress=passing.through(progress))
    if dug.why is not None:
        raise OSError(errno.EBUSY, f"{dug.why}; {dug.holes} bytes of it became holes", name)
    return dug.holes
