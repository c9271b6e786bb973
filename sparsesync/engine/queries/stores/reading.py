"""Files that a user may have put where a configuration is looked for, opened so that none of them does any harm."""

import errno
import os
import stat


def open_regular(path: str) -> int:
    """Open a regular file for reading, and return its descriptor.

    Nothing else is opened: a pipe would be waited for, and to open a device may set it going. What takes the file's
    place at that moment is closed again.

    Raises OSError.
    """
    if stat.S_ISREG(os.stat(path).st_mode):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
    raise OSError(errno.EINVAL, "not a regular file", path)


def is_path(text: str) -> bool:
    """Return whether a text that somebody has written is an absolute path that a file can have."""
    try:
        return b"\0" not in os.fsencode(text) and text.startswith("/")
    except UnicodeEncodeError:
        return False
