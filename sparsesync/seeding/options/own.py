"""The options of ``sync`` that are ours, ``--seed-...``, among rsync's own."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from ...console.units import parse_size
from ...engine.files.claims import HOLES
from ...rsync.command import takes_next

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ...engine.roles import Planned


class SeedOptions(NamedTuple):
    """The options of ``sync`` that are not rsync's.

    ``verbose``: say of each file what becomes of it.
    ``required``: rsync must not run if a sparse file would be left to it.
    ``min_hole``: the smallest number of bytes of hole for which a file is seeded; 0 seeds dense files too.
    ``holes``: whether the source's maps are believed (:func:`~...engine.files.claims.believes`).
    ``python``: the Python to use on another host.
    ``hold_back``: for a source that may be written to meanwhile, if another run will follow. It is called with the
    files found to change, and returns the names to keep from rsync, which would copy those files whole.
    ``track``: the directory of clones, if files are tracked (:mod:`...tracking.files`).
    ``freeze``, ``thaw``, ``freeze_max``: as :class:`~...tracking.freezing.Freeze`.
    ``track_verify``: every so many runs all of a tracked file is compared; 0 for never.
    ``progress_fd``: the descriptor that the command writes its progress to.
    ``report``: the file that the command writes its report to.
    ``streams``: how many connections to the other host carry content, at most.
    ``jobs``: how many threads copy, on one machine; None is as many as help.
    ``workers``: whose workers copy instead, by name (:mod:`...workers.engines`). ``executor``: the same by itself.
    ``check_other``: have another of the workers read back what one wrote.
    ``heal``: restore the holes of files that were written without them (:mod:`..healing`).
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
    progress_fd: int | None = None
    report: str | None = None
    freeze: str | None = None
    thaw: str | None = None
    freeze_max: float | None = None
    streams: int = 1
    jobs: int | None = None
    workers: str | None = None
    executor: Executor | None = None
    check_other: bool = False

    @property
    def engine(self) -> Callable[[], AbstractContextManager[Executor]] | None:
        """What opens the executor whose workers copy, if they do."""
        executor, name = self.executor, self.workers
        if executor is not None:
            return lambda: nullcontext(executor)
        if name is None:
            return None
        from ...workers.engines import engine

        return lambda: engine(name)

    @property
    def source_is_live(self) -> bool:
        """Whether the source may be written to meanwhile."""
        return self.hold_back is not None


def _text(what: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if not value.strip():
            raise ValueError(f"needs a {what}")
        return value

    return parse


def _holes(value: str) -> str:
    if value not in HOLES:
        raise ValueError(f"{value!r} is not one of {', '.join(HOLES)}")
    return value


def _python(value: str) -> str:
    from ...hosts.address import check_python

    check_python(value)
    return value


def _runs(value: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", value) or not int(value):
        raise ValueError(f"{value!r} is no number of runs")
    return int(value)


def _seconds(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{0,6})?", value) or not float(value):
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)


def _streams(value: str) -> int:
    from ...hosts.transfer import parse_streams

    return parse_streams(value)


def _descriptor(value: str) -> int:
    from ...console.progress import descriptor

    return descriptor(value)


def _jobs(value: str) -> int:
    if not re.fullmatch("[0-9]{1,4}", value) or not int(value):
        raise ValueError(f"{value!r} is no number of threads: 1 to 9999")
    return int(value)


def _check(value: str) -> bool:
    if value != "other":
        raise ValueError(f"{value!r} is not other")
    return True


def _engine(value: str) -> str:
    from ...workers.engines import check_name

    check_name(value)
    return value


_FLAGS = {
    "--seed-off": ("off", True),
    "--seed-required": ("required", True),
    "--seed-verbose": ("verbose", True),
    "--seed-no-heal": ("heal", False),
    "--seed-no-space-check": ("space_check", False),
}
"""Options without a value: the field, and what it becomes."""

_VALUES: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "--seed-min-hole": ("min_hole", "SIZE", parse_size),
    "--seed-holes": ("holes", "WORD", _holes),
    "--seed-track": ("track", "DIR", _text("directory")),
    "--seed-track-verify": ("track_verify", "N", _runs),
    "--seed-freeze": ("freeze", "COMMAND", _text("command")),
    "--seed-thaw": ("thaw", "COMMAND", _text("command")),
    "--seed-freeze-max": ("freeze_max", "SECONDS", _seconds),
    "--seed-jobs": ("jobs", "N", _jobs),
    "--seed-workers": ("workers", "ENGINE", _engine),
    "--seed-check": ("check_other", "other", _check),
    "--seed-progress-fd": ("progress_fd", "N", _descriptor),
    "--seed-report": ("report", "FILE", _text("file")),
    "--seed-streams": ("streams", "N", _streams),
    "--seed-python": ("python", "PATH", _python),
}
"""Options with a value: the field, what the value is called, and what reads it."""


def split_options(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[SeedOptions, list[str]]:
    """Return the ``--seed-`` options of a command line, and the rest. Raises ValueError for a wrong one."""
    found: dict[str, Any] = {}
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
        elif word in _FLAGS:
            field, becomes = _FLAGS[word]
            found[field] = becomes
        elif name in _VALUES:
            field, _, parse = _VALUES[name]
            try:
                found[field] = parse(value if equals else next(words, ""))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        else:
            known = [*_FLAGS, *(f"{name}={value}" for name, (_, value, _) in _VALUES.items())]
            raise ValueError(f"{word}: unknown; there are {', '.join(known)}")
    seed = SeedOptions(**found)
    if seed.off and seed.required:
        raise ValueError("--seed-off and --seed-required exclude each other")
    if seed.track_verify and seed.track is None:
        raise ValueError("--seed-track-verify is for --seed-track=DIR")
    if seed.jobs is not None and seed.workers is not None:
        raise ValueError("--seed-jobs and --seed-workers do not go together")
    if (seed.freeze is None) != (seed.thaw is None):
        raise ValueError("--seed-freeze and --seed-thaw are given both, or none of them")
    if (seed.freeze, seed.freeze_max) != (None, None) and seed.track is None:
        raise ValueError("--seed-freeze, --seed-thaw and --seed-freeze-max are for --seed-track=DIR")
    return seed, rest
