"""Zeros become holes in place, on real filesystems; judged by cmp, stat and qemu-img, and by who writes meanwhile."""

from __future__ import annotations

import errno
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsesync.engine.files import dig as module
from sparsesync.engine.files.dig import dig, measure
from sparsesync.engine.files.extents import nonzero
from sparsesync.engine.files.syscalls import has_lease
from tests.support.filesystems import (
    Mounted,
    allocated,
    command,
    data_bytes,
    filesystem,
    need,
    need_root,
    need_tools,
    same_content,
    sparse_file,
    unwritten,
)

KIB = 1024
MIB = 1024 * KIB
SIZE = 12 * MIB + 1234
EXTENTS = [(0, 64 * KIB), (5 * MIB + 4096, 8192), (9 * MIB, 300 * KIB), (12 * MIB, 1234)]
TIME = 1_234_567_890_123_456_789


@pytest.fixture
def top(each_filesystem: Path) -> Path:
    """``sparse``, and ``dense`` with the same content and no hole."""
    return made(each_filesystem)


def made(top: Path, size: int = SIZE, extents: list[tuple[int, int]] = EXTENTS) -> Path:
    sparse_file(top / "sparse", size, extents)
    command("cp", "--reflink=never", "--sparse=never", top / "sparse", top / "dense")
    os.chmod(top / "dense", 0o640)
    os.utime(top / "dense", ns=(TIME - 1, TIME))
    assert allocated(top / "dense") >= size - size % 4096
    return top


def holes(size: int = SIZE, extents: list[tuple[int, int]] = EXTENTS) -> list[tuple[int, int]]:
    ends = [0, *(offset + length for offset, length in extents)]
    starts = [*(offset for offset, _ in extents), size]
    return [(end, start - end) for end, start in zip(ends, starts) if start > end]


def state(path: Path) -> tuple[object, ...]:
    """Everything of a file that must not change; its ctime has to."""
    st = os.stat(path)
    return st.st_ino, st.st_size, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_mtime_ns, os.listxattr(path)


@pytest.mark.parametrize("ranges", [None, holes()])
def test_zeros_become_holes_and_nothing_else_changes(top: Path, ranges: list[tuple[int, int]] | None) -> None:
    before = state(top / "dense")
    atime = os.stat(top / "dense").st_atime_ns
    dug = dig(str(top / "dense"), ranges, size=SIZE)
    assert dug.why is None and state(top / "dense") == before
    assert os.stat(top / "dense").st_atime_ns == atime
    assert same_content(top / "sparse", top / "dense")
    assert data_bytes(top / "dense") == data_bytes(top / "sparse")
    assert dug.holes == sum(length - length % 4096 for _, length in holes())
    assert allocated(top / "dense") <= allocated(top / "sparse") + 64 * KIB
    changed = os.stat(top / "dense").st_ctime_ns
    assert dig(str(top / "dense"), ranges, size=SIZE) == (0, None)
    assert os.stat(top / "dense").st_ctime_ns == changed


def test_only_whole_blocks_in_the_ranges_are_dug(top: Path) -> None:
    ranges = [(MIB + 1, 64 * KIB), (2 * MIB, 4095), (3 * MIB, 4096), (12 * MIB - 8192, 8192 + 1234)]
    assert measure(str(top / "dense"), ranges) == 60 * KIB + 4096 + 8192 + 1234
    assert dig(str(top / "dense"), ranges).holes == 60 * KIB + 4096 + 8192
    assert same_content(top / "sparse", top / "dense")
    assert measure(str(top / "dense"), ranges) == 1234


def test_zeros_at_an_end_within_a_block_become_a_hole(top: Path) -> None:
    (top / "f").write_bytes(b"x" * 4096 + bytes(4096 + 100))
    assert dig(str(top / "f")) == (4096 + 100, None)
    assert (data_bytes(top / "f"), (top / "f").read_bytes()) == (4096, b"x" * 4096 + bytes(4096 + 100))
    (top / "empty").touch()
    assert dig(str(top / "empty")) == (0, None)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_what_is_reserved_stays_reserved(mounted: Mounted, kind: str) -> None:
    need_tools("fallocate")
    top = made(mounted(kind))
    command("fallocate", "-n", "-o", str(16 * MIB), "-l", str(MIB), top / "dense")
    command("fallocate", "-o", str(20 * MIB), "-l", str(MIB), top / "dense")
    os.sync()
    before = unwritten(top / "dense")
    assert before and dig(str(top / "dense")).holes
    assert unwritten(top / "dense") == before


def test_a_shared_file_is_dug_alone(top: Path) -> None:
    """Its other name has the holes, too; a file that shares its extents is as it was."""
    os.link(top / "dense", top / "name")
    reflink = subprocess.run(["cp", "--reflink=always", top / "dense", top / "clone"], stderr=subprocess.DEVNULL)
    os.sync()
    before = os.stat(top / "clone") if reflink.returncode == 0 else None
    assert dig(str(top / "dense")).holes
    assert same_content(top / "sparse", top / "name") and os.path.samefile(top / "dense", top / "name")
    if before is not None:
        now = os.stat(top / "clone")
        assert (now.st_blocks, now.st_ctime_ns) == (before.st_blocks, before.st_ctime_ns)
        assert same_content(top / "sparse", top / "clone")


