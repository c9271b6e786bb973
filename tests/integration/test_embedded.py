"""``sparsesync.sync`` in somebody else's program: its streams, its signals, its threads, its deadline.

What a program would see is looked at from outside: each runs as a process of its own, in Python's development mode and
with warnings as errors, and what it has left running is found by a mark in the environment.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import need_tools, sparse_file
from tests.support.shells import local_shell, script
from tests.support.sshd import Sshd

MIB = 1 << 20
HOUSE = Path(sparsesync.__path__[0]).parent


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need_tools("rsync")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    sparse_file(tmp_path / "src/disk.img", 64 * MIB, [(0, 12 * MIB)])
    (tmp_path / "src/dense").write_bytes(b"x" * (12 * MIB))
    (tmp_path / "tmp").mkdir()
    return tmp_path


def ends(way: str, source: Path, destination: Path) -> tuple[str, str]:
    far = {"local": ("", ""), "push": ("", "far:"), "pull": ("far:", "")}[way]
    return f"{far[0]}{source}/", f"{far[1]}{destination}/"


class Program:
    """A program in Python that runs in a directory, and says "ready" when it is about to sync."""

    def __init__(self, top: Path, text: str, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        (top / "program.py").write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", top / "program.py", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=top,
            env={**os.environ, "MARK": self.mark, "TMPDIR": str(top / "tmp"), "PYTHONPATH": str(HOUSE)},
        )

    def ended(self) -> tuple[str, str]:
        """What it has written; nothing that it has started may be left."""
        out, err = self.process.communicate(timeout=60)
        # What a remote shell has started at its end, which is this machine, may end a moment later.
        until = time.monotonic() + 5
        while self.left() and time.monotonic() < until:
            time.sleep(0.05)
        assert not self.left(), self.left()
        return out, err

    def left(self) -> list[str]:
        return [line for pid, line in self.running() if pid != self.process.pid]

    def running(self) -> Iterator[tuple[int, str]]:
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (entry / "environ").read_bytes():
                    yield int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")


CHILDREN = """
def children():
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return file.read().split()
"""

STOPPED = f"""
import os, signal, sys, threading, time
import sparsesync

{CHILDREN}

class Asked(Exception):
    pass

def ask(number, frame):
    raise Asked

source, destination, rsh, phase, how = sys.argv[1:]
signal.signal(signal.SIGTERM, ask)
signal.signal(signal.SIGINT, signal.default_int_handler)
handlers = [signal.getsignal(number) for number in range(1, 20)]
wanted = threading.Event()
options = ["-a", "--mkpath", "--bwlimit=2m"] if phase == "seeding" else ["-a", "--mkpath"]

def stop():
    if how == "cancel":
        wanted.set()
    elif how in ("SIGINT", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, how))

def progress(count):
    assert [signal.getsignal(number) for number in range(1, 20)] == handlers
    assert 0 < count <= count.total == 12 << 20
    if phase == "seeding":
        stop()
        if how == "raises":
            raise Asked

def output(stream, line):
    if phase == "rsync" and "dense" in line:
        stop()
        if how == "raises":
            raise Asked

if phase == "rsync":
    options += ["-v", "--bwlimit=2m", "--min-size=1"]
try:
    timeout = {{"seeding": 1.5, "rsync": 9}}[phase] if how == "timeout" else None
    print(sparsesync.sync(source, destination, options, rsh=rsh, output=output, progress=progress,
                          timeout=timeout, cancel=wanted))
except BaseException as error:
    print(type(error).__name__, *children())
