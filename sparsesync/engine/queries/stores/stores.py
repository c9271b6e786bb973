"""The stores of a tree, and what moving each of them asks for: the query ``stores``.

Of a kind's table (:mod:`.table`) it is looked up here what of it there is on this machine.
"""

import fnmatch
import glob
import os
import stat
from typing import Iterator, List, NamedTuple

from ...files.claims import allocated
from ..mounts import is_below, mounts
from .binds import bound
from .docker import LOOP_FILES, drivers_of, settings_of
from .images import needed_by
from .roots import Root, find_roots, is_system, places
from .running import listed, running, words_of
from .settings import at, read
from .table import BY_NAME, FIREWALL, OF_USERS, Companion, Setting

_SUBVOLUME = 256
"""The inode number of every btrfs subvolume's root: btrfs-subvolume(8)."""

_MAX_POOLS = 5
_MAX_REPORTED = 100
"""How many companions, and how many processes, are told at the most."""


class LoopFile(NamedTuple):
    """A loop file of a devicemapper pool. Sizes are bytes."""

    path: str
    size: int
    allocated: int


class Needed(NamedTuple):
    """What has to be moved as well.

    ``path``: without symlinks; "" if it is not known where that is.
    ``what``: what it has, for people.
    ``content``: it has images or containers, and no configuration.
    """

    path: str
    what: str
    content: bool


class Store(NamedTuple):
    """A store.

    ``kind``: the name of its kind.
    ``root``: as spelled from the source on.
    ``driver``: the storage driver in use, or "".
    ``drivers``: all that it has.
    ``layers``: whether it has layers of overlayfs.
    ``subvolumes``: the number of btrfs subvolumes.
    ``running``: what runs on it, for people.
    ``place``: the path in its own system, "" if that is not known.
    ``kernel``: what it asks of a kernel, whichever its driver is (:mod:`..kernel`).
    ``outer``: the root of the store that it is a part of, and stops with; or "".
    ``goes_on``: whether its containers go on when it is stopped.
    """

    kind: str
    root: str
    driver: str
    drivers: List[str]
    loop_files: List[LoopFile]
    layers: bool
    subvolumes: int
    companions: List[Needed]
    running: List[str]
    place: str
    kernel: List[str]
    outer: str
    goes_on: bool


class Stores(NamedTuple):
    """The stores at or below a source."""

    found: List[Store]


def stores(source: str) -> Stores:
    """Return the stores at or below ``source``. Raises OSError, and ValueError for a broken daemon.json."""
    return Stores([_store(root, source) for root in find_roots(source)])


def _store(root: Root, source: str) -> Store:
    kind, path = root.kind, root.path
    drivers = list(dict.fromkeys(_drivers(root)))
    driver = drivers[0] if drivers else ""
    loop_files: List[LoopFile] = []
    processes = [] if root.top or root.outer else list(running(kind, path, root.top is None))
    firewall, goes_on = True, False
    if kind.name == "docker":
        top = root.top or (source if is_system(source) else "")
        settings = settings_of(top, root.home, [words_of(each) for each in processes]) if root.top is not None else {}
        driver, drivers = drivers_of(path, drivers, settings)
        firewall, goes_on = settings.get("iptables") is not False, settings.get("live-restore") is True
        for each in (os.path.join(path, name) for name in LOOP_FILES):
            if os.path.isfile(each):
                st = os.stat(each)
                loop_files.append(LoopFile(each, st.st_size, allocated(st)))
    wanted = kind.kernel + (OF_USERS if root.home else ())
    return Store(
        kind.name,
        path,
        driver,
        drivers,
        loop_files,
        any(listed(os.path.join(path, folder)) for folder in kind.layers),
        sum(_subvolumes(folder) for name in kind.subvolumes for folder in _glob(path, name) if _is_on(folder, path)),
        [] if root.outer else _needed(root, drivers),
        ["{} (process {})".format(*each) for each in processes[:_MAX_REPORTED]],
        _in_its_system(root),
        [] if root.outer else [each for each in wanted if firewall or each not in FIREWALL],
        root.outer,
        goes_on,
    )


