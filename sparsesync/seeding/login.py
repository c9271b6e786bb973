"""The way to the other host, which the agent and the two runs of rsync share: one login is enough for all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from ..console.streams import write_error
from ..hosts.address import remote_shell, with_words
from ..rsync.listing import Hearer, dry_run
from ..rsync.program import NEVER_SPOKE, NOT_BEGUN

if TYPE_CHECKING:
    from ..embedding import Embedding
    from ..hosts.base import Destination
    from ..hosts.pool import Connections, HostPool
    from ..hosts.remote import RemoteHost
    from ..hosts.sharing import Trial
    from ..hosts.stderr_relay import Greeting
    from ..rsync.command import Command


class Login:
    """The connection of one run. ``host``: the other host, once there is an agent."""

    def __init__(
        self,
        command: Command,
        hosts: HostPool | None,
        embedding: Embedding | None = None,
        logins: Connections | None = None,
    ) -> None:
        self._logins = logins
        self.embedding = embedding
        self.host: RemoteHost | None = None
        self.command = command
        self._hosts = hosts
        """Others have logged in, and ``command`` goes their way by itself."""
        self._own: HostPool | None = None
        self._greeting: Greeting | None = None
        self._before = 0
        self._by_turns = False
        self.doubtful: bool = False
        """rsync is only to say once more why it cannot begin, and not to log in for that."""

    def dial(self, python: str | None, stack: contextlib.ExitStack) -> None:
        """Begin to log in, if that is not done: what takes long may be done meanwhile, before :meth:`connect`."""
        remote = self.command.remote
        if self._hosts is not None or self._logins is not None or self._own is not None or remote is None:
            return
        with contextlib.suppress(OSError, ValueError):  # which connect() meets again
            self._open(python, stack).dial(remote.user, remote.host)

    def connect(self, python: str | None, stack: contextlib.ExitStack) -> RemoteHost:
        """Start the agent. The login lasts as long as ``stack``, even without an agent. Raises LinkError."""
        remote = self.command.remote
        assert remote is not None
        hosts = self._hosts or self._own or self._open(python, stack)
        self.host = hosts.host(remote.user, remote.host)
        # It may be a connection that others use, too.
        self._before = self._gone() if self._hosts else 0
        return self.host

    def _open(self, python: str | None, stack: contextlib.ExitStack) -> HostPool:
        from ..hosts.pool import HostPool
        from ..hosts.stderr_relay import Greeting

        remote = self.command.remote
        assert remote is not None
        show = (self.embedding and self.embedding.stderr) or write_error
        # What is said while the shared connection is not there yet is said once, by the login.
        self._greeting = Greeting(show, lambda: self._own is not None and not self._own.shared.lost)
        stack.callback(self._greeting.show)
        self._own = stack.enter_context(
            HostPool(
                remote.shell,
                python,
                prefix=remote.prefix,
                timeout=self.command.timeout,
                share=True,
                embedding=self.embedding,
                logins=self._logins,
                stderr=self._greeting.write,
            )
        )
        return self._own

    def wire(self) -> int:
        """Return the bytes that this run sent and received over the agent's connection."""
        return self._gone() - self._before

    def _gone(self) -> int:
        link = self.host.connection.link if self.host else None
        return sum(each.sent + each.received for each in [link, *link.streams]) if link else 0

    @property
    def lasts(self) -> bool:
        """Whether the connection must stay open until rsync ends."""
        return self.host is not None or bool(self.words)

    @property
    def words(self) -> list[str]:
        """The words in the remote shell's command by which rsync uses the same connection."""
        if self._own is None:
            return []
        return self._own.shared.only if self.doubtful else self._own.shared.control

    def doubt(self, status: int, said: bytes) -> bool:
        """Note, and return, whether the other host's rsync could not begin, which a run may say that does not log in.

        ``status``, ``said``: of the dry run.
        """
        self.doubtful = bool(self.words) and status in NOT_BEGUN and NEVER_SPOKE in said
        return self.doubtful

    def dry_run(
        self, listing: IO[bytes], unchanged: IO[bytes] | None, spool: IO[bytes] | None, hearer: Hearer | None
    ) -> tuple[int, bytes]:
        """Have rsync list what it would transfer, as :func:`~..rsync.listing.dry_run`. Raises LinkError."""
        only = self._own.shared.only if self._own is not None else []

        def ask() -> tuple[int, bytes]:
            options, environ = self._through(only)
            return dry_run(
                self.command,
                listing,
                unchanged,
                options=options,
                stdin=spool,
                environ=environ,
                embedding=self.embedding,
                hearer=hearer,
            )

        status, said = ask()
        # Without strictness, an ssh that found no room has logged in by itself.
        if only and self._own is not None and self._own.shared.strict and status:
            from ..hosts.sharing import REFUSED_SESSION

            self._by_turns = REFUSED_SESSION in said
        if self._by_turns:
            with self.without_agent(None):
                status, said = ask()
        if self._greeting is not None:
            self._greeting.show(but=said)
        return status, said

    def hand_over(self) -> None:
        """Leave it to rsync, which starts now, to show what the remote shell says. What it has said is dropped."""
        if self._greeting is not None:
            self._greeting.drop()

    def through(self) -> tuple[list[str], dict[str, str]]:
        """Return the options and the environment by which rsync uses the same connection."""
        return self._through(self.words)

    def _through(self, words: list[str]) -> tuple[list[str], dict[str, str]]:
        environ = dict(self.embedding.environ if self.embedding else os.environ)
        if not words:
            return [], environ
        rsh = self.command.value("rsh")
        shell = with_words(remote_shell(rsh, environ), words)
        if rsh is None:
            environ["RSYNC_RSH"] = shell
            return [], environ
        return [f"--rsh={shell}"], environ

    def trying_session(self) -> contextlib.AbstractContextManager[Trial | None]:
        """Have the host asked meanwhile whether rsync finds room in the connection beside the agent."""
        return self._own.trying_session(self.host) if self._own and self.host else contextlib.nullcontext()

    def end_agent(self, trial: Trial | None) -> None:
        """End the agent, of which nothing more is wanted, before rsync opens a session in its connection.

        A connection that others use too is left as it is.

        ``trial``: of :meth:`trying_session`.
        """
        if self._own is not None and self.host is not None:
            self._own.end_agent(self.host, trial)

    @contextlib.contextmanager
    def without_agent(self, destination: Destination | None) -> Iterator[None]:
        """End the agent while rsync runs, if it takes the only session that the host allows (MaxSessions).

        The next agent opens ``destination`` again.
        """
        if not self._by_turns or self._own is None or self.host is None:
            yield
            return
        from ..hosts.remote import RemoteDestination

        self._before -= self._gone()
        with contextlib.ExitStack() as again, self._own.without_agent(self.host):
            yield
            if self._greeting is not None:
                again.enter_context(self._greeting.repeated())
        if isinstance(destination, RemoteDestination):
            destination.open_again()
