"""What is told of stores. Their sizes are those of real files: see tests/integration/test_migrate.py."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.registry import answer_query
from sparsesync.engine.queries.stores.running import running
from sparsesync.engine.queries.stores.settings import text_of
from sparsesync.engine.queries.stores.stores import Needed, Store
from sparsesync.engine.queries.stores.table import BY_NAME
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

MIB = 1 << 20
POOL = "<pool type='{}'><source><path>/no</path></source><target>"
UTF8 = os.fsdecode("/srv/hé".encode())


def stores(source: str) -> list[Store]:
    found = answer_query("stores", source=source).found
    assert all(isinstance(each, Store) for each in found)
    return [*found]


def needed(store: Store) -> dict[str, bool]:
    return {each.path: each.content for each in store.companions}


@pytest.mark.parametrize(
    "made",
    ["devicemapper/devicemapper/", "devicemapper/mnt/", "overlay2/abc/diff/", "overlay2/l/", "overlay/abc/upper/",
     "aufs/diff/", "fuse-overlayfs/abc/diff/", "fuse-overlayfs/l/", "zfs/graph/", "btrfs/subvolumes/", "vfs/dir/",
     "engine-id", "network/files/local-kv.db", "volumes/metadata.db", "containers/abc/config.v2.json"],
)  # fmt: skip
def test_a_data_root_is_known_by_what_docker_makes(fs: FakeFilesystem, made: str) -> None:
    lay_out(fs, "/d[0]", made)
    assert [(each.kind, each.root) for each in stores("/d[0]/")] == [("docker", "/d[0]/")]


def test_the_driver_is_the_configured_one_or_that_in_use(fs: FakeFilesystem) -> None:
    configuration = {"etc/docker/daemon.json": '{"data-root": "/data/docker", "storage-driver": "devicemapper"}'}
    lay_out(fs, "/system", *SYSTEM, contents=configuration)
    lay_out(fs, "/system/data/docker", *DOCKER, "devicemapper/devicemapper/metadata", "aufs/")
    fs.create_file("/system/data/docker/devicemapper/devicemapper/data", st_size=100 * MIB)
    (found,) = stores("/system/")
    assert (found.root, found.driver, found.place) == ("/system/data/docker", "devicemapper", "/data/docker")
    assert (found.drivers, found.subvolumes) == (["overlay2", "devicemapper"], 0)
    pool = "/system/data/docker/devicemapper/devicemapper"
    assert [(each.path, each.size) for each in found.loop_files] == [
        (f"{pool}/data", 100 * MIB),
        (f"{pool}/metadata", 0),
    ]
    # The configuration is that of the system's tree, which this source does not say.
    assert stores("/system/data/docker/")[0].driver == "overlay2"
    assert stores("/system/usr") == []
    fs.remove_object("/system/etc/docker/daemon.json")
    lay_out(fs, "/system", contents={"etc/docker/daemon.json": "{"})
    with pytest.raises(ValueError, match=r"daemon\.json: not a configuration of dockerd"):
        stores("/system/")


def test_docker_has_its_images_in_containerd(fs: FakeFilesystem) -> None:
    """As it is by default since Docker 29, also where the old driver's folder is left."""
    config = {"containers/c1/config.v2.json": '{"Driver": "overlayfs"}'}
    lay_out(fs, "/var/lib/docker", *DOCKER_29, contents=config)
    lay_out(fs, "/var/lib/containerd", *CONTAINERD)
    lay_out(fs, "/etc", "docker/daemon.jso_")
    (docker,) = stores("/var/lib/docker")
    assert (docker.driver, docker.drivers) == ("containerd's overlayfs", ["containerd's overlayfs"])
    assert needed(docker) == {"/var/lib/containerd": True, "/etc/docker": False}
    lay_out(fs, "/var/lib/docker", "overlay2/l/x")
    (docker,) = stores("/var/lib/docker/")
    assert docker.drivers == ["containerd's overlayfs", "overlay2"] and "/var/lib/containerd" in needed(docker)
    both = stores("/var/lib")
    assert [(each.kind, each.driver) for each in both] == [
        ("docker", "containerd's overlayfs"),
        ("containerd", "overlayfs"),
    ]
    assert all(each.layers for each in both)
    assert "/var/lib/docker" in needed(both[1])


