"""What ``copy`` says, and what it does not do: -n, -v, --json, -z and --bwlimit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.engine.wire.rate_limit import RateLimit
from sparsesync.hosts.copies import Copies
from tests.support.filesystems import same_content, sparse_file
from tests.support.schemas import fields
from tests.support.shells import local_shell

KIB = 1024
MIB = 1024 * KIB


def copy(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sparsesync", "copy", *words]
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=60)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    sparse_file(tmp_path / "src", 32 * MIB, [(MIB, 64 * KIB)])
    (tmp_path / "dir").mkdir()
    return tmp_path


@pytest.mark.parametrize("host", ["", "host:"])
@pytest.mark.parametrize("far", ["source", "destination"])
def test_a_dry_run_writes_nothing(top: Path, host: str, far: str) -> None:
    shell = ["-e", local_shell(top / "rsh")] if host else []
    source, target = f"{top}/src", f"{top}/dir"
    source, target = (host + source, target) if far == "source" else (source, host + target)
    done = copy("-n", *shell, source, target, cwd=top)
    made = f"would copy {source} -> {target}/src: up to 64 KiB of 32 MiB\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, made, "")
    for wrong in ([f"{source}-", target], [source, f"{target}/no/f"]):
        done = copy("-n", *shell, *wrong, cwd=top)
        assert (done.returncode, done.stdout) == (1, "") and "No such file or directory" in done.stderr
    assert os.listdir(top / "dir") == []


def test_a_dry_run_of_what_cannot_be(top: Path) -> None:
    for words, said in (["src", "src"], "are the same file"), (["dir", "x"], "is a directory"):
        done = copy("-n", *words, cwd=top)
        assert done.returncode == 1 and said in done.stderr
    assert sorted(os.listdir(top)) == ["dir", "src"]


def test_what_was_copied_is_told(top: Path) -> None:
    (top / "other").write_bytes(b"x" * 100)
    done = copy("-v", "src", "no", "other", "dir", cwd=top)
    assert done.stdout == "src -> dir/src: 64 KiB of 32 MiB written\nother -> dir/other: 100 B of 100 B written\n"
    assert (done.returncode, done.stderr) == (1, "sparsesync: no: No such file or directory\n")
    assert copy("src", "new", cwd=top).stdout == ""
    done = copy("--json", "--inplace", "src", "no", "other", "dir", cwd=top)
    assert done.returncode == 1 and fields(done.stdout) == {
        "files": [
            {"source": "src", "destination": "dir/src", "size": 32 * MIB, "written": 0},
            {"source": "other", "destination": "dir/other", "size": 100, "written": 0},
        ],
        "total": {"size": 32 * MIB + 100, "written": 0},
    }


@pytest.mark.parametrize("way", ["push", "pull"])
def test_what_goes_over_the_network(top: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    text = top / "text"
    text.write_bytes(b"some words that come again and again" * 30000)
    sent = []
    for compress in (False, True):
        with Copies(local_shell(top / "rsh"), compress=compress) as copies:
            far = str(top / f"{way}{compress}")
            copies.copy(
                text if way == "push" else f"host:{text}", f"host:{far}" if way == "push" else far, CopyOptions()
            )
            link = copies._hosts.host(None, "host").connection.link
            sent.append(link.sent + link.received)
        assert same_content(text, Path(far))
    assert sent[1] < sent[0] - MIB // 2
    spent: list[tuple[int, int]] = []
    monkeypatch.setattr(RateLimit, "spend", lambda self, count: spent.append((self.rate, count)))
    with Copies(local_shell(top / "rsh"), bwlimit=1 << 30) as copies:
        copies.copy(text, f"host:{top}/limited", CopyOptions())
    assert {rate for rate, _ in spent} == {1 << 30} and sum(count for _, count in spent) > MIB


def test_a_limit_is_rsyncs(top: Path) -> None:
    for rate, said in ("fast", "is no rate"), ("-1", "is no rate"):
        done = copy(f"--bwlimit={rate}", "src", "host:x", cwd=top)
        assert done.returncode == 2 and said in done.stderr
    done = copy("--bwlimit=1m", "src", "new", cwd=top)
    assert done.returncode == 1 and done.stderr == "sparsesync: --bwlimit is for copies to and from another host\n"
    assert copy("--bwlimit=0", "-z", "src", "new", cwd=top).returncode == 0
