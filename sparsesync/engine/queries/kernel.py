"""Whether the running kernel has what a store's services need: filesystems, devices, namespaces, cgroups, networking.

The list is that of contrib/check-config.sh of moby, which reads the kernel's configuration alone. Here the kernel is
asked first. It has something if one of these says so::

    in use     /proc/filesystems, /proc/devices and their like; /proc/modules; /sys/module
    to load    modules.dep(5) and modules.builtin
    built in   /proc/config.gz, /boot/config-RELEASE: "y"

What can be a module needs one that is there. Where neither configuration nor modules can be read nothing is known of
what is not in use, and that is said, too. A cgroup controller is what the kernel says it is, since it can be disabled
when the system starts.
"""

import gzip
import os
import platform
from typing import Dict, List, NamedTuple, Optional, Sequence, Set, Tuple


class Part(NamedTuple):
    """A part of a kernel.

    ``option``: in its configuration, without "CONFIG_".
    ``module``: the module's name, "" if it cannot be one.
    ``table``, ``word``: a file that has the word while the kernel has the part; without a word, one that exists.
    """

    option: str
    module: str = ""
    table: str = ""
    word: str = ""


def _namespace(option: str, name: str) -> Part:
    return Part(option, "", "/proc/self/ns/" + name)


_CONTROLLERS = {
    "CGROUP_SCHED": "cpu",
    "CPUSETS": "cpuset",
    "MEMCG": "memory",
    "BLK_CGROUP": "blkio",
    "CGROUP_PIDS": "pids",
    "CGROUP_DEVICE": "devices",
}
_V2_NAMES = {"blkio": "io"}
"""Controllers by their options, and what version 2 calls them: cgroups(7)."""

_Alternative = Tuple[Part, ...]

FEATURES = {
    "aufs": ((Part("AUFS_FS", "aufs", "/proc/filesystems", "aufs"),),),
    "btrfs": ((Part("BTRFS_FS", "btrfs", "/proc/filesystems", "btrfs"),),),
    "overlay": ((Part("OVERLAY_FS", "overlay", "/proc/filesystems", "overlay"),),),
    "zfs": ((Part("ZFS", "zfs", "/proc/filesystems", "zfs"),),),
    "fuse": ((Part("FUSE_FS", "fuse", "/proc/filesystems", "fuse"),),),
    "loop": ((Part("BLK_DEV_LOOP", "loop", "/proc/devices", "loop"),),),
    "device-mapper": ((Part("BLK_DEV_DM", "dm_mod", "/proc/misc", "device-mapper"),),),
    "thin provisioning": ((Part("DM_THIN_PROVISIONING", "dm_thin_pool"),),),
    "namespaces": (tuple(_namespace(name.upper() + "_NS", name) for name in ("net", "pid", "ipc", "uts")),),
    "cgroups": ((Part("CGROUPS", "", "/proc/cgroups"), *(Part(option) for option in _CONTROLLERS
                 if option != "CGROUP_DEVICE")),),
    # Version 2 of cgroups has no controller for this.
    "control of devices": ((Part("CGROUP_DEVICE"),), (Part("CGROUP_BPF"),)),
    "message queues": ((Part("POSIX_MQUEUE", "", "/proc/filesystems", "mqueue"),),),
    "keys": ((Part("KEYS", "", "/proc/keys"),),),
    "user namespaces": ((_namespace("USER_NS", "user"),),),
    "TUN": ((Part("TUN", "tun", "/proc/misc", "tun"),),),
    "veth": ((Part("VETH", "veth"),),),
    "bridge": ((Part("BRIDGE", "bridge"),),),
    "bridges' packet filter": ((Part("BRIDGE_NETFILTER", "br_netfilter"),),),
    "packet filter": (
        (Part("IP_NF_FILTER", "iptable_filter", "/proc/net/ip_tables_names", "filter"),
         Part("IP_NF_RAW", "iptable_raw", "/proc/net/ip_tables_names", "raw")),
        (Part("NF_TABLES", "nf_tables"),),
    ),
    "NAT": (
        (Part("IP_NF_NAT", "iptable_nat", "/proc/net/ip_tables_names", "nat"),),
        (Part("NF_TABLES", "nf_tables"), Part("NFT_NAT", "nft_chain_nat")),
    ),
    "MASQUERADE": (
        (Part("NETFILTER_XT_TARGET_MASQUERADE", "xt_MASQUERADE", "/proc/net/ip_tables_targets", "MASQUERADE"),),
        (Part("IP_NF_TARGET_MASQUERADE", "ipt_MASQUERADE"),),
        (Part("NFT_MASQ", "nft_masq"),),
    ),
    "addrtype": (
        (Part("NETFILTER_XT_MATCH_ADDRTYPE", "xt_addrtype", "/proc/net/ip_tables_matches", "addrtype"),),
        (Part("NFT_FIB", "nft_fib"),),
    ),
    "conntrack": (
        (Part("NETFILTER_XT_MATCH_CONNTRACK", "xt_conntrack", "/proc/net/ip_tables_matches", "conntrack"),),
        (Part("NFT_CT", "nft_ct"),),
    ),
    "KVM": ((Part("KVM", "kvm", "/proc/misc", "kvm"),),),
}  # type: Dict[str, Tuple[_Alternative, ...]]  # fmt: skip
"""What can be asked for: by its name alternatives, each of several parts."""


