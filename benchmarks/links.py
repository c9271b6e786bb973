"""Another host, as far as ssh can tell: an sshd in a network namespace, behind a pair of virtual interfaces.

The interface counts what passes, in both directions and with the headers of all layers (those of a packet that the
interface is to divide are counted once); that is "on the wire" in the results.
The link is as fast as the machine, or shaped: by netem at both interfaces, if the kernel has it, else, and where each
connection is to have a part of the link, by :mod:`relay`; the results say which (``Host.shaped_by``). A delay is that
of a round trip, half of it each way.

The server's keys and configurations, and the client's, are made in one directory and gone with it. With the client's
configuration (``ssh -F``) any name leads to the host. While the file ``Host.accounts`` exists, each command that is run
on the host is accounted for by :mod:`starter` and described there in a line.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .places import command
from .relay import relay

MBIT = 1_000_000 / 8
NEEDS = ("root", "ip", "tc", "ssh", "sshd", "ssh-keygen")

_PORT = 22
_LOOPBACK_MTU, _ETHERNET_MTU = "65535", "1500"


@dataclass(frozen=True)
class Link:
    """Bytes per second in each direction (None: as fast as it goes), and the round trip in seconds.

    ``each``: bytes per second in each direction that one connection gets, which the kernel does not shape.
    """

    name: str
    rate: float | None = None
    round_trip: float = 0.0
    each: float | None = None


LINKS = [Link("loopback"), Link("1G", 1000 * MBIT, 0.020), Link("100M", 100 * MBIT, 0.020)]


@dataclass(frozen=True)
class Host:
    """The other host. ``rsh`` is what goes to ``-e``."""

    client: Path
    accounts: Path
    interface: str
    shaped_by: str | None

    @property
    def rsh(self) -> str:
        return f"ssh -F {self.client}"

    def wire(self) -> int:
        """The bytes that have passed so far, both ways."""
        counters = Path("/sys/class/net") / self.interface / "statistics"
        return sum(int((counters / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


@contextlib.contextmanager
def host(link: Link, directory: Path) -> Iterator[Host]:
    """A host behind a link. Needs root; raises RuntimeError if there is no making one."""
    directory.mkdir()
    # sshd refuses keys below a directory that others may write to.
    directory.chmod(0o700)
    with contextlib.ExitStack() as stack:
        mtu = _LOOPBACK_MTU if link.rate is None else _ETHERNET_MTU
        interface, address, namespace = stack.enter_context(_network(mtu))
        shaped_by = None
        near, port = address, _PORT
        if link.rate is not None:
            if link.each is None and _netem(interface, namespace, link):
                shaped_by = "netem"
            else:
                shaped_by = "a relay in user space"
                near = "127.0.0.1"
        _configure(directory, address)
        stack.enter_context(_sshd(directory, address, namespace))
        if near == "127.0.0.1" and link.rate is not None:
            port = stack.enter_context(relay(address, _PORT, link.rate, link.round_trip / 2, link.each or math.inf))
        client = directory / "client"
        client.write_text(client.read_text().format(near=near, port=port))
        yield Host(client, directory / "accounts", interface, shaped_by)


@contextlib.contextmanager
def _network(mtu: str) -> Iterator[tuple[str, str, str]]:
    """A namespace behind an interface of ours: the interface's name, the address there and the namespace's name."""
    number = os.getpid() % 16000
    namespace, near, far = f"bench{number}", f"bench{number}n", f"bench{number}f"
    # A part of the network that is set aside for benchmarks: RFC 2544.
    net = f"198.{18 + number // 8192}.{number // 64 % 128 * 2 + number % 2}.{number // 2 % 32 * 4}"
    base, last = net.rsplit(".", 1)
    here, there = f"{base}.{int(last) + 1}", f"{base}.{int(last) + 2}"
    with contextlib.ExitStack() as stack:
        command("ip", "netns", "add", namespace)
        stack.callback(command, "ip", "netns", "del", namespace)
        command("ip", "link", "add", near, "mtu", mtu, "type", "veth",
                "peer", "name", far, "mtu", mtu, "netns", namespace)  # fmt: skip
        # The namespace takes its interface with it, and that one the other; only not before its last process has ended.
        stack.callback(subprocess.run, ["ip", "link", "del", near], stderr=subprocess.DEVNULL)
        stack.callback(_end_all, namespace)
        command("ip", "address", "add", f"{here}/30", "dev", near)
        command("ip", "link", "set", near, "up")
        command("ip", "-n", namespace, "address", "add", f"{there}/30", "dev", far)
        command("ip", "-n", namespace, "link", "set", far, "up")
        command("ip", "-n", namespace, "link", "set", "lo", "up")
        yield near, there, namespace


def _end_all(namespace: str) -> None:
    for pid in command("ip", "netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _netem(interface: str, namespace: str, link: Link) -> bool:
    """Shape both directions in the kernel, if it can."""
    assert link.rate is not None
    shape = [
        "root", "netem", "delay", f"{link.round_trip * 500:g}ms", "rate", f"{link.rate * 8:.0f}bit", "limit", "20000",
    ]  # fmt: skip
    if subprocess.run(["tc", "qdisc", "add", "dev", interface, *shape], stderr=subprocess.DEVNULL).returncode:
        return False
    far = interface[:-1] + "f"
    command("tc", "-n", namespace, "qdisc", "add", "dev", far, *shape)
    return True


def _configure(directory: Path, address: str) -> None:
    for name in ("host_key", "user_key"):
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name)
    shutil.copy(directory / "user_key.pub", directory / "authorized")
    (directory / "known").write_text(f"* {(directory / 'host_key.pub').read_text()}")
    starter = Path(__file__).with_name("starter.py")
    # While it is there, the command is run by the starter; else by a shell, as sshd does it.
    forced = directory / "forced"
    forced.write_text(
        f"""[ ! -e {directory}/accounts ] ||
    exec {sys.executable} -I -S {starter} far {directory}/accounts "$SSH_ORIGINAL_COMMAND"
exec sh -c "$SSH_ORIGINAL_COMMAND"
"""
    )
    # sshd alone refuses an account that is locked, even with a key; and root is, where its password was never set.
    locked = any(line.startswith("root:!") for line in Path("/etc/shadow").read_text().splitlines())
    # What the user's shell does at the start of a session is nobody's work here: bash skips it in an inner shell.
    (directory / "server").write_text(
        f"""Port {_PORT}
ListenAddress {address}
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized
PidFile none
StrictModes no
UsePAM {"yes" if locked else "no"}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
ForceCommand exec sh {forced}
MaxStartups 100
SetEnv SHLVL=1
"""
    )
    (directory / "client").write_text(
        f"""Host *
  HostName {{near}}
  Port {{port}}
  User root
  HostKeyAlias bench
  IdentityFile {directory}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel ERROR
"""
    )


@contextlib.contextmanager
def _sshd(directory: Path, address: str, namespace: str) -> Iterator[None]:
    Path("/run/sshd").mkdir(exist_ok=True)
    program = shutil.which("sshd") or "sshd"
    server = subprocess.Popen(
        ["ip", "netns", "exec", namespace, program, "-D", "-f", directory / "server", "-E", directory / "log"],
        stdin=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection((address, _PORT), 1):
                break
            if server.poll() is not None:
                raise RuntimeError(f"sshd has ended: {(directory / 'log').read_text()}")
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()
