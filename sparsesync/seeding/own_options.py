"""The options of ``sync`` that are ours, ``--seed-...``, among rsync's own; and a call in Python as a command line."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..console.units import parse_size
from ..engine.files.claims import HOLES, filesystem_of
from ..engine.roles import Planned
from ..hosts.address import check_python, split_shell
from ..hosts.base import PathLike, Rsh, several
from ..rsync.command import Command, parse, takes_next
from ..rsync.handoff import MERGE, READ
from ..rsync.paths import as_argument, is_remote, transfer_name

if TYPE_CHECKING:
    from ..tracking.files import Tracking


class SeedOptions(NamedTuple):
    """The options of ``sync`` that are not rsync's.

    ``verbose``: say of each file what becomes of it.
    ``required``: rsync must not run if a sparse file would be left to it.
    ``min_hole``: the smallest number of bytes of hole for which a file is seeded; 0 seeds dense files too.
    ``holes``: whether the source's maps are believed (:func:`~.engine.files.claims.believes`).
    ``python``: the Python to use on another host.
    ``hold_back``: for a source that may be written to meanwhile, if another run will follow. It is called with the
    files found to change, and returns the names to keep from rsync, which would copy those files whole.
    ``track``: the directory of clones, if files are tracked (:mod:`..tracking.files`).
    ``track_verify``: every so many runs all of a tracked file is compared; 0 for never.
    ``heal``: restore the holes of files that were written without them (:mod:`healing`).
    """

    off: bool = False
    min_hole: int = 1
    space_check: bool = True
    python: str | None = None
    hold_back: Callable[[Sequence[Planned]], Sequence[str]] | None = None
    holes: str = "auto"
    required: bool = False
    verbose: bool = False
    heal: bool = True
    track: str | None = None
    track_verify: int = 0

    @property
    def source_is_live(self) -> bool:
        """Whether the source may be written to meanwhile."""
        return self.hold_back is not None


def split_options(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[SeedOptions, list[str]]:
    """Return the ``--seed-`` options of a command line, and the rest. Raises ValueError for a wrong one."""
    off, min_hole, space_check, python, holes = False, 1, True, None, "auto"
    required, verbose, heal = False, False, True
    track, track_verify = None, 0
    rest: list[str] = []
    posix = "POSIXLY_CORRECT" in environ
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--" or (posix and (word == "-" or not word.startswith("-"))):
            rest += [word, *words]
        elif not word.startswith("--seed-"):
            rest.append(word)
            if takes_next(word):
                rest += islice(words, 1)
        elif word == "--seed-off":
            off = True
        elif word == "--seed-no-space-check":
            space_check = False
        elif word == "--seed-required":
            required = True
        elif word == "--seed-verbose":
            verbose = True
        elif word == "--seed-no-heal":
            heal = False
        elif name == "--seed-min-hole":
            if not equals:
                value = next(words, "")
            try:
                min_hole = parse_size(value)
            except ValueError as error:
                raise ValueError(f"--seed-min-hole: {error}") from None
        elif name == "--seed-python":
            python = value if equals else next(words, "")
            check_python(python)
        elif name == "--seed-track":
            track = value if equals else next(words, "")
            if not track:
                raise ValueError("--seed-track needs a directory")
        elif name == "--seed-track-verify":
            value = value if equals else next(words, "")
            if not (value.isascii() and value.isdigit() and int(value[:9]) > 0 and len(value) < 10):
                raise ValueError(f"--seed-track-verify: {value!r} is no number of runs")
            track_verify = int(value)
        elif name == "--seed-holes":
            holes = value if equals else next(words, "")
            if holes not in HOLES:
                raise ValueError(f"--seed-holes: {holes!r} is not one of {', '.join(HOLES)}")
        else:
            known = "--seed-off, --seed-required, --seed-verbose, --seed-no-heal, --seed-no-space-check"
            more = (
                "--seed-min-hole=SIZE, --seed-holes=WORD, --seed-python=PATH, --seed-track=DIR, --seed-track-verify=N"
            )
            raise ValueError(f"{word}: unknown; there are {known}, {more}")
    if off and required:
        raise ValueError("--seed-off and --seed-required exclude each other")
    if track_verify and track is None:
        raise ValueError("--seed-track-verify is for --seed-track=DIR")
    seed = SeedOptions(off, min_hole, space_check, python, holes=holes, required=required, verbose=verbose, heal=heal)
    return seed._replace(track=track, track_verify=track_verify), rest


def arguments(
    sources: PathLike | Iterable[PathLike],
    destination: PathLike,
    options: str | Sequence[str],
    rsh: Rsh,
    python: str | None,
    environ: Mapping[str, str],
    directory: str | None,
) -> tuple[SeedOptions, list[str]]:
    """Return the options that are ours, and rsync's arguments, of a call of :func:`~sparsesync.api.transfers.sync`.

    ``directory``: where relative paths start; None: in the current one.

    Raises ValueError, TypeError.
    """
    words = option_words(options)
    paths = several(sources)
    if not paths:
        raise ValueError("there is no source")
    seed, rest = split_options(words, environ)
    if python is not None:
        check_python(python)
        seed = seed._replace(python=python)
    if directory is not None:
        rest = read_from(rest, directory)
    if rsh is not None:
        command = rsh if isinstance(rsh, str) else shlex.join(rsh)
        split_shell(command)
        rest.append(f"--rsh={command}")
    return seed, [*rest, "--", *(as_word(path, directory) for path in [*paths, destination])]


def option_words(options: str | Sequence[str]) -> list[str]:
    """Return the options of a call as a list; a str is one. Raises TypeError."""
    words = [options] if isinstance(options, str) else list(options)
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"an option has to be a str, not {type(word).__name__}")
    return words


def as_word(path: PathLike, directory: str | None) -> str:
    """Return a path of a call as an argument of rsync. ``directory``: as in :func:`arguments`."""
    word = as_argument(path)
    if directory is None or not word or word.startswith("/") or is_remote(word):
        return word
    # With --relative the name is what follows the first of these.
    return f"{directory}/{word}" if "/./" in word else f"{directory}/./{word}"


_FILES = (*READ, "log-file")
"""Options that name a file which this process reads or writes."""


def read_from(words: Sequence[str], directory: str) -> list[str]:
    """Return options in which the files that we read, too, are named from anywhere."""
    found: list[str] = []
    left = iter(words)
    for word in left:
        name, _, value = word.partition("=")
        if takes_next(word):
            value = next(left, "")
            if word == "-f":
                name = "--filter"
        if name[2:] in _FILES and value != "-" and not is_remote(value):
            found.append(f"{name}={os.path.join(directory, value)}")
        elif name == "--filter" and (rule := MERGE.fullmatch(value)) is not None:
            found.append(f"{name}={value[: rule.start(2)]}{os.path.join(directory, rule[2])}")
        elif takes_next(word):
            found += [word, value]
        else:
            found.append(word)
    return found


def _without(directory: str, command: Command, stack: contextlib.ExitStack) -> list[str]:
    """Return the options that keep the directory of the clones from rsync, if it is below a source.

    Raises ValueError for a command with which nothing can be tracked, OSError if it is on another filesystem.
    """
    if command.remote is not None and not command.remote.push:
        raise ValueError("--seed-track is for sources of this machine")
    real = os.path.realpath(directory)
    if command.remote is None and command.destination is not None and _is_below(real, command.destination):
        raise ValueError(f"{directory}: it is below the destination, and --seed-track needs a directory elsewhere")
    if not any(_shares_filesystem(directory, source) for source in command.sources):
        first = command.sources[0]
        raise OSError(errno.EXDEV, f"is not on the filesystem of {first}; give a directory on that one", directory)
    names = []
    for source in command.sources:
        if _is_below(real, source):
            top = os.path.realpath(source)
            path = os.path.join(source, os.path.relpath(real, top)) if real != top else source
            name = transfer_name(source, path, command.relative)
            if not name:
                raise ValueError(f"{directory}: it is the source, and --seed-track needs a directory elsewhere")
            names.append(name)
    if names and any(option.name == "delete-excluded" for option in command.options):
        raise ValueError(f"{directory}: it is below a source, and --delete-excluded looks at what is excluded")
    if not names:
        return []
    from ..exclude import excluding

    return excluding(names, stack)


def _shares_filesystem(directory: str, source: str) -> bool:
    """Return whether a clone of what is at ``source`` may be possible in a directory, which may be missing."""
    place = directory if os.path.isdir(directory) else os.path.dirname(os.path.abspath(directory))
    try:
        fds = [os.open(path, os.O_PATH | os.O_CLOEXEC) for path in (place, source)]
    except OSError:
        return True  # whoever opens it tells
    try:
        devices = {os.fstat(fd).st_dev for fd in fds}
        # Each subvolume has a device number of its own.
        return len(devices) == 1 or {filesystem_of(fd) for fd in fds} == {"btrfs"}
    finally:
        for fd in fds:
            os.close(fd)


def _is_below(real: str, path: str) -> bool:
    top = os.path.realpath(path).rstrip("/")
    return real == top or real.startswith(top + "/")


def _why_not(command: Command, seed: SeedOptions) -> str | None:
    """Return why a run's files cannot be tracked, or None."""
    if command.dry_run:
        return "--dry-run"
    if not command.times:
        return "without --times nobody can tell what was left"
    if command.preallocate:
        return "--preallocate"
    if seed.holes == "read":
        return "--seed-holes=read"
    if any(option.name == "delete-excluded" for option in command.options):
        return "--delete-excluded"
    return None


def tracking(
    directory: str,
    seed: SeedOptions,
    command: Command,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> tuple[Tracking | None, Command]:
    """Return the tracking of a run, or None if nothing can be tracked, and the command without the directory.

    Raises ValueError, and OSError as :class:`~..tracking.store.Store`.
    """
    if seed.off or command.handoff:
        return None, command
    excluded = _without(directory, command, stack)
    if excluded:
        command = parse([*excluded, *command.argv], environ)
    reason = _why_not(command, seed)
    if reason is not None:
        say(f"nothing is tracked: {reason}")
        return None, command
    from ..tracking.files import Tracking

    where = command.destination or ""
    where = where if command.remote is not None else os.path.abspath(where)
    return stack.enter_context(
        Tracking(directory, seed.track_verify, where, max(command.modify_window or 0, 0), say)
    ), command
