"""Find the file that a new one is to be compared with, where rsync would: its basis.

For a name that is new at the destination rsync takes as the basis (rsync(1))

* with ``--compare-dest``, ``--copy-dest`` and ``--link-dest`` the regular file of that name below the first of the
  directories that has one;
* else, with ``--fuzzy``, a file of the same size and time in the new file's own directory, and if it was given twice,
  in the same directory below each of those; else the one whose name takes the least changing to become the new one
  (:func:`_changing`), of the names that are near it in alphabetical order.

A wrong choice costs time and never a byte, since the content decides what is taken over from a basis. So one that
cannot be opened is none. A basis is read and never written to. A symlink on the way to one of the directories has to
belong to root or to us, as in rsync. Below it none is followed: what an earlier run has put there may be the other
end's doing, and the digests of a basis are told to the other end.
"""

import bisect
import contextlib
import os
import stat
from typing import Dict, List, Optional, Sequence, Tuple

from ..files.beneath import open_beneath, open_trusted
from ..files.claims import allocated
from ..files.syscalls import clone

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_MAX_LISTED = 20000
"""Files of one directory among which a similar one is looked for."""

_MAX_KEPT = 8
"""Directories whose files are known at a time. The next files are asked for before one is opened."""

_NEIGHBOURS = 250
"""Names before and after the new one, in order, that are looked at for a similar one."""

_UNIT = 1 << 16
_FARTHEST = 25 * _UNIT
"""How many characters may be changed for a name to be similar, each a unit and, to decide between two, its value."""

_SUFFIX = 10
"""So many times what changing the suffix takes counts as well."""


def find_within(root: str, directories: Sequence[str]) -> Optional[str]:
    """Return the first of ``directories`` that is ``root`` or below it, where writing changes the basis."""
    top = os.path.realpath(root).rstrip("/") + "/"
    return next(
        (path for path in directories if (os.path.realpath(os.path.join(root, path)) + "/").startswith(top)), None
    )


