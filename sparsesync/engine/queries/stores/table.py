"""The kinds of stores that are known, as data: where they are, what of them is no data, what belongs with them.

Each kind names the documentation, or the program, that its paths are from. In a path ``~`` is each home directory of
the machine. Paths of ``views`` and ``marks`` are below the root.
"""

from typing import NamedTuple, Tuple, Union

_SCRATCH = "scratch space, new after every start"
_RUNTIME = "what running services know of each other, new after every start"
_MOUNTED = "where something else is mounted"
_LAYERS_VIEW = "the driver's view of a running container; the layers below it are copied"


class View(NamedTuple):
    """What is left out of a store: everything at ``path`` followed by ``wildcard``."""

    path: str
    wildcard: str
    reason: str


class Setting(NamedTuple):
    """Where a path is configured: the ``keys`` in files of a ``format``.

    ``files``: a glob.
    ``format``: "json", "toml", or of libvirt's XML "pool" or "domain".
    ``keys``: of JSON, the first that is there counts; of TOML each, with its table before it; of a domain the names
    of elements, and of attributes of its sources.
    """

    files: str
    format: str
    keys: Tuple[str, ...] = ()


class Daemon(NamedTuple):
    """The flags, or variables, by which a ``process`` is told its ``root``, or the ``file`` of the first setting."""

    process: str
    root: Tuple[str, ...]
    file: Tuple[str, ...] = ()


class Companion(NamedTuple):
    """What has to be moved as well.

    ``path``: a glob; ``=`` and a kind, for the roots of that; or where the paths are configured.
    ``what``: what it has, for people.
    ``driver``: only where the name of one of the store's drivers begins so.
    ``root``: only for roots whose paths fit this pattern.
    """

    path: Union[str, Setting]
    what: str
    driver: str = ""
    root: str = "*"


class Kind(NamedTuple):
    """A kind of store.

    ``name``: that of its preset.
    ``title``, ``program``: what a person calls it, and what runs on it.
    ``roots``: where it is unless configured otherwise, as ``settings`` and ``daemons`` that run tell.
    ``marks``: globs, any of which a root of this kind has.
    ``views``: what is mounted, derived or the state of what runs.
    ``drivers``: each a name and a glob. The name "/" stands for the last word of each folder below the root that the
    glob has found something in.
    ``layers``: folders with layers of overlayfs.
    ``subvolumes``: folders with subvolumes of btrfs.
    ``inside``: globs of folders below the root, and of which kind they are. One of another kind is a part of the
    root's; one of the same kind is a root of its own.
    ``images``: globs of files below the root that may be images of disks with backing files elsewhere.
    ``binds``: globs of files below the root that have the mounts of containers, or of a volume (:mod:`.binds`).
    ``instances``: globs of folders that are empty if what they are for is on a device, or another machine. The second
    folder from the root is the pool, and disks/POOL.img has all of one.
    ``companions``: what else is needed.
    ``processes``: the names of what runs, as in /proc/PID/comm; ``pid_files``: globs of files with their numbers, each
    called by what runs there.
    ``held``: globs of files below the root, one of which a process that runs on it has open.
    ``stop``: how to stop it.
    ``kernel``: what it asks of a kernel, whichever its driver is (:mod:`..kernel`).
    ``bound``: why it has to keep its path; "" if it need not.
    """

    name: str
    title: str
    program: str
    roots: Tuple[str, ...]
    marks: Tuple[str, ...]
    views: Tuple[View, ...]
    settings: Tuple[Setting, ...] = ()
    daemons: Tuple[Daemon, ...] = ()
    drivers: Tuple[Tuple[str, str], ...] = ()
    layers: Tuple[str, ...] = ()
    subvolumes: Tuple[str, ...] = ()
    inside: Tuple[Tuple[str, str], ...] = ()
    images: Tuple[str, ...] = ()
    binds: Tuple[str, ...] = ()
    instances: Tuple[str, ...] = ()
    companions: Tuple[Companion, ...] = ()
    processes: Tuple[str, ...] = ()
    pid_files: Tuple[str, ...] = ()
    held: Tuple[str, ...] = ()
    stop: str = ""
    kernel: Tuple[str, ...] = ()
    bound: str = ""


