"""A file opened to be written to under its own name, on a mount that lets that be done in fewer ways than a disk.

For one that is there they are tried in turn, and the less it can be opened for, the less of what it has can be used::

    to read and to write      what is equal is not written
    to write                  nothing is known of what is there: it is emptied, as cp does it
    to be emptied             as well; rclone takes a file only so

So is one that opens for all, and takes bytes at its end only (:func:`takes_any_order`).

Nothing is emptied before :func:`emptied`, so what does not seem to fit, or cannot be opened at the source, changes
nothing. What comes to an end too early after that leaves a part, as with cp.
"""

import contextlib
import errno
import os
from typing import List, Tuple

from ..claims import is_anybodys
from ..syscalls import NO_ORDER

UPDATE = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""How a file that is there is opened to be read and written to."""

LACKING = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOMEM])
"""What open(2) says that is not of the file."""

CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
"""How a new file is made."""

_WRITE = UPDATE ^ (os.O_RDWR | os.O_WRONLY)
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_existing(directory: int, name: str, read: bool, keep: bool) -> Tuple[int, bool]:
    """Open a file to be written to, and return its descriptor, and whether its content can be read.

    ``directory``: an open one.
    ``read``: it must be.
    ``keep``: the file must not be emptied.

    Raises OSError.
    """
    ways = [UPDATE] if read else [UPDATE, _WRITE]
    permitted = os.access(name, os.W_OK, dir_fd=directory, effective_ids=True)
    if permitted and not read and not keep and is_anybodys(directory):
        ways.append(_PLACE)
    refused: List[OSError] = []
    for way in ways:
        try:
            fd = os.open(name, way, dir_fd=directory)
        except OSError as error:
            if error.errno in LACKING:
                raise
            refused.append(error)
        else:
            return fd, way == UPDATE and _can_be_read(fd)
    raise refused[0]


def _can_be_read(fd: int) -> bool:
    try:
        if is_anybodys(fd):
            os.pread(fd, 1, 0)
    except OSError:
        return False
    return True


def takes_any_order(fd: int) -> bool:
    """Return whether an open file can be written to where it has content. A byte of it is written once more.

    Whatever else is wrong, whoever writes will hear of it.
    """
    try:
        if is_anybodys(fd):
            os.pwrite(fd, os.pread(fd, 1, 0), 0)
    except OSError as error:
        return error.errno not in NO_ORDER
    return True


def is_empty(fd: int) -> bool:
    """Return whether an open file has nothing that could be below what is written."""
    st = os.fstat(fd)
    return not st.st_size and not st.st_blocks and not is_anybodys(fd)  # whose size may be out of date


def make(directory: int, name: str, how: int, mode: int) -> int:
    """Return a descriptor of a new file.

    ``how``: without O_EXCL, a file that was made meanwhile is told from a new one by having content.

    Raises OSError, FileExistsError for one that is there.
    """
    fd = os.open(name, how, mode, dir_fd=directory)
    if how & os.O_EXCL or not os.fstat(fd).st_size:
        return fd
    os.close(fd)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def emptied(fd: int) -> int:
    """Remove all content of an open file, and return another descriptor of it, to write only. ``fd`` is closed."""
    # Some mounts cannot do that to a file that is open to be written to.
    found = os.open("/proc/self/fd/{}".format(fd), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    os.close(fd)
    return found


def write_once(fd: int, directory: int, name: str) -> None:
    """Write a byte to the open file ``name`` of an open directory, if it is empty, so that it can be removed for good.

    rclone makes a file that was never written to when it hears of the end: after it was removed. One that has got
    another name meanwhile, though that is not noted yet, is left as it is.
    """
    with contextlib.suppress(OSError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not os.fstat(fd).st_size:
            os.pwrite(fd, b"\0", 0)


def rename_over(directory: int, name: str, to_directory: int, to_name: str, trusted: bool = False) -> None:
    """Rename a file, over another if there is one, and see to it that it keeps its modification time. Raises OSError.

    encfs keeps the seconds of it.

    ``trusted``: the filesystem is known.
    """
    if trusted or not is_anybodys(to_directory):
        os.replace(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory)
        return
    before = os.stat(name, dir_fd=directory, follow_symlinks=False)
    os.replace(name, to_name, src_dir_fd=directory, dst_dir_fd=to_directory)
    now = os.stat(to_name, dir_fd=to_directory, follow_symlinks=False)
    if now.st_mtime_ns != before.st_mtime_ns:
        with contextlib.suppress(OSError):  # where times cannot be set, that was told
            times = now.st_atime_ns, before.st_mtime_ns
            os.utime(to_name, ns=times, dir_fd=to_directory, follow_symlinks=False)
