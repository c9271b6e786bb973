"""The two machines of a migration, for as long as it lasts.

One of them at least is this one. The other is logged in to once, and rsync goes through that connection; if it
is lost, one thing is worth a second login (:meth:`Sides.alive`): to start services again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from ..engine.errors import LinkError
from ..engine.wire.capabilities import Digest, capabilities, choose_digest
from ..hosts.address import split_remote
from ..hosts.pool import End, Here
from ..hosts.transfer import Local, Settings, Transfer
from .request import Asked


class Side(NamedTuple):
    """One of the two machines. ``name`` is what people call it, ``prefix`` stands before its paths."""

    end: End
    name: str
    prefix: str


class Sides:
    """The machines. What is opened is closed with ``stack``. Raises LinkError if one cannot be reached."""

    def __init__(self, asked: Asked, stack: contextlib.ExitStack) -> None:
        self._asked = asked
        far = asked.command.far
        if far is None:
            mine = capabilities()
            here = Here(Digest(choose_digest(mine, mine), os.urandom(16)))
            self.source = self.destination = Side(here, "this host", "")
            return
        from ..hosts.remote import There
        from ..hosts.ssh import Shell, connect

        self._shell = Shell(far.shell, far.prefix, asked.request.python)
        try:
            self._agent = stack.enter_context(
                connect(far.host, self._shell, user=far.user, timeout=asked.command.timeout, share=True)
            )
        except FileNotFoundError:
            raise LinkError(f"{far.shell[0]}: no such remote shell") from None
        if self._agent.control:
            asked.share(self._agent.control)
        given = asked.request.destination if far.push else asked.request.sources[0]
        here, there = Here(self._agent.digest), There(self._agent)
        remote = split_remote(given)
        assert remote is not None  # it is where the other host was found
        sides = [Side(here, "this host", ""), Side(there, far.host, given[: len(given) - len(remote.path)])]
        self.source, self.destination = sides if far.push else sides[::-1]

    def transfer(self, shares: bool) -> Transfer:
        """The two ends of a seeding; ``shares``: as in Settings."""
        asked = self._asked
        far = asked.command.far
        settings = Settings(follow=asked.command.links_followed, shares=shares)
        if far is None:
            return Local(settings)
        from ..hosts.transfer_remote import Pull, Push

        return Push(self._agent, settings) if far.push else Pull(self._agent, settings)

    @property
    def both(self) -> tuple[Side, Side]:
        """The source and the destination."""
        return self.source, self.destination

    @contextlib.contextmanager
    def alive(self, side: Side) -> Iterator[End]:
        """The end of a side, over a new connection if the old one is lost."""
        asked = self._asked
        far = asked.command.far
        if far is None or isinstance(side.end, Here):
            yield side.end
            return
        try:
            side.end.ask("sizes", paths=[])
            alive = True
        except LinkError:
            alive = False
        if alive:
            yield side.end
            return
        from ..hosts.remote import There
        from ..hosts.ssh import connect

        with connect(far.host, self._shell, user=far.user, timeout=asked.command.timeout) as agent:
            yield There(agent)
