"""The hosts of some paths: one connection a host, however many paths there are.

A path is ``host:path``, or on this machine (:func:`is_remote`: rsync's rule, and only for a ``str``; ``bytes`` and an
os.PathLike are always here). :class:`HostPool` gives for each its :class:`~.base.Location`. It is the only place that
connects, so that every command has the same errors, time-outs and signs of life. A host is logged in to when the first
path needs it.

An agent does one thing at a time: an iterator has to be exhausted before the next operation of the same host.
:class:`Connections` lend a connection to one pool after another, and never to two at a time; any number goes through
their login, where the remote shell can share one (:mod:`.sharing`).
:meth:`HostPool.locate_pair` is for two ends that are to be read at the same time and whose digests are compared.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Callable

if TYPE_CHECKING:
    from ..embedding import Embedding, Write
    from ..engine.host import LocalHost
    from ..engine.wire.capabilities import Digest
    from .address import Remote
    from .base import Host, Location, PathLike, Rsh
    from .remote import RemoteHost
    from .sharing import Sharing, Trial
    from .ssh import Connection

    Dialled = tuple[Connection, Callable[[], object]]

_COMMON = "blake2b"
"""The digest two agents use: every Python has it, and no machine is slow at it."""


def is_remote(path: PathLike) -> bool:
    """Return whether a path is on another host. Raises ValueError for an rsync daemon, ``host::module``."""
    return remote_part(path) is not None


def remote_part(path: PathLike) -> Remote | None:
    """Return the parts of a path on another host, or None for a local one. Raises as :func:`is_remote`."""
    # Most paths have no colon, and need nothing of what speaks to other hosts.
    if not isinstance(path, str) or ":" not in path:
        return None
    from .address import split_remote

    return split_remote(path)


class HostPool:
    """The hosts of some paths, connected as long as the context lasts.

    ``rsh``: the remote shell's command, or its words; by default RSYNC_RSH, else ssh. It may be :class:`Connections` to
    borrow from, and then nothing else is given.
    ``python``: the Python to use on other hosts; by default one is searched for.
    ``prefix``: put before commands on other hosts.
    ``timeout``: seconds of silence after which a connection is given up.
    ``share``: let another ssh use the connections.
    ``embedding``: of the program whose connections these are.
    ``logins``: whose logins are used, if they are by the same remote shell.
    ``stderr``: called with what the hosts say there, in a thread; by default it goes to the program's.
    """

    def __init__(
        self,
        rsh: Rsh | Connections = None,
        python: str | None = None,
        *,
        prefix: str = "",
        timeout: float | None = None,
        share: bool = False,
        embedding: Embedding | None = None,
        logins: Connections | None = None,
        stderr: Write | None = None,
    ) -> None:
        lender = rsh if isinstance(rsh, Connections) else None
        shell = None if isinstance(rsh, Connections) else rsh
        if not _is_shell(shell):
            raise TypeError(f"rsh must be a command or a list of its words, not {rsh!r}")
        self._rsh = shell
        self._lender = lender
        self._python = python
        self._prefix = prefix
        self._timeout = timeout
        self._share = share
        self._embedding = embedding
        self._opened = contextlib.ExitStack()
        self._logins = logins
        self._stderr = stderr
        self._shared: dict[tuple[str, ...], Sharing] = {}
        self._hosts: dict[tuple[str | None, str], RemoteHost] = {}
        self._local: LocalHost | None = None
        self._dialled: dict[tuple[str | None, str], Dialled] = {}

    def __enter__(self) -> HostPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.__exit__(*exc_info)  # type: ignore[arg-type]

    def locate(self, path: PathLike) -> Location:
        """Return the location of ``path``. Raises ValueError, LinkError if there is no connection."""
        remote = remote_part(path)
        if remote is None:
            return self.local(path)
        from .address import telling_files

        with telling_files(path):
            return _location(self.host(remote.user, remote.host), path, remote)

    def local(self, path: PathLike) -> Location:
        """Return the location of ``path`` on this machine, even if it looks like one on another host."""
        if self._local is None:
            from ..engine.host import LocalHost

            self._local = LocalHost()
        return _location(self._local, path, None)

    def locate_pair(self, a: PathLike, b: PathLike) -> tuple[Location, Location]:
        """Return two locations whose hosts compute the same digests, and can be read at the same time."""
        from ..engine.host import LocalHost
        from ..engine.wire.capabilities import Digest, capabilities, choose_digest
        from .address import telling_files

        remotes = remote_part(a), remote_part(b)
        salt = self._lender.salt if self._lender else os.urandom(16)
        digest = Digest(_COMMON, salt) if all(remotes) else None
        with telling_files(a, b):
            connected = [self._connect(remote.user, remote.host, digest) if remote else None for remote in remotes]
        shared = next((host.digest for host in connected if host), None)
        if shared is None:
            mine = capabilities()
            shared = Digest(choose_digest(mine, mine), os.urandom(16))
        for host, remote in zip(connected, remotes):
            if host and remote and not all(remotes):
                self._hosts[remote.user, remote.host] = host
        local = LocalHost(shared)
        hosts: list[Host] = [host or local for host in connected]
        return _location(hosts[0], a, remotes[0]), _location(hosts[1], b, remotes[1])

    def host(self, user: str | None, name: str) -> RemoteHost:
        """Return the host of this name, connected. Raises as :meth:`locate`."""
        key = user, name
        if key not in self._hosts:
            self._hosts[key] = self._connect(user, name)
        return self._hosts[key]

    @property
    def shared(self) -> Sharing:
        """How another ssh uses the connection to the first host, even if no agent could be started there."""
        from .sharing import Sharing

        return next(iter(self._shared.values()), Sharing([], []))

    @contextlib.contextmanager
    def alive(self, host: Host) -> Iterator[Host]:
        """Give the host, over a new connection if the old one is lost. Raises LinkError."""
        from ..engine.errors import LinkError
        from .remote import RemoteHost

        try:
            host.query("sizes", paths=[])
        except LinkError:
            pass
        else:
            yield host
            return
        # Also for a caller who wants no more of it: whoever asks for a host that is alive has to do something there.
        unasked = self._embedding and self._embedding._replace(check=lambda: None)
        again = HostPool(self._rsh, self._python, prefix=self._prefix, timeout=self._timeout, embedding=unasked)
        assert isinstance(host, RemoteHost)  # this one has no connection to lose
        with again:
            yield again.host(host.user, host.name)

    @contextlib.contextmanager
    def without_agent(self, host: RemoteHost) -> Iterator[None]:
        """End the agent of a host for the context. Raises LinkError if it cannot be started again.

        Used for a host that allows one session at a time. It needs a shared connection.
        """
        self.end_agent(host)
        yield
        self._wait_for_session(host)
        again = self._connect(host.user, host.name)
        host.connection, host.leave = again.connection, again.leave

    @contextlib.contextmanager
    def trying_session(self, host: RemoteHost) -> Iterator[Trial | None]:
        """Have the host asked, during the context, whether it opens another session in the connection of its agent.

        None: nobody has to ask, since whoever finds no room logs in by himself.
        """
        from .address import login_words
        from .sharing import Sharing, Trial

        login = login_words(host.user, host.name)
        shared = self._shared.get(login, Sharing([], []))
        if not shared.is_private:
            yield None
            return
        with Trial(self._words(), login, shared, self._environ) as trial:
            yield trial

    def end_agent(self, host: RemoteHost, trial: Trial | None = None) -> None:
        """End the agent of a host. Another may have its session then, if the connection is shared.

        ``trial``: if it finds room for that other one, the agent's end is not waited for.
        """
        if trial is not None and trial.finds_room(self._check):
            host.connection.link.close()
            return
        host.leave()
        self._wait_for_session(host)

    def _wait_for_session(self, host: RemoteHost) -> None:
        from .address import login_words
        from .sharing import wait_for_session

        login = login_words(host.user, host.name)
        if login in self._shared:
            wait_for_session(self._words(), login, self._shared[login], self._environ, self._check)

    def _connect(self, user: str | None, name: str, digest: Digest | None = None) -> RemoteHost:
        if self._lender is not None:
            return self._opened.enter_context(self._lender.lend(user, name, digest))
        return self.connect(user, name, digest)

    def dial(self, user: str | None, name: str) -> None:
        """Begin to log in to a host that :meth:`host` is going to be asked for. Raises as :meth:`locate`."""
        self._dialled[user, name] = self._dial(user, name)

    def connect(self, user: str | None, name: str, digest: Digest | None = None) -> RemoteHost:
        """Return the host of this name over a new connection. Raises as :meth:`locate`."""
        dialled = None if digest else self._dialled.pop((user, name), None)
        connection, leave = dialled or self._dial(user, name, digest)
        from .remote import RemoteHost  # while the host is logged in to

        try:
            connection.await_agent()
        except BaseException:
            leave()
            raise
        return RemoteHost(connection, user, leave)

    def _dial(self, user: str | None, name: str, digest: Digest | None = None) -> Dialled:
        """Begin to log in. Returns the connection, whose agent is to be waited for, and what ends it."""
        from .address import Remote, login_words, until_ssh
        from .loader import Shell
        from .sharing import ALONE, sharing
        from .ssh import connect

        words = self._words()
        shell = Shell(tuple(words), self._prefix, self._python)
        login = login_words(user, name)
        if self._logins is not None and tuple(words) == self._logins.words:
            self._shared[login] = self._logins.login(login, self._embedding)
        if login not in self._shared:
            opening_login = sharing(words, login, self._share, self._environ, self._check)
            shared = self._shared[login] = self._opened.enter_context(opening_login)
            options = shared.login
        else:
            options = self._shared[login].control or self._shared[login].login
        opened = self._opened.enter_context(contextlib.ExitStack())
        opening = connect(
            name, shell, login, options, prefix=Remote(user, name, "").prefix, timeout=self._timeout, digest=digest,
            embedding=self._embedding, stderr=self._stderr, wait=False,
        )  # fmt: skip
        connection = opened.enter_context(opening)
        alone = until_ssh(words)
        if alone:
            more = Shell((*words[:alone], *ALONE, *words[alone:]), self._prefix, self._python)
            connection.another = functools.partial(
                connect, name, more, login, prefix=connection.prefix, timeout=self._timeout, digest=digest,
                embedding=self._embedding, stderr=lambda said: None,
            )  # fmt: skip
        return connection, opened.close

    @property
    def _check(self) -> Callable[[], object]:
        return self._embedding.check if self._embedding else lambda: None

    @property
    def _environ(self) -> Mapping[str, str]:
        return self._embedding.environ if self._embedding else os.environ

    def _words(self) -> Sequence[str]:
        """Return the words of the remote shell's command."""
        from .address import remote_shell, split_shell

        given = self._rsh
        return split_shell(remote_shell(given, self._environ)) if given is None or isinstance(given, str) else given


