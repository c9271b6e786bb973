"""``serve``, the forced command of a key that is for one directory: by a real sshd, and against whoever wants more."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sparsesync
from sparsesync.commands.main import main
from sparsesync.engine.files.claims import allocated
from sparsesync.serving import walls
from tests.support import intruder
from tests.support.filesystems import need_tools, same_content
from tests.support.shells import script
from tests.support.sshd import sshd
from tests.support.sync import sparse

ROOT = Path(__file__).parents[2]


def serve(directory: Path, *mode: str) -> str:
    """The command of a key."""
    python = f"PYTHONPATH={ROOT} {sys.executable} -m sparsesync"
    return " ".join([python, "serve", "--restrict-to-path", str(directory), *mode])


def forced(path: Path, command: str) -> str:
    """A remote shell that leads to this machine, where a command is forced as sshd does it."""
    return script(path, f'shift; SSH_ORIGINAL_COMMAND="$*" exec env {command}')


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    need_tools("rsync")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    sparse(tmp_path / "src/img")
    (tmp_path / "src/plain").write_text("plain")
    return tmp_path


@pytest.mark.ssh
def test_every_command_by_a_key_for_one_directory(place: Path) -> None:
    served = intruder.make(place)
    before = intruder.snapshot(place)
    with sshd(place / "sshd") as server:
        keys = server.directory / "authorized"
        keys.write_text(f'command="{serve(served)}",restrict {keys.read_text()}')
        with sparsesync.Session(rsh=server.rsh) as far:
            far.copyfile("src/img", "h:/img")
            pushed = far.sync("src/", "h:/vms", "-a", check=True)
            pulled = far.sync("h:vms/", "pulled", "-a", check=True)
            assert [[file.name for file in result.seeded] for result in (pushed, pulled)] == [["img"], ["img"]]
            assert [*far.verify("src", "h:~/vms")] == []
            assert [file.path for file in far.scan("h:/vms")] == ["h:/vms/img"]
            assert {"h:./img", "h:./vms/img"} < {file.path for file in far.scan("h:/")}
            with pytest.raises(PermissionError, match="is outside of the directory that this key is for"):
                far.copyfile("h:out/secret", "got")
            assert server.logins() == 1
    for copied in (served / "img", served / "vms/img", place / "pulled/img"):
        assert same_content(place / "src/img", copied)
        assert allocated(os.stat(copied)) <= allocated(os.stat(place / "src/img"))
    assert not (place / "got").exists() and intruder.snapshot(place) == before


def test_an_intruder_gets_nothing(tmp_path: Path) -> None:
    ended = intruder.attack(tmp_path, 40, 3)
    assert ended["is outside of"] > 5 and ended["sent something"] and ended["status 0"] > 5


def test_rsync_is_kept_inside(place: Path) -> None:
    """What the arguments do not show: lists and rules that come over the connection, devices, and a race."""
    served = intruder.make(place)
    confined(served, None)  # or skip
    outside = place / "outside"
    (outside / "rules").write_text("- f\n")
    before = intruder.snapshot(place)
    rsh = forced(place / "rsh", serve(served))

    def rsync(*argv: str) -> int:
        return subprocess.run(["rsync", "-e", rsh, *argv], capture_output=True, timeout=60).returncode

    listed = ["f", "out/secret", "sub/out/secret", "../outside/secret", f"{outside}/secret", "file", "twice/below/f"]
    (place / "list").write_text("\n".join(listed))
    rsync("-r", "--files-from=list", "h:", "got")
    assert sorted(path.name for path in (place / "got").rglob("*") if path.is_file()) == ["f"]
    rsync("-r", f"--filter=: {outside}/rules", "h:sub/", "ruled")
    assert (place / "ruled/f").exists() or not (place / "ruled").exists()
    if os.geteuid() == 0:
        os.mknod(place / "src/device", 0o20600, os.makedev(1, 3))
    (place / "src/out").mkdir()
    (place / "src/out/new").write_text("new")
    rsync("-rlD", "src/", "h:")
    assert (served / "img").exists() and not (served / "device").exists()
    with intruder.racing(served):
        rsync("-r", "h:flip/", "raced")
        rsync("-r", "src/plain", "h:flip/")
    raced = [path.read_bytes() for path in place.glob("raced/*") if path.is_file()]
    assert set(raced) <= {b"inside", b"plain"} and intruder.snapshot(place) == before


def test_append_only_adds(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    served = intruder.make(place)
    confined(served, None)  # or skip
    (served / "plain").write_text("older")
    os.utime(served / "plain", (1, 1))
    rsh = forced(place / "rsh", serve(served, "--append-only"))
    assert main(["scan", "-0", "-e", rsh, "h:../outside"]) == 1
    said = "sparsesync: h:../outside: is outside of the directory that this key is for\n"
    assert capfd.readouterr().err == said
    assert main(["copy", "-q", "-e", rsh, "src/img", "h:new"]) == 0
    assert main(["copy", "-q", "-e", rsh, "src/img", "h:f"]) == 1
    assert capfd.readouterr().err == "sparsesync: h:f: a file of that name is there, and only new ones are taken\n"
    assert main(["sync", "-a", "-S", "-e", rsh, "src/", "h:"]) == 0
    assert same_content(place / "src/img", served / "new") and same_content(place / "src/img", served / "img")
    assert (served / "f").read_bytes()[:6] == b"inside" and os.stat(served / "plain").st_mtime == 1
    assert (served / "plain").read_text() == "older" and not [*served.glob(".*")]


def test_another_version_is_refused(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rsh = forced(place / "rsh", serve(place, "--read-only"))
    monkeypatch.setattr("sparsesync.hosts.ssh.fingerprint", lambda: "another")
    assert main(["scan", "-e", rsh, "h:src"]) == 1
    assert "install the same version at both ends" in capfd.readouterr().err


def test_what_a_key_does_not_allow_is_said_once(place: Path) -> None:
    rsh = forced(place / "rsh", serve(place, "--read-only"))
    argv = [sys.executable, "-m", "sparsesync", "scan", "-e", rsh, "--remote-prefix", "sudo", "h:src"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()) == (
        1,
        [
            "sparsesync: this key runs no command: --rsync-path and --remote-prefix are not for it",
            "sparsesync: h: the key there does not allow what was asked for",
        ],
    )


def test_what_is_asked_for_is_not_executed(place: Path) -> None:
    def ask(asked: str) -> tuple[int, str]:
        env = {**os.environ, "SSH_ORIGINAL_COMMAND": asked}
        argv = ["sh", "-c", f"exec env {serve(place, '--read-only')}"]
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stderr

    assert ask("true") == (0, "")
    for asked, said in (
        ("touch made", "rsync and sparsesync only"),
        ('sh -c \'sudo touch made; echo "sparsesync by $p"; "$p" -c "exec(input())"\'', "this key runs no command"),
        ("rsync --server -r . src; touch made", "this key is read-only"),
    ):
        status, heard = ask(asked)
        assert status == 1 and said in heard and len(heard.splitlines()) == 1, heard
    assert not (place / "made").exists()


def confined(served: Path, temporaries: Path | None, *calls: Callable[[], object]) -> list[bool]:
    """Return which calls are refused in a process that the kernel confines."""
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        try:
            place = None if temporaries is None else os.open(temporaries, os.O_RDONLY)
            if not walls.build(os.open(served, os.O_RDONLY), True, place):
                os._exit(77)
            for call in calls:
                try:
                    call()
                    os.write(sink, b"-")
                except OSError:
                    os.write(sink, b"x")
        finally:
            os._exit(0)
    os.close(sink)
    with open(source, "rb") as told:
        refused = [bool(answer == ord("x")) for answer in told.read()]
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77:
        pytest.skip("this kernel has no Landlock")
    return refused


def test_the_kernel_keeps_a_process_inside(tmp_path: Path) -> None:
    """Whatever the checks have missed."""
    served = intruder.make(tmp_path)
    refused = confined(
        served,
        None,
        lambda: os.open(served / "out/secret", os.O_RDONLY),
        lambda: os.listdir(tmp_path),
        lambda: os.mkdir(tmp_path / "new"),
        lambda: os.unlink(tmp_path / "outside/secret"),
        lambda: os.rename(served / "f", tmp_path / "f"),
        lambda: os.mknod(served / "device", 0o20600, os.makedev(1, 3)),
        lambda: os.open("/etc/shadow", os.O_RDONLY),
        lambda: os.rename(served / "f", served / "sub/g"),
    )
    assert refused == [True] * 7 + [False]


def test_the_kernel_has_rsync_only_add(tmp_path: Path) -> None:
    """Whatever a client sends that rsync has not asked for."""
    need_tools("rsync")
    served = intruder.make(tmp_path)
    for name in ("place", "src", "dst/more"):
        (served / name).mkdir(parents=True)
    for name in ("src/f", "src/new", "dst/f", "dst/more/g"):
        (served / name).write_text(name)
    argv = ["rsync", "-aI", "--delete", f"--temp-dir={served}/place", f"{served}/src/", f"{served}/dst/"]
    refused = confined(
        served,
        served / "place",
        lambda: subprocess.run(argv, stderr=subprocess.DEVNULL),
        lambda: os.open(served / "f", os.O_WRONLY),
        lambda: os.truncate(served / "f", 0),
        lambda: os.unlink(served / "f"),
        lambda: os.rename(served / "f", served / "place/f"),
    )
    assert refused == [False] + [True] * 4
    held = {str(path.relative_to(served)): path.read_text() for path in (served / "dst").rglob("*") if path.is_file()}
    assert held == {"dst/f": "dst/f", "dst/more/g": "dst/more/g", "dst/new": "src/new"}
