"""What can go wrong, by name, and the two callbacks by which a caller hears of an operation before it ends.

An error of the system stays an OSError, with the path that is to blame (:func:`error_path`). The exceptions here are
what the system has no number for, or what a caller has to tell from the rest::

    Error                              the base of what follows, and of what else is public
      NoSpaceError    OSError          the data cannot fit, and nothing has been written
      TruncatedError  OSError          a source became shorter while it was read
      LinkError       ConnectionError  the other end cannot be reached, is gone or silent
        LoginError                     the remote shell could not log in
        ProtocolError                  the other end sent something that no engine sends
    LeftToRsync                        one file of a transfer is left to rsync

A LinkError is an OSError for callers who know no other, as those of shutil. Within the package it is never that of a
file: what goes on after the error of a file catches LinkError first, and raises it again.

Nothing of the package is imported here, so that all of it may import this.
"""

import errno
from typing import Any, Callable, Dict, Optional, Tuple, Type

OnError = Optional[Callable[[OSError], None]]
"""Gets each error that an operation goes on after; None: it is raised, and the operation ends."""

OnProgress = Optional[Callable[[int], object]]
"""Gets the bytes done since its last call."""

_PACKAGE = __name__.partition(".")[0]


class Error(Exception):
    """The base of the exceptions that are sparsesync's own. All can be pickled and copied, with their attributes.

    ``args`` are what each is made of, for who knows only its class and them, as Celery. The class is to be found in the
    package: the modules are not public, and whoever gets an exception from another process may have imported none.
    """

    __module__ = _PACKAGE

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__module__.startswith(_PACKAGE + "."):
            cls.__module__ = _PACKAGE

    def __reduce__(self) -> Tuple[Any, ...]:
        # By default it would be made again from its message, which is not what it was made from.
        system = {name: getattr(self, name, None) for name in _SYSTEM}
        return _made_again, (type(self), self.args, system), vars(self)


_SYSTEM = ("errno", "strerror", "filename", "filename2")
"""What an OSError has besides its ``__dict__``."""


def _made_again(kind: Type[Error], args: Tuple[Any, ...], system: Dict[str, Any]) -> Error:
    error = kind.__new__(kind)
    error.args = args
    for name, value in system.items():
        if value is not None:
            setattr(error, name, value)
    return error


class NoSpaceError(Error, OSError):
    """Not enough room at the destination. ``needed`` and ``free`` are bytes."""

    def __init__(self, needed: int, free: int, path: str) -> None:
        super().__init__(
            errno.ENOSPC, "No space left on device: {} bytes are needed, {} are free".format(needed, free), path
        )
        self.args: Tuple[Any, ...] = (needed, free, path)
        self.needed = needed
        self.free = free


class TruncatedError(Error, OSError):
    """A file that became shorter while it was read."""

    def __init__(self, path: Optional[str] = None) -> None:
        super().__init__(errno.ESTALE, "the file was truncated while it was read", path)
        self.args: Tuple[Any, ...] = (path,)


class LinkError(Error, ConnectionError):
    """A peer that cannot be reached, is gone or is silent. The message says which, in one line.

    ``host``: the peer's name, which begins the message, or None.
    ``retryable``: whether the same call may succeed later. Otherwise somebody has to change something first.
    """

    _retryable = True

    def __init__(self, message: str, host: Optional[str] = None, retryable: Optional[bool] = None) -> None:
        super().__init__(message)
        self.host: Optional[str] = host
        self.retryable: bool = self._retryable if retryable is None else retryable
        self.args: Tuple[Any, ...] = (message, host, self.retryable)

    def __str__(self) -> str:
        return "{0}".format(self.args[0]) if self.host is None else "{}: {}".format(self.host, self.args[0])


class LoginError(LinkError):
    """A remote shell that could not log in. The shell itself has printed why."""


class ProtocolError(LinkError):
    """A frame or value that no engine sends. The message says what, in one line."""

    _retryable = False


class LeftToRsync(Exception):
    """A file that is left to rsync. The message says why."""


class error_path:  # it is used as a function is, and a generator would take four times as long
    """Name ``path`` in each OSError raised inside that names no path. ``instead``: replace any other path too.

    An error without a number, a LinkError among them, has its message and no place for a path.
    """

    __slots__ = ("_instead", "_path")

    def __init__(self, path: str, instead: bool = False) -> None:
        self._path = path
        self._instead = instead

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException], *traceback: object) -> None:
        if kind is None or not isinstance(error, OSError) or error.errno is None:
            return
        if error.filename is None or self._instead:
            error.filename = self._path
            # None would be a second path, and shown as one.
            del error.filename2
