"""Short questions about files by their paths: how large, whether sparse, which, and to have them on the disk.

A path may begin with ``~``. What is not there is no error but an answer, except where something is to be done
(:func:`flush`).
"""

import os
from typing import List, NamedTuple, Optional, Sequence

from ..errors import error_path
from ..files.beneath import Sources, look_at
from ..files.claims import allocated
from ..files.flags import why_refused
from ..files.status import home
from ..files.syscalls import flush_filesystem
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
