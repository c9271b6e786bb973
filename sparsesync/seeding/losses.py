"""What is left to rsync loses its holes: how much that is, said in one line.

A sparse file that is not seeded is written by rsync, holes and all. It may get its holes back (:mod:`healing`), but it
takes the time and, for a while, the room. So no run goes on like that without a word::

    single files     are counted as they are left (:mod:`seeder`)
    the whole run    one scan of the sources, if they are on this machine, tells what may be lost
    rsync has -S     nothing is lost but time: it leaves out what is zeros
    what was seeded  has its holes still, unless it was changed at either end before rsync came to it, which then wrote
                     it anew: what each file takes is looked at again when rsync is done, and told if it stays so

Sizes are bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Callable, NamedTuple

from ..console.units import iec
from ..engine.files.claims import looks_sparse
from ..engine.tree.scan import ScanOptions, Sparse, scan
from ..rsync import command as rsync
from ..rsync import filters
from ..rsync.paths import is_remote
from ..rsync.program import REFUSED, Status, environment, program

HOPELESS = REFUSED | {Status.FILE_IO}
"""What rsync ends with that does not take its arguments, or cannot read a file that they name."""
_WRITTEN = frozenset("log-file log-file-format write-batch only-write-batch".split())
_NO_TRANSFER = frozenset("help version server sender daemon config dparam list-only".split())
_OWN_BYTES = 8 * 1024
_OWN_SHARE = 256
"""What a filesystem allocates for a file besides its data: so much, and this part of it for the list of its extents.

An extent takes 12 bytes of that list on ext4, and holds 4 KiB at least. Too little here costs a look at the map."""


class Losses(NamedTuple):
    """The number of sparse files left to rsync, None if unknown, and their bytes of holes."""

    files: int | None = None
    holes: int = 0

    def line(self, reason: str, *, dry_run: bool, certain: bool) -> str:
        """Return the message to print. ``certain``: rsync is going to transfer all of them."""
        be = "would be" if dry_run else "is" if self.files == 1 else "are"
        if self.files is None:
            return f"everything {be if dry_run else 'is'} left to rsync, which writes holes as data: {reason}"
        many = "1 sparse file" if self.files == 1 else f"{self.files} sparse files"
        writes = "writes" if certain else "may write"
        return f"{many} {be} left to rsync, which {writes} {iec(self.holes)} of holes as data: {reason}"

    def line_after(self, first: str) -> str:
        """Return the message about seeded files that lost their holes afterwards. ``first``: one of them."""
        files = "1 seeded file" if self.files == 1 else f"{self.files} seeded files"
        why = "at one of the ends it changed after it was seeded"
        return f"rsync wrote {files} anew, with {iec(self.holes)} of holes as data: {first}: {why}"


def of_all(command: rsync.Command, holes: str, min_hole: int, check: Callable[[], object] | None = None) -> Losses:
    """Return what may be lost if rsync transfers everything.

    ``holes``, ``min_hole``: as in :class:`~.options.own.SeedOptions`.
    ``check``: called for each directory.
    """
    asks_only = any(option.name in _NO_TRANSFER for option in command.options)
    if command.sparse or command.destination is None or asks_only:
        return Losses(0)
    walk = filters.walk(command)
    if walk is None or any(map(is_remote, command.sources)):
        return Losses()
    files = lost = 0
    for found in below(command, walk, holes, check=check):
        hole = found.size - found.allocated
        if hole >= min_hole and looks_sparse(found.st):
            files += 1
            lost += hole
    return Losses(files, lost)


def is_filled(allocated: int, data: int) -> bool:
    """Return whether a file is allocated more than its data and the list of its extents can take."""
    return allocated - data > data // _OWN_SHARE + _OWN_BYTES


def refuses(command: rsync.Command, environ: Mapping[str, str]) -> bool:
    """Return whether rsync refuses these arguments, and so transfers nothing."""
    from ..rsync.listing import with_options

    refused = _fails(with_options([*_not_logged(command.argv)], ["--version"]), environ)
    if refused or command.remote is not None:
        return refused
    # What does not go together is told only when there is something to do: a source that is missing.
    tokens = [token for option in command.options if option.name not in _WRITTEN for token in option.tokens]
    return _fails([*tokens, "--dry-run", "--", os.path.join(program(environ), "none"), "."], environ)


def _not_logged(argv: Iterable[str]) -> Iterator[str]:
    """Yield the words of a command line without a log file, which would have the version, or what is refused."""
    words = iter(argv)
    for word in words:
        if word == "--log-file":
            next(words, None)
        elif not word.startswith("--log-file="):
            yield word


def _fails(argv: list[str], environ: Mapping[str, str]) -> bool:
    import subprocess

    silent = subprocess.DEVNULL
    argv = [program(environ), *argv]
    done = subprocess.run(argv, env=environment(environ), stdin=silent, stdout=silent, stderr=silent, check=False)
    return done.returncode in HOPELESS


def below(
    command: rsync.Command,
    walk: filters.Walk,
    holes: str,
    on_error: Callable[[OSError], None] = lambda error: None,
    check: Callable[[], object] | None = None,
) -> Iterator[Sparse]:
    """Yield the files that rsync would look at below the sources, on this machine, and that are sparse by stat.

    ``on_error``: called with each OSError. rsync meets the same error and reports it.
    ``check``: called for each directory.
    """
    for source in command.sources:
        try:
            options = ScanOptions(command.one_file_system, every_link=True, holes=holes, rules=walk.rules(source))
            yield from scan(source, options, parallel=True, reading=False, on_error=on_error, check=check)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            on_error(error)
