"""The engine on another host, and the connection to it.

:mod:`loader` starts it there, and what then speaks on the other side is :mod:`sparsesync.engine.agent`. The remote
shell is the one rsync would use: ``-e``, else RSYNC_RSH, else ssh. Whether rsync goes through the same login is for
:mod:`sharing`.

Passwords and questions are between ssh and the terminal; ssh's messages, and what the remote host says on its standard
error, go to ours by way of :mod:`stderr_relay`.

What becomes part of a command over there is ours, or was looked at: paths and all that is asked go through the
connection, to the agent. Of the user's own words there are the Python's name, which has to be a plain path
(:func:`address.check_python`), and what ``--rsync-path`` puts before rsync, which is text for the remote host's shell
by rsync's own definition: ``sudo``, or ``cd there &&``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import signal
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Callable

from ..console.streams import write_error
from ..embedding import Embedding, NoAgentError, Stopped, Write, ends_within
from ..engine.errors import LinkError, LoginError, ProtocolError
from ..engine.text import printable_already
from ..engine.wire import protocol
from ..engine.wire.capabilities import Digest, capabilities, choose_compressor, choose_digest, choose_files
from ..engine.wire.fields import anything, get, integer, maybe, text
from ..engine.wire.link import Link, peer_error, unexpected
from ..engine.wire.protocol import Frame
from . import loader
from .loader import FOUND, NO_PYTHON, READY, STAGE_ONE, Shell, fingerprint, program, start
from .stderr_relay import StderrRelay, is_refused, reason_of


@contextlib.contextmanager
def named(host: str) -> Iterator[None]:
    """Name the host in a ProtocolError raised inside."""
    try:
        yield
    except ProtocolError as error:
        if error.host is not None:
            raise
        raise ProtocolError(str(error), host, error.retryable) from None


_AT_ONCE = frozenset(["mode", "space", "directory", "open", "open_copy", "lock"])
"""Operations that take no time, whatever the agent has to look at: pings are no answer to them."""
_MAX_POSTED = 100
"""Calls that wait for their answers at once: these have to fit into the pipe while nobody reads them."""


class Answer:
    """The answer to a call, perhaps still to come."""

    def __init__(self, connection: Connection, op: str) -> None:
        self.op = op
        self.value: dict[str, Any] | Exception | None = None
        self._connection = connection

    def get(self) -> dict[str, Any]:
        """Wait for the answer. Raises what the operation raised there, OSError or ValueError; LinkError."""
        while self.value is None:
            self._connection.take_answer()
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Connection:
    """A connection to an agent on another host. Use :func:`connect`. ``prefix``: what names the host in a path."""

    def __init__(self, process: subprocess.Popen[bytes], host: str, prefix: str, timeout: float | None) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process = process
        self.host = host
        self.prefix = prefix
        source, sink = os.dup(process.stdout.fileno()), os.dup(process.stdin.fileno())
        process.stdin.close()
        process.stdout.close()
        self.link: Link = Link(source, sink, greeting=True, name=host)
        self.link.timeout = timeout
        self.digest: Digest
        self._greeting: Frame
        self.compressors: dict[str, Any] = {}
        self._posted: deque[Answer] = deque()
        self._busy = True
        self._given_up = False
        self.python: str | None = None
        """The Python that was started with a prefix."""
        self.another: Callable[..., contextlib.AbstractContextManager[Connection]] | None = None
        """Gives one more connection to the same host, which asks nobody. It takes the ``check`` of :func:`connect`."""
        self.why_alone = "only of ssh is it known that it asks nobody"
        """Why there is not another."""
        self.await_agent: Callable[[], None]
        """Waits until there is an agent. Raises as :func:`connect`."""
        self.beside: contextlib.ExitStack = contextlib.ExitStack()
        """What ends with the connection."""
        self.served: bool = False
        """Whether a forced command answers, with an engine of its own and for one directory only."""

    @functools.cached_property
    def _ours(self) -> dict[str, Any]:
        """What this end offers, which takes some time to find out."""
        return capabilities()

    def load(self, script: bytes, prefixed: bool) -> None:
        """Send the script, if there is one, and the engine, and read the greeting. Raises LinkError.

        ``prefixed``: the Python is told before it is started.
        """
        with self.link.at_once():
            if script:
                self.link.write(script)
            line, _ = program(), self._ours  # while the host is logged in to
            if script:
                try:
                    loader.expect(self.link, READY)
                except ProtocolError:
                    self._given_up = True
                    with contextlib.suppress(LinkError):
                        self.link.write(loader.NO_PROGRAM)
                    self.process.terminate()
                    raise
            try:
                self.link.write(line)
            finally:  # sudo may be gone by now
                if prefixed:
                    loader.expect(self.link, FOUND)
                    self.python = loader.rest_of_line(self.link)
            if loader.needs_source(self.link):
                self.link.write(loader.needed_source())
        # A login shell that echoes what it reads, or says something now and then, is no agent.
        with self.link.at_once():
            self._greeting = self.link.read()

    def greet(self, digest: Digest | None = None) -> None:
        """Agree on a digest, unless one is given. Raises LinkError."""
        with named(self.host):
            self._agree(self._greeting, digest)

    def _agree(self, frame: Frame, digest: Digest | None) -> None:
        if frame.kind != protocol.HELLO:
            raise unexpected(frame)
        theirs, ours = frame.json(), self._ours
        version = get(theirs, "protocol", integer(0, 1 << 31))
        if version != protocol.VERSION:
            raise ProtocolError(f"speaks version {version} of the protocol, not {protocol.VERSION}")
        get(theirs, "python", maybe(text(100)))
        mine = self._serves(get(theirs, "served", maybe(anything)))
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
            **mine,
        )
        self._busy = False
        if self.link.timeout:
            self.link.keep_alive(self.link.timeout / 3)

    def _serves(self, served: dict[str, Any] | None) -> dict[str, str]:
        """Take notice of a forced command, and return what it asks for. Raises ProtocolError for another engine."""
        if served is None:
            return {}
        mine, version = fingerprint(), get(served, "version", text(100))
        if get(served, "engine", text(100)) != mine:
            raise ProtocolError(
                f"a forced command answers with sparsesync {version}, which is not what runs here: "
                "install the same version at both ends"
            )
        self.served = True
        return {"engine": mine}

    def compressor(self, wanted: str | None) -> str:
        """Return the compressor to use with this host."""
        return choose_compressor(self.compressors["ours"], self.compressors["theirs"], wanted)

    def status(self) -> int | None:
        """Return the exit status of the remote shell, or None if it does not end. A negative one is a signal's."""
        if not ends_within(self.process, 2):
            return None
        # ssh, which a signal ends with 255 as a failed login does, may be behind any remote shell.
        return -signal.SIGTERM if self._given_up else self.process.returncode

    def start(self, op: str, **arguments: Any) -> None:
        """Call an operation that turns the connection into a transfer."""
        self._settle()
        self._send(op, arguments)

    def _send(self, op: str, arguments: dict[str, Any]) -> None:
        self.link.send_json(protocol.CALL, op=op, arguments=arguments)

    def items(self, op: str, on_trouble: Any = None, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Call an operation, and yield its items and then its result.

        ``on_trouble``: called with the OSError of each file that is in trouble. Without it the error is raised.

        Paths in errors are ``user@host:path``, as they were given. Raises what the operation raised there, OSError or
        ValueError; LinkError.
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
        """Call an operation that has a result and no items, and return the result. Raises as :meth:`items`."""
        return self.post(op, **arguments).get()

    def post(self, op: str, **arguments: Any) -> Answer:
        """Call an operation that has a result and no items, without waiting. The next call waits for both."""
        while len(self._posted) >= _MAX_POSTED:
            self.take_answer()
        if self._busy:
            raise LinkError("an earlier answer was not read to its end", self.host, retryable=False)
        self._send(op, arguments)
        self._posted.append(answer := Answer(self, op))
        return answer

    def _settle(self) -> None:
        while self._posted:
            self.take_answer()
        if self._busy:
            raise LinkError("an earlier answer was not read to its end", self.host, retryable=False)

    def take_answer(self) -> None:
        """Wait for the oldest answer that is still to come."""
        answer = self._posted[0]
        with self.link.at_once() if answer.op in _AT_ONCE else contextlib.nullcontext():
            kind, value = self._answer()
        if kind not in (protocol.FAIL, protocol.DONE):
            raise ProtocolError("items in an answer that has none", self.host)
        self._posted.popleft()
        answer.value = self._named(value) if isinstance(value, Exception) else value

    def _named(self, error: Exception) -> Exception:
        if isinstance(error, OSError) and error.errno is None:
            return OSError(f"{self.host}: {error}")
        if isinstance(error, OSError):
            error.filename = self.host if error.filename is None else f"{self.prefix}{error.filename}"
        return ValueError(f"{self.host}: {error}") if isinstance(error, ValueError) else error

    def give_link(self) -> Link:
        """Return the link, which is another connection's from now on. The agent is not waited for."""
        self._busy = True
        return self.link

    def close(self) -> None:
        """End the agent and the connection."""
        self.link.close()
        self.beside.close()
        if self._busy or self._posted:
            # Nobody wants the rest, and an agent that is reading a large file would not notice for long.
            self.process.terminate()
        if not ends_within(self.process, 10):
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def connect(
    host: str,
    shell: Shell,
    login: Sequence[str],
    options: Sequence[str] = (),
    *,
    prefix: str | None = None,
    timeout: float | None = None,
    digest: Digest | None = None,
    embedding: Embedding | None = None,
    stderr: Write | None = None,
    check: Callable[[], object] | None = None,
    wait: bool = True,
) -> Iterator[Connection]:
    """Give a connection to an agent on a host, which ends with the context.

    ``login``: the words that name the host to the remote shell.
    ``options``: more of the remote shell's.
    ``prefix``: what stands before the colon and with it in paths of the host; by default the host.
    ``timeout``: seconds of silence after which the connection is given up; None for never.
    ``digest``: one that every engine has, instead of the best that both ends have.
    ``stderr``: called with what the host says there, in a thread; by default it goes to the program's.
    ``check``: called while something is waited for, instead of the program's own.
    ``wait``: until there is an agent. Else :meth:`Connection.await_agent` has to be called before anything is asked.

    Raises LinkError if no agent can be started or the remote shell is missing, ValueError for a Python whose name is
    not a plain path.
    """
    words, script = start(shell)
    with contextlib.ExitStack() as stack:
        relay = StderrRelay(stderr or (embedding and embedding.stderr) or write_error)
        stack.callback(relay.close)
        try:
            process = subprocess.Popen(
                [*shell.command, *options, *login, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=relay.sink,
                bufsize=0,
                env=embedding.environ if embedding else None,
                cwd=embedding.directory if embedding else None,
            )
        except FileNotFoundError:
            raise LinkError(f"{shell.command[0]}: no such remote shell", retryable=False) from None
        finally:
            relay.started()
        connection = Connection(process, host, prefix or f"{host}:", timeout)
        connection.link.check = check or (embedding.check if embedding else None)
        stack.callback(connection.close)
        connection.await_agent = functools.partial(_await_agent, connection, shell, script, relay, digest)
        if wait:
            connection.await_agent()
        yield connection


def _await_agent(
    connection: Connection, shell: Shell, script: bytes, relay: StderrRelay, digest: Digest | None
) -> None:
    try:
        connection.load(script, bool(shell.prefix))
    except Stopped:
        connection.process.terminate()
        raise
    except LinkError as error:
        connection.link.close()  # an agent that is there after all would be waited for
        status = connection.status()
        relay.close()
        raise _reason(error, connection, shell, status, relay.tail) from None
    connection.greet(digest)


def _reason(error: LinkError, connection: Connection, shell: Shell, status: int | None, said: str) -> LinkError:
    """Return why there is no agent, from the remote shell's exit status and its last standard error."""
    host = connection.host
    if status == NO_PYTHON:
        at = f"at {shell.python}" if shell.python else "there"
        return NoAgentError(f"no Python 3.6 or newer was found {at}", host, retryable=False)
    # 255 is ssh's own failure: ssh(1), EXIT STATUS. It has said what is wrong.
    if status == 255:
        return LoginError(f"ssh could not log in{reason_of(said)}", host, not is_refused(said))
    if "rrsync" in said or "SSH_ORIGINAL_COMMAND" in said or protocol.ONLY_RSYNC in str(error):
        return NoAgentError(protocol.ONLY_RSYNC, host, retryable=False)
    if connection.python and status:
        allow = f"'{shell.prefix}' has to be allowed to run {connection.python} -c {STAGE_ONE}"
        why = f"no agent could be started: {allow} (see docs/commands.md, Other hosts)"
        return NoAgentError(why, host, retryable=False)
    kind = LinkError if status is None else NoAgentError
    why = str(error)
    last = printable_already(said.strip().splitlines()[-1]) if said.strip() else ""
    if last.startswith("sparsesync: "):
        # A forced command's words, which are on standard error already.
        return NoAgentError("the key there does not allow what was asked for", host, retryable=False)
    if status and status > 0 and last:
        why = f"the remote shell ended with status {status}: {last}"
    return kind(f"no agent could be started: {why}", host, error.retryable)