class Bases:
    """The places of a basis for a new file below ``root``, an open directory, which the caller closes.

    ``directories``: their paths in order, relative to the root unless absolute.
    ``fuzzy``: how often ``--fuzzy`` was given.
    """

    def __init__(self, root: int, directories: Sequence[str] = (), fuzzy: int = 0) -> None:
        self._root = root
        self._directories: List[int] = []
        self._clones: Dict[int, bool] = {}
        for path in directories:
            with contextlib.suppress(OSError):  # rsync tells that it is not there
                self._directories.append(open_trusted(path, start=root))
        self._alike: List[int] = []
        if fuzzy:
            self._alike = [root] + (self._directories if fuzzy > 1 else [])
        self._listings: Dict[str, List[Tuple[int, _Listing]]] = {}

    def close(self) -> None:
        """Close the directories."""
        while self._directories:
            os.close(self._directories.pop())

    def may_have(self, name: str) -> bool:
        """Return whether :meth:`open` may find a basis. With ``--fuzzy`` that depends on the new file's size too."""
        found = self._named(name)
        if found is not None:
            os.close(found)
            return True
        return any(listing.names for _, listing in self._list(os.path.dirname(name)))

    def open(self, name: str, size: int, mtime_ns: int) -> Optional[int]:
        """Return a descriptor, for reading, of the basis of a new file of so many bytes, or None."""
        if not self._directories and not self._alike:
            return None
        found = self._named(name)
        return self._similar(name, size, mtime_ns) if found is None else found

    def shares(self, name: str) -> int:
        """Return the bytes that a new file may share with a basis of its name, 0 if that cannot be cloned."""
        found = self._named(name)
        if found is None:
            return 0
        try:
            st = os.fstat(found)
            if st.st_dev not in self._clones:
                self._clones[st.st_dev] = self._can_clone(found)
            return allocated(st) if self._clones[st.st_dev] else 0
        finally:
            os.close(found)

    def _can_clone(self, found: int) -> bool:
        """Return whether a file below the root can begin as a clone of an open one."""
        try:
            nameless = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._root)
        except OSError:
            return False  # then it counts as written, which is on the safe side
        try:
            return clone(found, nameless)
        except OSError:
            return False
        finally:
            os.close(nameless)

    def _named(self, name: str) -> Optional[int]:
        for directory in self._directories:
            found = _open_regular(directory, name)
            if found is not None:
                return found
        return None

    def _similar(self, name: str, size: int, mtime_ns: int) -> Optional[int]:
        parent, base = os.path.split(name)
        listings = self._list(parent)
        for directory, listing in listings:
            same = listing.equal.get((size, mtime_ns // 10**9))
            if same is not None:
                return _open_regular(directory, os.path.join(parent, same))
        best, found = _FARTHEST, None
        for directory, listing in listings:
            best, closest = listing.closest(base, best)
            if closest is not None:
                found = directory, os.path.join(parent, closest)
        return None if found is None else _open_regular(*found)

    def _list(self, parent: str) -> "List[Tuple[int, _Listing]]":
        """Return the entries of the directory ``parent`` below each directory in which any file may be the basis."""
        found = self._listings.pop(parent, None)
        if found is None:
            found = [(directory, _Listing(directory, parent)) for directory in self._alike]
            if len(self._listings) == _MAX_KEPT:
                del self._listings[next(iter(self._listings))]
        self._listings[parent] = found
        return found


class _Listing:
    """The regular files of the directory ``parent`` below another directory. ``names``: in order.

    ``equal``: one name for each size, in bytes, and time, in seconds, as rsync compares them.
    """

    def __init__(self, directory: int, parent: str) -> None:
        self.names: List[str] = []
        self.equal: Dict[Tuple[int, int], str] = {}
        with contextlib.suppress(OSError):
            holder = open_beneath(directory, parent)
            try:
                self._read(holder)
            finally:
                os.close(holder)
        self.names.sort()

    def _read(self, holder: int) -> None:
        for name in os.listdir(holder):
            with contextlib.suppress(FileNotFoundError):
                st = os.stat(name, dir_fd=holder, follow_symlinks=False)
                if stat.S_ISREG(st.st_mode) and st.st_size:
                    self.names.append(name)
                    self.equal.setdefault((st.st_size, st.st_mtime_ns // 10**9), name)
            if len(self.names) == _MAX_LISTED:
                return

    def closest(self, name: str, best: int) -> Tuple[int, Optional[str]]:
        """Return the smallest edit distance to ``name``, and the name that has it.

        If none is below ``best``, return ``best`` and None.
        """
        at = bisect.bisect(self.names, name)
        closest, wanted = None, os.fsencode(name)
        for other in self.names[max(0, at - _NEIGHBOURS) : at + _NEIGHBOURS]:
            theirs = os.fsencode(other)
            distance = _changing(theirs, wanted, best)
            if distance <= best:
                distance += _SUFFIX * _changing(_suffix(theirs), _suffix(wanted), best)
            if distance <= best:
                best, closest = distance, other
        return best, closest


def _changing(one: bytes, other: bytes, most: int) -> int:
    """Return the edit distance of two names, or a number above ``most`` if it is greater.

    An inserted or removed character counts one unit and, except at the beginning, its value. A replaced character
    counts one unit and the difference of the two values.
    """
    if abs(len(one) - len(other)) * _UNIT > most:
        return most + 1
    if not one or not other:
        return sum(_UNIT + character for character in one + other)
    while len(one) > 1 and len(other) > 1 and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    row = [_UNIT * length for length in range(len(other) + 1)]
    for a in one:
        above, row = row, [row[0] + _UNIT]
        for index, b in enumerate(other):
            swapped = above[index] + (_UNIT + abs(a - b) if a != b else 0)
            row.append(min(swapped, row[index] + _UNIT + b, above[index + 1] + _UNIT + a))
        if min(row) > most:
            return most + 1
    return row[-1]


def _suffix(name: bytes) -> bytes:
    """Return the suffix of a name, with its dot, or an empty one.

    A suffix that marks an old version does not count. One of digits counts only if there is no other.
    """
    old: Tuple[bytes, ...] = (b".bak", b".old", b".orig")
    if name.endswith(b"~"):
        name, old = name[:-1], ()
    last = b""
    while True:
        name, found = os.path.splitext(name)
        if not found:
            return last
        if found not in old:
            if not found[1:].isdigit():
                return found
            last = found


def _open_regular(directory: int, path: str) -> Optional[int]:
    """Return a descriptor of a regular file below a directory, or None if there is none that may be read."""
    parent, base = os.path.split(path)
    with contextlib.suppress(OSError):
        holder = open_beneath(directory, parent)
        try:
            st = os.stat(base, dir_fd=holder, follow_symlinks=False)
            if stat.S_ISREG(st.st_mode):  # to open a device may set something off
                fd = os.open(base, _READ, dir_fd=holder)
                if os.path.samestat(os.fstat(fd), st):
                    return fd
                os.close(fd)
        finally:
            os.close(holder)
    return None
