"""The README's worked examples, run as they stand.

They name places such as /var/lib/docker. Both hosts are this machine, each in a mount namespace of its own in
which those places lead to a test's directories, so that the machine's own are neither seen nor touched.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.filesystems import allocated, command, need, need_tools, sparse_file
from tests.sshd import sshd

MIB = 1 << 20
README = (Path(__file__).parents[2] / "README.md").read_text()


def example(language: str, holding: str) -> str:
    """The one code block of the README in a language that holds some text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if holding in block]
    return str(found)


def in_namespace(places: dict[str, Path]) -> list[str]:
    """A prefix for a command that sees directories at other places, below a /var/lib and a /srv of its own."""
    mounts = "mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /srv"
    for place, directory in places.items():
        mounts += f" && mkdir -p {place} && mount --bind {directory} {place}"
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


class Hosts:
    """Two hosts; ``commands`` is a directory of the programs that both find first, ``log`` what was called there."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.old, self.new, self.commands, self.log = (top / name for name in ("old", "new", "commands", "log"))
        for directory in (self.old, self.new, self.commands):
            directory.mkdir()
        self.path = f"{self.commands}:{os.environ['PATH']}"
        self.program("sparsesync", f'exec {sys.executable} -m sparsesync "$@"')

    def program(self, name: str, text: str) -> None:
        path = self.commands / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, place: str, directory: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the old host with ``old`` at a place, while the new one has ``new`` at ``directory``."""
        server = f"SetEnv PATH={self.path}"
        with sshd(self.top / "sshd", server=server, prefix=in_namespace({directory: self.new})) as running:
            self.program("ssh", f'exec /usr/bin/ssh -F {running.client_config} "$@"')
            library = str(Path(__file__).parents[2])
            return subprocess.run(
                [*in_namespace({place: self.old}), *argv], cwd=self.top, capture_output=True, text=True, timeout=120,
                env={**os.environ, "PATH": self.path, "PYTHONPATH": library},
            )  # fmt: skip


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    need(os.geteuid() == 0, "namespaces need root")
    need_tools("rsync", "unshare")
    yield Hosts(tmp_path)


def test_moving_a_docker_host(hosts: Hosts) -> None:
    log = hosts.old / "containers/0123/0123-json.log"
    log.parent.mkdir(parents=True)
    (hosts.old / "devicemapper/devicemapper").mkdir(parents=True)
    pool = sparse_file(hosts.old / "devicemapper/devicemapper/data", 100 << 30, [(MIB, 4 * MIB), (50 << 30, MIB)])
    os.utime(pool, (time.time() - 900,) * 2)
    # Somebody who has the log open, and stops when Docker does.
    docker = subprocess.Popen(["sh", "-c", f"exec >> {log}; while sleep 0.05; do date; done"])
    try:
        calls = f'echo "$*" >> {hosts.log}'
        hosts.program("systemctl", f'{calls}; [ "$1" = start ] || kill {docker.pid}')
        done = hosts.run("/var/lib/docker", "/var/lib/docker", "bash", "-ec", example("sh", "migrate --final"))
    finally:
        docker.kill()
        docker.wait()
    assert done.returncode == 0 and "Traceback" not in done.stderr, done
    assert "/var/lib/docker/containers/0123/0123-json.log: is open for writing: sh (process " in done.stdout
    assert hosts.log.read_text().splitlines() == ["stop docker.socket docker", "start docker"]
    assert command("rsync", "-aHAXnic", "--delete", "--exclude=data", f"{hosts.old}/", f"{hosts.new}/") == ""
    moved = hosts.new / "devicemapper/devicemapper/data"
    assert command(sys.executable, "-m", "sparsesync", "verify", pool, moved) == ""
    assert allocated(moved) < 6 * MIB
    report = hosts.top / "moved.json"
    assert json.loads(report.read_text())["status"] == 0



@pytest.mark.parametrize("sunday", [False, True])
def test_a_nightly_backup(hosts: Hosts, sunday: bool) -> None:
    sparse_file(hosts.old / "vm.img", 10 << 30, [(0, MIB), (5 << 30, MIB)])
    code = example("python", "BACKUP")
    if sunday:
        assert "isoweekday() == 7" in code
        code = code.replace("isoweekday() == 7", "isoweekday() > 0")
    done = hosts.run("/var/lib/libvirt/images", "/srv/images", sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert re.fullmatch(r"1 sparse files, [0-9]+ bytes sent for them in [0-9]+ s\n", done.stdout)
    assert command(sys.executable, "-m", "sparsesync", "verify", hosts.old, hosts.new) == ""
    assert allocated(hosts.new / "vm.img") < 3 * MIB
