"""Where a path leads that must not lead out of a directory.

A path is opened, with O_PATH and so without touching what is there, and every symlink on the way has to stay below the
root: the kernel sees to it with openat2(2), RESOLVE_BENEATH, where it has that (Linux 5.6). Elsewhere the path is
walked one component at a time, each looked up in the descriptor of the one before.

That says where a path leads now. That it leads nowhere else a moment later is for :mod:`walls` to see to.
"""

from __future__ import annotations

import ctypes
import errno
import fnmatch
import os
import stat
import struct
from collections.abc import Iterator

_OPENAT2 = 437
_BENEATH = 0x08
_NO_MAGICLINKS = 0x02
_HOW = struct.Struct("=QQQ")
_FLAGS = os.O_PATH | os.O_CLOEXEC

_MAX_SYMLINKS = 40
"""Symlinks in one path, as the kernel counts them: path_resolution(7)."""

_MAX_ATTEMPTS = 32
"""How often the kernel may say that something was renamed meanwhile."""


class OutsideError(OSError):
    """A path that is refused. ``path``: as the client gave it."""

    def __init__(self, path: str, why: str = "is outside of the directory that this key is for") -> None:
        super().__init__(errno.EACCES, why, path)


class LeadsOutError(OutsideError):
    """A path that the engine is about to use, and that leads out. What a directory does not permit is another error."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.errno: int = errno.EXDEV


class Root:
    """A directory that paths are not to lead out of. ``path``: without symlinks. ``fd``: its descriptor."""

    def __init__(self, directory: str, kernel: bool = True) -> None:
        self.path: str = os.path.realpath(directory)
        self.fd: int = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._kernel = kernel
        if kernel:
            try:
                os.close(self._open(".", _FLAGS))
            except OSError:  # it is older, or a filter of system calls does not know it
                self._kernel = False

    def relative(self, path: str) -> str:
        """Return a client's path as one that is relative to the root. Raises OutsideError for one with "..".

        A leading slash is the root, and so is a leading tilde, which would be the home of whoever logs in.
        """
        below = path[1:] if path == "~" or path.startswith("~/") else path
        below = below.lstrip("/")
        if ".." in below.split("/"):
            raise OutsideError(path)
        # It is a name by now, and no home.
        return f"./{below}" if below.startswith("~") else below or "."

    def within(self, path: str) -> str:
        """Return a client's path as :meth:`relative`, once it is known to lead to a place below the root.

        It may be missing: then what is above it counts. Raises OutsideError, also for a device, and OSError.
        """
        below = ahead = self.relative(path)
        while True:
            try:
                fd = self.open(ahead)
            except OutsideError:
                raise OutsideError(path) from None
            except (FileNotFoundError, NotADirectoryError):
                if ahead == ".":
                    raise
                ahead = os.path.dirname(ahead.rstrip("/")) or "."
                continue
            try:
                mode = os.fstat(fd).st_mode
            finally:
                os.close(fd)
            if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
                raise OutsideError(path, "is a device, which is none of the directory that this key is for")
            return below

    def open(self, path: str, flags: int = _FLAGS, mode: int = 0) -> int:
        """Open a path that is relative to the root, and return a descriptor.

        ``flags``, ``mode``: as of open(2). A file that is made is given by its name in a directory that is there.

        Raises OSError, LeadsOutError if it leads out of the root.
        """
        try:
            return self._open(path, flags, mode) if self._kernel else self._walk(path, flags, mode)
        except OSError as error:
            # EXDEV: it leads out. ELOOP: by way of too many symlinks, or of one of the kernel's own.
            if error.errno == errno.EXDEV or (error.errno == errno.ELOOP and not flags & os.O_NOFOLLOW):
                raise LeadsOutError(path) from None
            error.filename = path
            raise

    def _open(self, path: str, flags: int, mode: int = 0) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        how = _HOW.pack(flags, mode if flags & os.O_CREAT else 0, _BENEATH | _NO_MAGICLINKS)
        name = os.fsencode(path)
        code = errno.EAGAIN
        for _ in range(_MAX_ATTEMPTS):
            fd: int = libc.syscall(_OPENAT2, self.fd, name, how, ctypes.c_size_t(len(how)))
            if fd >= 0:
                return fd
            code = ctypes.get_errno()
            if code not in (errno.EAGAIN, errno.EINTR):
                break
        raise OSError(code, os.strerror(code), path)

    def _walk(self, path: str, flags: int, mode: int) -> int:
        reached = [os.dup(self.fd)]
        rest = path.split("/")[::-1]
        left = _MAX_SYMLINKS
        try:
            while rest:
                part = rest.pop()
                if part == "..":
                    os.close(reached.pop())
                    if not reached:
                        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                if part in ("", ".", ".."):
                    continue
                target = _target(part, reached[-1])
                if not rest and (target is None or flags & os.O_NOFOLLOW):
                    return os.open(part, flags | os.O_NOFOLLOW, mode, dir_fd=reached[-1])
                if target is None:
                    reached.append(os.open(part, _FLAGS | os.O_NOFOLLOW, dir_fd=reached[-1]))
                    continue
                left -= 1
                if target.startswith("/") or not left:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                rest += target.split("/")[::-1]
            # A symlink that has been put there meanwhile is no directory, and nothing is found in it.
            return os.open(".", flags & ~os.O_NOFOLLOW, dir_fd=reached[-1])
        finally:
            for fd in reached:
                os.close(fd)

    def matching(self, pattern: str) -> Iterator[str]:
        """Yield the paths below the root, relative to it, that a shell's pattern matches, in order; it may be none."""
        yield from self._matching("", [part for part in pattern.split("/") if part not in ("", ".")])

    def _matching(self, above: str, parts: list[str]) -> Iterator[str]:
        if not parts:
            yield above
            return
        first, *rest = parts
        try:
            fd = self.open(above or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            names = sorted(os.listdir(fd))
        finally:
            os.close(fd)
        hidden = first.startswith(".")
        for name in names:
            if (hidden or not name.startswith(".")) and fnmatch.fnmatchcase(name, first):
                yield from self._matching(f"{above}/{name}" if above else name, rest)


def _target(name: str, directory: int) -> str | None:
    """Return where a symlink leads, or None if it is none, or nothing is there."""
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError:
        return None
