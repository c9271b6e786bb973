"""Examples of what a tree has, and another filesystem may not take.

Of each kind the extremes are kept, or one for each value, so that there are few however large the tree is. What they
take together is limited, too, since they travel in one frame.

The kinds, and what the other fields have::

    name        ``name``                                  each odd character of ASCII, one of each 256 others, the
                                                          longest, what DOS has a meaning for
    pair        ``name`` and ``value``, in one directory  equal but for case or Unicode's normal forms
    type        ``type``; a link's target, a device's number, how many names a file has beyond a few
    mode        ``type``, ``number``
    owner       ``number``                                each, and the largest; the largest of symlinks
    group       ``number``                                the same
    time        ``type``, ``number`` in nanoseconds       the first, the last, and an odd second; a directory's and a
                                                          symlink's
    xattr       ``type``, ``name``, ``value``             each name
    xattr size  ``number``, in bytes; ``value``           the most that one file has, the largest
    acl         ``type``, ``name``, ``value``             the longest
    flag        ``name``, ``number`` of the files         those of chattr(1) that change what a file can do

Values of attributes are in hexadecimal. An "xattr size" is a sum, and its value the numbers that it is of, one for
each attribute, with commas between them.
"""

import errno
import os
import re
import stat
import unicodedata
from typing import Dict, List, NamedTuple, Set, Tuple

from ...files import flags

_MAX_EACH = 256
"""How many of a kind are kept at the most."""

_MAX_CHARACTERS = 1 << 18
"""How much text the examples have together at the most."""

_MAX_VALUE_BYTES = 4096
_MAX_PAIRS = 200
_FEW_LINKS = 1000
"""All filesystems that have hard links have so many for a file."""

_MAX_OWNED = 1 << 16

_PLAIN = re.compile(r"[A-Za-z0-9._+=@~-]*[A-Za-z0-9_+=@~-]\Z").match
_ASCII = re.compile(r"[\x00-\x7f]*\Z").match
_LOWER = re.compile(r"[\x00-@\[-\x7f]*\Z").match
_DOS_DEVICES = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9])(?:\..*)?\Z", re.IGNORECASE).match
"""Names that Windows has a meaning for, and its filesystems may refuse: "Naming Files, Paths, and Namespaces"."""


class Example(NamedTuple):
    """An example, and the ``path`` at which it was found."""

    kind: str
    type: str
    name: str
    value: str
    number: int
    path: str


def folded(name: str) -> str:
    """Return a name as a filesystem compares it that knows neither case nor Unicode's normal forms."""
    if _LOWER(name):
        return name
    if _ASCII(name):
        return name.lower()
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


