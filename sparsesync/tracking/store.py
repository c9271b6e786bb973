"""A directory of clones and records, on the filesystem of the files that are tracked.

::

    DIR/                  mode 0700
      KEY/                of a source and a destination (:mod:`entry`); a run holds its lock (flock)
        record.json       what the last copy that ended well has left (:mod:`record`)
        ....snapshot      the clone that it names

A second run with the same source and destination does not wait: it compares digests. A snapshot is private (mode 0600,
in a directory of mode 0700), since who may not read a file may not read its clone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import warnings
from collections.abc import Iterator
from typing import Callable

from ..engine.errors import error_path
from ..engine.files.beneath import open_trusted
from ..engine.files.status import open_source
from .entry import NO_ROOM, Entry

_KEY_CHARACTERS = 32

OPEN_ENTRY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_key(name: str) -> bool:
    """Return whether the name is that of an entry."""
    return len(name) == _KEY_CHARACTERS and not name.strip("0123456789abcdef")


class Store:
    """The directory ``path``, made if it is missing.

    Raises OSError if it cannot be made, or somebody else may write to it.
    """

    def __init__(self, path: str) -> None:
        self.path: str = os.path.abspath(path)
        self._said: set[str] = set()
        with error_path(path, instead=True):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            self.fd: int = open_trusted(path)
        st = os.fstat(self.fd)
        why = None
        if st.st_uid != os.geteuid():
            why = f"belongs to user {st.st_uid}; a directory for snapshots has to be one's own"
        elif st.st_mode & 0o022:
            why = "others may write to it; a directory for snapshots has to be one's own (chmod go-w)"
        if why is not None:
            os.close(self.fd)
            raise PermissionError(errno.EPERM, why, path)

    def close(self) -> None:
        """Close the directory."""
        os.close(self.fd)

    def say(self, what: str) -> None:
        """Warn, once."""
        if what not in self._said:
            self._said.add(what)
            warnings.warn(what, RuntimeWarning, stacklevel=5)

    @contextlib.contextmanager
    def entry(
        self, source: str, destination: str, opened: Callable[[str], int] = open_source
    ) -> Iterator[Entry | None]:
        """Give what is known of the copy of a file to ``destination``. The file is open, and still to be cloned.

        None, with a warning, if the file cannot be tracked now. ``destination`` is any text that names it.
        ``opened`` opens the file for reading.

        Raises OSError if the source cannot be read.
        """
        real = os.path.realpath(source)
        key = hashlib.sha256(os.fsencode(f"{real}\0{destination}")).hexdigest()[:_KEY_CHARACTERS]
        try:
            with contextlib.ExitStack() as stack:
                given = opened(source)
                stack.callback(os.close, given)
                entry = self._lock(stack, key, source)
                if entry is not None:
                    stack.callback(entry.clear)
                    entry = entry if entry.begin(given, source, real, destination) else None
                yield entry
        finally:
            with contextlib.suppress(OSError):  # something is in it
                os.rmdir(key, dir_fd=self.fd)

    def _lock(self, stack: contextlib.ExitStack, key: str, source: str) -> Entry | None:
        try:
            with error_path(self.path, instead=True):
                while True:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(key, 0o700, dir_fd=self.fd)
                    with contextlib.suppress(FileNotFoundError):
                        fd = os.open(key, OPEN_ENTRY, dir_fd=self.fd)
                        stack.callback(os.close, fd)
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        # The run that had it may have removed it, since nothing was in it.
                        if os.path.samestat(os.fstat(fd), os.stat(key, dir_fd=self.fd, follow_symlinks=False)):
                            return Entry(fd, os.path.join(self.path, key), self.say)
        except BlockingIOError:
            self.say(f"{source}: another run is tracking it; digests are compared")
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.say(f"{self.path}: no snapshot can be kept there ({error.strerror}); digests are compared")
        return None
