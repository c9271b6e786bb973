"""``sparsesync sync`` against real rsync: the same tree, except that holes are holes.

Each case is run twice over the same source and the same earlier destination, by rsync and by
sparsesync, and what they leave is compared entry by entry.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.filesystems import need

KIB = 1024
MIB = 1024 * KIB
OLD = 1_500_000_000


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")


def sparse(path: Path, size: int = 2 * MIB, extents: tuple[int, ...] = (0, 512 * KIB), seed: int = 1) -> None:
    with open(path, "wb") as file:
        file.truncate(size)
        for extent in extents:
            file.seek(extent)
            file.write(bytes([seed]) * (8 * KIB))


def run(*argv: str, cwd: Path | None = None, **more: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, timeout=120, **more)  # type: ignore


def sync(*argv: str, cwd: Path | None = None, **more: object) -> subprocess.CompletedProcess[bytes]:
    return run(sys.executable, "-m", "sparsesync", "sync", *argv, cwd=cwd, **more)


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
    if os.geteuid() == 0:
        os.chown(top / "a/b/img", 1234, 4321)
        run("setfacl", "-m", "u:1000:rwx", str(top / "a/disk one"))
    for directory, names, files in os.walk(top):
        for name in files + names:
            os.utime(os.path.join(directory, name), ns=(OLD * 10**9, OLD * 10**9 + 123456789), follow_symlinks=False)
    os.utime(top, (OLD, OLD))


def make_destination(top: Path, kind: str) -> None:
    """An earlier state of the destination, for what rsync does with it to be seen."""
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
        if os.geteuid() == 0:
            os.chown(top / "top.img", 77, 88)
    elif kind == "in the way":
        (top / "top.img").symlink_to("elsewhere")
        (top / "a/b/img").mkdir()
        (top / "c").symlink_to("a")
        os.mkfifo(top / "a/disk one")
    for directory, names, files in os.walk(top):
        for name in files + names:
            os.utime(os.path.join(directory, name), (OLD - 5000, OLD - 5000), follow_symlinks=False)


OPTIONS = [
    ["-a"], ["-r"], ["-rt"], ["-rp"], ["-rltD"], ["-aH"], ["-aX"], ["-aA"], ["-aHAX"], ["--inplace"], ["-S"], ["-u"],
    ["--size-only"], ["--existing"], ["--ignore-existing"], ["--delete"], ["--delete-before"], ["--backup"],
    ["--backup", "--suffix=.bak"], ["-b", "--backup-dir=old"], ["--no-t"], ["--no-p"], ["-O"], ["-E"], ["-x"],
    ["--chmod=F640"], ["--exclude=/a/b"], ["--exclude=*.img"], ["--include=*/", "--include=*img*", "--exclude=*"],
    ["-m"], ["--max-size=1M"], ["--min-size=1M"], ["-L"], ["-K"], ["-R"], ["--no-implied-dirs"], ["-z"], ["-W"],
    ["--no-W"], ["--partial"], ["--partial-dir=.part"], ["--delay-updates"], ["--append"], ["-c"], ["-I"],
    ["--fsync"], ["--numeric-ids"], ["--chown=55:66"], ["--force"], ["-y"], ["--remove-source-files"], ["-q"],
    ["-v"], ["-i"], ["--out-format=%n"], ["--stats"], ["-P"], ["-h"], ["--modify-window=1"], ["-U"], ["--fake-super"],
]  # fmt: skip


@settings(
    max_examples=int(os.environ.get("SYNC_EXAMPLES", "80")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    options=st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=4),
    base=st.sampled_from(["-a", "-a", "-aHAX", "-r", "-rt", "-rlpt"]),
    kind=st.sampled_from(["missing", "empty", "older", "in the way"]),
    form=st.sampled_from(["src/", "src", ".", "file", "two", "files-from"]),
    umask=st.sampled_from([0o022, 0o077, 0o002]),
)
def test_leaves_what_rsync_leaves(
    tmp_path_factory: pytest.TempPathFactory, options: list[list[str]], base: str, kind: str, form: str, umask: int
) -> None:
    top = tmp_path_factory.mktemp("case")
    given_options = [base, *(word for option in options for word in option)]
    results = {}
    outcomes = {}
    for who in ("rsync", "sparsesync"):
        place = top / who
        place.mkdir()
        make_source(place / "src")
        make_destination(place / "dst", kind)
        sources, cwd = {
            "src/": (["src/"], place),
            "src": (["src"], place),
            ".": (["."], place / "src"),
            "file": (["src/top.img"], place),
            "two": (["src/a", "src/top.img"], place),
            "files-from": (["--files-from=list", "src"], place),
        }[form]
        (place / "list").write_text("a/b/img\nc\ntop.img\n")
        destination = "../dst" if form == "." else "dst"
        run_it = sync if who == "sparsesync" else (lambda *argv, **more: run("rsync", *argv, **more))
        since = time.time() - 60
        outcomes[who] = run_it(*given_options, *sources, destination, cwd=cwd, umask=umask)
        results[who] = snapshot(place / "dst", since) if (place / "dst").is_dir() else {
            "": (place / "dst").exists() and snapshot(place, since)["dst"]
        }  # fmt: skip
        results[who + " source"] = {p: s[:5] for p, s in snapshot(place / "src", since).items()}
    shutil.rmtree(top)
    assert outcomes["sparsesync"].returncode == outcomes["rsync"].returncode, outcomes
    assert difference(results["sparsesync"], results["rsync"]) == {}
    assert difference(results["sparsesync source"], results["rsync source"]) == {}