@pytest.mark.parametrize("how", ["read", "write", "map"])
def test_a_file_that_is_open_is_left(top: Path, how: str) -> None:
    fd = os.open(top / "dense", os.O_RDONLY if how == "read" else os.O_RDWR)
    before = os.stat(top / "dense")
    if how == "map":
        view = mmap.mmap(fd, 4096)
        os.close(fd)
    with pytest.raises(OSError, match="has it open") as caught:
        dig(str(top / "dense"))
    assert caught.value.errno == errno.EBUSY
    assert os.stat(top / "dense")[:7] + os.stat(top / "dense")[8:] == before[:7] + before[8:]
    view.close() if how == "map" else os.close(fd)
    assert dig(str(top / "dense")).holes


def test_a_file_that_somebody_opens_meanwhile_is_given_up(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """He writes where zeros were read already; nothing of it is lost, nor the time of it."""
    writers: list[subprocess.Popen[bytes]] = []

    def read(fd: int, *where: int) -> Iterator[tuple[int, int]]:
        found = list(nonzero(fd, *where))
        if where[0] == 4 * MIB:
            code = "import os, sys; os.pwrite(os.open(sys.argv[1], os.O_WRONLY), b'new', 6 << 20)"
            writers.append(subprocess.Popen([sys.executable, "-c", code, str(top / "dense")]))
            for _ in range(200):
                if not has_lease(fd):
                    break
                time.sleep(0.01)
            assert writers[0].poll() is None  # it waits
        return iter(found)

    monkeypatch.setattr(module, "nonzero", read)
    dug = dig(str(top / "dense"))
    assert dug == (4 * MIB - 64 * KIB, "somebody opened it meanwhile")
    assert writers[0].wait(20) == 0
    with open(top / "sparse", "r+b") as file:
        os.pwrite(file.fileno(), b"new", 6 * MIB)
    assert same_content(top / "sparse", top / "dense")
    assert os.stat(top / "dense").st_mtime_ns > TIME


WRITER = """
import mmap, os, random, sys, time
path, seed, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(seed)
for number in range(int(sys.argv[4])):
    at = rng.randrange(size // 4096) * 4096
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, bytes(64), at + 1024)  # now there are zeros to be dug
    os.close(fd)
    time.sleep(0.0001)
    fd = os.open(path, os.O_RDWR)
    if number % 2:
        os.pwrite(fd, b"w", at + seed)
        os.close(fd)
    else:
        view = mmap.mmap(fd, 0)
        os.close(fd)
        view[at + seed] = ord("w")
        view.close()
"""


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_those_who_write_meanwhile_lose_nothing(mounted: Mounted, kind: str) -> None:
    top = mounted(kind)
    size, count = 16 * MIB, 300
    sparse_file(top / "f", size, [])
    argv = [sys.executable, "-c", WRITER, str(top / "f")]
    writers = [subprocess.Popen([*argv, str(seed), str(size), str(count)]) for seed in (1, 2)]
    dug = 0
    while any(writer.poll() is None for writer in writers):
        try:
            dug += dig(str(top / "f")).holes
        except OSError as error:
            assert error.errno in (errno.EBUSY, errno.EAGAIN)
    expected = bytearray(size)
    for seed in (1, 2):
        rng = random.Random(seed)
        for _ in range(count):
            expected[rng.randrange(size // 4096) * 4096 + seed] = ord("w")
    assert (top / "f").read_bytes() == expected
    assert dug


def test_what_is_none_of_ours_to_dig_is_left(tmp_path: Path) -> None:
    need_root("capabilities need root")
    (tmp_path / "f").write_bytes(bytes(MIB))
    for size in (5, MIB - 1, MIB + 1):
        with pytest.raises(OSError, match="changed meanwhile"):
            dig(str(tmp_path / "f"), size=size)
    os.symlink("f", tmp_path / "link")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", "."):
        with pytest.raises(shutil.SpecialFileError):
            dig(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        dig(str(tmp_path / "none"))
    os.chmod(tmp_path / "f", 0o4755)
    with pytest.raises(PermissionError, match="setuid"):
        dig(str(tmp_path / "f"))
    os.chmod(tmp_path / "f", 0o755)
    capability = b"\x01\x00\x00\x02\x00\x04" + bytes(14)
    os.setxattr(tmp_path / "f", "security.capability", capability)
    with pytest.raises(PermissionError, match="capabilities"):
        dig(str(tmp_path / "f"))
    assert os.getxattr(tmp_path / "f", "security.capability") == capability
    os.removexattr(tmp_path / "f", "security.capability")
    assert dig(str(tmp_path / "link"), follow=True).holes == MIB


def test_where_others_may_write_unseen_nothing_is_dug(tmp_path: Path) -> None:
    need_root("FUSE needs root")
    need(os.path.exists("/dev/fuse"), "FUSE needs /dev/fuse")
    need_tools("bindfs")
    for name in ("below", "mounted"):
        (tmp_path / name).mkdir()
    (tmp_path / "below/f").write_bytes(bytes(MIB))
    command("bindfs", tmp_path / "below", tmp_path / "mounted")
    try:
        with pytest.raises(OSError, match="cannot tell who else"):
            dig(str(tmp_path / "mounted/f"))
        assert measure(str(tmp_path / "mounted/f"), [(0, MIB)]) == 0
    finally:
        command("umount", tmp_path / "mounted")
    assert allocated(tmp_path / "below/f") == MIB


def test_a_filesystem_of_small_blocks(tmp_path: Path) -> None:
    with filesystem("ext4-1k", tmp_path / "fs", "64M") as top:
        made(top, MIB, [(0, 1024), (10 * KIB, 1024), (MIB - 100, 100)])
        assert dig(str(top / "dense")).holes == MIB - 3 * KIB
        assert same_content(top / "sparse", top / "dense")
        assert data_bytes(top / "dense") == 3 * KIB - 1024 + 1024