DAEMON_JSON = "/etc/docker/daemon.json"

FIREWALL = ("packet filter", "bridges' packet filter", "NAT", "MASQUERADE", "addrtype", "conntrack")
_CONTAINERS = ("namespaces", "cgroups", "control of devices", "message queues", "keys", "veth", "bridge")
_ENGINE = (*_CONTAINERS, *FIREWALL)
"""What contrib/check-config.sh of moby calls necessary for containers and the default bridge network.

The first is what the rules are made of that dockerd writes unless it is told not to.
"""

OF_USERS = ("user namespaces", "TUN")
"""What containers of who is not root need besides."""

_CONTAINERD = "the images and the containers' layers"
_SUBIDS = (
    Companion("/etc/subuid", "the users that containers' owners are mapped to"),
    Companion("/etc/subgid", "the groups that containers' owners are mapped to"),
)

_STORAGE_CONF = tuple(
    folder + name
    for folder in ("/usr/share/containers/", "/etc/containers/", "~/.config/containers/")
    for name in ("storage.conf", "storage.conf.d/*.conf")
)
_CONTAINERS_CONF = tuple(path.replace("storage.conf", "containers.conf") for path in _STORAGE_CONF)
_CRIO_CONF = ("/etc/crio/crio.conf", "/etc/crio/crio.conf.d/*")

# containers-storage.conf(5), containers.conf(5), crio.conf(5); the layout is that of the storage library's drivers,
# and of libpod's "userdata".
PODMAN = Kind(
    "podman",
    "a store of podman, Buildah or CRI-O",
    "podman",
    roots=("/var/lib/containers/storage", "~/.local/share/containers/storage"),
    settings=(
        *(Setting(files, "toml", ("storage.graphroot", "storage.rootless_storage_path")) for files in _STORAGE_CONF),
        *(Setting(files, "toml", ("crio.root",)) for files in _CRIO_CONF),
    ),
    daemons=(Daemon("crio", ("--root", "-r")),),
    marks=(
        "overlay-images", "overlay-layers", "overlay-containers", "vfs-images", "vfs-layers", "btrfs-images",
        "zfs-images", "libpod/bolt_state.db",
    ),
    views=(
        View("overlay", "/*/merged/*", _LAYERS_VIEW),
        View("overlay", "/staging/*", "downloads under way"),
        *(View(driver + "-containers", "/*/userdata/shm/*", _SCRATCH) for driver in ("overlay", "vfs", "btrfs", "zfs")),
    ),
    drivers=(("overlay", "overlay/*"), ("btrfs", "btrfs/subvolumes"), ("zfs", "zfs/*"), ("vfs", "vfs/dir")),
    layers=("overlay",),
    subvolumes=("btrfs/subvolumes",),
    binds=("*-containers/*/userdata/config.json",),
    companions=(
        *(Companion(Setting(files, "toml", ("storage.imagestore", "storage.options.additionalimagestores")), "images")
          for files in _STORAGE_CONF),
        *(Companion(Setting(files, "toml", ("engine.volume_path", "engine.static_dir")), "volumes, or its database")
          for files in _CONTAINERS_CONF),
        Companion("/etc/containers", "its configuration and its networks"),
        Companion("/etc/crio", "the configuration of CRI-O"),
        Companion("~/.config/containers", "its configuration"),
        *_SUBIDS,
    ),
    processes=("conmon", "crio"),
    held=("*-containers/*/userdata/ctl",),
    stop="podman stop --all, as each user who has containers",
    kernel=_ENGINE,
    bound="its database names it",
)  # fmt: skip

_REMAPPED = "[0-9]*.[0-9]*"

