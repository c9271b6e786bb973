"""``copy - FILE`` and ``copy FILE -``: a stream has no holes, so zeros are looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, device, filesystem, loop_device, same_content, sparse_file
from tests.support.sshd import Sshd

KIB = 1024
MIB = 1024 * KIB


def copy(*words: str | Path, stdin: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """A run of ``copy``, whose standard input is a pipe."""
    argv = [sys.executable, "-m", "sparsesync", "copy", *map(str, words)]
    reader = ["sh", "-c", 'cat "$0" | exec "$@"', str(stdin), *argv] if stdin else argv
    return subprocess.run(reader, capture_output=True, timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB, 3 * MIB + 5])
@pytest.mark.parametrize("options", [[], ["--inplace"]])
def test_a_stream_becomes_a_sparse_file(tmp_path: Path, size: int, options: list[str]) -> None:
    extents = [(offset, 12 * KIB) for offset in (0, 700 * KIB, 2 * MIB - 4 * KIB) if offset < size]
    source = sparse_file(tmp_path / "src", size, extents)
    assert copy(*options, "-", tmp_path / "new", stdin=source).returncode == 0
    old = tmp_path / "old"
    old.write_bytes(source.read_bytes()[:MIB] + os.urandom(4 * MIB))
    os.chmod(old, 0o640)
    inode = old.stat().st_ino
    assert copy(*options, "-", old, stdin=source).returncode == 0
    for path in (old, tmp_path / "new"):
        assert same_content(source, path) and path.stat().st_size == size
        assert allocated(path) <= 3 * 16 * KIB
    assert old.stat().st_mode & 0o777 == 0o640 and (old.stat().st_ino == inode) == bool(options)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~umask
    assert sorted(os.listdir(tmp_path)) == ["new", "old", "src"]


@pytest.mark.parametrize("size", [0, 4096, 3 * MIB + 5])
def test_a_file_becomes_a_stream(tmp_path: Path, size: int) -> None:
    source = sparse_file(tmp_path / "src", size, [(0, 4096), (MIB, 8 * KIB)] if size > MIB else [])
    done = copy(source, "-")
    assert (done.returncode, done.stderr, done.stdout) == (0, b"", source.read_bytes())
    with open(tmp_path / "out", "wb") as out:
        out.write(b"before")
        out.flush()
        argv = [sys.executable, "-m", "sparsesync", "copy", "-q", str(source), "-"]
        assert subprocess.run(argv, stdout=out, timeout=60).returncode == 0
    assert (tmp_path / "out").read_bytes() == b"before" + source.read_bytes()
    assert copy("/proc/self/status", "-").stdout.startswith(b"Name:")


def test_devices(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x" * (4 * MIB))
    source = sparse_file(tmp_path / "src", 3 * MIB, [(MIB, 64 * KIB)])
    with loop_device(tmp_path / "disk") as loop:
        assert copy("-", loop, stdin=source).returncode == 0
        assert copy(loop, "-").stdout == source.read_bytes() + b"x" * MIB
    with open(device(tmp_path / "full", 7), "wb") as full:
        argv = [sys.executable, "-m", "sparsesync", "copy", str(source), "-"]
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"sparsesync: standard output: No space left on device\n")


def test_a_reader_that_goes(tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "src", 64 * MIB, [(0, 4096)])
    script = '"$@" | head -c 5 > /dev/null; echo "${PIPESTATUS[0]}"'
    argv = ["bash", "-c", script, "bash", sys.executable, "-m", "sparsesync", "copy", str(source), "-"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-", "-"], "the other path a file"), (["a", "b", "-"], "the other path a file"),
        (["-z", "-", "f"], "--compress and -"), (["--bwlimit=1m", "f", "-"], "--bwlimit is for"),
        (["-p", "-", "f"], "--preserve and -"), (["--overlay", "-", "f"], "--overlay and -"),
        (["-v", "f", "-"], "--verbose and -"), (["--json", "f", "-"], "--json and -"),
        (["-n", "-", "f"], "--dry-run and -"), (["-", "."], "name a file in it"), (["-", "no/f"], "no/f: No such file"),
    ],
)  # fmt: skip
def test_what_a_stream_cannot_do(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "f").write_bytes(b"old")
    argv = [sys.executable, "-m", "sparsesync", "copy", *words]
    done = subprocess.run(argv, cwd=tmp_path, input=b"new", capture_output=True, timeout=60)
    assert done.returncode == 1 and said in done.stderr.decode() and done.stderr.count(b"\n") == 1
    assert os.listdir(tmp_path) == ["f"] and (tmp_path / "f").read_bytes() == b"old"


def test_a_closed_standard_input_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    argv = ["sh", "-c", '"$@" <&-', "sh", sys.executable, "-m", "sparsesync", "copy", "-", str(tmp_path / "f")]
    done = subprocess.run(argv, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"sparsesync: standard input: is closed\n")
    assert (tmp_path / "f").read_bytes() == b"old"


def far(
    server: Sshd, *words: str | Path, stdin: bytes = b"", **environ: str | Path
) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "sparsesync", "copy", "-e", server.rsh, *map(str, words)]
    return subprocess.run(argv, input=stdin, capture_output=True, timeout=60, env={**os.environ, **environ})


@pytest.mark.slow
@pytest.mark.ssh
@pytest.mark.parametrize("options", [[], ["-z", "--inplace", "--bwlimit=100m"]])
def test_a_stream_to_and_from_another_host(sshd_server: Sshd, tmp_path: Path, options: list[str]) -> None:
    content = sparse_file(tmp_path / "src", 3 * MIB + 5, [(0, 12 * KIB), (MIB, 8 * KIB)]).read_bytes()
    (tmp_path / "tmp").mkdir()
    for name, before in (("new", b""), ("old", os.urandom(4 * MIB))):
        target = tmp_path / name
        if before:
            target.write_bytes(before)
            os.chmod(target, 0o640)
        done = far(sshd_server, *options, "-", f"host:{target}", stdin=content, TMPDIR=tmp_path / "tmp")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert target.read_bytes() == content and allocated(target) <= 64 * KIB
        assert (target.stat().st_mode & 0o777 == 0o640) == bool(before)
    options = [each for each in options if each != "--inplace"]
    done = far(sshd_server, *options, f"host:{tmp_path}/new", "-", TMPDIR=tmp_path / "tmp")
    assert (done.returncode, done.stdout, done.stderr) == (0, content, b"")
    assert sorted(os.listdir(tmp_path)) == ["new", "old", "src", "tmp"] and os.listdir(tmp_path / "tmp") == []


@pytest.mark.slow
@pytest.mark.ssh
@pytest.mark.root
def test_a_stream_that_does_not_arrive(sshd_server: Sshd, tmp_path: Path) -> None:
    """The old file stays, and of a file that cannot be read nothing is printed."""
    (tmp_path / "old").write_bytes(b"old")
    for words, said in (
        (["-", f"host:{tmp_path}"], b"is a directory; name a file in it"),
        (["-", f"host:{tmp_path}/no/f"], b"No such file"),
        ([f"host:{tmp_path}/no", "-"], b"No such file"),
    ):
        done = far(sshd_server, *words, stdin=b"new")
        assert (done.returncode, done.stdout) == (1, b"") and said in done.stderr and done.stderr.count(b"\n") == 1
    with filesystem("tmpfs", tmp_path / "fs", "1m") as small:
        done = far(sshd_server, "-", f"host:{tmp_path}/old", stdin=os.urandom(2 * MIB), TMPDIR=small)
        assert b"No space left on device: a stream to or from" in done.stderr and done.stderr.count(b"\n") == 1
        assert os.listdir(small) == []
    assert (tmp_path / "old").read_bytes() == b"old"
