"""How a host is reached: one login for all, what is said where there is none, and remote shells of other kinds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sparsesync.hosts import sharing
from tests.support.filesystems import allocated, command, filesystem, need_root, need_tools, same_content, sparse_file
from tests.support.shells import STAND_INS, script
from tests.support.sshd import Sshd, sshd
from tests.support.sync import sparse

pytestmark = pytest.mark.ssh


@pytest.fixture
def place(tmp_path: Path) -> Path:
    need_tools("rsync")
    (tmp_path / "src").mkdir()
    sparse(tmp_path / "src/img")
    (tmp_path / "src/plain").write_text("plain")
    return tmp_path


def run(place: Path, *argv: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, **environment}
    done = subprocess.run(argv, cwd=place, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert b"Traceback" not in done.stderr, done.stderr
    return done


def ours(place: Path, rsh: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return run(place, sys.executable, "-m", "sparsesync", *argv, RSYNC_RSH=rsh, **environment)


def is_copied(place: Path, seeded: bool = True) -> bool:
    copied = all(same_content(place / "src" / name, place / "dst" / name) for name in ("img", "plain"))
    return copied and (allocated(place / "dst/img") <= allocated(place / "src/img")) == seeded


@pytest.fixture(params=["joined", "as they are"])
def other_shell(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A remote shell that is not ssh: its words are taken apart over there, or are started as they are."""
    exact = {"joined": 'exec sh -c "$*"', "as they are": 'exec "$@"'}[request.param]
    pythons = os.path.dirname(os.path.realpath(sys.executable))
    return script(tmp_path / "exec", f"shift; PATH={pythons}:$PATH; {exact}")


def test_sync_by_another_shell_than_ssh(place: Path, other_shell: str) -> None:
    far = f"box:{place}"
    for paths in (["src/", f"{far}/dst/"], [f"{far}/src/", "dst/"]):
        shutil.rmtree(place / "dst", ignore_errors=True)
        done = ours(place, other_shell, "sync", "-a", *paths)
        assert (done.returncode, done.stderr) == (0, b"") and is_copied(place)
    argv = ["--qsort", "src/", f"{far}/dst/"]
    talks = script(place / "talks", f'seq 3000 >&2; exec {other_shell} "$@"')
    for shell in (other_shell, talks):
        theirs = run(place, "rsync", "-a", *argv, RSYNC_RSH=shell)
        done = ours(place, shell, "sync", "-a", *argv)
        assert theirs.returncode and (done.returncode, done.stderr) == (theirs.returncode, theirs.stderr)


@pytest.mark.parametrize("other_shell", ["as they are"], indirect=True)
def test_every_command_by_a_shell_that_starts_words_as_they_are(place: Path, other_shell: str) -> None:
    far = f"box:{place}"
    for argv, said in (
        (["copy", "-q", "src/img", f"{far}/copied"], b""),
        (["copy", "-q", f"{far}/src/img", "back"], b""),
        (["verify", "-q", "src", f"{far}/src"], b""),
        (["scan", "-0", f"{far}/src"], f"{far}/src/img\0".encode()),
        (["map", "--format", "qemu", f"{far}/src/img"], None),
        (["exclude", f"{far}/src/"], None),
        (["migrate", "-q", "-n", "src/", f"{far}/moved"], None),
    ):
        done = ours(place, other_shell, *argv)
        assert done.returncode == 0 and done.stderr == b"" and said in (None, done.stdout), done
    assert same_content(place / "src/img", place / "copied") and same_content(place / "src/img", place / "back")


def documented(program: str, name: str, place: Path) -> tuple[str, str]:
    """Return what the documentation gives to ``-e`` for a program, and the host. ``name``: what stands for one."""
    text = (Path(__file__).parents[2] / "docs/commands.md").read_text()
    line = re.search(rf"-e '({program} .*)' src/ ([A-Za-z]+):/dst/", text)
    if line is not None:
        return re.sub("PID|USER", name, line[1]), name if line[2].isupper() else line[2]
    words = re.search(rf"{program} [^`\n]*\"\$name\"[^`\n]*", text)
    assert words is not None
    return script(place / "by", f"name=$1; shift; exec {words[0]}"), name


