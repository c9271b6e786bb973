"""Real filesystems in loop files, and the tools that judge what is on them.

Nothing here uses the code under test: content is compared by cmp(1), holes are read
from qemu-img, sizes from stat.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Mounted = Callable[[str], Path]
"""Gives an empty directory on a mounted filesystem of a kind."""

KINDS = ("ext4", "xfs", "btrfs", "tmpfs")
_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "ext4-1k": ["mkfs.ext4", "-q", "-F", "-b", "1024"],
    "ext4-small-inodes": ["mkfs.ext4", "-q", "-F", "-I", "128"],
    "ext4-inline": ["mkfs.ext4", "-q", "-F", "-O", "inline_data"],
    "ext4-bigalloc": ["mkfs.ext4", "-q", "-F", "-O", "bigalloc", "-C", "65536"],
    "ext4-encrypt": ["mkfs.ext4", "-q", "-F", "-O", "encrypt"],
    "ext4-128": ["mkfs.ext4", "-q", "-F", "-I", "128"],
    "xfs-2038": ["mkfs.xfs", "-q", "-f", "-m", "bigtime=0"],
    "vfat": ["mkfs.vfat"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "exfat": ["mkfs.exfat"],
}


def need(present: bool, reason: str) -> None:
    """Skip the test if something it needs is missing; on CI nothing may be missing."""
    if not present:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def need_root(reason: str) -> None:
    """Skip the test for anyone but root. Whatever calls this has the marker ``root``."""
    need(os.geteuid() == 0, reason)


def need_tools(*tools: str) -> None:
    for tool in tools:
        need(shutil.which(tool) is not None, f"{tool} is not installed")


def command(*argv: str | os.PathLike[str]) -> str:
    """Run a command that must succeed; its output."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    assert done.returncode == 0, (argv, done.stdout)
    return done.stdout.decode()


@contextlib.contextmanager
def loop_device(image: Path, *options: str) -> Iterator[str]:
    """A loop device with a file attached; ``options`` are those of losetup(8)."""
    need_root("loop devices need root")
    need_tools("losetup")
    loop = command("losetup", "-f", "--show", *options, image).strip()
    try:
        yield loop
    finally:
        command("losetup", "-d", loop)


@contextlib.contextmanager
def made_on(device: str, kind: str, mountpoint: Path, options: str = "defaults") -> Iterator[Path]:
    """A new filesystem of a kind on a block device, mounted at a new directory."""
    need_tools(_MAKE[kind][0], "mount", "umount")
    if kind == "vfat" and not re.search("\tvfat$", Path("/proc/filesystems").read_text(), re.MULTILINE):
        pytest.skip("this kernel has no vfat")
    command(*_MAKE[kind], device)
    mountpoint.mkdir()
    if kind == "exfat":
        need_tools("mount.exfat-fuse")
        command("mount.exfat-fuse", device, mountpoint)
    else:
        command("mount", "-t", kind.partition("-")[0], "-o", options, device, mountpoint)
    try:
        yield mountpoint
    finally:
        command("umount", mountpoint)


@contextlib.contextmanager
def filesystem(kind: str, place: Path, size: str = "1G", options: str = "defaults") -> Iterator[Path]:
    """A new filesystem of a kind, mounted below ``place``; unmounted and gone afterwards."""
    need_root("mounting needs root")
    place.mkdir(parents=True, exist_ok=True)
    mountpoint, image = place / "mnt", place / "image"
    if kind == "tmpfs":
        mountpoint.mkdir()
        command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mountpoint)
        try:
            yield mountpoint
        finally:
            command("umount", mountpoint)
    else:
        command("truncate", "-s", size, image)
        with loop_device(image) as loop, made_on(loop, kind, mountpoint, options):
            yield mountpoint
        image.unlink(missing_ok=True)


@contextlib.contextmanager
def dead_mount(mountpoint: Path) -> Iterator[None]:
    """A mount at an empty directory that does not answer: whoever asks it anything waits."""
    need_root("FUSE needs root")
    need(os.path.exists("/dev/fuse"), "FUSE needs /dev/fuse")
    need_tools("bindfs", "fusermount")
    with subprocess.Popen(["bindfs", "-f", mountpoint.parent, mountpoint]) as server:
        while not os.path.ismount(mountpoint):
            assert server.poll() is None
            time.sleep(0.01)
        server.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.send_signal(signal.SIGCONT)
            command("fusermount", "-u", mountpoint)


def sparse_file(path: Path, size: int, extents: list[tuple[int, int]], seed: int = 1) -> Path:
    """A file of ``size`` bytes with data, none of it zeros, at the (offset, length) extents."""
    with open(path, "wb") as file:
        file.truncate(size)
        for number, (offset, length) in enumerate(extents):
            file.seek(offset)
            file.write(bytes([1 + (seed + number) % 255]) * min(length, size - offset))
    return path


def device(path: Path, minor: int) -> Path:
    """A node of our own for /dev/null (3) or /dev/full (7): a mistake must not replace the machine's."""
    need_root("making a device needs root")
    os.mknod(path, 0o644 | stat.S_IFCHR, os.makedev(1, minor))
    return path


def _extents(path: Path) -> Iterator[tuple[int, int, str]]:
    """Offset, length and flags of each extent, as filefrag sees them once the file is flushed."""
    need_tools("filefrag")
    for line in command("filefrag", "-s", "-b1", "-v", path).splitlines():
        fields = line.split(":")
        if len(fields) > 4 and fields[0].strip().isdigit():
            start, end = (int(number) for number in fields[1].split(".."))
            yield start, end + 1 - start, fields[-1]


def unwritten(path: Path) -> list[tuple[int, int]]:
    """The reserved ranges of a file; neighbours are one."""
    found: list[tuple[int, int]] = []
    for start, length, flags in _extents(path):
        if "unwritten" in flags:
            if found and sum(found[-1]) == start:
                start, length = found[-1][0], found.pop()[1] + length
            found.append((start, length))
    return found


def written_bytes(path: Path) -> int:
    """Bytes inside extents that hold data. Unlike st_blocks without a filesystem's own, unlike SEEK_DATA without what
    is only reserved and has been read.
    """
    return sum(length for _, length, flags in _extents(path) if "unwritten" not in flags)


def shared_bytes(path: Path) -> int:
    """Bytes inside extents that another file has too."""
    return sum(length for _, length, flags in _extents(path) if "shared" in flags)


def same_content(a: Path, b: Path) -> bool:
    return subprocess.run(["cmp", "-s", "--", a, b], timeout=120).returncode == 0


def qemu_map(path: Path) -> list[dict[str, object]]:
    """The file's map as qemu-img sees it."""
    need_tools("qemu-img")
    listed = json.loads(command("qemu-img", "map", "--output=json", "-f", "raw", str(path)))
    assert isinstance(listed, list)
    return listed


def data_bytes(path: Path) -> int:
    """Bytes inside data extents, as qemu-img sees them."""
    return sum(int(str(part["length"])) for part in qemu_map(path) if part["data"])


def allocated(path: Path) -> int:
    return os.stat(path).st_blocks * 512
