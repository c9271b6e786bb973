"""What a kind of tree is not to be copied with. Names decide, so the trees are names only."""

from __future__ import annotations

import json
import os

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.presets import (
    PRESETS,
    SWAPS,
    preset_patterns,
    suggested,
    swap_files,
)
from sparsesync.engine.queries.presets import left_out as skipping
from sparsesync.engine.queries.stores.table import BY_NAME, DAEMON_JSON
from tests.support.fake import (
    CONTAINERD,
    DOCKER,
    DOCKER_29,
    INCUS,
    KUBELET,
    LIBVIRT,
    PODMAN,
    SYSTEM,
    lay_out,
)

PSEUDO = ["proc/*", "sys/*", "dev/*", "run/*", "tmp/*", "mnt/*", "media/*", "lost+found"]
VIEWS = ["overlay2/*/merged/*", "containers/*/mounts/*/*", "tmp/*"]


def left_out(preset: str, *sources: str) -> list[str]:
    """The places of a preset, each path with its wildcard."""
    return [path + wild for _, path, wild, _ in preset_patterns(preset, sources)]


def test_a_name_alone_makes_no_store(fs: FakeFilesystem) -> None:
    """A kernel's sources have an fs/btrfs, and podman's have a libpod."""
    lay_out(fs, "/linux/fs", "btrfs/inode.c", "overlay/", "overlayfs/super.c")
    lay_out(fs, "/podman", "libpod/container.go", "docs/", "rootfs/overlayfs/x")
    for tree in ("/linux/fs", "/podman"):
        assert left_out("docker,containerd,podman", tree) == [] and suggested(tree).preset == "none"


STORES = {"docker": DOCKER_29, "containerd": CONTAINERD, "podman": PODMAN, "incus": INCUS, "libvirt": LIBVIRT,
          "kubelet": KUBELET}  # fmt: skip
