"""What a person sees while it runs: a bar on the terminal, counting data bytes.

Holes cost nothing, so they are not counted: the total is what has to be read and
written, and rate and time left are honest. There is a bar only when standard error is a
terminal, and only once the work has taken half a second. Where tqdm, which draws it, is not
installed, there is none.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any, Callable, Optional, Protocol

from ..engine.errors import OnProgress
from ..engine.text import escape_name

BarFactory = Callable[[Optional[int], str, bool], "contextlib.AbstractContextManager[OnProgress]"]
"""What makes a bar: :func:`data_bar`, or a :class:`ProgressBar`'s ``phase``."""


class Whole(Protocol):
    """The progress of a run of several phases: :class:`ProgressBar`, or what tells a program. A context manager."""

    def __enter__(self) -> Whole: ...

    def __exit__(self, *exc_info: object) -> None: ...

    @property
    def shown(self) -> bool:
        """Whether anybody looks at it."""

    def phase(self, total: int | None, what: str, quiet: bool = False) -> contextlib.AbstractContextManager[OnProgress]:
        """Name a phase of ``total`` bytes. Gives the function to call with bytes done, or None."""


@contextlib.contextmanager
def data_bar(total: int | None, what: str, quiet: bool = False) -> Iterator[OnProgress]:
    """Show a bar of ``total`` data bytes (None: unknown). Gives the function to call with bytes done, or None."""
    with ProgressBar(total, quiet) as whole, whole.phase(total, what) as advance:
        yield advance


_DELAY_SECONDS = 0.5
"""Seconds until there is a bar."""


class ProgressBar:
    """One bar for a run of several phases, of ``total`` data bytes in all. A context manager."""

    def __init__(self, total: int | None, quiet: bool = False) -> None:
        self._total = total
        self._done = 0
        self._name = ""
        self._bar: Any = None
        self._due = time.monotonic() + _DELAY_SECONDS
        self._wanted = not quiet and sys.stderr.isatty() and _drawable()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def shown(self) -> bool:
        """Whether there is a bar, or will be."""
        return self._wanted

    @contextlib.contextmanager
    def phase(self, total: int | None, what: str, quiet: bool = False) -> Iterator[OnProgress]:
        """Name a phase of ``total`` bytes. Gives the function to call with bytes done, or None."""
        if not self._wanted or quiet:
            yield None
            return
        before, self._name = self._name, escape_name(what)
        self._draw()
        if self._bar is not None:
            self._bar.set_description(self._name)  # a short phase would have no other chance to be seen
        yield self._advance
        self._name = before
        if self._bar is not None:
            self._bar.set_description(before, refresh=False)

    def _advance(self, count: int) -> None:
        if self._total is not None:
            # What was estimated may turn out to be more, and a bar that is past its end is none.
            count = min(count, self._total - self._done)
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._wanted:
            self._draw()

    def _draw(self) -> None:
        """Begin with the bar once it is due: to import what draws it takes longer than to copy a small file."""
        if self._bar is not None or time.monotonic() < self._due:
            return
        from tqdm import tqdm

        self._bar = tqdm(
            desc=self._name,
            total=self._total,
            initial=self._done,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            dynamic_ncols=True,
        )


def _drawable() -> bool:
    from importlib.util import find_spec

    return find_spec("tqdm") is not None
