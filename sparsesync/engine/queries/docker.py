"""What a Docker data root holds, as far as moving it asks: which storage driver, and what comes with that.

The driver in use is the one that daemon.json(5) names, else the first that has a folder, in dockerd's order of
preference. A driver's folder may also be a leftover; all of them are told.
"""

import json
import os
import stat
from typing import List, NamedTuple

from ..files.claims import allocated
from . import presets

# dockerd's documentation, "Select a storage driver".
_PREFERENCE = ("overlay2", "fuse-overlayfs", "btrfs", "zfs", "overlay", "aufs", "devicemapper", "vfs")
_SUBVOLUME = 256
"""The inode number of every btrfs subvolume's root: btrfs-subvolume(8)."""


class LoopFile(NamedTuple):
    """A loop file of a devicemapper pool. Sizes are bytes."""

    path: str
    size: int
    allocated: int


class Docker(NamedTuple):
    """A Docker data root. ``driver``: the one in use, or "". ``subvolumes``: the number of btrfs subvolumes."""

    root: str
    driver: str
    drivers: List[str]
    loop_files: List[LoopFile]
    subvolumes: int


class Dockers(NamedTuple):
    """The data roots at or below a source."""

    roots: List[Docker]


def docker(source: str) -> Dockers:
    """Return the Docker data roots at or below ``source``. Raises OSError, and ValueError for a broken daemon.json."""
    return Dockers([_root(path, source) for path in presets.docker_roots(source)])


def _root(path: str, source: str) -> Docker:
    drivers = [driver for driver in _PREFERENCE if _is_used(os.path.join(path, driver))]
    ours = os.path.realpath(path) == os.path.realpath(presets.data_root())
    configured = _configured(presets.DAEMON_JSON if ours else presets.daemon_json(source))
    loop_files = [each for each in (os.path.join(path, name) for name in presets.LOOP_FILES) if os.path.isfile(each)]
    stats = [os.stat(each) for each in loop_files]
    return Docker(
        path,
        configured or (drivers[0] if drivers else ""),
        drivers,
        [LoopFile(each, st.st_size, allocated(st)) for each, st in zip(loop_files, stats)],
        _subvolumes(os.path.join(path, "btrfs/subvolumes")),
    )


def _is_used(folder: str) -> bool:
    try:
        return bool(os.listdir(folder))
    except OSError:
        return False


def _configured(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            driver = json.load(file).get("storage-driver")
    except (OSError, ValueError, AttributeError):  # presets.data_root() has complained of it, or it is not there
        return ""
    return driver if isinstance(driver, str) else ""


def _subvolumes(folder: str) -> int:
    try:
        with os.scandir(folder) as entries:
            found = [entry.stat(follow_symlinks=False) for entry in entries]
    except OSError:
        return 0
    return sum(stat.S_ISDIR(st.st_mode) and st.st_ino == _SUBVOLUME for st in found)
