"""A host that is lost when rsync has done its part: the result of the run is still told."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import need_tools, sparse_file
from tests.support.shells import local_shell, script

MIB = 1 << 20


def test_a_host_that_is_lost_after_rsync(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    need_tools("rsync")
    disk = sparse_file(tmp_path / "disk", 4 * MIB, [(0, MIB)])
    os.utime(disk, (1, 1))
    rsh = local_shell(tmp_path / "rsh", f"echo $$ >> {tmp_path}/pids")
    agent = f"read pid < {tmp_path}/pids; kill $(cat /proc/$pid/task/$pid/children) $pid"
    real = shutil.which("rsync")
    fake = script(
        tmp_path / "rsync",
        f'case "$*" in *--version*|*--dry-run*) exec {real} "$@";; esac; {real} "$@"; status=$?; {agent}; exit $status',
    )
    result = sparsesync.sync(
        disk, f"far:{tmp_path}/copy", ["-p"], rsh=rsh, env={**os.environ, "SPARSESYNC_RSYNC": fake}
    )
    assert result.ok and [each.name for each in result.seeded] == ["disk"]
    assert "what was seeded has kept the times of its source: far: " in caplog.text
    assert (tmp_path / "copy").read_bytes() == disk.read_bytes()