def works(place: Path, rsh: str, host: str, there: Path) -> None:
    """Push, pull and scan, below a directory that the other side may write to."""
    theirs = run(place, "rsync", "-a", "src/", f"{host}:{there}/ref/", RSYNC_RSH=rsh)
    assert theirs.returncode == 0, theirs
    for ends in (["src/", f"{host}:{there}/dst/"], [f"{host}:{there}/dst/", "dst/"]):
        done = ours(place, rsh, "sync", "-a", *ends)
        assert (done.returncode, done.stderr) == (0, theirs.stderr), done
    assert is_copied(place)
    done = ours(place, rsh, "scan", "-0", f"{host}:{there}/dst")
    assert (done.stdout, done.stderr) == (f"{host}:{there}/dst/img\0".encode(), theirs.stderr), done


@pytest.mark.parametrize(
    "program", ["kubectl", *(pytest.param(each, marks=pytest.mark.slow) for each in ("docker", "lxc", "incus"))]
)
def test_containers_by_the_documented_lines(place: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    (place / "bin").mkdir()
    script(place / "bin" / program, STAND_INS["lxc" if program == "incus" else program])
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    (place / "there").mkdir()
    works(place, *documented(program, "box", place), place / "there")


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory for everybody; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="s") as folder:
        os.chmod(folder, 0o1777)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["sudo", "su", "nsenter", "ip"])
def test_other_users_and_namespaces_by_the_documented_lines(place: Path, open_place: Path, program: str) -> None:
    need_tools(program, "unshare")
    need_root("becomes others")
    if program in ("sudo", "su"):
        works(place, *documented(program, "nobody", place), open_place)
        assert (open_place / "dst/img").stat().st_uid == 65534
    elif program == "ip":
        name = f"sparsesync{os.getpid()}"
        command("ip", "netns", "add", name)
        try:
            works(place, *documented(program, name, place), open_place)
        finally:
            command("ip", "netns", "del", name)
    else:
        mounts = f"mount -t tmpfs none {open_place}; echo; exec sleep 300"
        inside = subprocess.Popen(["unshare", "-m", "sh", "-c", mounts], stdout=subprocess.PIPE)
        try:
            assert inside.stdout is not None and inside.stdout.readline() == b"\n"
            works(place, *documented(program, str(inside.pid), place), open_place)
            assert os.listdir(open_place) == []
        finally:
            inside.kill()
            inside.communicate()


def test_what_is_wrong_by_another_shell_than_ssh(place: Path, other_shell: str) -> None:
    done = ours(place, other_shell, "scan", "--python=/no/python", f"box:{place}/src")
    assert done.stderr == b"sparsesync: box: no Python 3.6 or newer was found at /no/python\n"
    for shell, why in (
        (script(place / "sad", "echo 'no such container' >&2; exit 1"), b"box: no agent could be started: "),
        (script(place / "chatty", "echo 'Welcome!'; sh"), b"perhaps a .bashrc or a login banner: 'Welcome!'"),
        # Its Python goes on when it is to end.
        (
            script(place / "deaf", "trap '' TERM; echo 'Welcome!'; sh"),
            b"perhaps a .bashrc or a login banner: 'Welcome!'",
        ),
        (
            script(place / "forced", "exec rsync --server -logDtpre.iLsfxCIvu . dst"),
            b"a forced command there runs rsync",
        ),
    ):
        done = ours(place, shell, "scan", f"box:{place}/src")
        assert done.returncode == 1 and why in done.stderr, done


# One login.


@pytest.fixture(scope="module")
def one_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd") / "server", server="MaxSessions 1") as running:
        yield running


@pytest.mark.parametrize(
    ("way", "options", "before_ssh", "more"),
    [("push", ["-r"], "", " -v"), ("pull", ["-a"], "env 'WORD=of ssh' ", "")],
)
def test_one_login_where_one_session_at_a_time_is_allowed(
    one_session: Sshd, place: Path, way: str, options: list[str], before_ssh: str, more: str
) -> None:
    before = one_session.logins()
    ends = ["src/", f"far:{place}/dst/"] if way == "push" else [f"far:{place}/src/", "dst/"]
    done = ours(place, before_ssh + one_session.rsh + more, "sync", *options, *ends)
    assert done.returncode == 0 and (more or not done.stderr) and is_copied(place)
    assert one_session.logins() == before + 1
    assert "-r" not in options or (place / "dst/img").stat().st_mtime > (place / "src/img").stat().st_mtime


