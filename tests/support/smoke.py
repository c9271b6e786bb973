"""Every public function and every command, once: with the Python that runs this, and without any package.

It is a program of its own, since that Python need not have what tests are run with:

    python3.9 -S -X dev -W error tests/support/smoke.py

Each command has a terminal as its standard error, so that it would show a bar if it could. What is said there of a
warning or an exception fails, also where Python has swallowed it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import sparsesync  # noqa: E402
from sparsesync.commands import main as commands  # noqa: E402

MIB = 1 << 20
HERE = [sys.executable, "-S", "-X", "dev", "-W", "error"]
RSH = ["sh", "-c", 'shift; exec sh -c "$*"', "sh"]
"""A remote shell that leads to this machine."""


def make(path: str) -> None:
    with open(path, "wb") as file:
        file.truncate(MIB)
        file.seek(MIB // 2)
        file.write(b"x" * 8192 + bytes(65536))


def functions() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Each public function by its name, with a call whose result has to be true."""
    far: dict[str, Any] = {"rsh": RSH, "python": sys.executable}
    images, disk = os.path.abspath("images"), os.path.abspath("images/disk")
    there = f"far:{images}"
    yield "copyfile", lambda: sparsesync.copyfile(disk, "b") == "b"
    yield "copyfile", lambda: sparsesync.copyfile(f"{there}/disk", "c", **far) == "c"
    yield "copy", lambda: sparsesync.copy(disk.encode(), b"d") == b"d"
    yield "copy2", lambda: sparsesync.copy2(Path(disk), f"far:{os.path.abspath('e')}", **far)
    yield "copytree", lambda: sparsesync.copytree(images, "tree") == "tree"
    yield "move", lambda: sparsesync.move("tree", "moved") == "moved"
    yield "map", lambda: len(list(sparsesync.map(disk))) == len(list(sparsesync.map(f"{there}/disk", **far))) == 3
    yield "extents", lambda: len(list(sparsesync.extents(disk))) == 1
    yield "is_sparse", lambda: sparsesync.is_sparse("e")
    yield "dig", lambda: sparsesync.dig("b") > 0
    yield "punch", lambda: sparsesync.punch("d", [(0, MIB)]) is None and not list(sparsesync.extents("d"))
    yield "scan", lambda: len(list(sparsesync.scan(images))) == len(list(sparsesync.scan(there, **far))) == 1
    yield "verify", lambda: [*sparsesync.verify(images, "moved"), *sparsesync.verify(images, there, **far)] == []
    yield "equal", lambda: sparsesync.equal(disk, "c") and not sparsesync.equal(disk, "d")
    yield "exclude_patterns", lambda: sparsesync.exclude_patterns(f"{images}/") == ["/disk"]
    yield "sync", lambda: sparsesync.sync(f"{images}/", "synced", "-a", output=print, check=True).seeded
    yield "sync", lambda: sparsesync.sync(f"{there}/", "pulled", "-aS", output=print, check=True, **far).seeded
    yield "migrate", lambda: sparsesync.migrate(f"{images}/", "migrated", "-v", output=print, check=True).ok
    yield "Session", session


def session() -> int:
    with sparsesync.Session(rsh=RSH, python=sys.executable) as far:
        return len(list(far.scan(f"far:{os.path.abspath('images')}")))


COMMANDS = {
    "scan": "images",
    "map": "images/disk",
    "copy": "images/disk f",
    "dig": "c",
    "exclude": "images/",
    "verify": "images moved",
    "sync": "-av images/ made-by-sync",
    "migrate": "images/ migrated",
    "track": "list images",
    "serve": "--restrict-to-path images",
}


def run(command: str, arguments: str) -> None:
    import pty

    ours, theirs = pty.openpty()
    argv = [*HERE, "-m", "sparsesync", command, *arguments.split()]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs)
    os.write(theirs, b"\n")
    said = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 0 and "Warning" not in said and "Traceback" not in said, (command, done, said)


def main() -> None:
    ignored: list[Any] = []
    sys.unraisablehook = ignored.append
    called = set()
    make_top()
    for name, call in functions():
        called.add(name)
        assert call(), name
    public = {name for name in sparsesync.__all__ if callable(getattr(sparsesync, name))}
    assert called == {name for name in public if not isinstance(getattr(sparsesync, name), type)} | {"Session"}, called
    assert COMMANDS.keys() == commands.COMMANDS.keys()
    for command, arguments in COMMANDS.items():
        run(command, arguments)
    assert not ignored, ignored
    print("ok", sys.version)


def make_top() -> None:
    os.mkdir("images")
    make("images/disk")
    os.utime("images/disk", (1, 1))


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ["SSH_ORIGINAL_COMMAND"] = "true"  # serve is asked whether one can log in
    with tempfile.TemporaryDirectory() as top:
        os.chdir(top)
        main()
        os.chdir("/")
