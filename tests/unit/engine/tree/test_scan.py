from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from sparsesync.engine.errors import OnError
from sparsesync.engine.files.status import data_size
from sparsesync.engine.tree.scan import ScanOptions, scan
from tests.support.filesystems import Mounted, command, filesystem, need_root, sparse_file

MIB = 1 << 20


def names(top: Path, on_error: OnError = None, **options: Any) -> list[str]:
    found = scan(str(top), ScanOptions(**options), on_error=on_error)
    return sorted(os.path.relpath(file.path, top) for file in found)


def test_finds_the_sparse_files(each_filesystem: Path) -> None:
    (each_filesystem / "a/b").mkdir(parents=True)
    sparse_file(each_filesystem / "a/b/img", 10 * MIB, [(MIB, MIB)])
    sparse_file(each_filesystem / "hole", MIB, [])
    sparse_file(each_filesystem / "dense", MIB, [(0, MIB)])
    (each_filesystem / "empty").write_bytes(b"")
    (each_filesystem / "tiny").write_bytes(b"x")
    (each_filesystem / "link").symlink_to("a")
    os.mkfifo(each_filesystem / "fifo")
    odd = os.fsdecode(os.fsencode(each_filesystem) + b"/\xff\n")
    sparse_file(Path(odd), MIB, [])
    os.sync()
    assert names(each_filesystem) == sorted(["a/b/img", "hole", os.path.basename(odd)])
    assert names(each_filesystem, min_size=2 * MIB) == ["a/b/img"]
    assert names(each_filesystem, prune={f"{each_filesystem}/a"}) == sorted(["hole", os.path.basename(odd)])
    assert "dense" in names(each_filesystem, every_file=True) and "fifo" not in names(each_filesystem, every_file=True)
    (found,) = scan(f"{each_filesystem}/a/b/img")
    assert (found.size, found.allocated) == (10 * MIB, os.stat(each_filesystem / "a/b/img").st_blocks * 512)
    assert data_size(found.path) == (MIB, 1, 0)


def test_hard_links_once_unless_all_are_wanted(tmp_path: Path) -> None:
    sparse_file(tmp_path / "one", MIB, [])
    os.link(tmp_path / "one", tmp_path / "two")
    assert len(names(tmp_path)) == 1
    assert names(tmp_path, every_link=True) == ["one", "two"]


def test_preallocated_and_compressed_look_alikes(tmp_path: Path, mounted: Mounted) -> None:
    with filesystem("btrfs", tmp_path / "fs", "300M", options="compress-force=zstd") as top:
        (top / "compressed").write_bytes(b"x" * 8 * MIB)
        sparse_file(top / "sparse", 8 * MIB, [(0, MIB)])
        os.sync()
        assert names(top) == ["sparse"]


def test_other_filesystems(tmp_path: Path) -> None:
    need_root("mounting needs root")
    sparse_file(tmp_path / "here", MIB, [])
    (tmp_path / "mnt").mkdir()
    (tmp_path / "proc").mkdir()
    command("mount", "-t", "tmpfs", "tmpfs", tmp_path / "mnt")
    command("mount", "-t", "proc", "proc", tmp_path / "proc")
    try:
        sparse_file(tmp_path / "mnt/there", MIB, [])
        # /proc/kcore looks like the largest sparse file of all.
        assert names(tmp_path) == ["here", "mnt/there"]
        assert names(tmp_path, one_file_system=True) == ["here"]
        assert list(scan(f"{tmp_path}/proc")) == []
    finally:
        command("umount", tmp_path / "mnt")
        command("umount", tmp_path / "proc")


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    sparse_file(tmp_path / "img", MIB, [])
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    told: list[OSError] = []
    assert names(tmp_path, on_error=told.append) == ["img"]
    assert [error.filename for error in told] == [f"{tmp_path}/locked"]
    with pytest.raises(PermissionError):
        list(scan(str(tmp_path)))
    with pytest.raises(FileNotFoundError):
        list(scan(str(tmp_path / "none"), on_error=told.append))


def test_devtmpfs_is_no_view_of_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in /dev/shm hold what was written to them, also where no tmpfs of its own is mounted there."""
    sparse_file(tmp_path / "img", MIB, [])
    monkeypatch.setattr("sparsesync.engine.tree.scan.filesystem_type", lambda device: "devtmpfs")
    assert names(tmp_path) == ["img"]
