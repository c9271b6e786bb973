"""Cut the power of a filesystem at random moments, and look at what was said to be done.

::

    memory, in it an XFS, in it the image of the filesystem that is tried, mounted through a loop device
    a child         copies files there, one after the other, and writes down before each what will come, and after it
                    that it is done
    the parent      clones the image now and then, which is one moment for all of it (ioctl_ficlone(2)): what the
                    filesystem has not written yet is not in the clone, as with a disk whose power is cut
    each clone      is checked, mounted, and read: of every file the last content that was done before the clone was
                    begun must be there, or a later one that was begun before it was there

What a disk loses that it has said to have written, since its own cache lost power too, is not tried: against that
filesystems flush the disk. The child's neighbour is a program that flushes a file of its own from time to time: for a
journal that means to write down everybody's names, and nobody else's content.

The long form, with ``--without`` the same without fsync; in a mount namespace of its own, since in another one that is
made meanwhile a clone would stay mounted::

    unshare --mount python -m tests.support.powercut ext4 xfs btrfs --snapshots 300
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import sparsesync
from tests.support.filesystems import command, filesystem, need_root, need_tools

_FICLONE = 0x40049409
_SIZES = {"ext4": "128M", "xfs": "300M", "btrfs": "300M"}
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
_CHECK = {"xfs": ["xfs_repair", "-n"], "btrfs": ["btrfs", "check", "--readonly"]}
_OPTIONS = {"xfs": "loop,nouuid"}
_OLD = 12
"""Names that are there from the beginning, and are replaced."""
_KEPT = 30
"""New names that stay; older ones make room."""


class Cuts:
    """What was found: ``counts`` of "checked" contents that were done, and of what was wrong with some, by kind."""

    def __init__(self) -> None:
        self.snapshots = 0
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []


def cut(kind: str, place: Path, snapshots: int, fsync: bool, seed: int = 1) -> Cuts:
    """Try a kind of filesystem below the empty directory ``place``."""
    need_root("mounting needs root")
    need_tools("losetup", "mkfs.xfs", _MAKE[kind][0], *_CHECK.get(kind, ["e2fsck"])[:1])
    chance = random.Random(seed)
    found = Cuts()
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(filesystem("tmpfs", place / "memory", "4G"))
        outer = stack.enter_context(filesystem("xfs", memory / "outer", "3G"))
        image = outer / "image"
        command("truncate", "-s", _SIZES[kind], image)
        command(*_MAKE[kind], image)
        mountpoint = stack.enter_context(_mounted(image, place / "mnt", "loop"))
        log = memory / "log"
        log.touch()
        (memory / "work").mkdir()
        argv = [sys.executable, "-m", "tests.support.powercut", "--child", str(seed), *(["--without"] * (not fsync))]
        child = subprocess.Popen([*argv, mountpoint, memory / "work", log])
        try:
            while log.read_text().count("\n") < 40:
                assert child.poll() is None, "the child has ended"
                time.sleep(0.05)
            while found.snapshots < snapshots:
                time.sleep(chance.uniform(0, 0.4))
                assert child.poll() is None, "the child has ended"
                done = _lines(log)
                clone = outer / "clone"
                with open(image, "rb") as whole, open(clone, "wb") as copy:
                    fcntl.ioctl(copy, _FICLONE, whole.fileno())
                begun = _lines(log)
                found.snapshots += 1
                _look(kind, clone, place / "clone", done, begun, found)
                clone.unlink()
        finally:
            (memory / "work/stop").touch()
            child.wait(60)
    return found


def _lines(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


@contextlib.contextmanager
def _mounted(image: Path, mountpoint: Path, options: str) -> Iterator[Path]:
    mountpoint.mkdir(exist_ok=True)
    command("mount", "-o", options, image, mountpoint)
    try:
        yield mountpoint
    finally:
        command("umount", mountpoint)
        for _ in range(100):  # the loop device goes when the last program that looks at it lets go
            if not command("losetup", "-j", image):
                break
            time.sleep(0.1)


def _look(kind: str, clone: Path, mountpoint: Path, done: list[list[str]], begun: list[list[str]], found: Cuts) -> None:
    if kind == "ext4":
        checked = subprocess.run(["e2fsck", "-f", "-p", clone], capture_output=True, timeout=60)
        assert checked.returncode in (0, 1), checked  # the journal was replayed
    with _mounted(clone, mountpoint, _OPTIONS.get(kind, "loop")):
        _judge(mountpoint, done, begun, found)
    if kind in _CHECK:
        command(*_CHECK[kind], clone)


def _judge(top: Path, done: list[list[str]], begun: list[list[str]], found: Cuts) -> None:
    """Look at every name. Its contents, in their order, are [digest, size, time]; None: it is not there."""
    told = {name: content for what, name, *content in done if what == "done"}
    ever: dict[str, list[list[str] | None]] = {}
    for what, name, *content in begun:
        if what == "begin":
            ever.setdefault(name, [None]).append(content)
    for name in ever.keys() - {name for what, name, *_ in begun if what == "remove"}:
        path, contents = top / name, ever[name]
        allowed = contents[contents.index(told[name]) :] if name in told else contents
        there = None
        if path.is_file():
            st = path.stat()
            there = [hashlib.sha256(path.read_bytes()).hexdigest(), str(st.st_size), str(st.st_mtime_ns)]
        found.counts["checked"] += name in told
        digest = there and there[0]
        if digest in [content and content[0] for content in allowed]:
            continue
        if digest in [content and content[0] for content in contents]:
            kind = "missing" if there is None else "old"
        else:
            # What rsync goes by says that there is nothing to do.
            same = there is not None and there[1:] in [content and content[1:] for content in contents]
            kind = "torn, size and time right" if same else "torn" if there is None or there[1] != "0" else "empty"
        kind = f"{'replaced' if name.startswith('old') else 'new'}: {kind}"
        found.counts[kind] += 1
        found.wrong.append(f"snapshot {found.snapshots}: {name}: {kind}")


def _copy_on(top: Path, work: Path, log: Path, fsync: bool, seed: int) -> None:
    """The child."""
    chance = random.Random(seed)
    out = os.open(log, os.O_WRONLY | os.O_APPEND)
    rsh = work / "rsh"
    rsh.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    rsh.chmod(0o755)

    def say(*words: str) -> None:
        os.write(out, (" ".join(words) + "\n").encode("ascii"))

    def source(path: Path) -> list[str]:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = chance.randrange(1 << 19, 1 << 20)  # there is always a hole
        with open(path, "w+b") as file:
            file.truncate(size)
            for _ in range(chance.randrange(1, 6)):
                offset = chance.randrange(size)
                file.seek(offset)
                file.write(chance.randbytes(min(chance.randrange(1, 65536), size - offset)))
            file.seek(0)
            digest = hashlib.sha256(file.read()).hexdigest()
        return [digest, str(size), str(path.stat().st_mtime_ns)]

    def copy(name: str, far: str, flush: bool) -> None:
        content = source(work / "source")
        say("begin", name, *content)
        sparsesync.copy2(str(work / "source"), f"{far}{top / name}", fsync=flush, rsh=str(rsh))
        say("done", name, *content)

    for number in range(_OLD):
        copy(f"old{number}", "", True)
    new: list[str] = []
    with open(top / "neighbour", "wb", buffering=0) as neighbour:
        for number in itertools.count():
            if (work / "stop").exists():
                return
            if number % 4 == 3:
                neighbour.write(b"x")
                os.fsync(neighbour)
            if number % 10 == 9:  # a tree, by sync
                tree = work / f"tree{number}"
                name = f"tree{number}/sub/disk"
                content = source(tree / "sub/disk")
                say("begin", name, *content)
                result = sparsesync.sync(f"{work}/./tree{number}", top, ["-aR", "-q", *(["--fsync"] * fsync)])
                assert result.status == 0 and result.seeded, result
                say("done", name, *content)
                shutil.rmtree(tree)
                new.append(name)
            elif chance.random() < 0.6:
                copy(f"old{chance.randrange(_OLD)}", "host:" if number % 10 == 4 else "", fsync)
            else:
                name = f"new{number}"
                copy(name, "host:" if number % 10 == 4 else "", fsync)
                new.append(name)
            if len(new) > _KEPT:
                gone = new.pop(0)
                say("remove", gone)
                os.unlink(top / gone)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.support.powercut")
    parser.add_argument("kinds", nargs="+", metavar="ext4|xfs|btrfs")
    parser.add_argument("--snapshots", type=int, default=300)
    parser.add_argument("--without", action="store_true", help="without fsync")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        top, work, log = map(Path, arguments.kinds)
        _copy_on(top, work, log, not arguments.without, arguments.child)
        return
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory(prefix="sparsesync-powercut-") as place:
            found = cut(kind, Path(place), arguments.snapshots, not arguments.without, arguments.seed)
        how = "without" if arguments.without else "with"
        print(f"{kind}, {how} fsync: {found.snapshots} snapshots, {dict(found.counts)}", flush=True)
        for wrong in found.wrong[:5]:
            print(f"  {wrong}", flush=True)


if __name__ == "__main__":
    main()
