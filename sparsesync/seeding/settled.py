"""Nothing to do for us: found out by one scan of the source, before rsync is asked anything.

rsync's dry run takes as long as rsync itself when there is nothing to do. So it is asked only if the scan finds a
sparse file that may have to be seeded, or healed. On this machine that is none whose size, time and allocation are the
same at the destination already (:class:`Settled`): rsync leaves such a file alone, and so do we.

What is not certain is not settled. Then the dry run decides. :func:`why_not` has this and all other reasons that are
known before rsync is asked.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Callable

from ..engine.files.claims import allocated, looks_sparse
from ..engine.tree.scan import Sparse
from ..rsync import command as rsync
from ..rsync import filters
from ..rsync.paths import transfer_name, why_not_plain
from ..rsync.verbosity import why_untold
from . import losses
from .losses import is_filled
from .options.own import SeedOptions

if TYPE_CHECKING:
    from ..engine.roles import LocalDestination

NO_SPARSE_FILES = "there are no sparse files"
NOTHING_SPARSE = "it would transfer no sparse file"
NOTHING_TO_SEED = frozenset([NO_SPARSE_FILES, NOTHING_SPARSE])
"""The reasons with which rsync loses no holes."""

_MAX_SETTLED = 1000
"""Sparse files that are looked up one by one. For more a dry run is quicker."""
_EQUAL_ANYWAY = frozenset(["ignore-times", "checksum"])
"""Options with which rsync does not go by size and time."""


def why_not(
    command: rsync.Command, seed: SeedOptions, environ: Mapping[str, str], check: Callable[[], object] | None = None
) -> str | None:
    """Return why there is nothing to seed, or nothing that may be; None if there may be something.

    ``check``: called for each directory.

    Raises RsyncTooOldError, and FileNotFoundError if there is no rsync.
    """
    remote = command.remote
    if seed.off or command.handoff:
        return command.handoff if not seed.off else "--seed-off is given"
    handoff = why_untold(command)
    if handoff:
        return handoff
    handoff = nothing_to_seed(command, seed, check) if remote is None or remote.push else None
    handoff = handoff or no_temporary_directory()
    if handoff:
        return handoff
    from ..rsync.process import check_version

    version = check_version(environ)
    if remote is None:
        return None
    return why_not_plain(
        remote,
        rsync.quotes(command, version, environ),
        secluded=rsync.secludes(command, environ),
        relative=command.relative,
        wild=not remote.push,
    )


def nothing_to_seed(command: rsync.Command, seed: SeedOptions, check: Callable[[], object] | None = None) -> str | None:
    """Return why there is nothing to be seeded or healed; None if there may be something.

    ``check``: called for each directory.
    """
    walk = filters.walk(command)
    if walk is None or seed.min_hole == 0:
        return None
    troubles: list[OSError] = []
    settled = 0
    with Settled(command, seed) as is_settled:
        for found in losses.below(command, walk, seed.holes, troubles.append, check):
            # How much of a file is reserved is not known yet.
            if found.size - found.allocated >= seed.min_hole or not looks_sparse(found.st):
                if settled == _MAX_SETTLED or not is_settled(found):
                    return None
                settled += 1
    if troubles:
        return None
    return NOTHING_SPARSE if settled else NO_SPARSE_FILES


class Settled:
    """Whether a sparse file of the source is at the destination already, as it is to be. A context manager."""

    def __init__(self, command: rsync.Command, seed: SeedOptions) -> None:
        self.command = command
        self.seed = seed
        self._destination: LocalDestination | None = None
        self._is_open = False

    def __enter__(self) -> Settled:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._destination is not None:
            self._destination.close()

    def _open(self) -> LocalDestination:
        """Return the destination, which is opened for the first sparse file: most runs meet none."""
        if self._destination is not None:
            return self._destination
        from ..engine.host import LocalHost
        from ..engine.roles import Opening

        self._destination = destination = LocalHost().destination()
        command = self.command
        asks = command.remote is None and not self.seed.source_is_live
        if asks and command.destination is not None and not _EQUAL_ANYWAY & {each.name for each in command.options}:
            there = Opening(many=False, one_source=True, relative=command.relative, existing=True)
            self._is_open = destination.open(command.destination, there) is None
        return destination

    def __call__(self, found: Sparse) -> bool:
        """Return whether that is so, for certain."""
        destination = self._open()
        shown = (transfer_name(source, found.path, self.command.relative) for source in self.command.sources)
        names = set(filter(None, shown))
        # What is reserved at the source shows in no stat.
        if not self._is_open or len(names) != 1 or not looks_sparse(found.st):
            return False
        try:
            for directory, base in destination.place.each(names):
                if directory is not None:
                    return self._is_equal(os.stat(base, dir_fd=directory, follow_symlinks=False), found)
        except (OSError, ValueError):
            pass  # it is not there, or has a name that is none: for rsync to see to
        return False

    def _is_equal(self, st: os.stat_result, found: Sparse) -> bool:
        if not stat.S_ISREG(st.st_mode) or (st.st_size, st.st_mtime_ns) != (found.size, found.st.st_mtime_ns):
            return False
        return not self.seed.heal or not is_filled(allocated(st), found.allocated)


def no_temporary_directory() -> str | None:
    """Return why no temporary file can be made, or None."""
    import tempfile

    named = (os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP"))
    places = [os.path.abspath(place) for place in (*named, "/tmp", "/var/tmp", "/usr/tmp") if place]
    # Python would go on and take the current directory, which may be the source.
    with contextlib.suppress(FileNotFoundError):
        if any(os.access(place, os.W_OK | os.X_OK) for place in places) and tempfile.gettempdir() in places:
            return None
    return "there is no directory for temporary files that can be written to; TMPDIR can name one"
