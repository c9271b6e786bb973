"""What a kind of tree is not to be copied with. Names decide, so the trees are names only."""

from __future__ import annotations

import json
import os

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.presets import (
    DAEMON_JSON,
    SWAPS,
    data_root,
    docker_roots,
    is_data_root,
    preset_patterns,
    suggested,
    swap_files,
)
from tests.support.fake import CONTAINERD, DOCKER, SYSTEM, lay_out

PSEUDO = ["proc/*", "sys/*", "dev/*", "run/*", "tmp/*", "mnt/*", "media/*", "lost+found"]
VIEWS = ["overlay2/*/merged/*", "containers/*/mounts/shm/*", "tmp/*"]


def left_out(preset: str, *sources: str) -> list[str]:
    """The places of a preset, each path with its wildcard."""
    return [path + wild for _, path, wild, _ in preset_patterns(preset, sources)]


@pytest.mark.parametrize(
    "made",
    ["devicemapper/devicemapper/", "devicemapper/mnt/", "overlay2/abc/diff/", "overlay2/l/", "overlay/abc/upper/",
     "aufs/diff/", "fuse-overlayfs/abc/diff/", "fuse-overlayfs/l/", "zfs/graph/", "btrfs/subvolumes/", "vfs/dir/"],
)  # fmt: skip
def test_a_data_root_is_known_by_what_its_driver_makes(fs: FakeFilesystem, made: str) -> None:
    lay_out(fs, "/d[0]", made)
    assert is_data_root("/d[0]") and docker_roots("/d[0]/") == ["/d[0]/"]
    assert suggested("/d[0]").preset == "docker"


def test_a_name_alone_makes_no_data_root(fs: FakeFilesystem) -> None:
    """A kernel's sources have an fs/btrfs; and what containerd has is not dockerd's."""
    lay_out(fs, "/linux/fs", "btrfs/inode.c", "overlay/", "overlayfs/super.c")
    lay_out(fs, "/var/lib/containerd", *CONTAINERD)
    for tree in ("/linux/fs", "/var/lib/containerd"):
        assert not is_data_root(tree) and left_out("docker", tree) == []
        assert suggested(tree).preset == "none"


def test_docker_leaves_out_views_and_scratch_space(fs: FakeFilesystem) -> None:
    lay_out(fs, "/d", *DOCKER)
    assert left_out("docker", "/d") == left_out("docker-views", "/d") == [f"/d/{place}" for place in VIEWS]


def test_docker_leaves_out_the_pool_but_not_for_the_views(fs: FakeFilesystem) -> None:
    lay_out(fs, "/d", "devicemapper/devicemapper/data", "devicemapper/devicemapper/metadata", "devicemapper/mnt/abc/")
    pool = ["/d/devicemapper/devicemapper/data", "/d/devicemapper/devicemapper/metadata"]
    assert left_out("docker", "/d") == ["/d/devicemapper/mnt/*", *pool]
    assert left_out("docker-views", "/d") == ["/d/devicemapper/mnt/*"]


def test_docker_where_the_machine_has_it(fs: FakeFilesystem) -> None:
    """A source that holds the data root of the machine, by whatever way it is reached."""
    lay_out(fs, "/srv/docker data", *DOCKER)
    lay_out(fs, "", contents={DAEMON_JSON: json.dumps({"data-root": "/srv/docker data"})})
    fs.create_symlink("/link", "/srv")
    assert left_out("docker", "/srv/") == [f"/srv/docker data/{place}" for place in VIEWS]
    assert left_out("docker", "/link") == [f"/link/docker data/{place}" for place in VIEWS]
    assert left_out("docker", "/srv/docker data/overlay2") == left_out("docker", "/home") == []
    assert docker_roots("/srv/docker data") == ["/srv/docker data"]  # by its looks and by its name, and once


def test_docker_in_the_tree_of_another_system(fs: FakeFilesystem) -> None:
    lay_out(fs, "/mnt/old", *SYSTEM, contents={"etc/docker/daemon.json": '{"graph": "/data/docker"}'})
    lay_out(fs, "/mnt/old/data/docker", *DOCKER)
    assert docker_roots("/mnt/old") == ["/mnt/old/data/docker"]
    assert left_out("docker", "/mnt/old/") == [f"/mnt/old/data/docker/{place}" for place in VIEWS]


@pytest.mark.parametrize(
    ("configuration", "root"),
    [(None, "/var/lib/docker"), ("{}", "/var/lib/docker"), ('{"data-root": "/d"}', "/d"), ('{"graph": "/g"}', "/g"),
     ('{"data-root": "/d", "graph": "/g"}', "/d"), ('{"data-root": "/h\\u00e9"}', os.fsdecode("/hé".encode()))],
)  # fmt: skip
def test_the_data_root(fs: FakeFilesystem, configuration: str | None, root: str) -> None:
    lay_out(fs, "", contents={} if configuration is None else {DAEMON_JSON: configuration})
    assert data_root() == root


@pytest.mark.parametrize("configuration", ["{", "[]", "null", '"/d"', ""])
def test_a_broken_configuration_is_an_error(fs: FakeFilesystem, configuration: str) -> None:
    lay_out(fs, "", contents={DAEMON_JSON: configuration})
    for query in (data_root, lambda: suggested("/home"), lambda: left_out("docker", "/home")):
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
    with pytest.raises(ValueError, match="unknown preset 'podman'; there are docker, system"):
        left_out("podman", "/")
