"""Which files of a tree are in use by the running system, and by whom.

Four ways a file can change under a copy are looked for, all in /proc and /sys::

    loop      it backs a loop device                        /sys/block/loop*/loop/backing_file
    swap      it is swapped to                              /proc/swaps
    writing   a process has it open for writing             /proc/PID/fdinfo
    overlay   it is the upper layer of a mounted overlay    /proc/*/mountinfo

A process in a container has names of its own for the same files: "/data/x" for what is a volume to us. So files are
compared by their places (:mod:`mounts`), in all mount namespaces there are, and what is open by way of an overlay is
looked for in its upper layer. Only root sees the files of others. Not found is a file that is open under another hard
link's name, outside the sources.
"""

import fcntl
import os
import re
import stat
import struct
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from . import presets
from .mounts import FsLocation, Mount, inside, is_below, locate, mounts, namespace, namespaces
from .stores.roots import find_roots

_MAX_REPORTED_FILES = 4000
"""How many are told at the most."""

_LOOP_GET_STATUS64 = 0x4C05
_LOOP_INFO64 = struct.Struct("=QQQ")
"""struct loop_info64 begins with the device and the inode of the backing file: linux/loop.h, loop(4)."""


class InUse(NamedTuple):
    """A file in use: its ``path`` below a source, ``how``, by which ``holder``, and its number of hard ``links``."""

    path: str
    how: str
    holder: str
    links: int


class AllInUse(NamedTuple):
    """The files in use that were found, and the number of those that are not listed."""

    found: List[InUse]
    more: int


def in_use(sources: Sequence[str], places: Sequence[Sequence[str]] = ()) -> AllInUse:
    """Return the files in use at or below ``sources``, except those in ``places``, each an ExcludedPath."""
    found: List[InUse] = []
    more = 0
    skip = presets.left_out([presets.ExcludedPath(*each) for each in places])
    for each in _found(sources):
        if skip(each.path):
            continue
        if len(found) < _MAX_REPORTED_FILES:
            found.append(each)
        else:
            more += 1
    return AllInUse(found, more)


def _found(sources: Sequence[str]) -> Iterator[InUse]:
    everywhere = list(namespaces())
    trees = _Trees(sources, list(everywhere[0].values()))
    for each in _loops(trees, everywhere):
        yield each
    for path in presets.swap_files():
        for here in trees.spelled(path):
            yield InUse(here, "swap", "swap space", os.stat(here).st_nlink)
    told = set()
    for one in everywhere:
        for mount in one.values():
            upper = re.search(r"(?:^|,)upperdir=([^,]+)", mount.options) if mount.type == "overlay" else None
            for here in trees.upper(upper.group(1), one) if upper else ():
                if here not in trees.layers.setdefault(mount.device, []):
                    trees.layers[mount.device].append(here)
                if here not in told:
                    told.add(here)
                    yield InUse(here, "overlay", "the overlay at " + mount.point, 1)
    for each in _written(trees, everywhere[0]):
        yield each


class _Trees:
    """The sources, by their places.

    ``layers``: the upper directories of overlays as spelled from the sources, by the overlay's device.
    """

    def __init__(self, sources: Sequence[str], ours: Sequence[Mount]) -> None:
        self._ours = ours
        known = [(source, self._place(source)) for source in sources]
        self._sources = [(source, where) for source, where in known if where is not None]
        self.devices = {os.stat(source).st_dev for source, _ in self._sources}
        self.layers: Dict[str, List[str]] = {}
        self._tops: List[str] = []

    def _place(self, path: str) -> Optional[FsLocation]:
        real = os.path.realpath(path)
        return locate(real, self._ours) if os.path.exists(real) else None

    def may_hold(self, device: int) -> bool:
        """Return whether a file may be one of the sources', by its device; that of an overlay's file is not certain."""
        return device in self.devices or bool(self.layers)

    def spelled(self, path: str) -> Iterator[str]:
        """Yield a path of this machine as spelled from each source that contains it."""
        where = self._place(path)
        return self.at(where) if where else iter(())

    def upper(self, path: str, its: Dict[str, Mount]) -> Iterator[str]:
        """Yield the upper directory of an overlay, ``path`` in its mount's options, as spelled from each source."""
        if path.startswith("/"):
            where = locate(path, its.values())
            return self.at(where) if where else iter(())
        # From where it is relative is not told. Drivers do so from their own directories, to save bytes.
        if not self._tops:
            roots = [root for source, _ in self._sources for root in find_roots(source)]
            self._tops = [source for source, _ in self._sources]
            self._tops += [os.path.join(root.path, folder) for root in roots for folder in root.kind.layers]
        return filter(os.path.isdir, (os.path.join(top, path) for top in self._tops))

    def open_at(self, where: FsLocation) -> Iterator[str]:
        """Yield what is open for writing at a location, as spelled from each source.

        By way of an overlay that is a file of its upper layer, under the same name.
        """
        for here in self.at(where):
            yield here
        for upper in self.layers.get(where[0], ()):
            yield os.path.join(upper, where[1].lstrip("/"))

    def at(self, where: FsLocation) -> Iterator[str]:
        """Yield the file or directory at a location, as spelled from each source."""
        for source, (device, top) in self._sources:
            if where[0] == device and is_below(where[1], top):
                rest = where[1][len(top) :].lstrip("/")
                yield os.path.join(source, rest) if rest else source


