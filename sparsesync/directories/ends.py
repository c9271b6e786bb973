"""The two ends of a copy or a move of a tree, and what shutil asks of them before it begins."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from shutil import Error, SameFileError
from typing import TYPE_CHECKING, Any

from ..engine.host import LocalHost
from ..hosts.address import Remote
from ..hosts.base import PathLike, Rsh
from ..hosts.pool import Connections, HostPool, is_remote, remote_part

if TYPE_CHECKING:
    from ..engine.queries.files import Entry


@contextlib.contextmanager
def connected(rsh: Rsh | Connections, python: str | None) -> Iterator[Connections]:
    """Give connections for one call, or those of the session that ``rsh`` is."""
    if isinstance(rsh, Connections):
        yield rsh
        return
    HostPool(rsh, python)  # raises TypeError
    connections = Connections(rsh, python)
    try:
        yield connections
    finally:
        connections.close()


class End:
    """The source or the destination.

    ``given``: its path as text, as the caller would write it.
    ``path``: the path at its host, which neither the agent nor rsync takes for something else.
    ``host``: the name of the other host, or None.
    """

    def __init__(self, given: PathLike, connections: Connections) -> None:
        self._connections = connections
        self._remote: Remote | None = remote_part(given)
        path = os.fsdecode(given) if self._remote is None else self._remote.path
        self.given: str = (
            os.path.join(os.curdir, path) if self._remote is None and is_remote(path) else os.fsdecode(given)
        )
        if self._remote is not None and path in ("", "~"):
            path = os.curdir
        elif self._remote is not None and path.startswith("~/"):
            path = path[2:].lstrip("/") or os.curdir
        odd = path.startswith(("~", "-", "=")) or (self._remote is None and is_remote(path))
        self.path: str = os.path.join(os.curdir, path) if odd else path
        self.host: str | None = None if self._remote is None else self._remote.host

    def below(self, name: str) -> End:
        """Return the end that is ``name`` in this directory."""
        prefix = self._remote.prefix if self._remote else ""
        path = self._remote.path if self._remote else self.given
        return End(prefix + os.path.join(path, name), self._connections)

    def argument(self, contents: bool) -> str:
        """Return the path for rsync. ``contents``: of the directory."""
        path = os.path.join(self.path, "") if contents else self.path
        return path if self._remote is None else self._remote.prefix + path

    def query(self, query: str, **arguments: Any) -> Any:
        """Return the answer of the end's host. Raises OSError, which names the path as it was given, and LinkError."""
        try:
            if self._remote is None:
                return LocalHost().query(query, **arguments)
            with HostPool(self._connections) as hosts:
                return hosts.host(self._remote.user, self._remote.host).query(query, **arguments)
        except OSError as error:
            shown = (self._remote.prefix if self._remote else "") + self.path
            if isinstance(error.filename, str) and error.filename.startswith(shown):
                error.filename = self.given + error.filename[len(shown) :]
            raise

    def entry(self) -> Entry:
        """Return what is at the path."""
        found: Entry = self.query("entry", path=self.path)
        return found

    def machine(self) -> str:
        """Return what tells the machine from others, or ""."""
        identity: str = self.query("host").identity
        return identity


def opened(src: PathLike, dst: PathLike, connections: Connections) -> tuple[End, End]:
    """Return the source and the destination, one of which is at another host. Raises ValueError."""
    source, destination = End(src, connections), End(dst, connections)
    if source.host is not None and destination.host is not None:
        raise ValueError(f"{source.given}: the source and the destination cannot both be on another host")
    return source, destination


def check_directory(end: End, entry: Entry) -> None:
    """Raise OSError unless there is a directory, or a symlink to one."""
    if not stat.S_ISDIR(entry.target):
        code = errno.ENOTDIR if entry.kind else errno.ENOENT
        raise OSError(code, os.strerror(code), end.given)


def check_apart(source: End, destination: End, at_source: Entry, at_destination: Entry) -> None:
    """Raise SameFileError or Error if the destination is the source, or is below it, also by way of a host's name."""
    if not at_source.within or at_source.within[0] not in at_destination.within:
        return
    machine = source.machine()
    if machine and machine != destination.machine():
        return
    if at_destination.target and at_destination.within[0] == at_source.within[0]:
        raise SameFileError(f"{source.given!r} and {destination.given!r} are the same file")
    raise Error(f"Cannot copy or move {source.given!r} into itself {destination.given!r}.")
