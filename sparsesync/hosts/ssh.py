"""The engine on another host: started through the remote shell, with nothing installed there.

``ssh host sh -c '...'`` looks for a Python of 3.6 or newer and has it read a program from its standard
input: first a loader of a few lines, then the sources of the ``engine`` package and of all packages in it, which it
imports from memory. Nothing is written to the remote host's disk. What then speaks on the other side of the connection
is
:mod:`sparsesync.engine.agent`.

The remote shell is the one rsync would use: ``-e``, else RSYNC_RSH, else ssh. If it is ssh, and neither the command
nor the user's configuration has ideas of its own about sharing connections, the agent's connection becomes a
master (ControlMaster, ssh_config(5)) with its socket in a private directory, and rsync's goes through it: one
login for the whole run. It ends with the agent.

Passwords and questions are between ssh and the terminal; ssh's messages, and what the remote host says on its standard
error, go to ours by way of :mod:`stderr_relay`.

What becomes part of a command over there is ours, or was looked at: paths and all that is asked go through the
connection, to the agent. Of the user's own words there are the Python's name, which has to be a plain path
(:func:`address.check_python`), and what ``--rsync-path`` puts before rsync, which is text for the remote host's shell
by rsync's own definition: ``sudo``, or ``cd there &&``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..engine.errors import LinkError, LoginError, ProtocolError
from ..engine.wire import protocol
from ..engine.wire.capabilities import Digest, capabilities, choose_compressor, choose_digest, choose_files
from ..engine.wire.fields import get, integer, maybe, text
from ..engine.wire.link import Link, peer_error, unexpected
from ..engine.wire.protocol import Frame
from .address import check_python
from .stderr_relay import StderrRelay

if TYPE_CHECKING:
    from importlib.abc import Traversable


class Shell(NamedTuple):
    """How to run a command on another host.

    ``command`` is the remote shell's and its arguments; ``prefix`` is put before the command there, as
    ``--rsync-path='sudo rsync'`` puts it before rsync; ``python`` names the Python to use there.
    """

    command: Sequence[str]
    prefix: str = ""
    python: str | None = None


@contextlib.contextmanager
def named(host: str) -> Iterator[None]:
    """Name the host in what is wrong with what it says."""
    try:
        yield
    except ProtocolError as error:
        said = str(error)
        raise ProtocolError(said if said.startswith(f"{host}: ") else f"{host}: {said}") from None


_ALIVE = 15
"""Seconds between questions to a silent server; the third that is not answered ends the connection: ssh_config(5)."""

_PYTHONS = ["python3", "/usr/libexec/platform-python", *(f"python3.{minor}" for minor in range(19, 5, -1))]
_OLD_ENOUGH = "import sys;sys.exit(sys.version_info<(3,6))"
_AT_ONCE = frozenset(["mode", "space", "directory", "open", "open_copy", "lock"])
"""Operations that take no time, whatever the agent has to look at: pings are no answer to them."""
_POSTED = 100
"""Calls that wait for their answers at once: these have to fit into the pipe while nobody reads them."""

_NO_PYTHON = 86
"""The exit status of our script where it finds no Python."""

# Stage one fits into the command line: read a length and as many bytes, and run them.
# In one line, since csh ends a quoted word with it. Nothing must be imported from the current directory, which -c puts
# first. What is read ahead is none of the frames: we send none before the agent has greeted.
_STAGE_ONE = (
    'import sys;sys.path[:]=filter(None,sys.path);f=open(0,\\"rb\\",closefd=False);exec(f.read(int(f.readline())))'
)

# Stage two reads on, and imports the engine from memory: ``sources`` has for each module's name whether it is a
# package, and its text.
# An interrupt that reaches the remote end too is the client's to act on: the agent ends with the connection.
_STAGE_TWO = """
import signal, sys, zlib, json, importlib.abc, importlib.machinery
signal.signal(signal.SIGINT, lambda number, frame: None)
sources = json.loads(zlib.decompress(f.read(%d)).decode())
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name in sources:
            return importlib.machinery.ModuleSpec(name, self, is_package=sources[name][0])
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(sources[module.__name__][1], module.__name__, "exec"), module.__dict__)
sys.meta_path.insert(0, Finder())
from sparsesync.engine.agent import main
sys.exit(main())
"""


def _program() -> bytes:
    """What is sent to the remote Python: the length of stage two, that, and the sources."""
    import json
    from importlib.resources import files

    sources = {"sparsesync": (True, ""), **dict(_modules("sparsesync.engine", files("sparsesync") / "engine"))}
    packed = zlib.compress(json.dumps(sources).encode("ascii"), 9)
    stage_two = (_STAGE_TWO % len(packed)).encode("ascii")
    return b"%d\n" % len(stage_two) + stage_two + packed


def _modules(package: str, folder: Traversable) -> Iterator[tuple[str, tuple[bool, str]]]:
    """The modules of a package and of the packages in it, by name: whether each is a package, and its source.

    ``folder`` may be in a zip file, if that is where this Python imports from.
    """
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _modules(f"{package}.{entry.name}", entry)
        elif entry.name == "__init__.py":
            yield package, (True, entry.read_text(encoding="utf-8"))
        elif entry.name.endswith(".py"):
            yield f"{package}.{entry.name[:-3]}", (False, entry.read_text(encoding="utf-8"))


def _remote_command(shell: Shell) -> str:
    """The command line for the remote login shell, which need not be a Bourne shell: one word in single quotes."""
    if shell.python is not None:
        check_python(shell.python)
    pythons = _PYTHONS if shell.python is None else [shell.python]
    names = " ".join(f'"{python}"' for python in pythons)
    script = (
        f'for p in {names}; do "$p" -c "{_OLD_ENOUGH}" 2>/dev/null && exec "$p" -c "{_STAGE_ONE}"; done; '
        f"exit {_NO_PYTHON}"
    )
    return f"{shell.prefix}{' ' if shell.prefix else ''}sh -c '{script}'"


class Answer:
    """The answer to a call, which may still be under way."""

    def __init__(self, connection: Connection, op: str) -> None:
        self.op = op
        self.value: dict[str, Any] | Exception | None = None
        self._connection = connection

    def get(self) -> dict[str, Any]:
        """Wait for it. Raises what the operation raised there, OSError or ValueError; LinkError."""
        while self.value is None:
            self._connection.take_answer()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Connection:
    """An agent on a host, from this side. Use :func:`connect`.

    ``control`` are the arguments that make another ssh share this connection; empty if it cannot be shared.
    """

    def __init__(self, process: subprocess.Popen[bytes], host: str, timeout: float | None, control: list[str]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self.host = host
        self.control = control
        source, sink = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
        process.stdin.close()
        process.stdout.close()
        self.link = Link(source, sink, greeting=True, name=host)
        self.link.timeout = timeout
        self.digest: Digest
        self.compressors: dict[str, Any] = {}
        self._posted: deque[Answer] = deque()
        self._busy = True

    def greet(self, digest: Digest | None = None) -> None:
        """Send the program and agree on a digest, unless one is given. Raises LinkError with what is wrong there."""
        try:
            with self.link.at_once():
                self.link.write(_program())
            # A login shell that echoes what it reads, or says something now and then, is no agent.
            with self.link.at_once():
                frame = self.link.read()
        except LinkError as error:
            self.link.close()  # an agent that is there after all would be waited for
            status = self._status()
            if status == _NO_PYTHON:
                raise LinkError(f"{self.host}: no Python 3.6 or newer was found there") from None
            # 255 is ssh's own failure: ssh(1), EXIT STATUS. It has said what is wrong.
            if status == 255:
                raise LoginError(f"{self.host}: ssh could not log in") from None
            raise LinkError(f"{self.host}: no agent could be started: {error}") from None
        with named(self.host):
            self._agree(frame, digest)

    def _agree(self, frame: Frame, digest: Digest | None) -> None:
        if frame.kind != protocol.HELLO:
            raise unexpected(frame)
        theirs, ours = frame.json(), capabilities()
        version = get(theirs, "protocol", integer(0, 1 << 31))
        if version != protocol.VERSION:
            raise ProtocolError(f"speaks version {version} of the protocol, not {protocol.VERSION}")
        get(theirs, "python", maybe(text(100)))
        choose_compressor(ours, theirs, None)  # what it has of them is checked before it is needed
        self.digest = digest or Digest(choose_digest(ours, theirs), secrets.token_bytes(16))
        self.compressors = {"ours": ours, "theirs": theirs}
        self.link.files = choose_files(ours, theirs)
        self.link.send_json(
            protocol.HELLO,
            protocol=protocol.VERSION,
            digest=self.digest.name,
            salt=self.digest.salt.hex(),
            files=ours["files"],
            timeout=self.link.timeout,
        )
        self._busy = False
        if self.link.timeout:
            self.link.keep_alive(self.link.timeout / 3)

    def compressor(self, wanted: str | None) -> str:
        """The compressor to use with this host."""
        return choose_compressor(self.compressors["ours"], self.compressors["theirs"], wanted)

    def _status(self) -> int | None:
        try:
            return self.process.wait(2)
        except subprocess.TimeoutExpired:
            return None

    def start(self, op: str, **arguments: Any) -> None:
        """Call an operation that turns the connection into a transfer."""
        self._settle()
        self._send(op, arguments)

    def _send(self, op: str, arguments: dict[str, Any]) -> None:
        self.link.send_json(protocol.CALL, op=op, arguments=arguments)

    def items(self, op: str, on_trouble: Any = None, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Call an operation and yield its items, and its result last.

        ``on_trouble`` gets the OSError of each file that is in trouble; without it that is raised. Paths in
        errors are ``host:path``. Raises what the operation raised there, OSError or ValueError; LinkError.
        """
        self._settle()
        self._send(op, arguments)
        self._busy = True
        while True:
            kind, value = self._answer()
            self._busy = kind not in (protocol.FAIL, protocol.DONE)
            if isinstance(value, Exception):
                error = self._named(value)
                if kind == protocol.FAIL or on_trouble is None:
                    raise error
                on_trouble(error)
                continue
            yield value
            if kind == protocol.DONE:
                return

    def _answer(self) -> tuple[int, dict[str, Any] | Exception]:
        with named(self.host):
            frame = self.link.read()
            if frame.kind in (protocol.FAIL, protocol.TROUBLE):
                return frame.kind, peer_error(frame.json())
            if frame.kind in (protocol.ITEM, protocol.DONE):
                return frame.kind, frame.json()
            raise unexpected(frame)

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Call an operation that has a result and no items. Raises as :meth:`items`."""
        return self.post(op, **arguments).get()

    def post(self, op: str, **arguments: Any) -> Answer:
        """Call an operation that has a result and no items, and do not wait: what is called next waits for it, too."""
        while len(self._posted) >= _POSTED:
            self.take_answer()
        if self._busy:
            raise LinkError(f"{self.host}: an earlier answer was not read to its end")
        self._send(op, arguments)
        self._posted.append(answer := Answer(self, op))
        return answer

    def _settle(self) -> None:
        while self._posted:
            self.take_answer()
        if self._busy:
            raise LinkError(f"{self.host}: an earlier answer was not read to its end")

    def take_answer(self) -> None:
        """Wait for the answer to the oldest call that has none yet."""
        answer = self._posted[0]
        with self.link.at_once() if answer.op in _AT_ONCE else contextlib.nullcontext():
            kind, value = self._answer()
        if kind not in (protocol.FAIL, protocol.DONE):
            raise ProtocolError(f"{self.host}: an operation without items has some")
        self._posted.popleft()
        answer.value = self._named(value) if isinstance(value, Exception) else value

    def _named(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno is None:
            return OSError(f"{self.host}: {error}")
        if isinstance(error, OSError):
            error.filename = self.host if error.filename is None else f"{self.host}:{error.filename}"
        return ValueError(f"{self.host}: {error}") if isinstance(error, ValueError) else error

    def close(self) -> None:
        """End the agent and the connection."""
        self.link.close()
        if self._busy or self._posted:
            # Nobody wants the rest, and an agent that is reading a large file would not notice for long.
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def connect(
    host: str,
    shell: Shell,
    *,
    user: str | None = None,
    timeout: float | None = None,
    share: bool = False,
    digest: Digest | None = None,
) -> Iterator[Connection]:
    """An agent on ``host``; it ends with the context. ``share``: let another ssh use the connection.

    ``timeout``: seconds of silence after which the connection is given up, None for never. ``digest``: one that
    every engine has, instead of the best that both ends have. Raises LinkError if no agent can be started, or there
    is no such remote shell, ValueError for a Python whose name is not a plain path.
    """
    remote_command = _remote_command(shell)
    with contextlib.ExitStack() as stack:
        login = [*(["-l", user] if user else []), host]
        settings = _settings(shell.command, login)
        # A connection over which nothing comes any more would be waited for without end, or, with what Debian's ssh
        # makes of BatchMode, for a quarter of an hour.
        asked_too_late = settings.get("serveraliveinterval") in ("0", "300")
        alive = ["-o", f"ServerAliveInterval={_ALIVE}"] if asked_too_late else []
        control = _control(settings, stack) if share else []
        control += alive if control else []
        master = ["-o", "ControlMaster=yes", "-o", "ControlPersist=no", *control] if control else alive
        command = [*shell.command, *master, *login, remote_command]
        relay = StderrRelay()
        stack.callback(relay.close)
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=relay.sink, bufsize=0
            )
        except FileNotFoundError:
            raise LinkError(f"{shell.command[0]}: no such remote shell") from None
        finally:
            relay.started()
        connection = Connection(process, host, timeout, control)
        stack.callback(connection.close)
        connection.greet(digest)
        yield connection


def _settings(command: Sequence[str], login: list[str]) -> dict[str, str]:
    """What ssh makes of its configuration for a host, as ssh -G tells it; empty for another remote shell."""
    if os.path.basename(command[0]) != "ssh" or shutil.which(command[0]) is None:
        return {}
    asked = subprocess.run(
        [*command, "-G", *login], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return {} if asked.returncode else dict(line.partition(" ")[::2] for line in asked.stdout.splitlines())


def _control(settings: dict[str, str], stack: contextlib.ExitStack) -> list[str]:
    """The arguments by which another ssh finds our connection; empty where sharing is not for us to decide."""
    if settings.get("controlmaster") != "false" or settings.get("controlpath", "none") != "none":
        return []
    # A socket's name is short: unix(7) allows 107 bytes, and ssh adds some of its own while it makes it.
    try:
        folder = tempfile.TemporaryDirectory(prefix="sparsesync-", dir="/tmp")
    except OSError:
        return []  # two logins, then
    stack.callback(folder.cleanup)
    return ["-o", f"ControlPath={folder.name}/s"]
