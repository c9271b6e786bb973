"""``sparsesync sync`` to and from another host: through a real sshd, what rsync leaves, except that holes are holes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.filesystems import allocated, filesystem, need, need_tools, same_content, sparse_file
from tests.support.shells import local_shell, old_pythons, script
from tests.support.sshd import Sshd
from tests.support.sync import Synced, difference, make_destination, make_source, snapshot
from tests.support.trees import ODD_NAMES

pytestmark = pytest.mark.ssh

KIB = 1 << 10
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")


@pytest.fixture(scope="module")
def local_rsh(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A remote shell that leads to this machine and needs no login, for what is not about ssh."""
    return local_shell(tmp_path_factory.mktemp("rsh") / "rsh")


def run(*argv: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, timeout=60, env={**os.environ, **environment})
    assert b"Traceback" not in done.stderr, done.stderr
    return done


def sync(rsh: str, *argv: str, cwd: Path, **environment: str) -> Synced:
    return Synced(run(sys.executable, "-m", "sparsesync", "sync", *argv, cwd=cwd, RSYNC_RSH=rsh, **environment))


def seeded(done: Synced) -> list[str]:
    lines = done.told.decode(errors="surrogateescape").splitlines()
    return [line.partition("seeded ")[2].rpartition(": ")[0] for line in lines if line.startswith("sparsesync: seeded")]


CASES: list[tuple[str, str, Sequence[str], Sequence[str], str]] = [
    # direction, earlier destination, options, sources, destination
    ("push", "older", ["-a"], ["src/"], "dst"),
    ("pull", "older", ["-a"], ["src/"], "dst"),
    ("push", "missing", ["-aHAX"], ["src/"], "dst"),
    ("pull", "older", ["-aHAX", "--delete"], ["src/"], "dst"),
    ("push", "in the way", ["-aH"], ["src/"], "dst"),
    ("pull", "in the way", ["-r"], ["src/"], "dst"),
    ("push", "older", ["-rt", "-S"], ["src/"], "dst/"),
    ("push", "older", ["-a", "--inplace"], ["src/"], "dst"),
    ("pull", "older", ["-a", "--inplace", "-z"], ["src/"], "dst"),
    ("push", "older", ["-az", "--backup", "--suffix=.bak"], ["src/"], "dst"),
    ("pull", "empty", ["-aR"], ["src/./a", "src/./top.img"], "dst"),
    ("push", "older", ["-aR"], ["src/./a/b/img", "src/c"], "dst"),
    ("pull", "older", ["-a", "--files-from=list"], ["src"], "dst"),
    ("push", "empty", ["-a", "--files-from=list"], ["src"], "dst"),
    ("push", "older", ["-a", "--remove-source-files"], ["src/"], "dst"),
    ("pull", "empty", ["-a", "--remove-source-files"], ["src/"], "dst"),
    ("push", "older", ["-a", "--partial-dir=.part"], ["src/"], "dst"),
    ("pull", "older", ["-a", "--partial-dir=.part"], ["src/"], "dst"),
    ("push", "older", ["-a", "--chmod=F640"], ["src/"], "dst"),
    ("pull", "missing", ["-au"], ["src/a", "src/top.img"], "dst/"),
    ("push", "missing", ["-a"], ["src/top.img"], "dst"),
    ("pull", "missing", ["-a"], ["src/top.img"], "dst"),
    ("pull", "older", ["-rltD", "--no-t"], ["src/top.img"], "dst/new name"),
    ("push", "empty", ["-a", "--timeout=30", "--bwlimit=100M"], ["src/c"], "dst"),
]