# dockerd(8); "Isolate containers with a user namespace" and "Select a storage driver" and "containerd image store" in
# Docker's documentation; moby's daemon/ for engine-id, network, volumes and rootfs, where a container of the image
# store is mounted.
DOCKER = Kind(
    "docker",
    "a Docker data root",
    "Docker",
    roots=("/var/lib/docker", "/var/snap/docker/common/var-lib-docker", "~/.local/share/docker"),
    # "graph" is what data-root was called before Docker 17.05.
    settings=tuple(Setting(file, "json", ("data-root", "graph")) for file in (
        DAEMON_JSON, "~/.config/docker/daemon.json", "/var/snap/docker/current/config/daemon.json")),
    daemons=(Daemon("dockerd", ("--data-root", "-g", "--graph"), ("--config-file",)),),
    # A storage driver's folder, and in it what that driver makes. The folder's name alone says nothing: a kernel's
    # sources have an fs/btrfs.
    marks=(
        "devicemapper/devicemapper", "devicemapper/mnt", "overlay2/*/diff", "overlay2/l", "overlay/*/upper",
        "aufs/diff", "fuse-overlayfs/*/diff", "fuse-overlayfs/l", "zfs/graph", "btrfs/subvolumes", "vfs/dir",
        "engine-id", "network/files/local-kv.db", "volumes/metadata.db", "containers/*/config.v2.json",
    ),
    # btrfs and vfs have no views: what is there is the data.
    views=(
        View("devicemapper/mnt", "/*", _LAYERS_VIEW),
        View("overlay2", "/*/merged/*", _LAYERS_VIEW),
        View("overlay", "/*/merged/*", _LAYERS_VIEW),
        View("fuse-overlayfs", "/*/merged/*", _LAYERS_VIEW),
        View("aufs/mnt", "/*", _LAYERS_VIEW),
        View("zfs/graph", "/*", _LAYERS_VIEW),
        View("rootfs", "/*/*/*", _LAYERS_VIEW),
        View("containers", "/*/mounts/*/*", _SCRATCH),
        View("tmp", "/*", _SCRATCH),
    ),
    # In dockerd's order of preference.
    drivers=tuple((name, name + "/*") for name in (
        "overlay2", "fuse-overlayfs", "btrfs", "zfs", "overlay", "aufs", "devicemapper", "vfs")),
    layers=("overlay2", "overlay", "aufs", "fuse-overlayfs"),
    subvolumes=("btrfs/subvolumes",),
    binds=("containers/*/config.v2.json", "volumes/*/opts.json"),
    # With "userns-remap" all is in a folder that has the numbers of the mapped user.
    inside=(("containerd/daemon", "containerd"), (_REMAPPED, "docker")),
    companions=(
        Companion("=containerd", _CONTAINERD, "containerd"),
        Companion("/etc/docker", "its configuration"),
        *(each._replace(root="*/" + _REMAPPED) for each in _SUBIDS),
    ),
    processes=("dockerd",),
    held=("volumes/metadata.db", "network/files/local-kv.db"),
    stop="systemctl stop docker.socket docker",
    kernel=_ENGINE,
    bound="its containers name their volumes by it",
)  # fmt: skip

_CONTAINERD_CONF = tuple(
    folder + name
    for folder in ("/etc/containerd/", "~/.config/containerd/")
    for name in ("config.toml", "conf.d/*.toml")
)

