"""What every user has of sparsesync, by the oldest and the newest Python of this machine that it is for.

The others are tried by hand: ``python3.N -S -X dev -W error tests/support/smoke.py``.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable

import pytest

from tests.support.filesystems import need_tools

SMOKE = Path(__file__).parents[1] / "support/smoke.py"
OLDEST = 9
"""The minor version that python_requires has."""


@functools.cache
def pythons() -> dict[int, str]:
    """An interpreter for each minor version: the one that runs the tests, in PATH, or of pyenv."""
    found = {sys.version_info[1]: sys.executable}
    for minor in range(OLDEST, 30):
        places = [shutil.which(f"python3.{minor}"), *Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python3")]
        for place in [str(place) for place in places if place and minor not in found]:
            # A shim of pyenv is there for each version, and does not start all of them.
            if subprocess.run([place, "-S", "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
                found.setdefault(minor, place)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("which", [min, max], ids=["oldest", "newest"])
def test_every_function_and_every_command(
    which: Callable[[dict[int, str]], int], record_property: Callable[[str, object], None]
) -> None:
    need_tools("rsync")
    python = pythons()[which(pythons())]
    record_property("tried", python)
    done = subprocess.run([python, "-S", "-X", "dev", "-W", "error", SMOKE], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done