@pytest.mark.parametrize(
    ("configuration", "driver", "needs"),
    [
        ({"features": {"containerd-snapshotter": True}}, "containerd's overlayfs", True),
        ({"features": {"containerd-snapshotter": True}, "storage-driver": "zfs"}, "containerd's zfs", True),
        ({"storage-driver": "overlayfs"}, "containerd's overlayfs", True),
        ({"storage-driver": "overlay2"}, "overlay2", False),
        ({"features": {"containerd-snapshotter": False}}, "overlay2", False),
        ({}, "overlay2", False),
        (None, "overlay2", False),
    ],
)
def test_which_store_docker_is_told_to_use(
    fs: FakeFilesystem, configuration: dict[str, object] | None, driver: str, needs: bool
) -> None:
    lay_out(fs, "/var/lib/docker", *DOCKER)
    lay_out(fs, "/var/lib/containerd", *CONTAINERD)
    if configuration is not None:
        lay_out(fs, "/etc/docker", contents={"daemon.json": json.dumps(configuration)})
    (docker,) = stores("/var/lib/docker")
    assert docker.driver == driver and ("/var/lib/containerd" in needed(docker)) == needs


def test_containerd_that_docker_starts_itself(fs: FakeFilesystem) -> None:
    """It is below the data root, goes along and stops with it. What another containerd needs is not for this one."""
    lay_out(fs, "/var/lib/docker", *DOCKER_29)
    lay_out(fs, "/var/lib/docker/containerd/daemon", *CONTAINERD)
    lay_out(fs, "/etc", "containerd/config.toml", "cni/net.d/10-bridge.conf")
    told = {"7/comm": "containerd\n", "7/cmdline": "containerd\0--config\0/run/docker/containerd.toml\0"}
    lay_out(fs, "/proc", contents=told)
    fs.create_symlink("/proc/7/root", "/")
    lay_out(fs, "/run", contents={"docker/containerd.toml": 'root = "/var/lib/docker/containerd/daemon"\n'})
    docker, containerd = stores("/var/lib/docker")
    assert (containerd.kind, containerd.root) == ("containerd", "/var/lib/docker/containerd/daemon")
    assert needed(docker) == {} and docker.outer == ""
    assert containerd.outer == "/var/lib/docker" and containerd.layers
    assert (needed(containerd), containerd.running, containerd.kernel) == ({}, [], [])


def test_a_snapshotter_that_is_not_used(fs: FakeFilesystem) -> None:
    """containerd makes a folder for each that it has."""
    empty = [f"io.containerd.snapshotter.v1.{name}/snapshots/" for name in ("native", "overlayfs")]
    lay_out(fs, "/c", "io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.btrfs/", *empty)
    assert [(each.driver, each.drivers) for each in stores("/c")] == [("", [])]
    lay_out(fs, "/c", *(f"io.containerd.snapshotter.v1.{name}/1/fs/" for name in ("native/snapshots", "stargz/x")))
    assert stores("/c")[0].drivers == ["native", "stargz"]
    lay_out(fs, "/c/io.containerd.snapshotter.v1.overlayfs", "snapshots/1/fs/", "metadata.db")
    assert stores("/c")[0].drivers == ["overlayfs", "native", "stargz"]


def test_a_copy_of_a_data_root_has_no_known_companions(fs: FakeFilesystem) -> None:
    lay_out(fs, "/copy", *DOCKER_29)
    lay_out(fs, "/var/lib/containerd", *CONTAINERD)
    (docker,) = stores("/copy")
    assert [(each.path, each.what) for each in docker.companions] == [
        ("", "containerd's root, which has the images and the containers' layers")
    ]
    # In another system's tree they are where they were in that.
    lay_out(fs, "/old/var/lib/docker", *DOCKER_29)
    lay_out(fs, "/old/var/lib/containerd", *CONTAINERD)
    (docker,) = stores("/old/var/lib/docker/")
    assert needed(docker) == {"/old/var/lib/containerd": True} and docker.place == "/var/lib/docker"


