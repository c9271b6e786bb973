"""The storage of a real podman (vfs) moves in two passes, and its images, containers and volumes are there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, command, need_root, same_content, sparse_file

MIB = 1 << 20


def migrate(*words: str | Path) -> str:
    argv = [sys.executable, "-m", "sparsesync", "migrate", *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    return done.stdout


@pytest.mark.slow
@pytest.mark.root
def test_the_storage_of_podman(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    need_root("podman's storage is root's")
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")  # on CI too: it is not among what the README installs
    root, new = tmp_path / "storage", tmp_path / "new"
    run = tempfile.mkdtemp()  # podman wants a name of at most 50 characters
    request.addfinalizer(lambda: shutil.rmtree(run))
    podman = ["podman", "--root", str(root), "--runroot", run, "--storage-driver=vfs",
              "--cgroup-manager=cgroupfs", "--events-backend=file"]  # fmt: skip
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("content\n")
    command("tar", "-C", tmp_path / "tree", "-cf", tmp_path / "image.tar", ".")
    command(*podman, "import", tmp_path / "image.tar", "box:1")
    command(*podman, "create", "--name=one", "--network=none", "--volume=disks:/data", "box:1", "/file")
    disk = sparse_file(root / "volumes/disks/_data/disk", 64 * MIB, [(0, 4096), (40 * MIB, MIB)])
    listed = [
        ["images", "-a", "--no-trunc"],
        ["ps", "-a", "--no-trunc", "--format={{.ID}}:{{.Names}}"],
        ["volume", "ls"],
    ]
    before = [command(*podman, *words).splitlines() for words in listed[1:]]

    said = migrate("--check", f"{root}/", new)
    assert f"{root}/: is a store of podman, Buildah or CRI-O, storage driver vfs" in said
    migrate(f"{root}/", new)
    sparse_file(disk, 64 * MIB, [(0, 4096), (50 * MIB, MIB)])
    migrate("--final", "--verify", f"{root}/", new, "--", "--delete")
    copied = new / "volumes/disks/_data/disk"
    assert same_content(disk, copied) and allocated(copied) <= allocated(disk)

    root.rename(tmp_path / "old")
    new.rename(root)  # its database names the path
    assert [command(*podman, *words).splitlines() for words in listed[1:]] == before
    assert "localhost/box" in command(*podman, *listed[0])
    command(*podman, "create", "--name=two", "--network=none", "box:1", "/file")
    assert "two" in command(*podman, "ps", "-a")
