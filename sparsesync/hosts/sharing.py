"""One login for all that goes to a host: the connection of ssh that others go through.

If neither the command nor the user's configuration has ideas of its own about sharing connections, the first ssh
becomes a master (ControlMaster, ssh_config(5)) with its socket in a private directory, and those that come later open
a session in its connection. The master goes on when the first session is over (ControlPersist), so one login is enough
also where there is no agent after all, or where one session at a time is allowed. It is told to end when we are done,
and ends by itself a while after we were killed.

That first ssh may be ended early, and all others with it. So where those have nothing to do with each other, the master
does nothing else (:func:`lasting`).

What a socket needs is not always there: a directory that may be written to, and whose name is short. Where there is
none, each ssh logs in.

Where one ssh is too slow for the content, more of them log in, each with a connection of its own (:func:`widen`). They
ask nobody anything: where a login needs more than a key, or is refused, there are fewer.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..console.messages import format_error
from ..embedding import WAIT_SECONDS, Stopped, ends_within
from ..engine.errors import LinkError
from ..engine.wire.fields import digits, get, row
from .address import until_ssh

if TYPE_CHECKING:
    from .ssh import Connection

_ALIVE_SECONDS = 15
"""Seconds between questions to a silent server; the third that is not answered ends the connection: ssh_config(5)."""

_LINGER_SECONDS = 60
"""Seconds after which a master ends that nobody uses."""

_PLACES = ["/tmp", "/var/tmp", "/dev/shm"]
_OWN = "." + "x" * 16
"""What ssh puts behind a socket's name while it makes it."""

ALONE = ("-o", "BatchMode=yes", "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ConnectTimeout=20")
"""The options of an ssh that has a connection of its own, and asks nobody anything."""

_FREE_SECONDS = 10
"""Seconds in which a server notices that a session has ended."""

_TOLD_SECONDS = 1
"""Seconds in which a master answers that is on this machine."""
_MESSAGE = struct.Struct(">III")
"""The length of what follows, the type of a message, and its only field."""
_MUX_VERSION = 4
_MUX_HELLO, _MUX_TERMINATE, _MUX_OK = 0x00000001, 0x10000005, 0x80000001

REFUSED_SESSION = b"session request failed"
"""ssh says it of a session that the server does not open in the connection: OpenSSH, mux.c."""


class Sharing(NamedTuple):
    """The options of the ssh that logs in, and of those that use its connection. Empty if it is not shared."""

    login: list[str]
    control: list[str]
    strict: bool = True
    """Whether whoever finds no room in the connection is to fail, instead of logging in by itself."""

    @property
    def only(self) -> list[str]:
        """The options of an ssh that must not log in by itself."""
        return [*self.control, "-o", "ProxyCommand=false"] if self.control and self.strict else self.control

    @property
    def is_private(self) -> bool:
        """Whether there is a connection, and nobody else opens a session in it."""
        return bool(self.control) and self.strict

    @property
    def lost(self) -> bool:
        """Whether the connection is there no more, or was none."""
        return bool(self.control) and not os.path.exists(self.control[1].partition("=")[2])


@contextlib.contextmanager
def lasting(
    command: Sequence[str], login: Sequence[str], environ: Mapping[str, str], check: Callable[[], object]
) -> Iterator[Sharing]:
    """Log in, and give the options to use that connection, which depends on none of those who do.

    If that fails, or cannot be shared, each has to log in by itself, and hears why.

    ``check``: called while the login is waited for; what it raises ends that.
    """
    with sharing(command, login, True, environ, check) as shared:
        if shared.control:
            silent = subprocess.DEVNULL
            # It asks for a password on the terminal, and goes to the background once it is logged in.
            master = subprocess.Popen(
                [*command, *shared.login, "-f", "-N", *login], stdin=silent, stdout=silent, stderr=silent, env=environ
            )
            try:
                _wait(master, check)
            except BaseException:
                master.terminate()
                master.wait()
                raise
            alive = [*shared.control[2:]]
            shared = Sharing(shared.control, shared.control, False) if not master.returncode else Sharing(alive, [])
        yield shared


