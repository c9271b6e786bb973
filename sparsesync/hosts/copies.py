"""What ``copyfile``, ``copy`` and ``copy2`` do: copies by the engine, and the same to and from another host.

A ``str`` with a colon before its first slash is ``host:path``, by rsync's rule. Then an agent of ours is at the remote
end, and no rsync; only what differs from the file that is there travels, and a copy that broke off goes
on where it was. Several copies share a connection within a :class:`Copies`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ..engine.content.copy_file import CopyOptions, Path, copy_file
from ..engine.errors import NoSpaceError, OnProgress, error_path
from .pool import HostPool, remote_part

if TYPE_CHECKING:
    from ..engine.transfer.records import FileResult
    from .address import Remote


class Copies:
    """Copies that share their connections to other hosts. A context manager."""

    def __init__(self, rsh: str | None = None, python: str | None = None, prefix: str = "") -> None:
        self._hosts = HostPool(rsh, python, prefix=prefix)

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hosts.__exit__(*exc_info)

    def copy(self, src: Path, dst: Path, options: CopyOptions, progress: OnProgress = None) -> Path:
        """Copy ``src`` to ``dst``, and return the new file. Raises what :func:`~.api.copyfile` does."""
        source, destination = remote_part(src), remote_part(dst)
        if source is None and destination is None:
            return copy_file(src, dst, options, progress)
        if source is not None and destination is not None:
            raise ValueError(f"{src}: the source and the destination cannot both be on another host")
        return self._remote_copy(src, dst, source, destination, options, progress)

    def _remote_copy(
        self,
        src: Path,
        dst: Path,
        source: Remote | None,
        destination: Remote | None,
        options: CopyOptions,
        progress: OnProgress,
    ) -> Path:
        from ..engine.roles import Planned, SourceSettings
        from .transfer import Settings, check_space, needs, transfer

        options.check()
        if options.reflink == "always":
            raise OSError(errno.EOPNOTSUPP, "two machines cannot share extents (reflink)", os.fspath(dst))
        if not options.follow_symlinks:
            raise ValueError("follow_symlinks=False is for copies on one machine")
        of, to = self._hosts.locate(src), self._hosts.locate(dst)
        # What a path is relative to over there, its host knows better.
        path = of.path if source is None else source.path
        target = to.path if destination is None else destination.path or "."
        name = os.path.basename(path)
        settings = SourceSettings(
            follow=True, attributes=options.keep != "content", holes=options.holes, reserve=options.reserve
        )
        read, written = of.host.source(settings), to.host.destination(resume=True)
        results: list[FileResult] = []
        try:
            with error_path(os.fspath(src), instead=True):
                size, room = read.measure(path)
            plan = Planned(name, path, size, room, room=room)
            with error_path(os.fspath(dst), instead=True):
                made = written.open_copy(target, name, options)
                written.expect(needs(read, [plan]))
                check_space(written)
            transfer(read, written, iter([plan]), Settings(options.sparse == "always"), results.append, progress)
        finally:
            read.close()
            written.close()
        (result,) = results
        if result.space is not None:
            raise NoSpaceError(*result.space, os.fspath(dst))
        if result.reason is not None:
            raise OSError(result.errno or errno.EIO, result.reason, os.fspath(src if result.at_source else dst))
        return to.prefix + made