@pytest.mark.parametrize(
    ("file", "text", "root", "kind", "tree"),
    [
        ("/etc/docker/daemon.json", '{"data-root": "/srv/x"}', "/srv/x", "docker", DOCKER),
        ("/etc/docker/daemon.json", '{"graph": "/srv/x"}', "/srv/x", "docker", DOCKER),
        ("/etc/docker/daemon.json", '{"data-root": "/srv/h\\u00e9"}', UTF8, "docker", DOCKER),
        ("/etc/containerd/config.toml", 'version = 3\nroot = "/srv/x"\n[x]\n', "/srv/x", "containerd", CONTAINERD),
        ("/var/snap/docker/current/config/daemon.json", '{"data-root": "/srv/x"}', "/srv/x", "docker", DOCKER),
        ("/etc/containerd/config.toml", '[plugins."io.x"]\n root = "/no"\n', None, "containerd", CONTAINERD),
        ("/etc/containerd/conf.d/a.toml", "root = '/srv/x' # there", "/srv/x", "containerd", CONTAINERD),
        ("/etc/containers/storage.conf", '# graphroot = "/no"\n[storage]\n graphroot = "/srv/x"', "/srv/x", "podman",
         PODMAN),
        ("/usr/share/containers/storage.conf", '[storage]\ngraphroot = "/srv/x"', "/srv/x", "podman", PODMAN),
        ("/etc/containers/storage.conf", '[storage]\nrootless_storage_path = "/srv/$USER/x"', "/srv/u/x", "podman",
         PODMAN),
        ("/etc/containers/storage.conf", '[storage]\nrootless_storage_path = "$NOBODY/srv/x"', None, "podman", PODMAN),
        ("/home/u/.config/containers/storage.conf", "[storage]\ngraphroot='$HOME/x'", "/home/u/x", "podman", PODMAN),
        ("/var/u/.config/containers/storage.conf", "[storage]\ngraphroot='${HOME}/x'", "/var/u/x", "podman", PODMAN),
        ("/etc/crio/crio.conf.d/10-x.conf", "[crio]\nroot = '/srv/x'", "/srv/x", "podman", PODMAN),
        ("/etc/libvirt/storage/pool.xml", f"{POOL.format('dir')}<!--</target>--><path>/srv/x</path>", "/srv/x",
         "libvirt", LIBVIRT),
        ("/etc/libvirt/storage/pool.xml", f"{POOL.format('logical')}<path>/srv/x</path>", None, "libvirt", LIBVIRT),
    ],
)  # fmt: skip
def test_where_a_store_is_configured(
    fs: FakeFilesystem, file: str, text: str, root: str | None, kind: str, tree: tuple[str, ...]
) -> None:
    """In a folder that does not look like one."""
    for folder in (root or "/srv/x", "/no", "/home/u", "/var/u"):
        lay_out(fs, folder, "nothing/")
    lay_out(fs, "", contents={file: text, "/etc/passwd": f"u:x:{os.getuid()}:1:a:/var/u:/bin/sh\nv:x:1:1:a\n"})
    found = [(each.kind, each.root, each.place) for each in stores(os.path.dirname(root or "/srv/x"))]
    assert found == ([(kind, root, root)] if root else []) and stores("/no") == []


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("dockerd\0--data-root\0/srv/x", "docker"),
        ("dockerd\0--data-root=/srv/x", "docker"),
        ("dockerd\0--config-file\0/opt/own", "docker"),
        ("containerd\0--root\0/srv/x", "containerd"),
        ("containerd\0-c\0/opt/toml", "containerd"),
        ("kubelet\0--root-dir=/srv/x", "kubelet"),
        ("crio\0--root\0/srv/x", "podman"),
        ("incusd\0INCUS_DIR=/srv/x", "incus"),
    ],
)
def test_where_a_daemon_was_told(fs: FakeFilesystem, command: str, kind: str) -> None:
    """Unless the path is another one to it, who is in a container; or a user named a program so.

    Whoever changes the name of his process behind its first word, has no say in whether others are found.
    """
    argv, _, environ = command.partition("\0INCUS")
    comm, environ = f"{argv.partition(chr(0))[0]}\n", f"A=b\0INCUS{environ}\0" if environ else ""
    lay_out(fs, "/proc/7", contents={"comm": comm, "cmdline": argv + "\0", "environ": environ})
    status = fs.create_file("/proc/7/status", contents=b"Name:\tx \xff\nUid:\t0\t0\t0\t0\n")
    lay_out(fs, "/srv/x", "nothing/")
    lay_out(fs, "/container/srv/x", "nothing/")
    lay_out(fs, "", contents={"/opt/own": '{"data-root": "/srv/x"}', "/opt/toml": 'imports = [\n "two.toml", # 2\n]'})
    lay_out(fs, "/opt", contents={"two.toml": 'root = "/srv/x"\n'})
    for root, found in (("/", [kind]), ("/container", [])):
        fs.create_symlink("/proc/7/root", root)
        assert [each.kind for each in stores("/srv")] == found
        fs.remove("/proc/7/root")
    fs.create_symlink("/proc/7/root", "/")
    os.chown("/srv/x", 0, 0)
    for user, owner in ((1000, 0), (1, 1)):
        status.set_contents(f"Uid:\t{user}\t{owner}\t{owner}\t{owner}\n")
        os.chown("/proc/7", owner, owner)
        assert stores("/srv") == []


