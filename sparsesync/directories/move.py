"""Move what is at one host to another. Whatever is in doubt leaves the source where it is."""

from __future__ import annotations

import os
import stat
from shutil import Error, SpecialFileError
from typing import TYPE_CHECKING

from ..engine.content.copy_file import CopyOptions
from ..hosts.base import Rsh
from ..hosts.copies import Copies
from ..hosts.pool import Connections
from .by_rsync import check_carried, copy_link, copy_tree, prove
from .ends import End, check_apart, connected, opened

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

    from ..engine.queries.files import Entry

    StrPath: TypeAlias = "str | os.PathLike[str]"

_COARSE_SECONDS = 2
"""By as much a filesystem may round the time of a file."""


def move(src: StrPath, dst: StrPath, rsh: Rsh | Connections, python: str | None, streams: int) -> StrPath:
    """Move as :func:`~sparsesync.api.directories.move`, and return where it is now."""
    with connected(rsh, python) as connections:
        source, destination = opened(src, dst, connections)
        at_source = _source(source)
        kind = stat.S_IFMT(at_source.kind)
        if kind not in (stat.S_IFDIR, stat.S_IFLNK, stat.S_IFREG):
            raise SpecialFileError(f"`{source.given}` is neither a file, a directory nor a symlink")
        made = _made(source, destination, kind)
        before = source.query("totals", path=source.path)
        if kind == stat.S_IFREG:
            _copy_file(source, made, at_source, connections, streams)
        else:
            _copy_by_rsync(source, made, kind == stat.S_IFDIR, connections, streams)
        # A filter that rsync has from elsewhere would keep the same from the copy and from its proof.
        if made.query("totals", path=made.path)[1:] != before[1:]:
            raise Error(
                [(source.given, made.given, "is not the same after the copy: the number of files, or the size")]
            )
        _remove(source, made, before.changed)
    return dst if made is destination else made.given


def _source(source: End) -> Entry:
    """Return what is to be moved. Raises FileNotFoundError, NotADirectoryError, ValueError."""
    name = _name(source)
    if name in ("", os.curdir, os.pardir):
        raise ValueError(f"{source.given}: a directory without a name of its own cannot be moved")
    found = source.entry()
    if not found.kind:
        raise FileNotFoundError(2, "No such file or directory", source.given)
    if source.path.endswith("/"):
        itself: Entry = source.query("entry", path=source.path.rstrip("/"))
        if not stat.S_ISDIR(itself.kind):
            raise NotADirectoryError(20, "Not a directory", source.given)
    return found


def _name(source: End) -> str:
    return os.path.basename(source.path.rstrip("/"))


def _made(source: End, destination: End, kind: int) -> End:
    """Return the path that the source gets. Raises Error or OSError if that is taken."""
    found = destination.entry()
    if stat.S_ISDIR(found.target):
        made = destination.below(_name(source))
        if made.entry().kind:
            raise Error(f"Destination path {made.given!r} already exists")
        return made
    if found.kind and (kind != stat.S_IFREG or not stat.S_ISREG(found.kind)):
        raise FileExistsError(17, "File exists", destination.given)
    if kind != stat.S_IFDIR and destination.path.endswith("/"):
        raise FileNotFoundError(2, "No such file or directory", destination.given)
    return destination


def _copy_file(source: End, made: End, at_source: Entry, connections: Connections, streams: int) -> None:
    check_apart(source, made, at_source, made.entry())
    with Copies(connections, streams=streams) as copies:  # type: ignore[arg-type]
        copies.copy(source.given, made.given, CopyOptions("all", follow_symlinks=True, fsync=True))
    copy = made.entry()
    late = abs(copy.mtime - at_source.mtime) > _COARSE_SECONDS
    if not stat.S_ISREG(copy.kind) or late:
        raise Error([(source.given, made.given, "is not the same after the copy")])


def _copy_by_rsync(source: End, made: End, contents: bool, connections: Connections, streams: int) -> None:
    check_carried(source, made, contents)
    if contents:
        copy_tree(source, made, connections, symlinks=True, streams=streams)
    else:
        copy_link(source, made, connections)
    prove(source, made, connections, contents)
    made.query("flush", path=made.path if contents else os.path.dirname(made.path) or os.curdir)


def _remove(source: End, made: End, latest: int) -> None:
    left: list[str] = source.query("remove", path=source.path, latest=latest).left
    if left:
        top = source.path.rstrip("/")
        paths = [source.given.rstrip("/") + path[len(top) :] for path in left]
        why = "has changed while it was moved, and is still there"
        raise Error([(path, made.given, why) for path in paths])