@pytest.mark.parametrize("most", [1, 2])
def test_one_login_and_two_sessions_where_nothing_is_to_be_done(tmp_path: Path, place: Path, most: int) -> None:
    """The agent and rsync, side by side where the server allows that; whether it does is asked without a command."""
    for number in range(100):  # a small tree is not worth a question
        sparse_file(place / f"src/{number}", 1 << 20, [(0, 4096)])
    subprocess.run(["cp", "-a", "--sparse=always", "src", "dst"], cwd=place, check=True)
    with sshd(tmp_path / "server", server=f"MaxSessions {most}") as server:
        done = ours(place, server.rsh, "sync", "-a", "src/", f"far:{place}/dst/")
        log = (server.directory / "log").read_text()
        assert (done.returncode, done.stderr, server.logins()) == (0, b"", 1)
        assert log.count("Starting session: command") == 2, log


@pytest.mark.parametrize(("to", "status"), [("no/such/dst/", 11), pytest.param("file", 3, marks=pytest.mark.slow)])
def test_one_login_where_the_destination_is_refused(one_session: Sshd, place: Path, to: str, status: int) -> None:
    before = one_session.logins()
    (place / "file").write_text("in the way")
    done = ours(place, one_session.rsh, "sync", "-a", "src/", f"far:{place}/{to}")
    assert done.returncode == status and sharing.REFUSED_SESSION not in done.stderr, done
    assert one_session.logins() == before + 1


@pytest.mark.parametrize("way", ["push", "pull"])
def test_one_login_where_there_is_no_python(one_session: Sshd, place: Path, way: str) -> None:
    before = one_session.logins()
    ends = ["src/", f"far:{place}/dst/"] if way == "push" else [f"far:{place}/src/", "dst/"]
    done = ours(place, one_session.rsh, "sync", "-a", "--seed-python=/no/python", *ends)
    assert done.returncode == 0 and done.stderr.endswith(b": far: no Python 3.6 or newer was found at /no/python\n")
    assert is_copied(place, seeded=False) and one_session.logins() == before + 1


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_refused_login_is_told_by_rsync_and_tried_once(sshd_server: Sshd, place: Path, way: str) -> None:
    log = place / "log"
    real = shutil.which("ssh")
    noted = f'case " $* " in *" -G "*) ;; *) echo >> {log};; esac; exec {real} "$@"'
    rsh = script(place / "ssh", noted) + sshd_server.rsh[len("ssh") :]
    rsh += " -o PubkeyAuthentication=no"
    ends = ["src/", f"far:{place}/dst/"] if way == "push" else [f"far:{place}/src/", "dst/"]
    theirs = run(place, "rsync", "-a", *ends, RSYNC_RSH=rsh)
    assert b"Permission denied" in theirs.stderr
    log.unlink()
    done = ours(place, rsh, "sync", "-a", *ends)
    said = theirs.stderr.replace(b"\r", b"")
    # Which of the two statuses rsync has, and says, is a race between ssh and rsync.
    said = said.replace(b"error in rsync protocol data stream (code 12)", b"unexplained error (code 255)")
    assert (done.returncode, done.stdout, done.stderr) == (255, b"", said)
    assert log.read_text() == "\n" and not (place / "dst").exists()


@pytest.mark.parametrize(
    ("option", "way"), [("--qsort", "push"), ("--files-from=:/not/there", "pull"), ("--seed-python=/no/python", "push")]
)
def test_what_goes_wrong_over_there_is_told_by_rsync_alone(
    sshd_server: Sshd, place: Path, option: str, way: str
) -> None:
    ends = ["src/", f"far:{place}/dst/"] if way == "push" else [f"far:{place}/src/", "dst/"]
    said = []
    for program in (["rsync"], [sys.executable, "-m", "sparsesync", "sync"]):
        shutil.rmtree(place / "dst", ignore_errors=True)
        before = sshd_server.logins()
        options = [option] if option[2:6] != "seed" or program[0] != "rsync" else []
        done = run(place, *program, "-avv", *options, *ends, RSYNC_RSH=sshd_server.rsh)
        opened = [line for line in done.stdout.splitlines() if line.startswith(b"opening ")]
        said.append((done.returncode, opened, [] if "seed" in option else done.stderr.splitlines()))
        assert sshd_server.logins() == before + 1
    assert said[0] == said[1] and len(said[0][1]) == 1


