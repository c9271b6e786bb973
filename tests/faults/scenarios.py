"""The commands that are tried, and what is there before.

Each goes from ``src`` to ``dst``, two directories. The files are small, and their data is random, so that no block
of one is taken for one of another. ``first``: nothing is at the destination. ``update``: other files are, older ones
with other data and other holes. ``inplace``: they are written to.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

KIB = 1024
_HOST = "host"

_COPY2 = """
import sys, sparsesync
try:
    sparsesync.copy2(*sys.argv[1:])
except (OSError, KeyboardInterrupt) as error:
    sys.exit(f"{error!r}")
"""

Layout = tuple[int, Sequence[tuple[int, int]]]
NEW: dict[str, Layout] = {
    "a.img": (2048 * KIB, [(0, 64 * KIB), (1024 * KIB, 64 * KIB), (2040 * KIB, 8 * KIB)]),
    "sub/b.img": (1024 * KIB, [(512 * KIB, 48 * KIB)]),
    "dense": (20 * KIB, [(0, 20 * KIB)]),
}
OLD: dict[str, Layout] = {
    "a.img": (1536 * KIB, [(0, 64 * KIB), (768 * KIB, 64 * KIB), (1024 * KIB, 64 * KIB)]),
    "sub/b.img": (1024 * KIB, [(0, 16 * KIB), (512 * KIB, 48 * KIB)]),
    "dense": (24 * KIB, [(0, 24 * KIB)]),
}
MTIME = 1_500_000_000


@dataclass(frozen=True)
class Scenario:
    """A command. ``way``: "local", "push" or "pull"; ``state``: what is at the destination."""

    kind: str
    way: str = "local"
    state: str = "first"

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.way}-{self.state}"

    @property
    def inplace(self) -> bool:
        return self.state == "inplace"

    @property
    def remote(self) -> bool:
        return self.way != "local"

    @property
    def names(self) -> Sequence[str]:
        """The files that are copied; none: all."""
        return () if self.kind == "sync" else ["a.img"]

    def argv(self, python: str, top: Path) -> list[str]:
        before = {"push": ("", f"{_HOST}:"), "pull": (f"{_HOST}:", "")}.get(self.way, ("", ""))
        ends = [f"{prefix}{top}/{name}" for prefix, name in zip(before, ("src/", "dst/"))]
        if self.kind == "sync":
            options = ["--inplace"] if self.inplace else []
            return [python, "-m", "sparsesync", "sync", "-a", *options, f"--seed-python={python}", *ends]
        ends = [end + "a.img" for end in ends]
        if self.kind == "copy2":
            return [python, "-c", _COPY2, *ends]
        options = ["--inplace"] if self.inplace else []
        return [python, "-m", "sparsesync", "copy", "-q", *options, "--python", python, *ends]

    def prepare(self, top: Path) -> None:
        _write_tree(top / "src", NEW, 1, 0)
        (top / "dst").mkdir()
        if self.state != "first":
            _write_tree(top / "dst", OLD, 2, -1000)
            # What both have is found by its content, and is most of an update.
            for name in ("a.img", "sub/b.img"):
                with open(top / "src" / name, "rb") as source, open(top / "dst" / name, "r+b") as target:
                    target.write(source.read(32 * KIB))
                _set_time(top / "dst" / name, -1000)

    def same_attributes(self, source: Path, target: Path) -> bool:
        a, b = os.lstat(source), os.lstat(target)
        if self.kind == "copy":
            return True
        return (a.st_mtime_ns, a.st_mode, a.st_uid, a.st_gid) == (b.st_mtime_ns, b.st_mode, b.st_uid, b.st_gid)


def _write_tree(top: Path, files: dict[str, Layout], seed: int, seconds: int) -> None:
    for name, (size, extents) in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = random.Random(f"{name}{seed}")
        with open(path, "wb") as file:
            file.truncate(size)
            for offset, length in extents:
                file.seek(offset)
                file.write(noise.randbytes(length))
        os.chmod(path, 0o640)
        _set_time(path, seconds)


def _set_time(path: Path, seconds: int) -> None:
    os.utime(path, (MTIME + seconds, MTIME + seconds))


SCENARIOS = [
    *(Scenario("copy", "local", state) for state in ("first", "update", "inplace")),
    *(Scenario("copy2", "local", state) for state in ("first", "update")),
    *(Scenario("sync", "local", state) for state in ("first", "update", "inplace")),
    *(Scenario("copy", way, state) for way in ("push", "pull") for state in ("first", "update", "inplace")),
    *(Scenario("sync", way, state) for way in ("push", "pull") for state in ("first", "update", "inplace")),
]
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