def test_nobody_waits_for_a_users_pipe(tmp_path: Path) -> None:
    """Or a user could keep the machine from being moved. What has no end is cut."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        text_of(str(tmp_path / "pipe"))
    libvirt = BY_NAME["libvirt"]._replace(pid_files=(f"{tmp_path}/pipe",), processes=())
    assert list(running(libvirt, str(tmp_path), False)) == []
    with open(tmp_path / "large", "wb") as large:
        large.truncate(1 << 30)
    assert len(text_of(str(tmp_path / "large"))) < 1 << 28


def test_a_users_configuration_takes_no_time(fs: FakeFilesystem) -> None:
    """Nor does it raise anything. Each of these was made to be read again from every part of it."""
    home = "/home/u/.config"
    for number, text in enumerate(["a=[\n", "[[", "<!--", "<source ", "<nvram>   ", "a='", "<pool type='dir'><path>"]):
        for file in ("containers/storage.conf.d/{}.conf", "libvirt/qemu/{}.xml", "libvirt/storage/{}.xml"):
            lay_out(fs, home, contents={file.format(number): text * 20_000})
    lay_out(fs, home, contents={"docker/daemon.json": '{"a":[' * 20_000})
    for user, path in (("v", "/\\ud800"), ("w", "/a\\u0000b")):
        lay_out(fs, f"/home/{user}/.config/docker", contents={"daemon.json": f'{{"data-root": "{path}"}}'})
    lay_out(fs, "/var/lib/libvirt", *LIBVIRT)
    assert [each.kind for each in stores("/var/lib")] == ["libvirt"]


def test_a_user_says_nothing_of_others_directories(fs: FakeFilesystem) -> None:
    """Or a migration by root would leave out what a user points at."""
    lay_out(fs, "/var", "tmp/kept", "overlay/x/merged/kept")
    lay_out(fs, "/home/u", ".config/docker/", ".config/containers/", ".local/share/", "own/overlay/x/merged/view")
    lay_out(fs, "/home/u/.config", contents={"docker/daemon.json": '{"data-root": "/var"}'})
    lay_out(fs, "/home/u/.config", contents={"containers/storage.conf": '[storage]\ngraphroot = "/var"'})
    fs.create_symlink("/home/u/.local/share/docker", "/var")
    for path in ("/home/u", "/home/u/own"):
        os.chown(path, 1000, 1000)
    os.chown("/var", 0, 0)
    assert stores("/") == []
    fs.remove_object("/home/u/.config/containers/storage.conf")
    lay_out(fs, "/home/u/.config", contents={"containers/storage.conf": '[storage]\ngraphroot = "/home/u/own"'})
    assert [each.root for each in stores("/")] == ["/home/u/own"]
    fs.remove_object("/home/u/.config/docker/daemon.json")
    lay_out(fs, "/home/u/.config", contents={"docker/daemon.json": "{"})
    assert [each.root for each in stores("/home")] == ["/home/u/own"]


@pytest.mark.parametrize(
    ("root", "tree", "more", "expected"),
    [
        ("/var/lib/containers/storage", PODMAN, ["/etc/containers/storage.conf", "/etc/subuid"],
         {"/etc/containers": False, "/etc/subuid": False}),
        ("/home/u/.local/share/containers/storage", PODMAN, [f"/home/{user}/.config/containers/x" for user in "uv"],
         {"/home/u/.config/containers": False}),
        ("/var/lib/incus", INCUS, ["/etc/subgid"], {"/etc/subgid": False}),
        ("/var/lib/libvirt/images", ("vm1.img",), ["/var/lib/libvirt/qemu/nvram/vm1.fd", "/etc/libvirt/qemu.conf"],
         {"/var/lib/libvirt/qemu": True, "/etc/libvirt": False, "/var/lib/libvirt/images": True}),
        ("/var/lib/kubelet", KUBELET, ["/var/lib/containerd/io.containerd.x/y", "/etc/kubernetes/x", "/var/lib/etcd/x"],
         {"/var/lib/containerd": True, "/etc/kubernetes": False, "/var/lib/etcd": True}),
        ("/var/lib/containerd", CONTAINERD, ["/var/lib/soci-snapshotter-grpc/x"],
         {"/var/lib/soci-snapshotter-grpc": True}),
    ],
)  # fmt: skip
def test_what_else_has_to_be_moved(
    fs: FakeFilesystem, root: str, tree: tuple[str, ...], more: list[str], expected: dict[str, bool]
) -> None:
    lay_out(fs, root, *tree)
    lay_out(fs, "", *(path[1:] for path in more))
    (store,) = stores(f"{root}/")
    assert needed(store) == expected


def test_docker_with_a_mapped_user(fs: FakeFilesystem) -> None:
    """Its folder has a name that the machine's ranges decide. What is around it is no store by itself."""
    lay_out(fs, "/var/lib/docker/9.9", *DOCKER)
    lay_out(fs, "/etc", "subuid", "docker/daemon.jso_")
    (store,) = stores("/var/lib/docker")
    assert (store.root, store.place, store.driver) == (*["/var/lib/docker/9.9"] * 2, "overlay2")
    assert needed(store) == {"/etc/docker": False, "/etc/subuid": False}


