"""``sparsesync dig``: zeros become holes in place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.support.filesystems import allocated, data_bytes
from tests.support.schemas import fields
from tests.support.sync import MIB, OLD, run


def dig(*argv: str, cwd: Path) -> tuple[int, str, str]:
    done = run(sys.executable, "-m", "sparsesync", "dig", *argv, cwd=cwd)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def zeros(path: Path) -> Path:
    path.write_bytes(bytes(3 * MIB) + b"x" * 4096 + bytes(MIB))
    os.utime(path, (OLD, OLD))
    return path


def test_zeros_become_holes(tmp_path: Path) -> None:
    content = zeros(tmp_path / "a").read_bytes()
    zeros(tmp_path / "b")
    os.symlink("b", tmp_path / "link")
    status, out, errors = dig("a", "link", cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert out.splitlines() == [
        f"{name}: 4 MiB of zeros became holes, 4 KiB of 4 MiB allocated" for name in ("a", "link")
    ]
    for name in ("a", "b"):
        path = tmp_path / name
        assert (path.read_bytes(), path.stat().st_mtime, data_bytes(path)) == (content, OLD, 4096)
        assert allocated(path) <= 64 * 1024


def test_as_json(tmp_path: Path) -> None:
    size = zeros(tmp_path / "a").stat().st_size
    status, out, errors = dig("--json", "none", "a", cwd=tmp_path)
    sizes = {"size": size, "allocated": allocated(tmp_path / "a"), "dug": 4 * MIB}
    assert fields(out) == {"files": [{"path": "a", **sizes}], "total": sizes}
    assert (status, errors) == (1, "sparsesync: none: No such file or directory\n")


def test_what_cannot_be_dug_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    zeros(tmp_path / "open")
    zeros(tmp_path / "last")
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "open", "rb"):
        status, out, errors = dig("open", "pipe", ".", "host:x", "last", cwd=tmp_path)
    assert status == 1 and out.startswith("last: ") and out.count("\n") == 1
    assert errors.splitlines() == [
        "sparsesync: open: somebody has it open",
        "sparsesync: pipe: not a regular file",
        "sparsesync: .: not a regular file",
        "sparsesync: host:x: only files of this machine can be dug; run the same command there",
    ]
    assert allocated(tmp_path / "open") > 4 * MIB
