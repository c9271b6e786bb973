"""Where a file's holes are, and how it gets more of them; judged by qemu-img, cmp and stat."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import sparsesync
from sparsesync.engine.files import status
from tests.support.filesystems import (
    allocated,
    command,
    data_bytes,
    filesystem,
    loop_device,
    need_root,
    need_tools,
    qemu_map,
    same_content,
    sparse_file,
)
from tests.support.sshd import Sshd

KIB, MIB = 1024, 1 << 20
SIZE = 8 * MIB + 5
EXTENTS = [(0, 64 * KIB), (2 * MIB, MIB), (8 * MIB, 5)]


@pytest.fixture
def sparse(each_filesystem: Path) -> Path:
    return sparse_file(each_filesystem / "sparse", SIZE, EXTENTS)


def told_by_qemu(path: Path) -> list[tuple[int, int, bool]]:
    """Offset, length and whether it is data, of each part; qemu-img counts in whole sectors."""
    found = [(int(str(part["start"])), int(str(part["length"])), bool(part["data"])) for part in qemu_map(path)]
    return [(start, min(length, SIZE - start), data) for start, length, data in found if start < SIZE]


def test_extents_of_a_path_and_of_a_descriptor(sparse: Path) -> None:
    expected = [(offset, length) for offset, length, data in told_by_qemu(sparse) if data]
    found = list(sparsesync.extents(sparse))
    assert expected == found == list(sparsesync.extents(str(sparse)))
    with open(sparse, "rb") as file:
        assert list(sparsesync.extents(file.fileno())) == found
        assert list(sparsesync.extents(file.fileno(), 2 * MIB + 10, 4 * MIB)) == [(2 * MIB + 10, MIB - 10)]


@pytest.mark.parametrize("reopens", [True, False])
def test_the_offset_stays_where_it_is(sparse: Path, monkeypatch: pytest.MonkeyPatch, reopens: bool) -> None:
    expected = list(sparsesync.extents(sparse))
    opened: list[str] = []

    def open_quietly(path: str, flags: int = 0, directory: int | None = None) -> int:
        opened.append(path)
        if not reopens:
            raise PermissionError(errno.EACCES, "as if by somebody who may do more", path)
        return os.open(path, os.O_RDONLY)

    monkeypatch.setattr(status, "open_quietly", open_quietly)
    with open(sparse, "rb", buffering=0) as file:
        file.seek(12345)
        for holes in ("auto", "read"):
            found = []
            for extent in sparsesync.extents(file.fileno(), holes=holes):
                assert file.tell() == 12345
                found.append(extent)
            assert found == expected and file.tell() == 12345
        assert sparsesync.is_sparse(file.fileno()) and file.tell() == 12345
        early = sparsesync.extents(file.fileno())
        next(early)
        early.close()  # type: ignore[attr-defined]
        assert file.tell() == 12345
        assert os.read(file.fileno(), 5) == sparse.read_bytes()[12345:12350]
        assert opened == [f"/proc/self/fd/{file.fileno()}"] * 4


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "f", SIZE, EXTENTS)
    before = os.listdir("/proc/self/fd")
    never, begun = sparsesync.extents(path), sparsesync.extents(path)
    next(begun)
    del never, begun
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_is_sparse(each_filesystem: Path) -> None:
    need_tools("fallocate")
    sparse = sparse_file(each_filesystem / "sparse", SIZE, EXTENTS)
    dense = sparse_file(each_filesystem / "dense", MIB, [(0, MIB)])
    (each_filesystem / "empty").touch()
    command("fallocate", "-l", "1M", each_filesystem / "reserved")
    is_sparse = sparsesync.is_sparse
    assert is_sparse(sparse) and not is_sparse(dense) and not is_sparse(str(each_filesystem / "empty"))
    assert is_sparse(each_filesystem / "reserved")
    with open(dense, "rb") as file:
        assert not is_sparse(file.fileno())


REFUSED: list[Callable[[Path], object]] = [
    lambda path: next(sparsesync.extents(path)),
    lambda path: sparsesync.is_sparse(path),
    lambda path: next(sparsesync.map(path)),
    lambda path: sparsesync.punch(path, [(0, 4096)]),
    lambda path: sparsesync.dig(path),
]


@pytest.mark.parametrize("call", REFUSED)
def test_what_is_no_file_is_refused(tmp_path: Path, call: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(shutil.SpecialFileError):
        call(tmp_path / "pipe")
    with pytest.raises((IsADirectoryError, shutil.SpecialFileError)):
        call(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        call(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")


def test_unknown_choices_are_refused_at_once(tmp_path: Path) -> None:
    for function in (sparsesync.extents, sparsesync.map):
        with pytest.raises(ValueError, match="holes must be"):
            function(tmp_path, holes="maybe")  # type: ignore[arg-type]
    reading, writing = os.pipe()
    with pytest.raises(shutil.SpecialFileError):
        next(sparsesync.extents(reading))
    for fd in (reading, writing):
        os.close(fd)
    with pytest.raises(OSError) as caught:
        next(sparsesync.extents(reading))
    assert caught.value.errno == errno.EBADF


def test_map_covers_the_file(sparse: Path) -> None:
    found = list(sparsesync.map(sparse))
    assert [(each.offset, each.length, each.data) for each in found] == told_by_qemu(sparse)
    assert not any(each.reserved for each in found)
    assert found[0]._asdict() == {"offset": 0, "length": 64 * KIB, "data": True, "reserved": False}


def test_map_tells_what_is_reserved(tmp_path: Path) -> None:
    need_tools("fallocate")
    with filesystem("ext4", tmp_path / "fs", size="64M") as top:
        path = sparse_file(top / "f", 4 * MIB, [(0, 64 * KIB)])
        command("fallocate", "-o", "1M", "-l", "1M", path)
        found = [tuple(each) for each in sparsesync.map(path)]
    assert found == [
        (0, 64 * KIB, True, False),
        (64 * KIB, MIB - 64 * KIB, False, False),
        (MIB, MIB, False, True),
        (2 * MIB, 2 * MIB, False, False),
    ]


@pytest.mark.ssh
def test_map_of_a_file_on_another_host(sshd_server: Sshd, tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "f", SIZE, EXTENTS)
    assert list(sparsesync.map(f"host:{path}", rsh=sshd_server.rsh)) == list(sparsesync.map(path))
    with pytest.raises(FileNotFoundError) as caught:
        list(sparsesync.map(f"host:{path}x", rsh=sshd_server.rsh))
    assert caught.value.filename == f"host:{path}x"


def test_map_of_a_block_device(tmp_path: Path) -> None:
    need_root("loop devices need root")
    with loop_device(sparse_file(tmp_path / "f", 4 * MIB, [(MIB, MIB)])) as device:
        assert [tuple(each)[:3] for each in sparsesync.map(device)] == [
            (0, MIB, False), (MIB, MIB, True), (2 * MIB, 2 * MIB, False)
        ]  # fmt: skip
        fd = os.open(device, os.O_RDONLY)
        os.lseek(fd, 77, os.SEEK_SET)
        assert list(sparsesync.extents(fd)) == [(MIB, MIB)]
        assert os.lseek(fd, 0, os.SEEK_CUR) == 77
        os.close(fd)


def test_punch_makes_holes_of_what_is_there(each_filesystem: Path) -> None:
    path = sparse_file(each_filesystem / "f", SIZE, [(0, SIZE)])
    content = bytearray(path.read_bytes())
    os.symlink("f", each_filesystem / "link")
    # Out of order, overlapping, within a block, over the end, and behind it.
    ranges = [(4 * MIB, 3 * MIB), (MIB, 64 * KIB), (5 * MIB, 4096), (100, 50), (8 * MIB, MIB), (20 * MIB, MIB), (9, 0)]
    sparsesync.punch(each_filesystem / "link", iter(ranges))
    for offset, length in ranges:
        content[offset : min(offset + length, SIZE)] = bytes(max(min(offset + length, SIZE) - offset, 0))
    expected = each_filesystem / "expected"
    expected.write_bytes(content)
    assert same_content(path, expected)
    assert data_bytes(path) == 5 * MIB - 64 * KIB
    assert allocated(path) <= 5 * MIB
    for wrong in ((-1, 5), (0, -5)):
        with pytest.raises(ValueError, match="0 or more bytes"):
            sparsesync.punch(path, [(0, MIB), wrong])
    assert same_content(path, expected)


def test_punch_says_where_it_cannot(tmp_path: Path) -> None:
    with filesystem("exfat", tmp_path / "fs", size="64M") as top:
        path = sparse_file(top / "f", MIB, [(0, MIB)])
        with pytest.raises(OSError, match="cannot punch holes") as caught:
            sparsesync.punch(path, [(0, 65536)])
        assert (caught.value.errno, caught.value.filename) == (errno.EOPNOTSUPP, str(path))
        assert path.read_bytes().count(0) == 0


def test_dig_returns_what_became_holes(each_filesystem: Path) -> None:
    sparse = sparse_file(each_filesystem / "sparse", SIZE, EXTENTS)
    dense = each_filesystem / "dense"
    command("cp", "--reflink=never", "--sparse=never", sparse, dense)
    told: list[int] = []
    assert sparsesync.dig(dense, progress=told.append) == 7 * MIB - 64 * KIB
    assert sum(told) == SIZE
    assert same_content(sparse, dense) and data_bytes(dense) == data_bytes(sparse)
    with subprocess.Popen(["sleep", "60"], stdin=open(dense, "rb")) as reader:
        with pytest.raises(OSError, match="somebody has it open") as caught:
            sparsesync.dig(dense)
        reader.kill()
    assert caught.value.errno == errno.EBUSY
