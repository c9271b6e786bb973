"""``sparsesync migrate``: a made-up Docker host, moved over a real ssh in two passes; and whatever goes wrong."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_host import APPARENT, docker_host, stopping
from tests.support.fake import CONTAINERD, DOCKER_29
from tests.support.filesystems import (
    Mounted,
    allocated,
    command,
    dead_mount,
    filesystem,
    need,
    need_root,
    need_tools,
    same_content,
    sparse_file,
)
from tests.support.schemas import document
from tests.support.shells import local_shell, old_pythons, script
from tests.support.sshd import Sshd, sshd

MIB = 1 << 20


@pytest.fixture(autouse=True)
def _tools() -> None:
    need_tools("rsync")


def migrate(*argv: str | os.PathLike[str], rsh: str = "", **more: object) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "sparsesync", "migrate", *map(str, argv)]
    environment = {**os.environ, "RSYNC_RSH": rsh} if rsh else None
    more.setdefault("env", environment)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, **more)  # type: ignore[call-overload]
    assert "Traceback" not in done.stderr, done.stderr
    return done  # type: ignore[no-any-return]


def begin(*argv: str | os.PathLike[str], until: Path, rsh: str = "", **more: str) -> subprocess.Popen[str]:
    """Start a migration, and wait until a file is there."""
    environment = {**os.environ, **({"RSYNC_RSH": rsh} if rsh else {}), **more}
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsesync", "migrate", *map(str, argv)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    for _ in range(600):
        if until.exists():
            break
        time.sleep(0.05)
    return process


def lines(done: subprocess.CompletedProcess[str], level: str) -> list[str]:
    """What is told at a level of the preflight."""
    return [line[9:] for line in done.stdout.splitlines() if line.startswith(f"{level:<9}")]


def differs(source: Path, destination: Path, *more: str) -> str:
    """What rsync, reading all content, would still change."""
    options = ["-aHAXnic", "--numeric-ids", "--one-file-system", *more]
    return command("rsync", *options, f"{source}/", f"{destination}/")


def corrupt(path: Path) -> None:
    """Change a file's content, and neither its size nor its time."""
    st = os.stat(path)
    with open(path, "r+b") as file:
        os.pwrite(file.fileno(), b"bad", 40 * MIB)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree to move. Who is not root is warned of it, each time."""
    need_root("a migration without warnings needs root")
    source = tmp_path / "src"
    (source / "below").mkdir(parents=True)
    sparse_file(source / "disk", 64 * MIB, [(MIB, MIB), (40 * MIB, 4096)])
    (source / "below/plain").write_text("plain\n")
    os.link(source / "below/plain", source / "linked")
    old = time.time() - 1000
    for path in (source / "disk", source / "below/plain"):
        os.utime(path, (old, old))
    return tmp_path


@pytest.mark.slow
def test_a_docker_host(tmp_path: Path, sshd_server: Sshd) -> None:
    """In two passes over ssh, to a filesystem smaller than the apparent size, while services write."""
    with filesystem("ext4", tmp_path / "old", "3G") as old, filesystem("ext4", tmp_path / "new", "1G") as new:
        (old / "root").mkdir()
        with docker_host(old / "root", tmp_path / "mounts") as host:
            where = [f"{host.root}/", f"far:{new}/root"]
            checked = migrate("--check", *where, rsh=sshd_server.rsh)
            assert checked.returncode == 0, checked
            holders = "\n".join(lines(checked, "warning"))
            behind = "is behind a loop device that writes"
            assert f"{host.data}: {behind}: {host.loops[0]}, mounted at {host.mounted}" in holders
            assert f"{host.data.with_name('metadata')}: {behind}: {host.loops[1]}" in holders
            assert not (new / "root").exists()

            host.write()
            first = migrate(*where, rsh=sshd_server.rsh)
            assert (first.returncode, first.stderr) == (0, ""), first
            writer = host.writers[0].pid
            holder = rf"{host.log}: is open for writing: python[0-9.]* \(process {writer}\)"
            assert re.search(holder, "\n".join(lines(first, "warning")))
            assert "storage driver devicemapper (there is also overlay2)" in first.stdout
            assert "data: is a devicemapper loop file" in first.stdout and "1.5 GiB apparent" in first.stdout
            assert "in use       " in first.stdout and "preset system" in first.stdout
            assert allocated(new / "root/var/lib/docker/devicemapper/devicemapper/data") < 200 * MIB

            stopped = migrate("--final", *where, rsh=sshd_server.rsh)
            assert stopped.returncode == 1 and host.writers[0].poll() is None
            assert "is behind a loop device that writes" in "\n".join(lines(stopped, "stop"))

            report = tmp_path / "report.json"
            final = migrate(
                "--final", "--verify", "--before", stopping(host), "--on-failure", f"touch {tmp_path}/failed",
                "--after", f"touch {tmp_path}/after", "--after-dest", f"touch {tmp_path}/after-dest",
                "--report", report, *where, "--", "--delete", rsh=sshd_server.rsh,
            )  # fmt: skip
            host.loops.clear()
            assert (final.returncode, final.stderr) == (0, ""), final
            assert (tmp_path / "after").exists() and (tmp_path / "after-dest").exists()
            assert not (tmp_path / "failed").exists()

            left_out = ["--exclude=/tmp/*", "--exclude=/swapfile", "--exclude=/var/lib/docker/tmp/*"]
            assert differs(host.root, new / "root", "--delete", *left_out) == ""
            compared = subprocess.run(
                [sys.executable, "-m", "sparsesync", "verify", host.root, new / "root"], capture_output=True, text=True
            )
            extra = ("swapfile", "tmp/scratch", "var/lib/docker/tmp/scratch")
            assert set(compared.stdout.splitlines()) == {f"{name}: missing in {new}/root" for name in extra}, compared
            argv = ["verify", "--preset", "system", str(host.root), f"{new}/root"]
            compared = subprocess.run([sys.executable, "-m", "sparsesync", *argv], capture_output=True, text=True)
            assert (compared.returncode, compared.stderr) == (0, ""), compared
            upper = new / "root/var/lib/docker/overlay2/bbbb/diff"
            assert os.stat(upper / "app/removed").st_rdev == 0
            assert os.getxattr(upper / "app/old", "trusted.overlay.opaque") == b"y"
            image = new / "root/var/lib/docker/devicemapper/devicemapper/data"
            command("e2fsck", "-fn", image)
            (tmp_path / "again").mkdir()
            command("mount", "-o", "loop,ro", image, tmp_path / "again")
            try:
                assert (tmp_path / "again/db").stat().st_size == 40 * MIB
            finally:
                command("umount", tmp_path / "again")
            _check_report(document(report.read_text()), image)


def _check_report(report: dict[str, object], image: Path) -> None:
    assert (report["pass"], report["status"], report["failure"]) == ("final", 0, None)
    sync, files = report["sync"], report["sparse_files"]
    assert isinstance(sync, dict) and isinstance(files, list)
    assert sync["command"][:4] == ["rsync", "-aHAX", "--numeric-ids", "--one-file-system"]
    assert not any("ControlPath" in word for word in sync["command"]) and "--delete" in sync["command"]
    (data,) = [each for each in files if each["name"].endswith("devicemapper/data")]
    assert data["source"][0] == data["destination"][0] == APPARENT and data["destination"][1] == allocated(image)
    assert 0 < data["sent"] < 20 * MIB  # of more than 40 MiB: the rest was there from the first pass
    assert [each["what"] for each in report["commands"]] == ["before", "after", "after-dest"]  # type: ignore[attr-defined]
    verified = report["verified"]
    assert isinstance(verified, dict) and verified["by_digest"] and verified["differences"] == []
    assert verified["data"] > 40 * MIB and float(str(report["downtime"])) > 0


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["here", "push", "pull"])
def test_two_passes(tree: Path, sshd_server: Sshd, direction: str) -> None:
    source = f"{'far:' if direction == 'pull' else ''}{tree}/src/"
    destination = f"{'far:' if direction == 'push' else ''}{tree}/dst"
    done = migrate("-n", source, destination, rsh=sshd_server.rsh)
    assert done.returncode == 0 and not (tree / "dst").exists(), done
    assert re.search(r"by extents +1 file: 1 MiB of 64 MiB", done.stdout), done.stdout
    assert re.search(r"^by extents +disk: 1 MiB of 64 MiB$", done.stdout, re.MULTILINE), done.stdout
    logins = sshd_server.logins()
    done = migrate(source, destination, rsh=sshd_server.rsh)
    assert (done.returncode, done.stderr) == (0, ""), done
    typed = f"sparsesync migrate --final {source} {destination}"
    assert done.stdout.splitlines()[-1] == f"next         stop what writes there, then: {typed}"
    assert sshd_server.logins() - logins == (direction != "here")
    assert differs(tree / "src", tree / "dst") == ""
    with open(tree / "src/disk", "r+b") as disk:
        os.pwrite(disk.fileno(), b"changed", 20 * MIB)
    (tree / "src/new").write_text("new\n")
    done = migrate("--final", "--verify", "--json", source, destination, rsh=sshd_server.rsh)
    assert done.returncode == 0, done
    report = document(done.stdout)
    (file,) = report["sparse_files"]
    assert file["sent"] <= (2 * MIB if direction == "here" else 64 * 1024)
    assert differs(tree / "src", tree / "dst") == ""
    assert allocated(tree / "dst/disk") <= 2 * MIB


def test_the_commands_and_their_order(tree: Path) -> None:
    log = tree / "log"
    options = [word for name in ("before", "before-dest", "after", "after-dest", "on-failure", "on-failure-dest")
               for word in (f"--{name}", f"test -e {tree}/dst/disk; echo {name} $? >> {log}")]  # fmt: skip
    done = migrate("--final", *options, f"{tree}/src/", tree / "dst")
    assert done.returncode == 0, done
    assert log.read_text().split() == ["before", "1", "before-dest", "1", "after", "0", "after-dest", "0"]
    took = ", ".join(f"--{name} [0-9.]+ s" for name in ("before", "before-dest", "after", "after-dest"))
    assert re.search(rf"^downtime +[0-9.]+ s, of it {took}$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("which", ["before", "before-dest", "after", "after-dest"])
def test_a_command_that_fails(tree: Path, which: str) -> None:
    ran = tree / "ran"
    commands = [f"--{which}", "echo said; exit 7", "--on-failure", f"touch {ran}"]
    done = migrate("--final", *commands, f"{tree}/src/", tree / "dst")
    assert done.returncode == 1 and ran.exists(), done
    assert (
        f"--{which} failed on this host with status 7: echo said; exit 7\nsparsesync: --on-failure was run"
        in done.stderr
    )
    assert (tree / "dst/disk").exists() == which.startswith("after")
    assert done.stderr.count("\n") == 3 + (which == "after-dest")  # and what the command said


def test_services_that_cannot_be_started_again(tree: Path) -> None:
    done = migrate("--final", "--before", "false", "--on-failure", "exit 3", f"{tree}/src/", tree / "dst")
    assert done.returncode == 1
    assert "--on-failure COULD NOT BE RUN on this host, run it by hand: exit 3" in done.stderr
    done = migrate("--final", "--before", "false", f"{tree}/src/", tree / "dst")
    assert "no --on-failure was given: what --before stopped is still stopped" in done.stderr


def test_output_that_nobody_reads_does_not_keep_services_down(tree: Path) -> None:
    ran = tree / "ran"
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "sparsesync", "migrate", "--final", "--before", "true", "--on-failure", f"touch {ran}",
         f"{tree}/src/", tree / "dst"], stdout=write, stderr=subprocess.PIPE, timeout=60,
    )  # fmt: skip
    os.close(write)
    # It ends before anything is stopped, or starts it again.
    assert done.returncode != 0 and (ran.exists() or not (tree / "dst/disk").exists())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_final_pass(tree: Path, number: int) -> None:
    commands = ["--before", f"touch {tree}/stopped; sleep 60", "--on-failure", f"touch {tree}/again"]
    process = begin("--final", *commands, f"{tree}/src/", tree / "dst", until=tree / "stopped")
    try:
        process.send_signal(number)
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 20 and (tree / "again").exists()
    assert "interrupted\nsparsesync: --on-failure was run on this host" in said


def test_a_signal_in_the_first_pass(tree: Path) -> None:
    sparse_file(tree / "src/dense", 4 * MIB, [(0, 4 * MIB)])
    begun = f"(sleep 0.3; touch {tree}/begun) &"
    waits = script(tree / "rsync", f'case "$*" in *"--stats "*) {begun} ;; esac; exec rsync --bwlimit=50 "$@"')
    process = begin(f"{tree}/src/", tree / "dst", until=tree / "begun", SPARSESYNC_RSYNC=waits)
    try:
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    finally:
        process.kill()
    assert process.returncode == 20 and same_content(tree / "src/disk", tree / "dst/disk")
    told = "sparsesync: interrupted; what has arrived is kept, and the same command goes on from there"
    assert said.splitlines()[-1] == told and said.count("interrupted") == 1


def test_the_destination_fills_up_in_the_final_pass(tree: Path) -> None:
    with filesystem("ext4", tree / "small", "64M") as small:
        (small / "dst").mkdir()
        assert migrate(f"{tree}/src/", small / "dst").returncode == 0
        with open(tree / "src/disk", "r+b") as disk:
            os.pwrite(disk.fileno(), b"x" * 8 * MIB, 20 * MIB)
        free = os.statvfs(small).f_bfree * os.statvfs(small).f_frsize
        done = migrate(
            "--final", "--before-dest", f"fallocate -l {free - 4 * MIB} {small}/filler", "--on-failure",
            f"touch {tree}/again", f"{tree}/src/", small / "dst",
        )  # fmt: skip
        assert done.returncode == 11 and (tree / "again").exists(), done
        assert "No space left" in done.stderr and "--on-failure was run on this host" in done.stderr
        assert (small / "dst/disk").stat().st_size == 64 * MIB


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Sshd]:
    """A server that a test may harm."""
    with sshd(tmp_path / "own") as running:
        yield running


def cut(server: Sshd) -> str:
    """A shell command that kills every connection to a server."""
    pid = (server.directory / "pid").read_text().strip()
    return f"for child in $(pgrep -P {pid}); do pkill -9 -P $child; kill -9 $child; done; sleep 0.2"


def shut_down(server: Sshd) -> str:
    """A shell command that kills a server and every connection to it."""
    pid = (server.directory / "pid").read_text().strip()
    each = "for child in $all; do pkill -9 -P $child; kill -9 $child; done"
    return f"all=$(pgrep -P {pid}); kill -9 {pid}; {each}; sleep 0.2"


@pytest.mark.slow
def test_a_connection_that_is_lost_in_the_final_pass(tree: Path, own: Sshd) -> None:
    """Services at the other end are started again over a new one."""
    where = f"far:{tree}/src/", tree / "dst"
    again = f"touch {tree}/again"
    done = migrate("--final", "--before-dest", cut(own), "--on-failure", again, *where, rsh=own.rsh)
    assert done.returncode == 12 and (tree / "again").exists(), done
    assert re.search(
        "far: the connection (has ended|is lost: .*)\nsparsesync: --on-failure was run on far", done.stderr
    )
    assert migrate("--final", "--verify", *where, rsh=own.rsh).returncode == 0
    assert differs(tree / "src", tree / "dst") == ""


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_host_that_is_lost_in_the_final_pass(tree: Path, own: Sshd, direction: str) -> None:
    source = f"{'far:' if direction == 'pull' else ''}{tree}/src/"
    destination = f"{'far:' if direction == 'push' else ''}{tree}/dst"
    here = "--before-dest" if direction == "pull" else "--before"
    done = migrate("--final", here, shut_down(own), "--on-failure", "true", source, destination, rsh=own.rsh)
    assert done.returncode == 12, done
    if direction == "push":
        assert "what was received is kept, the same command goes on from there" in done.stderr, done
        assert "\nsparsesync: --on-failure was run on this host" in done.stderr
    else:
        assert "--on-failure COULD NOT BE RUN on far, run it by hand: true (far: ssh could not log in" in done.stderr
    done = migrate("--check", f"{tree}/src/", f"far:{tree}/dst", rsh=own.rsh)
    assert done.returncode == 1 and "sparsesync: far: ssh could not log in: nothing takes" in done.stderr, done


@pytest.mark.slow
def test_two_migrations_into_one_destination(tree: Path, sshd_server: Sshd) -> None:
    where = f"{tree}/src/", f"far:{tree}/dst"
    process = begin("--final", "--before", f"touch {tree}/in; sleep 60", *where, until=tree / "in", rsh=sshd_server.rsh)
    try:
        done = migrate(f"{tree}/src/", tree / "dst")
        assert done.returncode == 1 and not (tree / "dst/disk").exists()
        assert lines(done, "stop") == [f"{tree}/dst: another migration is running into it; wait for it, or end it"]
    finally:
        process.kill()
        process.wait()
    # The lock goes with its holder, however that ended.
    for _ in range(100):
        if migrate("--check", f"{tree}/src/", tree / "dst").returncode == 0:
            break
        time.sleep(0.1)
    assert migrate(f"{tree}/src/", tree / "dst").returncode == 0


def test_what_is_left_out_is_not_looked_at(tree: Path) -> None:
    (tree / "src/mnt/dead").mkdir(parents=True)
    with dead_mount(tree / "src/mnt/dead"):
        done = migrate("--json", f"{tree}/src/", tree / "dst", "--", "--exclude=/mnt/")
        assert done.returncode == 0, done
        assert not (tree / "dst/mnt").exists()


def test_what_is_left_out(tree: Path) -> None:
    (tree / "list").write_text("below\n")
    done = migrate("--exclude-sparse", "--exclude-from", tree / "list", f"{tree}/src/", tree / "dst")
    assert done.returncode == 0, done
    assert sorted(path.name for path in (tree / "dst").iterdir()) == ["linked"]
    assert "/disk (--exclude-sparse: 1 MiB of 64 MiB)" in done.stdout and f"what {tree}/list says" in done.stdout
    docker = tree / "docker"
    (docker / "devicemapper/devicemapper").mkdir(parents=True)
    sparse_file(docker / "devicemapper/devicemapper/data", MIB, [])
    (docker / "tmp").mkdir()
    (docker / "tmp/scratch").write_text("")
    assert "preset docker" in migrate("--skip-docker-loop", f"{docker}/", tree / "without").stdout
    assert [*(tree / "without/devicemapper/devicemapper").iterdir(), *(tree / "without/tmp").iterdir()] == []
    assert migrate(f"{docker}/", tree / "with").returncode == 0
    assert [path.name for path in (tree / "with/devicemapper/devicemapper").iterdir()] == ["data"]
    assert migrate("--preset", "none", f"{docker}/", tree / "all").returncode == 0
    assert (tree / "all/tmp/scratch").exists()


@pytest.mark.slow
def test_files_that_are_left_out_may_be_in_use(tree: Path) -> None:
    (tree / "list").write_text("*.log\n")
    with open(tree / "src/service.log", "w"):
        done = migrate("--final", f"{tree}/src/", tree / "dst")
        assert done.returncode == 1 and "service.log: is open for writing" in done.stdout
        done = migrate("--final", "--exclude-from", tree / "list", f"{tree}/src/", tree / "dst")
        assert done.returncode == 0 and "service.log" not in done.stdout, done
        done = migrate("--final", "--allow-live", f"{tree}/src/", tree / "dst")
        assert done.returncode == 0, done
        assert any("service.log: is open for writing" in line for line in lines(done, "warning"))
    for name in ("lower", "up", "work", "merged"):
        (tree / "src" / name).mkdir()
    layers = f"lowerdir={tree}/src/lower,upperdir={tree}/src/up,workdir={tree}/src/work"
    command("mount", "-t", "overlay", "overlay", "-o", layers, tree / "src/merged")
    try:
        (tree / "src/merged/file").write_text("")
        assert migrate("--check", "--final", f"{tree}/src/", tree / "dst").returncode == 1
        without = ["--", "--exclude=/up", "--exclude=/work", "--exclude=/merged"]
        assert migrate("--check", "--final", f"{tree}/src/", tree / "dst", *without).returncode == 0
    finally:
        command("umount", tree / "src/merged")


def test_a_live_sparse_file_is_not_left_to_rsync(tree: Path) -> None:
    """rsync would read all of it: its time has changed since it was seeded."""
    stop = tree / "stop"
    writer = subprocess.Popen(["sh", "-c", f"while ! test -e {stop}; do printf x | dd of={tree}/src/disk bs=1 seek=5M "
                               "conv=notrunc 2>/dev/null; done"])  # fmt: skip
    try:
        time.sleep(0.3)
        done = migrate("--json", f"{tree}/src/", tree / "dst")
    finally:
        stop.touch()
        writer.wait()
    assert done.returncode == 0, done
    sync = document(done.stdout)["sync"]
    assert (sync["later"], [each["name"] for each in sync["seeded"]]) == (["disk"], ["disk"])
    assert any(word == "--exclude=/disk" for word in sync["command"])
    # What was brought has an earlier time than the source ever had since, so the next pass looks at it again.
    assert os.stat(tree / "dst/disk").st_mtime_ns < os.stat(tree / "src/disk").st_mtime_ns
    assert migrate("--final", "--verify", f"{tree}/src/", tree / "dst").returncode == 0
    assert differs(tree / "src", tree / "dst") == ""


def test_what_is_only_at_the_destination(tree: Path) -> None:
    assert migrate(f"{tree}/src/", tree / "dst").returncode == 0
    (tree / "dst/stray").write_text("")
    done = migrate("--final", f"{tree}/src/", tree / "dst")
    assert done.returncode == 0 and (tree / "dst/stray").exists()
    (line,) = lines(done, "warning")
    kept = "not at the source, and kept: 1 name, such as stray; to remove that give --delete after --"
    assert line == f"{tree}/dst: {kept}"
    assert migrate("--final", f"{tree}/src/", tree / "dst", "--", "--delete").returncode == 0
    assert not (tree / "dst/stray").exists()


def test_a_difference_after_the_final_pass(tree: Path) -> None:
    """Content that differs under one size and time is what only digests see."""
    assert migrate(f"{tree}/src/", tree / "dst").returncode == 0
    corrupt(tree / "dst/disk")
    assert migrate("--final", f"{tree}/src/", tree / "dst").returncode == 0
    done = migrate("--final", "--verify", "--on-failure", f"touch {tree}/again", f"{tree}/src/", tree / "dst")
    assert done.returncode == 1 and (tree / "again").exists(), done
    assert "disk: its content differs" in done.stdout
    assert "1 name differs after the final pass; remove what differs at the destination" in done.stderr


def test_a_killed_migration_ends_its_rsync(tree: Path) -> None:
    """An rsync that went on alone would get in the way of the next run."""
    (tree / "src/large").write_bytes(os.urandom(20 * MIB))
    process = subprocess.Popen(
        [sys.executable, "-m", "sparsesync", "migrate", f"{tree}/src/", tree / "dst", "--", "--bwlimit=1M"],
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            if list((tree / "dst").glob(".large.*")):
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    for _ in range(100):
        if not list((tree / "dst").glob(".large.*")):
            break
        time.sleep(0.05)
    assert list((tree / "dst").glob(".large.*")) == []
    assert migrate(f"{tree}/src/", tree / "dst").returncode == 0
    assert differs(tree / "src", tree / "dst") == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{}/src/"], "a destination is missing"),
        (["--verify", "{}/src/", "{}/dst"], "--verify needs a source that no longer changes; give it with --final"),
        (["--before", "true", "{}/src/", "{}/dst"], "are for the final pass: give them with --final"),
        (["{}/src/", "{}/dst", "--", "-n"], "-n: give -n to migrate itself"),
        (["{}/src/", "{}/dst", "--", "--remove-source-files"], "a migration leaves its source alone"),
        (["{}/src/", "{}/dst", "--", "more"], "only rsync's options may follow --"),
        (["host::module", "{}/dst"], "an rsync daemon is at the other end"),
        (["one:{}/src", "two:{}/dst"], "the source or the destination must be on this host"),
    ],
)  # fmt: skip
def test_bad_command_lines(tree: Path, arguments: list[str], said: str) -> None:
    done = migrate(*(word.format(tree) for word in arguments))
    assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done
    assert not (tree / "dst").exists()


def check_stops(done: subprocess.CompletedProcess[str], *sentences: str) -> None:
    assert done.returncode == 1, done
    assert lines(done, "stop") == [*sentences]
    say = "says" if len(sentences) == 1 else "say"
    assert done.stderr == f"sparsesync: {len(sentences)} of the checks above {say} stop; nothing was done\n"


@pytest.mark.slow
def test_checks_that_say_stop(tree: Path) -> None:
    src, dst = f"{tree}/src/", tree / "dst"
    inside = f"is inside the source {src} and would be copied into itself; name another place"
    check_stops(migrate("--check", src, f"{src}below/dst"), f"{src}below/dst: {inside}")
    done = migrate("--check", src, f"far:{src}below/dst", rsh=local_shell(tree / "rsh"))
    check_stops(done, f"far:{src}below/dst: {inside}")
    check_stops(migrate("--check", src, tree / "no/dst"),
                f"{tree}/no/dst: its parent directory is not there; make it, or correct the path")  # fmt: skip
    done = migrate("--check", f"{tree}/no", dst)
    check_stops(done, f"{tree}/no: there is no such file or directory; correct the path")
    (tree / "file").write_text("")
    check_stops(migrate("--check", src, tree / "file"),
                f"{tree}/file: is not a directory; move it away, or name another destination")  # fmt: skip
    assert not dst.exists()


@pytest.mark.slow
def test_a_file_just_written_is_looked_at_again_whatever_the_window(tree: Path) -> None:
    image = sparse_file(tree / "src/just", MIB, [(0, 4096)])
    os.utime(image)
    assert migrate(f"{tree}/src/", tree / "dst", "--", "--modify-window=2").returncode == 0
    assert int(image.stat().st_mtime) - int((tree / "dst/just").stat().st_mtime) > 2
    os.utime(image, (1, 1))
    assert migrate("--final", f"{tree}/src/", tree / "dst", "--", "--modify-window=2").returncode == 0
    assert (tree / "dst/just").stat().st_mtime == 1


@pytest.mark.root
def test_a_whole_system_without_its_preset(tree: Path) -> None:
    need_root("mounts need root")
    need_tools("unshare", "chroot")
    # A root with nothing in it but other filesystems, which are not entered.
    steps = (
        "mount -t tmpfs tmpfs $0; for each in /*; do if [ -L $each ]; then cp -P $each $0/;"
        " elif [ -d $each ]; then mkdir $0$each; mount --rbind $each $0$each; fi;"
        ' done; exec chroot $0 "$@"'
    )
    (tree / "root").mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", steps, tree / "root", "env", "-C", os.getcwd(),
         sys.executable, "-m", "sparsesync", "migrate", "--check", "--preset", "none", "/", tree / "dst"],
        capture_output=True, text=True,
    )  # fmt: skip
    whole = "the kernel's own files, sockets and scratch space of this system would go along"
    assert done.returncode == 1
    assert lines(done, "stop")[0] == f"/: {whole}; leave --preset out, or give --preset system"
    assert not (tree / "dst").exists()


@pytest.mark.slow
def test_checks_of_space(tree: Path) -> None:
    with filesystem("tmpfs", tree / "small", "512k") as small:
        done = migrate("--check", f"{tree}/src/", small)
        check_stops(done, f"{small}: 1 MiB are needed, 512 KiB are free; make room, or exclude something "
                    "(plain rsync would ask for 64 MiB)")  # fmt: skip
    with filesystem("tmpfs", tree / "inodes", "16M") as few:
        command("mount", "-o", "remount,nr_inodes=100", few)
        (tree / "many").mkdir()
        for number in range(os.statvfs(few).f_favail + 10):
            (tree / f"many/{number}").touch()
        done = migrate("--check", f"{tree}/many/", few)
        assert done.returncode == 1 and re.search("inodes are needed, [0-9]+ are free", lines(done, "stop")[0]), done


def test_checks_of_the_destinations_filesystem(tree: Path) -> None:
    (tree / "src/README").write_text("")
    (tree / "src/readme").write_text("")
    with filesystem("exfat", tree / "exfat", "256M") as exfat:
        done = migrate("--check", f"{tree}/src/", exfat)
        clash = f"cannot hold both {tree}/src/README and readme beside it (they are one name); rename one"
        swapped = f"cannot hold both {tree}/src/readme and README beside it (they are one name); rename one"
        assert done.returncode == 1 and any(clash in line or swapped in line for line in lines(done, "stop")), done
        told = "\n".join(lines(done, "warning"))
        assert "has no holes: every sparse file takes its apparent size there" in told
    with filesystem("ext4", tree / "ext4", "64M") as small, filesystem("tmpfs", tree / "tmpfs") as large:
        sparse_file(large / "huge", 1 << 45, [])
        done = migrate("--check", f"{large}/", small)
        (stop,) = lines(done, "stop")
        assert f"cannot hold a file as large as {large}/huge (32.0 TiB)" in stop
        command("mount", "-o", "remount,ro", small)
        done = migrate("--check", f"{tree}/src/", small)
        assert "nothing can be written there (Read-only file system)" in lines(done, "stop")[0]


def test_checks_of_mounts_and_names(tree: Path) -> None:
    (tree / "src/other").mkdir()
    command("mount", "-t", "tmpfs", "tmpfs", tree / "src/other")
    try:
        done = migrate("--check", f"{tree}/src/", tree / "dst")
        assert f"{tree}/src/other: is a filesystem of its own (tmpfs): only an empty directory goes" in done.stdout
        # What is mounted where a preset leaves all out is none that would be missed.
        for name in ("etc", "proc", "usr", "mnt"):
            (tree / "src/other" / name).mkdir()
        command("mount", "-t", "tmpfs", "tmpfs", tree / "src/other/mnt")
        try:
            assert lines(migrate("--check", f"{tree}/src/other/", tree / "dst"), "warning") == []
        finally:
            command("umount", tree / "src/other/mnt")
    finally:
        command("umount", tree / "src/other")
    (tree / "more/src").mkdir(parents=True)
    done = migrate("--check", tree / "src", tree / "more/src", tree / "dst")
    assert f"{tree}/src and {tree}/more/src both bring src" in "\n".join(lines(done, "warning"))


def test_who_is_not_root(tree: Path) -> None:
    need_root("becoming somebody else needs root")
    need_tools("setpriv")
    docker = tree / "src/overlay2/aa/diff"
    docker.mkdir(parents=True)
    (tree / "src/overlay2/l").mkdir()
    os.mknod(docker / "gone", 0o600 | 0o020000, 0)
    os.chmod(tree, 0o755)
    for path in [*Path(tree).parents][:3]:
        os.chmod(path, os.stat(path).st_mode | 0o055)
    (tree / "dst").mkdir()
    os.chown(tree / "dst", 65534, 65534)
    python = shutil.which("python3", path="/usr/bin:/bin")
    need(python is not None, "there is no Python that others may run")
    home = tree / "library"
    shutil.copytree(Path(__file__).parents[2] / "sparsesync", home / "sparsesync")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    environment = {"PATH": os.environ["PATH"], "HOME": "/"}
    done = subprocess.run(
        [*nobody, str(python), "-m", "sparsesync", "migrate", "--check", f"{tree}/src/", tree / "dst"],
        cwd=home, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 1, done
    warnings = "\n".join(lines(done, "warning"))
    assert "this host: you are not root: lost are the owners of " in warnings and "1 device node" in warnings
    (stop,) = lines(done, "stop")
    assert "which only root can copy: files deleted in images would come back; be root on this host" in stop


def test_the_lock_needs_no_file(tree: Path) -> None:
    assert migrate(f"{tree}/src/", tree / "dst").returncode == 0
    assert same_content(tree / "src/disk", tree / "dst/disk")
    assert {path.name for path in (tree / "dst").iterdir()} == {"below", "disk", "linked"}


@pytest.mark.slow
@pytest.mark.parametrize("shown", [True, False])
def test_one_bar_for_all_phases(tree: Path, shown: bool) -> None:
    (tree / "src/large").write_bytes(os.urandom(3 * MIB))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    options = ["--final", "--verify", *([] if shown else ["-q"])]
    slowly = ["--", "--bwlimit=1500"]
    done = subprocess.run(
        [sys.executable, "-m", "sparsesync", "migrate", *options, f"{tree}/src/", tree / "dst", *slowly],
        stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60,
    )  # fmt: skip
    os.write(theirs, b"end")
    text = os.read(ours, 1 << 20).decode()
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 0, done
    assert all((f"{phase}: " in text) == shown for phase in ("rsync", "verifying")), text
    # Data bytes in all: 1 MiB that is seeded, 3 that rsync copies, and all of it once more to verify it.
    assert (" of 8 MiB" in text) == shown
    assert "Literal data" not in done.stdout and "100%" not in done.stdout


def test_rsyncs_status_is_passed_on(tree: Path) -> None:
    stub = tree / "commands/rsync"
    stub.parent.mkdir()
    real = shutil.which("rsync")
    stub.write_text(f'#!/bin/sh\n{real} "$@" || exit\ncase "$*" in *--stats*) exit 23;; esac\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}"}
    done = migrate("--json", f"{tree}/src/", tree / "dst", env=environment)
    said = "sparsesync: rsync ended with status 23; run the same command again\n"
    assert (done.returncode, done.stderr) == (23, said)
    report = document(done.stdout)
    assert (report["status"], report["sync"]["status"], report["failure"]) == (23, 23, done.stderr[12:-1])
    again = ["--on-failure", f"touch {tree}/again"]
    assert migrate("--final", *again, f"{tree}/src/", tree / "dst", env=environment).returncode == 23
    assert (tree / "again").exists()


def test_what_rsync_prints(tree: Path) -> None:
    done = migrate(f"{tree}/src/", tree / "dst", "--", "-v")
    assert done.returncode == 0 and "below/plain\n" in done.stdout and "sparsesync: seeded disk" in done.stdout
    done = migrate("--json", f"{tree}/src/", tree / "dst2", "--", "-v")
    assert "below/plain\n" in done.stderr and json.loads(done.stdout)["status"] == 0


@pytest.mark.parametrize("python", old_pythons())
def test_an_old_python_there(tree: Path, python: str) -> None:
    rsh = local_shell(tree / "rsh")
    options = ["--final", "--verify", "--python", python, "--before-dest", "true", f"{tree}/src/", f"far:{tree}/dst"]
    done = migrate(*options, rsh=rsh)
    assert done.returncode == 0 and differs(tree / "src", tree / "dst") == "", done


def test_a_report_of_what_failed(tree: Path) -> None:
    """Whatever the reason, there is one, and it is all that goes to standard output."""
    where: list[str | Path] = [f"{tree}/src/", tree / "dst"]
    for arguments in (["far:", tree / "dst"], ["--final", "--before", "false", *where], [*where, "--", "-n"]):
        done = migrate("--json", "--report", tree / "report", *arguments, rsh="false")
        report = document(done.stdout)
        assert report == json.loads((tree / "report").read_text())
        assert done.returncode == report["status"] == 1
        assert done.stderr == f"sparsesync: {report['failure']}\n".replace("; no --", "\nsparsesync: no --")


@pytest.mark.slow
def test_a_source_that_the_destination_holds(tree: Path, sshd_server: Sshd) -> None:
    """With --delete it would remove itself, by whatever name the two are called."""
    for destination in (f"{tree}/", f"far:{tree}/"):
        done = migrate("--check", f"{tree}/src/", destination, "--", "--delete", rsh=sshd_server.rsh)
        holds = f"holds the source {tree}/src/, which --delete would remove; name another place"
        check_stops(done, f"{destination}: {holds}")
        assert migrate("--check", f"{tree}/src/", destination, rsh=sshd_server.rsh).returncode == 0
    for destination in (f"{tree}/src", f"far:{tree}/src"):
        done = migrate("--check", f"{tree}/src/", destination, rsh=sshd_server.rsh)
        check_stops(done, f"{destination}: is the source {tree}/src/ itself; name another place")
    for destination in (f"{tree}", f"far:{tree}"):
        (stop,) = lines(migrate("--check", tree / "src", destination, rsh=sshd_server.rsh), "stop")
        assert stop.startswith(f"{destination}: is where the source {tree}/src lies")
    assert migrate("--check", tree / "src/below", f"{tree}/src-new").returncode == 0
    (tree / "elsewhere").mkdir()
    command("mount", "--bind", tree / "src/below", tree / "elsewhere")
    try:
        (stop,) = lines(migrate("--check", f"{tree}/src/", tree / "elsewhere/new"), "stop")
        assert stop.startswith(f"{tree}/elsewhere/new: is inside the source {tree}/src/")
    finally:
        command("umount", tree / "elsewhere")


def test_a_source_that_is_unmounted_by_before(tree: Path) -> None:
    """With --delete an empty directory would empty the destination."""
    with filesystem("ext4", tree / "disk", "64M") as mounted:
        (mounted / "precious").write_text("data\n")
        assert migrate(f"{mounted}/", tree / "dst").returncode == 0
        again = ["--on-failure", f"mount -o loop {tree}/disk/image {mounted}"]
        where = f"{mounted}/", tree / "dst", "--", "--delete"
        done = migrate("--final", "--before", f"umount {mounted}", *again, *where)
        assert done.returncode == 1 and (tree / "dst/precious").exists(), done
        assert "was mounted, unmounted or replaced since it was looked at; nothing was copied" in done.stderr


def test_what_is_mounted_below_and_unmounted_by_before(tree: Path) -> None:
    (tree / "src/mounted").mkdir()
    command("mount", "-t", "tmpfs", "tmpfs", tree / "src/mounted")
    try:
        (tree / "src/mounted/precious").write_text("data\n")
        crossing: list[str | Path] = [f"{tree}/src/", tree / "dst", "--", "--no-one-file-system", "--delete"]
        assert migrate("--final", *crossing).returncode == 0
    finally:
        before = f"umount {tree}/src/mounted"
        done = migrate("--final", "--before", before, *crossing)
    assert done.returncode == 1 and (tree / "dst/mounted/precious").exists(), done
    assert f"{tree}/src/mounted was mounted, unmounted or replaced" in done.stderr


def test_what_delete_removes_is_told(tree: Path) -> None:
    (tree / "dst/old").mkdir(parents=True)
    (tree / "dst/old/file").write_text("")
    done = migrate("--check", "--json", f"{tree}/src/", tree / "dst", "--", "--delete")
    report = document(done.stdout)
    assert report["plan"]["deleted"] == 2 and (tree / "dst/old").exists()
    assert f"{tree}/dst: --delete removes 2 names, such as " in " ".join(
        f"{each['subject']}: {each['text']}" for each in report["findings"] if each["level"] == "warning"
    )


def test_options_are_rsyncs_to_judge_before_anything_is_stopped(tree: Path) -> None:
    for option in ("--bogus", "--exclude-from=/no such file"):
        done = migrate("--final", "--before", f"touch {tree}/stopped", f"{tree}/src/", tree / "dst", "--", option)
        assert done.returncode in (1, 11) and not (tree / "stopped").exists(), done
        assert option.partition("=")[2] in done.stderr and done.stderr.count("\n") == 1
    done = migrate("--check", "--report", tree / "no/report", f"{tree}/src/", tree / "dst")
    assert done.returncode == 1 and done.stderr == f"sparsesync: {tree}/no/report: its directory does not exist\n"


@pytest.mark.parametrize("option", ["-u", "--ignore-existing", "--size-only"])
def test_every_file_is_verified_whatever_rsync_would_leave_alone(tree: Path, option: str) -> None:
    (tree / "src/single").write_text("plain\n")
    shutil.copytree(tree / "src", tree / "dst", symlinks=True)
    (tree / "dst/single").write_text("other\n")
    os.utime(tree / "dst/single", (time.time() + 1000,) * 2)
    done = migrate("--final", "--verify", f"{tree}/src/", tree / "dst", "--", option)
    assert done.returncode == 1 and "single: its content differs" in done.stdout, done


def test_live_files_may_differ_and_no_others(tree: Path) -> None:
    assert migrate(f"{tree}/src/", tree / "dst").returncode == 0
    corrupt(tree / "dst/disk")
    live: list[str | Path] = ["--final", "--verify", "--allow-live", f"{tree}/src/", tree / "dst"]
    assert migrate(*live).returncode == 1
    with open(tree / "src/disk", "r+b"):
        done = migrate(*live)
        assert done.returncode == 0 and "disk: its content differs" in done.stdout, done


def test_a_change_within_the_second_of_the_first_pass(tree: Path) -> None:
    """rsync alone compares whole seconds."""
    for content, nanoseconds in (("A" * 8192, 200_000_000), ("B" * 8192, 800_000_000)):
        (tree / "src/database").write_text(content)
        os.utime(tree / "src/database", ns=(0, 1_700_000_000 * 10**9 + nanoseconds))
        assert migrate("--final", f"{tree}/src/", tree / "dst").returncode == 0
        assert same_content(tree / "src/database", tree / "dst/database")


def test_a_live_sparse_file_with_several_names(tree: Path) -> None:
    os.link(tree / "src/disk", tree / "src/below/another")
    os.link(tree / "src/disk", tree / "src/a third")
    with open(tree / "src/disk", "r+b") as disk:
        os.pwrite(disk.fileno(), b"new", 3 * MIB)
        done = migrate("--json", f"{tree}/src/", tree / "dst")
    assert done.returncode == 0 and document(done.stdout)["sync"]["later"] == ["a third", "below/another", "disk"]
    assert json.loads(done.stdout)["sync"]["written_by_rsync"] < MIB
    assert migrate("--final", "--verify", f"{tree}/src/", tree / "dst").returncode == 0
    assert differs(tree / "src", tree / "dst") == "" and allocated(tree / "dst/disk") < 3 * MIB


def test_a_sparse_file_with_several_names_that_was_just_written(tree: Path) -> None:
    """It is looked at again in the final pass; until then rsync must not take one of its names for another file."""
    os.link(tree / "src/disk", tree / "src/below/another")
    (tree / "src/disk").touch()
    done = migrate("--json", f"{tree}/src/", tree / "dst")
    assert done.returncode == 0 and document(done.stdout)["sync"]["later"] == ["below/another", "disk"]
    assert json.loads(done.stdout)["sync"]["written_by_rsync"] < MIB
    assert migrate("--final", "--verify", f"{tree}/src/", tree / "dst").returncode == 0
    assert differs(tree / "src", tree / "dst") == "" and allocated(tree / "dst/disk") < 3 * MIB


def test_room_for_a_plain_file_that_is_replaced(tree: Path) -> None:
    with filesystem("ext4", tree / "small", "64M") as small:
        (tree / "src/plain").write_bytes(os.urandom(30 * MIB))
        assert migrate(f"{tree}/src/", small / "dst").returncode == 0
        with open(tree / "src/plain", "r+b") as plain:
            plain.write(b"!")
        done = migrate("--check", "--final", f"{tree}/src/", small / "dst")
        assert done.returncode == 1 and "are needed while a file is replaced" in lines(done, "stop")[0], done
        assert migrate("--final", f"{tree}/src/", small / "dst", "--", "--inplace").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_a_command_that_will_not_end(tree: Path, number: int) -> None:
    """Twice interrupted, it does not go on beside what starts the services again."""
    before = f"trap '' TERM; echo $$ > {tree}/pid; touch {tree}/stopped; while :; do sleep 1; done"
    commands = ["--before", before, "--on-failure", f"touch {tree}/again"]
    process = begin("--final", *commands, f"{tree}/src/", tree / "dst", until=tree / "stopped")
    try:
        process.send_signal(number)
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(30) == 20
    finally:
        process.kill()
    assert (tree / "again").exists()
    assert not Path(f"/proc/{(tree / 'pid').read_text().strip()}").exists()


def test_services_over_there_are_stopped_first(tree: Path) -> None:
    log = tree / "log"
    options = ["--after-dest", f"echo new >> {log}; false", "--on-failure", f"echo old >> {log}"]
    done = migrate("--final", *options, f"{tree}/src/", tree / "dst")
    assert done.returncode == 1 and "what --after-dest has started on this host may be running there" in done.stderr
    done = migrate("--final", *options, "--on-failure-dest", f"echo stopped >> {log}", f"{tree}/src/", tree / "dst")
    assert log.read_text().split() == ["new", "old", "new", "stopped", "old"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--verify", "--final", "far:/a/", "far:/b/", "{}/dst"], "pull one source at a time"),
        (["{}/src/", "far:/a*/"], "far:/a*/: wildcards are for the remote host's shell; name the path itself"),
        (["--exclude-from", "-", "{}/src/", "{}/dst"], "standard input cannot be read several times"),
        (["{}/src/", "far:/line\nbreak"], "a path on another host must not have a line break"),
    ],
)  # fmt: skip
def test_what_could_not_be_proved_or_planned(tree: Path, arguments: list[str], said: str) -> None:
    done = migrate(*(word.format(tree) for word in arguments))
    assert done.returncode == 1 and said.replace("far:/a*/:", "/a*/:") in done.stderr and done.stderr.count("\n") == 1


def test_a_name_alone_does_not_make_a_docker_host(tree: Path) -> None:
    (tree / "src/zfs").mkdir()
    (tree / "src/tmp").mkdir()
    (tree / "src/tmp/thesis").write_text("important\n")
    assert "preset none" in migrate(f"{tree}/src/", tree / "dst").stdout
    assert (tree / "dst/tmp/thesis").exists()
    (tree / "host/mnt/docker/overlay2/l").mkdir(parents=True)
    for name in ("etc/docker", "proc", "usr"):
        (tree / "host" / name).mkdir(parents=True)
    (tree / "host/etc/docker/daemon.json").write_text('{"data-root": "/mnt/docker"}')
    done = migrate("--check", f"{tree}/host/", tree / "dst2")
    assert f"{tree}/host/mnt/docker: the preset leaves it out, with all images and containers" in done.stdout


def advice(found: list[str]) -> list[str]:
    """The options that are advised."""
    given = [match[1] for line in found if (match := re.search(r"give (--.+?)(?: after --|, or )", line))]
    return list(dict.fromkeys(word for each in given for word in shlex.split(each)))


def test_what_is_mounted_where_one_of_several_goes(tree: Path) -> None:
    """It refuses what the filesystem above it takes."""
    (tree / "a/mnt").mkdir(parents=True)
    (tree / "a/mnt/late").touch()
    os.utime(tree / "a/mnt/late", (1 << 32, 1 << 32))
    with filesystem("ext4-128", tree / "new", "64M") as mounted:
        several, relative = [tree / "src", tree / "a/mnt"], [f"{tree}/a/./mnt"]
        for words in ([*several, mounted.parent], [*relative, mounted.parent, "--", "-R"]):
            (said,) = lines(migrate("--check", *words), "stop")
            assert f"cannot hold the time of {tree}/a/" in said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ext4", "xfs", "exfat"])
def test_what_makes_the_pass_fail_is_found_before_services_stop(tree: Path, kind: str) -> None:
    """What the source has and the destination refuses, each with the option under which the pass succeeds."""
    need_tools("setfacl")
    with filesystem("btrfs", tree / "old", "400M") as old, filesystem(kind, tree / "new", "400M") as new:
        shutil.copytree(tree / "src", old / "src")
        for name in ("compressed", "owned", "acl", "large"):
            (old / "src" / name).write_text(name)
        command("btrfs", "property", "set", old / "src/compressed", "compression", "zstd")
        os.chown(old / "src/owned", 1234, 4321)
        command("setfacl", "-m", "u:5:r", old / "src/acl")
        os.setxattr(old / "src/large", "user.large", b"x" * 9000)
        if kind == "exfat":
            os.symlink("disk", old / "src/symlink")
            os.link(old / "src/large", old / "src/again")
            (old / "src/a:b").touch()
        stop = f"touch {tree}/stopped"
        final: list[str | Path] = ["--final", "--verify", "--before", stop, f"{old}/src/", new / "dst"]
        done = migrate(*final)
        found = lines(done, "stop")
        assert done.returncode == 1 and not (tree / "stopped").exists(), done
        expected = {
            "ext4": ["btrfs.compression", "user.large"],
            "xfs": ["btrfs.compression", "trusted.SGI_ACL_FILE"],
            "exfat": ["the mode", "the owner 1234", "the group 4321", "the ACL", "user.large", "btrfs.compression",
                      "symlinks", "hard links", "a:b"],
        }[kind]  # fmt: skip
        assert all(any(part in line for line in found) for part in expected), found
        assert all(any(part in line for part in expected) for line in found), found
        plain = subprocess.run(["rsync", "-aHAX", "--numeric-ids", f"{old}/src/", f"{new}/plain/"], capture_output=True)
        assert plain.returncode == 23
        shutil.rmtree(new / "plain")
        options = [*advice(found), "--exclude=a:b"]
        done = migrate(*final, "--", *options)
        assert done.returncode == 0 and (tree / "stopped").exists() and not lines(done, "stop"), (options, done)


def test_what_a_destination_in_a_user_namespace_refuses(tree: Path) -> None:
    """As root there, who may be nobody here."""
    need_tools("unshare", "setfacl")
    os.chown(tree / "src/disk", 1234, 0)
    os.mknod(tree / "src/device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(tree / "src/linked", "trusted.x", b"")
    rsh = script(tree / "rsh", 'shift; exec unshare --user --map-root-user sh -c "$*"')
    found = lines(migrate("--check", f"{tree}/src/", f"far:{tree}/dst", rsh=rsh), "stop")
    assert sorted(re.sub(r" \(.*", "", line.partition("cannot hold ")[2]) for line in found) == [
        "the attribute trusted.x of " + f"{tree}/src/linked", f"the device {tree}/src/device",
        f"the owner 1234 of {tree}/src/disk",
    ]  # fmt: skip
    where = [f"{tree}/src/", f"far:{tree}/dst", "--", *advice(found), "--no-devices"]
    done = migrate("--final", "--verify", *where, rsh=rsh)
    assert done.returncode == 0, done


def test_what_is_immutable_at_the_destination(tree: Path) -> None:
    """What was copied by an earlier pass, and must be written anew; or a directory that gets a file."""
    need_tools("chattr")
    assert migrate(f"{tree}/src/", tree / "dst").returncode == 0
    locked = [tree / "dst/disk", tree / "dst/below"]
    command("chattr", "+i", *locked)
    try:
        assert migrate("--check", f"{tree}/src/", tree / "dst").returncode == 0
        (tree / "src/below/new").write_text("")
        (tree / "src/disk").touch()
        found = lines(migrate("--check", f"{tree}/src/", tree / "dst"), "stop")
    finally:
        command("chattr", "-i", *locked)
    assert sorted(found) == [
        f"{tree}/dst/below/new: rsync cannot replace it: its directory is immutable; chattr -i lifts that",
        f"{tree}/dst/disk: rsync cannot replace it: it is immutable; chattr -i lifts that",
    ]
    assert migrate("--final", f"{tree}/src/", tree / "dst").returncode == 0


def test_flags_that_rsync_does_not_copy_are_told(tree: Path) -> None:
    need_tools("chattr")
    command("chattr", "+i", tree / "src/below/plain")
    try:
        (told,) = lines(migrate("--check", f"{tree}/src/", tree / "dst"), "warning")
    finally:
        command("chattr", "-i", tree / "src/below/plain")
    assert re.fullmatch(rf"immutable \(i\): rsync does not copy this flag of [12] names?, such as {tree}/src/.+", told)


def test_docker_and_its_images_in_one_migration(tree: Path) -> None:
    """The check says that half of it would be left behind, and how to move it all at once. That works."""
    lib = tree / "old/var/lib"
    for name in (*DOCKER_29, *(f"../containerd/{name}" for name in CONTAINERD)):
        path = lib / "docker" / name
        path.mkdir(parents=True) if name.endswith("/") else path.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_text(name)
    sparse_file(lib / "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/disk", 64 * MIB, [(0, 4096)])
    (lib / "docker/tmp/scratch").write_text("")
    (lib / "containerd/io.containerd.content.v1.content/ingest/part").write_text("")
    os.mknod(lib / "containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/gone", 0o600 | stat.S_IFCHR, 0)
    (tree / "new").mkdir()
    done = migrate("--check", f"{lib}/docker/", tree / "new/docker")
    assert "preset docker" in done.stdout and "storage driver containerd's overlayfs" in done.stdout, done
    (half,) = (line for line in lines(done, "warning") if "is not all" in line)
    assert f"not among the sources is {lib}/containerd (the images and the containers' layers)" in half
    words = shlex.split(half.partition("sparsesync migrate ")[2])
    assert words == [f"{lib}/docker", f"{lib}/containerd", f"{tree}/new/"]
    done = migrate("--final", "--verify", *words, "--", "--delete")
    assert done.returncode == 0 and "is not all" not in done.stdout, done
    assert (tree / "new/docker/engine-id").exists() and os.listdir(tree / "new/docker/tmp") == []
    left = ["--exclude=/docker/tmp/*", "--exclude=/containerd/io.containerd.content.v1.content/ingest/*",
            "--exclude=/containerd/io.containerd.runtime.v2.task/*"]  # fmt: skip
    assert differs(lib, tree / "new", "--delete", "--omit-dir-times", *left) == ""
    assert allocated(tree / "new/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/disk") < MIB


def test_a_partial_file_that_nothing_takes_up(tree: Path) -> None:
    (tree / "dst/below").mkdir(parents=True)
    for name in (".disk.sparsesync-partial", "below/.gone.sparsesync-partial"):
        (tree / "dst" / name).write_text("received before a break")
    (line,) = lines(migrate("--check", f"{tree}/src/", tree / "dst"), "warning")
    assert "kept: 1 name, such as below/.gone.sparsesync-partial;" in line


def test_parents_are_made_where_rsync_is_told_to(tree: Path) -> None:
    assert migrate(f"{tree}/src/", tree / "a/b/dst", "--", "--mkpath").returncode == 0
    assert differs(tree / "src", tree / "a/b/dst") == ""


@pytest.mark.slow
def test_an_rsync_somewhere_else(tree: Path) -> None:
    real = shutil.which("rsync")
    (tree / "tools").mkdir()
    os.symlink(str(real), tree / "tools/rsync")
    # Over there nothing is on the PATH but what a shell and Python need.
    (tree / "bin").mkdir()
    for name, program in (("sh", "/bin/sh"), ("python3", os.path.realpath(sys.executable))):
        os.symlink(program, tree / "bin" / name)
    rsh = script(tree / "rsh", f'shift; PATH={tree}/bin; exec /bin/sh -c "$*"')
    where = [f"{tree}/src/", f"far:{tree}/dst"]
    (stop,) = lines(migrate("--check", *where, rsh=rsh), "stop")
    assert stop == "far: rsync is not installed; install it, for instance: apt install rsync"
    done = migrate("--final", "--verify", *where, "--", f"--rsync-path={tree}/tools/rsync", rsh=rsh)
    assert done.returncode == 0 and differs(tree / "src", tree / "dst") == "", done


def test_names_that_an_exclude_file_cannot_carry(tree: Path) -> None:
    for name in ("line\nbreak", "*?[\\", "plain sparse"):
        sparse_file(tree / "src" / name, MIB, [])
    done = migrate("--exclude-sparse", f"{tree}/src/", tree / "dst")
    assert done.returncode == 0 and sorted(os.listdir(tree / "dst")) == ["below", "linked"], done


def test_docker_loop_files_are_skipped_whatever_the_preset(tree: Path) -> None:
    pool = tree / "src/devicemapper/devicemapper"
    pool.mkdir(parents=True)
    sparse_file(pool / "data", MIB, [])
    assert migrate("--preset", "none", "--skip-docker-loop", f"{tree}/src/", tree / "dst").returncode == 0
    assert os.listdir(tree / "dst/devicemapper/devicemapper") == []
    shutil.rmtree(tree / "src/devicemapper")
    told = lines(migrate("--check", "--skip-docker-loop", f"{tree}/src/", tree / "dst2"), "warning")
    assert told == [f"{tree}/dst2: --skip-docker-loop: no devicemapper loop file was found at the source"]


def test_a_destination_with_whole_seconds(tree: Path) -> None:
    """A second run copies nothing again, and what it cannot see is said."""
    (tree / "image").touch()
    os.truncate(tree / "image", 256 * MIB)
    command("mkfs.ext4", "-q", "-F", "-I", "128", tree / "image")
    (tree / "coarse").mkdir()
    command("mount", "-o", "loop", tree / "image", tree / "coarse")
    try:
        os.utime(tree / "src/disk", ns=(0, 1_700_000_000_123_456_789))
        assert migrate("--final", "--verify", f"{tree}/src/", tree / "coarse/dst").returncode == 0
        done = migrate("--check", "--json", f"{tree}/src/", tree / "coarse/dst")
        plan = document(done.stdout)["plan"]
        assert plan["by_extents"]["count"] == plan["by_rsync"]["count"] == 0
        assert "times there are coarse" in done.stdout
    finally:
        command("umount", tree / "coarse")


def test_a_final_pass_costs_what_changed(mounted: Mounted) -> None:
    tree, there = mounted("xfs") / "images", mounted("btrfs")
    tree.mkdir()
    image, track = sparse_file(tree / "disk.img", 8 * MIB, [(0, 4 * MIB)]), tree.parent / "track"
    os.utime(image, ns=(10**18, 10**18))

    def one(*more: str) -> int:
        done = migrate("--json", f"--track={track}", *more, f"{tree}/", f"{there}/")
        assert done.returncode == 0, done.stderr + done.stdout
        (seeded,) = json.loads(done.stdout)["sync"]["seeded"]
        return int(seeded["sent"])

    with open(image, "r+b") as writer:  # it is in use
        one()
        os.pwrite(writer.fileno(), b"changed", MIB)
    assert one("--final", "--verify") == 4096 and not differs(tree, there)
    for wrong in (f"--track={tree}/track", f"--track={image}"):
        done = migrate(wrong, "--final", "--before", f"touch {tree.parent}/x", f"{tree}/", f"{there}/")
        assert done.returncode and not (tree.parent / "x").exists() and done.stderr.count("\n") == 1, done.stderr
