"""Whose a partial file is.

A partial file has a name that everybody can foretell, and outlives the run that wrote it. So another user may have
made it, may have it open, or have given it a second name, and another run may be writing it::

    with the name that it should have:
        another user's, or with another mode or name      removed
        ours                                              locked; if another run has the lock, that is an error
        ours, and another user may have it open           removed

What is left is ours alone, until the descriptor is closed. Where a mount has no locks nothing is ours for sure, so
there a copy has no partial file.
"""

import contextlib
import errno
import fcntl
import os
import stat
from typing import Optional, Tuple

from ..syscalls import drop_lease, is_ours_alone, take_lease
from .existing import CREATE, UPDATE

_MAX_ATTEMPTS = 16


def take_up(directory: int, name: str, mode: int) -> Optional[Tuple[int, bool]]:
    """Return a descriptor of a partial file that is ours alone, and whether it was there; None if there can be none.

    ``directory``: an open one.
    ``mode``: that of a new file, less the umask, and the most that an old one may permit.

    Raises OSError, of EBUSY if another run has locked it.
    """
    for _ in range(_MAX_ATTEMPTS):
        try:
            fd, resumed = os.open(name, CREATE, mode, dir_fd=directory), False
        except FileExistsError:
            fd, resumed = _open_partial(directory, name, mode), True
        except OSError:
            return None  # a temporary file may do with less, or whoever makes it will tell
        if fd >= 0:
            held = _hold(fd, directory, name, resumed)
            if held is None:
                return None
            if held:
                return fd, resumed
    raise OSError(errno.EBUSY, "another process keeps creating its partial file")


def _open_partial(directory: int, name: str, mode: int) -> int:
    """Return a descriptor of an existing partial file; -1 if it was not ours, and is removed now."""
    try:
        fd = os.open(name, UPDATE, dir_fd=directory)
    except FileNotFoundError:
        return -1
    except OSError as error:
        # Whatever else is wrong, a lack of descriptors for one, says nothing of whose file it is.
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EACCES, errno.EPERM):
            raise
        fd = -1
    if fd >= 0:
        st = os.fstat(fd)
        private = st.st_uid == os.geteuid() and stat.S_IMODE(st.st_mode) & (0o7022 | ~mode) == 0
        if stat.S_ISREG(st.st_mode) and st.st_nlink == 1 and private:
            return fd
        os.close(fd)
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError:
        raise OSError(errno.EEXIST, "a file that is not ours has the name of its partial file") from None
    return -1


def _hold(fd: int, directory: int, name: str, resumed: bool) -> Optional[bool]:
    """Lock an open partial file, and return whether it still has its name, and is ours alone. If not, it is closed.

    Returns None if nothing can be locked. Then one that was there, which another run may be writing by way of a mount
    that has locks, stays as it is.
    """
    held: Optional[bool] = False  # the run that had it may have just finished
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "another run is writing it") from None
        except OSError:
            held = None
            if not resumed:
                os.unlink(name, dir_fd=directory)
        else:
            with contextlib.suppress(FileNotFoundError):
                st = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if os.path.samestat(st, os.fstat(fd)):
                    held = not resumed or _is_only_ours(fd, directory)
                    if not held:
                        os.unlink(name, dir_fd=directory)
        return held
    finally:
        if not held:
            os.close(fd)


def _is_only_ours(fd: int, directory: int) -> bool:
    """Return whether nobody but us can have a private file of ours open, in a directory that may be somebody else's.

    He could have opened another file, one that everybody may read, before he gave it this name. The kernel grants a
    lease to write only if nobody else has the file open: fcntl(2), F_SETLEASE. Where there are no leases, it has to be
    a directory in which only we can give names.
    """
    try:
        take_lease(fd)
        drop_lease(fd)
    except BlockingIOError:
        return False  # somebody has
    except OSError:
        return is_ours_alone(os.fstat(directory))
    return True
