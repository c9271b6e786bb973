"""What the running kernel has: told by its tables, its modules and its configuration."""

from __future__ import annotations

import gzip
import platform

import pytest
from pyfakefs.fake_filesystem import FakeFilesystem

from sparsesync.engine.queries.kernel import Kernel
from sparsesync.engine.queries.registry import answer_query
from tests.support.fake import lay_out

RELEASE = platform.release()


def asked(*wanted: str) -> Kernel:
    found = answer_query("kernel", wanted=[*wanted])
    assert isinstance(found, Kernel) and found.release == RELEASE
    return found


@pytest.mark.parametrize(
    ("path", "text", "has"),
    [
        ("/proc/filesystems", "nodev\tproc\n\txfs\n\tbtrfs\nnodev\toverlay\n", {"btrfs", "overlay"}),
        ("/proc/devices", "Block devices:\n  7 loop\n", {"loop"}),
        ("/proc/misc", "236 device-mapper\n", {"device-mapper"}),
        ("/proc/modules", "xt_MASQUERADE 16384 1 - Live 0x0\nnft_chain_nat 1 0 - Live 0\n", {"MASQUERADE"}),
        ("/proc/net/ip_tables_names", "filter\nnat\n", {"NAT"}),
        ("/sys/module/bridge/refcnt", "0", {"bridge"}),
        ("/lib/modules/R/modules.dep", "kernel/fs/btrfs/btrfs.ko.xz: kernel/lib/crc.ko\n", {"btrfs"}),
        ("/lib/modules/R/modules.dep", "kernel/drivers/md/dm-mod.ko:\n", {"device-mapper"}),
        ("/lib/modules/R/modules.builtin", "kernel/drivers/block/loop.ko\n", {"loop"}),
        ("/lib/modules/R/modules.dep", "k/nf_tables.ko:\nk/nft_chain_nat.ko:\nk/nft_masq.ko:\n", {"NAT", "MASQUERADE"}),
        ("/lib/modules/R/modules.dep", "kernel/fs/btrfs/notbtrfs.ko: kernel/fs/btrfs.ko\n", set()),
        ("/boot/config-R", "CONFIG_OVERLAY_FS=y\n# CONFIG_VETH is not set\nCONFIG_BRIDGE=m\n", {"overlay", "bridge"}),
    ],
)  # fmt: skip
def test_what_the_kernel_has(fs: FakeFilesystem, path: str, text: str, has: set[str]) -> None:
    wanted = ["btrfs", "overlay", "loop", "device-mapper", "NAT", "MASQUERADE", "bridge", "veth"]
    lay_out(fs, "", contents={path.replace("R/", f"{RELEASE}/").replace("-R", f"-{RELEASE}"): text})
    found = asked(*wanted)
    assert {*wanted} - {each.name for each in found.lacks} - {*found.unknown} == has
    # Without lists of what could be loaded nothing is known of what is not.
    assert bool(found.unknown) == (not path.startswith(("/lib", "/boot"))) and bool(found.lacks) != bool(found.unknown)


@pytest.mark.parametrize(
    ("files", "has"),
    [
        ({"/proc/filesystems": "nodev\tmqueue\n", "/proc/cgroups": "#subsys\ndevices 6 4 1\n"},
         {"message queues", "control of devices"}),
        ({"/proc/filesystems": "nodev\tproc\n", "/boot/config-R": "CONFIG_CGROUP_BPF=y\nCONFIG_NF_TABLES=y\n"},
         {"control of devices", "packet filter"}),
        ({"/boot/config-R": "CONFIG_IP_NF_FILTER=y\nCONFIG_IP_NF_RAW=y\n"}, {"packet filter"}),
        ({"/proc/filesystems": "nodev\tproc\n", "/boot/config-R": "CONFIG_IP_NF_FILTER=y\n"}, set()),
    ],
)  # fmt: skip
def test_what_containers_need(fs: FakeFilesystem, files: dict[str, str], has: set[str]) -> None:
    wanted = ["message queues", "control of devices", "packet filter"]
    lay_out(fs, "", contents={path.replace("-R", f"-{RELEASE}"): text for path, text in files.items()})
    found = asked(*wanted)
    assert {*wanted} - {each.name for each in found.lacks} - {*found.unknown} == has
    assert "message queues" not in found.unknown  # it is no module, so that a table without it says enough


def test_the_module_or_the_option_that_is_missing_is_named(fs: FakeFilesystem) -> None:
    """What is to be a module needs one: not all of them are installed everywhere."""
    lay_out(fs, "", "proc/", contents={f"/lib/modules/{RELEASE}/modules.dep": "kernel/net/bridge/bridge.ko:\n"})
    fs.create_file(
        "/proc/config.gz", contents=gzip.compress(b"CONFIG_BRIDGE=m\nCONFIG_OVERLAY_FS=m\nCONFIG_NET_NS=y\n")
    )
    assert [(each.name, each.needs) for each in asked("bridge", "overlay", "NAT", "namespaces").lacks] == [
        ("overlay", "module overlay, CONFIG_OVERLAY_FS"),
        ("NAT", "module iptable_nat, CONFIG_IP_NF_NAT; or module nf_tables, CONFIG_NF_TABLES, module nft_chain_nat, "
                "CONFIG_NFT_NAT"),
        ("namespaces", "CONFIG_PID_NS, CONFIG_IPC_NS, CONFIG_UTS_NS"),
    ]  # fmt: skip


CGROUPS = (
    "#subsys_name hierarchy num_cgroups enabled\ncpuset 0 1 1\ncpu 0 1 1\nmemory 0 1 {}\nblkio 0 1 1\npids 0 1 1\n"
)


@pytest.mark.parametrize(
    ("files", "lacks"),
    [
        ({"/proc/cgroups": CGROUPS.format(1)}, []),
        ({"/proc/cgroups": CGROUPS.format(0)}, ["CONFIG_MEMCG and cgroup_enable=memory at start"]),
        ({"/proc/cgroups": CGROUPS.format(0), "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}, []),
        ({"/proc/cgroups": "#\n", "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu memory pids\n"},
         ["CONFIG_BLK_CGROUP and cgroup_enable=blkio at start"]),
    ],
)  # fmt: skip
def test_cgroup_controllers(fs: FakeFilesystem, files: dict[str, str], lacks: list[str]) -> None:
    """A controller that is disabled at the start, as memory is on some boards, is in the configuration all the same."""
    config = "".join(f"CONFIG_{name}=y\n" for name in ("CGROUPS", "MEMCG", "BLK_CGROUP", "CPUSETS", "CGROUP_PIDS"))
    lay_out(fs, "", contents={**files, f"/boot/config-{RELEASE}": config})
    assert [each.needs for each in asked("cgroups").lacks] == lacks


def test_an_unknown_feature() -> None:
    with pytest.raises(ValueError, match="unknown feature of a kernel 'warp'"):
        answer_query("kernel", wanted=["warp"])