def test_holes_are_not_lost_silently_where_rsync_over_there_begins_late(sshd_server: Sshd, place: Path) -> None:
    """It ends before its first word when it is asked, and not when it runs: out of memory, for a moment."""
    (place / "bin").mkdir()
    real = shutil.which("rsync")
    script(place / "bin/rsync", f'test -e {place}/asked || {{ touch {place}/asked; exit 1; }}; exec {real} "$@"')
    late = f"env PATH={place}/bin:{os.environ['PATH']} rsync"
    argv = [sys.executable, "-m", "sparsesync", "sync", "-a", f"--rsync-path={late}", "src/", f"far:{place}/dst/"]
    done = run(place, *argv, RSYNC_RSH=sshd_server.rsh)
    assert (done.returncode, (place / "dst").exists()) == (0, True)
    assert b"left to rsync" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("how", "by"),
    [
        ("rrsync", "ssh"),
        ("rsync", "a wrapper"),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("rrsync", "a wrapper"), ("rsync", "ssh"))),
    ],
)
def test_a_forced_command_that_allows_only_rsync(tmp_path: Path, place: Path, how: str, by: str) -> None:
    server = "rsync --server -logDtpre.iLsfxCIvu . ."
    if how == "rrsync":
        need_tools("rrsync")
        server = f"{shutil.which('rrsync')} /"
    (place / "dst").mkdir()
    with sshd(tmp_path / "server", server=f"ForceCommand cd {place}/dst && {server}") as running:
        rsh = running.rsh if by == "ssh" else script(tmp_path / "wrapper", f'exec {running.rsh} "$@"')
        done = ours(place, rsh, "sync", "-a", "src/", f"far:{place}/dst/")
        assert done.returncode == 0 and is_copied(place, seeded=False), done
        assert running.logins() == (1 if by == "ssh" else 2)
        (line,) = done.stderr.splitlines()
        assert line.endswith(b"far: a forced command there runs rsync, whatever is asked for, and lets no agent start")


