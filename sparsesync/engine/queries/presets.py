"""What a kind of tree is not to be copied with: the presets of ``sparsesync exclude``.

A preset is a list of places below a root, each a path and a wildcard behind it. It says nothing
of rsync: ``sparsesync.exclude`` turns the places into patterns, anchored to the transfer. What there is on a
machine, its Docker and its swap files, is seen only on that machine; so this is part of the engine.
"""

import glob
import json
import os
import re
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

DAEMON_JSON = "/etc/docker/daemon.json"
DATA_ROOT = "/var/lib/docker"
"""Where dockerd keeps its data unless ``data-root`` in its configuration says otherwise: dockerd(8)."""

SWAPS = "/proc/swaps"

_POOL = "the devicemapper pool's loop file"
_VIEW = "the driver's view of a running container; the layers below it are copied"
_KERNEL = "the kernel's own"
_SCRATCH = "scratch space, new after every start"
_MOUNTS = "where other filesystems are mounted"

# Below a Docker data root, by driver folder: the path, what of it is left out, and why. The images,
# layers, volumes and containers themselves are never listed here.
_VIEWS = {
    "devicemapper": (("devicemapper/mnt", "/*", _VIEW),),
    # Where the drivers mount the view of a running container; the layers below it are copied.
    "overlay2": (("overlay2", "/*/merged/*", _VIEW),),
    "overlay": (("overlay", "/*/merged/*", _VIEW),),
    "fuse-overlayfs": (("fuse-overlayfs", "/*/merged/*", _VIEW),),
    "aufs": (("aufs/mnt", "/*", _VIEW),),
    "zfs": (("zfs/graph", "/*", _VIEW),),
    # btrfs and vfs have no such views: what is there is the data.
    # A tmpfs for each running container, and the daemon's own scratch space.
    "containers": (("containers", "/*/mounts/shm/*", _SCRATCH),),
    "tmp": (("tmp", "/*", _SCRATCH),),
}
LOOP_FILES = ("devicemapper/devicemapper/data", "devicemapper/devicemapper/metadata")
"""The pool of devicemapper on loop devices: sparse files that a running daemon has attached."""

# By what a data root is known: a storage driver's folder, and in it what that driver makes. The folder's name alone
# says nothing: a kernel's sources have an fs/btrfs.
_DRIVERS = (
    "devicemapper/devicemapper", "devicemapper/mnt", "overlay2/*/diff", "overlay2/l", "overlay/*/upper", "aufs/diff",
    "fuse-overlayfs/*/diff", "fuse-overlayfs/l", "zfs/graph", "btrfs/subvolumes", "vfs/dir",
)  # fmt: skip

_SYSTEM = (
    ("proc", "/*", _KERNEL),
    ("sys", "/*", _KERNEL),
    ("dev", "/*", _KERNEL),
    ("run", "/*", _SCRATCH),
    ("tmp", "/*", _SCRATCH),
    ("mnt", "/*", _MOUNTS),
    ("media", "/*", _MOUNTS),
    ("lost+found", "", "made by every fsck"),
)


class ExcludedPath(NamedTuple):
    """Everything at ``path`` followed by ``wildcard``, in the transfer of ``source``.

    ``reason``: why it is excluded, for people.
    """

    source: str
    path: str
    wildcard: str
    reason: str


class Suggested(NamedTuple):
    """The preset that suits a source: "system", "docker", or "none"."""

    preset: str


def suggested(source: str) -> Suggested:
    """Return the preset that suits the tree at ``source``. Raises ValueError for a broken daemon.json."""
    if _is_system(source):
        return Suggested("system")
    return Suggested("docker" if docker_roots(source) else "none")


def _is_system(path: str) -> bool:
    looks = all(os.path.isdir(os.path.join(path, name)) for name in ("etc", "proc", "usr"))
    return looks or os.path.realpath(path) == "/"


def preset_patterns(preset: str, sources: Sequence[str]) -> Iterator[ExcludedPath]:
    """Yield the paths that a preset excludes: "docker", "docker-views" (without the loop files) or "system".

    Raises ValueError for an unknown preset or a broken daemon.json.
    """
    places: Dict[str, Callable[[str], Iterator[ExcludedPath]]] = {
        "docker": lambda source: _docker(source, True),
        "docker-views": lambda source: _docker(source, False),
        "system": _system,
    }
    if preset not in places:
        raise ValueError("unknown preset {!r}; there are docker, system".format(preset))
    for source in sources:
        for place in places[preset](source):
            yield place


