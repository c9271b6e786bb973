"""Trees that are names only, in pyfakefs: a whole system in a few lines. Nothing here has holes."""

from __future__ import annotations

from collections.abc import Mapping

from pyfakefs.fake_filesystem import FakeFilesystem

DOCKER = (
    "overlay2/l/", "overlay2/abc/diff/etc/passwd", "overlay2/abc/merged/", "containers/c1/mounts/shm/", "tmp/",
    "volumes/v/_data/tmp/kept",
)  # fmt: skip
"""What dockerd makes below its data root."""

CONTAINERD = (
    "io.containerd.content.v1.content/blobs/sha256/", "io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/",
    "io.containerd.snapshotter.v1.overlayfs/metadata.db",
)  # fmt: skip

SYSTEM = (
    "etc/passwd", "proc/1/", "sys/", "dev/", "run/", "tmp/x", "usr/bin/sh", "mnt/", "media/", "lost+found/",
    "var/tmp/kept", "home/user/proc/kept",
)  # fmt: skip


def lay_out(fs: FakeFilesystem, top: str, *paths: str, contents: Mapping[str, str] | None = None) -> None:
    """Make each path below ``top``: a directory if it ends with a slash, else a file; ``contents`` by path."""
    for path in paths:
        if path.endswith("/"):
            fs.makedirs(f"{top}/{path}", exist_ok=True)
        else:
            fs.create_file(f"{top}/{path}")
    for path, content in (contents or {}).items():
        fs.create_file(f"{top}/{path}", contents=content)
