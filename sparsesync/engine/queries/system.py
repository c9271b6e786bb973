"""What a machine is and has, as far as a migration asks: rsync, Python, root, what its kernel can mount.

A kernel has a filesystem or a driver if it says so (proc_filesystems(5), /proc/devices, /proc/misc) or if there is
a module of that name to be loaded (modules.dep(5)).
"""

import os
import platform
import re
import subprocess
from typing import Iterator, List, NamedTuple, Optional, Sequence

_REGISTERED = {
    "loop": ("/proc/devices", "loop"),
    "device-mapper": ("/proc/misc", "device-mapper"),
}
_MODULES = {"device-mapper": "dm_mod"}


class System(NamedTuple):
    """A machine: its kernel, the versions of Python and rsync (None: not installed), and whether we are root.

    ``lacks``: the requested features that the kernel does not have.
    ``identity``: that of the running kernel (random(4), boot_id). Two hosts with one identity are one machine.
    """

    system: str
    python: str
    rsync: Optional[str]
    root: bool
    lacks: List[str]
    identity: str


def host(wanted: Sequence[str] = (), rsync: str = "rsync") -> System:
    """Describe the local machine.

    ``wanted``: filesystem types, "loop", "device-mapper".
    ``rsync``: the program.
    """
    return System(
        "{} {}".format(platform.system(), platform.release()),
        platform.python_version(),
        _rsync(rsync),
        os.geteuid() == 0,
        [name for name in wanted if not _has(name)],
        _identity(),
    )


def _identity() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""  # no /proc: nothing is known


def _rsync(program: str) -> Optional[str]:
    try:
        done = subprocess.Popen(
            [program, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    said = done.communicate()[0].decode("utf-8", "replace")
    match = re.match(r"rsync +version v?([0-9.]+)", said)
    return match.group(1) if match else None


def _has(name: str) -> bool:
    table, word = _REGISTERED.get(name, ("/proc/filesystems", name))
    module = _MODULES.get(name, name).replace("-", "_")
    return word in _words(table) or module in _modules()


def _words(path: str) -> List[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as table:
            return table.read().split()
    except OSError:
        return []


def _modules() -> Iterator[str]:
    for name in ("modules.dep", "modules.builtin"):
        path = os.path.join("/lib/modules", platform.release(), name)
        try:
            with open(path, encoding="utf-8", errors="replace") as listed:
                for line in listed:
                    yield os.path.basename(line.partition(":")[0].strip()).partition(".ko")[0].replace("-", "_")
        except OSError:
            continue