class Collector:
    """The examples of a tree."""

    def __init__(self) -> None:
        self._first: Dict[Tuple[str, str], Example] = {}
        self._extremes: Dict[str, Tuple[int, Example]] = {}
        self._pairs: List[Example] = []
        self._counts: Dict[str, int] = {}
        self._flags: Dict[str, Tuple[int, str]] = {}
        self._owned: Set[Tuple[int, int, int]] = set()
        self._first_time, self._last_time, self._odd_second = 1 << 96, -1 << 96, False
        self._without_xattrs: Set[int] = set()
        self._without_flags: Set[int] = set()

    def result(self) -> List[Example]:
        """Return the examples: as many as travel."""
        found = list(dict.fromkeys(example for _, example in self._extremes.values()))
        found += self._first.values()
        found += self._pairs
        found += [Example("flag", "", flag, "", count, path) for flag, (count, path) in self._flags.items()]
        room = _MAX_CHARACTERS
        kept = []
        for example in found:
            room -= sum(len(ascii(part)) for part in example)
            if room >= 0:
                kept.append(example)
        return kept

    def pair(self, one: str, other: str) -> None:
        """Note two paths in one directory that are equal once they are folded."""
        if len(self._pairs) < _MAX_PAIRS:
            self._pairs.append(Example("pair", "", os.path.basename(one), os.path.basename(other), 0, one))

    def look(self, path: str, name: str, st: os.stat_result) -> None:
        """Note what is found at a path. ``name``: its last part, "" for a source itself, which may be renamed."""
        if name:
            self._name(path, name)
        # Nearly all files are like one that was seen, and this is done for each.
        owned = (st.st_mode, st.st_uid, st.st_gid)
        if owned not in self._owned and len(self._owned) < _MAX_OWNED:
            self._owned.add(owned)
            self._owner(path, st)
        time = st.st_mtime_ns
        if not self._first_time <= time <= self._last_time or not self._odd_second:
            self._time(path, time)
        kind = stat.S_IFMT(st.st_mode)
        if kind == stat.S_IFREG:
            if st.st_nlink > 1:
                self._links(path, st.st_nlink)
        elif kind != stat.S_IFDIR:
            self._type(path, stat.filemode(st.st_mode)[0], st)
        if st.st_dev not in self._without_xattrs:
            self._xattrs(path, st)
        if st.st_dev not in self._without_flags and kind in (stat.S_IFREG, stat.S_IFDIR):
            self._inode_flags(path, st.st_dev)

    def _owner(self, path: str, st: os.stat_result) -> None:
        type = stat.filemode(st.st_mode)[0]
        if type != "l":
            mode = stat.S_IMODE(st.st_mode)
            type = "d" if type == "d" else "-"
            self._once("mode", "{}{:o}".format(type, mode), path, type, number=mode)
        for kind, number in (("owner", st.st_uid), ("group", st.st_gid)):
            # What an owner is to a symlink some mounts make the owner of what it leads to.
            if type == "l" or not self._once(kind, str(number), path, "-", number=number):
                self._most(kind + type, number, Example(kind, type, "", "", number, path))
        if type in "dl":
            self._once("time", type, path, type, number=st.st_mtime_ns)

    def _once(
        self, kind: str, key: str, path: str, type: str = "", name: str = "", value: str = "", number: int = 0
    ) -> bool:
        """Keep an example if it is the first with its key. Return whether there is one."""
        if (kind, key) in self._first:
            return True
        counted = kind if _ASCII(key) else kind + " beyond ASCII"
        if self._counts.get(counted, 0) >= _MAX_EACH:
            return False
        self._counts[counted] = self._counts.get(counted, 0) + 1
        self._first[kind, key] = Example(kind, type, name, value, number, path)
        return True

    def _most(self, key: str, rank: int, example: Example) -> None:
        if key not in self._extremes or rank > self._extremes[key][0]:
            self._extremes[key] = rank, example

    def _name(self, path: str, name: str) -> None:
        length = len(name)
        if length > 60:
            example = Example("name", "", name, "", 0, path)
            self._most("characters", length, example)
            self._most("bytes", len(os.fsencode(name)), example)
        if _PLAIN(name) and not _DOS_DEVICES(name):
            return
        if _DOS_DEVICES(name):
            self._once("name", name.partition(".")[0].lower(), path, name=name)
        if name[-1] in " .":
            self._once("name", name[-1] + "\n", path, name=name)
        for character in set(name):
            if not _PLAIN(character) and character not in ".":
                # What is refused of the others is an encoding's, or a part of Unicode.
                alike = character if _ASCII(character) else chr(ord(character) & ~0xFF | 0x80)
                self._once("name", alike, path, name=name)

    def _time(self, path: str, time: int) -> None:
        example = Example("time", "-", "", "", time, path)
        if time < self._first_time:
            self._first_time = time
            self._extremes["first"] = 0, example
        if time > self._last_time:
            self._last_time = time
            self._extremes["last"] = 0, example
        if time // 10**9 % 2 and not self._odd_second:
            self._odd_second = True
            self._extremes["odd"] = 0, example

    def _links(self, path: str, count: int) -> None:
        self._most("links", count, Example("type", "h", "", "", count if count > _FEW_LINKS else 0, path))

    def _type(self, path: str, kind: str, st: os.stat_result) -> None:
        if st.st_nlink > 1:
            self._links(path, st.st_nlink)
        if kind == "l":
            if "link" not in self._extremes or st.st_size > self._extremes["link"][0]:
                try:
                    self._most("link", st.st_size, Example("type", "l", os.readlink(path), "", 0, path))
                except OSError:
                    pass  # it has gone
        else:
            number = st.st_rdev if kind in "bc" else 0
            self._once("type", kind + str(bool(number)), path, kind, number=number)

    def _xattrs(self, path: str, st: os.stat_result) -> None:
        try:
            names = os.listxattr(path, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOSYS):
                self._without_xattrs.add(st.st_dev)
            return
        if names:
            self._each_xattr(path, stat.filemode(st.st_mode)[0], names)

    def _each_xattr(self, path: str, kind: str, names: List[str]) -> None:
        sizes: List[int] = []
        for name in names:
            acl = name.startswith("system.posix_acl_")
            large = name.startswith(("user.", "trusted."))
            if not acl and not large and ("xattr", name) in self._first:
                continue
            try:
                value = os.getxattr(path, name, follow_symlinks=False)
            except OSError:
                continue  # it has gone, or is not for us to read, nor for rsync
            sizes.append(len(name) + len(value))
            example = Example("acl" if acl else "xattr", kind, name, value[:_MAX_VALUE_BYTES].hex(), len(value), path)
            if acl:
                self._most(name, len(value), example)
            elif not name.startswith("system."):
                self._once("xattr", name, path, kind, name, example.value, len(value))
        if sum(sizes) > 1024:
            example = Example("xattr size", "", "", ",".join(map(str, sizes)), sum(sizes), path)
            self._most("xattrs", example.number, example)
            self._most("xattr", max(sizes), example)

    def _inode_flags(self, path: str, device: int) -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            found = flags.names(fd)
        finally:
            os.close(fd)
        if found is None:
            self._without_flags.add(device)
        for flag in found or ():
            count, first = self._flags.get(flag, (0, path))
            self._flags[flag] = count + 1, first
