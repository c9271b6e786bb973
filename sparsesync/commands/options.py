"""What several commands share: their options, and their troubles."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable, NoReturn

from ..console.messages import format_error, print_error
from ..engine.text import escape_name
from . import TROUBLE

if TYPE_CHECKING:
    from concurrent.futures import Executor

_COLUMNS = 80
"""Where there is no terminal."""


class _Formatter(argparse.HelpFormatter):
    """A formatter that knows its width.

    argparse makes one for each option that is added, and would import shutil for the width, and that what unpacks bz2.
    """

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"width": _columns() - 2, **settings})


@functools.cache
def _columns() -> int:
    """Return the columns of the terminal, as shutil.get_terminal_size() has them."""
    with contextlib.suppress(KeyError, ValueError):
        columns = int(os.environ["COLUMNS"])
        if columns > 0:
            return columns
    with contextlib.suppress(AttributeError, ValueError, OSError):  # there is no standard output, or no terminal
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or _COLUMNS  # type: ignore[union-attr]
    return _COLUMNS


class Parser(argparse.ArgumentParser):
    """A parser that escapes its errors for a terminal, since they quote the arguments."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"formatter_class": _Formatter, **settings})

    def error(self, message: str) -> NoReturn:
        """Print the usage and an error, and exit."""
        super().error(escape_name(message))

    hint: Callable[[str], str | None] = staticmethod(lambda option: None)
    """Says what an option that the command does not have is called, or where it belongs."""

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Print the usage and that arguments are unknown, and exit."""
        from difflib import get_close_matches

        said = f"unrecognized arguments: {' '.join(unknown)}"
        for option in unknown:
            name = option.partition("=")[0]
            near = get_close_matches(name, self._option_string_actions, 1, 0.75) if name.startswith("--") else []
            seeds = "options of that kind belong to 'sparsesync sync'" if name.startswith("--seed-") else None
            hint = self.hint(name) or seeds or (f"did you mean {near[0]}?" if near else None)
            if hint:
                self.error(f"{said}; {hint}")
        self.error(said)


def add_one_file_system(command: argparse.ArgumentParser) -> None:
    """Add the option that keeps a walk on one filesystem."""
    command.add_argument("-x", "--one-file-system", action="store_true", help="do not enter other filesystems")


def add_holes(command: argparse.ArgumentParser) -> None:
    """Add the option that decides whether maps are believed."""
    command.add_argument(
        "--holes",
        choices=["auto", "trust", "check", "read"],
        default="auto",
        help="whether a filesystem's map of a file is believed (auto: by what filesystem it is); else it is read",
    )


def add_remote_end(command: argparse.ArgumentParser) -> None:
    """Add the options for reaching ``host:path``."""
    remote = command.add_argument_group("to reach host:path")
    remote.add_argument("-e", "--rsh", metavar="COMMAND", help="the remote shell (default: RSYNC_RSH, else ssh)")
    remote.add_argument(
        "--remote-prefix", default="", metavar="COMMAND", help="what is put before all that runs there, such as sudo"
    )
    remote.add_argument("--python", metavar="PATH", help="the Python to use there (default: one is looked for)")


def add_streams(command: argparse.ArgumentParser) -> None:
    """Add the option for how many connections carry content."""
    command.add_argument(
        "--streams", type=_streams, default=1, metavar="N", help="send by N connections, where one ssh is too slow"
    )


def _streams(text: str) -> int:
    """Return a number of streams, for argparse."""
    from ..hosts.transfer import parse_streams

    try:
        return parse_streams(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_progress(command: argparse.ArgumentParser, quiet: str = "no progress") -> None:
    """Add the options for who sees the progress. ``quiet``: what ``--quiet`` does."""
    command.add_argument("--progress-fd", type=_descriptor, metavar="N", help="write progress there, as lines of JSON")
    command.add_argument("-q", "--quiet", action="store_true", help=quiet)


def _descriptor(text: str) -> int:
    """Return a descriptor, for argparse."""
    from ..console.progress import descriptor

    try:
        return descriptor(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_workers(command: argparse.ArgumentParser, does: str) -> None:
    """Add the options for threads and workers. ``does``: what they do."""
    command.add_argument("--jobs", type=_jobs, metavar="N", help=f"{does} with N threads (default: as many as help)")
    add_engine(command, does)


def add_engine(command: argparse.ArgumentParser, does: str) -> None:
    """Add the option for workers. ``does``: what they do."""
    from ..workers import KINDS

    command.add_argument("--workers", metavar="ENGINE", help=f"have workers {does}, of {KINDS}")


def workers(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> Executor | None:
    """Return the executor that the options name, or None. The stack closes it. Raises ValueError, OSError."""
    if arguments.workers is None:
        return None
    if arguments.jobs:
        raise ValueError("--workers and --jobs do not go together")
    from ..workers.engines import engine

    return stack.enter_context(engine(arguments.workers))


def _jobs(text: str) -> int:
    """Return a number of threads, for argparse."""
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 5 and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads: 1 to 9999")
    return int(text)


def byte_size(text: str) -> int:
    """Return the bytes of a size such as 100M, for argparse."""
    from ..console.units import parse_size

    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def preset_names(text: str, none: bool = True) -> str:
    """Return the names of presets, with commas between them, for argparse. ``none``: "none" is one."""
    from ..engine.queries.presets import checked_presets

    try:
        return text if none and text == "none" else ",".join(checked_presets(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Troubles:
    """A callback that prints each error, and remembers that there was one, and what the first one said."""

    status: int = 0
    first: str | None = None

    def __call__(self, error: Exception) -> None:
        """Print the error."""
        print_error(error)
        self.first = self.first or format_error(error)
        self.status = TROUBLE
