"""A real dockerd: its data moved while a container writes, and its containers as the other end of a connection."""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import sys
import time
from pathlib import Path

import pytest

from tests.support.dockerd import STOP, Host, host, import_image, need_docker, shared
from tests.support.filesystems import allocated, command, data_bytes, filesystem, same_content, sparse_file
from tests.support.sshd import sshd

MIB = 1 << 20
DISK = 256 * MIB

# It changes what the image has, makes a sparse file in the volume and one in its own layer, and writes to both.
# Whenever it starts it looks for what it wrote before: record N is in slot N % 40, so of any 40 the last are there. If
# it is told to, it then leaves the files as they are.
_WRITER = f"""
import os, shutil, signal, sys, time
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
paths = ["/data/disk", "/own/disk"]
if not os.path.exists("/own"):
    os.remove("/image/removed")
    shutil.rmtree("/image/replaced")
    os.mkdir("/image/replaced")
    os.mkdir("/own")
    for path in paths:
        with open(path, "wb") as file:
            file.truncate({DISK})
    os.link("/own/disk", "/own/linked")
    os.setxattr("/own/disk", "user.note", b"kept")
files = [os.open(path, os.O_RDWR) for path in paths]
found = []
for file in files:
    records = [int(os.pread(file, 20, slot << 20).strip(b"\\0") or 0) for slot in range(40)]
    last = max(records)
    assert sorted(records)[40 - min(last, 40):] == list(range(max(last - 39, 1), last + 1)), records
    found.append(last)
assert max(found) - min(found) <= 1
print("found", max(found), flush=True)
number = max(found)
while os.path.exists("/data/settled"):
    time.sleep(1)
while True:
    number += 1
    for file in files:
        os.pwrite(file, b"%020d" % number + b"x" * 4076, (number % 40) << 20)
        os.fsync(file)
    time.sleep(0.01)
"""

_OPTIONS = ["--network=none", *shared()]