@pytest.mark.parametrize("by", ["ssh", "a wrapper", pytest.param("ssh by turns", marks=pytest.mark.slow)])
def test_what_the_remote_shell_says_is_told_as_often_as_by_rsync(tmp_path: Path, place: Path, by: str) -> None:
    greets = script(tmp_path / "greets", 'echo "Good \033[1mday" >&2; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    (tmp_path / "banner").write_text("Authorized users only\n")
    server = f"Banner {tmp_path}/banner\nForceCommand {greets}\nMaxSessions {1 if by == 'ssh by turns' else 10}"
    with sshd(tmp_path / "server", server=server) as running:
        rsh = running.rsh if by != "a wrapper" else script(tmp_path / "wrapper", f'exec {running.rsh} "$@"')
        theirs = run(place, "rsync", "-a", "src/", f"far:{place}/ref/", RSYNC_RSH=rsh)
        assert theirs.stderr.replace(b"\r", b"").startswith(b"Authorized users only\nGood ")
        for python, seeded in (("--seed-verbose", True), ("--seed-python=/no/python", False)):
            shutil.rmtree(place / "dst", ignore_errors=True)
            done = ours(place, rsh, "sync", "-a", python, "src/", f"far:{place}/dst/")
            assert done.returncode == 0 and is_copied(place, seeded)
            lines = [line for line in done.stderr.splitlines() if not line.startswith(b"sparsesync: ")]
            assert sorted(lines) == sorted(theirs.stderr.splitlines()), (python, done)
        done = ours(place, rsh, "scan", "-0", f"far:{place}/src")
        assert done.stderr == b"Authorized users only\nGood \\#033[1mday\n"


# By sudo.


@pytest.fixture
def deploy(tmp_path: Path) -> Callable[..., str]:
    """Gives a remote shell that leads to an account which may do as root what is said in sudoers(5).

    ``first``: searched first for programs.
    """
    need_tools("sudo", "unshare", "setpriv")
    need_root("mounts another sudoers")
    (tmp_path / "sudoers.d").mkdir()

    def shell(rule: str, first: str = "/usr/bin") -> str:
        sudoers = tmp_path / "sudoers"
        sudoers.write_text(f"Defaults secure_path=/usr/bin:/bin\nroot ALL=(ALL) ALL\n{rule}")
        sudoers.chmod(0o440)
        bind = f"mount --bind {sudoers} /etc/sudoers; mount --bind {tmp_path}/sudoers.d /etc/sudoers.d; cd /"
        user = f'PATH={first}:/usr/bin:/bin exec setpriv --reuid 65534 --clear-groups sh -c "$*"'
        return script(tmp_path / "deploy", f"shift; exec unshare -m sh -c '{bind}; {user}' sh \"$@\"")

    return shell


def the_rule() -> str:
    """The rule of the documentation, for the account of the tests."""
    text = (Path(__file__).parents[2] / "docs/commands.md").read_text()
    (rule,) = re.findall(r"^deploy ALL=.*\n", text, re.MULTILINE)
    return str(rule).replace("deploy", "nobody")


def test_as_root_over_there_by_the_documented_rule(place: Path, deploy: Callable[..., str]) -> None:
    rsh = deploy(the_rule())
    place.chmod(0o700)
    far = f"far:{place}"
    done = ours(place, rsh, "sync", "-a", "--rsync-path=sudo rsync", "src/", f"{far}/dst/")
    assert (done.returncode, done.stderr) == (0, b"") and is_copied(place)
    for argv in (
        ["copy", "-q", "src/img", f"{far}/copied"],
        ["verify", "-q", "src", f"{far}/dst"],
        ["exclude", f"{far}/src/"],
        ["migrate", "-q", "-n", "src/", f"{far}/moved"],
    ):
        done = ours(place, rsh, argv[0], "--remote-prefix=sudo", *argv[1:])
        assert (done.returncode, done.stderr) == (0, b""), done
    assert ours(place, rsh, "scan", f"{far}/src").returncode != 0


def test_what_sudo_has_to_allow_is_said(
    place: Path, request: pytest.FixtureRequest, deploy: Callable[..., str]
) -> None:
    another = tempfile.mkdtemp(prefix="s")  # pytest's own directories are closed to others
    request.addfinalizer(lambda: shutil.rmtree(another))
    os.chmod(another, 0o755)
    tried = script(Path(another) / "python3", 'exec /usr/bin/python3 "$@"')
    rsh = deploy("nobody ALL=(root) NOPASSWD: /usr/bin/rsync\n", another)
    allow = f"far: no agent could be started: 'sudo' has to be allowed to run {tried} -c exec(input()) ".encode()
    done = ours(place, rsh, "sync", "-a", "--rsync-path=sudo rsync", "src/", f"far:{place}/dst/")
    assert done.returncode == 0 and is_copied(place, seeded=False) and allow in done.stderr.splitlines()[-1]
    done = ours(place, rsh, "scan", "--remote-prefix=sudo", f"far:{place}/src")
    assert done.returncode == 1 and allow in done.stderr.splitlines()[-1]


# What a socket needs.


def test_where_a_socket_can_be_made(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    usable = Path(tempfile.mkdtemp(prefix="s"))  # pytest's own directories may be too long for a socket
    request.addfinalizer(lambda: shutil.rmtree(usable))
    monkeypatch.setattr(sharing, "_PLACES", [str(usable)])
    long, odd = tmp_path / ("x" * 100), tmp_path / "a b"
    for folder in (long, odd):
        folder.mkdir()
    with filesystem("tmpfs", tmp_path / "full", "1M") as full:
        command("mount", "-o", "remount,nr_inodes=1", full)
        for unfit in (long, odd, full, tmp_path / "missing"):
            found = sharing._folder({"TMPDIR": str(unfit)})
            assert found is not None and Path(found).parent == usable
            assert not unfit.exists() or os.listdir(unfit) == []
        command("mount", "-o", "remount,ro", full)
        monkeypatch.setattr(sharing, "_PLACES", [str(full), str(long)])
        assert sharing._folder({}) is None


def test_a_jump_host_in_the_remote_shell_s_command(sshd_server: Sshd, place: Path) -> None:
    before = sshd_server.logins()
    done = ours(place, f"{sshd_server.rsh} -4J jump", "sync", "-a", "src/", f"far:{place}/dst/")
    assert (done.returncode, done.stderr) == (0, b"") and is_copied(place)
    assert sshd_server.logins() == before + 2


def test_without_a_socket_each_logs_in(sshd_server: Sshd, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_PLACES", [])
    monkeypatch.delenv("TMPDIR", raising=False)
    with sharing.sharing(sshd_server.rsh.split(), ["far"], True) as shared:
        assert shared.control == [] and "ControlMaster=yes" not in shared.login