LEFT_OUT = {
    "docker": ["containers/c1/mounts/shm/x", "rootfs/overlayfs/c1/etc", "tmp/x"],
    "containerd": [
        "io.containerd.content.v1.content/ingest/x", "io.containerd.runtime.v2.task/moby", "tmpmounts/x",
    ],
    "podman": ["overlay/abc/merged/etc", "overlay-containers/c1/userdata/shm/x"],
    "incus": ["devices/c1", "guestapi/sock", "unix.socket"],
    "libvirt": ["qemu/domain-1-vm1", "qemu/channel/target/x"],
    "kubelet": [
        "pods/0-1/volumes/kubernetes.io~projected/token", "pods/0-1/volumes/kubernetes.io~csi/pvc/mount/x",
        "device-plugins/kubelet.sock", "cpu_manager_state", "plugins/kubernetes.io/csi/d/v/globalmount/x",
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", STORES)
def test_a_store_is_known_by_its_looks_and_its_place(fs: FakeFilesystem, kind: str) -> None:
    """What is a view or runtime state is left out, and what is data is not."""
    default = BY_NAME[kind].roots[0]
    lay_out(fs, "/elsewhere", *STORES[kind])
    lay_out(fs, default, *STORES[kind])
    assert suggested("/elsewhere").preset == kind == suggested(default).preset == suggested("/var/").preset
    for source, top in (("/elsewhere", "/elsewhere"), (f"{default}/", default), ("/var/lib", default)):
        places = [*preset_patterns(kind, [source])]
        assert places == [*preset_patterns("docker-views" if kind == "docker" else "views", [source])]
        skip = skipping(places)
        assert [name for name in LEFT_OUT[kind] if not skip(f"{top}/{name}")] == []
        data = [name for name in STORES[kind] if not name.endswith("/") and name not in LEFT_OUT[kind]]
        assert data and [name for name in data if skip(f"{top}/{name}")] == []


def test_the_stores_of_a_system(fs: FakeFilesystem) -> None:
    lay_out(fs, "/old", *SYSTEM)
    for kind, names in STORES.items():
        lay_out(fs, f"/old{BY_NAME[kind].roots[0]}", *names)
    lay_out(fs, "/old/home/user/.local/share/containers/storage", *PODMAN)
    assert suggested("/old/").preset == "system"
    assert {place.path for place in preset_patterns("views", ["/old/"])} >= {
        "/old/home/user/.local/share/containers/storage/overlay", "/old/var/lib/containerd/tmpmounts",
        "/old/var/lib/kubelet/pods", "/old/var/lib/incus/devices",
    }  # fmt: skip
    assert suggested("/old/var/lib/").preset == "none"  # not this machine's, and not marked itself


def test_podman_is_not_taken_for_docker(fs: FakeFilesystem) -> None:
    """Its drivers have folders of the same names."""
    lay_out(fs, "/p", "vfs/dir/abc/etc/", "vfs-images/images.json", "btrfs/subvolumes/")
    assert suggested("/p").preset == "podman"


def test_docker_leaves_out_views_and_scratch_space(fs: FakeFilesystem) -> None:
    lay_out(fs, "/d", *DOCKER)
    assert left_out("docker", "/d") == left_out("docker-views", "/d") == [f"/d/{place}" for place in VIEWS]


def test_docker_leaves_out_the_pool_but_not_for_the_views(fs: FakeFilesystem) -> None:
    lay_out(fs, "/d", "devicemapper/devicemapper/data", "devicemapper/devicemapper/metadata", "devicemapper/mnt/abc/")
    pool = ["/d/devicemapper/devicemapper/data", "/d/devicemapper/devicemapper/metadata"]
    assert left_out("docker", "/d") == ["/d/devicemapper/mnt/*", *pool]
    assert left_out("docker-views", "/d") == ["/d/devicemapper/mnt/*"]


def test_docker_with_a_mapped_user(fs: FakeFilesystem) -> None:
    """With "userns-remap" all is one folder further down, and what else is beside that is as good."""
    lay_out(fs, "/var/lib/docker/231072.231072", *DOCKER)
    assert left_out("docker", "/var/lib") == [f"/var/lib/docker/231072.231072/{place}" for place in VIEWS]
    lay_out(fs, "/var/lib/docker", *DOCKER)
    assert len(left_out("docker", "/var/lib/docker/")) == 2 * len(VIEWS)


def test_a_folder_of_disks_has_no_views(fs: FakeFilesystem) -> None:
    pool = "<pool type='dir'><target><path>/srv/disks</path></target></pool>"
    lay_out(fs, "", "srv/disks/qemu/domain-of-mine/kept", contents={"/etc/libvirt/storage/a.xml": pool})
    assert suggested("/srv/disks").preset == "libvirt" and left_out("libvirt", "/srv") == []


def test_docker_where_the_machine_has_it(fs: FakeFilesystem) -> None:
    """A source that holds the data root of the machine, by whatever way it is reached."""
    lay_out(fs, "/srv/docker data", *DOCKER)
    lay_out(fs, "", contents={DAEMON_JSON: json.dumps({"data-root": "/srv/docker data"})})
    fs.create_symlink("/link", "/srv")
    assert left_out("docker", "/srv/") == [f"/srv/docker data/{place}" for place in VIEWS]
    assert left_out("docker", "/link") == [f"/link/docker data/{place}" for place in VIEWS]
    assert left_out("docker", "/srv/docker data/overlay2") == left_out("docker", "/home") == []
    assert left_out("docker", "/srv/docker data") == [f"/srv/docker data/{place}" for place in VIEWS]  # found once


def test_docker_in_the_tree_of_another_system(fs: FakeFilesystem) -> None:
    lay_out(fs, "/mnt/old", *SYSTEM, contents={"etc/docker/daemon.json": '{"graph": "/data/docker"}'})
    lay_out(fs, "/mnt/old/data/docker", *DOCKER)
    assert left_out("docker", "/mnt/old/") == [f"/mnt/old/data/docker/{place}" for place in VIEWS]


@pytest.mark.parametrize("configuration", ["{", "[]", "null", '"/d"', ""])
def test_a_broken_configuration_is_an_error(fs: FakeFilesystem, configuration: str) -> None:
    lay_out(fs, "", contents={DAEMON_JSON: configuration})
    for query in (lambda: suggested("/home"), lambda: left_out("docker", "/home")):
        with pytest.raises(ValueError, match=rf"^{DAEMON_JSON}: not a configuration of dockerd: "):
            query()


def test_a_system_leaves_out_what_is_not_its_own(fs: FakeFilesystem) -> None:
    lay_out(fs, "/mnt/root", *SYSTEM)
    assert suggested("/mnt/root").preset == "system"
    assert left_out("system", "/mnt/root/") == [f"/mnt/root/{place}" for place in PSEUDO]
    fs.remove_object("/mnt/root/usr")
    assert suggested("/mnt/root").preset == "none"
    assert suggested("/").preset == "system"


def test_the_root_as_the_shell_expands_it(fs: FakeFilesystem) -> None:
    lay_out(fs, "", *SYSTEM)
    assert left_out("system", *(f"/{name}" for name in sorted(os.listdir("/")))) == [
        f"/{place}" for place in sorted(PSEUDO)
    ]
    assert left_out("system", "/etc/passwd", "/home/user/proc") == [f"/home/user/proc/{place}" for place in PSEUDO]


def test_swap_files(fs: FakeFilesystem) -> None:
    assert swap_files() == []
    lay_out(fs, "", *SYSTEM, "swap file", "var/swap", contents={
        SWAPS: "Filename\tType\tSize\tUsed\tPriority\n/swap\\040file file 1 0 -2\n/dev/sda2 partition 1 0 -3\n"
        "/var/swap file 1 0 -4\n",
    })  # fmt: skip
    assert swap_files() == ["/swap file", "/var/swap"]
    assert left_out("system", "/")[-2:] == ["/swap file", "/var/swap"]
    assert left_out("system", "/var/")[-1:] == ["/var/swap"]
    assert left_out("system", "/home/user") == [f"/home/user/{place}" for place in PSEUDO]


def test_an_unknown_preset() -> None:
    for presets in ("nosuch", "docker,nosuch", "nosuch,docker"):
        with pytest.raises(ValueError, match=r"unknown preset 'nosuch'; there are containerd, docker, .*, system"):
            left_out(presets, "/")
    assert {"docker", "system", *STORES} < {*PRESETS}
