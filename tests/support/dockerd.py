"""Docker hosts with a real dockerd, each with mounts and processes of its own.

A host is a mount namespace and a PID namespace. In them /var/lib/docker is a directory that the test has on a real
filesystem, and /run, /etc/docker and /var/lib are new. So dockerd runs with the paths it has anywhere, two hosts have
their data root at the same path, and nothing of the machine's is touched. The first process of a host ends when its
standard input does, even if pytest is killed. With it go dockerd, containerd, the containers, and what they have
mounted. The network is the machine's, so that an sshd of one host can be reached from another; containers have none.
"""

from __future__ import annotations

import contextlib
import glob
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.filesystems import need_root, need_tools

START = (
    "dockerd --storage-driver=overlay2 --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent={} --bridge=none"
    " --iptables=false --ip-forward=false --ip-masq=false >/run/dockerd.log 2>&1 </dev/null &"
    " timeout 60 sh -c 'until docker version >/dev/null 2>&1; do sleep 0.05; done'"
)
STOP = (
    "docker ps -q | xargs -r docker stop -t 20 >/dev/null; daemon=$(cat /run/docker.pid); kill $daemon;"
    " while kill -0 $daemon 2>/dev/null; do sleep 0.05; done"
)
"""Shell commands that start and stop a host's dockerd; the first is still to be given a cgroup."""

# dockerd unmounts and remounts what it finds below its directories, so the namespace is private. Other tests' mounts
# must not be held by it: they would outlast their umount.
_SET_UP = """
set -e
for new in /run /etc/docker /var/lib; do mount -t tmpfs tmpfs $new; done
mkdir /run/sshd /run/lock /var/lib/docker
mount --bind "$1" /var/lib/docker
for point in $(cut -d ' ' -f 2 /proc/mounts | grep "^$2/"); do umount -l "$point" || true; done
echo ready
exec docker-init -- cat
"""

# What a program in a container finds of the machine's, so that an image needs no library and no Python of its own.
_SHARED = ("usr", "bin", "lib", "lib64")


def need_docker() -> None:
    """Skip the test without a dockerd, on CI too: at 250 MB it is not among what the README installs."""
    need_root("dockerd needs root")
    for tool in ("dockerd", "docker", "containerd", "runc", "docker-init"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed (apt-get install docker.io)")
    need_tools("unshare", "nsenter")


@dataclass(frozen=True)
class Host:
    """A host. ``inside``: what is put before a command for it to run there. ``start``: the shell command to do that."""

    inside: list[str]
    start: str

    def run(self, *argv: str | os.PathLike[str], status: int = 0) -> str:
        """Run a command on the host that must end with a status; its output."""
        done = subprocess.run(
            [*self.inside, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, (argv, done.stdout)
        return done.stdout

    def docker(self, *argv: str) -> str:
        return self.run("docker", *argv).strip()


@contextlib.contextmanager
def host(data_root: Path, tests: Path) -> Iterator[Host]:
    """A host that has a directory at /var/lib/docker, with nothing running yet.

    ``tests`` is the directory below which tests mount things.
    """
    need_docker()
    setup = subprocess.Popen(
        ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc",
         "sh", "-c", _SET_UP, "setup", data_root, tests],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    group = f"/sparsesync-{setup.pid}"
    try:
        assert setup.stdout is not None and setup.stdout.readline() == b"ready\n"
        spaces = f"/proc/{setup.pid}/ns"
        enter = ["nsenter", f"--mount={spaces}/mnt", f"--pid={spaces}/pid_for_children", "env", "-C", os.getcwd()]
        yield Host(enter, START.format(group))
    finally:
        setup.communicate()
        for top in glob.glob(f"/sys/fs/cgroup{group}") + glob.glob(f"/sys/fs/cgroup/*{group}"):
            for path, _, _ in os.walk(top, topdown=False):
                os.rmdir(path)


def import_image(on: Host, name: str, files: dict[str, str]) -> None:
    """Import an image with text files, which runs the machine's own programs with :func:`shared`.

    A file whose text begins with "=" is a hard link of another one.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for top in _SHARED:
            entry = tarfile.TarInfo(top)
            if os.path.islink(f"/{top}"):
                entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(f"/{top}")
            else:
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            if text.startswith("="):
                entry.type, entry.linkname = tarfile.LNKTYPE, text[1:]
            else:
                entry.size = len(text)
                entry.pax_headers = {"SCHILY.xattr.user.image": "kept"}
            tar.addfile(entry, io.BytesIO(text.encode()) if entry.isreg() else None)
    done = subprocess.run([*on.inside, "docker", "import", "-", name], input=packed.getvalue(), capture_output=True)
    assert done.returncode == 0, done.stderr


def shared() -> list[str]:
    """Options for ``docker run`` that show a container the machine's programs."""
    return [
        f"--volume=/{top}:/{top}:ro" for top in _SHARED if os.path.isdir(f"/{top}") and not os.path.islink(f"/{top}")
    ]