@contextlib.contextmanager
def sharing(
    command: Sequence[str],
    login: Sequence[str],
    share: bool,
    environ: Mapping[str, str] = os.environ,
    check: Callable[[], object] = lambda: None,
) -> Iterator[Sharing]:
    """Give the options to reach the host that ``login`` names. A shared connection ends with the context.

    ``check``: called while ssh reads its configuration, which may run programs; what it raises ends that.
    """
    settings = _settings(command, login, environ, check)
    # A connection over which nothing comes any more would be waited for without end, or, with what Debian's ssh makes
    # of BatchMode, for a quarter of an hour.
    asked_too_late = settings.get("serveraliveinterval") in ("0", "300")
    alive = ["-o", f"ServerAliveInterval={_ALIVE_SECONDS}"] if asked_too_late else []
    own = settings.get("controlmaster") == "false" and settings.get("controlpath", "none") == "none"
    folder = _folder() if share and own else None
    if folder is None:
        yield Sharing(alive, [])
        return
    path = f"{folder}/s"
    control = ["-o", f"ControlPath={path}", *alive]
    try:
        login_options = ["-o", "ControlMaster=yes", "-o", f"ControlPersist={_LINGER_SECONDS}", *control]
        yield Sharing(login_options, control, not _jumps(command))
    finally:
        try:
            if os.path.exists(path) and not _end_master(path):
                silent = subprocess.DEVNULL
                with contextlib.suppress(OSError):
                    leave = [*command, *control, "-O", "exit", *login]
                    subprocess.run(leave, stdin=silent, stdout=silent, stderr=silent, env=environ)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _end_master(path: str) -> bool:
    """Tell a master by its socket to end, and return whether it does.

    It is what ``ssh -O exit`` does, which takes as long as the start of an ssh: OpenSSH, PROTOCOL.mux.
    """
    hello = _MESSAGE.pack(8, _MUX_HELLO, _MUX_VERSION)
    said = b""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as master:
        master.settimeout(_TOLD_SECONDS)
        master.connect(path)
        master.sendall(hello + _MESSAGE.pack(8, _MUX_TERMINATE, 0))
        while len(said) < 2 * _MESSAGE.size:
            more = master.recv(2 * _MESSAGE.size - len(said))
            if not more:  # it may end before it has answered, as ssh knows too
                return said == hello
            said += more
    return said == hello + _MESSAGE.pack(8, _MUX_OK, 0)


class Trial:
    """The question whether the server opens one more session in a shared connection. It is asked at once.

    As a context manager it ends with the context.
    """

    def __init__(
        self, command: Sequence[str], login: Sequence[str], shared: Sharing, environ: Mapping[str, str]
    ) -> None:
        # A session for a command would begin with the user's shell and all that it reads. No server has this subsystem,
        # but says so only once the session is open.
        asked = [*command, *shared.only, "-s", *login, "sparsesync-session"]
        silent = subprocess.DEVNULL
        self._said = tempfile.TemporaryFile()
        try:
            self._ssh = subprocess.Popen(asked, stdin=silent, stdout=silent, stderr=self._said, env=environ)
        except BaseException:
            self._said.close()
            raise

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ssh.terminate()
        self._ssh.wait()
        self._said.close()

    def finds_room(self, check: Callable[[], object], until: float = math.inf) -> bool:
        """Return whether it does, as far as is known at the time ``until`` of time.monotonic()."""
        _wait(self._ssh, check, until)
        self._said.seek(0)
        return REFUSED_SESSION not in self._said.read()


def wait_for_session(
    command: Sequence[str],
    login: Sequence[str],
    shared: Sharing,
    environ: Mapping[str, str],
    check: Callable[[], object],
) -> None:
    """Wait until the server opens a session in the shared connection, or for a while.

    A server that allows one session at a time may notice the end of the last one later than its client does.
    Where others may have that session, nothing is waited for: whoever finds no room logs in by itself.

    ``check``: called while that is waited for; what it raises ends that.
    """
    until = time.monotonic() + _FREE_SECONDS
    while shared.is_private and time.monotonic() < until:
        with Trial(command, login, shared, environ) as trial:
            if trial.finds_room(check, until):
                return
        check()
        time.sleep(WAIT_SECONDS)


