"""What people install: one file, which has all in it."""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparsesync
from release import pyz
from sparsesync.console.progress import ProgressBar
from tests.support.filesystems import allocated, need_tools, same_content, sparse_file
from tests.support.shells import local_shell
from tests.support.sshd import Sshd

MIB = 1 << 20


def run(*argv: str | Path, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """The status and the output of a command that finds no package but what is in its file."""
    done = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"], **environment}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dist") / "new" / "sparsesync.pyz"
    pyz.make(made)
    return made


@pytest.mark.slow
def test_the_one_file_moves_files_to_another_host(tmp_path: Path, one_file: Path, sshd_server: Sshd) -> None:
    need_tools("rsync")
    python = (sys.executable, "-I", "-S", one_file)
    (tmp_path / "d").mkdir()
    sparse_file(tmp_path / "d/image", 256 * MIB, [(0, MIB), (100 * MIB, MIB)])
    there = f"far:{tmp_path}"
    remote = {"RSYNC_RSH": sshd_server.rsh}
    said = run(*python, "sync", "-a", "--seed-required", "--seed-verbose", "d/", f"{there}/e/", cwd=tmp_path, **remote)
    assert said[:2] == (0, "") and "image" in said[2]
    assert run(*python, "copy", f"{there}/e/image", "copied", cwd=tmp_path, **remote) == (0, "", "")
    for made in ("e/image", "copied"):
        assert same_content(tmp_path / "d/image", tmp_path / made)
        assert allocated(tmp_path / made) == allocated(tmp_path / "d/image")
    status, shown, _ = run(*python, "scan", f"{there}/e", cwd=tmp_path, **remote)
    assert status == 0 and f"{there}/e/image" in shown


def test_the_one_file_is_a_command_also_under_the_name_of_rsync(tmp_path: Path, one_file: Path) -> None:
    need_tools("rsync")
    assert run(one_file, "--version", cwd=tmp_path) == (0, f"sparsesync {sparsesync.__version__}\n", "")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rsync").symlink_to(one_file)
    sparse_file(tmp_path / "image", 64 * MIB, [(0, MIB)])
    first = f"{tmp_path}/bin:{os.environ['PATH']}"
    assert run("rsync", "-t", "image", "copied", cwd=tmp_path, PATH=first) == (0, "", "")
    assert allocated(tmp_path / "copied") == allocated(tmp_path / "image")


def test_a_python_that_is_too_old_is_told(tmp_path: Path, one_file: Path) -> None:
    script = f"import runpy, sys; sys.version_info = (3, 8); runpy.run_path({str(one_file)!r}, run_name='__main__')"
    status, _, said = run(sys.executable, "-c", script, cwd=tmp_path)
    assert status == 1 and said.startswith("sparsesync: needs Python 3.9 or newer, and this is ")
    assert said.count("\n") == 1


def test_modules_without_their_source_cannot_be_sent(tmp_path: Path) -> None:
    compiled = tmp_path / "sparsesync"
    shutil.copytree(Path(sparsesync.__file__).parent, compiled, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(compiled, quiet=1, legacy=True)
    for source in compiled.rglob("*.py"):
        source.unlink()
    rsh = local_shell(tmp_path / "rsh")
    said = run(sys.executable, "-S", "-m", "sparsesync", "scan", "far:.", cwd=tmp_path, RSYNC_RSH=rsh)
    message = "sparsesync.engine is here without its source, which other hosts need: install sparsesync with it"
    assert said[0] == 1 and said[2] == f"sparsesync: {message}\n"


def test_without_tqdm_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar(None) as bar:
        assert bar.shown
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with ProgressBar(None) as bar, bar.phase(MIB, "copying") as advance:
        assert (bar.shown, advance) == (False, None)
