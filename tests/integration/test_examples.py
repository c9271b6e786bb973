"""The worked examples of the README and of docs/, run as they stand.

Each fenced block of ``sh`` or ``python`` is an example, and has to end with status 0; what cannot be run is an indented
block, or has no language. The exception are the set-up commands, which install packages: CI runs them by itself.

Examples name places such as /var/lib/docker, and other hosts. All hosts are this machine, each in a mount namespace of
its own in which those places lead to a test's directories, so that the machine's own are neither seen nor touched.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, command, need_root, need_tools, sparse_file
from tests.support.sshd import sshd

MIB = 1 << 20
ROOT = Path(__file__).parents[2]
PLACES = ("/var/lib", "/srv", "/mnt")
OWN = MIGRATION, BACKUP, CELERY = "--on-failure-dest", "BACKUP", "celery"
"""What is in the examples that have a test of their own."""
PYTHON = (sys.executable, "-X", "dev", "-W", "error", "-c")


def examples() -> Iterator[tuple[str, str, str]]:
    """Each example: where it is, its language, and its text."""
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = document.read_text()
        for block in re.finditer(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            if "apt-get install" not in block[2]:
                line = text.count("\n", 0, block.start()) + 2
                yield f"{document.relative_to(ROOT)}:{line}", block[1], block[2]


def example(language: str, holding: str) -> str:
    """The one example in a language that holds some text."""
    (found,) = [text for _, each, text in examples() if each == language and holding in text]
    return found


def in_namespace(root: Path) -> list[str]:
    """A prefix for a command that sees the directories below ``root`` at their places.

    All else is read-only there but temporary directories, and the home that a login shell may write to: an example
    which names another place fails.
    """
    top = root.parent
    steps = [f"mount --bind {path} {path}" for path in (tempfile.gettempdir(), Path.home(), top)]
    steps += [f"mount --bind {root}{place} {place}" for place in PLACES]
    steps += ["mount -o remount,bind,ro /", f"cd {top}/work", 'exec "$@"']
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", " && ".join(steps), "sh"]


class Hosts:
    """This host and another one: ``here`` and ``there`` are what each has instead of "/".

    ``work`` is the current directory, ``commands`` that of the programs which both find first, ``log`` what was called.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.here, self.there, self.work, self.commands = (top / name for name in ("here", "there", "work", "commands"))
        self.log = top / "log"
        for directory in (self.work, self.commands, *(Path(f"{host}{place}") for host in (self.here, self.there)
                          for place in PLACES)):  # fmt: skip
            directory.mkdir(parents=True)
        self.path = f"{self.commands}:{os.environ['PATH']}"
        self.program("sparsesync", f'exec {sys.executable} -m sparsesync "$@"')

    def program(self, name: str, text: str) -> None:
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, *argv: str, ssh: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command on this host, from which every name of a host leads to the other one, by ``ssh``."""
        server = f"SetEnv PATH={self.path}"
        with sshd(self.top / "sshd", server=server, prefix=in_namespace(self.there)) as running:
            if ssh:
                self.program("ssh", f'exec /usr/bin/ssh -F {running.client_config} "$@"')
            return subprocess.run(
                [*in_namespace(self.here), *argv], cwd=self.work, capture_output=True, text=True, timeout=120,
                env={**os.environ, "PATH": self.path, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip


@pytest.fixture
def hosts(tmp_path: Path) -> Hosts:
    need_root("namespaces need root")
    need_tools("rsync", "unshare")
    return Hosts(tmp_path)


OTHERS = [each for each in examples() if not any(text in each[2] for text in OWN)]


@pytest.mark.slow
@pytest.mark.parametrize(("language", "text"), [pytest.param(*rest, id=where) for where, *rest in OTHERS])
def test_an_example(hosts: Hosts, language: str, text: str) -> None:
    (hosts.there / "var/lib/docker").mkdir()
    for name in ("here/var/lib/docker/devicemapper/devicemapper/data", "here/var/lib/libvirt/images/vm.img",
                 "here/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db", "there/var/lib/images/disk.img",
                 "there/var/lib/libvirt/images/vm.img", "work/vms/disk.img"):  # fmt: skip
        path = hosts.top / name
        path.parent.mkdir(parents=True)
        sparse_file(path, 100 << 30, [(0, MIB), (50 << 30, MIB)])
        os.utime(path, (time.time() - 900,) * 2)
    (hosts.work / "vms/notes").write_text("dense")
    hosts.program("systemctl", f'echo "$*" >> {hosts.log}')
    done = hosts.run(*(["bash", "-ec", text] if language == "sh" else [*PYTHON, text]))
    assert done.returncode == 0 and not re.search("Traceback|Warning|failed", done.stdout + done.stderr), done
    for path in (each for each in hosts.top.rglob("*") if each.is_file() and not each.is_symlink()):
        assert allocated(path) < 8 * MIB, f"{path} has lost its holes"


@pytest.mark.slow
def test_moving_a_docker_host(hosts: Hosts) -> None:
    old, new = hosts.here / "var/lib/docker", hosts.there / "var/lib/docker"
    log = old / "containers/0123/0123-json.log"
    log.parent.mkdir(parents=True)
    (old / "devicemapper/devicemapper").mkdir(parents=True)
    pool = sparse_file(old / "devicemapper/devicemapper/data", 100 << 30, [(MIB, 4 * MIB), (50 << 30, MIB)])
    os.utime(pool, (time.time() - 900,) * 2)
    # Somebody who has the log open, and stops when Docker does.
    docker = subprocess.Popen(["sh", "-c", f"exec >> {log}; while sleep 0.05; do date; done"])
    try:
        calls = f'echo "$*" >> {hosts.log}'
        hosts.program("systemctl", f'{calls}; [ "$1" = start ] || kill {docker.pid}')
        done = hosts.run("bash", "-ec", example("sh", MIGRATION))
    finally:
        docker.kill()
        docker.wait()
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    assert "/var/lib/docker/containers/0123/0123-json.log: is open for writing: sh (process " in done.stdout
    assert hosts.log.read_text().splitlines() == ["stop docker.socket docker", "start docker"]
    assert command("rsync", "-aHAXnic", "--delete", "--exclude=data", f"{old}/", f"{new}/") == ""
    moved = new / "devicemapper/devicemapper/data"
    assert command(sys.executable, "-m", "sparsesync", "verify", "-q", pool, moved) == ""
    assert allocated(moved) < 6 * MIB
    report = hosts.work / "moved.json"
    assert json.loads(report.read_text())["status"] == 0


@pytest.mark.parametrize("sunday", [False, True])
def test_a_nightly_backup(hosts: Hosts, sunday: bool) -> None:
    images, backup = hosts.there / "var/lib/libvirt/images", hosts.here / "srv/images"
    images.mkdir(parents=True)
    sparse_file(images / "vm.img", 10 << 30, [(0, MIB), (5 << 30, MIB)])
    code = example("python", BACKUP)
    if sunday:
        assert "isoweekday() == 7" in code
        code = code.replace("isoweekday() == 7", "isoweekday() > 0")
    done = hosts.run(sys.executable, "-X", "dev", "-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, ""), done
    for host in ("alpha", "beta"):
        assert re.search(rf"^{host}: 1 sparse files, [0-9]+ bytes sent for them$", done.stdout, re.MULTILINE)
        assert (hosts.work / f"{host}.log").read_text() == ""
        assert command(sys.executable, "-m", "sparsesync", "verify", "-q", images, backup / host) == ""
        assert allocated(backup / host / "vm.img") < 3 * MIB


def test_a_nightly_backup_of_what_cannot_be_reached(hosts: Hosts) -> None:
    (hosts.there / "var/lib/libvirt/images").mkdir(parents=True)
    code = example("python", BACKUP)
    assert '["alpha", "beta"]' in code and "(60, 600, 0)" in code
    code = code.replace('["alpha", "beta"]', '["alpha"]').replace("(60, 600, 0)", "(0.1, 0.1, 0)")
    tried = "ssh: connect to host alpha port 22: Connection refused"
    hosts.program("ssh", f"echo '{tried}' >&2; exit 255")
    done = hosts.run(sys.executable, "-X", "dev", "-W", "error", "-c", code, ssh=False)
    why = "alpha: alpha: ssh could not log in: nothing takes connections there\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", why), done
    assert (hosts.work / "alpha.log").read_text() == f"{tried}\n" * 3


CLIENT = f"""
import sys
import sparsesync
from backups import back_up
from celery.exceptions import SoftTimeLimitExceeded