@pytest.mark.parametrize(
    ("root", "tree", "file", "text"),
    [
        ("/var/lib/containers/storage", PODMAN, "/etc/containers/storage.conf", '[storage]\nimagestore = "/srv/x"'),
        ("/var/lib/containers/storage", PODMAN, "/usr/share/containers/storage.conf",
         '[storage.options]\nadditionalimagestores = [\n # "/no",\n "/srv/x",\n]'),
        ("/var/lib/containers/storage", PODMAN, "/etc/containers/containers.conf.d/a.conf",
         '[engine]\nvolume_path = "/srv/x"'),
        ("/var/lib/containerd", CONTAINERD, "/etc/containerd/config.toml",
         """version = 3\n[plugins."io.containerd.snapshotter.v1.overlayfs"]\n  root_path = '/srv/x'"""),
        ("/home/u/.local/share/containers/storage", PODMAN, "/home/u/.config/containers/containers.conf",
         '[engine]\nvolume_path = "/srv/x"'),
        ("/var/lib/libvirt", LIBVIRT, "/etc/libvirt/qemu/a.xml", "<nvram template='/no'>/srv/x</nvram>"),
        ("/var/lib/libvirt", LIBVIRT, "/etc/libvirt/lxc/a.xml", "<source dir='/srv/x'/><target dir='/'/>"),
    ],
)  # fmt: skip
def test_what_is_configured_to_be_elsewhere(
    fs: FakeFilesystem, root: str, tree: tuple[str, ...], file: str, text: str
) -> None:
    lay_out(fs, root, *tree)
    lay_out(fs, "", "no", "srv/x/", contents={file: text})
    assert [each.path for each in stores(root)[0].companions if each.content and "/var" not in each.path] == ["/srv/x"]


