"""What the parts of a transfer tell each other of a file, on one machine and between two.

::

    Need      what it will take, asked for all files before the first is written; Space is the answer, by Room
    Spec      what it is: announced by the sender, made by the destination
    Result    what became of it; a CLOSED frame carries it (:func:`limits.read_result`)

A file has a name below the root of its transfer (:func:`check_name`). Sizes are bytes.
"""

import contextlib
import os
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..files.claims import may_compress
from ..files.syscalls import filesystem_at, free_space


class SpaceNeed(NamedTuple):
    """The bytes that a file takes at the destination. ``device`` is the source's if that is on the same machine."""

    name: str
    data: int
    device: Optional[int]


class Space(NamedTuple):
    """The bytes to be written to a filesystem, and its free bytes. ``path``: a directory on it."""

    needed: int
    free: int
    path: str


class Room:
    """A sum of the bytes that files take of their filesystems."""

    def __init__(self) -> None:
        self._growth: Dict[int, int] = {}
        self._example: Dict[int, str] = {}
        self._last: Tuple[Optional[str], int, int] = (None, 0, 0)

    def take(self, directory: str, data: int, held: int) -> None:
        """Count a file of so many bytes of data in a directory, less the bytes ``held`` already."""
        last, device, block = self._last
        if directory != last:  # most files are in the directory of the one before
            device, block = os.stat(directory).st_dev, filesystem_at(directory).f_frsize
            self._last = directory, device, block
        self._growth[device] = self._growth.get(device, 0) + -(-data // block) * block - held
        self._example[device] = directory

    def space(self) -> List[Space]:
        """Return the space needed on each filesystem."""
        found = []
        for device, needed in self._growth.items():
            path = self._example[device]
            with contextlib.ExitStack() as stack:
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                except PermissionError:  # one may write into it and not read it; then its flags are not known
                    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
                stack.callback(os.close, fd)
                filesystem = filesystem_at(fd)
                if filesystem.f_flag & os.ST_RDONLY:
                    continue  # that is what will be said of each file
                if filesystem.f_blocks and not may_compress(fd):  # some of the kernel's own have no size
                    found.append(Space(needed, free_space(filesystem), path))
        return found


class FileSpec(NamedTuple):
    """A file that is to be put in place.

    ``mode``, ``mtime_ns`` and the modes of ``parents`` are the source's.
    ``data``: the most bytes that it takes.
    ``attributes``: what a copy sets besides content (:mod:`files.attributes`), or None.
    ``known``: the :class:`~.files.status.Identity` of the file that is there, if it is known what that holds; none of
    its numbers if nothing is known of it, but shall be after this transfer; None if nobody wants to know.
    """

    name: str
    size: int
    data: int
    mode: int
    mtime_ns: int
    parents: Sequence[int] = ()
    attributes: Optional[Dict[str, Any]] = None
    known: Optional[Sequence[int]] = None


class FileResult(NamedTuple):
    """The result of one file. Sizes are bytes of content.

    ``reason``: why the file was left alone, or None.
    ``allocated``: its allocated bytes when it got its name.
    ``errno``: that of the system's error that left it, or None.
    ``at_source``: the error occurred at the source.
    ``refusal``: what rsync would say of it, where the destination does not take the file.
    ``there``: the :class:`~.files.status.Identity` of the new file, if that was wanted and can be told.
    ``was_known``: the file that was there was the known one.
    ``is_mapped``: of a tracked file, its clones could be compared.
    """

    name: str
    size: int
    data: int
    sent: int
    reason: Optional[str] = None
    space: Optional[Tuple[int, int]] = None
    """What was needed of a filesystem and what was free, in bytes, where that is why."""
    errno: Optional[int] = None
    at_source: bool = False
    allocated: int = 0
    refusal: Optional[str] = None
    there: Optional[Sequence[int]] = None
    was_known: bool = False
    is_mapped: bool = True


class Tracked(NamedTuple):
    """A file whose content is taken from a clone of it, and compared with an earlier clone.

    ``snapshot``: the path of the clone.
    ``since``: the path of the clone with the content that the destination has, or None if there is none.
    ``known``: the identity of the destination that has it, or none of its numbers.
    ``mtime_ns``: the modification time of the file when it was cloned.
    """

    snapshot: str
    since: Optional[str]
    known: Sequence[int]
    mtime_ns: int


class Listed(NamedTuple):
    """A file of which somebody knows what changed in it since the destination was made.

    ``changed``: the ranges, ascending and apart.
    ``known``: the identity of that destination.
    """

    changed: Sequence[Tuple[int, int]]
    known: Sequence[int]


def reason(error: Exception, name: str) -> str:
    """Return why a file is left alone, for a message that names the file already."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if error.filename in (None, name):
        return error.strerror
    return "{}: {}".format(error.filename, error.strerror)


def check_name(name: str) -> None:
    """Raise ValueError for a name that could lead out of the root, or is empty."""
    parts = name.split("/")
    if name.startswith("/") or "\0" in name or ".." in parts or parts[-1] in ("", "."):
        raise ValueError("{!r} is not a name below the destination".format(name))
