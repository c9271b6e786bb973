"""The directories above a file at the destination: opened, or made as rsync would make them.

With ``-p`` a missing one is made with mode 0700, for rsync to widen; without, with the mode that rsync gives it, and
with whatever its owner needs to write into it, until :meth:`Parents.settle`. What only rsync can tell is left to it
(:class:`~.errors.LeftToRsync`).

No symlink is followed below the root.
"""

import errno
import os
import stat
import time
from typing import Dict, NamedTuple, Optional, Sequence, Tuple

from ...errors import LeftToRsync
from ...files.attributes import check_group, has_default_acl
from ...files.beneath import open_beneath
from ...files.writing.known import Known, look_at_directory

NO_ROOM = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
REFUSALS = NO_ROOM | {errno.EACCES, errno.EPERM, errno.EROFS}
"""What a destination says that takes nothing more, or nothing at all."""

_KEPT_SECONDS = 0.1
"""How long a directory stays open for the next file in it. One file may take longer."""


class Parent(NamedTuple):
    """A directory that files are in: ``fd`` is open as long as no other is asked for.

    ``has_acl``: new files inherit an ACL; False with ``-p``, which does not care. ``known``: what else is known of it.
    """

    fd: int
    st: os.stat_result
    has_acl: bool
    known: Optional[Known]


class Parents:
    """The directories below ``root``, an open one, that files are in.

    ``like``: the mode that rsync gives the root, or None. ``mask``: the umask. Others are as rsync's options.
    """

    def __init__(
        self,
        root: int,
        *,
        like: Optional[int],
        perms: bool,
        group: bool,
        implied_dirs: bool,
        fsync: bool,
        mask: int,
    ) -> None:
        self.like = like
        self.perms = perms
        self.group = group
        self.implied_dirs = implied_dirs
        self.fsync = fsync
        self._root = root
        self._umask = mask
        self._unsettled: Dict[str, int] = {}
        self._last: Optional[Parent] = None
        self._last_asked: Tuple[str, Sequence[int]] = ("", ())
        self._until = 0.0

    def find(self, parent: str, modes: Sequence[int]) -> Parent:
        """Return the directory ``parent``, a path below the root, which is made if it is missing.

        What is asked for again within a moment is not looked up again: most files are in the directory of the one
        before.

        ``modes``: what the source's directories have, from the root's first one on.

        Raises LeftToRsync if rsync must make it, or may open it, or if its bits decide on the group of files; OSError.
        """
        modes, last = list(modes), self._last
        if last is not None and (parent, modes) == self._last_asked and time.monotonic() < self._until:
            return last
        self.close()
        fd = self.open(parent, modes)
        try:
            st = os.fstat(fd)
            self._check_setgid(st.st_mode, modes)
            found = Parent(fd, st, not self.perms and has_default_acl(fd), look_at_directory(fd))
        except BaseException:
            os.close(fd)
            raise
        self._last, self._last_asked, self._until = found, (parent, modes), time.monotonic() + _KEPT_SECONDS
        return found

    def close(self) -> None:
        """Close the directory of the last file."""
        if self._last is not None:
            last, self._last = self._last, None
            os.close(last.fd)

    def open(self, parent: str, modes: Sequence[int]) -> int:
        """Return a descriptor of the directory ``parent``, a path below the root, which is made if it is missing.

        ``modes``: what the source's directories have, from the root's first one on.

        Raises LeftToRsync if rsync must make it, or may open it; OSError.
        """
        parts = [part for part in parent.split("/") if part]
        setgid = self.perms and not self.group
        wanted = {"/".join(parts[: count + 1]): mode & 0o777 for count, mode in enumerate(modes)}

        def mode(path: str) -> int:
            if not self.implied_dirs or setgid:
                raise LeftToRsync("its directory is for rsync to make")
            if self.perms:
                return stat.S_IRWXU
            made = wanted.get(path, 0o777)
            check_group(made & ~self._umask, self.group, "its directory")
            if made & ~self._umask & stat.S_IRWXU != stat.S_IRWXU:
                self._unsettled[path] = made & ~self._umask
            return made | stat.S_IRWXU

        try:
            return open_beneath(self._root, parent, mode, self.fsync)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise LeftToRsync("{} at the destination is not a directory".format(error.filename)) from None
            if error.errno == errno.EACCES:
                raise LeftToRsync("{} at the destination is closed; rsync may open it".format(error.filename)) from None
            if error.errno in REFUSALS:
                # It cannot be made. rsync says so, and passes over what would be in it.
                raise LeftToRsync("its directory cannot be made: {}".format(error.strerror)) from None
            raise

    def _check_setgid(self, mode: int, modes: Sequence[int]) -> None:
        """Raise LeftToRsync if the group of a file in a directory depends on a setgid bit, now or later.

        ``mode``: the directory's. ``modes``: as for :meth:`open`.
        """
        # rsync gives directories their modes first, and a setgid bit that comes or goes decides on the group of files.
        if not self.perms:
            return
        seen = [mode, *modes] + ([] if self.like is None else [self.like])
        comes = modes[-1] if modes else mode if self.like is None else self.like
        if not self.group and any(each & stat.S_ISGID for each in seen):
            raise LeftToRsync("the directory's setgid bit decides its group")
        if os.geteuid() != 0 and (comes ^ mode) & stat.S_ISGID:
            raise LeftToRsync("the setgid bit that its directory is to get, or lose, decides its group")

    def settle(self) -> None:
        """Set the final mode of the directories that were made with more permissions, as rsync does."""
        self.close()
        for path in sorted(self._unsettled, reverse=True):
            mode = self._unsettled.pop(path)
            try:
                directory = open_beneath(self._root, path)
            except OSError:
                continue  # somebody moved it; what is there now is for rsync to see to
            try:
                # The rest is as it was made: by the umask, or a default ACL, and with what it has inherited.
                os.fchmod(directory, stat.S_IMODE(os.fstat(directory).st_mode) & ~(stat.S_IRWXU & ~mode))
            finally:
                os.close(directory)