def test_a_disk_of_a_domain_that_is_somewhere_else(fs: FakeFilesystem) -> None:
    domain = "<disk type='file'><source file='/srv/a&amp;b.img' index='1'/></disk><source dev='/dev/x'/>"
    lay_out(fs, "/var/lib/libvirt", *LIBVIRT)
    lay_out(fs, "", "srv/a&b.img", contents={"/etc/libvirt/qemu/vm1.xml": domain})
    (store,) = stores("/var/lib/libvirt")
    assert [each.path for each in store.companions if each.what == "a domain's disk"] == ["/srv/a&b.img"]


@pytest.mark.parametrize(
    ("root", "tree", "file", "text"),
    [
        ("/var/lib/docker", DOCKER, "containers/c1/config.v2.json", {
            "MountPoints": {**{path: {"Type": "bind", "Source": path} for path in
                               ("/srv/app", "/", "/usr/x", "/run/x", "/etc/localtime", "/srv/none")},
                            "v": {"Type": "volume", "Source": "/var/lib/docker/volumes/v/_data"}}}),
        ("/var/lib/docker", DOCKER, "volumes/w/opts.json",
         {"MountType": "none", "MountOpts": "bind", "MountDevice": "/srv/app"}),
        ("/var/lib/docker", DOCKER, "containers/c1/config.v2.json",
         {"MountPoints": {"x": {"Type": "bind", "Source": "/srv/link"}}}),
        ("/var/lib/containers/storage", PODMAN, "overlay-containers/c1/userdata/config.json", {"mounts": [
            {"type": "bind", "source": "/srv/app"}, {"type": "bind", "source": "/run/x"}, {"type": "proc"}]}),
        ("/home/u/.local/share/docker", DOCKER, "containers/c1/config.v2.json", {"MountPoints": {
            path: {"Type": "bind", "Source": path} for path in ("/srv/app", "/srv/other")}}),
    ],
)  # fmt: skip
def test_what_containers_have_mounted(
    fs: FakeFilesystem, root: str, tree: tuple[str, ...], file: str, text: dict[str, object]
) -> None:
    odd = os.path.join(file.rpartition("/c1")[0] or "volumes", "odd", file.partition("/c1/")[2] or "opts.json")
    number = os.path.join(os.path.dirname(os.path.dirname(odd)), "number", os.path.basename(odd))
    lay_out(fs, root, *tree, contents={file: json.dumps(text), odd: "[1]", number: '{"mounts": 5, "MountPoints": {}}'})
    lay_out(fs, "", "srv/app/", "srv/other/", "usr/x/", "run/x/", "usr/share/zone")
    fs.create_symlink("/etc/localtime", "/usr/share/zone")
    fs.create_symlink("/srv/link", "app")
    os.chown("/srv/other", 77, 77)
    (store,) = stores(root)
    assert [each for each in store.companions if "mounted" in each.what] == [
        Needed("/srv/app", "mounted into a container", True)
    ]


def test_a_pool_that_is_on_a_device(fs: FakeFilesystem) -> None:
    """Its instances have empty folders. One that is in a file goes along."""
    for pool in ("here", "tank", "file"):
        lay_out(fs, f"/var/lib/incus/storage-pools/{pool}", "containers/c1/", "custom/empty/")
    lay_out(fs, "/var/lib/incus", "database/local.db", "storage-pools/here/containers/c1/rootfs/", "disks/file.img")
    (store,) = stores("/var/lib/incus")
    assert [each for each in store.companions if each.content] == [
        Needed("", "what the storage pool tank has in ZFS, LVM or Ceph", True)
    ]


