"""What a copy has besides its content: where a mount refuses it, as cp and shutil have it, and what is said of it."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sparsesync
from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.engine.transfer.place.copy_destination import CopyDestination
from sparsesync.engine.transfer.records import FileSpec
from tests.support.filesystems import (
    Mounted,
    command,
    need,
    need_root,
    need_tools,
    same_content,
    sparse_file,
)
from tests.support.shells import local_shell
from tests.support.trees import NOBODY, unprivileged

MIB = 1 << 20


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = sparse_file(tmp_path / "src", MIB, [(4096, 4096)])
    os.chmod(path, 0o751)
    return path


@contextlib.contextmanager
def refusing(top: Path, *options: str) -> Iterator[Path]:
    """A mount that refuses what others take: CIFS, 9p, GVFS and gcsfuse do."""
    need_root("bindfs for all")
    need_tools("bindfs")
    below, mountpoint = top / "below", top / "refusing"
    below.mkdir()
    mountpoint.mkdir()
    command("bindfs", *options, below, mountpoint)
    try:
        yield mountpoint
    finally:
        command("umount", mountpoint)


@pytest.mark.parametrize(
    ("option", "lost"), [("--chmod-deny", "the mode"), ("--chown-deny", "the owner"), ("--xattr-none", "user.note")]
)
def test_what_cannot_be_kept_is_told_once(tmp_path: Path, source: Path, option: str, lost: str) -> None:
    os.setxattr(source, "user.note", b"1")
    if os.geteuid() == 0:
        os.chown(source, 1234, 4321)
    with refusing(tmp_path, option) as mount:
        for old in (False, True):
            copy = mount / f"copy{old}"
            if old:
                copy.write_bytes(b"old")
            with pytest.warns(RuntimeWarning) as told:
                sparsesync.copy2(source, copy)
            assert [f"{copy}: not kept" in str(each.message) and lost in str(each.message) for each in told] == [True]
            assert same_content(source, copy) and os.stat(copy).st_mtime_ns == os.stat(source).st_mtime_ns
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsesync.copyfile(source, mount / "content")
        assert stat.S_IMODE(os.stat(mount / "content").st_mode) == 0o666 & ~_umask()
        done = subprocess.run(
            [sys.executable, "-m", "sparsesync", "copy", "-p", source, mount / "told"], capture_output=True, text=True
        )
        assert done.returncode == 0 and done.stderr.count("\n") == 1 and lost in done.stderr


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_owner_without_a_number(tmp_path: Path, source: Path) -> None:
    need_root("files of several owners")
    need_tools("unshare")
    need(subprocess.run(["unshare", "-r", "true"]).returncode == 0, "there are no user namespaces")
    os.chmod(tmp_path, 0o777)
    os.chmod(source, 0o644)
    (tmp_path / "old").write_bytes(b"old")
    for path in (source, tmp_path / "old"):
        os.chown(path, 4321, 4321)
    os.chmod(tmp_path / "old", 0o666)
    code = "import sparsesync as s; s.copy2('src', 'new'); s.copyfile('src', 'old')"
    done = subprocess.run(
        ["unshare", "-r", sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("the owner") == 2
    assert same_content(source, tmp_path / "new") and same_content(source, tmp_path / "old")


def test_only_the_owner_of_a_replaced_file_is_missed_by_others(tmp_path: Path, source: Path) -> None:
    need_root("files of several owners")
    os.chown(tmp_path, NOBODY, NOBODY)
    os.chmod(source, 0o644)
    (tmp_path / "old").write_bytes(b"old")
    os.chmod(tmp_path / "old", 0o666)
    with unprivileged(tmp_path):
        with pytest.warns(RuntimeWarning, match=r"old: not kept.*: the owner$"):
            sparsesync.copyfile("src", "old")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            sparsesync.copy2("src", "new")  # as cp -p and shutil.copy2: ownership where permitted
            os.chmod("new", 0o644)
            sparsesync.copyfile("src", "new", inplace=True)


def test_what_only_its_owner_may_replace_is_known_before_anything_is_copied(tmp_path: Path, source: Path) -> None:
    need_root("files of several owners")
    os.chmod(source, 0o644)
    old = tmp_path / "dir/old"
    old.parent.mkdir()
    os.chmod(old.parent, 0o1777)
    old.write_bytes(b"old")
    os.chmod(old, 0o666)
    done = list[int]()
    with unprivileged(tmp_path):
        with pytest.raises(PermissionError, match=r"only its owner .* \(--inplace\)"):
            sparsesync.copyfile("src", "dir/old", progress=done.append)
        assert not done and Path("dir/old").read_bytes() == b"old"
        sparsesync.copyfile("src", "dir/old", inplace=True)
    os.chmod(old, 0o644)
    os.chown(old.parent, NOBODY, NOBODY)
    place = CopyDestination(str(old), "", CopyOptions(inplace=True), resume=False)
    with contextlib.closing(place), unprivileged(tmp_path), pytest.raises(PermissionError):
        place.target(FileSpec("old", 1, 1, 0o644, 0)).open()


def test_in_place_the_mode_is_let_alone(tmp_path: Path, source: Path) -> None:
    need_root("files of several owners")
    os.chmod(source, 0o666)
    shutil.copy(source, tmp_path / "theirs")
    os.truncate(tmp_path / "theirs", 5)
    with unprivileged(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsesync.copy("src", "theirs", inplace=True)
    assert same_content(source, tmp_path / "theirs")


@pytest.mark.parametrize("acl", ["", "u::rwx,g::r-x,o::-", "u::rwx,u:77:rw,g::rwx,m::rw,o::r"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_copy_has_the_mode_that_cps_has(tmp_path: Path, source: Path, acl: str, remote: bool) -> None:
    need_tools("setfacl", "getfacl", "cp")
    rsh = local_shell(tmp_path / "rsh") if remote else None
    inside = tmp_path / "inside"
    inside.mkdir()
    if acl:
        command("setfacl", "-d", "-m", acl, inside)
    for mask in (0o022, 0o077):
        ours, cps = inside / f"ours{mask}", inside / f"cps{mask}"
        for old in (None, 0o604):
            options = [f"--rsh={rsh}"] if remote else []
            to = f"host:{ours}" if remote else str(ours)
            if old is not None:
                for path in (ours, cps):
                    path.write_bytes(b"old")
                    os.chmod(path, old)
            copy = [sys.executable, "-m", "sparsesync", "copy", "-q", *options, str(source), to]
            for argv in (copy, ["cp", str(source), str(cps)]):
                subprocess.run(
                    argv, check=True, umask=mask, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
                )
            assert _acl(ours) == _acl(cps), (mask, old)
            os.unlink(ours)
            os.unlink(cps)
        before = os.umask(mask)
        try:
            for function, shutils in ((sparsesync.copyfile, shutil.copyfile), (sparsesync.copy, shutil.copy)):
                function(str(source), to, rsh=rsh)
                shutils(source, cps)
                assert _acl(ours) == _acl(cps), (mask, function)
                os.unlink(ours)
                os.unlink(cps)
        finally:
            os.umask(before)


def _acl(path: Path) -> str:
    return command("getfacl", "-pcn", path)


def test_a_replaced_file_keeps_its_flags(mounted: Mounted, tmp_path: Path, source: Path) -> None:
    need_tools("chattr", "lsattr")
    for kind, flags in (("ext4", "dA"), ("xfs", "dA"), ("btrfs", "C")):
        top = mounted(kind)
        (top / "old").touch()
        command("chattr", f"+{flags}", top / "old")
        (top / "old").write_bytes(b"old")
        before = command("lsattr", top / "old").split()[0]
        assert all(flag in before for flag in flags)
        shutil.copy(source, top / "src")
        for src in (source, top / "src"):  # from another filesystem, and where extents could be shared
            sparsesync.copyfile(src, top / "old")
            assert command("lsattr", top / "old").split()[0].replace("m", "-") == before
            assert same_content(source, top / "old")
    (top / "compressed").mkdir()
    command("chattr", "+c", top / "compressed")
    for _ in range(2):  # the second time it replaces
        sparsesync.copy2(source, top / "compressed/new")
        assert "c" in command("lsattr", top / "compressed/new").split()[0]


def test_a_replaced_file_keeps_its_project(mounted: Mounted, source: Path) -> None:
    need_tools("chattr", "lsattr")
    old = mounted("xfs") / "old"
    old.write_bytes(b"old")
    command("chattr", "-p", "77", old)
    sparsesync.copyfile(source, old)
    assert command("lsattr", "-p", old).split()[0] == "77"


@pytest.mark.parametrize(("flag", "said"), [("i", "it is immutable"), ("a", "it is append-only")])
def test_what_nobody_may_replace_says_so(mounted: Mounted, source: Path, flag: str, said: str) -> None:
    need_tools("chattr")
    top = mounted("ext4")
    (top / "dir").mkdir()
    for fixed, target in ((top / "old", top / "old"), (top / "dir", top / "dir/new")):
        if fixed == target:
            fixed.write_bytes(b"old")
        command("chattr", f"+{flag}", fixed)
        try:
            if fixed == target or flag == "i":
                with pytest.raises(PermissionError, match=f"{said.split()[-1]}; chattr -{flag} lifts that") as raised:
                    sparsesync.copyfile(source, target)
                assert raised.value.filename == str(target)
            if fixed == target:
                with pytest.raises(PermissionError, match="lifts that"):
                    sparsesync.copyfile(source, target, inplace=True)
        finally:
            command("chattr", f"-{flag}", fixed)
    assert os.listdir(top / "dir") == []


def test_a_default_acl_without_writing_takes_no_extended_attributes_away(mounted: Mounted, source: Path) -> None:
    need_tools("setfacl")
    top = mounted("ext4")
    shutil.copy(source, top / "src")
    os.setxattr(top / "src", "user.x", b"1")
    (top / "dir").mkdir()
    os.chmod(top / "dir", 0o777)
    command("setfacl", "-d", "-m", "u::r,g::-,o::-", top / "dir")
    with unprivileged(top), warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsesync.copy2("src", "dir/new")
        assert os.getxattr("dir/new", "user.x") == b"1"
    assert stat.S_IMODE((top / "dir/new").stat().st_mode) == 0o751


def test_a_directory_that_keeps_its_names_gets_new_files_and_no_temporaries(
    mounted: Mounted, source: Path, tmp_path: Path
) -> None:
    need_tools("chattr")
    top = mounted("ext4") / "dir"
    top.mkdir()
    (top / "old").write_bytes(b"old")
    os.chmod(source, 0o640)
    command("chattr", "+a", top)
    try:
        for name, copied in (("new", sparsesync.copyfile), ("new2", sparsesync.copy2)):
            copied(source, top / name)
            assert same_content(source, top / name)
        with pytest.raises(PermissionError, match=r"append-only; chattr -a lifts that, or .* \(--inplace\)"):
            sparsesync.copyfile(source, top / "old")
        sparsesync.copyfile(source, top / "old", inplace=True)
        sparsesync.copyfile(source, top / "new3", inplace=True, fsync=True)
        # rsync cannot rename its temporary there, nor remove it. That is so after the seeding, too.
        assert sparsesync.sync(source, f"{top}/synced", ["-a"]).returncode == 23
        sparsesync.copyfile(source, f"host:{top}/new4", rsh=local_shell(tmp_path / "rsh"))
        with pytest.raises(PermissionError, match="append-only"), ThreadPoolExecutor(1) as executor:
            sparsesync.copyfile(source, top / "new5", executor=executor)
    finally:
        command("chattr", "-a", top)
    (theirs,) = top.glob(".*")
    theirs.unlink()
    assert theirs.name.startswith(".synced.")
    assert sorted(os.listdir(top)) == ["new", "new2", "new3", "new4", "old"]
    assert all(same_content(source, path) for path in top.iterdir())
    assert stat.S_IMODE((top / "new2").stat().st_mode) == 0o640


@pytest.mark.parametrize("how", ["immutable", "another's"])
def test_a_directory_in_which_nothing_can_be_made_leaves_what_is_there_to_in_place(
    mounted: Mounted, source: Path, tmp_path: Path, how: str
) -> None:
    need_tools("chattr")
    top = mounted("ext4")
    (top / "dir").mkdir()
    shutil.copy(source, top / "src")
    (top / "dir/old").write_bytes(b"old")
    os.chmod(top / "dir/old", 0o666)
    if how == "immutable":
        command("chattr", "+i", top / "dir")
    try:
        with unprivileged(top) if how == "another's" else contextlib.nullcontext():
            at = "." if how == "another's" else str(top)
            with pytest.raises(PermissionError, match=r"its directory .* write into it in place \(--inplace\)"):
                sparsesync.copyfile(f"{at}/src", f"{at}/dir/old")
            sparsesync.copyfile(f"{at}/src", f"{at}/dir/old", inplace=True)
        if how == "immutable":
            with pytest.raises(PermissionError, match=r"immutable; chattr -i lifts that, or .* in place") as raised:
                sparsesync.copyfile(source, f"host:{top}/dir/old", rsh=local_shell(tmp_path / "rsh"))
            assert raised.value.filename == f"host:{top}/dir/old"
    finally:
        command("chattr", "-i", top / "dir")


def test_a_file_that_is_swapped_to_is_known_before_anything_is_copied(mounted: Mounted, source: Path) -> None:
    swap = mounted("ext4") / "swap"
    swap.write_bytes(bytes(1 << 20))
    swap.chmod(0o600)
    command("mkswap", swap)
    if subprocess.run(["swapon", swap], capture_output=True).returncode:
        pytest.skip("the system may not swap to a file here")
    done: list[int] = []
    try:
        with pytest.raises(OSError, match="swapoff ends that"):
            sparsesync.copyfile(source, swap, progress=done.append)
    finally:
        command("swapoff", swap)
    assert not done
    sparsesync.copyfile(source, swap)


@pytest.mark.parametrize("remote", [False, True])
def test_a_file_that_is_mounted_is_written_to_only_in_place(tmp_path: Path, source: Path, remote: bool) -> None:
    need_root("bind mounts")
    rsh = local_shell(tmp_path / "rsh") if remote else None
    (tmp_path / "volume").write_bytes(b"old")
    (tmp_path / "mounted").touch()
    to = f"host:{tmp_path}/mounted" if remote else str(tmp_path / "mounted")
    command("mount", "--bind", tmp_path / "volume", tmp_path / "mounted")
    try:
        with pytest.raises(OSError, match="--inplace") as raised:
            sparsesync.copy(str(source), to, rsh=rsh)
        assert str(raised.value).count("/mounted") == 1
        assert raised.value.errno == errno.EBUSY and (tmp_path / "volume").read_bytes() == b"old"
        sparsesync.copy(str(source), to, rsh=rsh, inplace=True)
        assert same_content(source, tmp_path / "volume")
    finally:
        command("umount", tmp_path / "mounted")
    assert sorted(os.listdir(tmp_path)) == sorted(["src", "volume", "mounted", *(["rsh"] if remote else [])])


def test_a_program_that_runs_is_replaced_and_not_written_to(tmp_path: Path, source: Path) -> None:
    program = tmp_path / "program"
    shutil.copy2(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "60"]) as running:
        try:
            with pytest.raises(OSError, match="a program that runs can be replaced, without --inplace") as raised:
                sparsesync.copyfile(source, program, inplace=True)
            assert (raised.value.errno, raised.value.filename) == (errno.ETXTBSY, str(program))
            sparsesync.copyfile(source, program)
        finally:
            running.kill()
    assert same_content(source, program)
