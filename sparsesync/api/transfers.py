"""What runs rsync."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..hosts.base import PathLike
    from ..seeding.run import SyncResult


def sync(sources: PathLike | Iterable[PathLike], destination: PathLike, options: Sequence[str] = ()) -> SyncResult:
    """Copy ``sources`` to ``destination`` as ``rsync OPTIONS SOURCES DESTINATION`` would, holes staying holes.

    rsync's output goes where the caller's goes. A failure of rsync is not raised, but is in the result's ``status``.

    ``sources``: a path or several. Either they or ``destination`` may be ``host:path``. To rsync "dir" and "dir/"
    differ. An ``os.PathLike`` has no slash at its end: give a ``str`` to copy the contents of a directory.
    ``options``: rsync's, and the ``--seed-`` options of the command line.

    Raises FileNotFoundError if rsync is not installed, RsyncTooOldError if it is older than 3.1, ValueError for a wrong
    ``--seed-`` option, NoSpaceError before anything is written, LinkError if the other host cannot be logged in to or
    the connection breaks. After a LinkError rsync has not run, and partial files are kept for the next run.
    """
    from ..seeding import run

    return run.sync(sources, destination, options)