@pytest.fixture
def tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory below which tests mount things, those of other workers too."""
    need_docker()
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def sparsesync(on: Host, *words: str | os.PathLike[str], status: int = 0) -> str:
    """What sparsesync prints on a host."""
    said = on.run("env", f"PYTHONPATH={os.getcwd()}", sys.executable, "-m", "sparsesync", *words, status=status)
    assert "Traceback" not in said
    return said


def found_by(on: Host, container: str, times: int) -> list[int]:
    """Which record a container found to be the last one, at each of its starts."""
    for _ in range(200):
        found = [*map(int, re.findall("found ([0-9]+)", on.docker("logs", container)))]
        if len(found) >= times:
            break
        time.sleep(0.05)
    assert len(found) == times, on.docker("logs", container)
    return found


@pytest.mark.slow
def test_a_migration(tmp_path: Path, tests: Path) -> None:
    """Over ssh, in two passes while a container writes; the first time Docker cannot be started at the destination."""
    with filesystem("ext4", tmp_path / "old") as a, filesystem("ext4", tmp_path / "new") as b:
        source, destination = a / "docker", b / "docker"
        source.mkdir()
        destination.mkdir()
        with contextlib.ExitStack() as stack:
            old, new = (stack.enter_context(host(each, tests)) for each in (source, destination))
            server = stack.enter_context(sshd(tmp_path / "sshd", prefix=new.inside))
            where = ["-e", server.rsh, "/var/lib/docker/", "far:/var/lib/docker/"]
            _populate(old)
            _check(sparsesync(old, "migrate", *where))
            assert not list(destination.glob("overlay2/*/merged/*"))

            final = ["migrate", "--final", "--verify", "--before", STOP, "--on-failure", old.start]
            sparsesync(old, *final, "--after-dest", "false", *where, status=1)
            found_by(old, "db", 2)
            listed = _listed(old)
            old.docker("exec", "db", "touch", "/data/settled")

            final += ["--after-dest", new.start, "--on-failure-dest", STOP, "--report", f"{tmp_path}/report"]
            sparsesync(old, *final, *where, "--", "--delete")
            report = json.loads((tmp_path / "report").read_text())
            assert [each["what"] for each in report["commands"]] == ["before", "after-dest"]
            assert report["verified"]["by_digest"] and report["verified"]["differences"] == []
            assert found_by(new, "db", 3)[2] > 0
            assert _listed(new) == listed
            _check_containers(new)
            _check_data(source, destination)


def _populate(old: Host) -> None:
    old.run("sh", "-c", old.start)
    files = {"image/kept": "kept", "image/linked": "=image/kept", "image/removed": "removed",
             "image/replaced/below": "below", "writer.py": _WRITER}  # fmt: skip
    import_image(old, "moved:1", files)
    old.docker("run", "--name=edit", *_OPTIONS, "moved:1", "rm", "/image/removed")
    old.docker("commit", "edit", "edited:1")
    old.docker(
        "run", "-d", "--name=db", "--restart=always", "--volume=disks:/data", *_OPTIONS, "moved:1",
        "python3", "-B", "/writer.py",
    )  # fmt: skip
    found_by(old, "db", 1)


def _check(said: str) -> None:
    assert "/var/lib/docker/: is a Docker data root, storage driver overlay2" in said
    assert "/daemon: is a containerd root; a part of /var/lib/docker/, and stops with it" in said
    assert re.findall("in use by (.*?) \\(process", said) == ["dockerd"] and "/etc/c" not in said
    assert re.search("/volumes/disks/_data/disk: is open for writing: python3", said), said
    assert re.search("/diff/own/(disk|linked): is open for writing: python3", said), said
    assert re.search("/diff: is the upper layer of the overlay at /var/lib/docker/overlay2/[0-9a-f]+/merged", said)


def _listed(on: Host) -> list[list[str]]:
    """What Docker tells of all that it has."""
    containers = "ps -a --no-trunc --format={{.ID}}:{{.Names}}:{{.Image}}:{{.State}}"
    commands = (
        "images -a --no-trunc --format={{.ID}}:{{.Repository}}",
        "volume ls",
        "diff db",
        "diff edit",
        containers,
    )
    return [sorted(on.docker(*each.split(" ")).splitlines()) for each in commands]


def _check_containers(new: Host) -> None:
    """Whiteouts of images and containers hide what they hid, and nothing else is hidden."""
    assert (
        new.docker("exec", "db", "ls", "/image", "/image/replaced")
        == "/image:\nkept\nlinked\nreplaced\n\n/image/replaced:"
    )
    assert new.docker("run", "--rm", *_OPTIONS, "moved:1", "cat", "/image/removed") == "removed"
    assert new.docker("run", "--rm", *_OPTIONS, "edited:1", "ls", "/image") == "kept\nlinked\nreplaced"


def _check_data(source: Path, destination: Path) -> None:
    """Layers and volumes are what rsync itself would have made of them, and holes are holes."""
    for part, each in ("overlay2", "/diff/"), ("volumes", "/_data/"):
        # Around these the daemon at the destination has changed times already.
        said = command("rsync", "-aHAXnic", "--numeric-ids", f"{source / part}/", f"{destination / part}/")
        assert [line for line in said.splitlines() if each in line] == []
    (own,) = destination.glob("overlay2/*/diff/own/disk")
    for disk in (destination / "volumes/disks/_data/disk", own):
        assert disk.stat().st_size == DISK
        assert data_bytes(disk) <= 40 * 4096 and allocated(disk) <= 50 * 4096
    assert own.stat().st_nlink == 2 and os.getxattr(own, "user.note") == b"kept"
    assert os.getxattr(own.parents[1] / "image/replaced", "trusted.overlay.opaque") == b"y"
    removed = os.stat(own.parents[1] / "image/removed")
    assert stat.S_ISCHR(removed.st_mode) and removed.st_rdev == 0
    kept = next(destination.glob("overlay2/*/diff/image/kept"))
    assert kept.stat().st_nlink == 2 and os.getxattr(kept, "user.image") == b"kept"


@pytest.mark.slow
def test_docker_exec_as_the_remote_shell(tmp_path: Path, tests: Path) -> None:
    """What is done in a container's own layer is what is done over ssh, and told so."""
    source = tmp_path / "src"
    source.mkdir()
    sparse_file(source / "disk", 64 * MIB, [(0, 4096), (40 * MIB, MIB)])
    os.link(source / "disk", source / "linked")
    (source / "plain").write_text("plain\n")
    os.setxattr(source / "plain", "user.note", b"kept")
    with filesystem("ext4", tmp_path / "fs") as mounted:
        docker, plain = mounted / "docker", mounted / "plain"
        docker.mkdir()
        plain.mkdir()
        with host(docker, tests) as on, sshd(tmp_path / "sshd") as server:
            on.run("sh", "-c", on.start)
            import_image(on, "box:1", {"top/image": ""})
            on.docker("run", "-d", "--name=box", *_OPTIONS, "box:1", "sleep", "infinity")
            by_exec = _there_and_back(on, source, "docker exec -i", "box", "/top", tmp_path / "by-exec")
            assert by_exec == _there_and_back(on, source, server.rsh, "far", str(plain), tmp_path / "by-ssh")
            (tree,) = docker.glob("overlay2/*/diff/top/tree")
            for each in tree.parent, tmp_path / "by-exec":
                said = command("rsync", "-aHAXnic", "--numeric-ids", f"{source}/", f"{each}/tree/")
                assert said == ""
                for disk in each / "tree/disk", each / "copied":
                    assert same_content(disk, source / "disk") and allocated(disk) == allocated(source / "disk")


def _there_and_back(on: Host, source: Path, rsh: str, name: str, top: str, back: Path) -> list[str]:
    """What is printed where a tree and a file are copied to a place by a remote shell, looked at, and copied back."""
    back.mkdir()
    there = f"{name}:{top}"
    printed = [
        sparsesync(on, words[0], "-e", rsh, *words[1:])
        for words in (
            ["sync", "-aHAXi", f"{source}/", f"{there}/tree/"],
            ["copy", f"{source}/disk", f"{there}/copied"],
            ["scan", f"{there}/tree"],
            ["map", f"{there}/copied"],
            ["verify", f"{source}", f"{there}/tree"],
            ["sync", "-aHAXi", f"{there}/tree/", f"{back}/tree/"],
            ["copy", f"{there}/copied", f"{back}/copied"],
        )
    ]
    return [each.replace(there, "").replace(str(back), "").replace(top, "") for each in printed]
