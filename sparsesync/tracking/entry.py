"""One file that is tracked to one destination: its last clone and record, and the clone of this run.

:class:`Entry` is what a run does with it, while it holds the lock (:mod:`store`)::

    begin   read the record; remove the snapshots that it does not name
    clone   clone the file
    take    the clone is on the disk; see what the record says
    ...     copy, with what :attr:`Entry.tracked` says
    keep    it ended well: a record that names the new snapshot takes the old one's place, by a rename
    clear   remove the snapshots that the record, the old or the new one, does not name

So there is a whole pair of record and snapshot at every moment, or none. A record is believed only as far as it can be
checked. The snapshot's identity shows whether anybody has written to it, or whether it is a copy from elsewhere, and
the destination's whether it is the file that was written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import Callable

from ..engine.errors import error_path
from ..engine.files.status import Identity, identity_at, identity_of, is_past
from ..engine.files.syscalls import flush_directory, share
from ..engine.transfer.records import FileResult, Tracked
from .record import MAX_RECORD_BYTES, NewerRecordError, Place, Record, load

RECORD = "record.json"
SNAPSHOT = ".snapshot"

_NO_CLONES = frozenset([errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS])
_NOT_THIS_FILE = frozenset([errno.EINVAL, errno.ETXTBSY, errno.EPERM])
"""A file without copy-on-write, a swap file, an immutable one: ioctl_ficlone(2)."""
NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMLINK])

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Entry:
    """What is known of one copy, in the open directory ``fd``, whose path is ``path``.

    ``given``: a descriptor of the file, which the caller closes.
    ``tracked``: what the engine has to know of the file.
    ``why``: why all of it has to be compared, or None.
    ``cloned``: the identity of the file when it was cloned; ``cloned_ns``: when that was.
    """

    def __init__(self, fd: int, path: str, say: Callable[[str], object]) -> None:
        self.fd = fd
        self.path = path
        self._say = say
        self._new = self._source = ""
        self.given: int = -1
        self._runs = 0
        self._old: Record | None = None
        self.tracked: Tracked = Tracked("", None, (), 0)
        self.why: str | None = None
        self.cloned: Identity = Identity(0, 0, 0, 0)
        self.cloned_ns: int = 0

    def begin(self, given: int, source: str, real: str, destination: str) -> bool:
        """Take an open file. Returns False, with a warning, if it cannot be tracked. Raises OSError.

        ``source``, ``real``: its path, in messages and without symlinks.
        ``destination``: any text that names the destination.
        """
        self.given, self._source = given, source
        self._real, self._destination = real, destination
        try:
            self._old = self.read()
            self.why = None if self._old else "nothing is known of an earlier copy"
        except NewerRecordError as error:
            self._say(f"{self.path}/{RECORD}: a newer version wrote it ({error}); digests are compared, and it is left")
            return False
        except ValueError as error:
            self.why = f"its record is broken: {error}"
            self._say(f"{self.path}/{RECORD}: it is broken ({error}); digests are compared, and a new one is written")
        self._sweep()
        return True

    def clone(self) -> bool:
        """Clone the file. Returns False, with a warning, if it cannot be cloned. Raises OSError."""
        source, above = self._source, os.path.dirname(self.path)
        try:
            self._clone(self.given, source)
        except OSError as error:
            if error.errno == errno.EXDEV:
                what = f"is not on the filesystem of {source}; give a directory on that one"
                raise OSError(errno.EXDEV, what, above) from None
            if error.errno in _NO_CLONES:
                self._say(f"{above}: its filesystem has no clones (reflink); digests are compared")
            elif error.errno in _NOT_THIS_FILE and error.filename is None:
                self._say(f"{source}: it cannot be cloned ({error.strerror}); digests are compared")
            elif error.errno in NO_ROOM:
                self._say(f"{above}: no snapshot can be kept there ({error.strerror}); digests are compared")
            else:
                raise
            return False
        return True

    def take(self, whole_every: int) -> None:
        """See what the record says, once the clone is on the disk. Raises OSError.

        ``whole_every``: how many copies there are from one that compares everything to the next; 0 for no such copies.
        """
        with error_path(self.path, instead=True):
            fd = os.open(self._new, _READ, dir_fd=self.fd)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        since, known = self._known(whole_every)
        self.tracked = Tracked(os.path.join(self.path, self._new), since, known, self.cloned.mtime_ns)

    def why_all(self, result: FileResult) -> str | None:
        """Return why all of the file was compared, as far as that is not for what was at the destination."""
        unknown = None if result.is_mapped else "the maps of its clones do not tell what changed"
        return self.why or unknown

    def read(self) -> Record | None:
        """Return the record, or None. Raises ValueError if it is broken, NewerRecordError."""
        try:
            fd = os.open(RECORD, _READ, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ValueError(error.strerror) from None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("it is not a file")
            return load(file.read(MAX_RECORD_BYTES + 1))

    def _known(self, whole_every: int) -> tuple[str | None, tuple[int, ...]]:
        if self._old is None:
            return None, ()
        name, expected = self._old.snapshot
        found = identity_at(name, self.fd)
        if found != expected:
            self.why = "the snapshot of the last copy " + ("is gone" if found is None else "was changed")
            return None, ()
        self._runs = self._old.runs
        if whole_every and self._runs + 1 >= whole_every:
            self.why = f"it is, in one of {whole_every} runs"
            return None, ()
        return os.path.join(self.path, name), tuple(self._old.destination.identity)

    def _clone(self, given: int, source: str) -> None:
        st = os.fstat(given)  # before: what is written meanwhile is in the clone, or the file gets a later time
        if not stat.S_ISREG(st.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file, and cannot be tracked", source)
        is_past(st.st_mtime_ns)
        self.cloned, self.cloned_ns = identity_of(st), time.time_ns()
        name = os.urandom(8).hex() + SNAPSHOT
        fd = os.open(name, _CREATE, 0o600, dir_fd=self.fd)
        self._new = name
        try:
            share(given, fd)
        finally:
            os.close(fd)

    def keep(self, there: Identity, whole: bool) -> None:
        """Have the new snapshot and a record of it take the place of the old ones.

        ``there``: the destination's identity.
        ``whole``: all of it was compared.

        Raises OSError.
        """
        with error_path(self.path, instead=True):
            found = identity_at(self._new, self.fd)
            if found is None:
                return
            runs = 0 if whole else self._runs + 1
            places = Place(self._real, self.cloned), Place(self._destination, there), Place(self._new, found)
            record = Record(*places, runs, int(time.time()))
            temporary = os.urandom(8).hex() + ".json"
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=self.fd)
            with open(fd, "wb") as file:
                file.write(record.dump())
                file.flush()
                os.fsync(fd)
            os.replace(temporary, RECORD, src_dir_fd=self.fd, dst_dir_fd=self.fd)
            flush_directory(self.fd, self.path)

    def clear(self) -> None:
        """Remove what the record does not name."""
        with contextlib.suppress(OSError, ValueError):
            self._old = self.read()
            self._sweep()

    def _sweep(self) -> None:
        kept = {RECORD} if self._old is None else {RECORD, self._old.snapshot.path}
        # Opened again: on btrfs an open directory does not list what was made since.
        listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            names = set(os.listdir(listed)) - kept
        finally:
            os.close(listed)
        for name in names:
            if name.endswith((SNAPSHOT, ".json")):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self.fd)
