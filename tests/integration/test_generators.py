"""scan and verify as generators: nothing happens before the first step, and nothing is left behind after the last."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from itertools import islice
from pathlib import Path
from typing import Any, Callable

import pytest

import sparsesync
from tests.support.filesystems import sparse_file
from tests.support.shells import local_shell
from tests.support.sshd import Sshd

MIB = 1 << 20


@pytest.fixture
def trees(tmp_path: Path) -> Path:
    for tree in "ab":
        for number in range(20):
            (tmp_path / tree / f"{number}").mkdir(parents=True)
            sparse_file(tmp_path / tree / f"{number}/disk", MIB, [(4096, 4096)], seed=ord(tree))
    return tmp_path


def open_things() -> tuple[list[str], set[str], int]:
    """The children of this process, its descriptors and its threads."""
    children = Path("/proc/self/task")
    listed = [child for task in children.iterdir() for child in (task / "children").read_text().split()]
    descriptors = {f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd")
                   if os.path.lexists(f"/proc/self/fd/{fd}")}  # fmt: skip
    return listed, {each for each in descriptors if "/proc/" not in each}, threading.active_count()


def calls(top: Path, prefix: str, rsh: str) -> list[Callable[[], Generator[Any, None, None]]]:
    a, b = f"{prefix}{top}/a", f"{top}/b"
    return [
        lambda: sparsesync.scan(a, rsh=rsh),
        lambda: sparsesync.verify(a, b, rsh=rsh),
        lambda: sparsesync.verify(b, a, rsh=rsh),
        lambda: sparsesync.verify(a, f"{prefix}{b}", rsh=rsh),
    ]


@pytest.mark.parametrize("steps", [0, 1, 3, 100])
@pytest.mark.parametrize("end", ["closed", "dropped"])
def test_what_was_closed_early_has_ended(trees: Path, steps: int, end: str) -> None:
    log = trees / "log"
    rsh = local_shell(trees / "rsh", f"echo x >> {log}")
    for prefix in ("", "far:"):
        for call in calls(trees, prefix, rsh):
            before = open_things()
            generator = call()
            assert open_things() == before and not log.exists()
            found = [*islice(generator, steps)]
            assert len(found) == min(steps, 20) and log.exists() == bool(prefix and steps)
            if end == "closed":
                generator.close()
                generator.close()
                assert next(generator, None) is None
            else:
                del generator
                gc.collect()
            assert open_things() == before, (prefix, steps)
            log.unlink(missing_ok=True)


def test_ssh_ends_without_a_word(trees: Path, sshd_server: Sshd) -> None:
    """In development mode, where whatever is left open is said."""
    script = f"""if True:
        import sparsesync, pathlib
        rsh = {sshd_server.rsh!r}
        far, near = "far:{trees}/a", "{trees}/b"
        for walk in (sparsesync.scan(far, rsh=rsh), sparsesync.verify(far, near, rsh=rsh)):
            assert next(walk).path
            walk.close()
        children = [each.read_text() for each in pathlib.Path("/proc/self/task").glob("*/children")]
        assert not any(children), children
    """
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


def test_what_is_wrong_with_arguments_is_said_at_once_and_the_rest_at_the_first_step(tmp_path: Path) -> None:
    none = f"{tmp_path}/none"
    wrong: Any = "maybe"
    for path in (none, f"far:{none}"):
        with pytest.raises(ValueError, match="holes must be"):
            sparsesync.scan(path, holes=wrong)
        with pytest.raises(ValueError, match="holes must be"):
            sparsesync.verify(path, "b", holes=wrong)
    for daemon in ("host::module", "rsync://host/module"):
        with pytest.raises(ValueError, match="rsync daemon"):
            sparsesync.scan(daemon)
        with pytest.raises(ValueError, match="rsync daemon"):
            sparsesync.verify("a", daemon)
    for walk in (sparsesync.scan(none), sparsesync.verify(none, tmp_path), sparsesync.verify(tmp_path, none)):
        with pytest.raises(FileNotFoundError) as caught:
            next(walk)
        assert caught.value.filename == none
    for walk in (sparsesync.scan(f"far:{none}", rsh=none), sparsesync.verify(f"far:{none}", "b", rsh=none)):
        with pytest.raises(sparsesync.LinkError, match="no such remote shell"):
            next(walk)
