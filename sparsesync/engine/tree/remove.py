"""Remove a tree whose copy is proved, and nothing that has come or changed since.

Whatever is done to a file sets its time of change, which no program can choose: inode(7). So one time says what a copy
may lack: the latest time of change of the whole tree, taken before the copy begins (:func:`totals`). What is
later than that is left where it is (:func:`remove_unchanged`). A directory is only removed if it is empty then.

A tree is walked by descriptors, so that a symlink that takes a directory's place leads nowhere. One is open for each
level, which limits the depth. The limit is met before anything is copied, let alone removed.
"""

import errno
import os
import stat
from typing import Dict, Iterator, List, NamedTuple, Tuple

from ..errors import error_path

_MAX_DEPTH = 400
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_TOLD = 20


class _Entry(NamedTuple):
    """``name`` in the open directory ``parent``, as it was when it was come to."""

    parent: int
    name: str
    path: str
    st: os.stat_result


class Totals(NamedTuple):
    """A tree in numbers, which two copies have in common but for the first.

    ``changed``: the latest time of change, in nanoseconds.
    ``entries``: how many files, directories and others there are.
    ``size``: bytes of all that is no directory.
    """

    changed: int
    entries: int
    size: int


def totals(path: str) -> Totals:
    """Return the numbers of ``path`` and of all below it. Raises OSError."""
    changed = entries = size = 0
    for entry in _walk(path):
        changed = max(changed, entry.st.st_ctime_ns)
        entries += 1
        size += 0 if stat.S_ISDIR(entry.st.st_mode) else entry.st.st_size
    return Totals(changed, entries, size)


def remove_unchanged(path: str, latest: int) -> List[str]:
    """Remove ``path`` and all below it, but for what has changed after ``latest``. Returns paths that were left.

    If something has changed already, nothing is removed. Only the first paths are returned.

    Raises OSError.
    """
    left = []  # type: List[str]
    for entry in _walk(path):
        if entry.st.st_ctime_ns > latest and len(left) < _MAX_TOLD:
            left.append(entry.path)
    if left:
        return left
    links = {}  # type: Dict[Tuple[int, int], int]
    for entry in _walk(path):
        changed = entry.st.st_ctime_ns
        # Removing another name of the file was a change of it, too.
        if changed > latest and changed != links.get((entry.st.st_dev, entry.st.st_ino)):
            stays = True
        else:
            with error_path(entry.path, instead=True):
                stays = not _remove(entry, links)
        if stays and len(left) < _MAX_TOLD:
            left.append(entry.path)
    return left


def _remove(entry: _Entry, links: Dict[Tuple[int, int], int]) -> bool:
    """Return whether it is gone: a directory is not if something is in it."""
    if stat.S_ISDIR(entry.st.st_mode):
        try:
            os.rmdir(entry.name, dir_fd=entry.parent)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
    elif entry.st.st_nlink == 1:
        os.unlink(entry.name, dir_fd=entry.parent)
    else:
        fd = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.parent)
        try:
            os.unlink(entry.name, dir_fd=entry.parent)
            links[entry.st.st_dev, entry.st.st_ino] = os.fstat(fd).st_ctime_ns
        finally:
            os.close(fd)
    return True


def _walk(path: str) -> Iterator[_Entry]:
    """Yield a directory after what is in it. Raises OSError."""
    above, name = os.path.split(path.rstrip("/"))
    if name in ("", ".", ".."):
        raise OSError(errno.EINVAL, "a directory without a name of its own cannot be moved", path)
    parent = os.open(above or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for entry in _below(parent, name, path.rstrip("/"), 0):
            yield entry
    finally:
        os.close(parent)


def _below(parent: int, name: str, path: str, depth: int) -> Iterator[_Entry]:
    with error_path(path, instead=True):
        st = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(st.st_mode):
            yield _Entry(parent, name, path, st)
            return
        if depth == _MAX_DEPTH:
            raise OSError(errno.ENAMETOOLONG, "the tree is too deep to be moved", path)
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        st = os.fstat(fd)
        for each in os.listdir(fd):
            for entry in _below(fd, each, os.path.join(path, each), depth + 1):
                yield entry
    finally:
        os.close(fd)
    yield _Entry(parent, name, path, st)
