"""Copies to mounts that take content, but not in the way that a local disk does."""

from __future__ import annotations

import _thread
import contextlib
import errno
import os
import stat
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import sparsesync
from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.engine.content.stream import copy_in
from sparsesync.hosts.copies import Copies
from tests.support.filesystems import allocated, command, data_bytes, filesystem, same_content, sparse_file
from tests.support.mounts import bindfs, overlay, rclone, refuser, sshfs
from tests.support.shells import local_shell

MIB = 1 << 20


def test_a_mount_that_makes_its_blocks_up(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    sparse_file(source / "disk", 300 * MIB, [(200 * MIB, 4096)])
    with filesystem("ext4", tmp_path / "fs", "200M") as small, sshfs(small, tmp_path / "far") as mount:
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


@pytest.mark.parametrize("how", ["mount option", "chattr", "below an overlay"])
def test_where_it_is_compressed_free_space_is_no_verdict(tmp_path: Path, how: str) -> None:
    options = "defaults" if how == "chattr" else "compress-force=zstd"
    source = tmp_path / "src"
    source.mkdir()
    text = _text(source / "text", 180 * MIB, tail=300 * MIB)
    with filesystem("btrfs", tmp_path / "fs", "160M", options) as mount, contextlib.ExitStack() as stack:
        top = mount / "top"
        top.mkdir()
        if how == "below an overlay":
            top = stack.enter_context(overlay(mount, tmp_path / "overlay"))
        elif how == "chattr":
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


def test_free_space_that_says_nothing(tmp_path: Path) -> None:
    """Nobody can tell that what is behind the mount compresses. Whoever knows it says so."""
    source = tmp_path / "src"
    source.mkdir()
    text = _text(source / "text", 100 * MIB, tail=MIB)
    shell = ["-e", local_shell(tmp_path / "rsh")]
    sparse = [sys.executable, "-m", "sparsesync"]
    with (
        filesystem("btrfs", tmp_path / "fs", "160M", "compress-force=zstd") as mount,
        bindfs(mount, tmp_path / "bound") as top,
    ):
        command("fallocate", "-l", "64M", mount / "reserved")
        runs: list[list[str]] = [
            ["copy", f"{text}", f"{top}/text"],
            ["copy", *shell, f"{text}", f"host:{top}/text"],
            ["sync", "-a", f"{source}/", f"{top}"],
            ["sync", "-a", *shell, f"{source}/", f"host:{top}"],
            ["sync", "-a", *shell, f"host:{source}/", f"{top}"],
        ]
        for argv in runs:
            no = "--no-space-check" if argv[0] == "copy" else "--seed-no-space-check"
            done = subprocess.run([*sparse, *argv], capture_output=True)
            assert done.returncode in (1, 11) and b"MiB are needed" in done.stderr, argv
            assert not (top / "text").exists()
            done = subprocess.run([*sparse, argv[0], no, *argv[1:]], capture_output=True)
            assert (done.returncode, done.stderr) == (0, b""), argv
            assert (top / "text").stat().st_size == text.stat().st_size
            os.unlink(top / "text")


def test_a_mount_that_is_written_in_order_only(tmp_path: Path) -> None:
    """Neither a size nor a hole can be made there, nor can it say what xattrs a file has. It can rename."""
    sparse = sparse_file(tmp_path / "sparse", 2 * MIB + 5, [(MIB, 4096)])
    dense = sparse_file(tmp_path / "dense", 3 * MIB, [(0, 3 * MIB)])
    (tmp_path / "below").mkdir()
    with rclone(tmp_path / "below", tmp_path / "rclone") as mount:
        for source in (sparse, dense):  # the second time it replaces
            with pytest.warns(RuntimeWarning, match="bytes in order only"):
                sparsesync.copyfile(source, mount / "f")
            assert same_content(source, mount / "f") and os.listdir(mount) == ["f"]
        with pytest.warns(RuntimeWarning, match="bytes in order only"):
            sparsesync.copyfile(sparse, mount / "f", inplace=True)
        assert same_content(sparse, mount / "f") and os.listdir(mount) == ["f"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_progress_where_a_mount_turns_out_to_be_written_in_order_only(tmp_path: Path) -> None:
    """What was copied, or compared, before that is told of once."""
    source = sparse_file(tmp_path / "src", 6 * MIB, [(0, 2 * MIB), (4 * MIB, 2 * MIB)])
    (tmp_path / "below").mkdir()
    there = tmp_path / "below/f"
    with (
        refuser(tmp_path / "below", tmp_path / "refuser", write_elsewhere=errno.EINVAL) as mount,
        Copies(jobs=1) as copies,
    ):
        for options in (CopyOptions(), CopyOptions(inplace=True)):
            told: list[int] = []
            copies.copy(source, mount / "f", options, told.append)
            assert sum(told) == 4 * MIB and len(told) > 1
            assert same_content(source, there)
            with open(there, "r+b") as file:
                file.seek(4 * MIB)
                file.write(b"other")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("code", "besides"), [(errno.EIO, ["statfs", "resize"]), (errno.EPERM, [])])
def test_a_mount_that_refuses_what_cp_and_rsync_do_without(tmp_path: Path, code: int, besides: list[str]) -> None:
    for name in ("src", "below"):
        (tmp_path / name).mkdir()
    source = sparse_file(tmp_path / "src/disk", 2 * MIB, [(MIB, 4096)])
    os.chown(source, 77, 77)
    os.setxattr(source, "user.a", b"a")
    there = tmp_path / "below/disk"
    calls = ["fallocate", "chmod", "chown", "setxattr", "listxattr", *besides]
    with refuser(tmp_path / "below", tmp_path / "refuser", **dict.fromkeys(calls, code)) as mount:
        for size in (0, MIB):
            with pytest.warns(RuntimeWarning, match="not kept, since it cannot be read or set there") as told:
                sparsesync.copy2(source, mount / "disk")
            assert any("cannot be listed" in str(each.message) for each in told) == (code == errno.EIO)
            assert same_content(source, there) and os.listdir(mount) == ["disk"], size
            sparsesync.copyfile(source, mount / "disk")
            assert same_content(source, there)
            there.write_bytes(b"x" * size)
        for options in (["-rt"], ["-rt", "--inplace"]):
            ended = []
            for command in ([sys.executable, "-m", "sparsesync", "sync"], ["rsync"]):
                there.write_bytes(b"x" * 3 * MIB)
                done = subprocess.run([*command, *options, f"{tmp_path}/src/", mount], capture_output=True)
                ended.append((done.returncode, there.read_bytes() == source.read_bytes(), os.listdir(mount)))
                assert b"Traceback" not in done.stderr
            assert ended[0] == ended[1], options


def test_a_mount_that_only_says_that_it_sets_mode_and_owner(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    source = sparse_file(tmp_path / "disk", MIB, [(0, 4096)])
    os.chown(source, 77, 77)
    os.chmod(source, 0o4751)
    there = tmp_path / "below/disk"
    with refuser(tmp_path / "below", tmp_path / "refuser", chmod=0, chown=0) as mount:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsesync.copyfile(source, mount / "disk")
        sparsesync.copyfile(source, f"host:{mount}/far", rsh=local_shell(tmp_path / "rsh"))
        assert (tmp_path / "below/far").stat().st_mode == there.stat().st_mode
        for dst in (mount / "disk", f"host:{mount}/disk"):  # as cp has it, which writes to the old file
            there.chmod(0o644)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                sparsesync.copyfile(source, dst, rsh=local_shell(tmp_path / "rsh"))
            assert stat.S_IMODE(there.stat().st_mode) == 0o644
        # Until it has its owner, a group may be the wrong one; and only the finished file may be for others.
        there.chmod(0o640)
        os.chown(there, 0, 77)
        for copied, mode in ((sparsesync.copyfile, "0640"), (sparsesync.copy2, "0751")):
            lost = f"the mode {mode}, the owner"
            with pytest.warns(RuntimeWarning, match=f"^{mount}/disk: not kept, .*: {lost}$") as told:
                copied(source, mount / "disk")
            assert len(told) == 1 and not there.stat().st_mode & 0o4077
            there.unlink()
            there.touch(0o644)


def test_a_mount_that_cannot_rename_is_known_before_anything_is_copied(tmp_path: Path) -> None:
    for name in ("src", "below"):
        (tmp_path / name).mkdir()
    source = sparse_file(tmp_path / "src/disk", 2 * MIB, [(MIB, 4096)])
    below, done = tmp_path / "below", list[int]()
    with refuser(below, tmp_path / "refuser", rename=errno.EPERM) as mount:
        for what in ("rename", "replace"):
            why = rf"its filesystem cannot {what} a file \(Operation not permitted\); .* \(--inplace\)"
            with pytest.raises(PermissionError, match=why) as raised:
                sparsesync.copyfile(source, mount / "disk", progress=done.append)
            assert raised.value.filename == str(mount / "disk") and not done
            assert (below / "disk").exists() == (what == "replace")
            sparsesync.copyfile(source, mount / "disk", inplace=True)
        sparsesync.copyfile(source, f"host:{mount}/far", inplace=True, rsh=local_shell(tmp_path / "rsh"))
        for there in (below / "disk", below / "far"):
            assert same_content(source, there) and allocated(there) < MIB
        with pytest.raises(KeyboardInterrupt):
            sparsesync.copyfile(source, mount / "new", inplace=True, progress=lambda count: _thread.interrupt_main())
        assert sorted(os.listdir(below)) == ["disk", "far"]
        for options in (["-rt"], ["-rt", "--inplace"]):
            ended = []
            for command in ([sys.executable, "-m", "sparsesync", "sync"], ["rsync"]):
                (below / "disk").unlink(missing_ok=True)
                status = subprocess.run([*command, *options, f"{tmp_path}/src/", mount], capture_output=True).returncode
                ended.append((status, sorted(os.listdir(below))))
            assert ended[0] == ended[1], options


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("refused", "keeps_holes"),
    [
        ({"fallocate": 0, "rename_open": errno.EBUSY, "times_by_rename": 0, "flock": errno.ENOSYS}, True),
        ({"read_write": errno.EINVAL, "open_to_read": errno.EACCES}, True),
        ({"read": errno.EPERM}, True),
        ({"resize": 0}, False),
        ({"write_out_of_order": errno.EINVAL}, False),
    ],
)
def test_a_mount_that_does_not_do_what_it_says(tmp_path: Path, refused: dict[str, int], keeps_holes: bool) -> None:
    (tmp_path / "below").mkdir()
    source, there = sparse_file(tmp_path / "disk", 2 * MIB, [(0, 4096), (MIB, 4096)]), tmp_path / "below/disk"
    with refuser(tmp_path / "below", tmp_path / "refuser", **refused) as mount:
        for _ in range(2):  # the second time it replaces
            sparsesync.copyfile(source, mount / "disk")
            assert same_content(source, there) and os.listdir(mount) == ["disk"]
            assert (allocated(there) < MIB) == keeps_holes
            with open(source, "rb") as stream:
                copy_in(stream.fileno(), mount / "disk", CopyOptions())
            assert same_content(source, there)
            sparsesync.copy2(source, mount / "disk")
            assert there.stat().st_mtime_ns == source.stat().st_mtime_ns
            # What is equal comes before what is not, so not in order.
            there.write_bytes(b"x" * MIB + source.read_bytes()[MIB:])
            sparsesync.copyfile(source, f"host:{mount}/disk", rsh=local_shell(tmp_path / "rsh"))
            assert same_content(source, there) and os.listdir(mount) == ["disk"]
            there.write_bytes(b"x" * 3 * MIB)
        for size in (3 * MIB, 2 * MIB, 0):
            there.write_bytes(b"x" * size)
            sparsesync.copyfile(source, mount / "disk", inplace=True)
            assert same_content(source, there)
        there.write_bytes(source.read_bytes()[:MIB] + b"x" * 2 * MIB)
        sparsesync.copyfile(source, f"host:{mount}/disk", inplace=True, rsh=local_shell(tmp_path / "rsh"))
        assert same_content(source, there)
        there.write_bytes(source.read_bytes()[:MIB] + b"x" * MIB)
        with open(source, "rb") as stream:
            copy_in(stream.fileno(), mount / "disk", CopyOptions(inplace=True))
        assert same_content(source, there)
        if {"read", "open_to_read"} & set(refused):
            there.write_bytes(b"x" * 3 * MIB)
            sparsesync.copyfile(source, mount / "disk", overlay=True)
            assert data_bytes(there) == 3 * MIB and there.read_bytes()[-5:] == b"xxxxx"


def test_a_partial_file_that_cannot_be_locked_is_not_continued(tmp_path: Path) -> None:
    """Another run may be writing to it, by way of a mount that has locks."""
    for name in ("src", "below"):
        (tmp_path / name).mkdir()
    source, there = sparse_file(tmp_path / "src/disk", 2 * MIB, [(MIB, 4096)]), tmp_path / "below/disk"
    partial = sparse_file(tmp_path / "below/.disk.sparsesync-partial", MIB, [(0, 4096)])
    partial.chmod(0o600)
    shell = local_shell(tmp_path / "rsh")
    with refuser(tmp_path / "below", tmp_path / "refuser", flock=errno.ENOLCK) as mount:
        sparsesync.copyfile(source, f"host:{mount}/disk", rsh=shell)
        assert same_content(source, there)
        there.unlink()
        command(sys.executable, "-m", "sparsesync", "sync", "-rt", "-e", shell, f"{tmp_path}/src/", f"host:{mount}")
        assert same_content(source, there) and allocated(there) < MIB
    assert sorted(os.listdir(tmp_path / "below")) == [partial.name, "disk"] and allocated(partial) == 4096


def test_a_mount_that_removes_nothing_has_nothing_left_on_it(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    source = sparse_file(tmp_path / "disk", 2 * MIB, [(MIB, 4096)])
    for number, dst in enumerate(("{}/disk", "host:{}/disk")):
        with refuser(tmp_path / "below", tmp_path / f"refuser{number}", unlink=errno.EPERM) as mount:
            for old in (number, 1):  # it is tried how a new file gets its name, and how it gets another's
                if not old:
                    (tmp_path / "below/disk").unlink(missing_ok=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    sparsesync.copyfile(source, dst.format(mount), rsh=local_shell(tmp_path / "rsh"))
                assert same_content(source, tmp_path / "below/disk") and os.listdir(tmp_path / "below") == ["disk"]
                assert allocated(tmp_path / "below/disk") < MIB


def test_a_mount_beside_whose_files_nothing_can_be_made(tmp_path: Path) -> None:
    for name in ("src", "below"):
        (tmp_path / name).mkdir()
    source, there = sparse_file(tmp_path / "src/disk", 2 * MIB, [(MIB, 4096)]), tmp_path / "below/disk"
    with refuser(tmp_path / "below", tmp_path / "refuser", hidden=errno.EINVAL) as mount:
        sparsesync.copyfile(source, mount / "disk", inplace=True)
        assert same_content(source, there) and os.listdir(mount) == ["disk"]
        with pytest.raises(OSError, match=r"nothing can be made beside it .*write into it in place \(--inplace\)"):
            sparsesync.copyfile(source, mount / "disk")
    argv = ["sync", "-rt", "--inplace", f"{tmp_path}/src/"]
    there.write_bytes(b"x" * MIB)
    for refused in ({"read_write": errno.EPERM}, {"exclusive": errno.EPERM}):
        with refuser(tmp_path / "below", tmp_path / "refuser", **refused) as mount:
            subprocess.run([sys.executable, "-m", "sparsesync", *argv, mount], check=True, stderr=subprocess.DEVNULL)
            assert same_content(source, there)
            there.unlink()
            if "exclusive" in refused:
                for old in (False, True):
                    for inplace in (False, True):
                        sparsesync.copyfile(source, mount / "disk", inplace=inplace)
                        assert same_content(source, there) and os.listdir(mount) == ["disk"]
                        there.write_bytes(b"x")
                        if not old:
                            there.unlink()
