"""rsync as a process of ours: its version, what it reads and prints, what its exit statuses mean, how the two end.

A signal that reaches us is handed on, and rsync ends as it does by itself, tidily; we wait for it. If we
are killed, rsync gets SIGTERM from the kernel.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import IO, Callable

from ..engine.errors import Error
from ..engine.files.syscalls import write_all
from .program import environment, program


class Status(IntEnum):
    """The exit statuses of rsync that are used: rsync(1), EXIT VALUES."""

    OK = 0
    SYNTAX = 1
    PROTOCOL_VERSION = 2
    SELECTION = 3
    UNSUPPORTED = 4
    START = 5
    SOCKET = 10
    FILE_IO = 11
    PROTOCOL = 12
    DIAGNOSTICS = 13
    """Also what a line of the output is too long for."""
    SIGNAL = 20
    PARTIAL = 23
    VANISHED = 24
    MAX_DELETE = 25
    TIMEOUT = 30
    CONNECTION_TIMEOUT = 35
    REMOTE_FAILED = 124
    REMOTE_KILLED = 125
    REMOTE_NOT_RUN = 126
    REMOTE_NOT_FOUND = 127
    SSH = 255
    """ssh(1), EXIT STATUS: it could not log in, or lost the connection."""


REFUSED = frozenset([Status.SYNTAX, Status.PROTOCOL_VERSION, Status.SELECTION, Status.UNSUPPORTED, Status.START])
"""rsync does not even begin with such a command, and will not the next time."""

NO_CONNECTION = frozenset(
    [
        Status.SOCKET, Status.PROTOCOL, Status.TIMEOUT, Status.CONNECTION_TIMEOUT, Status.REMOTE_FAILED,
        Status.REMOTE_KILLED, Status.REMOTE_NOT_RUN, Status.REMOTE_NOT_FOUND, Status.SSH,
    ]
)  # fmt: skip
"""The other host is not there, or no longer."""

OLDEST = (3, 1, 0)
"""The first rsync with the --info and --out-format behaviour that the listing relies on."""


class RsyncTooOldError(Error, RuntimeError):
    """An rsync on this machine that is too old for seeding."""


def about() -> bytes:
    """Return the output of ``rsync --version``. Raises FileNotFoundError if rsync is not installed."""
    return subprocess.run(
        [program(), "--version"], env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
    ).stdout


def version() -> tuple[int, int, int]:
    """Return the version of the installed rsync.

    Raises FileNotFoundError if rsync is not installed, ValueError if the program is not an rsync.
    """
    match = re.match(rb"rsync +version v?([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", about())
    if match is None:
        raise ValueError(f"{program()} is not a known rsync; use --seed-off to run it without seeding")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def check_version() -> tuple[int, int, int]:
    """Return the version of the installed rsync. Raises as :func:`version`, and RsyncTooOldError below 3.1."""
    found = version()
    if found < OLDEST:
        shown = ".".join(map(str, found))
        raise RsyncTooOldError(
            f"rsync {shown} is too old, seeding needs 3.1 or newer: upgrade it, or skip seeding with --seed-off"
        )
    return found


@contextlib.contextmanager
def spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """Give a copy of a stream that can be read twice: in a temporary file, or in memory if the disk is full."""
    with contextlib.ExitStack() as stack:
        copy: IO[bytes] | None = None
        with contextlib.suppress(OSError):
            copy = stack.enter_context(tempfile.TemporaryFile(buffering=0))
        copy = copy or stack.enter_context(_memory())
        done = 0
        for chunk in iter(functools.partial(stream.read, 1 << 20), b""):
            try:
                write_all(copy.fileno(), memoryview(chunk), done)
            except OSError:
                memory = stack.enter_context(_memory())
                copy.seek(0)
                os.truncate(copy.fileno(), done)  # of what failed a part is there
                shutil.copyfileobj(copy, memory)
                copy = memory
                write_all(copy.fileno(), memoryview(chunk), done)
            done += len(chunk)
        yield copy


@contextlib.contextmanager
def kept(path: str) -> Iterator[str]:
    """Give the path of a copy of a file that can be read only once. Raises OSError."""
    with open(path, "rb") as once, tempfile.NamedTemporaryFile(prefix="sparsesync-") as copy:
        shutil.copyfileobj(once, copy)
        copy.flush()
        yield copy.name


def _memory() -> IO[bytes]:
    return open(os.memfd_create("sparsesync"), "r+b", buffering=0)


def _ends_with_us() -> Callable[[], object]:
    """Return a function that makes a new process end with this one: left alone it would disturb the next run."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    # PR_SET_PDEATHSIG: prctl(2), linux/prctl.h. All is prepared here, since little may be done between fork and exec.
    return functools.partial(prctl, 1, int(signal.SIGTERM))


def run_rsync(
    command: list[str],
    environ: dict[str, str],
    stdin: IO[bytes] | None,
    output: Callable[[bytes], object] | None,
    inherited: Sequence[int] = (),
) -> int:
    """Run rsync to its end, forwarding signals to it, and return its exit status.

    ``output``: called with what rsync prints.
    ``inherited``: descriptors that rsync gets besides the standard ones.
    """
    if stdin is not None:
        stdin.seek(0)
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []
    reached: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        reached.append(number)
        if process is None:
            early.append(number)
        elif process.poll() is None:
            process.send_signal(number)

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                handlers[number] = signal.signal(number, hand_on)
    try:
        process = subprocess.Popen(
            command,
            executable=program(),
            env=environment(environ),
            stdin=stdin,
            stdout=subprocess.PIPE if output else None,
            pass_fds=inherited,
            preexec_fn=_ends_with_us(),
        )
        for missed in early:
            process.send_signal(missed)
        if output and process.stdout:
            _hand_over(process, process.stdout.fileno(), output)
        status = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if reached and status == Status.SSH:
        return Status.SIGNAL  # the signal reached ssh, too, and rsync says what that one said
    return status if status >= 0 else 128 - status


def _hand_over(process: subprocess.Popen[bytes], fd: int, output: Callable[[bytes], object]) -> None:
    try:
        said = os.read(fd, 64 * 1024)
        while said:
            output(said)
            said = os.read(fd, 64 * 1024)
    except BaseException:  # what is printed has nowhere to go
        process.terminate()
        process.wait()
        raise
