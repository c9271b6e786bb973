"""How dockerd is configured, and which storage drivers a data root has and uses.

What dockerd was started with says the same as its daemon.json(5), and it does not start if one thing is in both. The
driver in use is the one that is configured. Else it is that of containerd's image store if a container or
its mount point is of that; Docker 29 and newer begin with it. Else it is the first that has a folder, in dockerd's
order of preference. What is not in use may be a leftover; all of them are told.
"""

import glob
import os
from typing import Iterator, List, Sequence, Tuple

from .settings import daemon_settings, json_of
from .table import DAEMON_JSON, DOCKER

LOOP_FILES = ("devicemapper/devicemapper/data", "devicemapper/devicemapper/metadata")
"""The pool of devicemapper on loop devices: sparse files that a running daemon has attached."""

SNAPSHOTTER = "containerd's "
"""With this begins the name of a driver of containerd's image store."""

_DEFAULT = "overlayfs"


_FLAGS = {"--storage-driver": "storage-driver", "-s": "storage-driver", "--config-file": ""}
_SWITCHES = {"--iptables": "iptables", "--live-restore": "live-restore"}
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


def settings_of(top: str, home: str, running: Sequence[List[str]]) -> "dict[str, object]":
    """Return dockerd's configuration.

    ``top``: where its system begins, "" for this one's.
    ``home``: that of the user whose dockerd it is, or "".
    ``running``: the command lines of dockerds that run.

    Raises ValueError for a system's daemon.json that is broken.
    """
    flags = {}  # type: dict[str, object]
    file = os.path.join(home, ".config/docker/daemon.json") if home else top.rstrip("/") + DAEMON_JSON
    for words in running:
        for word, following in zip(words, [*words[1:], ""]):
            name, given, value = word.partition("=")
            if name in _SWITCHES:
                flags[_SWITCHES[name]] = value not in _FALSE
            elif _FLAGS.get(name):
                flags[_FLAGS[name]] = value if given else following
            elif name in _FLAGS:
                file = value if given else following
    try:
        return dict(daemon_settings(file), **flags)
    except (OSError, ValueError):
        if not home:
            raise
        return flags  # a user's own file must not keep the machine from being moved


def drivers_of(root: str, found: Sequence[str], settings: "dict[str, object]") -> Tuple[str, List[str]]:
    """Return the driver in use of a data root, and all that it has.

    ``found``: the drivers of dockerd's own that have a folder.
    ``settings``: dockerd's configuration.
    """
    graph = list(found)
    snapshotters = [SNAPSHOTTER + name for name in sorted(set(_snapshotters(root)))]
    named = settings.get("storage-driver")
    driver = named if isinstance(named, str) else ""
    features = settings.get("features")
    wanted = features.get("containerd-snapshotter") if isinstance(features, dict) else None
    if wanted is True or driver in _SNAPSHOTTERS:
        driver = SNAPSHOTTER + (driver or _DEFAULT)
    elif not driver and wanted is not False:
        driver = (snapshotters + graph + [SNAPSHOTTER + _DEFAULT])[0]
    elif not driver:
        driver = graph[0] if graph else ""
    others = [name for name in snapshotters if name != driver]
    return driver, ([driver] if driver.startswith(SNAPSHOTTER) else []) + others + graph


_GRAPH = [name for name, _ in DOCKER.drivers]
_SNAPSHOTTERS = ("overlayfs", "native")
_BOTH = ("btrfs", "zfs")
"""Names that only dockerd's own drivers have, only containerd's snapshotters, and both of them."""


def _snapshotters(root: str) -> Iterator[str]:
    """Yield the driver of each container of the image store: moby keeps it in its configuration, and mounts by it."""
    for folder in glob.glob(os.path.join(glob.escape(root), "rootfs/*/")):
        yield os.path.basename(folder.rstrip("/"))
    for path in glob.glob(os.path.join(glob.escape(root), "containers/*/config.v2.json")):
        try:
            driver = json_of(path).get("Driver")
        except (OSError, ValueError, AttributeError):
            continue  # it has gone, or is none of dockerd's
        own = driver in _GRAPH and (driver not in _BOTH or os.path.isdir(os.path.join(root, driver)))
        if isinstance(driver, str) and driver and not own:
            yield driver
