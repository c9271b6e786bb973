"""Nothing to do for us: found out by one scan of the source, before rsync is asked anything.

rsync's dry run takes as long as rsync itself when there is nothing to do. So it is asked only if the scan finds a
sparse file that may have to be seeded, or healed. That is none whose size, time and allocation are the same at the
destination already (:func:`are_settled`): rsync leaves such a file alone, and so do we. Another host is asked for all
of them at once, when it has an agent.

What is not certain is not settled. Then the dry run decides. :func:`look` has this and all other reasons that are
known before rsync is asked.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..engine.errors import LinkError
from ..engine.files.claims import looks_sparse
from ..engine.tree.left_out import left_out
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
    from ..hosts.base import Destination

NO_SPARSE_FILES = "there are no sparse files"
NOTHING_SPARSE = "it would transfer no sparse file"
NOTHING_TO_SEED = frozenset([NO_SPARSE_FILES, NOTHING_SPARSE])
"""The reasons with which rsync loses no holes."""

_MAX_SETTLED = 10_000
"""Sparse files that are looked up. They are kept in memory for that, if the destination is on another host."""
_MIN_ASKED = 100
"""Directories and sparse files of a tree for which another host is asked: a round trip may be all there is to save."""
_EQUAL_ANYWAY = frozenset(["ignore-times", "checksum"])
"""Options with which rsync does not go by size and time."""


class Looked(NamedTuple):
    """What is known before rsync is asked.

    ``why_not``: why there is nothing to seed, or nothing that may be; None if there may be something.
    ``unsettled``: all sparse files there are, if the other host may say that they are there; else none.
    """

    why_not: str | None = None
    unsettled: Sequence[Sparse] = ()


def look(
    command: rsync.Command,
    seed: SeedOptions,
    environ: Mapping[str, str],
    check: Callable[[], object] | None = None,
    dial: Callable[[], object] = lambda: None,
    load: Callable[[], object] = lambda: None,
) -> Looked:
    """Return what can be known without asking rsync.

    ``check``: called for each directory.
    ``dial``: called once the other host is going to be needed, perhaps while there is more to look at.
    ``load``: called while rsync is waited for, if there may be something to seed.

    Raises RsyncTooOldError, and FileNotFoundError if there is no rsync.
    """
    remote = command.remote
    if seed.off or command.handoff:
        return Looked("--seed-off is given" if seed.off else command.handoff)
    handoff = why_untold(command) or why_within(command)
    if handoff:
        return Looked(handoff)

    @functools.cache
    def prepare() -> str | None:
        """Return why nothing may be seeded, or None."""
        handoff = no_temporary_directory()
        if handoff:
            return handoff
        from ..rsync.process import check_version

        version = check_version(environ, load)
        if remote is None:
            return None
        handoff = why_not_plain(
            remote,
            rsync.quotes(command, version, environ),
            secluded=rsync.secludes(command, environ),
            relative=command.relative,
            wild=not remote.push,
        )
        if handoff is None:
            dial()
        return handoff

    looked = look_for_sparse(command, seed, check, prepare) if remote is None or remote.push else Looked()
    handoff = looked.why_not or prepare()
    return Looked(handoff) if handoff else looked


def why_within(command: rsync.Command) -> str | None:
    """Return why nothing may be put below the destination before rsync has listed the source, or None.

    rsync would find it there, and copy it once more, if the destination is in a source, and not excluded.
    """
    if command.remote is not None or command.destination is None:
        return None
    walk = filters.walk(command)
    destination = os.path.realpath(command.destination)
    for source in command.sources:
        top = os.path.realpath(source)
        if destination != top and not destination.startswith(os.path.join(top, "")):
            continue
        if command.one_file_system and _device(destination) != _device(top):
            continue
        excluded = left_out(source, None if walk is None else walk.rules(source))
        names = os.path.relpath(destination, top).split("/") if destination != top else []
        inner = [os.path.join(source, *names[:count]) for count in range(1, len(names) + 1)]
        if excluded is None or not any(excluded(path, True) for path in inner):
            return "the destination is in a source"
    return None


def _device(path: str) -> int:
    """Return the device of what there is of a path."""
    while True:
        try:
            return os.stat(path).st_dev
        except OSError:
            path = os.path.dirname(path)


def look_for_sparse(
    command: rsync.Command,
    seed: SeedOptions,
    check: Callable[[], object] | None = None,
    found_first: Callable[[], object] = lambda: None,
) -> Looked:
    """Return why there is nothing to be seeded or healed, or what may have to be.

    ``check``: called for each directory.
    ``found_first``: called when the first sparse file is found that another host may lack.
    """
    walk = filters.walk(command)
    if walk is None or seed.min_hole == 0:
        return Looked()
    by_time = not seed.source_is_live and not _EQUAL_ANYWAY & {each.name for each in command.options}
    directories = 0

    def count() -> None:
        nonlocal directories
        directories += 1
        if check is not None:
            check()

    troubles: list[OSError] = []
    sparse: list[Sparse] = []
    with Settled(command, seed) as is_settled:
        for found in losses.below(command, walk, seed.holes, troubles.append, count):
            # How much of a file is reserved is not known yet.
            if found.size - found.allocated >= seed.min_hole or not looks_sparse(found.st):
                if not by_time or len(sparse) == _MAX_SETTLED or (command.remote is None and not is_settled(found)):
                    return Looked()
                sparse.append(found)
                if len(sparse) == 1 and command.remote is not None:
                    found_first()
    if troubles:
        return Looked()
    if sparse and command.remote is not None:
        return Looked(unsettled=sparse if directories + len(sparse) >= _MIN_ASKED else ())
    return Looked(NOTHING_SPARSE if sparse else NO_SPARSE_FILES)


class Settled:
    """Whether a sparse file of the source is at a destination on this machine already. A context manager."""

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

    def __call__(self, found: Sparse) -> bool:
        """Return whether that is so, for certain."""
        if self._destination is None:
            # Most runs meet no sparse file, and do without what this imports.
            from ..engine.host import LocalHost

            self._destination = LocalHost().destination()
            path = self.command.destination
            self._is_open = path is not None and open_existing(self._destination, path, self.command)
        return self._is_open and are_settled(self.command, self.seed, self._destination, [found])


def open_existing(destination: Destination, path: str, command: rsync.Command) -> bool:
    """Open a destination if it exists, to look at its files. Returns whether it does. Raises LinkError."""
    from ..engine.roles import Opening

    # Where it is a file, there is no other one in the transfer.
    there = Opening(many=False, one_source=True, relative=command.relative, existing=True)
    try:
        return destination.open(path, there) is None
    except LinkError:
        raise
    except OSError:
        return False


def are_settled(command: rsync.Command, seed: SeedOptions, destination: Destination, files: Sequence[Sparse]) -> bool:
    """Return whether sparse files are at an opened destination already, as they are to be. Raises LinkError."""
    names: list[str] = []
    for found in files:
        shown = {transfer_name(source, found.path, command.relative) for source in command.sources} - {None, ""}
        # What is reserved at the source shows in no stat.
        if len(shown) != 1 or not looks_sparse(found.st):
            return False
        names += filter(None, shown)
    try:
        states = [*destination.states(names)]
    except LinkError:
        raise
    except (OSError, ValueError):
        return False  # a name that is none: for rsync to see to
    return all(state is not None and _is_equal(seed, found, *state) for found, state in zip(files, states))


def _is_equal(seed: SeedOptions, found: Sparse, held: int, mtime_ns: int, inode: int, size: int, *times: int) -> bool:
    if (size, mtime_ns) != (found.size, found.st.st_mtime_ns):
        return False
    return not seed.heal or not is_filled(held, found.allocated)


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
