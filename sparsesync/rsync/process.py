"""rsync as a process of ours: what it reads and prints, and how the two end together.

A signal that reaches us is handed on, and rsync ends as it does by itself, tidily; we wait for it. If we
are killed, rsync gets SIGTERM from the kernel.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import IO, Callable

from ..engine.files.syscalls import write_all


@contextlib.contextmanager
def spooled(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """A copy of a stream that can be read twice: a temporary file, or memory where there is no room for one."""
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


def _memory() -> IO[bytes]:
    return open(os.memfd_create("sparsesync"), "r+b", buffering=0)


_SSH_FAILED = 255
_SIGNALLED = 20
"""rsync(1), EXIT VALUES."""


def _ends_with_us() -> Callable[[], object]:
    """What makes a new process end if we are killed: one that goes on alone would get in the way of the next run."""
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    # PR_SET_PDEATHSIG: prctl(2), linux/prctl.h. All is prepared here, since little may be done between fork and exec.
    return functools.partial(prctl, 1, int(signal.SIGTERM))


def run_rsync(
    command: list[str],
    environ: dict[str, str],
    stdin: IO[bytes] | None,
    output: Callable[[bytes], object] | None,
) -> int:
    """Run rsync to its end, handing on to it the signals that reach us."""
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
            command, env=environ, stdin=stdin, stdout=subprocess.PIPE if output else None, preexec_fn=_ends_with_us()
        )
        for missed in early:
            process.send_signal(missed)
        if output and process.stdout:
            _hand_over(process, process.stdout.fileno(), output)
        status = process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if reached and status == _SSH_FAILED:
        return _SIGNALLED  # the signal reached ssh, too, and rsync says what that one said
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
