"""A run of ``sparsesync sync`` or of rsync: what is there before it, and what it leaves."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from tests.support.filesystems import need_root

KIB = 1024
MIB = 1024 * KIB
OLD = 1_500_000_000


def sparse(path: Path, size: int = 2 * MIB, extents: tuple[int, ...] = (0, 512 * KIB), seed: int = 1) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
        for extent in extents:
            file.seek(extent)
            file.write(bytes([seed]) * (8 * KIB))


def run(*argv: str, cwd: Path | None = None, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, timeout=120, **more)  # type: ignore


class Synced(subprocess.CompletedProcess[bytes]):
    """A run of ``sync``. ``told`` is what ``--seed-verbose`` says on standard error; ``stderr`` is the rest of that."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        super().__init__(done.args, done.returncode, done.stdout)
        lines = done.stderr.splitlines(keepends=True)
        ours = rb"sparsesync: (seeded|would seed|left to rsync:|everything is left to rsync:) "
        self.told = b"".join(line for line in lines if re.match(ours, line))
        self.stderr = b"".join(line for line in lines if not re.match(ours, line))


def sync(*argv: str, cwd: Path | None = None, **more: object) -> Synced:
    return Synced(run(sys.executable, "-m", "sparsesync", "sync", *argv, cwd=cwd, **more))


def snapshot(top: Path, since: float) -> dict[str, tuple[object, ...]]:
    """Everything rsync could have set below ``top``; a time of the transfer shows as "now"."""
    found: dict[str, tuple[object, ...]] = {}
    groups: dict[tuple[int, int], str] = {}
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted([".", *files, *(n for n in names if os.path.islink(os.path.join(directory, n)))]):
            path = os.path.normpath(os.path.join(directory, name))
            s = os.lstat(path)
            relative = os.path.relpath(path, top)
            content: object = None
            if stat.S_ISREG(s.st_mode):
                content = Path(path).read_bytes()
                content = (len(content), hash(content))
            elif stat.S_ISLNK(s.st_mode):
                content = os.readlink(path)
            attributes = sorted(os.listxattr(path, follow_symlinks=False))
            xattrs = tuple((n, os.getxattr(path, n, follow_symlinks=False)) for n in attributes)
            mtime: object = "now" if s.st_mtime >= since else s.st_mtime_ns
            linked = s.st_nlink > 1 and not stat.S_ISDIR(s.st_mode)
            link = groups.setdefault((s.st_dev, s.st_ino), relative) if linked else ""
            found[relative] = (oct(s.st_mode), s.st_uid, s.st_gid, content, xattrs, mtime, link)
    return found


def difference(ours: dict[str, tuple[object, ...]], theirs: dict[str, tuple[object, ...]]) -> dict[str, object]:
    return {
        name: (ours.get(name), theirs.get(name))
        for name in ours.keys() | theirs.keys()
        if ours.get(name) != theirs.get(name)
    }


def make_source(top: Path) -> None:
    need_root("files of several owners need root")
    (top / "a/b").mkdir(parents=True)
    (top / "c").mkdir()
    (top / "empty").mkdir()
    for name, seed in [("a/b/img", 1), ("a/disk one", 2), ("c/link1", 3), ("c/-x", 4), ("top.img", 5)]:
        sparse(top / name, seed=seed)
    sparse(top / "a/hole", extents=())
    sparse(top / "a/zeros", seed=0)
    os.fsencode(top)
    sparse(Path(os.fsdecode(os.fsencode(top) + b"/c/\xff\n\\#012")), seed=6)
    os.link(top / "c/link1", top / "c/link2")
    os.link(top / "c/link1", top / "a/link3")
    (top / "plain").write_bytes(b"plain")
    (top / "c/old").write_bytes(b"older")
    os.symlink("top.img", top / "sym")
    os.setxattr(top / "top.img", "user.color", b"red")
    os.chmod(top / "top.img", 0o4751)
    os.chmod(top / "a/b/img", 0o600)
    os.chmod(top / "a/disk one", 0o666)
    os.chmod(top / "a", 0o750)
    os.chmod(top / "a/b", 0o2775)
    os.chown(top / "a/b/img", 1234, 4321)
    run("setfacl", "-m", "u:1000:rwx", str(top / "a/disk one"))
    for directory, names, files in os.walk(top):
        for name in files + names:
            os.utime(os.path.join(directory, name), ns=(OLD * 10**9, OLD * 10**9 + 123456789), follow_symlinks=False)
    os.utime(top, (OLD, OLD))


def make_destination(top: Path, kind: str) -> None:
    """An earlier state of the destination, for what rsync does with it to be seen."""
    need_root("files of several owners need root")
    if kind == "missing":
        return
    top.mkdir()
    if kind == "empty":
        return
    (top / "a/b").mkdir(parents=True)
    os.chmod(top / "a", 0o711)
    if kind == "older":
        sparse(top / "top.img", seed=9)
        sparse(top / "a/b/img", size=MIB, seed=1)
        (top / "a/hole").write_bytes(b"not a hole" * 1000)
        sparse(top / "a/extra", seed=7)
        os.link(top / "top.img", top / "a/other")
        os.chmod(top / "top.img", 0o640)
        os.setxattr(top / "top.img", "user.old", b"old")
        os.chown(top / "top.img", 77, 88)
    elif kind == "in the way":
        (top / "top.img").symlink_to("elsewhere")
        (top / "a/b/img").mkdir()
        (top / "c").symlink_to("a")
        os.mkfifo(top / "a/disk one")
    for directory, names, files in os.walk(top):
        for name in files + names:
            os.utime(os.path.join(directory, name), (OLD - 5000, OLD - 5000), follow_symlinks=False)


def between(top: Path, *, asked: str = "", before: str = "", after: str = "", instead: str = "") -> dict[str, str]:
    """An environment whose rsync runs shell commands: before and ``after`` the dry run, ``before`` the run itself."""
    (top / "bin").mkdir()
    real = shutil.which("rsync")
    (top / "bin/rsync").write_text(f"""#!/bin/bash
case " $* " in
*" --version "*) exec {real} "$@";;
*" --dry-run "*) {asked or ":"}; {real} "$@"; s=$?; {after or ":"}; exit $s;;
*" --server "*) exec {real} "$@";;
esac
{before or ":"}
{instead or f'exec {real} "$@"'}
""")
    os.chmod(top / "bin/rsync", 0o755)
    return {**os.environ, "PATH": f"{top}/bin:{os.environ['PATH']}"}


def image(path: Path, mode: int = 0o644, content: bytes = b"x" * 4096, mtime: int = 10**9) -> Path:
    path.write_bytes(content)
    os.truncate(path, 2 * MIB)
    os.chmod(path, mode)
    os.utime(path, (mtime, mtime))
    return path
