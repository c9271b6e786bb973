"""Trees and files of a size that nobody expects. All but the names take minutes, and run in the long form alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.harness import Lab
from tests.support.filesystems import filesystem

KIB = 1024
_DEEP = 1000


def _sync(source: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sparsesync", "sync", "-a", *options, f"{source}/", f"{target}/"]
    return subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=3600)


def _sparse(path: Path | str, size: int, at: int = 0, directory: int | None = None) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=directory)
    try:
        os.pwrite(fd, os.urandom(4 * KIB), at)
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _right(done: subprocess.CompletedProcess[str], source: Path, target: Path) -> None:
    assert done.returncode == 0 and "Traceback" not in done.stderr, (done.returncode, done.stderr[-2000:])
    checked = subprocess.run(["rsync", "-anci", f"{source}/", f"{target}/"], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout[-2000:]


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("src", "dst"):
        (tmp_path / name).mkdir()
    return tmp_path / "src", tmp_path / "dst"


def test_names_of_255_bytes(ends: tuple[Path, Path], lab: Lab) -> None:
    source, target = ends
    for name in ("n" * 255, "ä" * 127 + "x", "\n" * 255):
        _sparse(source / name, 1024 * KIB)
    done = _sync(source, target)
    _right(done, source, target)
    assert all(os.lstat(target / name).st_blocks <= 16 for name in os.listdir(target)), done.stderr
    again = subprocess.run(
        [sys.executable, "-m", "sparsesync", "sync", "-a", f"{source}/", f"host:{target}2/"],
        env={**os.environ, "RSYNC_RSH": str(lab.relay)}, capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    _right(again, source, Path(f"{target}2"))


@pytest.mark.faults(form="long")
@pytest.mark.parametrize("name", ["d", "d" * 200], ids=["a thousand folders", "beyond PATH_MAX"])
def test_deep(name: str, ends: tuple[Path, Path]) -> None:
    """rsync itself says what it cannot reach; of us there is no traceback, and its status.

    Its dry run ends where a name and its source together are longer than 5000 bytes: then all is left to rsync.
    """
    source, target = ends
    deep = _DEEP if len(name) == 1 else 40
    fd = os.open(source, os.O_RDONLY)
    for _ in range(deep):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    _sparse("f", 1024 * KIB, directory=fd)
    os.close(fd)
    _sparse(source / "g", 1024 * KIB)
    done = _sync(source, target)
    plain = subprocess.run(["rsync", "-a", f"{source}/", f"{target}-plain/"], capture_output=True, text=True)
    subprocess.run(["rm", "-rf", f"{target}-plain"], check=True)
    assert "Traceback" not in done.stderr and done.returncode == plain.returncode, (done, plain)
    assert os.lstat(target / "g").st_blocks <= 16 or done.stderr
    subprocess.run(["rm", "-rf", source, target], check=True)


@pytest.mark.faults(form="long")
def test_a_hundred_thousand_sparse_files(ends: tuple[Path, Path]) -> None:
    source, target = ends
    for number in range(100_000):
        _sparse(source / f"{number}.img", 256 * KIB)
    done = _sync(source, target)
    assert done.returncode == 0 and done.stderr == ""
    assert len(os.listdir(target)) == 100_000
    # That rsync finds nothing to do says that size and time are equal; a few are looked at.
    for name in os.listdir(target)[::5000]:
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert os.lstat(target / name).st_blocks <= 16
    assert subprocess.run(["rsync", "-ani", f"{source}/", f"{target}/"], capture_output=True, text=True).stdout == ""


@pytest.mark.faults(form="long")
def test_the_largest_file(tmp_path: Path) -> None:
    """2^63 - 1 bytes, on a filesystem that holds as much."""
    with filesystem("xfs", tmp_path / "xfs") as top:
        for name in ("src", "dst"):
            (top / name).mkdir()
        size = 2**63 - 1
        try:
            _sparse(top / "src/f", size, at=2**62)
        except OSError as error:
            pytest.skip(f"XFS refuses it: {error}")
        done = subprocess.run(
            [sys.executable, "-m", "sparsesync", "copy", "--reflink=never", top / "src/f", top / "dst/f"],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        st = os.lstat(top / "dst/f")
        assert st.st_size == size and st.st_blocks <= 16
        with open(top / "src/f", "rb") as a, open(top / "dst/f", "rb") as b:
            assert os.pread(a.fileno(), 4 * KIB, 2**62) == os.pread(b.fileno(), 4 * KIB, 2**62)


@pytest.mark.faults(form="long")
def test_five_million_extents(tmp_path: Path) -> None:
    """Blocks of 1 KiB, every other one a hole. Memory does not grow with them."""
    with filesystem("ext4-1k", tmp_path / "room", size="14G") as room:
        with open(room / "src", "wb") as file:
            for number in range(5_000_000):
                os.pwrite(file.fileno(), number.to_bytes(4, "big") * (KIB // 4), number * 2 * KIB)
            file.truncate(5_000_000 * 2 * KIB)
        copying: list[str | Path] = [sys.executable, "-m", "sparsesync", "copy", "-q", room / "src", room / "dst"]
        limited = ["prlimit", f"--data={256 * KIB * KIB}", *copying]
        done = subprocess.run(limited, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert os.lstat(room / "dst").st_blocks <= os.lstat(room / "src").st_blocks * 1.02
        assert subprocess.run(["cmp", room / "src", room / "dst"]).returncode == 0
