"""Copies to mounts that take content, but not in the way that a local disk does."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import allocated, command, data_bytes, filesystem, need_tools, same_content, sparse_file
from tests.support.sshd import sshd

MIB = 1 << 20


@contextlib.contextmanager
def sshfs(below: Path, top: Path) -> Iterator[Path]:
    """What is below, by way of SFTP."""
    need_tools("sshfs", "fusermount3")
    mountpoint = top / "sshfs"
    mountpoint.mkdir()
    with sshd(top / "sshd", server="Subsystem sftp internal-sftp") as server:
        command("sshfs", "-o", f"ssh_command={server.rsh}", f"host:{below}", mountpoint)
        try:
            yield mountpoint
        finally:
            command("fusermount3", "-u", mountpoint)


def test_a_mount_that_makes_its_blocks_up(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    sparse_file(source / "disk", 300 * MIB, [(200 * MIB, 4096)])
    with filesystem("ext4", tmp_path / "fs", "200M") as small, sshfs(small, tmp_path) as mount:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsesync.copyfile(source / "disk", mount / "copy")
        assert allocated(small / "copy") < MIB and same_content(source / "disk", small / "copy")
        done = subprocess.run(
            [sys.executable, "-m", "sparsesync", "sync", "-rt", f"{source}/", f"{mount}/sub"], capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert allocated(small / "sub/disk") < MIB and same_content(source / "disk", small / "sub/disk")
        dense = sparse_file(tmp_path / "dense", 220 * MIB, [(0, 220 * MIB)])
        with pytest.raises(sparsesync.NoSpaceError):
            sparsesync.copyfile(dense, mount / "dense")
        assert sorted(path.name for path in small.iterdir()) == ["copy", "lost+found", "sub"]


def _text(path: Path, size: int, tail: int = 0) -> Path:
    """A file that compresses well, with a hole at its end."""
    line = b"some words that come again and again, "
    path.write_bytes(line * (size // len(line)))
    os.truncate(path, size + tail)
    return path


@pytest.mark.parametrize("how", ["mount option", "chattr"])
def test_where_it_is_compressed_free_space_is_no_verdict(tmp_path: Path, how: str) -> None:
    options = "compress-force=zstd" if how == "mount option" else "defaults"
    source = tmp_path / "src"
    source.mkdir()
    text = _text(source / "text", 180 * MIB, tail=300 * MIB)
    with filesystem("btrfs", tmp_path / "fs", "160M", options) as mount:
        top = mount / "top"
        top.mkdir()
        if how == "chattr":
            command("chattr", "+c", top)
        sparsesync.copyfile(text, top / "copy")
        assert same_content(text, top / "copy") and data_bytes(top / "copy") <= 181 * MIB
        sparsesync.copyfile(text, top / "copy", inplace=True)
        os.unlink(top / "copy")
        done = subprocess.run(
            [sys.executable, "-m", "sparsesync", "sync", "-a", f"{source}/", top], capture_output=True
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert same_content(text, top / "text") and data_bytes(top / "text") <= 181 * MIB
        # It is tried; and if it does not fit after all, that ends as cleanly as elsewhere.
        noise = sparse_file(tmp_path / "noise", 180 * MIB, [])
        with open(noise, "r+b") as out:
            for _ in range(180):
                out.write(os.urandom(MIB))
        with pytest.raises(OSError) as raised:
            sparsesync.copyfile(noise, top / "text")
        assert raised.value.errno == errno.ENOSPC and raised.value.filename == str(top / "text")
        assert os.listdir(top) == ["text"] and same_content(text, top / "text")