"""
RAISED = {
    "raises": "Asked",
    "SIGTERM": "Asked",
    "SIGINT": "KeyboardInterrupt",
    "cancel": "SyncCancelledError",
    "timeout": "SyncTimeoutError",
}


@pytest.mark.parametrize(("way", "how"), [
    ("push", "raises"), ("push", "timeout"), ("pull", "SIGTERM"), ("local", "SIGINT"), ("local", "cancel"),
])  # fmt: skip
def test_what_ends_the_seeding_ends_all_that_was_started(top: Path, sshd_server: Sshd, way: str, how: str) -> None:
    program = Program(top, STOPPED, *ends(way, top / "src", top / "dst"), sshd_server.rsh, "seeding", how)
    assert program.ended() == (f"{RAISED[how]}\n", "")
    assert os.listdir(top / "tmp") == []
    assert not (top / "dst/disk.img").exists()
    if how == "timeout":
        return  # nobody knows how far it got
    partial = top / "dst/.disk.img.sparsesync-partial"
    for _ in range(100):
        if partial.exists() or way == "local":
            break
        time.sleep(0.05)  # the agent on the other host sees the end of the connection
    assert partial.exists() == (way != "local")
    if how == "raises":
        result = sparsesync.sync(*ends(way, top / "src", top / "dst"), ["-a"], rsh=sshd_server.rsh)
        assert result.ok and 0 < result.seeded[0].sent < result.seeded[0].data
    else:
        assert os.listdir(top / "dst") == ([partial.name] if way != "local" else [])


@pytest.mark.parametrize(("way", "how"), [("local", "SIGTERM"), ("pull", "cancel")])
def test_what_ends_rsync_ends_all_that_was_started(top: Path, sshd_server: Sshd, way: str, how: str) -> None:
    os.truncate(top / "src/disk.img", 0)
    program = Program(top, STOPPED, *ends(way, top / "src", top / "dst"), sshd_server.rsh, "rsync", how)
    assert program.ended() == (f"{RAISED[how]}\n", "")
    assert not (top / "dst/dense").exists()


THREADS = f"""
import json, os, sys, threading, warnings
import sparsesync

{CHILDREN}

rsh, *machines = sys.argv[1:]
said = {{machine: [] for machine in machines}}
wrong = []

def back_up(machine):
    def output(stream, line):
        said[machine].append((stream, line, threading.current_thread().name))

    try:
        sparsesync.sync(f"{{machine}}/", f"far:{{os.getcwd()}}/to/{{machine}}/",
                        ["-av", "--mkpath", "--seed-verbose", "--exclude=*.none"], rsh=rsh, output=output)
        sparsesync.sync("missing", "there", output=output)
    except BaseException as error:
        wrong.append(repr(error))

threads = [threading.Thread(target=back_up, args=[machine], name=machine) for machine in machines]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong and not children(), wrong
with open("said", "w") as file:
    json.dump(said, file)
"""


def test_output_is_told_apart_also_in_threads(tmp_path: Path, sshd_server: Sshd) -> None:
    (tmp_path / "tmp").mkdir()
    for machine in "ab":
        (tmp_path / machine).mkdir()
        sparse_file(tmp_path / machine / f"{machine}.img", 4 * MIB, [(0, MIB)])
    # What the remote shell says is a line of the run, too.
    rsh = script(tmp_path / "rsh", f'echo "hello from $0" >&2; exec {sshd_server.rsh} "$@"')
    assert Program(tmp_path, THREADS, rsh, "a", "b").ended() == ("", "")
    said = json.loads((tmp_path / "said").read_text())
    for machine, lines in said.items():
        assert {thread for _, _, thread in lines} == {machine}
        out = [line for stream, line, _ in lines if stream == "stdout"]
        assert out[0] == "sending incremental file list" and f"{machine}.img" in out
        told = [line for stream, line, _ in lines if stream == "stderr"]
        assert f"hello from {rsh}" in told and f"sparsesync: seeded {machine}.img: 1 MiB of 4 MiB, 1 MiB sent" in told
        assert any(line.startswith("rsync: ") and "missing" in line for line in told)
        assert not any(
            each in line for line in out + told for each in said if each != machine for each in [f"{each}.img"]
        )


CLOSED = """
import os, sys
import sparsesync

for number in map(int, sys.argv[1]):
    os.close(number)
