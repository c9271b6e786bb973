"""What is known of a directory while files take names in it one soon after the other, so that it is asked once.

Only where the filesystem is one that is known (:func:`~..claims.knows_holes`) are a new file and its directory sure to
be of one kind, and what holds for the one file to hold for the next. Of any other nothing is kept here
(:func:`look_at_directory`), and each file is asked for itself.

What somebody may change meanwhile, the flags of the directory or the room, is known for as long as whoever keeps a
:class:`Known` lets it be: it should be no longer than a file may take. Whatever it says, a write that has no room and a
name that cannot be taken fail, and the time of a file is looked at when it has its name.

Sizes are bytes.
"""

import os
from typing import Optional

from ...text import name_limit
from ..claims import knows_holes
from ..flags import keeps_names
from ..syscalls import check_room, filesystem_at, free_space

_ALL_TIMES_NS = range(2**31 * 10**9)
"""The modification times that any filesystem of them holds which holds some of it to the nanosecond: until 2038."""

_OWN_BYTES = 64 * 1024
"""So much a filesystem may take for a file, besides its data."""


class Known:
    """What is known of an open directory, with the stat ``st``, and of each new file in it."""

    def __init__(self, directory: int, st: os.stat_result) -> None:
        self.st = st
        self.name_limit: int = name_limit(directory)
        self.keeps_names: bool = keeps_names(directory)
        self._holds_times = False
        self._left = 0

    def check_room(self, fd: int, needed: int, path: str) -> None:
        """Raise NoSpaceError as :func:`~..syscalls.check_room` of a new file. Of what is free, half is promised."""
        needed += _OWN_BYTES
        if needed > self._left:
            check_room(fd, needed - _OWN_BYTES, path)
            self._left = free_space(filesystem_at(fd)) // 2
        self._left -= needed

    def holds(self, mtime_ns: int) -> bool:
        """Return whether a new file is sure to hold this modification time, by what :meth:`held` was told."""
        return self._holds_times and mtime_ns in _ALL_TIMES_NS

    def held(self, wanted_ns: int, found_ns: int) -> None:
        """Note which modification time was found when another, or the same, had been set."""
        if wanted_ns == found_ns and wanted_ns % 1000 and wanted_ns in _ALL_TIMES_NS:
            self._holds_times = True


def look_at_directory(directory: int) -> Optional[Known]:
    """Return what is known of an open directory, or None if its filesystem is not. Raises OSError."""
    st = os.fstat(directory)
    return Known(directory, st) if knows_holes(directory, st) else None
