"""The calls of this process that take a path keep below the root.

Landlock has no say in what only looks at a file: a stat, a link's target, the free space. So from :func:`build` on, the
functions of :mod:`os` that take a path have one. What opens, looks or makes a directory goes through
:meth:`.beneath.Root.open`, in one system call, so that nobody can put a symlink in between; any other with a path of
its own is refused. What is relative to an open directory passes, since the engine follows no symlink there; so does
what the engine asks of its own accord, below /proc and /sys.

The engine walks some paths by their components, and follows a symlink of its own user. So "/" is the root, as after a
chroot(2), and ".." of an open directory is refused.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Union

from .beneath import LeadsOutError, Root

_Path = Union[str, bytes, int, "os.PathLike[str]"]

_OWN = ("/proc/", "/sys/module/")
_OWN_WHOLE = ("/proc", os.devnull)
"""What the engine names itself."""

_LOOK = os.O_PATH | os.O_CLOEXEC

_REFUSED = (
    "access", "chdir", "chmod", "chown", "getxattr", "lchown", "link", "listdir", "listxattr", "mkfifo", "mknod",
    "pathconf", "remove", "removexattr", "rename", "replace", "rmdir", "scandir", "setxattr", "symlink", "truncate",
    "unlink", "utime",
)  # fmt: skip
"""What has no need of a path that is not relative to an open directory."""


def build(root: Root) -> None:
    """Replace the functions of :mod:`os`, for good."""
    do_open, do_stat, do_readlink, do_mkdir, do_statvfs = os.open, os.stat, os.readlink, os.mkdir, os.statvfs
    do_realpath = os.path.realpath

    def open(path: _Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == "..":
            raise LeadsOutError("..")
        below = _below(root, path, dir_fd)
        if below is None:
            return do_open(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]  # a number is no path
        return root.open(below, flags, mode)

    def stat(path: _Path, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        below = _below(root, path, dir_fd)
        if below is None:
            return do_stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        found: os.stat_result = _at(root, below, os.fstat, follow_symlinks)
        return found

    def lstat(path: _Path, *, dir_fd: int | None = None) -> os.stat_result:
        return stat(path, dir_fd=dir_fd, follow_symlinks=False)

    def readlink(path: Any, *, dir_fd: int | None = None) -> Any:
        below = _below(root, path, dir_fd)
        if below is None:
            return do_readlink(path, dir_fd=dir_fd)
        return _at(root, below, lambda fd: do_readlink("", dir_fd=fd), False)

    def statvfs(path: Any) -> os.statvfs_result:
        below = _below(root, path, None)
        return do_statvfs(path) if below is None else _at(root, below, do_statvfs, True)

    def mkdir(path: Any, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        below = _below(root, path, dir_fd)
        if below is None:
            do_mkdir(path, mode, dir_fd=dir_fd)
            return
        above, _, name = below.rstrip("/").rpartition("/")
        _at(root, above or ".", lambda fd: do_mkdir(name, mode, dir_fd=fd), True)

    def realpath(path: Any, **options: Any) -> Any:
        # What begins at the machine's "/" is made relative.
        below = _below(root, do_realpath(path, **options), None)
        return path if below is None else os.path.join(os.curdir, below)

    os.path.realpath = realpath  # type: ignore[assignment]  # the engine gives no bytes
    for function in (open, stat, lstat, readlink, statvfs, mkdir):
        _replace(function.__name__, function)
    for name in _REFUSED:
        _replace(name, _only_relative(getattr(os, name)))


def _replace(name: str, function: Callable[..., Any]) -> None:
    for able in (os.supports_fd, os.supports_dir_fd, os.supports_follow_symlinks, os.supports_effective_ids):
        if getattr(os, name) in able:
            able.add(function)
    setattr(os, name, function)


def _below(root: Root, path: Any, dir_fd: int | None) -> str | None:
    """Return a path that is to be looked up below the root, relative to it, or None for any other that may be used."""
    if dir_fd is not None or isinstance(path, int):
        return None
    text = os.fsdecode(path)
    if text in _OWN_WHOLE or text.startswith(_OWN):
        return None
    top = os.path.join(root.path, "")
    if text == root.path or text.startswith(top):
        text = text[len(top) :]
    return text.lstrip("/") or "."


def _at(root: Root, path: str, call: Callable[[int], Any], follow: bool) -> Any:
    """Return what ``call`` returns for the descriptor of what is at a path."""
    fd = root.open(path, _LOOK if follow else _LOOK | os.O_NOFOLLOW)
    try:
        return call(fd)
    finally:
        os.close(fd)


def _only_relative(function: Callable[..., Any]) -> Callable[..., Any]:
    def relative(path: Any, *rest: Any, **given: Any) -> Any:
        both = given.get("src_dir_fd") is not None and given.get("dst_dir_fd") is not None
        if not isinstance(path, int) and given.get("dir_fd") is None and not both:
            text = os.fsdecode(path)
            if text not in _OWN_WHOLE and not text.startswith(_OWN):
                raise LeadsOutError(text)
        return function(path, *rest, **given)

    return relative
