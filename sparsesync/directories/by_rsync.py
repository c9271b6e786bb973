"""One run of ``sync`` for a tree, or for a symlink, and what became of it."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from shutil import Error
from typing import Any, Callable

from ..engine.errors import LinkError
from ..engine.text import escape_name
from ..exclude import excluding
from ..hosts.base import PathLike, Rsh
from ..hosts.pool import Connections
from ..hosts.stderr_relay import is_refused
from ..rsync import command as rsync
from ..rsync.paths import why_not_plain
from ..rsync.process import check_version
from ..rsync.program import LOST, Status
from ..seeding.embedded import LOGGER, sync
from .ends import End, check_apart, check_directory, connected, opened
from .failures import Failures

Ignore = Callable[[Any, "list[str]"], "Iterable[str]"]

_ATTRIBUTES = ("-ptgoXA", "--numeric-ids")
"""What copy2 keeps."""


def check_carried(source: End, destination: End, contents: bool = True) -> None:
    """Raise ValueError if the other host's shell may make another path of one of the two.

    Raises also FileNotFoundError and RsyncTooOldError.
    """
    words = ["-r", "--", source.argument(contents), destination.argument(contents)]
    version = check_version()
    parsed = rsync.parse(words)
    if parsed.remote is not None:
        quoted = rsync.quotes(parsed, version)
        reason = why_not_plain(parsed.remote, quoted, secluded=rsync.secludes(parsed))
        if reason is not None:
            raise ValueError(f"cannot be copied to or from another host: {reason}")


def copytree(
    src: PathLike,
    dst: PathLike,
    symlinks: bool,
    ignore: Ignore | None,
    ignore_dangling: bool,
    exist_ok: bool,
    rsh: Rsh | Connections,
    python: str | None,
    streams: int,
) -> None:
    """Copy a directory, as :func:`sparsesync.api.directories.copytree`."""
    with connected(rsh, python) as connections:
        source, destination = opened(src, dst, connections)
        if ignore is not None and source.host is not None:
            raise ValueError(f"{source.given}: ignore is called with names, and only for a source on this machine")
        check_carried(source, destination)
        dangling = not (symlinks or ignore_dangling)
        copy_tree(
            source, destination, connections,
            symlinks=symlinks, ignore=ignore, dangling=dangling, exist_ok=exist_ok, streams=streams,
        )  # fmt: skip


def copy_tree(
    source: End,
    destination: End,
    connections: Connections,
    *,
    symlinks: bool,
    ignore: Ignore | None = None,
    dangling: bool = True,
    exist_ok: bool = False,
    streams: int = 1,
) -> None:
    """Copy a directory to one that is made. ``dangling``: symlinks that lead nowhere are failures."""
    at_source, at_destination = source.entry(), destination.entry()
    check_directory(source, at_source)
    check_apart(source, destination, at_source, at_destination)
    left_out = [] if ignore is None else list(_ignored(source.path, ignore, symlinks))
    destination.query("make_directory", path=destination.path, exist_ok=exist_ok)
    failures = Failures([*at_source.names, *at_destination.names], dangling)
    with contextlib.ExitStack() as stack:
        options = ["-rl" if symlinks else "-rL", *_ATTRIBUTES, *excluding(left_out, stack)]
        options += [f"--seed-streams={streams}"] * (streams != 1)
        run(source, destination, options, connections, failures)


def copy_link(source: End, destination: End, connections: Connections) -> None:
    """Copy a symlink to a path where nothing is."""
    failures = Failures([*source.entry().names, *destination.entry().names], True)
    run(source, destination, ["-lt"], connections, failures, contents=False)


def prove(source: End, destination: End, connections: Connections, contents: bool = True) -> None:
    """Raise Error if rsync finds a name, a size, a time, a type or a symlink that is not the same at both ends."""
    failures = Failures([], True)
    options = ["--seed-off", "-rlt", "--dry-run", "--itemize-changes"]
    run(source, destination, options, connections, failures, contents)
    if failures.listed or failures.attributes:
        first = (failures.listed + failures.attributes)[0]
        raise Error([(source.given, destination.given, f"is not the same after the copy: {first}")])


def run(
    source: End,
    destination: End,
    options: Sequence[str],
    connections: Connections,
    failures: Failures,
    contents: bool = True,
) -> None:
    """Run ``sync``. Raises Error for what could not be copied, LinkError, and what sync raises."""
    words = source.argument(contents), destination.argument(contents)
    result = sync(*words, options, output=failures, rsh=connections)
    for line in failures.told:
        logging.getLogger(LOGGER).warning("%s", escape_name(line.partition("sparsesync: ")[2] or line))
    if result.status in LOST:
        host = source.host if source.host is not None else destination.host
        refused = is_refused("\n".join(failures.told))
        raise LinkError(f"rsync has lost the connection (status {result.status})", host, retryable=not refused)
    wrong = [(_path(source, name), _path(destination, name), reason) for name, reason in failures.found]
    named = {failure.name for failure in failures.found}
    why = "the destination does not take it"
    wrong += [(_path(source, name), _path(destination, name), why) for name in result.refused if name not in named]
    unknown = [line for line in failures.told if not line.startswith("sparsesync: ")]
    excused = result.status == Status.PARTIAL and (failures.ignored or failures.attributes) and not unknown
    if not (result.ok or wrong or excused):
        reason = f"rsync has ended with status {result.status}" + "".join(f": {line}" for line in unknown[-1:])
        wrong = [(source.given, destination.given, reason)]
    if wrong:
        raise Error(wrong)
    if failures.attributes:
        first, more = failures.attributes[0], len(failures.attributes) - 1
        warnings.warn(f"{first}" + f" (and {more} more)" * (more > 0), RuntimeWarning, stacklevel=2)


def _path(end: End, name: str) -> str:
    return end.below(name).given if name else end.given


def _ignored(top: str, ignore: Ignore, symlinks: bool) -> Iterable[str]:
    """Yield the names, relative to ``top``, that a caller's function leaves out, as shutil.copytree asks it."""
    ahead = [""]
    while ahead:
        name = ahead.pop()
        directory = os.path.join(top, name) if name else top
        try:
            with os.scandir(directory) as scanned:
                entries = list(scanned)
        except OSError:
            continue  # rsync says what is wrong with it
        left_out = set(ignore(directory, [entry.name for entry in entries]))
        for entry in entries:
            below = os.path.join(name, entry.name)
            if entry.name in left_out:
                yield below
            elif entry.is_dir() and not (symlinks and entry.is_symlink()):
                ahead.append(below)
