"""The public ``copyfile``, ``copy`` and ``copy2``: the engine's, and the same to and from another host.

A ``str`` with a colon before its first slash is ``host:path``, by rsync's rule. Then an agent of ours is at the far
end, and no rsync; only what differs from the file that is there travels, and a copy that broke off goes
on where it was. Several copies share a connection within a :class:`Copies`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import Any

from .engine.copy import Progress, check_choices
from .engine.copyfile import Path, copy_file
from .engine.fileio import NoSpaceError
from .engine.place import Result


def copyfile(
    src: Path,
    dst: Path,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    progress: Progress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Path:
    """Copy the content of ``src`` to the file ``dst``, holes as holes, and return ``dst``.

    As shutil.copyfile. An existing ``dst`` is replaced atomically; with ``inplace`` only the blocks
    that differ are written to it and what became a hole is punched. ``reflink`` is "auto" (share extents where
    the filesystem can), "always" or "never"; ``sparse`` is "auto" (the source's holes) or "always" (also
    turn blocks of zeros into holes). ``progress`` is called with the bytes copied since the last call.

    One of the two may be ``"host:path"``; ``rsh`` is the remote shell's command (by default RSYNC_RSH, else ssh), and
    ``python`` the Python to use there (by default one is looked for).

    On one machine ``src`` may be a block device, and a file of the kernel's (proc, sysfs) is read to its end; ``dst``
    may be a device: it is written to and keeps its attributes, and holes read as zeros in a block device.

    Raises shutil.SameFileError, shutil.SpecialFileError for a pipe or a socket, IsADirectoryError,
    NoSpaceError before anything is written, TruncatedError if ``src`` is truncated meanwhile, ValueError for an unknown
    choice, LinkError if the other host cannot be reached or is lost, OSError otherwise. Nothing is changed then, unless
    ``inplace`` or in a device, and nothing left behind but the partial file of a lost connection.
    """
    return _copy("content", src, dst, follow_symlinks, inplace, reflink, sparse, progress, rsh, python)


def copy(
    src: Path,
    dst: Path,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    progress: Progress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Path:
    """As :func:`copyfile`, and the mode too; ``dst`` may be a directory. Returns the file made, as shutil.copy."""
    return _copy("mode", src, dst, follow_symlinks, inplace, reflink, sparse, progress, rsh, python)


def copy2(
    src: Path,
    dst: Path,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    progress: Progress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Path:
    """As :func:`copy`, and times (in ns), extended attributes and so ACLs, and ownership where permitted."""
    return _copy("all", src, dst, follow_symlinks, inplace, reflink, sparse, progress, rsh, python)


def _copy(
    keep: str,
    src: Path,
    dst: Path,
    follow_symlinks: bool,
    inplace: bool,
    reflink: str,
    sparse: str,
    progress: Progress,
    rsh: str | None,
    python: str | None,
) -> Path:
    with Copies(rsh, python) as copies:
        return copies.copy(
            src, dst, keep, follow_symlinks=follow_symlinks, inplace=inplace, reflink=reflink, sparse=sparse,
            progress=progress,
        )  # fmt: skip


class Copies:
    """Copies that share their connections to other hosts. A context manager."""

    def __init__(self, rsh: str | None = None, python: str | None = None) -> None:
        self._rsh = rsh
        self._python = python
        self._opened = contextlib.ExitStack()
        self._agents: dict[tuple[str | None, str], Any] = {}

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.close()

    def copy(self, src: Path, dst: Path, keep: str, **options: Any) -> Path:
        """Copy ``src`` to ``dst``, and of its attributes ``keep``: "content", "mode" or "all". See :func:`copyfile`."""
        if not (_may_be_remote(src) or _may_be_remote(dst)):
            return copy_file(src, dst, keep, **options)
        from .remote import split_remote

        source, destination = (split_remote(path) if isinstance(path, str) else None for path in (src, dst))
        if source is None and destination is None:
            return copy_file(src, dst, keep, **options)
        if source is not None and destination is not None:
            raise ValueError(f"{src}: the source and the destination cannot both be on another host")
        return self._far_copy(src, dst, source, destination, keep, **options)

    def _agent(self, remote: Any) -> Any:
        host = remote.user, remote.host
        if host not in self._agents:
            from .ssh import Shell, connect, default_shell, split_shell

            shell = Shell(split_shell(self._rsh) if self._rsh else default_shell(), python=self._python)
            self._agents[host] = self._opened.enter_context(connect(remote.host, shell, user=remote.user))
        return self._agents[host]

    def _far_copy(
        self,
        src: Path,
        dst: Path,
        source: Any,
        destination: Any,
        keep: str,
        *,
        follow_symlinks: bool = True,
        inplace: bool = False,
        reflink: str = "auto",
        sparse: str = "auto",
        progress: Progress = None,
    ) -> Path:
        from .transfer import Planned, Settings
        from .transfer_far import Pull, Push

        check_choices(sparse, reflink, inplace)
        if reflink == "always":
            raise OSError(errno.EOPNOTSUPP, "two machines cannot share extents (reflink)", os.fspath(dst))
        if not follow_symlinks:
            raise ValueError("follow_symlinks=False is for copies on one machine")
        path = source.path if source else os.fspath(src)
        name = os.path.basename(path)
        settings = Settings(follow=True, sparse=sparse == "always", attributes=keep != "content")
        agent = self._agent(source or destination)
        transfer = Pull(agent, settings) if source else Push(agent, settings)
        _check_source(transfer.source_mode(path), os.fspath(src))
        results: list[Result] = []
        try:
            place = {"into": keep != "content", "keep": keep, "inplace": inplace}
            made = transfer.open_copy((destination.path or ".") if destination else os.fspath(dst), name, **place)
            plan = Planned(name, path, *transfer.measure(path))
            transfer.expect([plan])
            transfer.check_space()
            transfer.run(iter([plan]), results.append, progress)
        finally:
            transfer.close()
        result = results[0]
        if result.no_space is not None:
            raise NoSpaceError(*result.no_space, os.fspath(dst))
        if result.left is not None:
            raise OSError(result.errno or errno.EIO, result.left, os.fspath(src if result.at_source else dst))
        if isinstance(dst, str) and destination is not None:
            return dst[: len(dst) - len(destination.path)] + made
        return made


def _check_source(mode: int | None, path: str) -> None:
    if mode is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        from shutil import SpecialFileError

        raise SpecialFileError(errno.EINVAL, "not a regular file", path)


def _may_be_remote(path: Path) -> bool:
    # Most paths have no colon, and need nothing of what speaks to other hosts.
    return isinstance(path, str) and ":" in path