# containerd-config.toml(5); docs/ops.md of containerd, "Base Configuration", for what its plugins keep where.
CONTAINERD = Kind(
    "containerd",
    "a containerd root",
    "containerd",
    roots=(
        "/var/lib/containerd", "/var/lib/rancher/k3s/agent/containerd", "/var/lib/rancher/rke2/agent/containerd",
        "/var/snap/microk8s/common/var/lib/containerd", "/var/lib/k0s/containerd", "~/.local/share/containerd",
    ),
    settings=tuple(Setting(files, "toml", ("root",)) for files in _CONTAINERD_CONF),
    daemons=(Daemon("containerd", ("--root",), ("-c", "--config")),),
    marks=("io.containerd.*",),
    views=(
        View("io.containerd.runtime.v2.task", "/*", _RUNTIME),
        View("io.containerd.runtime.v1.linux", "/*", _RUNTIME),
        View("io.containerd.content.v1.content", "/ingest/*", "downloads under way"),
        View("tmpmounts", "/*", _LAYERS_VIEW),
    ),
    # Every snapshotter has a folder, and the one that is used has something in it. containerd's default comes first.
    drivers=(("overlayfs", "io.containerd.snapshotter.v1.overlayfs/*/*"),
             ("zfs", "io.containerd.snapshotter.v1.zfs/metadata.db"),
             ("devmapper", "io.containerd.snapshotter.v1.devmapper/metadata.db"),
             ("/", "io.containerd.snapshotter.v1.*/*/*")),
    layers=("io.containerd.snapshotter.v1.overlayfs/snapshots",
            "io.containerd.snapshotter.v1.fuse-overlayfs/snapshots"),
    subvolumes=tuple("io.containerd.snapshotter.v1.btrfs/" + name for name in ("view", "active", "snapshots")),
    companions=(
        Companion("=docker", "Docker's containers, volumes and networks"),
        *(Companion(Setting(files, "toml", ("plugins.*.root_path",)), "a plugin's content, or layers")
          for files in _CONTAINERD_CONF),
        Companion("/var/lib/*-grpc", "the layers of a snapshotter of its own"),
        Companion("/etc/containerd", "its configuration"),
        Companion("~/.config/containerd", "its configuration"),
        Companion("/var/lib/nerdctl", "nerdctl's containers and volumes"),
        Companion("~/.local/share/nerdctl", "nerdctl's containers and volumes"),
        Companion("/etc/cni", "its networks"),
        Companion("~/.config/cni", "its networks"),
    ),
    processes=("containerd", "containerd-shim*"),
    held=("io.containerd.metadata.v1.bolt/meta.db",),
    stop="stop the containers, then systemctl stop containerd; of K3s by k3s-killall.sh, of RKE2 by rke2-killall.sh",
    kernel=_CONTAINERS,
)  # fmt: skip


def _lxd(name: str, program: str, roots: "Tuple[str, ...]", daemon: str, stop: str) -> Kind:
    # "Backing up", "Full backup", in the documentation of Incus and of LXD; internal/server/sys in their sources for
    # what is mounted: a tmpfs of sockets for guests, one to hand mounts over, and the devices of what runs.
    return Kind(
        name,
        "the directory of " + program,
        program,
        roots=roots,
        marks=("database/global", "database/local.db", "lxd.db"),
        views=(
            View("devices", "/*", _RUNTIME),
            View("devlxd", "/*", _MOUNTED),
            View("guestapi", "/*", _MOUNTED),
            View("shmounts", "/*", _MOUNTED),
            View("unix.socket", "", _RUNTIME),
        ),
        drivers=(("btrfs", "storage-pools/*/.btrfs"),),
        instances=("storage-pools/*/containers/*", "storage-pools/*/virtual-machines/*"),
        subvolumes=("storage-pools/*/containers", "storage-pools/*/virtual-machines", "storage-pools/*/images"),
        daemons=(Daemon(daemon, (name.upper() + "_DIR",)),),
        companions=_SUBIDS,
        processes=(daemon,),
        held=("database/local.db", "lxd.db"),
        stop=stop,
        kernel=("namespaces", "cgroups", "veth", "bridge"),
        bound="its database names the storage pools by it",
    )


INCUS = _lxd("incus", "Incus", ("/var/lib/incus",), "incusd", "incus admin shutdown")
LXD = _lxd("lxd", "LXD", ("/var/lib/lxd", "/var/snap/lxd/common/lxd"), "lxd", "lxd shutdown")

_DOMAINS = (
    (("file",), "a domain's disk"),
    (("dev",), "a domain's disk, a block device: sparsesync copy takes it"),
    (("dir", "nvram", "kernel", "initrd", "dtb"), "a domain's"),
)

