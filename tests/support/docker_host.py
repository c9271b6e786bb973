"""A made-up Docker host: the root of a system, with all that makes moving one hard.

Loop files of a devicemapper pool, attached to loop devices, one of them mounted; layers of overlay2 with whiteouts and
opaque directories that the kernel's overlayfs made; hard links, ACLs, a swap file that is swapped to, sockets, device
nodes, a log and a database that somebody writes to. It is laid out in a directory of a real filesystem.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.filesystems import command, device, need_tools

MIB = 1 << 20

APPARENT = 1536 * MIB
"""The size of the pool's data file."""

_WRITER = """
import os, sys, time
log = open(sys.argv[1], "a")
image = os.open(sys.argv[2], os.O_RDWR)
number = 0
print("ready", flush=True)
while True:
    number += 1
    log.write(f"{number}\\n")
    log.flush()
    os.pwrite(image, os.urandom(65536), (number % 40) * (1 << 20))
    os.fsync(image)
    time.sleep(0.02)
"""


@dataclass
class DockerHost:
    """The host. ``loops`` are the devices of data and metadata, ``writers`` who writes."""

    root: Path
    mounted: Path
    loops: list[str] = field(default_factory=list)
    writers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def docker(self) -> Path:
        return self.root / "var/lib/docker"

    @property
    def data(self) -> Path:
        return self.docker / "devicemapper/devicemapper/data"

    @property
    def log(self) -> Path:
        return self.docker / "containers/0123/0123-json.log"

    def write(self) -> None:
        """Start somebody who writes to the mounted loop file and to a log, until :meth:`stop`."""
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, self.log, self.mounted / "db"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self.writers.append(writer)
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"

    def stop(self) -> None:
        """Stop who writes, unmount and detach all."""
        for writer in self.writers:
            writer.kill()
            writer.wait()
        self.writers.clear()
        with contextlib.suppress(AssertionError):
            command("umount", self.mounted)
        while self.loops:
            command("losetup", "-d", self.loops.pop())
        subprocess.run(["swapoff", self.root / "swapfile"], stderr=subprocess.DEVNULL)


def stopping(host: DockerHost) -> str:
    """A shell command that stops the services of a host, as a --before would."""
    pids = " ".join(str(writer.pid) for writer in host.writers)
    detach = " ".join(f"losetup -d {loop};" for loop in host.loops)
    return f"kill {pids}; until umount {host.mounted} 2>/dev/null; do sleep 0.05; done; {detach} true"


@contextlib.contextmanager
def docker_host(root: Path, place: Path) -> Iterator[DockerHost]:
    """Lay out the host below ``root``; ``place`` is an empty directory outside, for mounts."""
    need_tools("mkfs.ext4", "losetup", "setfacl", "setfattr", "mkswap")
    host = DockerHost(root, place / "pool")
    try:
        _system(root)
        _layers(host.docker, place)
        _pool(host)
        yield host
    finally:
        host.stop()


def _system(root: Path) -> None:
    for name in ("etc/docker", "proc", "sys", "dev", "run", "tmp", "mnt", "usr/bin", "home/user", "var/log", "srv"):
        (root / name).mkdir(parents=True)
    (root / "etc/docker/daemon.json").write_text('{"storage-driver": "devicemapper"}\n')
    (root / "tmp/scratch").write_text("not to be moved\n")
    for number in range(300):
        (root / f"usr/bin/tool{number}").write_bytes(b"%d\n" % number * (number + 1))
    for number in range(0, 300, 10):
        os.link(root / f"usr/bin/tool{number}", root / f"usr/bin/alias{number}")
    os.chmod(root / "usr/bin/tool7", 0o4755)
    (root / "home/user/notes").write_text("notes\n")
    os.chown(root / "home/user/notes", 1234, 1234)
    command("setfacl", "-m", "u:4321:rw", root / "home/user/notes")
    command("setfacl", "-d", "-m", "g:99:rx", root / "home/user")
    command("setfattr", "-n", "user.origin", "-v", "here", root / "home/user/notes")
    os.symlink("notes", root / "home/user/link")
    os.mkfifo(root / "srv/pipe")
    device(root / "srv/null", 3)
    with socket.socket(socket.AF_UNIX) as made, _inside(root / "srv"):
        made.bind("socket")
    with open(root / "swapfile", "wb") as swap:
        swap.write(bytes(4 * MIB))
    os.chmod(root / "swapfile", 0o600)
    command("mkswap", root / "swapfile")
    command("swapon", root / "swapfile")
    with open(root / "var/log/lastlog", "wb") as sparse:
        sparse.truncate(256 * MIB)
        os.pwrite(sparse.fileno(), b"user", 292 * 1000)
    os.chown(root / "var/log/lastlog", 0, 43)
    old = time.time() - 86400
    for directory, names, files in os.walk(root):
        for name in names + files:
            os.utime(os.path.join(directory, name), (old, old), follow_symlinks=False)


@contextlib.contextmanager
def _inside(directory: Path) -> Iterator[None]:
    # The name of a socket is short.
    old = os.getcwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(old)


def _layers(docker: Path, place: Path) -> None:
    """Two layers, the upper one of which the kernel wrote through a mounted overlay."""
    lower, upper = docker / "overlay2/aaaa/diff", docker / "overlay2/bbbb/diff"
    work, merged = docker / "overlay2/bbbb/work", docker / "overlay2/bbbb/merged"
    for path in (lower / "app/old", lower / "etc", upper, work, merged, docker / "overlay2/l"):
        path.mkdir(parents=True)
    (lower / "etc/passwd").write_text("root\n")
    (lower / "app/removed").write_text("deleted in the upper layer\n")
    (lower / "app/old/file").write_text("hidden by an opaque directory\n")
    os.symlink("../bbbb/diff", docker / "overlay2/l/LINK")
    command("mount", "-t", "overlay", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", merged)
    try:
        (merged / "app/removed").unlink()
        (merged / "app/old/file").unlink()
        (merged / "app/old").rmdir()
        (merged / "app/old").mkdir()
        (merged / "app/old/new").write_text("new\n")
    finally:
        command("umount", merged)
    assert os.stat(upper / "app/removed").st_rdev == 0
    assert os.getxattr(upper / "app/old", "trusted.overlay.opaque") == b"y"
    (docker / "containers/0123/mounts/shm").mkdir(parents=True)
    (docker / "containers/0123/0123-json.log").write_text("0\n")
    (docker / "tmp").mkdir()
    (docker / "tmp/scratch").write_text("not to be moved\n")
    place.mkdir(parents=True, exist_ok=True)


def _pool(host: DockerHost) -> None:
    host.data.parent.mkdir(parents=True)
    with open(host.data, "wb") as data:
        data.truncate(APPARENT)
    command("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-N", "1000", host.data)
    with open(host.data.with_name("metadata"), "wb") as metadata:
        metadata.truncate(256 * MIB)
        for number in range(20):
            os.pwrite(metadata.fileno(), os.urandom(64 * 1024), number * 12 * MIB)
    for path in (host.data, host.data.with_name("metadata")):
        host.loops.append(command("losetup", "-f", "--show", path).strip())
    host.mounted.mkdir()
    command("mount", host.loops[0], host.mounted)
    (host.mounted / "db").write_bytes(os.urandom(40 * MIB))
    os.sync()
