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
