"""Whole directories, as shutil has them. :mod:`sparsesync.api` says what the parameters of all functions mean.

On this machine shutil's own functions do the work, with :func:`~.copying.copy2` to copy each file. They are taken when
this module is imported, so that ours may be put in their place. To and from another host it is rsync's
(:mod:`sparsesync.directories`).
"""

from __future__ import annotations

import os
from shutil import copytree as _copytree
from shutil import move as _move
from typing import TYPE_CHECKING, Any, Callable

from .copying import copy2

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import TypeAlias

    from ..hosts.base import Rsh

    # What shutil takes.
    StrPath: TypeAlias = "str | os.PathLike[str]"


def copytree(
    src: StrPath,
    dst: StrPath,
    symlinks: bool = False,
    ignore: Callable[[Any, list[str]], Iterable[str]] | None = None,
    copy_function: Callable[[str, str], object] = copy2,
    ignore_dangling_symlinks: bool = False,
    dirs_exist_ok: bool = False,
    *,
    rsh: Rsh = None,
    python: str | None = None,
    streams: int = 1,
) -> StrPath:
    """Copy a directory with all below it, holes as holes, and return ``dst``. Everything is as of shutil.copytree.

    ``copy_function``: copies each file; give options with functools.partial: ``partial(copy2, sparse="always")``.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.
    ``streams``: how many connections carry the content of sparse files to or from another host, as of
    :func:`~.copying.copyfile`.

    Files get what :func:`copy2` gives them, so the owner too. Directories and symlinks get what shutil.copystat gives
    them, and no owner. Each name of a file with several hard links becomes a file of its own.

    ``src`` or ``dst`` may be ``host:path``, if Python and rsync are there. Then rsync copies, as :func:`sync` runs it,
    and some things are different. ``copy_function`` cannot be given. ``ignore`` is only for a ``src`` on this machine.
    Directories and symlinks get owners, too. A block device is an error, as a named pipe is. If ``dst``
    exists, a file that has size and time of its source is taken for its copy, and what is of another type is replaced.
    A path that the host's shell may change, as by wildcards or a line break, is a ValueError; below it all names do.

    Warns with a RuntimeWarning of attributes that the destination does not take.

    Raises shutil.Error, with a list of (source, destination, reason), when all else is copied; FileExistsError if
    ``dst`` exists, unless ``dirs_exist_ok`` is set; FileNotFoundError, NotADirectoryError. With ``host:path`` also
    LinkError if the host cannot be reached or is lost, NoSpaceError, TypeError and ValueError for what is said above
    and if both are on other hosts, and FileNotFoundError if rsync is not installed. Then what was copied before stays.
    """
    if _remote(src, dst, copy_function, streams):
        from ..directories.by_rsync import copytree as copytree_by_rsync

        copytree_by_rsync(src, dst, symlinks, ignore, ignore_dangling_symlinks, dirs_exist_ok, rsh, python, streams)
        return dst
    _copytree(
        _local(src),
        _local(dst),
        symlinks,
        ignore,
        copy_function,
        ignore_dangling_symlinks=ignore_dangling_symlinks,
        dirs_exist_ok=dirs_exist_ok,
    )
    return dst


def move(
    src: StrPath,
    dst: StrPath,
    copy_function: Callable[[str, str], object] = copy2,
    *,
    rsh: Rsh = None,
    python: str | None = None,
    streams: int = 1,
) -> StrPath:
    """Move a file or a directory with all below it, and return where it is now. Everything is as of shutil.move.

    What stays on its filesystem is renamed. Else it is copied, holes as holes, by :func:`copytree` with ``symlinks``,
    and then removed.

    ``rsh``, ``python``: see :mod:`sparsesync.api`.
    ``streams``: as of :func:`copytree`.

    ``src`` or ``dst`` may be ``host:path``, with what :func:`copytree` says of it. A file is copied by :func:`copy2`,
    and may replace a file. The source is removed when rsync, asked again, finds nothing to copy, and the copy is on the
    disk. What has changed since the beginning is not removed.

    Raises what :func:`copytree` does, and shutil.Error if the destination exists in the directory ``dst``, or is below
    ``src``. If something could not be copied, or the connection is lost before it is proved, nothing is removed. With
    ``host:path`` shutil.Error also names what has changed meanwhile and is still there.
    """
    if _remote(src, dst, copy_function, streams):
        from ..directories.move import move as move_by_copy

        return move_by_copy(src, dst, rsh, python, streams)
    moved: StrPath = _move(_local(src), _local(dst), copy_function)
    return moved


def _remote(src: StrPath, dst: StrPath, copy_function: object, streams: int) -> bool:
    """Return whether an end is at another host. Raises ValueError, and TypeError for a ``copy_function`` then."""
    from ..hosts.pool import is_remote

    if streams != 1:
        from ..hosts.transfer import checked_streams

        checked_streams(streams)
    remote = [path for path in (src, dst) if is_remote(path)]
    if remote and copy_function is not copy2:
        raise TypeError(f"{remote[0]}: copy_function is for trees on this machine; rsync copies those of other hosts")
    return bool(remote)


def _local(path: StrPath) -> StrPath:
    """Return a path that each function takes for a local one, even when a name is added to it."""
    from ..hosts.pool import is_remote

    name = os.fspath(path)
    return os.path.join(os.curdir, name) if is_remote(name) else path
