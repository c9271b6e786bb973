"""Hold writers up while their files are cloned: ``sync --seed-freeze=COMMAND --seed-thaw=COMMAND``.

::

    start a shell that waits, and then thaws
    freeze
        clone the files, one right after the other
    let go: the shell thaws
    wait for it

The shell waits for the end of a pipe, of which this process has the other end. So it thaws whatever happens here: an
exception, a signal, also SIGKILL. It has a session of its own, so that what a terminal sends does not end it. Nor does
a clone that does not return: the shell is let go after MOST_SECONDS. That is so if what was frozen is the filesystem
of the files themselves, on which no clone can be made.

A freeze that is still under way must not come after the thaw. If an exception ends it, all of its session is
killed first. If a signal ends this process, nobody does that, and the freeze goes on. Once it has ended it finds that
nobody listens, and thaws, once more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

from ..engine.errors import Error
from ..engine.files.fiemap import records

MOST_SECONDS = 30
"""How long the freezing may take, and how long writers are held up at most once they are."""

EXTENT_SECONDS = 16e-6
"""How long a clone takes for each extent. Measured: 13 on XFS, 6 on btrfs, and as much again for small files."""

_SHELL = "/bin/sh"
_STDERR = 2


class FreezeError(Error):
    """Writers could not be held up, or let go. The message says what to do."""


class Freeze(NamedTuple):
    """What holds writers up, and lets them go: commands for the shell.

    ``most``: the seconds that the clones may take, or None. Larger files are not cloned.
    """

    freeze: str | None = None
    thaw: str | None = None
    most: float | None = None

    def takes(self, fd: int) -> float:
        """Return how many seconds a clone of an open file takes about, or more than ``most``."""
        if self.most is None:
            return 0
        position, end, count = 0, os.fstat(fd).st_size, 0
        with contextlib.suppress(OSError):  # it knows no extents, and can make no clones
            while position < end and count * EXTENT_SECONDS <= self.most:
                found, position = records(fd, position, end)
                count += sum(1 for _ in found)
        return count * EXTENT_SECONDS


class Pause:
    """How long writers were held up: ``seconds``, at most. None if they were not."""

    seconds: float | None = None


_FREEZE = '(eval "$1") >&2; status=$?; trap "" PIPE; echo 2>/dev/null || (eval "$2") >&2; exit $status'
"""Freeze, and thaw unless somebody still listens."""


def _run(command: str, thaw: str) -> None:
    words = [_SHELL, "-c", _FREEZE, _SHELL, command, thaw]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True) as freezing:
        try:
            freezing.communicate(timeout=MOST_SECONDS)
        except BaseException as error:
            # All of it: what goes on freezes after the thaw.
            if freezing.poll() is None:
                os.killpg(freezing.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise FreezeError(f"--seed-freeze: {command!r} took longer than {MOST_SECONDS} s") from None
            raise
    if freezing.returncode:
        raise FreezeError(f"--seed-freeze: {command!r} ended with status {freezing.returncode}")


@contextlib.contextmanager
def frozen(freeze: Freeze) -> Iterator[Pause]:
    """Hold writers up until the context ends. Raises FreezeError."""
    pause = Pause()
    if freeze.freeze is None or freeze.thaw is None:
        yield pause
        return
    end, ours = os.pipe()
    release = contextlib.ExitStack()
    release.callback(os.close, ours)
    try:
        waiting = subprocess.Popen(
            [_SHELL, "-c", 'cat >/dev/null; eval "$1"', _SHELL, freeze.thaw],
            stdin=end, stdout=_STDERR, start_new_session=True,
        )  # fmt: skip
    except BaseException:
        release.close()
        raise
    finally:
        os.close(end)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        release.close()

    timer = threading.Timer(MOST_SECONDS, give_up)
    timer.daemon = True
    began = time.monotonic()
    try:
        _run(freeze.freeze, freeze.thaw)
        timer.start()
        yield pause
    finally:
        timer.cancel()
        release.close()
        status = waiting.wait()
        pause.seconds = time.monotonic() - began
        if status:
            text = f"--seed-thaw: {freeze.thaw!r} ended with status {status}; see that nothing is frozen any more"
            raise FreezeError(text)
    if late.is_set():
        text = f"--seed-thaw: it ran after {MOST_SECONDS} s, before all was cloned; see what the freezing holds up"
        raise FreezeError(text)
