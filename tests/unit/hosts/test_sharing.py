"""The connection of ssh that others go through: what is waited for."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from sparsesync.embedding import Stopped, ends_within
from sparsesync.hosts import sharing
from sparsesync.hosts.ssh import Connection
from tests.support.shells import script


class Patience:
    """A check that has enough when it is called for the third time."""

    calls = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == 3:
            raise Stopped("enough")


def test_a_configuration_is_not_waited_for_without_end(tmp_path: Path) -> None:
    """By an ssh that hangs, as in what a Match exec runs, or in looking up a canonical name."""
    hangs = script(tmp_path / "ssh", f"echo $$ >> {tmp_path}/started; exec sleep 300")
    with pytest.raises(Stopped), sharing.sharing([hangs], ["far"], True, os.environ, Patience()):
        pass
    assert not os.path.exists(f"/proc/{(tmp_path / 'started').read_text().strip()}")


def test_a_session_is_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an ssh that hangs, as over a connection whose other end is gone."""
    hangs = script(tmp_path / "ssh", f"echo $$ >> {tmp_path}/started; exec sleep 300")
    shared = sharing.Sharing([], ["-o", f"ControlPath={tmp_path}/s"])
    with pytest.raises(Stopped):
        sharing.wait_for_session([hangs], ["far"], shared, os.environ, Patience())
    monkeypatch.setattr(sharing, "_FREE_SECONDS", 0.3)
    sharing.wait_for_session([hangs], ["far"], shared, os.environ, lambda: None)
    started = (tmp_path / "started").read_text().split()
    assert len(started) == 2 and not any(os.path.exists(f"/proc/{process}") for process in started)


def test_what_interrupts_the_making_of_a_folder_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(family: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ssh = script(tmp_path / "ssh", "echo controlmaster false")
    monkeypatch.setattr(socket, "socket", interrupted)
    with pytest.raises(KeyboardInterrupt), sharing.sharing([ssh], ["far"], True):
        pass
    assert os.listdir(tmp_path) == ["ssh"]


@pytest.mark.parametrize("kernel", ["tells", "is too old"])
def test_whether_a_process_ends_in_time(monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    def lacking(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    if kernel == "is too old":
        monkeypatch.setattr(os, "pidfd_open", lacking)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert not ends_within(process, 0.01)
        assert process.stdin is not None
        process.stdin.close()
        assert ends_within(process, 60) and process.returncode == 0
        assert ends_within(process, 60)


_HELLO = bytes.fromhex("00000008 00000001 00000004")


@pytest.mark.parametrize(
    ("says", "is_believed"),
    [
        (_HELLO + bytes.fromhex("00000008 80000001 00000000"), True),  # it will end
        (_HELLO, True),  # it has ended
        (_HELLO + bytes.fromhex("0000000c 80000002 00000000 00000000"), False),  # it may not
        (bytes.fromhex("00000008 00000001 00000005"), False),  # another version of the protocol
        (b"", False),
    ],
)
def test_a_master_ends_without_another_ssh_if_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: bytes, is_believed: bool
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ssh = script(tmp_path / "ssh", f"echo controlmaster false; echo $* >> {tmp_path}/started")
    heard: list[bytes] = []

    def master() -> None:
        client, _ = listening.accept()
        with client:
            heard.append(client.recv(100))
            client.sendall(says)

    with socket.socket(socket.AF_UNIX) as listening:
        answering = threading.Thread(target=master)
        with sharing.sharing([ssh], ["far"], True) as shared:
            listening.bind(shared.control[1].partition("=")[2])
            listening.listen()
            answering.start()
        answering.join()
    assert heard == [_HELLO + bytes.fromhex("00000008 10000005 00000000")]  # OpenSSH, PROTOCOL.mux
    assert ("-O exit far" in (tmp_path / "started").read_text()) == (not is_believed)
    assert sorted(os.listdir(tmp_path)) == ["ssh", "started"]


def test_no_more_connections_by_another_shell_than_ssh() -> None:
    said: list[str] = []
    with subprocess.Popen(["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        connection = Connection(process, "far", "far:", None)
        sharing.widen(connection, 2, said.append)
        connection.close()
    assert said == ["1 of 2 streams: only of ssh is it known that it asks nobody"]
