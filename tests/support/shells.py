"""Remote shells that lead to this machine, and the old Pythons that an agent may find."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path


def local_shell(path: Path, *before: str) -> str:
    """A remote shell that leads to this machine, does something ``before`` and finds our own Python first."""
    pythons = os.path.dirname(os.path.realpath(sys.executable))
    return script(path, "; ".join(["shift", f"PATH={pythons}:$PATH", *before, 'exec sh -c "$*"']))


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


_CLEAN = "exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root"

STAND_INS = {
    # Without -i the command's standard input is empty. Its own options end at the name.
    "docker": f"""[ "$1 $2" = "exec -i" ] || exit 125
        case $3 in -*) echo "unknown shorthand flag: $3" >&2; exit 125;; esac
        shift 3; cd /; {_CLEAN} "$@\"""",
    # It wants the two dashes, and has something to say before and after.
    "kubectl": """[ "$1 $2" = "exec -i" ] || exit 1
        [ "$4" = -- ] || { echo "error: exec [POD] [COMMAND] is not supported anymore." >&2; exit 1; }
        shift 4
        echo 'Defaulted container "app" out of: app, sidecar' >&2
        cd /; "$@"; status=$?
        [ $status = 0 ] || echo "command terminated with exit code $status" >&2
        exit $status""",
    # Options of the command are its own without the two dashes. On a terminal it makes another.
    "lxc": f"""[ "$1 $3" = "exec --" ] || {{ echo "Error: unknown shorthand flag" >&2; exit 1; }}
        shift 3; [ -t 0 ] && [ -t 1 ] && exec script -qc "$*"
        cd /; {_CLEAN} "$@\"""",
}
"""What tells programs that start a command in a container from each other, and leads to this machine."""


def old_pythons() -> list[str]:
    found = []
    for minor in (6, 7, 8):
        places = [shutil.which(f"python3.{minor}"), *Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3")]
        for place in [str(place) for place in places if place]:
            asked = subprocess.run([place, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True)
            if asked.stdout.decode() == f"(3, {minor})\n":
                found.append(place)
                break
    return found