(seeded,) = back_up.delay("alpha").get(timeout=60)["seeded"]
assert (seeded["name"], seeded["data"]) == ("vm.img", {2 * MIB}), seeded
try:
    sys.exit(back_up.apply_async(["silent"], soft_time_limit=1).get(timeout=60))
except SoftTimeLimitExceeded:
    pass
try:
    sys.exit(back_up.delay("refused").get(timeout=60))
except sparsesync.LinkError as error:
    assert (error.host, error.retryable) == ("refused", False), error
"""


@pytest.mark.slow
def test_a_task_of_celery(hosts: Hosts) -> None:
    pytest.importorskip("celery")
    images, backup = hosts.there / "var/lib/libvirt/images", hosts.here / "srv/images/alpha"
    images.mkdir(parents=True)
    sparse_file(images / "vm.img", 10 << 30, [(0, MIB), (5 << 30, MIB)])
    code = example("python", CELERY)
    assert "countdown=60 * " in code and code.count('"redis://localhost"') == 2
    results = hosts.work / "results"
    results.mkdir()
    # A queue that needs no server: what goes out of one process comes into the other.
    code = code.replace('broker="redis://localhost"', 'broker="filesystem://"').replace("countdown=60", "countdown=0.1")
    code = code.replace("redis://localhost", f"file://{results}")
    code += 'app.conf.broker_transport_options = {"polling_interval": 0.05}\n'
    (hosts.work / "backups.py").write_text(code)
    (hosts.work / "data_in").mkdir()
    (hosts.work / "data_out").symlink_to("data_in")
    hosts.program("ssh", f"""
case " $* " in
*" -G "*) exec /usr/bin/ssh "$@" ;;
*refused*) echo 'root@refused: Permission denied (publickey).' >&2; exit 255 ;;
*silent*) echo $$ > {hosts.work}/asked; exec sleep 300 ;;
esac
[ -e {hosts.work}/tried ] || {{ touch {hosts.work}/tried; echo 'Connection refused' >&2; exit 255; }}
exec /usr/bin/ssh -F {hosts.top}/sshd/client "$@"
""")  # fmt: skip
    worker = f"{sys.executable} -m celery -A backups worker -c 1 -l info --without-gossip > worker.log 2>&1 &"
    client = f"{sys.executable} -c '{CLIENT}'; status=$?"
    done = hosts.run("bash", "-c", f"{worker} {client}; kill -QUIT $!; wait; exit $status", ssh=False)
    log = (hosts.work / "worker.log").read_text()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), (done, log)
    assert "retry: Retry in 0.1s" in log and "alpha: Connection refused" in log
    assert not Path(f"/proc/{(hosts.work / 'asked').read_text().strip()}").exists()
    assert command(sys.executable, "-m", "sparsesync", "verify", "-q", images, backup) == ""
    assert allocated(backup / "vm.img") < 3 * MIB
