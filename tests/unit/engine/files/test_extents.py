"""Where the data is, on real files; judged by qemu-img and by reading."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.engine.files.claims import file_size, is_view, looks_sparse
from sparsesync.engine.files.extents import extents, is_sparse, nonzero
from tests.support.filesystems import (
    KINDS,
    Mounted,
    command,
    loop_device,
    need,
    need_root,
    need_tools,
    qemu_map,
    sparse_file,
)

KIB = 1024
MIB = 1024 * KIB

LAYOUTS = {
    "empty": (0, []),
    "all hole": (10 * MIB, []),
    "hole at the start": (2 * MIB, [(MIB, MIB)]),
    "hole at the end": (2 * MIB, [(0, MIB)]),
    "dense": (MIB, [(0, MIB)]),
    "odd size": (3 * MIB + 1234, [(MIB, 64 * KIB), (3 * MIB, 1234)]),
    "several": (8 * MIB, [(0, 64 * KIB), (MIB, 64 * KIB), (5 * MIB, MIB)]),
}


def listed(path: Path, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(extents(fd, start, end))
    finally:
        os.close(fd)


def expected(path: Path) -> list[tuple[int, int]]:
    return [(int(str(p["start"])), int(str(p["length"]))) for p in qemu_map(path) if p["data"]]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_as_qemu_img_sees_it(each_filesystem: Path, layout: str) -> None:
    size, data = LAYOUTS[layout]
    path = sparse_file(each_filesystem / "f", size, data)
    # Not flushed on purpose: data in the page cache alone must be seen.
    assert listed(path) == expected(path)
    fd = os.open(path, os.O_RDONLY)
    assert is_sparse(fd) == (sum(length for _, length in data) < size)
    os.close(fd)


def test_preallocated_ranges_are_holes(each_filesystem: Path) -> None:
    need_tools("fallocate")
    path = sparse_file(each_filesystem / "f", 8 * MIB, [(0, 64 * KIB)])
    command("fallocate", "-o", str(MIB), "-l", str(4 * MIB), path)
    os.sync()
    assert listed(path) == [(0, 64 * KIB)]
    assert os.stat(path).st_blocks * 512 >= 4 * MIB


def test_between_two_offsets(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "f", 8 * MIB, [(MIB, 2 * MIB), (6 * MIB, MIB)])
    assert listed(path, 2 * MIB, 6 * MIB + 4096) == [(2 * MIB, MIB), (6 * MIB, 4096)]
    assert listed(path, 4 * MIB, 5 * MIB) == []
    assert listed(path, 9 * MIB, 10 * MIB) == []


def test_a_file_that_shrinks_or_grows_while_it_is_mapped(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "f", 8 * MIB, [(0, 4096), (4 * MIB, 4096), (7 * MIB, 4096)])
    fd = os.open(path, os.O_RDWR)
    stream = extents(fd)
    assert next(stream) == (0, 4096)
    os.ftruncate(fd, 5 * MIB)
    assert list(stream) == [(4 * MIB, 4096)]
    stream = extents(fd)
    assert next(stream) == (0, 4096)
    os.pwrite(fd, b"x" * 4096, 6 * MIB)
    assert list(stream) == [(4 * MIB, 4096)]
    os.close(fd)


def test_of_a_block_device_zeros_are_holes(tmp_path: Path) -> None:
    image = sparse_file(tmp_path / "image", 4 * MIB, [(0, 4096)])
    with loop_device(image) as loop:
        fd = os.open(loop, os.O_RDONLY)
        assert file_size(fd) == 4 * MIB
        assert list(extents(fd)) == [(0, 4096)]
        assert list(extents(fd, holes="trust")) == [(0, 4096)]  # there is nothing to be trusted
        assert is_sparse(fd)
        os.close(fd)


def test_a_filesystem_that_does_not_know_its_holes_is_read(tmp_path: Path) -> None:
    need_root("FUSE needs root")
    need(os.path.exists("/dev/fuse"), "FUSE needs /dev/fuse")
    need_tools("bindfs")
    below, mounted = tmp_path / "below", tmp_path / "mounted"
    below.mkdir()
    mounted.mkdir()
    data = [(MIB, 64 * KIB), (3 * MIB, 4096)]
    sparse_file(below / "f", 4 * MIB + 5, data)
    sparse_file(below / "dense", MIB, [(0, MIB)])
    command("bindfs", below, mounted)
    try:
        fd = os.open(mounted / "f", os.O_RDONLY)
        stub = os.lseek(fd, 0, os.SEEK_HOLE) == 4 * MIB + 5
        need(stub, "bindfs answers SEEK_HOLE itself here")
        assert looks_sparse(os.fstat(fd))
        assert list(extents(fd)) == data
        assert list(extents(fd, MIB + 4096, 2 * MIB)) == [(MIB + 4096, 60 * KIB)]
        assert is_sparse(fd)
        os.close(fd)
        assert listed(mounted / "dense") == [(0, MIB)]
    finally:
        command("umount", mounted)


def test_files_that_do_not_know_their_size(tmp_path: Path, mounted: Mounted) -> None:
    for path in ("/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"):
        need(os.path.exists(path), f"there is no {path}")
        with open(path, "rb") as file:
            assert is_view(file.fileno())
    for place in (tmp_path, *(mounted(kind) for kind in KINDS)):
        for name, size, layout in (("empty", 0, []), ("hole", 1 << 20, []), ("byte", 1, [(0, 1)])):
            with open(sparse_file(place / name, size, layout), "rb") as file:
                assert not is_view(file.fileno())


def test_a_file_that_is_shorter_than_it_says() -> None:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    need(os.path.exists(path), f"there is no {path}")
    with open(path, "rb") as file, pytest.raises(OSError, match="ends before its size says"):
        list(extents(file.fileno()))


def test_a_truthful_filesystem_is_not_read(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse_file(mounted("ext4") / "f", 4 * MIB, [(0, 4096)])
    monkeypatch.setattr(os, "pread", lambda *arguments: pytest.fail("it was read"))
    assert listed(path) == [(0, 4096)]


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 8)), max_size=6),
    st.integers(0, 70 * 512),
    st.integers(0, 70 * 512),
    st.sampled_from([512, 1000, 4096]),
)
def test_nonzero_finds_every_byte(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[int, int]], start: int, length: int, block: int
) -> None:
    content = bytearray(64 * 512)
    for offset, count in runs:
        content[offset * 512 : (offset + count) * 512] = b"x" * len(content[offset * 512 : (offset + count) * 512])
    path = tmp_path_factory.getbasetemp() / "nonzero"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    found = list(nonzero(fd, start, length, block))
    os.close(fd)
    end = min(start + length, len(content))
    kept = bytearray(len(content))
    for offset, count in found:
        assert start <= offset and offset + count <= end
        assert any(content[offset : offset + count])
        kept[offset : offset + count] = content[offset : offset + count]
    assert kept[start:end] == content[start:end]
    assert all(a[0] + a[1] < b[0] for a, b in zip(found, found[1:]))


def test_memory_does_not_grow_with_the_extents(mounted: Mounted) -> None:
    path = mounted("tmpfs") / "many"
    with open(path, "wb") as file:
        for number in range(20_000):
            file.seek(number * 16384)
            file.write(b"x" * 4096)
    fd = os.open(path, os.O_RDONLY)
    tracemalloc.start()
    count = sum(1 for _ in extents(fd))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    os.close(fd)
    assert count == 20_000
    assert peak < 100 * KIB
