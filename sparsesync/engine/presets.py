"""What a kind of tree is not to be copied with: the presets of ``sparsesync exclude``.

A preset is a list of places below a root, each a path and a wildcard behind it. It says nothing
of rsync: ``sparsesync.exclude`` turns the places into patterns, anchored to the transfer. What there is on a
machine, its Docker and its swap files, is seen only on that machine; so this is part of the engine.
"""

import json
import os
import re
from typing import Iterator, List, Optional, Sequence, Tuple

DAEMON_JSON = "/etc/docker/daemon.json"
DATA_ROOT = "/var/lib/docker"
"""Where dockerd keeps its data unless ``data-root`` in its configuration says otherwise: dockerd(8)."""

SWAPS = "/proc/swaps"

# Below a Docker data root, by driver folder: the path, and what of it is left out. The images,
# layers, volumes and containers themselves are never listed here.
_DOCKER = {
    # The pool of devicemapper on loop devices: sparse files that a running daemon has attached.
    "devicemapper": (("devicemapper/data", ""), ("devicemapper/metadata", ""), ("mnt", "/*")),
    # Where the drivers mount the view of a running container; the layers below it are copied.
    "overlay2": (("", "/*/merged/*"),),
    "overlay": (("", "/*/merged/*"),),
    "fuse-overlayfs": (("", "/*/merged/*"),),
    "aufs": (("mnt", "/*"),),
    "zfs": (("graph", "/*"),),
    # btrfs and vfs have no such views: what is there is the data.
    "btrfs": (),
    "vfs": (),
    # A tmpfs for each running container, and the daemon's own scratch space.
    "containers": (("", "/*/mounts/shm/*"),),
    "tmp": (("", "/*"),),
}
_DRIVERS = ("devicemapper", "overlay2", "overlay", "fuse-overlayfs", "aufs", "zfs", "btrfs", "vfs")

_SYSTEM = (
    ("proc", "/*"),
    ("sys", "/*"),
    ("dev", "/*"),
    ("run", "/*"),
    ("tmp", "/*"),
    ("mnt", "/*"),
    ("media", "/*"),
    ("lost+found", ""),
)

Place = Tuple[str, str, str]
"""(source, path, wildcard): everything at ``path`` followed by the wildcard, in the transfer of ``source``."""


def preset_patterns(preset: str, sources: Sequence[str]) -> Iterator[Place]:
    """The places a preset leaves out. Raises ValueError for an unknown preset or a broken daemon.json."""
    if preset == "docker":
        for source in sources:
            for place in _docker(source):
                yield place
    elif preset == "system":
        for source in sources:
            for place in _system(source):
                yield place
    else:
        raise ValueError("unknown preset {!r}; there are docker, system".format(preset))


def _docker(source: str) -> Iterator[Place]:
    roots = [source] if _is_data_root(source) else []
    configured = data_root()
    below = _below(source, configured)
    if below is not None and below not in roots:
        roots.append(below)
    for root in roots:
        for folder, places in _DOCKER.items():
            if not os.path.isdir(os.path.join(root, folder)):
                continue
            for path, wild in places:
                yield source, os.path.join(root, folder, path), wild


def _is_data_root(path: str) -> bool:
    return any(os.path.isdir(os.path.join(path, driver)) for driver in _DRIVERS)


def data_root(daemon_json: Optional[str] = None) -> str:
    """Docker's data root on this machine, from daemon.json. Raises ValueError if that file is broken."""
    daemon_json = daemon_json or DAEMON_JSON
    try:
        with open(daemon_json, encoding="utf-8") as file:
            settings = json.load(file)
        # "graph" is what data-root was called before Docker 17.05.
        root = settings.get("data-root") or settings.get("graph") or DATA_ROOT
    except FileNotFoundError:
        return DATA_ROOT
    except (ValueError, AttributeError) as error:
        raise ValueError("{}: not a configuration of dockerd: {}".format(daemon_json, error)) from None
    return os.fsdecode(str(root).encode("utf-8"))  # the machine's own encoding may be another


def _below(source: str, path: str) -> Optional[str]:
    """``path`` spelled from ``source`` on, if it is there or below."""
    top = os.path.realpath(source)
    real = os.path.realpath(path)
    if real == top:
        return source
    prefix = top if top.endswith("/") else top + "/"
    return os.path.join(source, real[len(prefix) :]) if real.startswith(prefix) else None


def _system(source: str) -> Iterator[Place]:
    # "/*", expanded by the shell, is the root as much as "/" is.
    name = os.path.basename(source.rstrip("/"))
    if os.path.abspath(os.path.dirname(source.rstrip("/")) or ".") == "/" and source.strip("/"):
        for path, wild in _SYSTEM:
            if path == name:
                yield source, source, wild
    elif os.path.isdir(source):
        for path, wild in _SYSTEM:
            yield source, os.path.join(source, path), wild
    for swap in swap_files():
        below = _below(source, swap)
        if below is not None:
            yield source, below, ""


def swap_files(swaps: Optional[str] = None) -> List[str]:
    """The swap files in use, from /proc/swaps (proc_swaps(5)), which writes blanks as octal escapes."""
    try:
        with open(swaps or SWAPS, "rb") as file:
            rows = [os.fsdecode(line).split() for line in file][1:]
    except FileNotFoundError:
        return []
    return [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), row[0]) for row in rows if row[1] == "file"]
