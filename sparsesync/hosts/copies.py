"""What ``copyfile``, ``copy`` and ``copy2`` do: copies by the engine, and the same to and from another host.

A ``str`` with a colon before its first slash is ``host:path``, by rsync's rule. Then an agent of ours is at the remote
end, and no rsync; only what differs from the file that is there travels, and a copy that broke off goes
on where it was. Several copies share a connection within a :class:`Copies`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..engine.content.copy_file import CopyOptions, copy_file
from ..engine.errors import NoSpaceError, OnProgress, error_path
from .base import PathLike, Rsh
from .pool import HostPool, remote_part

if TYPE_CHECKING:
    from ..engine.transfer.records import FileResult
    from .address import Remote


class Copies:
    """Copies that share their connections to other hosts. A context manager."""

    def __init__(self, rsh: Rsh = None, python: str | None = None, prefix: str = "") -> None:
        self._hosts = HostPool(rsh, python, prefix=prefix)

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hosts.__exit__(*exc_info)

    def copy(self, src: PathLike | int, dst: PathLike, options: CopyOptions, progress: OnProgress = None) -> PathLike:
        """Copy ``src`` to ``dst``, and return the new file. Raises what :func:`~.api.copyfile` does."""
        if isinstance(src, int) and options.keep != "content":
            raise TypeError("a file descriptor has no name and no attributes to copy; copyfile() copies its content")
        destination = remote_part(dst)
        source = None if isinstance(src, int) else remote_part(src)
        from_, to = f"/proc/self/fd/{src}" if isinstance(src, int) else os.fsdecode(src), os.fsdecode(dst)
        if source is not None and destination is not None:
            raise ValueError(f"{from_}: the source and the destination cannot both be on another host")
        with _naming({from_: src, to: dst}):
            if source is not None or destination is not None:
                made = self._remote_copy(from_, to, source, destination, options, progress)
            else:
                if isinstance(src, int):
                    os.fstat(src)
                    options = options._replace(follow_symlinks=True)
                made = os.fspath(copy_file(from_, to, options, progress))
        if made == to:
            return dst
        return os.fsencode(made) if isinstance(os.fspath(dst), bytes) else made

    def _remote_copy(
        self,
        src: str,
        dst: str,
        source: Remote | None,
        destination: Remote | None,
        options: CopyOptions,
        progress: OnProgress,
    ) -> str:
        from ..engine.roles import Planned, SourceSettings
        from .transfer import Settings, check_space, needs, transfer

        options.check()
        if options.reflink == "always":
            raise OSError(errno.EOPNOTSUPP, "two machines cannot share extents (reflink)", dst)
        if not options.follow_symlinks:
            raise ValueError("follow_symlinks=False is for copies on one machine")
        of = self._hosts.local(src) if source is None else self._hosts.locate(src)
        to = self._hosts.local(dst) if destination is None else self._hosts.locate(dst)
        # What a path is relative to over there, its host knows better.
        path = of.path if source is None else source.path
        target = to.path if destination is None else destination.path or "."
        name = os.path.basename(path)
        settings = SourceSettings(
            follow=True,
            attributes=options.keep != "content",
            holes=options.holes,
            reserve=options.reserve,
            overlay=options.overlay,
        )
        read, written = of.host.source(settings), to.host.destination(resume=True)
        results: list[FileResult] = []
        try:
            with error_path(src, instead=True):
                size, room = read.measure(path)
            plan = Planned(name, path, size, room, room=room)
            with error_path(dst, instead=True):
                made = written.open_copy(target, name, options)
                if options.space_check:
                    written.expect(needs(read, [plan]))
                    check_space(written)
            transfer(read, written, iter([plan]), Settings(options.sparse == "always"), results.append, progress)
        finally:
            read.close()
            written.close()
        (result,) = results
        if result.space is not None:
            raise NoSpaceError(*result.space, dst)
        if result.reason is not None:
            raise OSError(result.errno or errno.EIO, result.reason, src if result.at_source else dst)
        return to.prefix + made


@contextlib.contextmanager
def _naming(given: Mapping[str, PathLike | int]) -> Iterator[None]:
    """Name a path in each OSError raised inside as it was ``given``."""
    try:
        yield
    except OSError as error:
        if error.filename in given:
            path = given[error.filename]
            error.filename = path if isinstance(path, int) else os.fspath(path)
        raise
