"""Short questions about files by their paths: how large, whether sparse, which, and what is done to them for a move.

A path may begin with ``~``. What is not there is no error but an answer, except where something is to be done
(:func:`flush`).
"""

import contextlib
import os
from typing import List, NamedTuple, Optional, Sequence

from ..errors import error_path
from ..files.beneath import Sources, look_at
from ..files.claims import allocated
from ..files.flags import why_refused
from ..files.status import home
from ..files.syscalls import flush_filesystem
from ..tree import remove as remove_tree
from .mounts import is_below, mounts


class Sizes(NamedTuple):
    """The apparent and the allocated size of each file in bytes, None for a missing one."""

    found: List[Optional[List[int]]]


def sizes(paths: Sequence[str]) -> Sizes:
    """Return the sizes of files, not following symlinks."""
    found: List[Optional[List[int]]] = []
    for path in paths:
        try:
            st = os.lstat(home(path))
            found.append([st.st_size, allocated(st)])
        except OSError:
            found.append(None)
    return Sizes(found)


class AreSparse(NamedTuple):
    """Whether each file has a hole or reserved ranges."""

    found: List[bool]


def sparse(paths: Sequence[str]) -> AreSparse:
    """Return which files are sparse, not following symlinks. Reads no content."""
    with Sources(listed=True) as sources:
        files = [(home(path), os.path.basename(path)) for path in paths]
        return AreSparse([looked is not None for looked in look_at(files, sources, "auto", False)])


class Forbidden(NamedTuple):
    """Why each path must not be written to, None where nothing says so."""

    reasons: List[Optional[str]]


def forbidden(paths: Sequence[str]) -> Forbidden:
    """Return which paths are immutable or append-only, or are to be made in such a directory."""
    return Forbidden([why_refused(home(path)) for path in paths])


class Identity(NamedTuple):
    """[device, inode] of a file, zeros if it is missing."""

    numbers: List[int]


def identity(path: str) -> Identity:
    """Return the identity of ``path``, following a symlink only if ``path`` ends with "/", "/." or "/.."."""
    try:
        st = os.stat(path) if path.endswith("/") or os.path.basename(path) in (".", "..") else os.lstat(path)
    except OSError:
        return Identity([0, 0])
    return Identity([st.st_dev, st.st_ino])


class Flushed(NamedTuple):
    """The mount points, or the directory, whose filesystems were flushed."""

    paths: List[str]


def flush(path: str) -> Flushed:
    """Flush all filesystems at and below a directory to the disk.

    Raises OSError, with the path, if something could not be written.
    """
    top = os.path.realpath(home(path))
    below = {mount.point for mount in mounts().values() if mount.point != top and is_below(mount.point, top)}
    paths = [top, *sorted(below)]
    for each in paths:
        with error_path(each, instead=True):
            fd = os.open(each, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                flush_filesystem(fd)
            finally:
                os.close(fd)
    return Flushed(paths)


class Entry(NamedTuple):
    """What is at a path. Zeros and empty lists if it is missing.

    ``kind``: its mode, not following a symlink.
    ``target``: its mode, or 0 if it is a symlink that leads nowhere.
    ``size``, ``mtime``: as ``kind``; mtime in seconds.
    ``within``: [device, inode] of it, and of each directory above, which is there for a missing path too.
    ``names``: its absolute path, as written and without symlinks.
    """

    kind: int
    target: int
    size: int
    mtime: int
    within: List[List[int]]
    names: List[str]


def entry(path: str) -> Entry:
    """Return what is at ``path``. Raises OSError if that cannot be known."""
    path = home(path)
    above = real = os.path.realpath(path)
    within: List[List[int]] = []
    while True:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            st = os.stat(above)
            within.append([st.st_dev, st.st_ino])
        if above == os.path.dirname(above):
            break
        above = os.path.dirname(above)
    names = [os.path.abspath(path), real]
    try:
        st = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entry(0, 0, 0, 0, within, names)
    try:
        target = os.stat(path).st_mode
    except OSError:
        target = 0
    return Entry(st.st_mode, target, st.st_size, int(st.st_mtime), within, names)


class Made(NamedTuple):
    """The directory that is there now."""

    path: str


def make_directory(path: str, exist_ok: bool) -> Made:
    """Make a directory and what is missing above it. ``exist_ok``: it may be there. Raises OSError."""
    os.makedirs(home(path), exist_ok=exist_ok)
    return Made(path)


def totals(path: str) -> remove_tree.Totals:
    """Return how much is at and below ``path``, and when something has changed for the last time. Raises OSError."""
    return remove_tree.totals(home(path))


class Removed(NamedTuple):
    """Some of the paths that are still there, if any."""

    left: List[str]


def remove(path: str, latest: int) -> Removed:
    """Remove a tree, but for what has changed after ``latest``, in nanoseconds. Raises OSError."""
    return Removed(remove_tree.remove_unchanged(home(path), latest))
