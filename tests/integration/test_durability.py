"""What is flushed to the disk, and in which order: the system calls of whole commands, as strace(1) sees them.

What that is worth when the power goes is for :mod:`tests.support.powercut` to try; here is its short form.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsesync.engine.queries.registry import answer_query
from tests.support.filesystems import (
    filesystem,
    loop_device,
    need_tools,
    same_content,
    sparse_file,
)
from tests.support.powercut import cut
from tests.support.shells import local_shell

MIB = 1 << 20

_CALLS = "?mkdir,mkdirat,?rename,?renameat,renameat2,?symlink,symlinkat,fsync,?fdatasync,sync,syncfs"
_TEMPORARY = re.compile(r"\.(\w+)\.[0-9a-f]{8}$|\.(\w+)\.sparsesync-partial$")

Call = tuple[str, ...]


@pytest.fixture(autouse=True)
def _strace() -> None:
    need_tools("strace")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    return sparse_file(tmp_path / "src/disk", 8 * MIB, [(0, 8192), (5 * MIB, MIB)])


@pytest.fixture
def rsh(tmp_path: Path) -> str:
    """A remote shell that leads to this machine."""
    return local_shell(tmp_path / "rsh")


def traced(
    top: Path, *argv: str | Path, inject: str | None = None
) -> tuple[list[Call], subprocess.CompletedProcess[str]]:
    """Run sparsesync; what it and all that it starts do below ``top``: names are relative, temporaries ``~NAME``."""
    log = top / "trace"
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s", "4096", "-e", f"trace={_CALLS}", "-e", "signal=none"]
    strace += ["-e", f"inject={inject}"] if inject else []
    done = subprocess.run(
        [*strace, "-o", log, sys.executable, "-B", "-m", "sparsesync", *map(str, argv)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    text = re.sub(r" <unfinished \.\.\.>\n(?:\d+ .*\n)*?\d+ <\.\.\. \w+ resumed>", "", log.read_text())
    calls = []
    for line in text.splitlines():
        match = re.match(r"\d+ +(\w+)\((.*)\) += (-?\d+)", line)
        if match is None:
            continue
        paths: list[str] = []
        for holder, name, opened in re.findall(r'(?:\w+<([^>]*)>, |AT_FDCWD, )?"([^"]*)"|\d+<([^>]*)>', match[2]):
            paths.append(opened or os.path.join(holder, name))
        kind = re.sub("at2?$", "", match[1])
        names = [os.path.relpath(path, top) for path in paths]
        if kind != "sync" and not (names and match[3] == "0" and not names[-1].startswith("..")):
            continue
        calls.append((kind, *(_TEMPORARY.sub(lambda found: "~" + (found[1] or found[2]), name) for name in names)))
    return calls, done


COMMIT = [("fsync", "dst/~disk"), ("rename", "dst/~disk", "dst/disk"), ("fsync", "dst")]


@pytest.mark.parametrize(("way", "old"), [("local", False), ("local", True), ("push", True), ("pull", False)])
def test_a_copy_flushes_the_content_then_the_name(tmp_path: Path, source: Path, rsh: str, way: str, old: bool) -> None:
    (tmp_path / "dst").mkdir()
    target = tmp_path / "dst/disk"
    if old:
        target.write_bytes(b"old")
    ends: dict[str, tuple[str | Path, str | Path]]
    ends = {"local": (source, target), "push": (source, f"host:{target}"), "pull": (f"host:{source}", target)}
    calls, done = traced(tmp_path, "copy", "-q", "-e", rsh, "--fsync", *ends[way])
    assert (done.returncode, done.stderr) == (0, "")
    assert calls == COMMIT
    assert same_content(source, target)


@pytest.mark.parametrize("way", ["local", "push"])
def test_in_place_the_content_is_flushed(tmp_path: Path, source: Path, rsh: str, way: str) -> None:
    target = sparse_file(tmp_path / "disk", 8 * MIB, [(0, 8192)])
    to = target if way == "local" else f"host:{target}"
    calls, done = traced(tmp_path, "copy", "-q", "-e", rsh, "--inplace", "--fsync", source, to)
    assert (done.returncode, done.stderr) == (0, "")
    assert calls == [("fsync", "disk")]


def test_nothing_is_flushed_unless_it_is_asked_for(tmp_path: Path, source: Path, rsh: str) -> None:
    for to in (tmp_path / "a", f"host:{tmp_path}/b"):
        calls, done = traced(tmp_path, "copy", "-q", "-e", rsh, source, to)
        assert (done.returncode, [call[0] for call in calls]) == (0, ["rename"])
    calls, done = traced(tmp_path, "sync", "-a", f"{tmp_path}/src/", tmp_path / "c")
    assert (done.returncode, [call[0] for call in calls]) == (0, ["mkdir", "rename"])


@pytest.mark.parametrize("way", ["local", "push", "pull"])
def test_sync_flushes_the_directories_that_it_makes_too(tmp_path: Path, source: Path, rsh: str, way: str) -> None:
    (tmp_path / "src/sub/deep").mkdir(parents=True)
    os.rename(source, tmp_path / "src/sub/deep/disk")
    near, far = (tmp_path / "src", f"{tmp_path}/a/b"), (f"host:{tmp_path}/src", f"host:{tmp_path}/a/b")
    ends = [near[0] if way != "pull" else far[0], near[1] if way != "push" else far[1]]
    argv = ["-a", "--fsync", "--mkpath", "-e", rsh, f"{ends[0]}/", ends[1]]
    calls, done = traced(tmp_path, "sync", *argv)
    assert (done.returncode, done.stderr) == (0, "")
    assert calls == [
        ("mkdir", "a"), ("fsync", "."), ("mkdir", "a/b"), ("fsync", "a"),
        ("mkdir", "a/b/sub"), ("fsync", "a/b"), ("mkdir", "a/b/sub/deep"), ("fsync", "a/b/sub"),
        ("fsync", "a/b/sub/deep/~disk"), ("rename", "a/b/sub/deep/~disk", "a/b/sub/deep/disk"),
        ("fsync", "a/b/sub/deep"),
    ]  # fmt: skip


def test_the_file_behind_a_symlink_is_flushed_where_it_is(tmp_path: Path, source: Path) -> None:
    (tmp_path / "dst").mkdir()
    (tmp_path / "link").symlink_to("dst/disk")
    calls, done = traced(tmp_path, "copy", "-q", "--fsync", source, tmp_path / "link")
    assert (done.returncode, calls) == (0, COMMIT)


def test_a_symlink_is_flushed_by_its_directory(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "dst").mkdir()
    log = tmp_path / "trace"
    code = "import sys, sparsesync; sparsesync.copy2(*sys.argv[1:], follow_symlinks=False, fsync=True)"
    argv: list[str | Path] = ["strace", "-qq", "-y", "-e", "trace=fsync", "-o", log, sys.executable, "-c", code]
    subprocess.run([*argv, tmp_path / "link", tmp_path / "dst/link"], check=True, timeout=60)
    assert f"<{tmp_path}/dst>)" in log.read_text()
    assert os.readlink(tmp_path / "dst/link") == "nowhere"


def test_a_device_is_flushed(tmp_path: Path, source: Path) -> None:
    with filesystem("ext4", tmp_path / "fs", "32M") as place:
        image = place / "image"
        image.write_bytes(bytes(16 * MIB))
        with loop_device(image) as loop:
            log = tmp_path / "trace"
            argv: list[str | Path] = ["strace", "-qq", "-y", "-e", "trace=fsync", "-o", log, sys.executable]
            argv += ["-m", "sparsesync", "copy"]
            done = subprocess.run([*argv, "-q", "--fsync", source, loop], capture_output=True, timeout=60)
            assert (done.returncode, done.stderr) == (0, b"")
            assert f"<{loop}" in log.read_text()


@pytest.mark.parametrize("way", ["local", "push"])
def test_what_cannot_be_flushed_gets_no_name(tmp_path: Path, source: Path, rsh: str, way: str) -> None:
    (tmp_path / "dst").mkdir()
    target = tmp_path / "dst/disk"
    target.write_bytes(b"old")
    to = target if way == "local" else f"host:{target}"
    calls, done = traced(tmp_path, "copy", "-q", "-e", rsh, "--fsync", source, to, inject="fsync:error=EIO")
    assert done.returncode == 1
    assert done.stderr.startswith(f"sparsesync: {to}: Input/output error") and done.stderr.count("\n") == 1
    assert calls == []
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path / "dst") == ["disk"]


def test_a_name_that_cannot_be_flushed_is_an_error(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "disk"
    target.write_bytes(b"old")
    _, done = traced(tmp_path, "copy", "-q", "--fsync", source, target, inject="fsync:error=EIO:when=2")
    assert (done.returncode, done.stderr) == (1, f"sparsesync: {target}: Input/output error\n")
    assert same_content(source, target)


def test_sync_leaves_what_cannot_be_flushed_to_rsync(tmp_path: Path, source: Path) -> None:
    argv: list[str | Path] = ["sync", "-av", "--seed-verbose", "--fsync", f"{tmp_path}/src/", tmp_path / "dst"]
    (tmp_path / "dst").mkdir()
    _, done = traced(tmp_path, *argv, inject="fsync:error=EIO:when=1")
    assert "left to rsync: disk: Input/output error" in done.stderr
    # It met the same.
    assert done.returncode != 0 and "fsync failed" in done.stderr


def test_a_filesystem_that_flushes_no_directory_is_flushed_whole(tmp_path: Path, source: Path) -> None:
    target = tmp_path / "disk"
    calls, done = traced(tmp_path, "copy", "-q", "--fsync", source, target, inject="fsync:error=EINVAL:when=2")
    warning = "its filesystem does not flush directories (fsync): a power cut may undo the name"
    assert (done.returncode, done.stderr) == (0, f"sparsesync: {target}: {warning}\n")
    assert calls == [("fsync", "~disk"), ("rename", "~disk", "disk"), ("syncfs", ".")]
    assert same_content(source, target)


@pytest.mark.slow
def test_a_final_pass_is_on_the_disk_before_services_start(tmp_path: Path, source: Path, rsh: str) -> None:
    (tmp_path / "src/plain").write_text("plain\n")
    to = f"host:{tmp_path}/dst"
    calls, done = traced(tmp_path, "migrate", "-e", rsh, f"{tmp_path}/src/", to)
    assert done.returncode == 0 and "syncfs" not in [call[0] for call in calls], done
    (tmp_path / "src/plain").write_text("changed\n")
    services = ["--before-dest", f"mkdir {tmp_path}/stopped", "--after-dest", f"mkdir {tmp_path}/started"]
    calls, done = traced(tmp_path, "migrate", "-e", rsh, "--final", *services, f"{tmp_path}/src/", to)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert calls[-2:] == [("syncfs", "dst"), ("mkdir", "started")]
    assert [call[-1] for call in calls if call[0] == "rename"][-1:] == ["dst/plain"]


def test_a_final_pass_that_cannot_be_flushed_fails(tmp_path: Path, source: Path) -> None:
    services = ["--after-dest", f"mkdir {tmp_path}/started", "--on-failure", f"mkdir {tmp_path}/again"]
    argv: list[str | Path] = ["migrate", "--final", *services, f"{tmp_path}/src/", tmp_path / "dst"]
    _, done = traced(tmp_path, *argv, inject="syncfs:error=EIO")
    assert done.returncode == 11
    assert done.stderr == (
        f"sparsesync: {tmp_path}/dst: could not be flushed to the disk (Input/output error); look for the disk's "
        "errors in the kernel's log, then run the same command with --verify=full\n"
        "sparsesync: --on-failure was run on this host\n"
    )
    assert (tmp_path / "again").exists() and not (tmp_path / "started").exists()


def test_what_is_mounted_below_is_flushed_too(tmp_path: Path) -> None:
    with filesystem("tmpfs", tmp_path / "with blank", "1M") as below:
        (tmp_path / "link").symlink_to("with blank")
        assert answer_query("flush", path=f"{tmp_path}/link").paths == [f"{tmp_path}/with blank", str(below)]
    with pytest.raises(OSError) as caught:
        answer_query("flush", path=f"{tmp_path}/none")
    assert caught.value.filename == f"{tmp_path}/none"


def test_what_is_done_survives_a_power_cut(tmp_path: Path) -> None:
    found = cut("ext4", tmp_path, 4, fsync=True)
    assert found.wrong == []
    assert found.counts["checked"] > 50
