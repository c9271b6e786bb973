"""The options of ``sync`` that are ours, ``--seed-...``, among rsync's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Callable, NamedTuple

from ...console.units import parse_size
from ...engine.files.claims import HOLES
from ...rsync.command import takes_next

if TYPE_CHECKING:
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
    ``track_verify``: every so many runs all of a tracked file is compared; 0 for never.
    ``progress_fd``: the descriptor that the command writes its progress to.
    ``report``: the file that the command writes its report to.
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

    @property
    def source_is_live(self) -> bool:
        """Whether the source may be written to meanwhile."""
        return self.hold_back is not None


def split_options(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> tuple[SeedOptions, list[str]]:
    """Return the ``--seed-`` options of a command line, and the rest. Raises ValueError for a wrong one."""
    off, min_hole, space_check, python, holes = False, 1, True, None, "auto"
    required, verbose, heal = False, False, True
    track, track_verify, progress_fd, report = None, 0, None, None
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
            from ...hosts.address import check_python

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
        elif name == "--seed-report":
            report = value if equals else next(words, "")
            if not report:
                raise ValueError("--seed-report needs a file")
        elif name == "--seed-progress-fd":
            from ...console.progress import descriptor

            try:
                progress_fd = descriptor(value if equals else next(words, ""))
            except ValueError as error:
                raise ValueError(f"--seed-progress-fd: {error}") from None
        elif name == "--seed-holes":
            holes = value if equals else next(words, "")
            if holes not in HOLES:
                raise ValueError(f"--seed-holes: {holes!r} is not one of {', '.join(HOLES)}")
        else:
            known = "--seed-off, --seed-required, --seed-verbose, --seed-no-heal, --seed-no-space-check"
            more = (
                "--seed-min-hole=SIZE, --seed-holes=WORD, --seed-python=PATH, --seed-track=DIR, --seed-track-verify=N, "
                "--seed-progress-fd=N, --seed-report=FILE"
            )
            raise ValueError(f"{word}: unknown; there are {known}, {more}")
    if off and required:
        raise ValueError("--seed-off and --seed-required exclude each other")
    if track_verify and track is None:
        raise ValueError("--seed-track-verify is for --seed-track=DIR")
    seed = SeedOptions(off, min_hole, space_check, python, holes=holes, required=required, verbose=verbose, heal=heal)
    return seed._replace(track=track, track_verify=track_verify, progress_fd=progress_fd, report=report), rest
