"""What a person sees while it runs: a bar on the terminal, counting data bytes.

Holes cost nothing, so they are not counted: the total is what has to be read and
written, and rate and time left are honest. There is a bar only when standard error is a
terminal, and only once the work has taken half a second. Where tqdm, which draws it, is not
installed, there is none.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Callable, Optional

from ..engine.errors import OnProgress
from ..engine.text import escape_name

BarFactory = Callable[[Optional[int], str, bool], "contextlib.AbstractContextManager[OnProgress]"]
"""What makes a bar: :func:`data_bar`, or a :class:`ProgressBar`'s ``phase``."""


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
        self._bar: Any = None
        if not quiet and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self._bar = tqdm(
                total=total,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                delay=_DELAY_SECONDS,
                leave=False,
                dynamic_ncols=True,
            )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def shown(self) -> bool:
        """Whether the bar is visible."""
        return self._bar is not None

    @contextlib.contextmanager
    def phase(self, total: int | None, what: str, quiet: bool = False) -> Iterator[OnProgress]:
        """Name a phase of ``total`` bytes. Gives the function to call with bytes done, or None."""
        if self._bar is None or quiet:
            yield None
            return
        before = self._bar.desc.rstrip(": ")
        shown = escape_name(what)
        # A short phase would have no other chance to be seen.
        self._bar.set_description(shown, refresh=self._bar.format_dict["elapsed"] > _DELAY_SECONDS)
        yield self._advance
        self._bar.set_description(before, refresh=False)

    def _advance(self, count: int) -> None:
        # What was estimated may turn out to be more, and a bar that is past its end is none.
        left = count if self._bar.total is None else self._bar.total - self._bar.n
        self._bar.update(min(count, left))
