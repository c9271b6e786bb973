"""What can go wrong, by name, and the two callbacks by which a caller hears of an operation before it ends.

An error of the system stays an OSError, with the path that is to blame (:func:`error_path`). The exceptions here are
what the system has no number for, or what a caller has to tell from the rest::

    NoSpaceError    OSError    the data cannot fit, and nothing has been written
    TruncatedError  OSError    a source became shorter while it was read
    LinkError                  the other end cannot be reached, is gone or silent
      LoginError               the remote shell could not log in
      ProtocolError            the other end sent something that no engine sends
    LeftToRsync                one file of a transfer is left to rsync

Nothing of the package is imported here, so that all of it may import this.
"""

import contextlib
import errno
from typing import Callable, Iterator, Optional

OnError = Optional[Callable[[OSError], None]]
"""Gets each error that an operation goes on after; None: it is raised, and the operation ends."""

OnProgress = Optional[Callable[[int], object]]
"""Gets the bytes done since its last call."""


class NoSpaceError(OSError):
    """Not enough room at the destination. ``needed`` and ``free`` are bytes."""

    def __init__(self, needed: int, free: int, path: str) -> None:
        super().__init__(
            errno.ENOSPC, "No space left on device: {} bytes are needed, {} are free".format(needed, free), path
        )
        self.needed = needed
        self.free = free


class TruncatedError(OSError):
    """A file that became shorter while it was read."""

    def __init__(self, path: Optional[str] = None) -> None:
        super().__init__(errno.ESTALE, "the file was truncated while it was read", path)


class LinkError(RuntimeError):
    """A peer that cannot be reached, is gone or is silent. The message says which, in one line."""


class LoginError(LinkError):
    """A remote shell that could not log in. The shell itself has printed why."""


class ProtocolError(LinkError):
    """A frame or value that no engine sends. The message says what, in one line."""


class LeftToRsync(Exception):
    """A file that is left to rsync. The message says why."""


@contextlib.contextmanager
def error_path(path: str, instead: bool = False) -> Iterator[None]:
    """Name ``path`` in each OSError raised inside that names no path. ``instead``: replace any other path too."""
    try:
        yield
    except OSError as error:
        if error.filename is None or instead:
            error.filename, error.filename2 = path, None
        raise