files = [os.open(f"victim{number}", os.O_RDWR | os.O_CREAT) for number in sys.argv[1]]
assert files == [*map(int, sys.argv[1])]
sys.stdin = sys.stdout = sys.stderr = None
status = sparsesync.sync("src/", "dst/", ["-av", "--seed-verbose"]).status
status += sparsesync.sync("missing", "dst/", ["-av"], output=open("said", "w")).status
os._exit(status)
"""


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["1", "2", "012"])
def test_a_file_that_has_a_standard_descriptor_is_not_written_to(top: Path, closed: str) -> None:
    os.truncate(top / "src/dense", 1000)
    program = Program(top, CLOSED, closed)
    program.ended()
    assert program.process.returncode == 23
    assert [(top / f"victim{number}").read_bytes() for number in closed] == [b""] * len(closed)
    assert (top / "dst/disk.img").read_bytes() == (top / "src/disk.img").read_bytes()


def test_output_to_files(top: Path) -> None:
    (top / os.fsdecode(b"src/\xff")).write_bytes(b"")
    text, data = io.StringIO(), io.BytesIO()
    options = ["-an8", "--seed-verbose", "--out-format=%n"]
    for output in (text, data):
        sparsesync.sync("src/", "dst/", options, output=output, cwd=top)
    assert b"\xff\n" in data.getvalue().splitlines(keepends=True)
    assert data.getvalue().decode(errors="backslashreplace") == text.getvalue()
    assert "sparsesync: would seed disk.img: 12 MiB of 64 MiB\n" in text.getvalue().splitlines(keepends=True)
    with open(top / "log", "w", encoding="ascii") as log:
        sparsesync.sync("ä", "dst/", output=log, cwd=top)
    assert '/\\xe4" failed: No such file' in (top / "log").read_text()
    with pytest.raises(ValueError, match="closed"):
        sparsesync.sync("src/", "dst/", output=log, cwd=top)
    with pytest.raises(TypeError, match="output"):
        sparsesync.sync("src/", "dst/", output=1, cwd=top)  # type: ignore[arg-type]


def test_messages_go_to_the_logger(
    top: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    sparsesync.sync("src/", "dst/", ["-a", "--append"], cwd=top)
    shutil.rmtree(top / "dst")
    sparsesync.sync("src/", "dst/", ["-a"], cwd=top)
    assert [(each.name, each.levelname, each.threadName) for each in caplog.records] == [
        ("sparsesync", level, "MainThread") for level in ("INFO", "WARNING", "INFO")
    ]
    assert "are given" not in caplog.text and "1 sparse file is left to rsync" in caplog.records[1].getMessage()
    assert caplog.records[2].getMessage() == "seeded disk.img: 12 MiB of 64 MiB"
    assert capfd.readouterr() == ("", "")


def test_check(top: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = sparsesync.sync("missing", "dst", cwd=top)
    assert (result.ok, result.status, result.returncode) == (False, 23, 23)
    capfd.readouterr()
    with pytest.raises(
        subprocess.CalledProcessError, match="rsync ended with status 23: rsync error: some files"
    ) as raised:
        sparsesync.sync("missing", "dst", cwd=top, check=True)
    error = pickle.loads(pickle.dumps(raised.value))
    assert isinstance(error, sparsesync.RsyncError) and str(error) == str(raised.value)
    assert error.returncode == 23 and error.cmd == error.result.command and error.cmd[0] == "rsync"
    assert capfd.readouterr().err == error.stderr and "missing" in error.stderr
    assert sparsesync.sync("src/dense", "dst", cwd=top, check=True).ok


def test_an_rsync_that_a_signal_ends(top: Path) -> None:
    fake = script(top / "rsync", f'case "$*" in *--version*) exec {shutil.which("rsync")} "$@";; esac; kill -9 $$')
    result = sparsesync.sync("src/dense", "dst", cwd=top, env={**os.environ, "SPARSESYNC_RSYNC": fake})
    assert (result.ok, result.status, result.returncode) == (False, 137, -9)


def test_what_is_raised_of_another_host(top: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    call = functools.partial(sparsesync.sync, cwd=top, output=lambda stream, line: None)
    for source in ("src/disk.img", "src/dense"):  # one is seeded, and one is left to rsync
        with pytest.raises(sparsesync.LinkError, match="no such remote shell"):
            call(source, "far:dst", rsh=str(tmp_path / "none"))
        with pytest.raises(sparsesync.LinkError, match=r"far: .*could not log in") as lost:
            call(source, "far:dst", rsh=["ssh", "-F", "/dev/null", "-o", "ProxyCommand=false"])
        assert (lost.value.host, lost.value.retryable) == ("far", True)
        refused = script(tmp_path / "ssh", "echo 'Permission denied (publickey).' >&2; exit 255")
        with pytest.raises(sparsesync.LinkError, match=r"far: .*could not log in") as lost:
            call(source, "far:dst", rsh=refused)
        assert not lost.value.retryable
    rsh = local_shell(tmp_path / "rsh")
    result = call("src/disk.img", f"far:{top}/dst", rsh=rsh, python="/nonexistent")
    assert result.ok and result.no_agent and "no Python" in str(result.handoff)
    result = call("src/dense", f"far:{top}/dst", rsh=rsh)
    assert result.ok and not result.no_agent


def test_arguments(top: Path) -> None:
    with pytest.raises(ValueError, match="no source"):
        sparsesync.sync([], top / "dst")
    with pytest.raises(TypeError):
        sparsesync.sync("src", "dst", [b"-a"])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="cancel"):
        sparsesync.sync("src", "dst", cancel=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the path of a Python"):
        sparsesync.sync("src", "dst", python="a;b")
    wrong: str | list[str]
    for wrong in ("", [], " "):
        with pytest.raises(ValueError, match="remote shell"):
            sparsesync.sync("src", "far:dst", rsh=wrong)
    assert sparsesync.sync(f"{top}/src/disk.img", os.fsencode(top / "one"), "-a").ok
    assert (top / "one").stat().st_mtime_ns == (top / "src/disk.img").stat().st_mtime_ns


def test_a_directory_of_its_own(top: Path) -> None:
    (top / "rules").write_text("- dense\n")
    for options in (["--exclude-from=rules"], ["--exclude-from", "rules"], ["-f", ". rules"], ["--filter=merge rules"]):
        result = sparsesync.sync([Path("src"), "src/./disk.img"], "to/dst/", ["-aR", "--mkpath", *options], cwd=top)
        assert result.ok and {each.name for each in result.seeded} == {"disk.img", "src/disk.img"}
        assert sorted(str(path.relative_to(top / "to/dst")) for path in (top / "to/dst").rglob("*")) == [
            "disk.img", "src", "src/disk.img"
        ]  # fmt: skip
        shutil.rmtree(top / "to")
    os.mkdir(top / "k:d")
    assert sparsesync.sync(Path("src/disk.img"), Path("k:d"), ["-a"], cwd=top).seeded
    assert (top / "k:d/disk.img").exists()


def test_an_environment_of_its_own(top: Path, tmp_path: Path) -> None:
    rsh = script(tmp_path / "my rsh", 'echo "$MINE" >> "$0.log"; shift; exec sh -c "$*"')
    environ = {"PATH": os.environ["PATH"], "RSYNC_RSH": f"'{rsh}'", "MINE": "mine"}
    result = sparsesync.sync(top / "src/disk.img", f"far:{top}/dst", env=environ)
    assert result.ok and result.seeded
    assert Path(f"{rsh}.log").read_text() == "mine\n" * 3  # the agent, and rsync twice
    assert sparsesync.sync(top / "src/disk.img", f"far:{top}/dst2", rsh=[rsh]).seeded
    with pytest.raises(FileNotFoundError):
        sparsesync.sync(top / "src", top / "dst3", env={"PATH": str(tmp_path)})


def test_progress(top: Path) -> None:
    counts: list[sparsesync.Done] = []
    threads = set()

    def progress(count: sparsesync.Done) -> None:
        counts.append(count)
        threads.add(threading.current_thread())

    result = sparsesync.sync("src/", "dst", ["-a"], cwd=top, progress=progress)
    assert json.loads(json.dumps(result.asdict()))["seeded"][0]["name"] == "disk.img"
    assert sum(counts) == 12 * MIB and {count.total for count in counts} == {12 * MIB}
    assert threads == {threading.current_thread()}
    counts.clear()
    assert sparsesync.sync("src/", "dst", ["-a"], cwd=top, progress=progress, timeout=60, cancel=lambda: False).ok
    assert counts == []


@pytest.mark.slow
def test_an_exception_of_the_callers_is_raised_as_it_is(top: Path) -> None:
    class Mine(BaseException):
        pass

    def raises(*ignored: object) -> object:
        raise Mine

    threads = set(threading.enumerate())
    for what in ({"progress": raises}, {"output": raises}, {"cancel": raises}):
        with pytest.raises(Mine):
            sparsesync.sync("src/", "dst", ["-av", "--bwlimit=20m"], cwd=top, **what)  # type: ignore[arg-type]
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        sparsesync.sync("src/", "dst", ["-a"], cwd=top, timeout=0)
    assert pickle.loads(pickle.dumps(raised.value)).timeout == 0
    assert set(threading.enumerate()) <= threads