def test_what_runs(fs: FakeFilesystem) -> None:
    """Of a store of this machine. A file of a process that has ended says nothing."""
    lay_out(fs, "/var/lib/libvirt", *LIBVIRT)
    lay_out(fs, "/var/lib/docker", *DOCKER)
    lay_out(fs, "/copy", *DOCKER)
    files = {"/run/libvirt/qemu/vm1.pid": "7\n", "/run/libvirt/qemu/vm2.pid": "8"}
    lay_out(fs, "", contents={**files, "/proc/7/comm": "qemu-system-x86\n", "/proc/9/comm": "dockerd\n"})
    docker, libvirt = stores("/var/lib")
    assert (docker.running, libvirt.running) == (["dockerd (process 9)"], ["vm1 (process 7)"])
    assert stores("/copy")[0].running == []


def test_what_libvirt_itself_runs_is_no_domain(fs: FakeFilesystem) -> None:
    lay_out(fs, "/var/lib/libvirt", *LIBVIRT)
    lay_out(fs, "", contents={"/run/libvirt/qemu/driver.pid": "7", "/proc/7/comm": "libvirtd\n"})
    assert stores("/var/lib/libvirt")[0].running == []


def test_who_runs_on_another_store(fs: FakeFilesystem) -> None:
    """A dockerd is told where it may run on what is moved: it has a file of that open, or none of any data root."""
    for root in ("/var/lib/docker", "/srv/docker"):
        lay_out(fs, root, *DOCKER_29)
    for number, path in (("7", "/var/lib/docker/volumes/metadata.db"), ("8", "/srv/docker/volumes/metadata.db")):
        lay_out(fs, f"/proc/{number}", "fd/", contents={"comm": "dockerd\n"})
        fs.create_symlink(f"/proc/{number}/fd/3", path)
    lay_out(fs, "/proc/9", "fd/", contents={"comm": "dockerd\n"})
    assert stores("/var/lib/docker")[0].running == ["dockerd (process 7)", "dockerd (process 9)"]
    assert stores("/srv/docker")[0].running == ["dockerd (process 8)"]  # whose data root it is nobody has said


@pytest.mark.parametrize(
    ("file", "flags", "rules"),
    [
        ('{"iptables": false}', "", False),
        ('{"iptables": true}', "", True),
        ("{}", "--iptables=false", False),
        ("{}", "--iptables=0", False),
        ("{}", "--iptables", True),
        ("{}", "--config-file\0/etc/own.json", False),
        ("{}", "", True),
    ],
)
def test_dockerd_writes_no_rules_where_it_is_told_so(fs: FakeFilesystem, file: str, flags: str, rules: bool) -> None:
    lay_out(fs, "/var/lib/docker", *DOCKER)
    lay_out(fs, "/etc", contents={"docker/daemon.json": file, "own.json": '{"iptables": false}'})
    lay_out(fs, "/proc/7", contents={"comm": "dockerd\n", "cmdline": f"dockerd\0{flags}\0"})
    (docker,) = stores("/var/lib/docker")
    assert [name in docker.kernel for name in ("NAT", "MASQUERADE", "addrtype", "conntrack")] == [rules] * 4
    assert "bridge" in docker.kernel


@pytest.mark.parametrize(
    ("file", "flags", "goes_on"),
    [('{"live-restore": true}', "", True), ("{}", "--live-restore", True), ("{}", "--live-restore=false", False),
     ("{}", "", False)],
)  # fmt: skip
def test_containers_that_go_on_without_docker(fs: FakeFilesystem, file: str, flags: str, goes_on: bool) -> None:
    lay_out(fs, "/var/lib/docker", *DOCKER)
    lay_out(fs, "", contents={"/etc/docker/daemon.json": file, "/proc/7/comm": "dockerd\n"})
    lay_out(fs, "/proc/7", contents={"cmdline": f"dockerd\0{flags}\0"})
    assert stores("/var/lib/docker")[0].goes_on == goes_on


def test_the_driver_that_dockerd_was_started_with(fs: FakeFilesystem) -> None:
    lay_out(fs, "/var/lib/docker", *DOCKER, "vfs/dir/x")
    lay_out(fs, "/proc/7", contents={"comm": "dockerd\n", "cmdline": "dockerd\0-s\0vfs\0"})
    assert stores("/var/lib/docker")[0].driver == "vfs"
