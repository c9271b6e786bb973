"""What a person sees while it runs: a bar on the terminal, counting data bytes.

Holes cost nothing, so they are not counted: the total is what has to be read and
written, and rate and time left are honest. There is a bar only when standard error is a
terminal, and only once the work has taken half a second.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Callable, Optional

Advance = Optional[Callable[[int], object]]
Bar = Callable[[Optional[int], str, bool], "contextlib.AbstractContextManager[Advance]"]
"""What makes a bar: :func:`data_bar`, or a :class:`Whole`'s ``phase``."""


@contextlib.contextmanager
def data_bar(total: int | None, what: str, quiet: bool = False) -> Iterator[Advance]:
    """A bar of ``total`` data bytes (None: not known); yields the function to call with bytes done, or None."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    with tqdm(
        total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024, delay=0.5, leave=False, dynamic_ncols=True
    ) as bar:
        yield bar.update
