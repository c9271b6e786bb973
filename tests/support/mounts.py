"""Mounts that are no filesystem of a disk's: over another directory, mostly by FUSE.

Each gives what is mounted, and unmounts it. What is ``below`` can be judged without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filesystems import command, loop_device, need, need_root, need_tools
from tests.support.sshd import sshd


@contextlib.contextmanager
def _unmounting(mountpoint: Path) -> Iterator[Path]:
    need_root("mounting needs root")
    try:
        yield mountpoint
    finally:
        command("umount", mountpoint)


def _installed(*tools: str) -> None:
    """Skip the test if a package is missing that is not asked for, on CI neither."""
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@contextlib.contextmanager
def _served(mountpoint: Path, *argv: str | Path, password: str = "", config: str = "") -> Iterator[Path]:
    """A mount by a FUSE server, which has ended when this does: until then what is below is busy."""
    environment = {**os.environ, "RCLONE_CONFIG": config}
    null = subprocess.DEVNULL
    with subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=null, stderr=null) as server:
        assert server.stdin is not None
        server.stdin.write(password.encode())
        server.stdin.close()
        while not os.path.ismount(mountpoint):
            assert server.poll() is None
            time.sleep(0.01)
        with _unmounting(mountpoint):
            yield mountpoint


def _mountpoint(top: Path) -> Path:
    need(os.path.exists("/dev/fuse"), "FUSE needs /dev/fuse")
    (top / "mounted").mkdir(parents=True, exist_ok=True)
    return top / "mounted"


@contextlib.contextmanager
def sshfs(below: Path, top: Path) -> Iterator[Path]:
    """What is below, by way of SFTP."""
    need_tools("sshfs")
    mountpoint = _mountpoint(top)
    with sshd(top / "sshd", server="Subsystem sftp internal-sftp") as server:
        shell = f"ssh_command={server.rsh}"
        with _served(mountpoint, "sshfs", "-f", "-o", shell, f"host:{below}", mountpoint):
            yield mountpoint


@contextlib.contextmanager
def overlay(upper: Path, top: Path) -> Iterator[Path]:
    """An overlay whose upper directory is below ``upper``."""
    mountpoint = _mountpoint(top)
    for path in (top / "lower", upper / "upper", upper / "work"):
        path.mkdir()
    options = f"lowerdir={top}/lower,upperdir={upper}/upper,workdir={upper}/work"
    command("mount", "-t", "overlay", "-o", options, "overlay", mountpoint)
    with _unmounting(mountpoint):
        yield mountpoint


@contextlib.contextmanager
def bindfs(below: Path, top: Path) -> Iterator[Path]:
    """What is below, by way of a FUSE filesystem that hands everything on."""
    need_tools("bindfs")
    mountpoint = _mountpoint(top)
    with _served(mountpoint, "bindfs", "-f", below, mountpoint):
        yield mountpoint


@contextlib.contextmanager
def gocryptfs(below: Path, top: Path) -> Iterator[Path]:
    """What is encrypted below."""
    _installed("gocryptfs")
    mountpoint = _mountpoint(top)
    (top / "password").write_text("password\n")
    command("gocryptfs", "-q", "-nosyslog", "-init", "-scryptn", "10", "-passfile", top / "password", below)
    argv: list[str | Path] = ["gocryptfs", "-fg", "-nosyslog", "-passfile", top / "password", below, mountpoint]
    with _served(mountpoint, *argv):
        yield mountpoint


@contextlib.contextmanager
def encfs(below: Path, top: Path) -> Iterator[Path]:
    """What is encrypted below."""
    _installed("encfs")
    mountpoint = _mountpoint(top)
    with _served(mountpoint, "encfs", "-f", "--stdinpass", "--standard", below, mountpoint, password="password\n"):
        yield mountpoint


@contextlib.contextmanager
def rclone(below: Path, top: Path, *options: str) -> Iterator[Path]:
    """What is below, as rclone shows it: without ``options`` it can be written in order only."""
    _installed("rclone")
    mountpoint = _mountpoint(top)
    argv: list[str | Path] = ["rclone", "mount", *options, "--cache-dir", top / "cache", below, mountpoint]
    with _served(mountpoint, *argv, config=f"{top}/none"):
        yield mountpoint


@contextlib.contextmanager
def s3fs(top: Path) -> Iterator[Path]:
    """A bucket of a server by S3, moto, which has it in memory."""
    _installed("s3fs", "moto_server")
    mountpoint = _mountpoint(top)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # moto does not look at the signature.
    signed = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=b"
    request = urllib.request.Request(f"{url}/bucket", headers={"Authorization": signed}, method="PUT")
    (top / "password").touch(0o600)
    (top / "password").write_text("a:b")
    null = subprocess.DEVNULL
    with subprocess.Popen(["moto_server", "-H", "127.0.0.1", "-p", str(port)], stdout=null, stderr=null) as server:
        try:
            while True:
                assert server.poll() is None
                try:
                    urllib.request.urlopen(request, timeout=10).close()
                    break
                except urllib.error.URLError:
                    time.sleep(0.05)
            options = f"url={url},use_path_request_style,passwd_file={top}/password"
            with _served(mountpoint, "s3fs", "bucket", mountpoint, "-f", "-o", options):
                yield mountpoint
        finally:
            server.terminate()


@contextlib.contextmanager
def refuser(below: Path, top: Path, **refused: int) -> Iterator[Path]:
    """What is below, by way of a FUSE filesystem that refuses some calls, each with an errno: refuser.py."""
    need_tools("sshfs")  # of whose package it takes the library
    mountpoint = _mountpoint(top)
    server = Path(__file__).with_name("refuser.py")
    words = [f"{call.replace('_', '-')}={code}" for call, code in refused.items()]
    with _served(mountpoint, sys.executable, server, below, mountpoint, *words):
        yield mountpoint


@contextlib.contextmanager
def ntfs(top: Path) -> Iterator[Path]:
    """A new NTFS, by ntfs-3g."""
    _installed("mkntfs", "ntfs-3g")
    mountpoint = _mountpoint(top)
    command("truncate", "-s", "64M", top / "image")
    with loop_device(top / "image") as loop:
        command("mkntfs", "-F", "-Q", "-q", loop)
        command("ntfs-3g", loop, mountpoint)
        with _unmounting(mountpoint):
            yield mountpoint


@contextlib.contextmanager
def squashfs(source: Path, top: Path) -> Iterator[Path]:
    """What is in the source, in a squashfs."""
    _installed("mksquashfs")
    mountpoint = _mountpoint(top)
    command("mksquashfs", source, top / "image", "-quiet", "-no-progress")
    with loop_device(top / "image") as loop:
        command("mount", "-t", "squashfs", loop, mountpoint)
        with _unmounting(mountpoint):
            yield mountpoint