def _in_its_system(root: Root) -> str:
    if root.top is None:
        return ""
    real = os.path.realpath(root.path)
    return real[len(os.path.realpath(root.top).rstrip("/")) :] if root.top else real


def _drivers(root: Root) -> Iterator[str]:
    for name, pattern in root.kind.drivers:
        found = _glob(root.path, pattern)
        if name != "/" and found:
            yield name
        else:
            for each in found:
                yield os.path.relpath(each, root.path).partition("/")[0].rpartition(".")[2]


def _needed(root: Root, drivers: List[str]) -> List[Needed]:
    """Return the companions of a store, each once, and what images of disks need, of those too."""
    found = {each.path: each for each in reversed([*_pools(root), *_companions(root, drivers)])}
    for path in bound(root):
        found.setdefault(path, Needed(path, "mounted into a container", True))
    images = [image for pattern in root.kind.images for image in _glob(root.path, pattern)]
    for image in [*images, *found] if root.kind.images else ():
        for path in needed_by(image):
            found.setdefault(path, Needed(path, "the backing file of an image", True))
    return sorted(list(found.values())[:_MAX_REPORTED])


def _pools(root: Root) -> Iterator[Needed]:
    """Yield that there are pools whose content is not below the root."""
    empty = [folder for name in root.kind.instances for folder in _glob(root.path, name) if not listed(folder)]
    pools = sorted({os.path.relpath(folder, root.path).split("/")[1] for folder in empty})
    pools = [pool for pool in pools if not os.path.exists(os.path.join(root.path, "disks", pool + ".img"))]
    if pools:
        what = "what the storage pool {} has in ZFS, LVM or Ceph".format(", ".join(pools[:_MAX_POOLS]))
        yield Needed("", what, True)


def _companions(root: Root, drivers: List[str]) -> Iterator[Needed]:
    for companion in root.kind.companions:
        if companion.driver and not any(driver.startswith(companion.driver) for driver in drivers):
            continue
        if not fnmatch.fnmatchcase(root.path, companion.root):
            continue
        if isinstance(companion.path, Setting):
            for path, home in read(companion.path, root.top) if root.top is not None else ():
                if home == root.home and os.path.exists(at(root.top or "", path)):
                    yield Needed(os.path.realpath(at(root.top or "", path)), companion.what, True)
        elif companion.path.startswith("="):
            for needed in _of_kind(root, companion):
                yield needed
        else:
            for path in _expanded(root, companion.path):
                yield Needed(os.path.realpath(path), companion.what, path.startswith("/var"))


def _of_kind(root: Root, companion: Companion) -> Iterator[Needed]:
    """Yield the stores of another kind that a store needs, unless it has one below."""
    kind = BY_NAME[str(companion.path)[1:]]
    if any(os.path.isdir(os.path.join(root.path, folder)) for folder, name in root.kind.inside if name == kind.name):
        return
    of_users = [] if root.top is None else [place for place in places(kind, root.top) if place.home == root.home]
    found = [place.path for place in of_users if listed(place.path)]
    for path in found:
        yield Needed(os.path.realpath(path), companion.what, True)
    if companion.driver and not found:
        yield Needed("", "{}'s root, which has {}".format(kind.program, companion.what), True)


def _expanded(root: Root, path: str) -> List[str]:
    if path.startswith("~"):
        return _glob(root.home, path[2:]) if root.home else []
    return [] if root.top is None else _glob(root.top or "/", path.lstrip("/"))


def _glob(top: str, pattern: str) -> List[str]:
    return sorted(glob.glob(os.path.join(glob.escape(top), pattern)))


def _is_on(folder: str, root: str) -> bool:
    """Whether a folder is on what its root is on: what is mounted below that is not moved with it."""
    real, top = os.path.realpath(folder), os.path.realpath(root)
    return not any(is_below(real, mount.point) and is_below(mount.point, top) and mount.point != top
                   for mount in mounts().values())  # fmt: skip


def _subvolumes(folder: str) -> int:
    try:
        with os.scandir(folder) as entries:
            found = [entry.stat(follow_symlinks=False) for entry in entries]
    except OSError:
        return 0
    return sum(stat.S_ISDIR(st.st_mode) and st.st_ino == _SUBVOLUME for st in found)
