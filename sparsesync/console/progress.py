"""What a person or a program sees while it runs: a bar on the terminal, or lines of JSON, counting data bytes.

Holes cost nothing, so they are not counted: the total is what has to be read and
written, and rate and time left are honest. There is a bar only when standard error is a
terminal, and only once the work has taken half a second. Where tqdm, which draws it, is not
installed, there is none. A bar that stands still says for how long: a disk or a host may not answer.

A program names a descriptor, and gets a line when a phase begins, one every half a second, and one when it has ended.
It never holds up the work: a line that nobody takes is left out.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Callable, Optional, Protocol

from ..engine.errors import OnProgress
from ..engine.text import escape_name
from .streams import is_open
from .units import iec

if TYPE_CHECKING:
    import threading

BarFactory = Callable[[Optional[int], str, bool], contextlib.AbstractContextManager[OnProgress]]
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


def progress(total: int | None, quiet: bool = False, fd: int | None = None) -> Whole:
    """Return the progress of a run: a bar, or lines on the descriptor ``fd``. ``total``: data bytes; None: unknown."""
    return ProgressBar(total, quiet) if fd is None else ProgressLines(total, fd)


@contextlib.contextmanager
def data_bar(
    total: int | None, what: str, quiet: bool = False, fd: int | None = None, file: str | None = None
) -> Iterator[OnProgress]:
    """Show the progress of one phase, as :func:`progress`. Gives the function to call with bytes done, or None.

    ``what``: what is done.
    ``file``: the only file that it is done to. A bar has its name instead.
    """
    with progress(total, quiet, fd) as whole:
        if file is not None and isinstance(whole, ProgressLines):
            whole.file = file
        with whole.phase(total, what if file is None or fd is not None else file) as advance:
            yield advance


def begin_file(advance: OnProgress, name: str) -> None:
    """Tell a program, which is given ``advance``, the file that is worked at from now on."""
    if isinstance(advance, ProgressLines):
        advance.file = name


def bars(fd: int | None) -> BarFactory:
    """Return what shows the progress of a phase: :func:`data_bar`, or with lines on a descriptor."""
    return data_bar if fd is None else lambda total, what, quiet: data_bar(total, what, quiet, fd)


_DELAY_SECONDS = 0.5
"""Seconds until there is a bar, and between two lines."""

_STALLED_SECONDS = 10
"""Seconds without progress that are told."""

_FORM = "{desc}: {percentage:3.0f}%|{bar}| {done} of {whole} [{elapsed}<{remaining}, {speed}{postfix}]"
_FORM_WITHOUT_TOTAL = "{desc}: {done} [{elapsed}, {speed}{postfix}]"


class ProgressBar:
    """One bar for a run of several phases, of ``total`` data bytes in all. A context manager."""

    def __init__(self, total: int | None, quiet: bool = False) -> None:
        self._total = total
        self._done = 0
        self._name = ""
        self._bar: Any = None
        self._moved = time.monotonic()
        self._due = self._moved + _DELAY_SECONDS
        self._ended: threading.Event | None = None
        """Ends the thread that watches the bar."""
        self._wanted = not quiet and sys.stderr.isatty() and _drawable()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._ended is not None:
            self._ended.set()
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
        self._moved = time.monotonic()
        if self._bar is not None:
            self._bar.update(count)
        elif self._wanted:
            self._draw()

    def _draw(self) -> None:
        """Begin with the bar once it is due: to import what draws it takes longer than to copy a small file."""
        if self._bar is not None or time.monotonic() < self._due:
            return
        import threading

        from tqdm import tqdm

        class Bar(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
            """A bar with sizes as everywhere else."""

            @property
            def format_dict(self) -> dict[str, Any]:
                known = super().format_dict
                rate = known["rate"] or (known["n"] - known["initial"]) / max(known["elapsed"], 0.001)
                sizes = {"done": iec(known["n"]), "whole": iec(known["total"] or 0), "speed": f"{iec(int(rate))}/s"}
                return {**known, **sizes}

        self._bar = Bar(
            desc=self._name,
            total=self._total,
            initial=self._done,
            bar_format=_FORM if self._total else _FORM_WITHOUT_TOTAL,
            leave=False,
            dynamic_ncols=True,
        )
        self._ended = threading.Event()
        threading.Thread(target=self._watch, args=(self._ended,), daemon=True).start()

    def _watch(self, ended: threading.Event) -> None:
        """Say when nothing has moved for long."""
        told = False
        while not ended.wait(min(1, _STALLED_SECONDS)):
            still = time.monotonic() - self._moved
            if told or still >= _STALLED_SECONDS:
                told = still >= _STALLED_SECONDS
                self._bar.set_postfix_str(f"nothing for {still:.0f} s" if told else "")


_LINE_BYTES = 4096
"""What a pipe that has room takes at once: pipe(7), PIPE_BUF."""


class ProgressLines:
    """The progress of a run as lines of JSON. Otherwise as :class:`ProgressBar`.

    ``file``: the name of the file that is worked at, if that is known.
    """

    shown = True
    file: str | None = None

    def __init__(self, total: int | None, fd: int) -> None:
        self._total = total
        self._fd: int | None = fd
        self._done = 0
        self._what = ""
        self._begun = time.monotonic()
        self._due = 0.0

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: the end of a phase has been told."""

    @contextlib.contextmanager
    def phase(self, total: int | None, what: str, quiet: bool = False) -> Iterator[OnProgress]:
        """Name a phase of ``total`` bytes. Gives the function to call with bytes done."""
        before, self._what = self._what, what
        self._tell()
        yield self
        self._tell()
        self._what, self.file = before, None

    def __call__(self, count: int) -> None:
        """Count bytes that are done."""
        self._done += count
        if time.monotonic() >= self._due:
            self._tell()

    def _tell(self) -> None:
        import json

        from .document import schema

        now = time.monotonic()
        self._due = now + _DELAY_SECONDS
        told = {
            "schema": schema("progress"),
            "phase": self._what,
            "file": self.file,
            "bytes": self._done,
            "total": None if self._total is None else max(self._total, self._done),
            "rate": round(self._done / max(now - self._begun, 0.001)),
            "seconds": round(now - self._begun, 3),
        }
        if self._fd is not None and _takes_a_line(self._fd):
            line = json.dumps(told)
            if len(line) >= _LINE_BYTES:
                line = json.dumps({**told, "file": None})
            try:
                os.write(self._fd, line.encode("ascii") + b"\n")
            except OSError:  # nobody reads it any more, and what is being done goes on
                self._fd = None


def _takes_a_line(fd: int) -> bool:
    """Return whether a line can be written at once: to a pipe that is, if it has room for one."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(0))


def descriptor(text: str) -> int:
    """Return the descriptor that a program has opened for progress. Raises ValueError."""
    import fcntl

    number = int(text) if text.isascii() and text.isdigit() and len(text) < 7 else -1
    if number < 2:
        raise ValueError(f"{text!r} is no descriptor for progress: 2, or a higher one that is open")
    if not is_open(number) or fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise ValueError(f"descriptor {number} is not open for writing")
    if number > 2:
        # Whoever reads it waits for its end, which a shared connection of ssh must not put off.
        os.set_inheritable(number, False)
    return number


def _drawable() -> bool:
    from importlib.util import find_spec

    return find_spec("tqdm") is not None
