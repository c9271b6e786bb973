"""Trees that are names only, in pyfakefs: a whole system in a few lines. Nothing here has holes."""

from __future__ import annotations

from collections.abc import Mapping

from pyfakefs.fake_filesystem import FakeFilesystem

DOCKER = (
    "overlay2/l/", "overlay2/abc/diff/etc/passwd", "overlay2/abc/merged/", "containers/c1/mounts/shm/", "tmp/",
    "volumes/v/_data/tmp/kept",
)  # fmt: skip
"""What dockerd makes below its data root."""

DOCKER_29 = (
    "buildkit/cache.db", "containers/c1/mounts/shm/", "engine-id", "image/", "network/files/local-kv.db", "plugins/",
    "rootfs/overlayfs/c1/", "runtimes/", "swarm/", "tmp/", "volumes/metadata.db", "volumes/v/_data/tmp/kept",
)  # fmt: skip
"""The same since it has its images in containerd."""

CONTAINERD = (
    "io.containerd.content.v1.content/blobs/sha256/", "io.containerd.content.v1.content/ingest/",
    "io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs/", "io.containerd.snapshotter.v1.overlayfs/metadata.db",
    "io.containerd.runtime.v2.task/moby/", "io.containerd.metadata.v1.bolt/meta.db", "tmpmounts/",
)  # fmt: skip

PODMAN = (
    "overlay/l/", "overlay/abc/diff/etc/passwd", "overlay/abc/merged/", "overlay-images/images.json",
    "overlay-layers/layers.json", "overlay-containers/c1/userdata/shm/", "libpod/", "volumes/v/_data/tmp/kept",
)  # fmt: skip

INCUS = (
    "database/global/db.bin", "devices/c1/", "guestapi/sock", "shmounts/", "unix.socket",
    "storage-pools/default/containers/c1/rootfs/", "disks/default.img",
)  # fmt: skip

LIBVIRT = ("images/vm1.img", "qemu/nvram/vm1.fd", "qemu/channel/target/", "qemu/domain-1-vm1/", "dnsmasq/")

_POD = "pods/0-1/volumes/kubernetes.io~"
KUBELET = (
    _POD + "empty-dir/data/kept", _POD + "projected/token/", _POD + "csi/pvc/mount/", "pki/kubelet.crt",
    "device-plugins/kubelet.sock", "cpu_manager_state", "plugins/kubernetes.io/csi/d/v/globalmount/",
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
