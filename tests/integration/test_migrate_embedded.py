"""``sparsesync.migrate`` in somebody else's program: what it returns and raises, and that services start again."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import sparsesync
from tests.integration.test_embedded import CHILDREN, Program
from tests.support.filesystems import need_tools, sparse_file
from tests.support.shells import local_shell
from tests.support.sshd import Sshd

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need_tools("rsync")


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "src").mkdir()
    (tmp_path / "tmp").mkdir()
    sparse_file(tmp_path / "src/disk", 64 * MIB, [(MIB, 4 * MIB)])
    (tmp_path / "src/dense").write_bytes(b"x" * MIB)
    for path in (tmp_path / "src").iterdir():
        os.utime(path, (1, 1))
    threads = set(threading.enumerate())
    yield tmp_path
    assert set(threading.enumerate()) <= threads


def test_two_passes(top: Path, sshd_server: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[tuple[str, str, threading.Thread]] = []
    counts: list[sparsesync.Done] = []

    def output(stream: str, line: str) -> None:
        said.append((stream, line, threading.current_thread()))

    common: dict[str, Any] = {"rsh": sshd_server.rsh, "output": output, "check": True, "cwd": top}
    first = sparsesync.migrate("src/", f"far:{top}/dst", progress=counts.append, **common)
    assert first.ok and first.failure is None and first.sync is not None
    assert [each.name for each in first.sync.seeded] == ["disk"] and sum(counts) >= 5 * MIB
    assert {level for level, _, _ in first.findings} <= {"ok", "warning"}
    final = sparsesync.migrate(
        "src/", f"far:{top}/dst", ["-v"], final=True, verify=True, before="pwd; echo $MINE",
        after_dest=f"echo there; touch {top}/after", env={**os.environ, "MINE": "mine"}, **common,
    )  # fmt: skip
    assert final.ok and final.downtime is not None and final.differences == () and (top / "after").exists()
    assert (top / "dst/disk").read_bytes() == (top / "src/disk").read_bytes()
    assert {thread for _, _, thread in said} == {threading.current_thread()}
    lines = [(stream, line) for stream, line, _ in said]
    assert ("stdout", "--before on this host: pwd; echo $MINE") in lines
    assert {("stderr", str(top)), ("stderr", "mine"), ("stderr", "there")} <= {*lines}
    assert capfd.readouterr() == ("", "")
    report = json.loads(json.dumps(final.asdict()))
    assert report["verified"]["files"] == 2 and report["commands"][0]["what"] == "before"
    again = pickle.loads(pickle.dumps(final))
    assert again == final != first and len({again, final, first}) == 2
    with pytest.raises(AttributeError):
        final.status = 3  # type: ignore[misc]


def test_what_fails(top: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level("INFO", "sparsesync")
    result = sparsesync.migrate(top / "none", top / "dst")
    assert (result.ok, result.status) == (False, 1) and "says stop; nothing was done" in str(result.failure)
    assert ("stop", str(top / "none"), "there is no such file or directory; correct the path") in result.findings
    assert "there is no such file" in caplog.text and capfd.readouterr() == ("", "")
    final: dict[str, Any] = {"final": True, "on_failure": f"echo up >> {top}/services"}
    with pytest.raises(sparsesync.MigrationError, match="--before failed on this host with status 3") as raised:
        sparsesync.migrate(f"{top}/src/", top / "dst", before="exit 3", check=True, **final)
    error = pickle.loads(pickle.dumps(raised.value))
    assert str(error) == str(raised.value) and error.status == 1 and error.result == raised.value.result
    assert (top / "services").read_text() == "up\n"
    refused = sparsesync.migrate(f"{top}/src/", top / "dst", ["--bwlimit=nonsense"])
    assert refused.status == 1 and "bwlimit" in str(refused.failure)
    with pytest.raises(sparsesync.LinkError, match="no such remote shell"):
        sparsesync.migrate(f"{top}/src/", f"far:{top}/dst", rsh=str(top / "none"))
    for wrong in ({"before": "true"}, {"preset": "nonsense"}, {"verify": True}, {"options": ["--dry-run"]}):
        with pytest.raises(ValueError):
            sparsesync.migrate(f"{top}/src/", top / "dst", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no source"):
        sparsesync.migrate([], top / "dst")
    with pytest.raises(FileNotFoundError):
        sparsesync.migrate(f"{top}/src/", top / "dst", env={"PATH": str(top)})
    checked = sparsesync.migrate("src/", "dst", check_only=True, cwd=top)
    assert checked.ok and checked.sync is None and os.listdir(top / "dst") == []


ENDED = f"""
import os, signal, sys, threading, time
import sparsesync

{CHILDREN}

class Asked(Exception):
    pass

def ask(number, frame):
    raise Asked

source, destination, rsh, how, when, options = sys.argv[1:]
signal.signal(signal.SIGTERM, ask)
signal.signal(signal.SIGINT, signal.default_int_handler)
wanted = threading.Event()
commands = dict.fromkeys(["before", "before_dest"], "echo stopped > services")
commands["on_failure_dest"] = "echo there >> order"
commands["on_failure"] = "echo here >> order; sleep 0.3; echo running > services"
commands[when] = "echo stopped > services; echo now; sleep 60"

def output(stream, line):
    if line == "now" or (when == "rsync" and "dense" in line):
        if how == "cancel":
            wanted.set()
        elif how == "raises":
            raise Asked
        elif how != "timeout":
            os.kill(os.getpid(), getattr(signal, how))

try:
    sparsesync.migrate(source, destination, options.split(), final=True, rsh=rsh, output=output, cancel=wanted,
                       timeout=1.5 if how == "timeout" else None,
                       **{{name: command for name, command in commands.items() if name != "rsync"}})
except BaseException as error:
    print(type(error).__name__, *children())
    if isinstance(error, sparsesync.Error):
        print(error.result.ok, error, sep=": ")
"""


@pytest.mark.parametrize(("way", "how", "when"), [
    ("local", "timeout", "before"),
    pytest.param("push", "cancel", "after_dest", marks=pytest.mark.slow),
    pytest.param("pull", "SIGTERM", "before", marks=pytest.mark.slow),
    ("local", "SIGINT", "rsync"),
    pytest.param("push", "raises", "rsync", marks=pytest.mark.slow),
])  # fmt: skip
def test_what_ends_a_final_pass_starts_services_again(top: Path, way: str, how: str, when: str) -> None:
    far = {"local": ("", ""), "push": ("", "far:"), "pull": ("far:", "")}[way]
    options = "-v --bwlimit=1000 --exclude=disk" if when == "rsync" else "--archive"
    program = Program(
        top, ENDED, f"{far[0]}{top}/src/", f"{far[1]}{top}/dst", local_shell(top / "rsh"), how, when, options
    )
    out, err = program.ended()
    assert err == ""
    first, *more = out.splitlines()
    assert first == {
        "timeout": "MigrationTimeoutError", "cancel": "MigrationCancelledError", "SIGTERM": "Asked",
        "SIGINT": "KeyboardInterrupt", "raises": "Asked",
    }[how]  # fmt: skip
    if more:
        assert more[0].startswith("False: migrate ") and "--on-failure was run on " in more[0]
    assert (top / "services").read_text() == "running\n"
    assert (top / "order").read_text() == "there\nhere\n"
    assert os.listdir(top / "tmp") == []