def left_out(places: Sequence[ExcludedPath]) -> Callable[[str], bool]:
    """Return a function that tells whether a path, as a scan of the sources yields it, is excluded."""
    patterns = []
    for place in places:
        wildcard = re.escape(place.wildcard).replace(re.escape("*"), "[^/]+")
        patterns.append(re.escape(os.path.normpath(place.path)) + wildcard)
    if not patterns:
        return lambda path: False
    matches = re.compile("(?:{})(?:/.*)?".format("|".join(patterns)), re.DOTALL).fullmatch
    return lambda path: matches(os.path.normpath(path)) is not None


def docker_roots(source: str) -> List[str]:
    """Return the Docker data roots at or below ``source``.

    Candidates are ``source`` itself if it looks like one, this machine's, and that of a system's tree at ``source``.
    """
    roots = [source] if is_data_root(source) else []
    configured = [_below(source, data_root())]
    if _is_system(source):
        configured.append(os.path.join(source, data_root(daemon_json(source)).lstrip("/")))
    for root in configured:
        if root is not None and os.path.isdir(root) and os.path.realpath(root) not in map(os.path.realpath, roots):
            roots.append(root)
    return roots


def daemon_json(system: str) -> str:
    """Return the path of dockerd's configuration in a system's tree."""
    return os.path.join(system, DAEMON_JSON.lstrip("/"))


def _docker(source: str, loop: bool) -> Iterator[ExcludedPath]:
    for root in docker_roots(source):
        for folder, places in _VIEWS.items():
            if os.path.isdir(os.path.join(root, folder)):
                for path, wildcard, reason in places:
                    yield ExcludedPath(source, os.path.join(root, path), wildcard, reason)
        if loop and os.path.isdir(os.path.join(root, "devicemapper")):
            for path in LOOP_FILES:
                yield ExcludedPath(source, os.path.join(root, path), "", _POOL)


def is_data_root(path: str) -> bool:
    """Return whether a directory looks like a data root of Docker."""
    return any(glob.glob(os.path.join(glob.escape(path), pattern)) for pattern in _DRIVERS)


def data_root(configuration: Optional[str] = None) -> str:
    """Return Docker's data root from ``configuration``, by default this machine's daemon.json.

    Raises ValueError if that file is broken.
    """
    configuration = configuration or DAEMON_JSON
    try:
        with open(configuration, encoding="utf-8") as file:
            settings = json.load(file)
        # "graph" is what data-root was called before Docker 17.05.
        root = settings.get("data-root") or settings.get("graph") or DATA_ROOT
    except FileNotFoundError:
        return DATA_ROOT
    except (ValueError, AttributeError) as error:
        raise ValueError("{}: not a configuration of dockerd: {}".format(configuration, error)) from None
    return os.fsdecode(str(root).encode("utf-8"))  # the machine's own encoding may be another


def _below(source: str, path: str) -> Optional[str]:
    """``path`` spelled from ``source`` on, if it is there or below."""
    top = os.path.realpath(source)
    real = os.path.realpath(path)
    if real == top:
        return source
    prefix = top if top.endswith("/") else top + "/"
    return os.path.join(source, real[len(prefix) :]) if real.startswith(prefix) else None


def _system(source: str) -> Iterator[ExcludedPath]:
    # "/*", expanded by the shell, is the root as much as "/" is.
    name = os.path.basename(source.rstrip("/"))
    if os.path.abspath(os.path.dirname(source.rstrip("/")) or ".") == "/" and source.strip("/"):
        for path, wildcard, reason in _SYSTEM:
            if path == name:
                yield ExcludedPath(source, source, wildcard, reason)
    elif os.path.isdir(source):
        for path, wildcard, reason in _SYSTEM:
            yield ExcludedPath(source, os.path.join(source, path), wildcard, reason)
    for swap in swap_files():
        below = _below(source, swap)
        if below is not None:
            yield ExcludedPath(source, below, "", "swap space in use")


def swap_files(swaps: Optional[str] = None) -> List[str]:
    """Return the swap files in use, from /proc/swaps (proc_swaps(5)), with its octal escapes decoded."""
    try:
        with open(swaps or SWAPS, "rb") as file:
            rows = [os.fsdecode(line).split() for line in file][1:]
    except FileNotFoundError:
        return []
    return [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), row[0]) for row in rows if row[1] == "file"]