def _loops(trees: _Trees, everywhere: Sequence[Dict[str, Mount]]) -> Iterator[InUse]:
    """Yield the files behind writable loop devices."""
    block = "/sys/block"
    for name in sorted(_listed(block)):
        path = _read(os.path.join(block, name, "loop/backing_file")) if name.startswith("loop") else ""
        if not path or _read(os.path.join(block, name, "ro")) == "1":
            continue
        device = "/dev/" + name
        points = [mount.point for one in everywhere for mount in one.values() if _is_of(mount.source, device)]
        users = ["mounted at " + point for point in dict.fromkeys(points)]
        for holder in _listed(os.path.join(block, name, "holders")):
            called = _read(os.path.join(block, holder, "dm/name"))
            users.append("held by " + (called or holder))
        known = _backing(device)
        # The path is a name in the namespace of whoever attached it, which is not told.
        places = [locate(path, one.values()) for one in everywhere]
        for here in dict.fromkeys(here for where in places if where for here in trees.at(where)):
            try:
                st = os.stat(here)
            except OSError:
                continue
            if known is None or known == (st.st_dev, st.st_ino):
                yield InUse(here, "loop", ", ".join([device] + users), st.st_nlink)


def _is_of(source: str, device: str) -> bool:
    return re.fullmatch(re.escape(device) + r"(?:p\d+)?", source) is not None


def _backing(device: str) -> Optional[Tuple[int, int]]:
    """(device, inode) of the file behind a loop device; None if that is not for us to know."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        info = fcntl.ioctl(fd, _LOOP_GET_STATUS64, bytes(512))
    except OSError:
        return None
    finally:
        os.close(fd)
    number, inode, _ = _LOOP_INFO64.unpack_from(info)
    # The kernel encodes the number as new_encode_dev() does: linux/kdev_t.h.
    major, minor = (number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00)
    return os.makedev(major, minor), inode


def _written(trees: _Trees, ours: Dict[str, Mount]) -> Iterator[InUse]:
    our_namespace = namespace("self")
    told = set()  # a process may have a file open many times
    for process in filter(str.isdigit, _listed("/proc")):
        if process == str(os.getpid()):
            continue  # our own output may go to a file there
        its: Optional[Dict[str, Mount]] = None
        for number in _listed("/proc/{}/fd".format(process)):
            fd = "/proc/{}/fd/{}".format(process, number)
            path = _link(fd)
            if not path.startswith("/"):
                continue
            try:
                st = os.stat(fd)
            except OSError:
                continue
            if not stat.S_ISREG(st.st_mode) or not st.st_nlink or not trees.may_hold(st.st_dev):
                continue
            about = _read("/proc/{}/fdinfo/{}".format(process, number)).splitlines()
            info = dict(line.split(":", 1) for line in about if ":" in line)
            if int(info.get("flags", "0"), 8) & os.O_ACCMODE == os.O_RDONLY:
                continue
            if its is None:
                its = ours if namespace(process) == our_namespace else mounts(process)
            mount = its.get(info.get("mnt_id", "").strip())
            if mount is None or not is_below(path, mount.point):
                continue
            links = st.st_nlink
            if path.endswith(_DELETED):
                # It has lost this name and still has another, which is not told.
                path, links = path[: -len(_DELETED)], links + 1
            for here in trees.open_at(inside(mount, path)):
                if (process, here) not in told:
                    told.add((process, here))
                    command = _read("/proc/{}/comm".format(process)) or "?"
                    yield InUse(here, "writing", "{} (process {})".format(command, process), links)


_DELETED = " (deleted)"
"""What the kernel adds to the name of a file that has lost it: proc_pid_fd(5)."""


def _listed(path: str) -> List[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read()).rstrip("\n")
    except OSError:
        return ""