class Lacking(NamedTuple):
    """What a kernel does not have. ``needs``: the modules and options that are missing, for people."""

    name: str
    needs: str


class Kernel(NamedTuple):
    """What the running kernel lacks, and of what it is ``unknown`` whether it has it. ``release``: uname(2)."""

    release: str
    lacks: List[Lacking]
    unknown: List[str]


def kernel(wanted: Sequence[str]) -> Kernel:
    """Return what the running kernel lacks. ``wanted``: names in FEATURES. Raises ValueError for another."""
    running = _Running()
    lacks: List[Lacking] = []
    unknown: List[str] = []
    for name in wanted:
        if name not in FEATURES:
            raise ValueError("unknown feature of a kernel {!r}".format(name))
        missing: List[str] = []
        verdict: Optional[bool] = False
        for alternative in FEATURES[name]:
            has = [running.has(part) for part in alternative]
            one = False if False in has else None if None in has else True
            verdict = True if True in (one, verdict) else None if None in (one, verdict) else False
            missing.append(", ".join(_shown(part) for part, known in zip(alternative, has) if known is False))
        if verdict is None:
            unknown.append(name)
        elif not verdict:
            lacks.append(Lacking(name, "; or ".join(missing)))
    return Kernel(running.release, lacks, unknown)


def _shown(part: Part) -> str:
    option = "CONFIG_" + part.option
    if part.option in _CONTROLLERS:
        return "{} and cgroup_enable={} at start".format(option, _CONTROLLERS[part.option])
    return "module {}, {}".format(part.module, option) if part.module else option


class _Running:
    """The running kernel."""

    def __init__(self) -> None:
        self.release = platform.release()
        folder = os.path.join("/lib/modules", self.release)
        configurations = ["/proc/config.gz", "/boot/config-" + self.release, os.path.join(folder, "config")]
        self._options = next(filter(None, map(_options, configurations)), None)  # type: Optional[Dict[str, str]]
        listed = [_modules(os.path.join(folder, name)) for name in ("modules.dep", "modules.builtin")]
        self._modules = None if listed == [None, None] else set().union(*filter(None, listed))  # type: Optional[Set[str]]
        self._loaded = {line.split(" ")[0] for line in _text("/proc/modules").splitlines()}
        self._controllers = _controllers()

    def has(self, part: Part) -> Optional[bool]:
        """Return whether the kernel has a part, or None if that cannot be told."""
        if part.option in _CONTROLLERS and self._controllers is not None:
            return _CONTROLLERS[part.option] in self._controllers
        if part.table and (part.word in _text(part.table).split() if part.word else os.path.exists(part.table)):
            return True
        if part.word and not part.module and _text(part.table):
            return False  # what cannot be loaded later is in the table, or not there
        if part.module and (part.module in self._loaded or os.path.isdir("/sys/module/" + part.module)):
            return True
        to_load = None if self._modules is None else part.module in self._modules
        if self._options is None:
            return to_load if part.module else None
        value = self._options.get(part.option, "")
        if value == "m":
            return to_load is not False
        # What is no part of the kernel's own sources is not in its configuration.
        return value == "y" or bool(to_load and part.module)


def _options(path: str) -> "Optional[Dict[str, str]]":
    """Return the options of a configuration that are set, None if it cannot be read."""
    found = {}
    try:
        with gzip.open(path, "rt") if path.endswith(".gz") else open(path) as lines:
            for line in lines:
                name, _, value = line.strip().partition("=")
                if name.startswith("CONFIG_") and value in ("y", "m"):
                    found[name[len("CONFIG_") :]] = value
    except (OSError, EOFError, UnicodeError):
        return None
    return found


def _modules(path: str) -> "Optional[Set[str]]":
    """Return the names of the modules in a list, as the kernel has them, None if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as listed:
            paths = [line.partition(":")[0].strip() for line in listed]
    except OSError:
        return None
    return {os.path.basename(each).partition(".ko")[0].replace("-", "_") for each in paths}


def _controllers() -> "Optional[Set[str]]":
    """Return the controllers that are enabled, by their names in version 1; None if that cannot be told."""
    rows = [line.split() for line in _text("/proc/cgroups").splitlines() if not line.startswith("#")]
    found = {row[0] for row in rows if row[-1] == "1"}
    words = _text("/sys/fs/cgroup/cgroup.controllers").split()
    found.update(next((old for old, new in _V2_NAMES.items() if new == word), word) for word in words)
    return found or None


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
