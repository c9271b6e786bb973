"""A lost connection is an OSError to others, and never that of a file to us: whoever goes on after one stops here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import sparsesync
from sparsesync.commands.main import main
from sparsesync.engine.errors import LinkError
from sparsesync.engine.files.beneath import Sources
from sparsesync.engine.transfer.jobs import JobWriter
from sparsesync.engine.transfer.outgoing import outgoing
from sparsesync.engine.transfer.sender import Sender
from sparsesync.engine.wire import protocol
from sparsesync.hosts.remote import RemoteDestination, RemoteHost
from tests.support.filesystems import allocated, filesystem, need_root, need_tools, sparse_file
from tests.support.shells import local_shell, script
from tests.support.transfers import DIGEST, Peer, against

MIB = 1 << 20
SAID = "far: the connection has ended"


def lost(*ignored: Any, **more: Any) -> Any:
    raise LinkError("the connection has ended", "far")


@pytest.fixture
def rsh(tmp_path: Path) -> str:
    need_tools("rsync")
    (tmp_path / "src").mkdir()
    sparse_file(tmp_path / "src/disk", 16 * MIB, [(MIB, MIB)])
    return local_shell(tmp_path / "rsh")


@pytest.mark.parametrize("when", ["locked", "contents", "flush"])
def test_in_a_migration(
    tmp_path: Path, rsh: str, when: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    need_root("a migration without warnings needs root")
    query, asked = RemoteHost.query, []

    def ask(host: RemoteHost, name: str, **arguments: Any) -> Any:
        return lost() if name == "flush" else query(host, name, **arguments)

    def contents(*ignored: Any) -> Any:
        asked.append(ignored)
        return lost()

    instead: dict[str, Any] = {"locked": lost, "contents": contents, "flush": ask}
    monkeypatch.setattr(RemoteHost, "query" if when == "flush" else when, instead[when])
    (tmp_path / "src/more").write_text("more")
    status = main(["migrate", "--final", "--verify", "-e", rsh, f"{tmp_path}/src/", f"far:{tmp_path}/dst"])
    said = capfd.readouterr()
    assert f"sparsesync: {SAID}" in said.err and "None" not in said.err and "differ" not in said.out + said.err
    # Before anything is done it is any trouble; in the final pass it has the status rsync has for it.
    assert status == (1 if when == "locked" else 12) and len(asked) == (when == "contents")


@pytest.mark.parametrize("when", ["open", "states"])
def test_before_rsync_runs(tmp_path: Path, rsh: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dst").mkdir()
    if when == "states":  # a file whose holes are to come back
        shutil.copy2(tmp_path / "src/disk", tmp_path / "dst/disk")
    monkeypatch.setattr(RemoteDestination, when, lost)
    (tmp_path / "src/plain").write_text("plain")
    with pytest.raises(LinkError) as caught:
        sparsesync.sync(f"{tmp_path}/src/", f"far:{tmp_path}/dst/", ["-a", "-e", rsh])
    assert str(caught.value) == SAID and not (tmp_path / "dst/plain").exists()


def test_when_rsync_is_done(
    tmp_path: Path, rsh: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "dst").mkdir()
    with open(tmp_path / "src/disk", "rb") as disk:
        (tmp_path / "dst/disk").write_bytes(disk.read())
    shutil.copystat(tmp_path / "src/disk", tmp_path / "dst/disk")
    monkeypatch.setattr(RemoteDestination, "dig", lost)
    result = sparsesync.sync(f"{tmp_path}/src/", f"far:{tmp_path}/dst/", ["-a", "-e", rsh])
    assert result.status == 0 and result.healed == () and allocated(tmp_path / "dst/disk") >= 16 * MIB
    assert caplog.messages == [f"whether what was seeded has kept its holes is not known: {SAID}"]


def test_in_a_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not say of a file that it is given up."""
    (tmp_path / "f").write_bytes(b"x" * 4096)
    monkeypatch.setattr(JobWriter, "write", lost)
    heard: list[int] = []
    results: list[Any] = []

    def play(peer: Peer) -> None:
        peer.json(protocol.FILE)
        peer.say(protocol.STATE, id=1, basis=False)
        heard.extend(kind for kind, _ in peer.all())

    with Sources() as sources:
        file = outgoing(str(tmp_path / "f"), "f", sources)
        errors = against(lambda link: Sender(link, DIGEST, results.append).send(iter([file])), play)
    assert [*map(str, errors)] == [SAID] and heard == results == []