@pytest.mark.parametrize(
    ("direction", "kind", "options", "sources", "destination"), CASES, ids=lambda value: str(value).replace("'", "")
)
def test_leaves_what_rsync_leaves(
    local_rsh: str,
    tmp_path: Path,
    direction: str,
    kind: str,
    options: list[str],
    sources: list[str],
    destination: str,
) -> None:
    results: dict[str, Any] = {}
    outcomes = {}
    since = time.time() - 60
    for who in ("rsync", "sparsesync"):
        place = tmp_path / who
        place.mkdir()
        make_source(place / "src")
        make_destination(place / "dst", kind)
        (place / "list").write_text("a/b/img\nc\ntop.img\n")
        if direction == "push":
            paths = [*sources, f"far:{place}/{destination}"]
        else:
            paths = [*(f"far:{place}/{source}" for source in sources), destination]
        if who == "rsync":
            outcomes[who] = run("rsync", *options, *paths, cwd=place, RSYNC_RSH=local_rsh)
        else:
            outcomes[who] = run(
                sys.executable, "-m", "sparsesync", "sync", *options, "-v", "--seed-verbose", *paths,
                cwd=place, RSYNC_RSH=local_rsh,
            )  # fmt: skip
        top = place / "dst"
        results[who] = snapshot(top, since) if top.is_dir() else snapshot(place, since).get("dst")
        results[who + " source"] = {path: entry[:5] for path, entry in snapshot(place / "src", since).items()}
    assert outcomes["sparsesync"].returncode == outcomes["rsync"].returncode, outcomes
    ours, theirs = results["sparsesync"], results["rsync"]
    assert ours == theirs if not isinstance(ours, dict) else difference(ours, theirs) == {}, outcomes
    assert difference(results["sparsesync source"], results["rsync source"]) == {}
    assert seeded(Synced(outcomes["sparsesync"])) or "--backup" in options, outcomes["sparsesync"]


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["push", "pull"])
def test_through_ssh_with_one_login(sshd_server: Sshd, tmp_path: Path, direction: str) -> None:
    make_source(tmp_path / "src")
    before = sshd_server.logins()
    user = "root@" if direction == "push" else ""
    paths = ["src/", f"{user}far:{tmp_path}/dst/"] if direction == "push" else [f"far:{tmp_path}/src/", "dst/"]
    done = sync(sshd_server.rsh, "-aHAXv", "--seed-verbose", *paths, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sshd_server.logins() == before + 1
    names = seeded(done)
    assert {"a/b/img", "a/disk one", "c/-x", "top.img", "a/hole", "a/zeros"} <= set(names)
    since = time.time() - 60
    assert difference(snapshot(tmp_path / "dst", since), snapshot(tmp_path / "src", since)) == {}
    for name in ("a/b/img", "top.img", "a/hole"):
        assert allocated(tmp_path / "dst" / name) <= allocated(tmp_path / "src" / name)
    # After a touch there is nothing to send, and then nothing to do.
    os.utime(tmp_path / "src/top.img")
    done = sync(sshd_server.rsh, "-aHAXv", "--seed-verbose", *paths, cwd=tmp_path)
    assert b"sparsesync: seeded top.img: 16 KiB of 2 MiB, 0 B sent\n" in done.told
    assert (done.returncode, done.stderr) == (0, b"")
    again = run(
        sys.executable,
        "-m",
        "sparsesync",
        "sync",
        "-e",
        sshd_server.rsh,
        "-aHAX",
        "--seed-verbose",
        *paths,
        cwd=tmp_path,
    )
    assert b"everything is left to rsync: it would transfer no sparse file" in again.stderr
    assert sshd_server.logins() == before + 3


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_odd_names(local_rsh: str, tmp_path: Path, direction: str) -> None:
    every = os.fsdecode(bytes(byte for byte in range(1, 256) if byte != ord("/")))
    names = [*ODD_NAMES, every[:120], every[120:], "\\#012", ".x.sparsesync-partial", "x"]
    for name in names:
        (tmp_path / "src" / name).mkdir(parents=True)
        sparse_file(tmp_path / "src" / name / name, MIB, [(4096, 4096)])
        # rsync takes two times in the same second for the same.
        os.utime(tmp_path / "src" / name, (10**9, 10**9))
    os.utime(tmp_path / "src", (10**9, 10**9))
    far = f"far:{tmp_path}"
    paths = ["src/", f"{far}/dst o'\"s"] if direction == "push" else [f"{far}/src/", "dst o'\"s"]
    done = sync(local_rsh, "-av", "--seed-verbose", *paths, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(seeded(done)) == len(names)
    assert difference(snapshot(tmp_path / "dst o'\"s", time.time()), snapshot(tmp_path / "src", time.time())) == {}


@pytest.mark.parametrize(
    ("direction", "name", "options", "environment"),
    [
        ("push", "a\nb", [], {}),
        ("pull", "a\nb", [], {}),
        ("push", "a $x`id`'\"\\!#&;|<>(){} ~^=", [], {}),
        ("pull", "a $x`id`'\"\\!#&;|<>(){} ~^=", [], {}),
        ("push", "-a", [], {}),
        ("pull", "~", [], {}),
        ("push", "~/x", ["-s", "--mkpath"], {}),
        ("pull", "~/x", ["-R", "--mkpath"], {}),
        ("push", "a\nb\t$x", ["-s"], {}),
        ("push", "link/../x", [], {"RSYNC_PROTECT_ARGS": "1"}),
        ("push", "a b$HOME", ["--old-args"], {}),
        ("pull", "a b$HOME", [], {"RSYNC_OLD_ARGS": "1"}),
    ],
)
def test_a_far_path_is_what_rsync_makes_of_it(
    tmp_path: Path, direction: str, name: str, options: list[str], environment: dict[str, str]
) -> None:
    """Through shells of many kinds, and none: what is there afterwards is what rsync alone would have left."""
    found = []
    for who in ("rsync", "sparsesync"):
        here, home = tmp_path / who / "here", tmp_path / who / "home"
        for directory in (here, home, home / "elsewhere/in"):
            directory.mkdir(parents=True)
        (home / "link").symlink_to("elsewhere/in")
        sources = [here / "src"] if direction == "push" else [home / "src", home / name, home / f"./{name}"]
        if direction == "pull" and name.startswith("~/"):
            sources += [home / name[2:]]
        for number, source in enumerate(sources):
            source.mkdir(parents=True, exist_ok=True)
            sparse_file(source / f"img{number}", MIB, [(0, 4096)])
            os.utime(source, (10**9, 10**9))
        far = f"far:{name}"
        argv = ["-av", *options, *(["src/", far] if direction == "push" else [far, "dst/"])]
        rsh = local_shell(tmp_path / who / "rsh", f"HOME={home}", "export HOME", "cd")
        if who == "rsync":
            done = run("rsync", *argv, cwd=here, RSYNC_RSH=rsh, **environment)
        else:
            done = sync(rsh, *argv, cwd=here, **environment)
        left = {str(path.relative_to(tmp_path / who)) for path in (tmp_path / who).glob("**/*")}
        found.append((done.returncode, left))
    assert found[0] == found[1]


@pytest.mark.parametrize("form", ["far:dst", "far:~/dst", "far:", "[far]:dst", "root@far:./dst"])
def test_forms_of_a_far_path(tmp_path: Path, form: str) -> None:
    """Relative paths are relative to where one logs in."""
    home = tmp_path / "home"
    home.mkdir()
    make_source(tmp_path / "src")
    rsh = local_shell(tmp_path / "rsh", f"HOME={home}", "export HOME", "cd", '[ "$1" = far ] && shift')
    if form.startswith("root@"):
        rsh = local_shell(tmp_path / "rsh", "shift 2", f"HOME={home}", "export HOME", "cd")
    done = sync(rsh, "-av", "--seed-verbose", "src/top.img", form, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b""), done
    assert seeded(done) == ["top.img"]
    made = home / ("top.img" if form == "far:" else "dst")
    assert same_content(tmp_path / "src/top.img", made)
    back = sync(rsh, "-av", "--seed-verbose", form + ("top.img" if form == "far:" else ""), "back", cwd=tmp_path)
    assert seeded(back) == [made.name] and same_content(made, tmp_path / "back")


def test_several_sources_of_one_host(local_rsh: str, tmp_path: Path) -> None:
    make_source(tmp_path / "src")
    done = sync(
        local_rsh, "-av", "--seed-verbose", f"far:{tmp_path}/src/a", f":{tmp_path}/src/top.img", "dst", cwd=tmp_path
    )
    assert done.returncode == 0 and {"a/b/img", "a/disk one", "top.img"} <= set(seeded(done))
    assert same_content(tmp_path / "src/a/b/img", tmp_path / "dst/a/b/img")


def test_a_prefix_before_rsync(local_rsh: str, tmp_path: Path) -> None:
    sparse_file(tmp_path / "img", MIB, [(0, 4096)])
    rsh = local_shell(tmp_path / "rsh", f'echo "far $*" >> {tmp_path}/asked')
    noted = f'sh -c \'echo "$@" >> {tmp_path}/noted; exec "$@"\' sh'
    done = sync(
        rsh, "-av", "--seed-verbose", f"--rsync-path={noted} rsync", "img", f"far:{tmp_path}/made", cwd=tmp_path
    )
    assert (done.returncode, seeded(done)) == (0, ["img"])
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked.count("far sh") == 1
    agent, *rsyncs = (tmp_path / "noted").read_text().splitlines()
    assert agent.endswith("/python3 -c exec(input())") and len(rsyncs) == 2
    assert all(line.startswith("rsync --server ") for line in rsyncs)
    done = sync(rsh, "-av", "--seed-verbose", "--rsync-path=other", "img", f"far:{tmp_path}/made2", cwd=tmp_path)
    assert done.returncode != 0 and b"--rsync-path runs something other than rsync" in done.told


# Trouble


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_without_python_there_rsync_does_it_all(sshd_server: Sshd, tmp_path: Path, direction: str) -> None:
    make_source(tmp_path / "src")
    far = f"far:{tmp_path}"
    paths = ["src/", f"{far}/dst"] if direction == "push" else [f"{far}/src/", "dst"]
    done = sync(sshd_server.rsh, "-a", "--seed-python=/nonexistent", *paths, cwd=tmp_path)
    assert done.returncode == 0
    (said,) = done.stderr.decode().splitlines()
    assert said.startswith("sparsesync: ") and said.endswith(": far: no Python 3.6 or newer was found at /nonexistent")
    assert "holes as data" in said and (direction == "pull" or " sparse files are left to rsync, which may" in said)
    assert difference(snapshot(tmp_path / "dst", time.time()), snapshot(tmp_path / "src", time.time())).keys() <= {
        "a/link3", "c/link1", "c/link2", "top.img", "a/disk one"
    }  # fmt: skip


def test_a_shell_that_prints_something_first(tmp_path: Path) -> None:
    sparse_file(tmp_path / "img", MIB, [(0, 4096)])
    rsh = local_shell(tmp_path / "rsh", "echo 'Welcome, dear user!'")
    done = sync(rsh, "-a", "img", f"far:{tmp_path}/made", cwd=tmp_path)
    first, *_ = done.stderr.decode().splitlines()
    assert first.endswith("a .bashrc or a login banner: 'Welcome, dear user!'") and "far: " in first
    assert first.startswith("sparsesync: 1 sparse file is left to rsync, which may write 1020 KiB of holes as data: ")
    # rsync cannot bear it either: its status is ours.
    assert done.returncode == run("rsync", "-a", "img", "far:made", cwd=tmp_path, RSYNC_RSH=rsh).returncode != 0


def test_a_connection_that_is_refused(sshd_server: Sshd, tmp_path: Path) -> None:
    sparse_file(tmp_path / "img", MIB, [(0, 4096)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        rsh = f"{sshd_server.rsh} -p {free.getsockname()[1]}"
        done = sync(rsh, "-a", "img", f"far:{tmp_path}/made", cwd=tmp_path)
        theirs = run("rsync", "-a", "img", f"far:{tmp_path}/made", cwd=tmp_path, RSYNC_RSH=rsh)
    # rsync's is 12 or 255, as it notices first that it cannot write or that ssh is gone.
    assert done.returncode == 255 and theirs.returncode in (12, 255)
    refused, closed, error = done.stderr.decode().splitlines()
    assert "Connection refused" in refused and closed.startswith("rsync: connection unexpectedly closed ")
    assert error.startswith("rsync error: unexplained error (code 255) ")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_connection_that_breaks(tmp_path: Path, direction: str) -> None:
    """The first time something in the middle lets 20 MB pass and dies; the next run takes up what came."""
    source = tmp_path / "src"
    source.mkdir()
    with open(source / "img", "wb") as file:
        file.truncate(100 * MIB)
        file.write(os.urandom(40 * MIB))
    relay = tmp_path / "relay"
    relay.write_text(f"""if 1:
        import os, subprocess, sys, threading
        if os.path.exists("{tmp_path}/broken"):
            os.execvp("sh", ["sh", "-c", " ".join(sys.argv[2:])])
        far = subprocess.Popen(["sh", "-c", " ".join(sys.argv[2:])], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        def pass_on(source, sink):
            count = 0
            while True:
                data = os.read(source, 65536)
                if not data:
                    os._exit(0)
                os.write(sink, data)
                count += len(data)
                if count > 20_000_000:
                    open("{tmp_path}/broken", "w").close()
                    os._exit(9)
        threading.Thread(target=pass_on, args=(0, far.stdin.fileno()), daemon=True).start()
        pass_on(far.stdout.fileno(), 1)
    """)
    rsh = f"{sys.executable} {relay}"
    far = f"far:{tmp_path}"
    paths = ["src/", f"{far}/dst"] if direction == "push" else [f"{far}/src/", "dst"]
    options = ("-a", f"--seed-python={sys.executable}")
    done = sync(rsh, *options, *paths, cwd=tmp_path)
    assert done.returncode != 0, done
    told = done.stderr.splitlines()
    assert len(told) == 1 and told[0].startswith(b"sparsesync: far: the connection "), done.stderr
    assert wait_for(lambda: os.listdir(tmp_path / "dst") == [".img.sparsesync-partial"])
    done = sync(rsh, *options, "-v", "--seed-verbose", *paths, cwd=tmp_path)
    assert done.returncode == 0 and seeded(done) == ["img"]
    sent = float(done.told.partition(b"of 100 MiB, ")[2].partition(b" MiB sent")[0])
    assert 0 < sent < 25
    assert os.listdir(tmp_path / "dst") == ["img"] and same_content(source / "img", tmp_path / "dst/img")


def wait_for(condition: Any) -> bool:
    """The remote end may notice a little later than this one."""
    for _ in range(400):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_ssh_that_is_killed(sshd_server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with open(tmp_path / "src/img", "wb") as file:
        file.truncate(200 * MIB)
        for _ in range(100):
            file.write(os.urandom(1) * MIB)
    # The pid of the ssh that carries the agent, and no other.
    rsh = script(tmp_path / "ssh-kept", f'echo $$ >> {tmp_path}/pids; exec {sshd_server.rsh} "$@"')
    argv = [sys.executable, "-m", "sparsesync", "sync", "-a", "src/", f"far:{tmp_path}/dst/"]
    process = subprocess.Popen(
        argv, cwd=tmp_path, env={**os.environ, "RSYNC_RSH": rsh}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    partial = tmp_path / "dst/.img.sparsesync-partial"
    assert wait_for(lambda: (partial.exists() and allocated(partial) > 2 * MIB) or process.poll() is not None)
    os.kill(int((tmp_path / "pids").read_text().split()[0]), signal.SIGKILL)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0 and told.startswith(b"sparsesync: far: ") and b"Traceback" not in told
    assert partial.exists() and os.listdir(tmp_path / "dst") == [".img.sparsesync-partial"]
    done = sync(sshd_server.rsh, "-av", "--seed-verbose", "src/", f"far:{tmp_path}/dst/", cwd=tmp_path)
    assert (done.returncode, seeded(done)) == (0, ["img"])
    assert os.listdir(tmp_path / "dst") == ["img"] and same_content(tmp_path / "src/img", tmp_path / "dst/img")


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_too_small_a_destination_is_refused_before_anything_is_written(
    local_rsh: str, tmp_path: Path, direction: str
) -> None:
    (tmp_path / "src").mkdir()
    with open(tmp_path / "src/img", "wb") as file:
        file.truncate(1 << 30)
        file.write(b"x" * (40 * MIB))
    (tmp_path / "src/plain").write_bytes(b"plain")
    with filesystem("ext4", tmp_path / "fs", "32M") as small:
        (small / "img").write_bytes(b"old")
        paths = ["src/", f"far:{small}/"] if direction == "push" else [f"far:{tmp_path}/src/", f"{small}/"]
        done = sync(local_rsh, "-a", *paths, cwd=tmp_path)
        assert done.returncode == 11
        assert done.stderr.count(b"\n") == 1
        assert b"40 MiB are needed" in done.stderr and b"are free" in done.stderr
        assert (f"far:{small}" if direction == "push" else f"{small}").encode() in done.stderr
        assert (small / "img").read_bytes() == b"old" and sorted(os.listdir(small)) == ["img", "lost+found"]
        done = sync(local_rsh, "-a", "--seed-no-space-check", *paths, cwd=tmp_path)
        assert done.returncode == 11 and b"Traceback" not in done.stderr
        assert (small / "img").read_bytes() == b"old"


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_no_symlink_is_followed_below_the_destination(local_rsh: str, tmp_path: Path, direction: str) -> None:
    make_source(tmp_path / "src")
    (tmp_path / "outside").mkdir()
    (tmp_path / "dst").mkdir()
    (tmp_path / "dst/c").symlink_to(tmp_path / "outside")
    far = f"far:{tmp_path}"
    paths = ["src/", f"{far}/dst/"] if direction == "push" else [f"{far}/src/", "dst/"]
    done = sync(local_rsh, "-av", "--seed-verbose", *paths, cwd=tmp_path)
    said, *healed = done.stderr.splitlines()
    assert len(healed) == 4 and all(b" made holes again in c/" in line for line in healed)
    assert done.returncode == 0 and said.startswith(b"sparsesync: 4 sparse files are left to rsync, which writes ")
    assert b"sparsesync: left to rsync: c/-x: c at the destination is not a directory\n" in done.told
    assert os.listdir(tmp_path / "outside") == [] and not (tmp_path / "dst/c").is_symlink()


def test_v_says_what_is_done_and_why_not(local_rsh: str, tmp_path: Path) -> None:
    make_source(tmp_path / "src")
    far = f"far:{tmp_path}/dst/"
    said = sync(local_rsh, "-av", "--seed-verbose", "src/", far, cwd=tmp_path).told.decode(errors="surrogateescape")
    assert "sparsesync: seeded a/b/img: 16 KiB of 2 MiB, 16 KiB sent\n" in said
    assert "sparsesync: seeded a/hole: 0 B of 2 MiB, 0 B sent\n" in said
    assert sync(local_rsh, "-a", "src/", f"far:{tmp_path}/dst2/", cwd=tmp_path).stdout == b""
    for options, reason in (
        (["--append"], "--append is given"),
        (["--seed-off"], "--seed-off is given"),
        (["--seed-min-hole=1G"], "there are no sparse files"),
    ):
        said = sync(
            local_rsh, "-av", "--seed-verbose", *options, "src/", f"far:{tmp_path}/dst3/", cwd=tmp_path
        ).told.decode("latin-1")
        assert f"sparsesync: everything is left to rsync: {reason}" in said
    said = sync(local_rsh, "-av", "--seed-verbose", f"far:{tmp_path}/s*/", "dst4/", cwd=tmp_path).told.decode("latin-1")
    assert "wildcards are for the remote host's shell" in said
    said = sync(
        local_rsh, "-av", "--seed-verbose", f"other:{tmp_path}/src/", f"far:{tmp_path}/src/", "d/", cwd=tmp_path
    ).told.decode()
    assert "more than one other host is named" in said


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_dry_run_writes_nothing(local_rsh: str, tmp_path: Path, direction: str) -> None:
    make_source(tmp_path / "src")
    far = f"far:{tmp_path}"
    paths = ["src/", f"{far}/dst"] if direction == "push" else [f"{far}/src/", "dst"]
    done = sync(local_rsh, "-an", "--seed-verbose", *paths, cwd=tmp_path)
    assert b"would seed a/b/img: 16 KiB of 2 MiB\n" in done.told and not (tmp_path / "dst").exists()


def test_a_far_end_that_falls_silent(tmp_path: Path) -> None:
    """--timeout: the agent stops in the middle of a transfer, and does not come back."""
    (tmp_path / "src").mkdir()
    with open(tmp_path / "src/img", "wb") as file:
        file.truncate(1 << 30)
        file.write(os.urandom(20 * MIB))
    relay = tmp_path / "relay"
    relay.write_text("""if 1:
        import os, signal, subprocess, sys, threading, time
        far = subprocess.Popen(
            ["sh", "-c", " ".join(sys.argv[2:])], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        def pass_on(source, sink):
            count = 0
            while count < 5_000_000:
                data = os.read(source, 65536)
                if not data:
                    os._exit(far.wait())
                os.write(sink, data)
                count += len(data)
            os.killpg(far.pid, signal.SIGSTOP)
            time.sleep(1.5)
            os.killpg(far.pid, signal.SIGKILL)
        threading.Thread(target=pass_on, args=(far.stdout.fileno(), 1), daemon=True).start()
        pass_on(0, far.stdin.fileno())
    """)
    options = ("-a", "--timeout=1", f"--seed-python={sys.executable}")
    done = sync(f"{sys.executable} {relay}", *options, "src/", f"far:{tmp_path}/dst", cwd=tmp_path)
    assert done.returncode != 0
    first = done.stderr.splitlines()[0]
    assert first.startswith(b"sparsesync: far: nothing was heard for 1 seconds; what was received is kept")


@pytest.mark.slow
def test_a_disk_that_takes_long_to_flush_is_waited_for(tmp_path: Path) -> None:
    """A backup is not to end because a flush takes longer than --timeout: the host is alive, and will get on."""
    need_tools("strace")
    for name in ("src", "dst"):
        (tmp_path / name).mkdir()
    sparse_file(tmp_path / "src/f", MIB, [(0, 4 * KIB)])
    slow = "strace -f --seccomp-bpf -o /dev/null -e trace=fsync -e inject=fsync:delay_enter=1600000"
    rsh = script(tmp_path / "rsh", f'shift; case "$*" in sh) exec {slow} sh -c "$*";; *) exec sh -c "$*";; esac')
    done = sync(rsh, "-av", "--seed-verbose", "--fsync", "--timeout=1", "src/", f"far:{tmp_path}/dst", cwd=tmp_path)
    assert (done.returncode, done.stderr, seeded(done)) == (0, b"", ["f"])


def counting_relay(tmp_path: Path) -> Path:
    """A remote shell that delays, and counts trips: what is sent after something came may be an answer to it.

    ``trips`` is how many there were on the agent's connection, ``first`` how many when MARK came by.
    """
    relay = tmp_path / "relay"
    relay.write_text(f"""if 1:
        import os, queue, subprocess, sys, threading, time
        far = subprocess.Popen(["sh", "-c", " ".join(sys.argv[2:])], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        trips, lock = {{1: 0, far.stdin.fileno(): 0}}, threading.Lock()
        first = []
        agent = sys.argv[2].split()[0] == "sh"
        def pass_on(source, sink, back):
            waiting = queue.Queue()
            def late():
                while True:
                    due, trip, data = waiting.get()
                    time.sleep(max(0, due - time.monotonic()))
                    if not data:
                        os.close(sink)
                        return
                    with lock:
                        trips[sink] = max(trips[sink], trip)
                        if b"MARK" * 3 in data:
                            first.append(trip)
                    while data:
                        data = data[os.write(sink, data):]
            thread = threading.Thread(target=late, daemon=True)
            thread.start()
            while True:
                data = os.read(source, 1 << 20)
                with lock:
                    trip = trips[back] + 1  # one more than what has been heard over there
                waiting.put((time.monotonic() + 0.05, trip, data))
                if not data:
                    return thread
        threading.Thread(target=lambda: pass_on(0, far.stdin.fileno(), 1), daemon=True).start()
        pass_on(far.stdout.fileno(), 1, far.stdin.fileno()).join()
        if agent:
            open("{tmp_path}/trips", "w").write(str(max(trips.values())))
            open("{tmp_path}/first", "w").write(str(min(first or [0])))
    """)
    return relay


@pytest.mark.slow
def test_a_thousand_files_take_few_round_trips(tmp_path: Path) -> None:
    names = [f"d{n % 10}/f{n}" for n in range(1000)]
    for name in names:
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        sparse_file(tmp_path / "src" / name, MIB, [(0, 8 * KIB)])
    relay = counting_relay(tmp_path)

    def trips() -> int:
        counted = int((tmp_path / "trips").read_text())
        (tmp_path / "trips").unlink()
        return counted

    rsh = f"{sys.executable} {relay}"
    far = f"far:{tmp_path}"
    python = f"--seed-python={sys.executable}"
    for paths in (["src/", f"{far}/pushed"], [f"{far}/src/", "pulled"]):
        done = sync(rsh, "-a", "--seed-verbose", python, *paths, cwd=tmp_path)
        assert done.returncode == 0 and len(seeded(done)) == 1000
        assert trips() < 300
    # And with a basis that differs.
    for name in names[:300]:
        with open(tmp_path / "src" / name, "r+b") as file:
            file.write(b"!")
    done = sync(rsh, "-a", "--seed-verbose", python, "src/", f"{far}/pushed", cwd=tmp_path)
    assert done.returncode == 0 and len(seeded(done)) == 300
    assert trips() < 300
    assert all(same_content(tmp_path / "src" / name, tmp_path / "pushed" / name) for name in names[290:310])


@pytest.mark.parametrize(
    ("paths", "trips"),
    # There and back is one; the first is the start of the agent.
    [
        (["src/", "far:{}/dst"], 7),
        (["far:{}/src/", "dst"], 6),
        (["far:{}/src/f", "dst"], 6),
        (["src/f", "far:{}/dst"], 7),
    ],
    ids=["push", "pull", "pull a file", "push a file"],
)
def test_three_round_trips_before_the_first_byte(tmp_path: Path, paths: list[str], trips: int) -> None:
    (tmp_path / "src").mkdir()
    with open(tmp_path / "src/f", "wb") as file:
        file.write(b"MARK" * 1024)
        file.truncate(MIB)
    # Another remote shell than ssh costs one more.
    relay = f'[ "$1" = -G ] && exit 1; exec {sys.executable} {counting_relay(tmp_path)} "$@"'
    rsh = script(tmp_path / "ssh", relay)
    given = [path.format(tmp_path) for path in paths]
    done = sync(rsh, "-a", "--seed-verbose", f"--seed-python={sys.executable}", *given, cwd=tmp_path)
    assert done.returncode == 0 and seeded(done) == ["f"]
    assert 0 < int((tmp_path / "first").read_text()) <= trips


def test_a_destination_that_is_left_to_rsync(tmp_path: Path) -> None:
    """What was asked of it in the same breath is no trouble, and the agent goes on."""
    (tmp_path / "src").mkdir()
    sparse_file(tmp_path / "src/f", MIB, [(0, 4 * KIB)])
    rsh = local_shell(tmp_path / "rsh")
    done = sync(rsh, "-aR", "src/./f", f"far:{tmp_path}/new", cwd=tmp_path)
    reason = b"whether the destination will be a file or a directory is for rsync to decide"
    assert done.returncode == 0 and done.stderr.count(b"\n") == 1 and done.stderr.endswith(reason + b"\n"), done


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_where_nothing_is_to_be_done_nothing_is_left_open(tmp_path: Path, direction: str) -> None:
    """The agent ends by itself, as the connection does, and is not ended by a signal."""
    (tmp_path / "src").mkdir()
    for name in "fg":
        sparse_file(tmp_path / "src" / name, MIB, [(0, 4 * KIB)])
    for number in range(250):  # a small tree is not worth a question
        (tmp_path / "src" / str(number)).mkdir()
    rsh = script(tmp_path / "rsh", f'shift; sh -c "$*"; echo $? >>{tmp_path}/ended')
    paths = ["src/", f"far:{tmp_path}/dst"] if direction == "push" else [f"far:{tmp_path}/src/", "dst"]

    def started() -> int:
        assert sync(rsh, "-a", *paths, cwd=tmp_path).returncode == 0
        ended = (tmp_path / "ended").read_text().split()
        os.unlink(tmp_path / "ended")
        assert set(ended) == {"0"}
        return len(ended)

    assert started() == 3  # the agent, rsync's dry run and rsync itself
    assert started() == (2 if direction == "push" else 3)  # of a push the agent says that there is nothing to ask
    # Equal in all but its holes, it is not as it is to be.
    (tmp_path / "dst/g").write_bytes((tmp_path / "dst/g").read_bytes())
    os.utime(tmp_path / "dst/g", ns=(0, os.stat(tmp_path / "src/g").st_mtime_ns))
    assert started() == 3 and allocated(tmp_path / "dst/g") <= allocated(tmp_path / "src/g")


@pytest.mark.slow
@pytest.mark.parametrize("python", old_pythons() or [None])
def test_an_old_python_there(tmp_path: Path, python: str | None) -> None:
    if python is None:
        pytest.skip("there is no Python 3.6 to 3.8 to try")
    rsh = local_shell(tmp_path / "rsh", "unset LANG PYTHONUTF8", "export LC_ALL=C")
    make_source(tmp_path / "src")
    options = ("-av", "--seed-verbose", "--inplace", "-z", f"--seed-python={python}")
    for paths in (["src/", f"far:{tmp_path}/pushed"], [f"far:{tmp_path}/pushed/", "pulled"]):
        done = sync(rsh, *options, *paths, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        assert len(seeded(done)) == 10
    for name in ("a/b/img", "top.img"):
        with open(tmp_path / "src" / name, "r+b") as file:
            file.write(b"!" * 5)
    assert len(seeded(sync(rsh, *options, "src/", f"far:{tmp_path}/pushed", cwd=tmp_path))) == 2
    names = [path.relative_to(tmp_path / "src") for path in (tmp_path / "src").rglob("*") if path.is_file()]
    assert all(same_content(tmp_path / "src" / name, tmp_path / "pushed" / name) for name in names)
