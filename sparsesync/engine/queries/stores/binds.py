"""What containers have mounted of the host's directories: it is outside of the store, and they need it.

Read are the files in which engines keep a container's mounts, or a volume's. What is the system's own, or new after
every start, is at the destination already.
"""

import glob
import os
import stat
from typing import Any, Iterator, List

from ..mounts import is_below
from .reading import is_path
from .roots import Root
from .settings import at, json_of

_OF_THE_SYSTEM = ("/boot", "/dev", "/lib", "/lib64", "/proc", "/run", "/sys", "/tmp", "/usr", "/var/run")


def bound(root: Root) -> Iterator[str]:
    """Yield what containers of a store need besides, each once, without symlinks."""
    if root.top is None:
        return
    seen = set()
    for pattern in root.kind.binds:
        for file in sorted(glob.glob(os.path.join(glob.escape(root.path), pattern))):
            for path in _sources(file):
                found = os.path.realpath(at(root.top, path))
                if found not in seen and _is_needed(found, root):
                    seen.add(found)
                    yield found


def _sources(file: str) -> List[str]:
    """Return the paths of bind mounts in a container's file (moby's and OCI's), or in that of a local volume."""
    try:
        settings = json_of(file)
        mounts: List[Any] = [*(settings.get("MountPoints") or {}).values(), *(settings.get("mounts") or ())]
        found = [mount.get("Source") or mount.get("source") for mount in mounts if _is_bind(mount)]
        if "bind" in str(settings.get("MountOpts")):
            found.append(settings.get("MountDevice"))
    except (OSError, ValueError, AttributeError, TypeError):
        return []  # it has gone, or is none
    return [path for path in found if isinstance(path, str) and is_path(path)]


def _is_bind(mount: Any) -> bool:
    return "bind" in (mount.get("Type"), mount.get("type"))


def _is_needed(path: str, root: Root) -> bool:
    here = path[len(os.path.realpath(root.top).rstrip("/")) :] if root.top else path
    if here in ("", "/") or any(is_below(here, top) for top in _OF_THE_SYSTEM):
        return False
    try:
        st = os.stat(path)
        if root.home and st.st_uid != os.stat(root.home).st_uid:
            return False  # a user says nothing of what is another's
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) or stat.S_ISREG(st.st_mode)