def test_with_several_sources(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    ends = script(tmp_path / "rsh", f"echo x >> {log}; exit 7")
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    assert main(["copy", "-e", ends, f"{tmp_path}/a", f"{tmp_path}/b", "far:/none"]) == 1
    assert log.read_text() == "x\n" and capfd.readouterr().err.count("no agent could be started") == 1
    assert main(["scan", "-e", ends, "far:/none", os.devnull]) == 1
    assert capfd.readouterr().err.count("sparsesync: far: no agent could be started") == 1


def test_shutil_collects_it_as_it_does_its_own(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src/f").write_bytes(b"x")
    ends = script(tmp_path / "rsh", "exit 7")

    def copy(src: str, dst: str) -> str:
        return sparsesync.copy2(src, f"far:{dst}", rsh=ends)

    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "src", tmp_path / "dst", copy_function=copy)
    ((src, dst, why),) = caught.value.args[0]
    assert (src, dst) == (f"{tmp_path}/src/f", f"{tmp_path}/dst/f") and why.startswith("far: no agent could be started")


def test_what_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"x")

    def failure(text: str) -> LinkError:
        with pytest.raises(LinkError) as caught:
            sparsesync.copy(tmp_path / "f", "me@far:f", rsh=script(tmp_path / "rsh", text))
        assert caught.value.host in ("far", None) and caught.value.filename is None
        return caught.value

    assert failure("echo ssh: connect to host far port 22: Connection refused >&2; exit 255").retryable
    assert not failure("echo 'me@far: Permission denied (publickey).' >&2; exit 255").retryable
    assert not failure("echo Host key verification failed. >&2; exit 255").retryable
    assert failure("exit 7").retryable
    assert not failure("echo hello; sleep 1").retryable
    with pytest.raises(LinkError, match="no such remote shell") as caught:
        sparsesync.copy(tmp_path / "f", "far:f", rsh=f"{tmp_path}/none")
    assert not caught.value.retryable and caught.value.host is None


def test_a_path_on_another_host_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    far = local_shell(tmp_path / "far", "cd")
    rsh = script(tmp_path / "rsh", f'while [ "$1" != far ]; do shift; done; exec {far} "$@"')  # not "-l me"
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "f").write_bytes(b"x")
    for path in (f"me@far:{tmp_path}/none", f"far:{tmp_path}/none", "far:~/none"):
        with pytest.raises(FileNotFoundError) as caught:
            sparsesync.copyfile(path, tmp_path / "to", rsh=rsh)
        assert caught.value.filename == path
        with pytest.raises(FileNotFoundError) as caught:
            sparsesync.copyfile(tmp_path / "f", f"{path}/f", rsh=rsh)
        assert caught.value.filename == f"{path}/f"
    with pytest.raises(FileNotFoundError) as caught:
        list(sparsesync.scan(f"me@far:{tmp_path}/none", rsh=rsh))
    assert caught.value.filename == f"me@far:{tmp_path}/none"
    assert main(["copy", "-e", rsh, f"{tmp_path}/f", f"{tmp_path}/f", "far:~/none/"]) == 1
    assert "far:~/none/: Not a directory" in capfd.readouterr().err
    (tmp_path / "below").mkdir()
    sparse_file(tmp_path / "below/disk", MIB, [])
    assert [file.path for file in sparsesync.scan("me@far:~/below", rsh=rsh)] == ["me@far:~/below/disk"]


def test_a_path_on_a_host_that_has_no_room_is_named_as_it_was_given(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 2 * MIB)
    with filesystem("tmpfs", tmp_path / "small", "1M") as small:
        with pytest.raises(sparsesync.NoSpaceError) as caught:
            sparsesync.copyfile(tmp_path / "large", f"far:{small}/to", rsh=local_shell(tmp_path / "rsh"))
        assert caught.value.filename == f"far:{small}/to" and caught.value.needed == 2 * MIB > caught.value.free
