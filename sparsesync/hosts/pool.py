"""One kind of end: the engine in this process, or an agent on another host, behind the same operations.

A path is ``host:path``, or here (:func:`is_remote`: rsync's rule, and only for a ``str``; an os.PathLike is always
here). :class:`Ends` gives for each path its :class:`Site`, that is the end to ask, the path to ask it for, and what
to put before the paths it answers with. No caller has to know which kind of end it got::

    with Ends() as ends:
        site = ends.at("host:vms")
        for found in site.end.scan(site.path):
            print(site.prefix + found.file.path)

A host is logged in to once, when the first path needs it, however many paths there are. An agent does
one thing at a time: an iterator has to be exhausted before the next operation of the same end.
:func:`opposite` is for two ends that are to be read at the same time and whose digests are compared.

The other kind is :class:`remote.There`. What an agent cannot read comes as OSError with the file named ``host:path``;
any other failure is a LinkError.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from ..engine.errors import OnError, blame
from ..engine.files.status import measure
from ..engine.tree.scan import Sparse, scan

if TYPE_CHECKING:
    from ..engine.content.compare import Tally
    from ..engine.files.extents import Layer
    from ..engine.queries.presets import Place
    from ..engine.tree.block_map import Run
    from ..engine.tree.manifest import Event
    from ..engine.wire.capabilities import Digest
    from .address import Remote
    from .remote import There
    from .ssh import Agent

PathLike = Union[str, "os.PathLike[str]"]
Range = tuple[str, int, int]
"""A file, and an offset and a length in it, in bytes."""

_COMMON = "blake2b"
"""The digest two agents use: every Python has it, and no machine is slow at it."""


class Scanned(NamedTuple):
    """A file that a scan found, and if it was measured the bytes and the number of its data extents."""

    file: Sparse
    data: int
    extents: int


class Here:
    """The engine in this process. ``digest`` is what the other end computes."""

    def __init__(self, digest: Digest | None = None) -> None:
        self._digest = digest

    def scan(
        self, path: str, *, measured: bool = False, holes: str = "auto", on_error: OnError = None, **options: Any
    ) -> Iterator[Scanned]:
        """The sparse files below ``path``; the options are those of :func:`engine.tree.scan.scan`."""
        for file in scan(path, parallel=True, holes=holes, on_error=on_error, **options):
            try:
                data, count = measure(file.path, holes) if measured else (0, 0)
            except OSError as error:
                if on_error is None:
                    raise
                on_error(error)
                continue
            yield Scanned(file, data, count)

    @contextlib.contextmanager
    def layers(self, path: str, holes: str) -> Iterator[tuple[int, Iterator[Layer]]]:
        """The size of a file or block device, and where there is data and what is reserved."""
        from ..engine.files.extents import layers

        with _opened(path) as (fd, size):
            yield size, layers(fd, 0, size, holes)

    @contextlib.contextmanager
    def checksums(self, path: str, block: int, holes: str) -> Iterator[tuple[int, Iterator[Run]]]:
        """The size of a file or block device, and its runs of ``block`` with data, for a block map."""
        from ..engine.tree.block_map import checksums

        with _opened(path) as (fd, size):
            yield size, checksums(fd, size, block, holes)

    def preset(self, preset: str, source: str) -> list[Place]:
        """The places below ``source`` that a preset leaves out on that machine."""
        from ..engine.queries.presets import preset_patterns

        return list(preset_patterns(preset, [source]))

    def directory(self) -> str:
        """What a relative path is relative to."""
        return os.getcwd()

    def ask(self, question: str, **arguments: Any) -> Any:
        """The answer to one of the questions of :mod:`engine.queries.registry`, a NamedTuple. Raises OSError,
        ValueError."""
        from ..engine.queries.registry import ask

        return ask(question, **arguments)

    @contextlib.contextmanager
    def locked(self, path: str, parents: bool) -> Iterator[None]:
        """Make a destination directory, if it is missing, and hold its lock. Raises OSError; EBUSY: it is taken."""
        from ..engine.queries.probe import lock

        fd = lock(path, make=True, parents=parents)
        try:
            yield
        finally:
            os.close(fd)

    def contents(self, parts: list[Range], full: bool) -> list[list[Any]]:
        """For each part of a file what :func:`engine.tree.manifest.contents` says. Raises OSError."""
        from ..engine.tree.manifest import contents

        assert self._digest
        return [contents(path, offset, length, self._digest, full) for path, offset, length in parts]

    def manifest(self, root: str, full: bool, holes: str, tally: Tally) -> Iterator[Event]:
        """What is at ``root``, for a comparison: see :mod:`engine.tree.manifest`."""
        from ..engine.tree.manifest import manifest

        assert self._digest
        return manifest(root, self._digest, full, holes, tally)

    def digests(self, root: str, block: int, ranges: list[Range], on_error: OnError) -> Iterator[bytes | None]:
        """For each range its digests by ``block``, one after the other; None if there is trouble with the file."""
        from ..engine.tree.manifest import digests

        assert self._digest
        for path, offset, length in ranges:
            found = None
            try:
                found = digests(root, path, offset, length, block, self._digest)
            except OSError as error:
                if on_error is None:
                    raise
                on_error(error)
            yield found


@contextlib.contextmanager
def _opened(path: str) -> Iterator[tuple[int, int]]:
    from ..engine.content.copy_file import open_source
    from ..engine.files.claims import file_size

    fd = open_source(path)
    try:
        with blame(path):
            yield fd, file_size(fd)
    finally:
        os.close(fd)


End = Union[Here, "There"]


class Site(NamedTuple):
    """Where a path is: ``path`` at ``end``; ``prefix`` and a path from there make one to be given to us."""

    end: End
    path: str
    prefix: str


def is_remote(path: PathLike) -> bool:
    """Whether a path is on another host. Raises ValueError for an rsync daemon, ``host::module``."""
    return remote_part(path) is not None


def remote_part(path: PathLike) -> Remote | None:
    """A path on another host, taken apart; None for one that is here. Raises ValueError as :func:`is_remote`."""
    # Most paths have no colon, and need nothing of what speaks to other hosts.
    if not isinstance(path, str) or ":" not in path:
        return None
    from .address import split_remote

    return split_remote(path)


class Ends:
    """The ends of some paths, for as long as the context lasts.

    ``rsh`` is the remote shell's command (by default RSYNC_RSH, else ssh), ``python`` the Python to use at the far
    ends (by default one is looked for).
    """

    def __init__(self, rsh: str | None = None, python: str | None = None) -> None:
        self._rsh = rsh
        self._python = python
        self._opened = contextlib.ExitStack()
        self._here = Here()
        self._hosts: dict[tuple[str | None, str], There] = {}

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.close()

    def at(self, path: PathLike) -> Site:
        """Where ``path`` is. Raises ValueError, LinkError if there is no connection, FileNotFoundError for no ssh."""
        remote = remote_part(path)
        if remote is None:
            return self._site(self._here, path, None)
        return self._site(self._host(remote), path, remote)

    def agent(self, remote: Remote) -> Agent:
        """The agent on the host of a path. Raises as :meth:`at`."""
        return self._host(remote).agent

    def _host(self, remote: Remote) -> There:
        host = remote.user, remote.host
        if host not in self._hosts:
            from .remote import There

            self._hosts[host] = There(self._connect(remote))
        return self._hosts[host]

    def _connect(self, remote: Remote, digest: Digest | None = None) -> Agent:
        from .address import remote_shell, split_shell
        from .ssh import Shell, connect

        shell = Shell(split_shell(remote_shell(self._rsh)), python=self._python)
        return self._opened.enter_context(connect(remote.host, shell, user=remote.user, digest=digest))

    @staticmethod
    def _site(end: End, path: PathLike, remote: Remote | None) -> Site:
        given = os.fspath(path)
        if remote is None:
            return Site(end, given, "")
        # "host:" is the directory one gets to by logging in.
        path = remote.path[2:] if remote.path.startswith("~/") else "" if remote.path == "~" else remote.path
        return Site(end, path or ".", given[: len(given) - len(remote.path)])

    def opposite(self, a: PathLike, b: PathLike) -> tuple[Site, Site]:
        """Where two paths are, one of them at least on another host: at two ends that compute the same digests."""
        import secrets

        from ..engine.wire.capabilities import Digest
        from .remote import There

        remotes = remote_part(a), remote_part(b)
        digest = Digest(_COMMON, secrets.token_bytes(16)) if all(remotes) else None
        agents = [self._connect(remote, digest) if remote else None for remote in remotes]
        shared = next(agent.digest for agent in agents if agent)
        ends = [There(agent) if agent else Here(shared) for agent in agents]
        return self._site(ends[0], a, remotes[0]), self._site(ends[1], b, remotes[1])
