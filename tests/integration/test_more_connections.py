"""Content by several connections: each logs in by itself, and what one would have made is made, or nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import sparsesync
from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.hosts import transfer
from sparsesync.hosts.copies import Copies
from tests.support.filesystems import allocated, need_tools, same_content
from tests.support.shells import script
from tests.support.sshd import Sshd

pytestmark = pytest.mark.ssh
MIB = 1 << 20


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(transfer, "STREAM_BYTES", 2 * MIB)
    path = tmp_path / "src/image"
    path.parent.mkdir()
    with open(path, "wb") as file:
        file.truncate(64 * MIB)
        for at in (4096, 20 * MIB, 50 * MIB):
            file.seek(at)
            file.write(os.urandom(2 * MIB))
    return path


def test_copies_and_sync_by_streams(sshd_server: Sshd, tmp_path: Path, image: Path) -> None:
    need_tools("rsync")
    assert transfer.Settings(streams=16).sized(9 * MIB).streams == 4  # as many as there is data for
    before = sshd_server.logins()
    sparsesync.copyfile(image, f"far:{tmp_path}/pushed", rsh=sshd_server.rsh, streams=2)
    assert sshd_server.logins() == before + 2
    options = ["-az", "--timeout=60", "--seed-streams=2"]
    done = sparsesync.sync(f"far:{image.parent}/", f"{tmp_path}/synced", options, rsh=sshd_server.rsh)
    assert done.status == 0 and done.seeded and done.wire > 6 * MIB and sshd_server.logins() == before + 4
    for made in (tmp_path / "pushed", tmp_path / "synced/image"):
        assert same_content(image, made) and allocated(made) <= allocated(image)


def test_trees_by_streams(sshd_server: Sshd, tmp_path: Path, image: Path) -> None:
    need_tools("rsync")
    far = f"far:{tmp_path}"
    before = sshd_server.logins()
    with sparsesync.Session(rsh=sshd_server.rsh) as session:
        session.copytree(image.parent, f"{far}/copied", streams=2)
        assert sshd_server.logins() == before + 2
        session.move(f"{far}/copied/image", tmp_path / "alone", streams=2)
    assert not (tmp_path / "copied/image").exists()
    assert same_content(image, tmp_path / "alone") and allocated(tmp_path / "alone") <= allocated(image)
    for function in (sparsesync.copytree, sparsesync.move):
        with pytest.raises(ValueError, match="0' is no number of streams"):
            function(image.parent, tmp_path / "made", streams=0)
    assert not (tmp_path / "made").exists() and image.exists()


def test_a_migration_by_streams(sshd_server: Sshd, tmp_path: Path, image: Path) -> None:
    need_tools("rsync")
    os.utime(image, (1.7e9, 1.7e9))  # what was written a moment ago is left for the final pass
    before = sshd_server.logins()
    ends = f"{image.parent}/", f"far:{tmp_path}/migrated/"
    done = sparsesync.migrate(*ends, rsh=sshd_server.rsh, preset="none", streams=2)
    assert done.status == 0, done.failure
    assert done.sync and len(done.sync.seeded) == 1 and sshd_server.logins() == before + 2
    assert same_content(image, tmp_path / "migrated/image")
    with pytest.raises(ValueError, match="--streams is for a migration to or from another host"):
        sparsesync.migrate(ends[0], tmp_path / "here", streams=2)
    with pytest.raises(ValueError, match="17' is no number of streams"):
        sparsesync.migrate(*ends, streams=17)


def test_where_there_are_fewer(sshd_server: Sshd, tmp_path: Path, image: Path) -> None:
    alone = 'case "$*" in *BatchMode=yes*" ControlPath=none "*) echo no >&2; exit 255;; esac; exec ssh "$@"'
    rsh = script(tmp_path / "ssh", alone) + sshd_server.rsh[len("ssh") :]
    said: list[str] = []
    with Copies(rsh, streams=3, say=said.append) as copies:
        copies.copy(str(image), f"far:{tmp_path}/made", CopyOptions())
    assert len(said) == 1 and said[0].startswith("1 of 3 streams: far: ssh could not log in")
    assert same_content(image, tmp_path / "made")
    with pytest.raises(ValueError, match="17' is no number of streams"):
        sparsesync.copyfile(image, tmp_path / "made", streams=17)


@pytest.mark.parametrize(("way", "which"), [("push", 1), ("pull", 0)])
def test_a_stream_that_is_lost(sshd_server: Sshd, tmp_path: Path, image: Path, way: str, which: int) -> None:
    made = tmp_path / "made"
    made.write_text("old")
    killed: list[int] = []

    def kill(_: int) -> None:
        if not killed:
            tasks = Path("/proc/self/task").glob("*/children")
            children = sorted({int(pid) for task in tasks for pid in task.read_text().split()})
            ssh = [pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "ssh\n"]
            assert len(ssh) == 2
            killed.append(ssh[which])
            os.kill(killed[0], signal.SIGKILL)

    ends = (image, f"far:{made}") if way == "push" else (f"far:{image}", made)
    try:
        sparsesync.copyfile(*ends, rsh=sshd_server.rsh, streams=2, progress=kill)
    except sparsesync.LinkError:
        assert made.read_bytes() == b"old"
    else:
        assert same_content(image, made)  # all had gone before
    assert killed
