"""A real sshd on 127.0.0.1, with keys and a configuration of its own.

Everything it needs is made in one directory and gone with it; neither the machine's own sshd nor the
user's ~/.ssh is touched. ``Sshd.rsh`` is what goes to ``-e``; any host name leads to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.filesystems import command, need_root, need_tools


@dataclass(frozen=True)
class Sshd:
    """A running server. ``directory`` holds its log and the client's configuration."""

    directory: Path
    port: int

    @property
    def client_config(self) -> Path:
        return self.directory / "client"

    @property
    def rsh(self) -> str:
        return f"ssh -F {self.client_config}"

    def logins(self) -> int:
        """How often somebody has logged in."""
        return (self.directory / "log").read_text().count("Accepted publickey")


@contextlib.contextmanager
def sshd(directory: Path, *, server: str = "", client: str = "", prefix: Sequence[str] = ()) -> Iterator[Sshd]:
    """Start a server; ``server`` and ``client`` are more lines for the two configurations.

    ``prefix`` is put before the server's command and has to become it.
    """
    need_tools("sshd", "ssh", "ssh-keygen")
    need_root("sshd needs root to log anyone in")
    directory.mkdir(parents=True, exist_ok=True)
    # sshd refuses keys below a directory that others may write to, as /tmp is.
    os.chmod(directory, 0o700)
    for name in ("host_key", "user_key"):
        command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name)
    shutil.copy(directory / "user_key.pub", directory / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (directory / "known").write_text(f"* {(directory / 'host_key.pub').read_text()}")
    # sshd alone refuses an account that is locked, even with a key; and root is, where its password was never set.
    locked = any(line.startswith("root:!") for line in Path("/etc/shadow").read_text().splitlines())
    (directory / "server").write_text(
        f"""Port {port}
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/authorized
PidFile {directory}/pid
StrictModes no
UsePAM {"yes" if locked else "no"}
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
LogLevel VERBOSE
{server}
"""
    )
    (directory / "client").write_text(
        f"""Host *
  HostName 127.0.0.1
  HostKeyAlias test
  Port {port}
  IdentityFile {directory}/user_key
  IdentitiesOnly yes
  UserKnownHostsFile {directory}/known
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  BatchMode yes
{client}
"""
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    program = shutil.which("sshd") or "sshd"
    server_process = subprocess.Popen(
        [*prefix, program, "-D", "-f", directory / "server", "-E", directory / "log"], stdin=subprocess.DEVNULL
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield Sshd(directory, port)
    finally:
        server_process.terminate()
        server_process.wait(10)
