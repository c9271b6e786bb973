"""``--seed-track``: whether a run's files can be tracked, and its command without the directory of the clones.

That directory is on the filesystem of a source, and may be below one. Then rsync must not transfer it, nor delete what
it stands for at the destination: it is excluded.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from typing import Callable

from ...engine.files.mounts import filesystem_of
from ...rsync.command import Command, parse
from ...rsync.paths import transfer_name
from ...tracking.files import Tracking
from ...tracking.freezing import Freeze
from .own import SeedOptions


def without(directory: str, command: Command, stack: contextlib.ExitStack) -> list[str]:
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
    from ...exclude import excluding

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


_DRY_RUN = "--dry-run"


def _why_not(command: Command, seed: SeedOptions) -> str | None:
    """Return why a run's files cannot be tracked, or None."""
    if command.dry_run:
        return _DRY_RUN
    if not command.times:
        return "without --times nobody can tell what was left"
    if command.preallocate:
        return "--preallocate"
    if seed.holes == "read":
        return "--seed-holes=read"
    if any(option.name == "delete-excluded" for option in command.options):
        return "--delete-excluded"
    return None


def _check_freezes(seed: SeedOptions, reason: str | None) -> None:
    """Raise ValueError if writers were to be held up for nothing. ``reason``: why nothing is tracked, or None."""
    if seed.freeze is not None and reason not in (None, _DRY_RUN):
        raise ValueError(f"--seed-freeze is for what is tracked, and nothing is: {reason}")


def tracking(
    directory: str,
    seed: SeedOptions,
    command: Command,
    environ: Mapping[str, str],
    say: Callable[[str], None],
    stack: contextlib.ExitStack,
) -> tuple[Tracking | None, Command]:
    """Return the tracking of a run, or None if nothing can be tracked, and the command without the directory.

    Raises ValueError, and OSError as :class:`~...tracking.store.Store`.
    """
    if seed.off or command.handoff:
        _check_freezes(seed, command.handoff)
        return None, command
    excluded = without(directory, command, stack)
    if excluded:
        command = parse([*excluded, *command.argv], environ)
    reason = _why_not(command, seed)
    if reason is not None:
        _check_freezes(seed, reason)
        say(f"nothing is tracked: {reason}")
        return None, command
    where = command.destination or ""
    where = where if command.remote is not None else os.path.abspath(where)
    window, freeze = max(command.modify_window or 0, 0), Freeze(seed.freeze, seed.thaw, seed.freeze_max)
    return stack.enter_context(Tracking(directory, seed.track_verify, where, window, say, freeze)), command