# The directories of Debian's libvirt-daemon-system; "Domain XML format" and "Storage pool XML format" in libvirt's
# documentation; src/qemu/qemu_conf.c in its source for what is below qemu/.
LIBVIRT = Kind(
    "libvirt",
    "a directory of libvirt",
    "libvirt",
    roots=("/var/lib/libvirt", "/var/lib/libvirt/images", "~/.local/share/libvirt"),
    settings=tuple(Setting(folder + "/libvirt/storage/*.xml", "pool") for folder in ("/etc", "~/.config")),
    images=("*", "images/*"),
    marks=("qemu/nvram", "qemu/save", "qemu/snapshot", "qemu/channel/target", "dnsmasq/default.conf"),
    views=(
        View("qemu", "/domain-*", _RUNTIME),
        View("qemu", "/channel/target/*", _RUNTIME),
        View("qemu", "/ram/*", "the memory of machines that run"),
    ),
    companions=(
        Companion("/etc/libvirt", "the domains, networks and pools"),
        Companion("/var/lib/libvirt/qemu", "saved machines, snapshots and UEFI variables"),
        Companion("/var/lib/libvirt/swtpm", "the keys of virtual TPMs"),
        Companion("/var/lib/libvirt/images", "images of disks"),
        *(Companion(Setting(folder + "/libvirt/*/*.xml", "domain", keys), what)
          for folder in ("/etc", "~/.config") for keys, what in _DOMAINS),
        Companion(Setting("/etc/libvirt/storage/*.xml", "pool"), "a storage pool"),
    ),
    pid_files=("/run/libvirt/qemu/*.pid", "/run/user/*/libvirt/qemu/run/*.pid"),
    processes=("qemu*", "kvm*"),
    stop="virsh shutdown each domain that runs",
    kernel=("KVM",),
    bound="the domains name their disks by it",
)  # fmt: skip

# "Local Files And Paths Used By The Kubelet" and "Node Resource Managers" in Kubernetes' documentation; pkg/volume in
# its source for the names of the volumes' plugins.
KUBELET = Kind(
    "kubelet",
    "the directory of Kubernetes' kubelet",
    "the kubelet",
    roots=("/var/lib/kubelet", "/var/snap/microk8s/common/var/lib/kubelet", "/var/lib/k0s/kubelet"),
    daemons=(Daemon("kubelet", ("--root-dir",)),),
    marks=("pods/*/etc-hosts", "pods/*/volumes", "pki/kubelet*", "cpu_manager_state", "device-plugins/kubelet.sock"),
    views=(
        *(View("pods", "/*/volumes/kubernetes.io~{}/*".format(volume), "written anew by the kubelet")
          for volume in ("secret", "configmap", "projected", "downward-api")),
        *(View("pods", "/*/volumes/kubernetes.io~{}/*/*".format(volume), _MOUNTED)
          for volume in ("nfs", "iscsi", "fc", "cephfs", "rbd", "glusterfs", "local-volume")),
        View("pods", "/*/volumes/kubernetes.io~csi/*/mount/*", _MOUNTED),
        View("pods", "/*/volume-subpaths/*", _MOUNTED),
        View("plugins", "/kubernetes.io/csi/*/*/globalmount/*", _MOUNTED),
        View("plugins_registry", "/*", _RUNTIME),
        View("device-plugins", "/*", _RUNTIME),
        View("pod-resources", "/*", _RUNTIME),
        *(View(name + "_manager_state", "", "with another machine's processors or memory the kubelet does not start")
          for name in ("cpu", "memory", "dra")),
    ),
    companions=(
        Companion("/etc/kubernetes", "the node's certificates and configuration"),
        Companion("/etc/rancher", "the node's configuration"),
        Companion("/var/lib/etcd", "the cluster's state"),
        Companion("/var/lib/rancher", "the state of K3s or RKE2"),
        Companion("/var/lib/k0s", "the state of k0s"),
        Companion("/etc/k0s", "the node's configuration"),
        Companion("/var/snap/microk8s", "the state of MicroK8s"),
        Companion("=containerd", _CONTAINERD),
        Companion("=podman", _CONTAINERD),
        Companion("/etc/cni", "the pods' networks"),
        Companion("/var/lib/cni", "the pods' addresses"),
    ),
    processes=("kubelet", "k3s*", "kubelite"),
    stop="kubectl drain the node, then systemctl stop kubelet, or k3s, rke2-*, k0s*; or microk8s stop",
    kernel=_ENGINE,
    bound="the pods' volumes are mounted by it",
)  # fmt: skip

KINDS = (PODMAN, DOCKER, CONTAINERD, INCUS, LXD, LIBVIRT, KUBELET)
"""A root is of the first kind that it looks like: podman's has folders that Docker's has too."""

BY_NAME = {kind.name: kind for kind in KINDS}
