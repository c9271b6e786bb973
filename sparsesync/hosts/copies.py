"""The public ``copyfile``, ``copy`` and ``copy2``: the engine's, and the same to and from another host.

A ``str`` with a colon before its first slash is ``host:path``, by rsync's rule. Then an agent of ours is at the far
end, and no rsync; only what differs from the file that is there travels, and a copy that broke off goes
on where it was. Several copies share a connection within a :class:`Copies`.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from ..engine.content.copy import check_choices
from ..engine.content.copy_file import Path, copy_file
from ..engine.errors import NoSpaceError
from ..engine.errors import OnProgress as Progress
from .pool import Ends, remote_part

if TYPE_CHECKING:
    from ..engine.transfer.records import Result
    from .address import Remote


def copyfile(
    src: Path,
    dst: Path,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    holes: str = "auto",
    reserve: bool = False,
    fsync: bool = False,
    progress: Progress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Path:
    """Copy the content of ``src`` to the file ``dst``, holes as holes, and return ``dst``.

    As shutil.copyfile. An existing ``dst`` is replaced atomically; with ``inplace`` only the blocks
    that differ are written to it and what became a hole is punched. ``reflink`` is "auto" (share extents where
    the filesystem can), "always" or "never"; ``sparse`` is "auto" (the source's holes) or "always" (also
    turn blocks of zeros into holes). ``holes`` is whether the map that ``src``'s filesystem has of it is believed:
    "auto" (local filesystems that are known are; others after a check, or not at all, and block devices have none),
    "trust", "check" or "read"; what is not believed is read, and its blocks of zeros become holes. What is preallocated
    and unwritten is a hole; with ``reserve`` it is reserved in ``dst`` too. With ``fsync`` the content is on the disk
    before ``dst`` is replaced, and the name before the function returns: a power cut leaves the old or the new file
    (with ``inplace`` also a mixture), and after that the new one. ``progress`` is called with the bytes done since the
    last call.

    One of the two may be ``"host:path"``; ``rsh`` is the remote shell's command (by default RSYNC_RSH, else ssh), and
    ``python`` the Python to use there (by default one is looked for).

    On one machine ``src`` may be a block device, and a file of the kernel's (proc, sysfs) is read to its end; ``dst``
    may be a device: it is written to and keeps its attributes, and holes read as zeros in a block device.

    A ``src`` that is written to meanwhile is a RuntimeWarning on one machine, and an OSError to or from another.

    Raises shutil.SameFileError, shutil.SpecialFileError for a pipe or a socket, IsADirectoryError,
    NoSpaceError before anything is written, TruncatedError if ``src`` is truncated meanwhile, ValueError for an unknown
    choice, LinkError if the other host cannot be reached or is lost, OSError otherwise. Nothing is changed then, unless
    ``inplace`` or in a device, and nothing left behind but the partial file of a lost connection.
    """
    return _copy(
        "content", src, dst, rsh, python, follow_symlinks=follow_symlinks, inplace=inplace, reflink=reflink,
        sparse=sparse, holes=holes, reserve=reserve, fsync=fsync, progress=progress,
    )  # fmt: skip


def copy(
    src: Path,
    dst: Path,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    holes: str = "auto",
    reserve: bool = False,
    fsync: bool = False,
    progress: Progress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Path:
    """As :func:`copyfile`, and the mode too; ``dst`` may be a directory. Returns the file made, as shutil.copy."""
    return _copy(
        "mode", src, dst, rsh, python, follow_symlinks=follow_symlinks, inplace=inplace, reflink=reflink,
        sparse=sparse, holes=holes, reserve=reserve, fsync=fsync, progress=progress,
    )  # fmt: skip


def copy2(
    src: Path,
    dst: Path,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    holes: str = "auto",
    reserve: bool = False,
    fsync: bool = False,
    progress: Progress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Path:
    """As :func:`copy`, and times (in ns), extended attributes and so ACLs, and ownership where permitted."""
    return _copy(
        "all", src, dst, rsh, python, follow_symlinks=follow_symlinks, inplace=inplace, reflink=reflink,
        sparse=sparse, holes=holes, reserve=reserve, fsync=fsync, progress=progress,
    )  # fmt: skip


def _copy(keep: str, src: Path, dst: Path, rsh: str | None, python: str | None, **options: Any) -> Path:
    with Copies(rsh, python) as copies:
        return copies.copy(src, dst, keep, **options)


class Copies:
    """Copies that share their connections to other hosts. A context manager."""

    def __init__(self, rsh: str | None = None, python: str | None = None) -> None:
        self._ends = Ends(rsh, python)

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ends.__exit__(*exc_info)

    def copy(self, src: Path, dst: Path, keep: str, **options: Any) -> Path:
        """Copy ``src`` to ``dst``, and of its attributes ``keep``: "content", "mode" or "all". See :func:`copyfile`."""
        source, destination = remote_part(src), remote_part(dst)
        if source is None and destination is None:
            return copy_file(src, dst, keep, **options)
        if source is not None and destination is not None:
            raise ValueError(f"{src}: the source and the destination cannot both be on another host")
        return self._far_copy(src, dst, source, destination, keep, **options)

    def _far_copy(
        self,
        src: Path,
        dst: Path,
        source: Remote | None,
        destination: Remote | None,
        keep: str,
        *,
        follow_symlinks: bool = True,
        inplace: bool = False,
        reflink: str = "auto",
        sparse: str = "auto",
        holes: str = "auto",
        reserve: bool = False,
        fsync: bool = False,
        progress: Progress = None,
    ) -> Path:
        from .transfer import Planned, Settings, check_space
        from .transfer_remote import Pull, Push

        check_choices(sparse, reflink, inplace, holes)
        if reflink == "always":
            raise OSError(errno.EOPNOTSUPP, "two machines cannot share extents (reflink)", os.fspath(dst))
        if not follow_symlinks:
            raise ValueError("follow_symlinks=False is for copies on one machine")
        settings = Settings(
            follow=True, sparse=sparse == "always", attributes=keep != "content", holes=holes, preallocate=reserve
        )
        transfer: Push | Pull
        if source is not None:
            path, target = source.path, os.fspath(dst)
            transfer = Pull(self._ends.agent(source), settings)
        else:
            assert destination is not None  # one of the two is far
            path, target = os.fspath(src), destination.path or "."
            transfer = Push(self._ends.agent(destination), settings)
        name = os.path.basename(path)
        results: list[Result] = []
        try:
            size, room = transfer.measure(path)
            plan = Planned(name, path, size, room, room=room)
            made = transfer.open_copy(target, name, into=keep != "content", keep=keep, inplace=inplace, fsync=fsync)
            transfer.expect([plan])
            check_space(transfer)
            transfer.run(iter([plan]), results.append, progress)
        finally:
            transfer.close()
        (result,) = results
        if result.no_space is not None:
            raise NoSpaceError(*result.no_space, os.fspath(dst))
        if result.left is not None:
            raise OSError(result.errno or errno.EIO, result.left, os.fspath(src if result.at_source else dst))
        if destination is not None:
            given = os.fspath(dst)
            return given[: len(given) - len(destination.path)] + made
        return made
