"""``copy`` to and from another host, over a real sshd, with no rsync at either end."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import (
    allocated,
    command,
    filesystem,
    need_root,
    need_tools,
    same_content,
    sparse_file,
)
from tests.support.shells import script
from tests.support.sshd import Sshd

pytestmark = pytest.mark.ssh

MIB = 1 << 20


def copy(server: Sshd, *argv: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "sparsesync", "copy", "-e", server.rsh, *map(str, argv)]
    # No rsync is found: none is needed.
    environ = {**os.environ, "PYTHONPATH": os.getcwd()}
    return subprocess.run(words, capture_output=True, timeout=60, cwd=cwd, env=environ)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = sparse_file(tmp_path / "src", 64 * MIB + 5, [(0, 8192), (20 * MIB, 3 * MIB), (64 * MIB, 5)])
    os.chmod(file, 0o640)
    os.setxattr(file, "user.color", b"red\0")
    os.utime(file, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    return file


@pytest.mark.parametrize("way", ["push", "pull"])
def test_copies_holes_as_holes(sshd_server: Sshd, source: Path, tmp_path: Path, way: str) -> None:
    target = tmp_path / "dst"
    ends = (str(source), f"host:{target}") if way == "push" else (f"host:{source}", str(target))
    done = copy(sshd_server, *ends)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert same_content(source, target)
    assert allocated(target) <= allocated(source)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert target.stat().st_mtime > 1_600_000_000
    assert sorted(os.listdir(tmp_path)) == ["dst", "src"]


@pytest.mark.parametrize("way", ["push", "pull"])
def test_p_carries_everything(sshd_server: Sshd, source: Path, tmp_path: Path, way: str) -> None:
    need_tools("setfacl", "getfacl")
    os.chown(source, 1234, 4321)
    command("setfacl", "-m", "u:1000:rwx", source)
    (tmp_path / "into").mkdir()
    far = "host:" if way == "push" else ""
    near = "host:" if way == "pull" else ""
    assert copy(sshd_server, "-p", f"{near}{source}", f"{far}{tmp_path / 'into'}").returncode == 0
    made = tmp_path / "into/src"
    ours, theirs = made.stat(), source.stat()
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert os.getxattr(made, "user.color") == b"red\0"
    assert command("getfacl", "-cp", made) == command("getfacl", "-cp", source)


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("inplace", [False, True])
def test_an_existing_file_is_replaced_and_keeps_what_it_had(
    sshd_server: Sshd, source: Path, tmp_path: Path, way: str, inplace: bool
) -> None:
    target = tmp_path / "dst"
    sparse_file(target, 90 * MIB, [(0, 4096), (50 * MIB, MIB)])
    os.chmod(target, 0o604)
    os.chown(target, 7, 8)
    (tmp_path / "link").symlink_to("dst")
    inode = target.stat().st_ino
    ends = (str(source), f"host:{tmp_path}/link") if way == "push" else (f"host:{source}", f"{tmp_path}/link")
    sparsesync.copyfile(*ends, inplace=inplace, rsh=sshd_server.rsh)
    assert same_content(source, target)
    assert allocated(target) <= allocated(source)
    after = target.stat()
    assert (stat.S_IMODE(after.st_mode), after.st_uid, after.st_gid) == (0o604, 7, 8)
    assert (after.st_ino == inode) == inplace
    assert (tmp_path / "link").is_symlink()


def test_a_host_without_proc(source: Path, tmp_path: Path) -> None:
    """As in a chroot into which nothing is mounted."""
    need_root("a mount namespace needs root")
    need_tools("unshare")
    hidden = "mount -t tmpfs tmpfs /proc; exec sh -c"
    rsh = script(tmp_path / "rsh", f'shift; exec unshare -m sh -c \'{hidden} "$*"\' sh "$@"')
    there = tmp_path / "there"
    there.write_bytes(b"old")
    os.chmod(there, 0o604)
    python = os.path.realpath(sys.executable)
    sparsesync.copyfile(source, f"host:{there}", rsh=rsh, python=python)
    assert same_content(source, there) and stat.S_IMODE(there.stat().st_mode) == 0o604


@pytest.mark.slow
def test_several_files_take_one_login(sshd_server: Sshd, source: Path, tmp_path: Path) -> None:
    other = sparse_file(tmp_path / "other", MIB, [(4096, 4096)])
    (tmp_path / "into").mkdir()
    before = sshd_server.logins()
    assert copy(sshd_server, source, other, f"host:{tmp_path}/into").returncode == 0
    assert sshd_server.logins() == before + 1
    assert same_content(source, tmp_path / "into/src") and same_content(other, tmp_path / "into/other")
    done = copy(sshd_server, source, other, f"host:{tmp_path}/other")
    assert done.returncode == 1
    assert b"Not a directory" in done.stderr


@pytest.mark.slow
def test_bad_input(sshd_server: Sshd, source: Path, tmp_path: Path) -> None:
    cases: list[tuple[tuple[str | Path, str | Path], str]] = [
        ((f"host:{tmp_path}/none", tmp_path / "x"), f"host:{tmp_path}/none: No such file or directory"),
        ((tmp_path / "none", f"host:{tmp_path}/x"), f"{tmp_path}/none: No such file or directory"),
        ((f"host:{tmp_path}", tmp_path / "x"), f"host:{tmp_path}: is a directory; for trees use 'sparsesync sync -a'"),
        (
            (source, f"host:{tmp_path}/none/x"),
            f"host:{tmp_path}/none/x: No such file or directory (its directory does not exist)",
        ),
        ((f"host:{source}", f"host:{tmp_path}/x"), "cannot both be on another host"),
        ((source, "host::x"), "an rsync daemon is not reached through a remote shell"),
        (("host:/dev/null", tmp_path / "x"), "host:/dev/null: not a regular file"),
    ]
    for ends, message in cases:
        done = copy(sshd_server, *ends)
        assert done.returncode == 1
        assert message in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
        assert not (tmp_path / "x").exists()


def test_too_small_a_destination_is_refused_early(sshd_server: Sshd, tmp_path: Path) -> None:
    big = sparse_file(tmp_path / "big", 1 << 30, [(n * 8 * MIB, MIB) for n in range(40)])
    with filesystem("ext4", tmp_path / "fs", "32M") as small:
        (small / "big").write_bytes(b"old")
        done = copy(sshd_server, big, f"host:{small}/")
        assert done.returncode == 1
        assert b"40 MiB are needed" in done.stderr and b"are free" in done.stderr
        assert (small / "big").read_bytes() == b"old"
        assert sorted(os.listdir(small)) == ["big", "lost+found"]


def test_only_str_is_ever_remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a:b").write_bytes(b"x")
    sparsesync.copyfile(Path("a:b"), "./c:d")
    assert Path("c:d").read_bytes() == b"x"


@pytest.fixture
def home(tmp_path: Path) -> tuple[Path, str]:
    """A remote home, and a remote shell that leads there: on this machine, with a login shell that csh stands for."""
    (tmp_path / "home").mkdir()
    rsh = tmp_path / "rsh"
    # csh ends a quoted word at the end of the line; so does this, by passing on the first line only.
    rsh.write_text(f'#!/bin/sh\nshift\ncd {tmp_path}/home || exit\nexec sh -c "$(printf %s "$*" | head -n 1)"\n')
    rsh.chmod(0o755)
    return tmp_path / "home", str(rsh)


@pytest.mark.slow
def test_into_the_far_home(home: tuple[Path, str], source: Path) -> None:
    place, rsh = home
    assert sparsesync.copy(str(source), "host:", rsh=rsh) == "host:./src"
    assert sparsesync.copy(str(source), "host:sub", rsh=rsh) == "host:sub"
    assert same_content(source, place / "src") and same_content(source, place / "sub")
    assert {found.path for found in sparsesync.scan("host:~", rsh=rsh)} == {"host:./src", "host:./sub"}
    assert list(sparsesync.verify("host:~/src", source, rsh=rsh)) == []


def test_nothing_is_imported_from_the_far_home(home: tuple[Path, str], source: Path) -> None:
    place, rsh = home
    for name in ("json", "zlib", "select", "queue", "sparsesync", "blake3"):
        (place / f"{name}.py").write_text("import os; os._exit(7)\n")
    sparsesync.copy(str(source), "host:", rsh=rsh)
    assert same_content(source, place / "src")


def test_errors_name_the_end_they_were_met_at(sshd_server: Sshd, source: Path, tmp_path: Path) -> None:
    (tmp_path / "is").mkdir()
    os.mkfifo(tmp_path / "is/src")
    with pytest.raises(OSError) as caught:
        sparsesync.copy(str(source), f"host:{tmp_path}/is", rsh=sshd_server.rsh)
    assert caught.value.filename == f"host:{tmp_path}/is"
    with filesystem("ext4", tmp_path / "fs", "32M") as place:
        command("mount", "-o", "remount,ro", place)
        done = copy(sshd_server, source, f"host:{place}/x")
        assert done.stderr.decode().startswith(f"sparsesync: host:{place}/x: Read-only file system (")
