"""The public ``scan``: :func:`engine.tree.scan.scan`, and the same on another host."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from typing import Any

from .engine.errors import OnError
from .engine.tree import scan as here
from .engine.tree.scan import Sparse
from .hosts.pool import Ends, PathLike, is_remote


def scan(
    path: PathLike,
    *,
    one_file_system: bool = False,
    every_link: bool = False,
    every_file: bool = False,
    min_size: int = 0,
    prune: Collection[str] = (),
    follow: bool = False,
    holes: str = "auto",
    on_error: OnError = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Iterator[Sparse]:
    """Yield each sparse regular file at or below ``path``; sizes are bytes.

    A ``str`` may be ``host:path``, and then so are the paths of what is found; ``rsh`` is the remote shell's command
    (by default RSYNC_RSH, else ssh), and ``python`` the Python to use there (by default one is looked for).

    Paths begin with ``path`` as it was given. ``one_file_system`` stays on the filesystem ``path`` is on;
    ``min_size`` is the smallest apparent size; ``prune`` names paths, spelled as they would be yielded,
    that are not entered. A file with several hard links is yielded once unless ``every_link``. ``every_file`` yields
    files without holes too. With ``follow`` a ``path`` that is a symlink means the directory it leads to.

    What is preallocated and unwritten is a hole; files of less than 1 MiB that look dense are not asked for it.
    ``holes`` is whether a filesystem's map of a file is believed: "auto" (local filesystems that are known, others
    after a check or not at all), "trust", "check" or "read". Where it is not, a file is read if its ``st_blocks`` say
    that it has a hole.

    Raises OSError if ``path`` itself cannot be examined, LinkError if there is no connection. What cannot be examined
    below it goes to ``on_error`` and the walk goes on; without ``on_error`` it is raised.
    """
    options: dict[str, Any] = {
        "one_file_system": one_file_system, "every_link": every_link, "every_file": every_file,
        "min_size": min_size, "follow": follow, "holes": holes, "on_error": on_error,
    }  # fmt: skip
    if is_remote(path):
        return _scan_there(path, prune, rsh, python, options)
    return here.scan(os.fspath(path), prune=prune, **options)


def _scan_there(
    path: PathLike, prune: Collection[str], rsh: str | None, python: str | None, options: dict[str, Any]
) -> Iterator[Sparse]:
    with Ends(rsh, python) as ends:
        end, below, prefix = ends.at(path)
        pruned = [name[len(prefix) :] for name in prune if name.startswith(prefix)]
        for found in end.scan(below, prune=pruned, **options):
            yield found.file._replace(path=prefix + found.file.path)
