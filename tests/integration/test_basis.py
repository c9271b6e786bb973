"""``sparsesync sync`` of a new file for which rsync has a basis: what did not change is neither sent nor stored."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import sparsesync
from tests.support.filesystems import (
    Mounted,
    data_bytes,
    device,
    need,
    need_root,
    same_content,
    shared_bytes,
)
from tests.support.shells import local_shell
from tests.support.sync import KIB, MIB, OLD, difference, run, snapshot, sparse, sync

DATA = 2 * MIB
LITTLE = 512 * KIB
"""More than what changes, with what a filesystem needs for itself and a protocol says; less than the data."""


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")


@pytest.fixture(scope="module")
def rsh(tmp_path_factory: pytest.TempPathFactory) -> str:
    return local_shell(tmp_path_factory.mktemp("rsh") / "rsh")


def image(path: Path, changed: bytes = b"", size: int = 32 * MIB, data: int = DATA, mtime: int = OLD) -> None:
    """Make a disk with so many bytes of data, the same every time but for what is ``changed``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.truncate(size)
        for part in range(8):
            file.seek(part * 4 * MIB)
            file.write(b"".join(b"%7d\n" % (part + line) * 512 for line in range(data // 8 // 4096)))
        file.seek(DATA // 16)
        file.write(changed)
    os.utime(path, (mtime, mtime))


def paths(way: str, source: str | Path, destination: str | Path) -> tuple[str, str]:
    return (
        f"far:{source}/" if way == "pull" else f"{source}/",
        f"far:{destination}/" if way == "push" else f"{destination}/",
    )


def wire(rsh: str, way: str, source: Path, destination: Path, *options: str) -> int:
    """Sync, and return what was sent; bytes."""
    done = sparsesync.sync(*paths(way, source, destination), ["-a", f"--rsh={rsh}", *options])
    assert (done.status, len(done.seeded)) == (0, 1), done
    return done.wire


SNAPSHOTS = [
    ("local", "xfs", "--link-dest=../monday"),
    ("push", "xfs", "--copy-dest=../monday"),
    ("pull", "xfs", "--compare-dest={}/monday"),
    ("local", "btrfs", "--compare-dest=../monday/"),
    ("push", "btrfs", "--link-dest={}/monday"),
    ("pull", "btrfs", "--copy-dest=../monday"),
    ("local", "ext4", "--copy-dest=../monday"),
    ("push", "ext4", "--compare-dest=../monday"),
    ("pull", "ext4", "--link-dest=../monday"),
]


@pytest.mark.parametrize(("way", "kind", "option"), SNAPSHOTS)
def test_a_snapshot_costs_what_changed(
    tmp_path: Path, mounted: Mounted, rsh: str, way: str, kind: str, option: str
) -> None:
    top = mounted(kind)
    image(top / "monday/a/disk.img")
    image(tmp_path / "monday")
    image(tmp_path / "src/a/disk.img", b"changed", mtime=OLD + 60)
    before = os.stat(top / "monday/a/disk.img")
    sent = wire(rsh, way, tmp_path / "src", top / "tuesday", option.format(top))
    made = top / "tuesday/a/disk.img"
    assert same_content(tmp_path / "src/a/disk.img", made)
    assert sent < LITTLE
    assert data_bytes(made) <= DATA
    if kind != "ext4":
        assert shared_bytes(made) > DATA - LITTLE
    assert same_content(tmp_path / "monday", top / "monday/a/disk.img")
    assert os.stat(top / "monday/a/disk.img").st_ctime_ns == before.st_ctime_ns


@pytest.mark.parametrize(
    ("way", "option"),
    [("local", "-S"), ("push", "--inplace"), ("pull", "--preallocate"), ("push", "--partial-dir=.p"), ("pull", "-b")],
)
def test_with_options_that_say_how_it_is_written(
    tmp_path: Path, mounted: Mounted, rsh: str, way: str, option: str
) -> None:
    top = mounted("xfs")
    image(top / "monday/disk.img")
    image(tmp_path / "src/disk.img", b"changed", mtime=OLD + 60)
    sent = wire(rsh, way, tmp_path / "src", top / "tuesday", "--link-dest=../monday", option)
    assert same_content(tmp_path / "src/disk.img", top / "tuesday/disk.img")
    assert sent < LITTLE
    assert shared_bytes(top / "tuesday/disk.img") > DATA - LITTLE
    assert data_bytes(top / "tuesday/disk.img") <= DATA
    assert os.listdir(top / "tuesday") == ["disk.img"]


def test_what_is_shared_does_not_count_for_a_limit_of_bandwidth(tmp_path: Path, mounted: Mounted) -> None:
    top = mounted("xfs")
    image(top / "monday/disk.img", data=16 * MIB)
    image(tmp_path / "src/disk.img", b"changed", data=16 * MIB, mtime=OLD + 60)
    # At 64 KiB a second all of it would take longer than run() waits.
    options = ["-a", "--link-dest=../monday", "--bwlimit=64K"]
    done = sync(*options, *paths("local", tmp_path / "src", top / "tuesday"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert same_content(tmp_path / "src/disk.img", top / "tuesday/disk.img")


@pytest.mark.parametrize(("way", "size"), [("local", 30 * MIB + 1234), ("push", 40 * MIB), ("pull", 29 * MIB + 1)])
def test_a_basis_of_another_size(tmp_path: Path, mounted: Mounted, rsh: str, way: str, size: int) -> None:
    top = mounted("xfs")
    image(top / "monday/disk.img", size=size)
    with open(top / "monday/disk.img", "r+b") as file:
        file.seek(size - 100 * KIB)
        file.write(b"end" * 30 * KIB)
    image(tmp_path / "src/disk.img", b"changed", mtime=OLD + 60)
    wire(rsh, way, tmp_path / "src", top / "tuesday", "--copy-dest=../monday")
    assert same_content(tmp_path / "src/disk.img", top / "tuesday/disk.img")
    assert shared_bytes(top / "tuesday/disk.img") > DATA - LITTLE
    assert data_bytes(top / "tuesday/disk.img") <= DATA


def test_a_partial_file_comes_before_its_basis(tmp_path: Path, rsh: str) -> None:
    image(tmp_path / "monday/disk.img")
    image(tmp_path / "src/disk.img", os.urandom(MIB), mtime=OLD + 60)
    partial = tmp_path / "tuesday/.disk.img.sparsesync-partial"
    image(partial, (tmp_path / "src/disk.img").read_bytes()[DATA // 16 :][:MIB])
    partial.chmod(0o600)
    sent = wire(rsh, "push", tmp_path / "src", tmp_path / "tuesday", "--link-dest=../monday")
    assert same_content(tmp_path / "src/disk.img", tmp_path / "tuesday/disk.img")
    assert sent < LITTLE
    assert os.listdir(tmp_path / "tuesday") == ["disk.img"]


def test_a_basis_on_another_filesystem(tmp_path: Path, mounted: Mounted, rsh: str) -> None:
    top = mounted("xfs")
    image(tmp_path / "monday/disk.img")
    image(tmp_path / "src/disk.img", b"changed", mtime=OLD + 60)
    sent = wire(rsh, "push", tmp_path / "src", top / "tuesday", f"--link-dest={tmp_path}/monday")
    assert same_content(tmp_path / "src/disk.img", top / "tuesday/disk.img")
    assert sent < LITTLE
    assert data_bytes(top / "tuesday/disk.img") <= DATA


@pytest.mark.parametrize(
    ("way", "options"), [("local", ["-y"]), ("pull", ["-y"]), ("push", ["-yy", "--compare-dest=../old"])]
)
def test_fuzzy(tmp_path: Path, mounted: Mounted, rsh: str, way: str, options: list[str]) -> None:
    top = mounted("btrfs")
    image(top / ("old" if "-yy" in options else "tuesday") / "disk-1.img")
    image(tmp_path / "src/disk-2.img", b"changed", mtime=OLD + 60)
    sent = wire(rsh, way, tmp_path / "src", top / "tuesday", *options)
    assert same_content(tmp_path / "src/disk-2.img", top / "tuesday/disk-2.img")
    assert sent < LITTLE
    assert shared_bytes(top / "tuesday/disk-2.img") > DATA - LITTLE


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_new_name_for_one_file(tmp_path: Path, rsh: str, way: str) -> None:
    image(tmp_path / "monday/new")
    image(tmp_path / "src/disk.img", b"changed", mtime=OLD + 60)
    (tmp_path / "tuesday").mkdir()
    source, destination = (path[:-1] for path in paths(way, tmp_path / "src/disk.img", tmp_path / "tuesday/new"))
    done = sparsesync.sync(source, destination, ["-a", f"--rsh={rsh}", "--link-dest=../monday"])
    assert (done.status, len(done.seeded)) == (0, 1)
    assert same_content(tmp_path / "src/disk.img", tmp_path / "tuesday/new")
    assert done.wire < LITTLE


@pytest.mark.parametrize("kind", ["xfs", "ext4"])
def test_room_is_needed_for_what_cannot_be_shared(tmp_path: Path, mounted: Mounted, kind: str) -> None:
    top = mounted(kind)
    image(top / "monday/disk.img", data=32 * MIB, size=64 * MIB)
    image(tmp_path / "src/disk.img", b"changed", data=32 * MIB, size=64 * MIB, mtime=OLD + 60)
    run("sync", "-f", str(top))
    free = os.statvfs(top)
    with open(top / "filler", "wb") as file:
        # ext4 keeps 16 MiB for itself, and says they were free.
        os.posix_fallocate(file.fileno(), 0, free.f_bfree * free.f_frsize - 24 * MIB)
    try:
        done = sync("-a", "--link-dest=../monday", *paths("local", tmp_path / "src", top / "tuesday"))
    finally:
        (top / "filler").unlink()
    if kind == "xfs":
        assert done.returncode == 0, done
        assert same_content(tmp_path / "src/disk.img", top / "tuesday/disk.img")
    else:
        assert done.returncode != 0
        assert not (top / "tuesday/disk.img").exists()


def make(place: Path) -> None:
    """A source, and what two earlier runs have left of it, with all kinds of things in the way."""
    for name, day in (("src", 9), ("monday", 1), ("sunday", 0)):
        top = place / name
        (top / "a/b").mkdir(parents=True)
        for path in ("same", "a/changed", "a/b/mode", "a/b/owner", "longer", "shorter", "linked", "time"):
            sparse(top / path, seed=3)
            os.utime(top / path, (OLD, OLD))
        os.link(top / "linked", top / "a/linked")
        sparse(top / "a/changed", seed=day + 1, extents=(0, 512 * KIB, MIB) if day else (0,))
        os.utime(top / "a/changed", (OLD + day, OLD + day))
        os.utime(top / "time", (OLD + day, OLD + day))
        os.utime(top / "linked", (OLD + day, OLD + day))
        for path, size in (("longer", 2 * MIB + day * 1234), ("shorter", 2 * MIB - day * 1234)):
            os.truncate(top / path, size)
            os.utime(top / path, (OLD + day, OLD + day))
        os.utime(top / "a/b/mode", (OLD + (day == 9), OLD + (day == 9)))
    os.chmod(place / "src/a/b/mode", 0o640)
    os.chmod(place / "monday/a/b/mode", 0o4711)
    os.chmod(place / "src/a/b/owner", 0o600)
    os.chown(place / "monday/a/b/owner", 1234, 4321)
    sparse(place / "src/new-1")
    os.utime(place / "src/new-1", (OLD, OLD))
    odd = place / "odd"
    (odd / "a/b/mode").mkdir(parents=True)
    (odd / "same").symlink_to("../monday/same")
    os.mkfifo(odd / "a/changed")
    device(odd / "time", 3)
    sparse(odd / "longer", seed=8)
    os.chmod(odd / "longer", 0)
    (odd / "shorter").write_bytes(b"")
    sparse(place / "dst/new-2", seed=1)


LEFT: list[tuple[str, list[str]]] = [
    ("local", ["-aH", "--link-dest=../monday", "--link-dest=../sunday"]),
    ("local", ["-a", "--link-dest=../odd", "--link-dest=../missing", "--link-dest=../sunday"]),
    ("local", ["-rlptD", "--copy-dest=../monday", "-S"]),
    ("local", ["-ay", "--compare-dest=.", "-u"]),
    ("push", ["-aH", "--compare-dest=../odd", "--compare-dest=../monday"]),
    ("push", ["-a", "--inplace", "--copy-dest=../monday"]),
    ("pull", ["-aRb", "--link-dest=../monday/."]),
    ("pull", ["-aHyy", "--link-dest=../monday", "--delete", "--remove-source-files"]),
    ("pull", ["-an", "--link-dest=../monday"]),
]


@pytest.mark.parametrize(("way", "options"), LEFT, ids=lambda value: str(value).replace("'", ""))
def test_leaves_what_rsync_leaves(tmp_path: Path, rsh: str, way: str, options: list[str]) -> None:
    need_root("files of several owners need root")
    left: dict[str, Any] = {}
    status = {}
    since = time.time() - 60
    for who in ("rsync", "sparsesync"):
        place = tmp_path / who
        (place / "dst").mkdir(parents=True)
        make(place)
        chosen = [
            *options,
            f"--rsh={rsh}",
            *paths(way, f"{place}/src/." if "-aRb" in options else place / "src", place / "dst"),
        ]
        done = run("rsync", *chosen) if who == "rsync" else sync(*chosen, "--seed-min-hole=64K")
        assert b"Traceback" not in done.stderr
        said = done.stderr.replace(os.fsencode(place), b"").splitlines()
        status[who] = done.returncode, [line for line in said if not line.startswith(b"sparsesync: ")]
        left[who] = snapshot(place, since)
    assert status["sparsesync"] == status["rsync"]
    assert difference(left["sparsesync"], left["rsync"]) == {}
