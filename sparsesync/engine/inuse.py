"""Which files of a tree are in use by the running system, and by whom.

Four ways a file can change under a copy are looked for, all in /proc and /sys::

    loop      it backs a loop device                        /sys/block/loop*/loop/backing_file
    swap      it is swapped to                              /proc/swaps
    writing   a process has it open for writing             /proc/PID/fdinfo
    overlay   it is the upper layer of a mounted overlay    /proc/self/mountinfo

A process in a container has names of its own for the same files: "/data/x" for what is a volume to us. So a file is
compared by where it is in its filesystem, which mountinfo (proc_pid_mountinfo(5)) tells on both sides: for a mount, its
device and the directory of that filesystem that is seen there. Only root sees the files of others.
"""

import os
import re
import stat
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .presets import swap_files

_MANY = 1000
"""How many are told at the most."""


class InUse(NamedTuple):
    """A file in use: its ``path`` as spelled from a source on, ``how``, by which ``holder``, and its hard ``links``."""

    path: str
    how: str
    holder: str
    links: int


class AllInUse(NamedTuple):
    """What was found, and how many more there are."""

    found: List[InUse]
    more: int


class _Mount(NamedTuple):
    device: str
    root: str
    point: str
    type: str
    source: str
    options: str


def in_use(sources: Sequence[str]) -> AllInUse:
    """The files in use at or below ``sources``."""
    found: List[InUse] = []
    more = 0
    for each in _found(sources):
        if len(found) < _MANY:
            found.append(each)
        else:
            more += 1
    return AllInUse(found, more)


def _found(sources: Sequence[str]) -> Iterator[InUse]:
    ours = _mounts("self")
    trees = _Trees(sources, list(ours.values()))
    for path, holder in _loop_files(list(ours.values())):
        for here in trees.spelled(path):
            yield InUse(here, "loop", holder, 1)
    for path in swap_files():
        for here in trees.spelled(path):
            yield InUse(here, "swap", "swap space", 1)
    for mount in ours.values():
        upper = re.search(r"(?:^|,)upperdir=([^,]+)", mount.options) if mount.type == "overlay" else None
        for here in trees.spelled(upper.group(1)) if upper else ():
            yield InUse(here, "overlay", "the overlay at " + mount.point, 1)
    for each in _written(trees, ours):
        yield each


class _Trees:
    """The sources, by where they are in their filesystems."""

    def __init__(self, sources: Sequence[str], mounts: Sequence[_Mount]) -> None:
        self._mounts = mounts
        self._sources = [(source, place) for source, place in ((s, self._place(s)) for s in sources) if place]
        self.devices = {os.stat(source).st_dev for source, _ in self._sources}

    def _place(self, path: str) -> Optional[Tuple[str, str]]:
        real = os.path.realpath(path)
        # Later mounts lie over earlier ones.
        on = [mount for mount in self._mounts if _is_below(real, mount.point)]
        if not on or not os.path.exists(real):
            return None
        longest = max(len(mount.point) for mount in on)
        mount = [mount for mount in on if len(mount.point) == longest][-1]
        return _inside(mount, real)

    def spelled(self, path: str) -> Iterator[str]:
        """A path of this machine as it is spelled from each source on that it is in."""
        place = self._place(path)
        if place:
            for name in self.at(place):
                yield name

    def at(self, place: Tuple[str, str]) -> Iterator[str]:
        device, inside = place
        for source, (of, top) in self._sources:
            if device == of and _is_below(inside, top):
                rest = inside[len(top) :].lstrip("/")
                yield os.path.join(source, rest) if rest else source


def _inside(mount: _Mount, path: str) -> Tuple[str, str]:
    """(the device, the path in the filesystem) of a path below a mount."""
    rest = path[len(mount.point) :].lstrip("/")
    return mount.device, os.path.normpath(os.path.join(mount.root, rest))


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(top if top.endswith("/") else top + "/")


def _mounts(process: str) -> Dict[str, _Mount]:
    """The mounts a process sees, by their ids."""
    mounts: Dict[str, _Mount] = {}
    try:
        with open("/proc/{}/mountinfo".format(process), "rb") as table:
            for line in table:
                fields = [_plain(field) for field in line.split()]
                rest = fields[fields.index("-") + 1 :] + ["", "", ""]
                mounts[fields[0]] = _Mount(fields[2], fields[3], fields[4], rest[0], rest[1], rest[2])
    except (OSError, ValueError):
        pass  # the process has ended, or is not ours to look at
    return mounts


def _plain(field: bytes) -> str:
    """A field as it was before the kernel escaped its blanks."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code.group(1), 8)]), field))


def _loop_files(mounts: Sequence[_Mount]) -> Iterator[Tuple[str, str]]:
    """(backing file, who uses it) of each loop device that may write."""
    block = "/sys/block"
    for name in sorted(_listed(block)):
        path = _read(os.path.join(block, name, "loop/backing_file")) if name.startswith("loop") else ""
        if not path or _read(os.path.join(block, name, "ro")) == "1":
            continue
        device = "/dev/" + name
        users = ["mounted at " + mount.point for mount in mounts if re.fullmatch(device + r"(?:p\d+)?", mount.source)]
        for holder in _listed(os.path.join(block, name, "holders")):
            called = _read(os.path.join(block, holder, "dm/name"))
            users.append("held by " + (called or holder))
        yield path, ", ".join([device] + users)


def _written(trees: _Trees, ours: Dict[str, _Mount]) -> Iterator[InUse]:
    our_namespace = _link("/proc/self/ns/mnt")
    told = set()  # a process may have a file open many times
    for process in filter(str.isdigit, _listed("/proc")):
        if process == str(os.getpid()):
            continue  # our own output may go to a file there
        mounts: Optional[Dict[str, _Mount]] = None
        for number in _listed("/proc/{}/fd".format(process)):
            fd = "/proc/{}/fd/{}".format(process, number)
            path = _link(fd)
            if not path.startswith("/"):
                continue
            try:
                st = os.stat(fd)
            except OSError:
                continue
            if not stat.S_ISREG(st.st_mode) or st.st_dev not in trees.devices or not st.st_nlink:
                continue
            about = _read("/proc/{}/fdinfo/{}".format(process, number)).splitlines()
            info = dict(line.split(":", 1) for line in about if ":" in line)
            if int(info.get("flags", "0"), 8) & os.O_ACCMODE == os.O_RDONLY:
                continue
            if mounts is None:
                shared = _link("/proc/{}/ns/mnt".format(process)) == our_namespace
                mounts = ours if shared else _mounts(process)
            mount = mounts.get(info.get("mnt_id", "").strip())
            if mount is None or not _is_below(path, mount.point):
                continue
            for here in trees.at(_inside(mount, path)):
                if (process, here) not in told:
                    told.add((process, here))
                    command = _read("/proc/{}/comm".format(process)) or "?"
                    yield InUse(here, "writing", "{} (process {})".format(command, process), st.st_nlink)


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
