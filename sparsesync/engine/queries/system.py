"""What a machine is and has, as far as a migration asks: rsync, Python, root, which kernel is running."""

import os
import platform
import re
import subprocess
from typing import NamedTuple, Optional


class System(NamedTuple):
    """A machine: its kernel, the versions of Python and rsync (None: not installed), and whether we are root.

    ``identity``: that of the running kernel (random(4), boot_id). Two hosts with one identity are one machine.
    """

    system: str
    python: str
    rsync: Optional[str]
    root: bool
    identity: str


def host(rsync: str = "rsync") -> System:
    """Describe the local machine. ``rsync``: the program."""
    return System(
        "{} {}".format(platform.system(), platform.release()),
        platform.python_version(),
        _rsync(rsync),
        os.geteuid() == 0,
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
