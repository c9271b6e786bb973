"""copyfile, copy and copy2 on real filesystems; judged by cmp(1), qemu-img and stat."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sparsesync
from sparsesync.engine.content import copy as engine_copy
from sparsesync.engine.content.hands import writer as engine_writer
from sparsesync.engine.files import syscalls
from sparsesync.engine.files.mounts import filesystem_of
from sparsesync.engine.files.writing.target import Target
from tests.support.filesystems import (
    KINDS,
    Mounted,
    allocated,
    command,
    data_bytes,
    device,
    filesystem,
    loop_device,
    made_on,
    need,
    need_root,
    need_tools,
    qemu_map,
    same_content,
    sparse_file,
)

KIB = 1024
MIB = 1024 * KIB

# In units of 1 KiB, so that extents begin and end inside blocks too.
layouts = st.lists(st.tuples(st.integers(0, 1500), st.integers(1, 700)), max_size=6)
sizes = st.integers(0, 1800 * KIB)


def make(path: Path, size: int, layout: list[tuple[int, int]], seed: int = 1) -> Path:
    return sparse_file(path, size, [(o * KIB, n * KIB) for o, n in layout if o * KIB < size], seed)


def only(directory: Path, *names: str) -> bool:
    """No temporary was left behind."""
    return sorted(os.listdir(directory)) == sorted(names)


def no_more_data(copy: Path, source: Path) -> bool:
    """Holes no fewer than the source's, where filesystems differ rounded to the larger block of 4 KiB."""
    blocks: set[int] = set()
    for part in qemu_map(source):
        if part["data"]:
            start, length = int(str(part["start"])), int(str(part["length"]))
            blocks.update(range(start // 4096, (start + length + 4095) // 4096))
    for part in qemu_map(copy):
        if part["data"]:
            start, length = int(str(part["start"])), int(str(part["length"]))
            if not blocks.issuperset(range(start // 4096, (start + length + 4095) // 4096)):
                return False
    return True


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    size=sizes,
    layout=layouts,
    basis=st.none() | st.tuples(sizes, layouts),
    options=st.sampled_from(
        [{}, {"inplace": True}, {"reflink": "never"}, {"sparse": "always"}, {"inplace": True, "sparse": "always"}]
    ),
)
def test_any_layout_between_any_filesystems(
    mounted: Mounted,
    source: str,
    target: str,
    size: int,
    layout: list[tuple[int, int]],
    basis: tuple[int, list[tuple[int, int]]] | None,
    options: dict[str, object],
) -> None:
    here, there = mounted(source), mounted(target)
    src = make(here / "src", size, layout)
    if basis is not None:
        make(there / "dst", *basis, seed=2 if size % 2 else 1)
    sparsesync.copyfile(src, there / "dst", **options)  # type: ignore[arg-type]
    os.sync() if target == "btrfs" else None
    assert same_content(src, there / "dst")
    assert no_more_data(there / "dst", src)
    assert only(there, "dst")


def test_allocates_no_more_than_the_source(each_filesystem: Path) -> None:
    source = sparse_file(each_filesystem / "src", 300 * MIB, [(n * 3 * MIB, MIB) for n in range(100)])
    os.sync()
    for name, options in {"new": {}, "unshared": {"reflink": "never"}}.items():
        sparsesync.copyfile(source, each_filesystem / name, **options)  # type: ignore[arg-type]
        fd = os.open(each_filesystem / name, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        # XFS allocates ahead of a growing file and keeps that for later; see "speculative preallocation".
        assert allocated(each_filesystem / name) <= allocated(source) * 1.01 + 64 * KIB
        assert same_content(source, each_filesystem / name)


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_does_not_wait_for_the_disk(mounted: Mounted, kind: str) -> None:
    place = mounted(kind)
    sparse_file(place / "a", 8 << 20, [(0, 1 << 20)])
    sparsesync.copyfile(place / "a", place / "b", reflink="never")
    # Not allocated yet: a file that was made shorter, to 0 for ext4, they would have written out on close.
    assert "delalloc" in command("filefrag", "-v", place / "b")


def test_zeros_become_holes_only_when_asked(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.write_bytes(b"x" * 4096 + bytes(MIB) + b"y" * 100)
    sparsesync.copyfile(source, tmp_path / "auto", reflink="never")
    sparsesync.copyfile(source, tmp_path / "always", sparse="always")
    assert allocated(tmp_path / "auto") >= MIB
    assert allocated(tmp_path / "always") == 8192
    assert same_content(source, tmp_path / "always")
    shutil.copyfile(source, tmp_path / "old")
    sparsesync.copyfile(source, tmp_path / "old", sparse="always", inplace=True)
    assert allocated(tmp_path / "old") == 8192
    assert same_content(source, tmp_path / "old")


def test_inplace_writes_only_what_differs(tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "src", 16 * MIB, [(0, 4 * MIB), (8 * MIB, 4 * MIB)])
    target = tmp_path / "dst"
    sparsesync.copyfile(source, target)
    inode = os.stat(target).st_ino
    with open(target, "r+b") as file:
        file.seek(9 * MIB)
        file.write(b"changed")
        file.seek(6 * MIB)
        file.write(b"x" * 100_000)
    before = written()
    sparsesync.copyfile(source, target, inplace=True)
    assert written() - before < 64 * 1024
    assert same_content(source, target)
    assert allocated(target) == allocated(source)
    assert os.stat(target).st_ino == inode


def written() -> int:
    """How many bytes this process has written so far, to files or elsewhere: proc_pid_io(5)."""
    return int(re.findall(r"^wchar: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)[0])


class Cancelled(Exception):
    pass


def cancel_after(told: list[int], most: int) -> Callable[[int], None]:
    """A progress that notes what it is told, and cancels when that is more than so many bytes."""

    def progress(count: int) -> None:
        told.append(count)
        if sum(told) > most:
            raise Cancelled

    return progress


@pytest.mark.parametrize("differs", [False, True])
@pytest.mark.parametrize("way", ["inplace", "basis"])
def test_what_is_compared_is_told_and_can_be_cancelled(mounted: Mounted, way: str, differs: bool) -> None:
    top = mounted("btrfs")
    source = sparse_file(top / "src", 40 * MIB + 5, [(0, 6 * MIB), (8 * MIB, 4096), (9 * MIB, 20 * MIB + 5)])
    old = sparse_file(top / "old", 40 * MIB + 5, [(0, 6 * MIB), (9 * MIB, 20 * MIB)], seed=9 if differs else 1)
    directory = os.open(top, os.O_RDONLY)
    for most in (100 * MIB, 12 * MIB):
        told: list[int] = []
        progress = cancel_after(told, most)
        with contextlib.suppress(Cancelled), open(source, "rb") as file, open(old, "rb") as basis:
            if way == "inplace":
                sparsesync.copyfile(source, old, inplace=True, progress=progress)
            else:
                with Target(directory, "new", str(top / "new")) as target:
                    fd, basis_fd = file.fileno(), basis.fileno()
                    steps = engine_copy.copying(fd, target, reflink="never", progress=progress, basis=basis_fd)
                    engine_copy.by_hands(steps)
                    assert same_content(source, Path(f"/proc/{os.getpid()}/fd/{target.fd}"))
        if most > 40 * MIB:
            assert sum(told) == 26 * MIB + 2 * 4096  # in whole blocks
            assert way == "basis" or same_content(source, old)
        else:
            assert 12 * MIB < sum(told) < 16 * MIB
        assert max(told) <= 2 * MIB
    os.close(directory)
    assert not (top / "new").exists()


def test_what_the_kernel_copies_is_told_by_and_by(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsesync.engine.content.hands.writer._KERNEL_BYTES", MIB)
    source = sparse_file(mounted("tmpfs") / "src", 40 * MIB, [(0, 32 * MIB)])
    told: list[int] = []
    with pytest.raises(Cancelled):
        sparsesync.copyfile(source, source.parent / "dst", progress=cancel_after(told, 4 * MIB))
    assert told == [MIB] * 5
    assert not (source.parent / "dst").exists()


def test_inplace_releases_what_was_preallocated(tmp_path: Path) -> None:
    need_tools("fallocate")
    source = sparse_file(tmp_path / "src", 16 * MIB, [(0, MIB)])
    command("fallocate", "-l", str(16 * MIB), tmp_path / "dst")
    sparsesync.copyfile(source, tmp_path / "dst", inplace=True)
    assert same_content(source, tmp_path / "dst")
    assert allocated(tmp_path / "dst") == allocated(source)


def test_inplace_without_punching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sparse_file(tmp_path / "src", 4 * MIB, [(MIB, MIB)])
    target = sparse_file(tmp_path / "dst", 4 * MIB, [(0, 4 * MIB)])
    with open(target, "rb") as file:
        here = os.fstat(file.fileno()).st_dev, filesystem_of(file.fileno())
    monkeypatch.setattr(syscalls, "_refused", {("punch", *here, *here)})
    sparsesync.copyfile(source, target, inplace=True)
    assert same_content(source, target)


def test_shares_extents_where_possible(mounted: Mounted) -> None:
    for kind in ("xfs", "btrfs"):
        top = mounted(kind)
        source = sparse_file(top / "src", 64 * MIB, [(0, 32 * MIB)])
        os.sync()
        before = os.statvfs(top).f_bfree
        sparsesync.copyfile(source, top / "shared", reflink="always")
        os.sync()
        after = os.statvfs(top)
        assert (before - after.f_bfree) * after.f_frsize < 8 * MIB
        assert same_content(source, top / "shared")
        sparsesync.copyfile(source, top / "own", reflink="never")
        os.sync()
        assert (before - os.statvfs(top).f_bfree) * after.f_frsize > 30 * MIB
    top = mounted("ext4")
    source = sparse_file(top / "src", MIB, [(0, 4096)])
    with pytest.raises(OSError, match="share extents") as caught:
        sparsesync.copyfile(source, top / "dst", reflink="always")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert only(top, "src")


def test_refusals_are_remembered(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "_refused", set())
    calls = []
    real = fcntl.ioctl
    monkeypatch.setattr(fcntl, "ioctl", lambda *args: (calls.append(args[1]), real(*args))[1])
    top = mounted("ext4")
    for number in range(5):
        sparsesync.copyfile(sparse_file(top / "src", MIB, [(0, 4096)]), top / f"dst{number}")
    assert calls.count(syscalls.FICLONE) == 1


def test_a_refusal_is_that_of_one_filesystem(tmp_path: Path) -> None:
    """A loop device that had exFAT by way of FUSE, and now has ext4, punches."""
    source = sparse_file(tmp_path / "src", MIB, [(MIB - 4096, 4096)])
    with loop_device(sparse_file(tmp_path / "image", 64 * MIB, [])) as loop:
        with made_on(loop, "exfat", tmp_path / "exfat") as top:
            number = top.stat().st_dev
            sparsesync.copyfile(source, sparse_file(top / "dst", MIB, [(0, MIB)]), inplace=True)
        with made_on(loop, "ext4", tmp_path / "ext4") as top:
            assert top.stat().st_dev == number
            target = sparse_file(top / "dst", MIB, [(0, MIB)])
            sparsesync.copyfile(source, target, inplace=True)
            assert allocated(target) <= 8192


def test_block_device_as_source(tmp_path: Path) -> None:
    image = sparse_file(tmp_path / "image", 4 * MIB, [(MIB, MIB)])
    with loop_device(image) as loop:
        sparsesync.copyfile(loop, tmp_path / "copy", sparse="always")
    assert same_content(image, tmp_path / "copy")
    assert allocated(tmp_path / "copy") == MIB


def _largest_sector(image: Path) -> int:
    """The largest logical block that the kernel lets a loop device have: 64 KiB since Linux 6.15."""
    for sector in (65536, 16384):
        with contextlib.suppress(AssertionError), loop_device(image, "-b", str(sector)):
            return sector
    return 4096


@pytest.mark.parametrize("options", [{}, {"sparse": "always"}])
@pytest.mark.parametrize(("size", "large_sectors"), [(3 * MIB, False), (3 * MIB - 1001, False), (3 * MIB - 1001, True)])
def test_block_device_as_destination(tmp_path: Path, size: int, large_sectors: bool, options: dict[str, str]) -> None:
    source = sparse_file(tmp_path / "src", size, [(5000, 300), (MIB, MIB), (2 * MIB + 700, 4096)])
    image = sparse_file(tmp_path / "image", 4 * MIB, [(0, 4 * MIB)], seed=7)
    sector = _largest_sector(image) if large_sectors else 512
    with loop_device(image, "-b", str(sector)) as loop:
        before = os.stat(loop)
        (tmp_path / "dst").symlink_to(loop)
        assert sparsesync.copy2(source, tmp_path / "dst", **options) == tmp_path / "dst"  # type: ignore[call-overload]
        after = os.stat(loop)
        large = sparse_file(tmp_path / "large", 5 * MIB, [(0, 4096)])
        with pytest.raises(sparsesync.NoSpaceError):
            sparsesync.copyfile(large, loop)
        with pytest.raises(OSError, match="share extents"):
            sparsesync.copyfile(source, loop, reflink="always")
    assert (before.st_mode, before.st_uid, before.st_gid) == (after.st_mode, after.st_uid, after.st_gid)
    command("cmp", "-n", str(size), source, image)
    assert image.read_bytes()[size:] == bytes([8]) * (4 * MIB - size)
    # The device was told of the holes, and no zeros were written.
    assert allocated(image) <= 2 * MIB + MIB + 64 * KIB + 2 * sector


def test_any_other_device_as_destination(tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "src", MIB, [(4096, 4096)])
    null, full = device(tmp_path / "null", 3), device(tmp_path / "full", 7)
    mode = os.stat(null).st_mode
    os.chmod(source, 0o600)
    told: list[int] = []
    sparsesync.copy(source, null, progress=told.append)
    assert os.stat(null).st_mode == mode and sum(told) == 4096
    with pytest.raises(OSError) as caught:
        sparsesync.copyfile(source, full)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full))
    ours, theirs = os.openpty()
    name = os.ttyname(theirs)
    short = sparse_file(tmp_path / "short", 600, [(0, 100)])
    import tty

    tty.setraw(theirs)
    sparsesync.copyfile(short, name)
    got = b""
    while len(got) < 600:
        got += os.read(ours, 600)
    os.close(ours)
    os.close(theirs)
    assert got == short.read_bytes()


@pytest.mark.parametrize("options", [{}, {"inplace": True}, {"sparse": "always"}, {"reflink": "never"}])
@pytest.mark.parametrize("path", ["/proc/version", "/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_files_that_the_kernel_writes_when_they_are_read(tmp_path: Path, path: str, options: dict[str, object]) -> None:
    need(os.path.exists(path), f"there is no {path}")
    for old in (None, b"", b"x" * 9000):
        if old is not None:
            (tmp_path / "dst").write_bytes(old)
        sparsesync.copyfile(path, tmp_path / "dst", **options)  # type: ignore[arg-type]
        # Not cmp(1): with -s it believes the sizes.
        assert (tmp_path / "dst").read_bytes() == Path(path).read_bytes()
    assert only(tmp_path, "dst")
    told: list[int] = []
    sparsesync.copyfile(path, device(tmp_path / "null", 3), progress=told.append)
    assert sum(told) == len(Path(path).read_bytes())


def test_a_kernel_file_that_cannot_be_copied(tmp_path: Path) -> None:
    need(os.path.exists("/proc/self/mem"), "there is no /proc")
    (tmp_path / "dst").write_bytes(b"old")
    error = refuses(OSError, lambda: sparsesync.copyfile("/proc/self/mem", tmp_path / "dst"), tmp_path)
    assert isinstance(error, OSError) and error.filename == "/proc/self/mem"


def test_copy2_carries_everything(each_filesystem: Path) -> None:
    source = sparse_file(each_filesystem / "src", MIB, [(4096, 4096)])
    os.chmod(source, 0o2751)
    if os.geteuid() == 0:
        os.chown(source, 1234, 4321)
        os.chmod(source, 0o4751)
    os.setxattr(source, "user.note", b"\0kept\xff")
    need_tools("setfacl", "getfacl")
    command("setfacl", "-m", "u:77:rw", source)
    os.utime(source, ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    copy = each_filesystem / "dir"
    copy.mkdir()
    made = sparsesync.copy2(source, copy)
    a, b = os.stat(source), os.stat(made)
    assert made == os.path.join(copy, "src")
    assert (a.st_mode, a.st_uid, a.st_gid, a.st_mtime_ns) == (b.st_mode, b.st_uid, b.st_gid, b.st_mtime_ns)
    assert b.st_atime_ns == 1_500_000_000_123_456_789
    assert os.getxattr(made, "user.note") == b"\0kept\xff"
    acls = [command("getfacl", "-pcn", str(path)) for path in (source, made)]
    assert acls[0] == acls[1]
    assert allocated(Path(made)) == allocated(source)


def test_what_the_destination_keeps(tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "src", MIB, [(0, 4096)])
    os.chmod(source, 0o640)
    for function, mode in ((sparsesync.copyfile, 0o604), (sparsesync.copy, 0o640)):
        target = tmp_path / "dst"
        target.write_bytes(b"old")
        os.chmod(target, 0o604)
        os.setxattr(target, "user.mine", b"1")
        function(source, target)
        assert stat.S_IMODE(os.stat(target).st_mode) == mode
        assert os.getxattr(target, "user.mine") == b"1"
        assert same_content(source, target)
    mask = os.umask(0o027)
    try:
        sparsesync.copyfile(source, tmp_path / "new")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o640


def test_copytree(tmp_path: Path) -> None:
    (tmp_path / "a/sub").mkdir(parents=True)
    sparse_file(tmp_path / "a/sub/img", 8 * MIB, [(MIB, 4096)])
    (tmp_path / "a/empty").write_bytes(b"")
    (tmp_path / "a/link").symlink_to("sub/img")
    shutil.copytree(tmp_path / "a", tmp_path / "b", symlinks=True, copy_function=sparsesync.copy2)
    command("diff", "-r", "--no-dereference", tmp_path / "a", tmp_path / "b")
    assert allocated(tmp_path / "b/sub/img") == 4096
    # It is shutil's error that shutil has to understand.
    with pytest.raises(shutil.Error):
        shutil.copytree(tmp_path / "a", tmp_path / "a", dirs_exist_ok=True, copy_function=sparsesync.copy2)
    with pytest.raises(shutil.SameFileError, match="are the same file"):
        sparsesync.copy2(tmp_path / "a/empty", tmp_path / "a/empty")


def test_symlinks(tmp_path: Path) -> None:
    sparse_file(tmp_path / "real", MIB, [(0, 4096)])
    (tmp_path / "link").symlink_to("real")
    sparsesync.copy2(tmp_path / "link", tmp_path / "copied link", follow_symlinks=False)
    assert os.readlink(tmp_path / "copied link") == "real"
    (tmp_path / "to").symlink_to("target")
    sparsesync.copyfile(tmp_path / "link", tmp_path / "to")
    assert os.readlink(tmp_path / "to") == "target"
    assert same_content(tmp_path / "real", tmp_path / "target")


def refuses(expected: type[BaseException], call: Callable[[], object], directory: Path) -> BaseException:
    before = {name: os.lstat(directory / name) for name in os.listdir(directory)}
    with pytest.raises(expected) as caught:
        call()
    after = {name: os.lstat(directory / name) for name in os.listdir(directory)}
    assert before.keys() == after.keys()
    assert all(before[n].st_mtime_ns == after[n].st_mtime_ns and before[n].st_ino == after[n].st_ino for n in before)
    return caught.value


def test_bad_input(tmp_path: Path) -> None:
    top = tmp_path
    source = sparse_file(top / "src", MIB, [(0, 4096)])
    os.mkfifo(top / "fifo")
    (top / "dir").mkdir()
    os.link(source, top / "same")
    refuses(FileNotFoundError, lambda: sparsesync.copyfile(top / "none", top / "dst"), top)
    refuses(FileNotFoundError, lambda: sparsesync.copyfile(source, top / "no/dst"), top)
    refuses(FileNotFoundError, lambda: sparsesync.copyfile(source, ""), top)
    refuses(IsADirectoryError, lambda: sparsesync.copy(top / "dir", top / "dst"), top)
    refuses(IsADirectoryError, lambda: sparsesync.copyfile(source, top / "dir"), top)
    refuses(shutil.SameFileError, lambda: sparsesync.copyfile(source, source), top)
    refuses(shutil.SameFileError, lambda: sparsesync.copy2(source, top / "same"), top)
    refuses(shutil.SpecialFileError, lambda: sparsesync.copyfile(top / "fifo", top / "dst"), top)
    refuses(shutil.SpecialFileError, lambda: sparsesync.copyfile(source, top / "fifo"), top)
    refuses(shutil.SpecialFileError, lambda: sparsesync.copyfile("/dev/zero", top / "dst"), top)
    refuses(ValueError, lambda: sparsesync.copyfile(source, top / "dst", sparse="never"), top)  # type: ignore[arg-type]
    refuses(ValueError, lambda: sparsesync.copyfile(source, top / "dst", reflink="yes"), top)  # type: ignore[arg-type]
    refuses(ValueError, lambda: sparsesync.copyfile(source, top / "dst", reflink="always", inplace=True), top)


def test_a_destination_that_is_too_small(tmp_path: Path, mounted: Mounted) -> None:
    source = sparse_file(mounted("ext4") / "src", 200 * MIB, [(0, 40 * MIB)])
    with filesystem("ext4", tmp_path / "small", "32M") as small:
        (small / "dst").write_bytes(b"old")
        error = refuses(sparsesync.NoSpaceError, lambda: sparsesync.copyfile(source, small / "dst"), small)
        assert isinstance(error, sparsesync.NoSpaceError)
        assert error.needed >= 40 * MIB > 32 * MIB > error.free
        # Not known before reading: the disk fills up while it is written.
        dense = sparse_file(source.parent / "dense", 40 * MIB, [(0, 40 * MIB)])
        error = refuses(OSError, lambda: sparsesync.copyfile(dense, small / "dst", sparse="always"), small)
        assert isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename == str(small / "dst")
        assert (small / "dst").read_bytes() == b"old"
        command("mount", "-o", "remount,ro", small)
        error = refuses(OSError, lambda: sparsesync.copyfile(source, small / "dst"), small)
        assert isinstance(error, OSError) and error.errno == errno.EROFS


def test_a_quota(tmp_path: Path, mounted: Mounted) -> None:
    need_tools("btrfs")
    source = sparse_file(mounted("ext4") / "src", 80 * MIB, [(0, 60 * MIB)])
    with filesystem("btrfs", tmp_path / "fs", "320M") as top:
        bound = top / "bound"
        command("btrfs", "subvolume", "create", bound)
        command("btrfs", "quota", "enable", top)
        command("btrfs", "qgroup", "limit", "8M", bound)
        (bound / "dst").write_bytes(b"old")
        error = refuses(OSError, lambda: sparsesync.copyfile(source, bound / "dst"), bound)
        assert isinstance(error, OSError) and error.errno == errno.EDQUOT
        assert (bound / "dst").read_bytes() == b"old"
        for words, status, lines in (["copy"], 1, 1), (["sync", "-a"], 11, 2):  # rsync's error, and how it ends
            argv = [sys.executable, "-m", "sparsesync", *words, str(source), str(bound / "dst")]
            done = subprocess.run(argv, capture_output=True, text=True)
            assert (done.returncode, done.stderr.count("\n")) == (
                status,
                lines,
            ) and "Disk quota exceeded" in done.stderr
            assert (bound / "dst").read_bytes() == b"old" and os.listdir(bound) == ["dst"]


def test_a_filesystem_without_holes(tmp_path: Path) -> None:
    need(os.path.exists("/dev/fuse"), "exfat-fuse needs /dev/fuse")
    with filesystem("exfat", tmp_path / "fs", "64M") as top:
        small = sparse_file(tmp_path / "small", 8 * MIB, [(MIB, 4096)])
        with pytest.warns(RuntimeWarning, match="no holes"):
            sparsesync.copyfile(small, top / "small")
        assert same_content(small, top / "small")
        large = sparse_file(tmp_path / "large", 1 << 30, [(MIB, 4096)])
        with pytest.warns(RuntimeWarning, match="no holes"):
            error = refuses(sparsesync.NoSpaceError, lambda: sparsesync.copyfile(large, top / "large"), top)
        assert isinstance(error, sparsesync.NoSpaceError) and error.needed == 1 << 30


def test_a_file_size_limit(tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "src", 8 * MIB, [(0, 4096)])
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, old[1]))
    try:
        error = refuses(OSError, lambda: sparsesync.copyfile(source, tmp_path / "dst"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert isinstance(error, OSError) and error.errno == errno.EFBIG


@pytest.mark.parametrize("extents", [[(0, 4096), (20 * MIB, 4096)], [(0, 32 * MIB)]])
def test_a_source_truncated_while_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extents: list[tuple[int, int]]
) -> None:
    source = sparse_file(tmp_path / "src", 32 * MIB, extents)
    (tmp_path / "dst").write_bytes(b"old")
    real = syscalls.read_into

    def cut(fd: int, view: memoryview, offset: int) -> int:
        os.truncate(source, 10 * MIB)
        return real(fd, view, offset)

    monkeypatch.setattr(engine_writer, "read_into", cut)
    with pytest.raises(sparsesync.TruncatedError, match="truncated") as caught:
        sparsesync.copyfile(source, tmp_path / "dst")
    assert caught.value.filename == str(source)
    assert (tmp_path / "dst").read_bytes() == b"old"
    assert only(tmp_path, "src", "dst")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_interrupted_it_leaves_the_old_file_and_no_temporary(mounted: Mounted, number: int) -> None:
    top = mounted("ext4")
    source = sparse_file(top / "src", 10**9, [(0, 300 * MIB)])
    (top / "dst").write_bytes(b"old")
    process = subprocess.Popen([sys.executable, "-m", "sparsesync", "copy", source, top / "dst"])
    while only(top, "src", "dst") and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(number)
    status = process.wait(timeout=60)
    if status == 0:
        pytest.skip("it had finished before the signal came")
    assert status == 128 + number
    assert (top / "dst").read_bytes() == b"old"
    assert only(top, "src", "dst")


def test_without_write_permission(tmp_path: Path) -> None:
    need_root("changing the user needs root")
    source = sparse_file(tmp_path / "src", MIB, [(0, 4096)])
    os.chmod(tmp_path, 0o755)
    (tmp_path / "own").mkdir()
    os.chown(tmp_path / "own", 65534, 65534)
    (tmp_path / "own/theirs").write_bytes(b"old")
    script = (
        "import os, shutil, sys, sparsesync, sparsesync.hosts.copies; sparsesync.copy2\n"
        "os.setegid(65534); os.seteuid(65534)\n"
        "for dst in sys.argv[2:]:\n"
        "    try: sparsesync.{}(sys.argv[1], dst)\n"
        "    except PermissionError as error: print('refused', error.filename)\n"
        "    else: print('copied', os.stat(dst).st_uid, os.listxattr(dst))\n"
    )
    (tmp_path / "own/unreadable").write_bytes(b"old")
    os.setxattr(tmp_path / "own/unreadable", "user.note", b"1")
    os.chmod(tmp_path / "own/unreadable", 0o222)
    os.chown(tmp_path / "own/unreadable", 65534, 65534)
    targets = [str(tmp_path / "dst"), *(str(tmp_path / "own" / name) for name in ("theirs", "new", "unreadable"))]
    for parent in tmp_path.parents:
        if parent != Path("/tmp") and os.stat(parent).st_uid == os.geteuid() and str(parent).startswith("/tmp/"):
            os.chmod(parent, 0o755)
    output = command(sys.executable, "-u", "-c", script.format("copyfile"), str(source), *targets)
    lost = f"{targets[3]}: not kept, since it cannot be read or set there: the extended attribute user.note"
    assert [line.rpartition("Warning: ")[2] for line in output.splitlines() if not line.startswith("  ")] == [
        f"refused {targets[0]}", f"refused {targets[1]}", "copied 65534 []", lost, "copied 65534 []"
    ]  # fmt: skip
    assert same_content(source, tmp_path / "own/unreadable")
    output = command(sys.executable, "-c", script.format("copy2"), str(source), *targets)
    assert [line.rpartition(" [")[0] or line for line in output.splitlines()] == [
        f"refused {targets[0]}", f"refused {targets[1]}", "copied 65534", "copied 65534"
    ]  # fmt: skip
    assert same_content(source, tmp_path / "own/unreadable")


def test_no_hole_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sparse_file(tmp_path / "src", 1 << 40, [(0, 4096), (1 << 39, 4096)])
    read = []
    real = syscalls.read_into
    monkeypatch.setattr(
        engine_writer, "read_into", lambda fd, view, at: (read.append(len(view)), real(fd, view, at))[1]
    )
    sparsesync.copyfile(source, tmp_path / "dst", reflink="never")
    assert sum(read) == 8192
    assert data_bytes(tmp_path / "dst") == 8192


@pytest.mark.parametrize(("flags", "mode"), [([], 0o755), (["-p"], 0o6755)])
def test_setuid_goes_along_with_the_owner_only(tmp_path: Path, flags: list[str], mode: int) -> None:
    source = sparse_file(tmp_path / "a", MIB, [(0, 4096)])
    os.chmod(source, 0o6755)
    command(sys.executable, "-m", "sparsesync", "copy", *flags, str(source), str(tmp_path / "b"))
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == mode


def test_what_is_replaced_leaves_no_capabilities_behind(each_filesystem: Path) -> None:
    need_root("capabilities need root")
    source, target = sparse_file(each_filesystem / "a", MIB, [(0, 4096)]), each_filesystem / "b"
    target.write_bytes(b"old")
    try:
        os.setxattr(target, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
        os.setxattr(target, "user.kept", b"kept")
    except OSError:
        pytest.skip("this filesystem has no capabilities")
    sparsesync.copyfile(source, target)
    assert os.listxattr(target) == ["user.kept"]


@pytest.mark.parametrize("hidden", [False, True])
def test_a_source_that_changes_meanwhile_is_told(hidden: bool, tmp_path: Path) -> None:
    """``hidden``: its time is set back, and only ctime shows the change."""
    source = sparse_file(tmp_path / "src", 2 * MIB, [(0, 64 * KIB), (MIB, 64 * KIB)])
    before = os.stat(source)

    def change(done: int) -> None:
        with open(source, "r+b") as file:
            file.write(b"changed")
        if hidden:
            os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.warns(RuntimeWarning, match="changed while it was copied"):
        sparsesync.copy2(source, tmp_path / "dst", progress=change, reflink="never")
    assert os.stat(tmp_path / "dst").st_mtime_ns == before.st_mtime_ns


def test_nothing_is_reserved_in_an_empty_file(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "empty").touch()
    sparsesync.copyfile(tmp_path / "empty", tmp_path / "new", reserve=True)
    assert not list(recwarn) and (tmp_path / "new").stat().st_size == 0
