"""``copy --overlay``: a snapshot of what changed is merged into its base, as it is where the snapshot has a hole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import Mounted, allocated, loop_device, sparse_file
from tests.support.shells import local_shell

KIB = 1024
MIB = 1024 * KIB


def merged(base: bytes, diff: Path, extents: list[tuple[int, int]]) -> bytes:
    """What the base is with the extents of the snapshot over it."""
    content, new = bytearray(base), diff.read_bytes()
    content.extend(bytes(max(0, len(new) - len(base))))
    for offset, length in extents:
        content[offset : offset + length] = new[offset : offset + length]
    return bytes(content)


@pytest.mark.parametrize("way", ["local", "push", "pull"])
@pytest.mark.parametrize("size", [3 * MIB, 5 * MIB, MIB + 5])
def test_what_is_a_hole_stays(mounted: Mounted, tmp_path: Path, way: str, size: int) -> None:
    """Zeros that were written are content. The base may be longer, shorter and sparse."""
    top = mounted("ext4")
    extents = [(0, 8 * KIB), (256 * KIB, 64 * KIB), (2 * MIB, 128 * KIB), (3 * MIB - 64 * KIB, 4 * KIB)]
    diff = sparse_file(top / "diff", 3 * MIB, extents)
    with open(diff, "r+b") as file:
        file.seek(2 * MIB)
        file.write(bytes(64 * KIB))
    base = bytearray(os.urandom(size))
    base[512 * KIB : 768 * KIB] = bytes(256 * KIB)
    base[:4096] = diff.read_bytes()[:4096]
    target = sparse_file(top / "base", size, [])
    for start, end in ((0, 512 * KIB), (768 * KIB, size)):
        with open(target, "r+b") as file:
            file.seek(start)
            file.write(base[start:end])
    os.chmod(target, 0o640)
    inode = target.stat().st_ino
    shell = [] if way == "local" else ["-e", local_shell(tmp_path / "rsh")]
    paths = [("host:" if way == "pull" else "") + f"{diff}", ("host:" if way == "push" else "") + f"{target}"]
    argv = [sys.executable, "-m", "sparsesync", "copy", "--overlay", *shell, *paths]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert target.read_bytes() == merged(bytes(base), diff, extents)
    assert (target.stat().st_ino, target.stat().st_mode & 0o777) == (inode, 0o640)
    assert allocated(target) <= size - 256 * KIB + 256 * KIB * (size < 3 * MIB) + 64 * KIB


def test_on_a_block_device(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * (4 * MIB))
    diff = sparse_file(tmp_path / "diff", 3 * MIB, [(MIB, 64 * KIB)])
    with loop_device(tmp_path / "disk") as loop:
        sparsesync.copyfile(diff, loop, overlay=True)
    assert (tmp_path / "disk").read_bytes() == merged(b"x" * (4 * MIB), diff, [(MIB, 64 * KIB)])
    with loop_device(tmp_path / "disk") as loop, pytest.raises(OSError, match="not known for certain") as raised:
        sparsesync.copyfile(loop, tmp_path / "base", overlay=True)
    assert raised.value.errno == errno.EOPNOTSUPP and not (tmp_path / "base").exists()


@pytest.mark.parametrize("way", ["local", "push", "pull"])
def test_where_holes_are_not_known_nothing_is_merged(tmp_path: Path, way: str) -> None:
    """What would be read as zeros may be content of the snapshot."""
    diff = sparse_file(tmp_path / "diff", MIB, [(0, 4096)])
    base = tmp_path / "base"
    base.write_bytes(b"x" * MIB)
    paths = [("host:" if way == "pull" else "") + f"{diff}", ("host:" if way == "push" else "") + f"{base}"]
    shell = None if way == "local" else local_shell(tmp_path / "rsh")
    with pytest.raises(OSError, match="not known for certain"):
        sparsesync.copyfile(*paths, overlay=True, holes="read", rsh=shell)
    with pytest.raises(ValueError, match="overlay"):
        sparsesync.copyfile(*paths, overlay=True, sparse="always", rsh=shell)
    assert base.read_bytes() == b"x" * MIB
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "rsh") == ["base", "diff"]