def widen(connection: Connection, count: int, say: Callable[[str], object]) -> None:
    """Have content go by ``count`` connections to the same host, or by as many as can be had.

    ``say``: called with a line for people if there are fewer.

    Raises LinkError if the connection itself is lost.
    """
    have = 1 + len(connection.link.streams)
    if have >= count:
        return
    errors: list[Exception] = []
    if connection.another is not None:
        with contextlib.ExitStack() as fresh:
            try:
                name, secret = get(connection.call("meet"), "answer", row(digits(16), digits(16)))
                opened, errors = _join(connection, range(have, count), name, secret)
                for stack, _ in opened.values():
                    fresh.push(stack)
                if opened:
                    connection.call("widen", numbers=[*opened])
                for _, joined in opened.values():
                    connection.link.add_stream(joined.give_link())
                connection.beside.push(fresh.pop_all())
            except LinkError:
                raise
            except (OSError, ValueError) as error:
                errors = [error]
    if errors:
        connection.another, connection.why_alone = None, format_error(errors[0])
    if connection.another is None:
        say(f"{1 + len(connection.link.streams)} of {count} streams: {connection.why_alone}")


def _join(
    connection: Connection, numbers: Sequence[int], name: str, secret: str
) -> tuple[dict[int, tuple[contextlib.ExitStack, Connection]], list[Exception]]:
    """Return connections by their numbers, whose agents have joined the first one, and what kept others from that."""
    from concurrent.futures import ThreadPoolExecutor, wait

    unwanted = threading.Event()
    opened: dict[int, tuple[contextlib.ExitStack, Connection]] = {}
    errors: list[Exception] = []

    def check() -> None:
        if unwanted.is_set():
            raise Stopped("another stream is not wanted any more")

    def join(number: int) -> None:
        assert connection.another is not None
        with contextlib.ExitStack() as stack:
            try:
                joined = stack.enter_context(connection.another(check=check))
                joined.call("join", name=name, secret=secret, number=number)
            except (OSError, ValueError) as error:
                errors.append(error)
            else:
                opened[number] = stack.pop_all(), joined

    try:
        with ThreadPoolExecutor(len(numbers)) as threads:
            asked = [threads.submit(join, number) for number in numbers]
            try:
                while wait(asked, WAIT_SECONDS).not_done:
                    if connection.link.check is not None:
                        connection.link.check()
            except BaseException:
                unwanted.set()
                raise
        for each in asked:
            each.result()
    except BaseException:
        for stack, _ in opened.values():
            stack.close()
        raise
    return dict(sorted(opened.items())), errors


def _wait(process: subprocess.Popen[bytes], check: Callable[[], object], until: float = math.inf) -> None:
    """Wait for a process to end, until a time of time.monotonic(). What ``check`` raises ends the waiting."""
    while time.monotonic() < until:
        if ends_within(process, WAIT_SECONDS):
            return
        check()


def _jumps(command: Sequence[str]) -> bool:
    """Return whether a remote shell's command seems to have ssh's -J, which takes no ProxyCommand beside it."""
    return any([re.match("-[0-9A-Za-z]*J", word) for word in command[until_ssh(command) :]])


def _settings(
    command: Sequence[str], login: Sequence[str], environ: Mapping[str, str], check: Callable[[], object]
) -> dict[str, str]:
    """Return ssh's configuration for a host, from ssh -G; empty for another remote shell."""
    count = until_ssh(command)
    if not count or shutil.which(command[0], path=environ.get("PATH")) is None:
        return {}
    silent = subprocess.DEVNULL
    asked = [*command[:count], "-G", *command[count:], *login]
    with subprocess.Popen(asked, stdin=silent, stdout=subprocess.PIPE, stderr=silent, text=True, env=environ) as ssh:
        try:
            from . import ssh as connecting  # noqa: F401, what comes next: it takes as long as ssh does

            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    said, _ = ssh.communicate(timeout=WAIT_SECONDS)
                    break
                check()
        except BaseException:
            ssh.terminate()
            raise
    return {} if ssh.returncode else dict(line.partition(" ")[::2] for line in said.splitlines())


def _folder(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return a new directory for a socket, or None if none can be made."""
    places = [environ.get("TMPDIR"), environ.get("XDG_RUNTIME_DIR"), *_PLACES]
    # The name becomes part of a command that rsync takes apart, and ssh replaces what begins with a percent sign.
    for place in [place for place in places if place and re.fullmatch(r"/[\w./+-]*", place)]:
        folder = None
        try:
            folder = tempfile.mkdtemp(prefix="sparsesync-", dir=place)
            with socket.socket(socket.AF_UNIX) as tried:
                tried.bind(f"{folder}/s{_OWN}")
            os.unlink(f"{folder}/s{_OWN}")
            return folder
        except BaseException as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            if not isinstance(error, OSError):  # read-only, full, or its name is too long: unix(7)
                raise
    return None
