"""Where a path is in its filesystem, whatever name it goes by.

One directory has many names: by way of a bind mount, in a container, through a symlink. What is the same under all of
them is its place: the filesystem, by its device number, and the path within that. For both the kernel tells what is
mounted where, and which part of a filesystem is seen there (proc_pid_mountinfo(5)).
"""

import os
import re
from typing import Dict, Iterable, Iterator, NamedTuple, Optional, Tuple

FsLocation = Tuple[str, str]
"""(major:minor of the filesystem, the path in it)."""


class Mount(NamedTuple):
    """A mount: the directory ``root`` of ``device``, mounted at ``point``."""

    device: str
    root: str
    point: str
    type: str
    source: str
    options: str


def mounts(process: str = "self") -> Dict[str, Mount]:
    """Return the mounts that a process sees, by ID; none if it has ended or may not be examined."""
    found: Dict[str, Mount] = {}
    try:
        with open("/proc/{}/mountinfo".format(process), "rb") as table:
            for line in table:
                fields = [_plain(field) for field in line.split()]
                rest = fields[fields.index("-") + 1 :] + ["", "", ""]
                found[fields[0]] = Mount(fields[2], fields[3], fields[4], rest[0], rest[1], rest[2])
    except (OSError, ValueError):
        pass
    return found


def _plain(field: bytes) -> str:
    """Return a field without the kernel's escapes for blanks."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code.group(1), 8)]), field))


def namespaces() -> Iterator[Dict[str, Mount]]:
    """Yield the mounts of each mount namespace that has a process, our own first."""
    ours = namespace("self")
    seen = {ours}
    yield mounts()
    for process in filter(str.isdigit, os.listdir("/proc")):
        its = namespace(process)
        if its and its not in seen:
            seen.add(its)
            yield mounts(process)


def namespace(process: str) -> str:
    """Return the name of a process' mount namespace, or "" if unknown."""
    try:
        return os.readlink("/proc/{}/ns/mnt".format(process))
    except OSError:
        return ""


def locate(path: str, among: Iterable[Mount]) -> Optional[FsLocation]:
    """Return the location of an absolute path without symlinks, or None if no mount contains it."""
    on = [mount for mount in among if is_below(path, mount.point)]
    if not on:
        return None
    longest = max(len(mount.point) for mount in on)
    # Later mounts lie over earlier ones.
    return inside([mount for mount in on if len(mount.point) == longest][-1], path)


def inside(mount: Mount, path: str) -> FsLocation:
    """Return the location of a path below a mount."""
    rest = path[len(mount.point) :].lstrip("/")
    return mount.device, os.path.normpath(os.path.join(mount.root, rest))


def is_below(path: str, top: str) -> bool:
    """Return whether ``path`` is ``top``, or below it."""
    return path == top or path.startswith(top if top.endswith("/") else top + "/")


def bound_below(path: str, table: Dict[str, Mount]) -> Iterator[Mount]:
    """Yield what is mounted below a path without symlinks though it is of the filesystem that is there.

    No device number tells such a bind mount. What is mounted on itself, as daemons do, is none.
    """
    topmost = {mount.point: mount for mount in table.values()}
    for mount in topmost.values():
        if mount.point == path or not is_below(mount.point, path):
            continue
        top, name = os.path.split(mount.point)
        around = locate(top, (other for other in topmost.values() if other is not mount))
        if around is None or around[0] != mount.device or os.path.join(around[1], name) == mount.root:
            continue
        try:
            # Subvolumes of btrfs have one number in the table, and each its own.
            if os.path.isdir(mount.point) and os.stat(mount.point).st_dev == os.stat(top).st_dev:
                yield mount
        except OSError:
            continue  # it has gone


def images_behind(source: str) -> Iterator[str]:
    """Yield the files that a device has its data in, by way of loop devices, partitions and device-mapper."""
    waiting = [os.path.basename(os.path.realpath(source))] if source.startswith("/dev/") else []
    for name in waiting:
        block = os.path.realpath(os.path.join("/sys/class/block", name))
        for device in (block, os.path.dirname(block)):
            try:
                with open(os.path.join(device, "loop/backing_file"), "rb") as file:
                    yield os.fsdecode(file.read()).rstrip("\n")
                    break
            except OSError:
                continue  # it is none
        try:
            waiting += sorted(set(os.listdir(os.path.join(block, "slaves"))) - set(waiting))
        except OSError:
            continue  # a partition has none


def location_key(path: str) -> str:
    """Return 'MAJ:MIN PATH' for a path of this machine, or '' if unknown.

    The key of a path begins with the key of each directory above it on the same filesystem.
    """
    found = locate(os.path.realpath(path), mounts().values())
    return "" if found is None else " ".join(found)