def _is_shell(rsh: object) -> bool:
    words = isinstance(rsh, Sequence) and bool(rsh) and all([isinstance(word, str) for word in rsh])
    return rsh is None or isinstance(rsh, str) or words


class Connections:
    """Connections that outlast the pools that borrow them. Any thread may borrow.

    ``rsh``, ``python``: as for :class:`HostPool`.
    ``salt``: of the digest that two agents use.
    """

    def __init__(self, rsh: Rsh = None, python: str | None = None) -> None:
        import threading

        from .address import remote_shell, split_shell

        self.salt: bytes = os.urandom(16)
        self._pool = HostPool(rsh, python, logins=self)
        self.python = python
        given = remote_shell(rsh) if rsh is None or isinstance(rsh, str) else rsh
        self.words: tuple[str, ...] = tuple(split_shell(given) if isinstance(given, str) else given)
        self._logins: dict[tuple[str, ...], Sharing] = {}
        self._logging_in = threading.Lock()
        self._opened = contextlib.ExitStack()
        self._idle: dict[tuple[str | None, str, bool], list[RemoteHost]] | None = {}

    def close(self) -> None:
        """Close all connections. Whoever has borrowed one gets a LinkError when he needs it."""
        self._idle = None
        self._pool.__exit__(None, None, None)
        self._opened.close()

    def login(self, login: tuple[str, ...], embedding: Embedding | None = None) -> Sharing:
        """Return how an ssh uses the one login to a host, which lasts until :meth:`close`.

        ``embedding``: of the program that waits for it.

        Raises ValueError if the connections are closed.
        """
        from ..embedding import WAIT_SECONDS
        from .sharing import lasting

        check = embedding.check if embedding else lambda: None
        while not self._logging_in.acquire(timeout=WAIT_SECONDS):
            check()
        try:
            if self._idle is None:
                raise ValueError("the session is closed")
            if login not in self._logins or self._logins[login].lost:
                self._logins[login] = self._opened.enter_context(lasting(self.words, login, os.environ, check))
            return self._logins[login]
        finally:
            self._logging_in.release()

    @contextlib.contextmanager
    def lend(self, user: str | None, name: str, digest: Digest | None = None) -> Iterator[RemoteHost]:
        """Give the host of this name, by a connection that nobody else uses meanwhile.

        After an exception the connection is closed, since an answer may be under way.

        Raises as :meth:`HostPool.locate`, and ValueError if the connections are closed.
        """
        lists = self._idle
        if lists is None:
            raise ValueError("the session is closed")
        # All digests that are given are the same: their salt is ours.
        idle = lists.setdefault((user, name, digest is not None), [])
        try:
            host = idle.pop()
        except IndexError:
            host = self._pool.connect(user, name, digest)
        try:
            yield host
        except BaseException:
            host.leave()
            raise
        idle.append(host)


def _location(host: Host, path: PathLike, remote: Remote | None) -> Location:
    from .base import Location

    given = os.fsdecode(path)
    if remote is None:
        return Location(host, given, "")
    # "host:" is the directory one gets to by logging in.
    path = remote.path[2:] if remote.path.startswith("~/") else "" if remote.path == "~" else remote.path
    skipped = 2 if remote.path.startswith("~/") else 0
    from .remote import RemoteHost

    if isinstance(host, RemoteHost) and host.connection.served:
        # All paths are relative to the one directory that is served, and so are those that it answers with.
        below = path.lstrip("/")
        skipped += len(path) - len(below) if below else 0  # what is below "h:/" is "h:./name", as for "h:"
        path = below
    return Location(host, path or ".", given[: len(given) - len(remote.path) + skipped])
