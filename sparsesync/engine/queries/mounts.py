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
    """A mount: of ``device`` the directory ``root`` is seen at ``point``."""

    device: str
    root: str
    point: str
    type: str
    source: str
    options: str


def mounts(process: str = "self") -> Dict[str, Mount]:
    """The mounts that a process sees, by their ids; none if it has ended or is not ours to look at."""
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
    """A field as it was before the kernel escaped its blanks."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda code: bytes([int(code.group(1), 8)]), field))


def namespaces() -> Iterator[Dict[str, Mount]]:
    """The mounts of each mount namespace that some process lives in, ours first."""
    ours = namespace("self")
    seen = {ours}
    yield mounts()
    for process in filter(str.isdigit, os.listdir("/proc")):
        its = namespace(process)
        if its and its not in seen:
            seen.add(its)
            yield mounts(process)


def namespace(process: str) -> str:
    """The name of the mount namespace that a process lives in; "" if that is not known."""
    try:
        return os.readlink("/proc/{}/ns/mnt".format(process))
    except OSError:
        return ""


def locate(path: str, among: Iterable[Mount]) -> Optional[FsLocation]:
    """The place of an absolute path without symlinks; None if none of the mounts leads there."""
    on = [mount for mount in among if is_below(path, mount.point)]
    if not on:
        return None
    longest = max(len(mount.point) for mount in on)
    # Later mounts lie over earlier ones.
    return inside([mount for mount in on if len(mount.point) == longest][-1], path)


def inside(mount: Mount, path: str) -> FsLocation:
    """The place of a path below a mount."""
    rest = path[len(mount.point) :].lstrip("/")
    return mount.device, os.path.normpath(os.path.join(mount.root, rest))


def is_below(path: str, top: str) -> bool:
    """Whether a path is another one, or below it."""
    return path == top or path.startswith(top if top.endswith("/") else top + "/")


def location_key(path: str) -> str:
    """The place of a path here, in one word; "" if it is not known. Equal or longer words are equal places or below."""
    found = locate(os.path.realpath(path), mounts().values())
    return "" if found is None else " ".join(found)
