"""Whole directories, as shutil has them. :mod:`sparsesync.api` says what the parameters of all functions mean.

shutil's own functions do the work, with :func:`~.copying.copy2` to copy each file. They are taken when this module is
imported, so that ours may be put in their place.
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
) -> StrPath:
    """Copy a directory with all below it, holes as holes, and return ``dst``. Everything is as of shutil.copytree.

    Both are on this machine. To and from another host, :func:`~.transfers.sync` copies trees.

    ``copy_function``: copies each file; give options with functools.partial: ``partial(copy2, sparse="always")``.

    Files get what :func:`copy2` gives them, so the owner too. Directories and symlinks get what shutil.copystat gives
    them, and no owner. Each name of a file with several hard links becomes a file of its own.

    Raises shutil.Error, with a list of (source, destination, reason), when all else is copied; FileExistsError if
    ``dst`` exists, unless ``dirs_exist_ok`` is set; ValueError for ``host:path``.
    """
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


def move(src: StrPath, dst: StrPath, copy_function: Callable[[str, str], object] = copy2) -> StrPath:
    """Move a file or a directory with all below it, and return where it is now. Everything is as of shutil.move.

    What stays on its filesystem is renamed. Else it is copied, holes as holes, by :func:`copytree` with ``symlinks``,
    and then removed. Both are on this machine.

    Raises what :func:`copytree` does, and shutil.Error if the destination exists in the directory ``dst``, or is below
    ``src``. If something could not be copied, nothing is removed.
    """
    moved: StrPath = _move(_local(src), _local(dst), copy_function)
    return moved


def _local(path: StrPath) -> StrPath:
    """Return a path that each function takes for a local one, even when a name is added to it.

    Raises ValueError for one on another host.
    """
    from ..hosts.pool import is_remote

    if is_remote(path):
        raise ValueError(f"{path}: a tree is copied to or from another host by sync")
    name = os.fspath(path)
    return os.path.join(os.curdir, name) if is_remote(name) else path
