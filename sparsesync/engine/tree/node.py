"""A file on one of two sides that are compared: a root, or a name in an open directory below one.

A root may be a symlink and is followed; below it none is, since a name is only ever looked up in the
descriptor of its directory (:func:`files.beneath.open_beneath` opens those). Every OSError names the file by its
whole path: below a descriptor the system's own name says too little.
"""

import errno
import os
import stat
from typing import NamedTuple, Optional, Set, Tuple

from ..errors import error_path
from ..files.status import open_quietly


class Node(NamedTuple):
    """A file, by its name in ``directory``, a descriptor, or None for a root. ``path`` is for messages."""

    directory: Optional[int]
    name: str
    path: str

    def stat(self) -> os.stat_result:
        """Return the stat of the file, not following a symlink below the root."""
        with error_path(self.path, instead=True):
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=self.directory is None)

    def target(self) -> str:
        """Return where a symlink leads."""
        with error_path(self.path, instead=True):
            return os.readlink(self.name, dir_fd=self.directory)

    def open(self, expected: os.stat_result) -> int:
        """Open a file that had the stat ``expected``, for reading. Raises OSError, also if its type has changed."""
        flags = os.O_NOCTTY if self.directory is None else os.O_NOCTTY | os.O_NOFOLLOW
        with error_path(self.path, instead=True):
            fd = open_quietly(self.name, flags, self.directory)
            if stat.S_IFMT(os.fstat(fd).st_mode) != stat.S_IFMT(expected.st_mode):
                os.close(fd)
                raise OSError(errno.ESTALE, "the file was replaced while it was compared")
            return fd


class Names:
    """Which of the names that are passed belong to one file. What is held is each file with several names."""

    def __init__(self) -> None:
        self._passed: Set[Tuple[int, int]] = set()

    def again(self, st: os.stat_result) -> bool:
        """Return whether another name of the file was passed before this one."""
        if st.st_nlink < 2 or stat.S_ISDIR(st.st_mode):
            return False
        inode = (st.st_dev, st.st_ino)
        again = inode in self._passed
        self._passed.add(inode)
        return again


def has_content(st: os.stat_result) -> bool:
    """Return whether a root with this stat is compared by its bytes."""
    return stat.S_ISREG(st.st_mode) or stat.S_ISBLK(st.st_mode)
