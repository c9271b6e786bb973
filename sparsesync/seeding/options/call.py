"""A call of ``sync`` in Python as a command line: its paths and its options as the words that rsync would be given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence

from ...hosts.address import check_python, split_shell
from ...hosts.base import PathLike, Rsh, several
from ...rsync.command import takes_next
from ...rsync.handoff import MERGE, READ
from ...rsync.paths import as_argument, is_remote
from .own import SeedOptions, split_options


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
    if seed.progress_fd is not None:
        raise ValueError("--seed-progress-fd is for the command; sync() has progress")
    if seed.report is not None:
        raise ValueError("--seed-report is for the command; sync() has a result")
    if python is not None:
        check_python(python)
        seed = seed._replace(python=python)
    if directory is not None:
        rest = read_from(rest, directory)
        seed = seed._replace(track=seed.track and os.path.join(directory, seed.track))
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
