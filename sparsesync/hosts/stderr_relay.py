r"""What another host says on its standard error, on its way to ours: escaped, since a terminal may be at its end.

A remote shell writes its own messages and those of the remote host into a pipe. A thread reads that, a part at a time
whatever its lines are like, and writes it on; so nothing is collected, and a flood waits in the pipe as it would wait
for the terminal. Our agent has escaped what names it prints, so ``\#ooo`` stays as it is.
Passwords and questions are not in it: ssh asks those on the terminal itself, ssh(1).

Where rsync is to use the same remote shell later, a greeting would be read twice: :class:`Greeting` keeps it until it
is known whether rsync's shell says it, too.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import select
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Callable

from ..console.streams import write_error
from ..embedding import Write
from ..engine.errors import LinkError
from ..engine.text import printable_already

_REFUSED = ("Permission denied", "verification failed", "Too many authentication failures")
"""What ssh says of a login that fails until somebody has changed something."""
_REASONS = {
    "IDENTIFICATION HAS CHANGED": "its key is another than that of earlier logins",
    "host key is known": "its key is not known yet; log in once by hand",
    "verification failed": "its key was not accepted",
    "Permission denied": "it refused the user",
    "Too many authentication failures": "it refused the user",
    "Could not resolve": "no host of that name is known",
    "Connection refused": "nothing takes connections there",
    "No route to host": "it cannot be reached",
    "Network is unreachable": "it cannot be reached",
    "timed out": "it does not answer",
}
"""What ssh says, and what it means."""

_PART_BYTES = 8192
_TAIL = 1000
"""Characters."""
_KEPT_BYTES = 1 << 16
_PIPE_BYTES = 1 << 16
"""What a pipe holds: pipe(7)."""


def is_refused(said: str) -> bool:
    """Return whether ssh says that a login fails until somebody has changed something."""
    return any(word in said for word in _REFUSED)


def reason_of(said: str) -> str:
    """Return why a login failed, by what ssh says: a colon and the reason, or nothing if none is known."""
    return next((f": {reason}" for word, reason in _REASONS.items() if word in said), "")


class Greeting:
    """What a remote shell says before another that says the same. Any thread may call.

    ``show``: called with what is to be shown.
    ``again``: returns whether the other shell will say what is said now. The login that both share is over, for one.
    """

    def __init__(self, show: Write, again: Callable[[], bool]) -> None:
        self._show = show
        self._again = again
        self._kept: bytes | None = b""
        self._lock = threading.Lock()

    def write(self, said: bytes) -> None:
        """Show what is said, or keep it."""
        with self._lock:
            if self._kept is None or not self._again():
                self._show(said)
                return
            self._kept += said
            flood = len(self._kept) > _KEPT_BYTES
        if flood:
            self.show()

    def show(self, but: bytes = b"") -> None:
        """Show what is kept, and from now on all. ``but``: the other shell's words; its lines are left out."""
        lines = but.decode(errors="surrogateescape").replace("\r\n", "\n").split("\n")
        others = Counter(printable_already(line).encode(errors="backslashreplace") for line in lines)
        with self._lock:
            kept, self._kept = self._kept or b"", None
            for line in kept.splitlines(keepends=True):
                if others[line.rstrip(b"\n")] > 0:
                    others[line.rstrip(b"\n")] -= 1
                else:
                    self._show(line)

    @contextlib.contextmanager
    def repeated(self) -> Iterator[None]:
        """Forget what is said in the context, in which the shell is started again, unless that fails."""
        with self._lock:
            before, self._kept = self._kept, b""
        try:
            yield
        except BaseException:
            with self._lock:
                self._kept = (before or b"") + (self._kept or b"")
            raise
        with self._lock:
            self._kept = before

    def drop(self) -> None:
        """Forget what is kept, which the other shell is about to say. From now on all is shown."""
        with self._lock:
            self._kept = None


class StderrRelay:
    """The reader of a process' standard error.

    ``write``: called with what is to be shown, in a thread; it must not raise.
    ``sink``: the standard error to start the process with. Call :meth:`started` after that.

    Raises LinkError if no thread can be started.
    """

    def __init__(self, write: Write = write_error) -> None:
        self._show = write
        self.sink: int
        self._source, self.sink = os.pipe()
        self._ended, self._end = os.pipe()
        self._left = -1
        self._closed = False
        self.tail: str = ""
        """The last that was said."""
        os.set_blocking(self._source, False)
        # Not by sys.stderr, whose lock a thread that waits for a terminal would hold to the end of the program.
        encoding = sys.getfilesystemencoding()
        # ssh ends its lines with a carriage return, too.
        decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        self._encoding = encoding
        self._thread = threading.Thread(target=self._run, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            for fd in (self._source, self.sink, self._ended, self._end):
                os.close(fd)
            raise LinkError(f"the other host's standard error cannot be read: {error}") from None
        except BaseException:  # what a signal raises, of which the thread that has started learns by the pipe
            os.close(self.sink)
            os.close(self._end)
            raise

    def started(self) -> None:
        """Close this end's copy of the pipe, once the process has started or failed to start."""
        os.close(self.sink)

    def close(self) -> None:
        """Wait until everything that the process printed is written. Call it once the process has ended.

        Other processes that it started, and that may go on for long, are not waited for.
        """
        if not self._closed:
            self._closed = True
            os.close(self._end)
            self._thread.join()

    def _run(self) -> None:
        try:
            while self._relay():
                pass
            self._write(self._decoder.decode(b"", final=True))
        finally:
            os.close(self._source)
            os.close(self._ended)

    def _relay(self) -> bool:
        """Write a part; returns whether there may be more."""
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        if self._left < 0:
            poll.register(self._ended, select.POLLIN)
        if any(fd == self._ended for fd, _ in poll.poll(None if self._left < 0 else 0)):
            # What the process has said is in the pipe. What another says from now on is nobody's.
            self._left = _PIPE_BYTES
        try:
            said = os.read(self._source, _PART_BYTES)
        except BlockingIOError:
            return self._left < 0
        if self._left >= 0:
            self._left = max(0, self._left - len(said))
        self._write(self._decoder.decode(said))
        return bool(said) and self._left != 0

    def _write(self, text: str) -> None:
        self.tail = (self.tail + text)[-_TAIL:]
        shown = "\n".join(map(printable_already, text.split("\n")))
        self._show(shown.encode(self._encoding, "backslashreplace"))
