"""A quota that is used up while a file is copied, on btrfs: told with what it may be, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import allocated, command, filesystem, need_tools, sparse_file
from tests.support.shells import local_shell

MIB = 1 << 20
SAID = "Disk quota exceeded (of the user, the group, the project or the subvolume)"

pytestmark = pytest.mark.root


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Path]:
    need_tools("btrfs", "rsync")
    with filesystem("btrfs", tmp_path / "fs", "512m") as top:
        command("btrfs", "quota", "enable", top)
        command("btrfs", "subvolume", "create", top / "limited")
        command("btrfs", "qgroup", "limit", "4M", top / "limited")
        yield top / "limited"


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sparsesync", *map(str, words)], capture_output=True, text=True)


@pytest.mark.slow
def test_a_quota_that_is_used_up(limited: Path, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    source = sparse_file(tmp_path / "src/disk", 64 * MIB, [(offset * 4 * MIB, MIB) for offset in range(8)])
    old = limited / "old"
    old.write_bytes(b"old")
    done = run("copy", "-q", source, old)
    assert (done.returncode, done.stderr) == (1, f"sparsesync: {old}: {SAID}\n")
    with pytest.raises(OSError, match="quota exceeded"):
        sparsesync.copyfile(source, old)
    done = run("sync", "-a", f"{tmp_path}/src/", limited / "dst")
    first, *_ = done.stderr.splitlines()
    assert first == f'rsync: [receiver] write failed on "{limited}/dst/disk": Disk quota exceeded (122)'
    assert done.returncode == 11
    assert old.read_bytes() == b"old" and os.listdir(limited / "dst") == []
    (told,) = [
        line for line in run("migrate", "--check", f"{tmp_path}/src/", limited).stdout.splitlines() if "xat" in line
    ]
    assert told.startswith(f"ok       {limited}: btrfs, ")
    command("btrfs", "qgroup", "limit", "none", limited)
    assert run("sync", "-a", f"{tmp_path}/src/", limited / "dst").returncode == 0
    assert allocated(limited / "dst/disk") == 8 * MIB


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_quota_that_is_used_up_at_the_other_end(limited: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / "src").mkdir()
    source = sparse_file(tmp_path / "src/disk", 64 * MIB, [(offset * 4 * MIB, MIB) for offset in range(8)])
    far = {"push": ("", "h:"), "pull": ("h:", "")}[way]
    shell = ("-e", local_shell(tmp_path / "rsh"))
    old = limited / "disk"

    def begin() -> None:
        old.unlink(missing_ok=True)
        command("sync", "-f", limited)  # only then the room is free again
        old.write_bytes(b"old")

    for inplace in ([], ["--inplace"]):
        begin()
        done = run("copy", "-q", *inplace, *shell, f"{far[0]}{source}", f"{far[1]}{old}")
        assert (done.returncode, done.stderr) == (1, f"sparsesync: {far[1]}{old}: {SAID}\n")
        assert inplace or old.read_bytes() == b"old"
        begin()
        done = run("sync", "-a", *inplace, *shell, f"{far[0]}{tmp_path}/src/", f"{far[1]}{limited}")
        failed, ended = done.stderr.splitlines()
        assert failed == f'rsync: [receiver] write failed on "{old}": Disk quota exceeded (122)'
        assert done.returncode == 11 and ended.startswith("rsync error: error in file IO (code 11)")
        assert (inplace or old.read_bytes() == b"old") and os.listdir(limited) == ["disk"]
