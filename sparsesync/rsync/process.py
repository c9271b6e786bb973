"""rsync as a process of ours: its version, what it reads and prints, how the two end.

Of the command, a signal is handed on, and rsync ends as it does by itself, tidily; the command waits for it. If the
command is killed, rsync gets SIGTERM from the kernel. In somebody else's program signals are not ours: rsync is ended
when the caller wants no more of it (:mod:`sparsesync.embedding`). Either way nothing that was started is left behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Callable

from ..console.streams import is_open
from ..embedding import WAIT_SECONDS, Embedding, Write
from ..engine.files.syscalls import write_all
from .program import RsyncTooOldError, Status, environment, program

ESCAPES_LOG = (3, 5, 0)
"""The first rsync that escapes control characters in its log file."""

OLDEST = (3, 1, 0)
"""The first rsync with the --info and --out-format behaviour that the listing relies on."""

HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGVTALRM)
"""The signals that rsync has a handler for. The last one asks it how far it is."""

_TIDY_SECONDS = 10
"""What a process has to end by itself."""

_PIECE_BYTES = 64 * 1024


def about(environ: Mapping[str, str] = os.environ, meanwhile: Callable[[], object] = lambda: None) -> bytes:
    """Return the output of ``rsync --version``. Raises FileNotFoundError if rsync is not installed.

    ``meanwhile``: called while rsync starts.
    """
    silent = subprocess.DEVNULL  # what it complains of, the run itself will complain of, where that is heard
    with subprocess.Popen(
        [program(environ), "--version"],
        env=environment(environ), stdin=silent, stdout=subprocess.PIPE, stderr=silent,
    ) as process:  # fmt: skip
        try:
            meanwhile()
            return process.communicate()[0]
        except BaseException:
            process.kill()  # else it would be waited for
            raise


def version(
    environ: Mapping[str, str] = os.environ, meanwhile: Callable[[], object] = lambda: None
) -> tuple[int, int, int]:
    """Return the version of the installed rsync.

    ``meanwhile``: as of :func:`about`.

    Raises FileNotFoundError if rsync is not installed, ValueError if the program is not an rsync.
    """
    match = re.match(rb"rsync +version v?([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", about(environ, meanwhile))
    if match is None:
        raise ValueError(f"{program(environ)} is not a known rsync; use --seed-off to run it without seeding")
    return int(match[1]), int(match[2]), int(match[3] or 0)


def check_version(
    environ: Mapping[str, str] = os.environ, meanwhile: Callable[[], object] = lambda: None
) -> tuple[int, int, int]:
    """Return the version of the installed rsync. Raises as :func:`version`, and RsyncTooOldError below 3.1."""
    found = version(environ, meanwhile)
    if found < OLDEST:
        shown = ".".join(map(str, found))
        raise RsyncTooOldError(
            f"rsync {shown} is too old, seeding needs 3.1 or newer: upgrade it, or skip seeding with --seed-off"
        )
    return found


def interrupted(status: Status = Status.SIGNAL) -> bytes:
    """Return rsync's last line on standard error after a signal, but for the place in its source."""
    which = "SIGUSR1" if status == Status.USER_SIGNAL else "SIGINT, SIGTERM, or SIGHUP"
    shown = ""
    with contextlib.suppress(OSError, ValueError):
        shown = " at rsync.c [sender={}.{}.{}]".format(*version())
    return f"rsync error: received {which} (code {int(status)}){shown}\n".encode()


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


@functools.cache
def ends_with_us() -> Callable[[], object]:
    """Return a function that makes a new process end with this one: left alone it would disturb the next run.

    The first call takes some milliseconds. There is time for it while another rsync is waited for.
    """
    import ctypes

    prctl = ctypes.CDLL(None).prctl
    # PR_SET_PDEATHSIG: prctl(2), linux/prctl.h. All is prepared here, since little may be done between fork and exec.
    return functools.partial(prctl, 1, int(signal.SIGTERM))


def run_rsync(
    command: list[str],
    environ: Mapping[str, str],
    stdin: IO[bytes] | None,
    output: Write | None,
    inherited: Sequence[int] = (),
    embedding: Embedding | None = None,
) -> int:
    """Run rsync to its end, and return its exit status; negative, it is the signal that ended it, as in subprocess.

    ``output``: called with what rsync prints.
    ``inherited``: descriptors that rsync gets besides the standard ones.
    ``embedding``: None forwards signals to rsync.
    """
    if stdin is not None:
        stdin.seek(0)
    if embedding is not None:
        return _run_embedded(command, environ, stdin, output, inherited, embedding)
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
        for number in HEARD:
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
            preexec_fn=ends_with_us(),
        )
        for missed in early:
            process.send_signal(missed)
        status = attend(process, [(process.stdout, output)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if reached and status == Status.SSH:
        return Status.SIGNAL  # the signal reached ssh, too, and rsync says what that one said
    return status


def _run_embedded(
    command: list[str],
    environ: Mapping[str, str],
    stdin: IO[bytes] | None,
    output: Write | None,
    inherited: Sequence[int],
    embedding: Embedding,
) -> int:
    def unless_closed(number: int) -> int | None:
        return None if is_open(number) else subprocess.DEVNULL

    embedding.check()
    process = subprocess.Popen(
        command,
        executable=program(environ),
        env=environment(environ),
        stdin=stdin or unless_closed(0),
        stdout=subprocess.PIPE if output else unless_closed(1),
        stderr=subprocess.PIPE if embedding.stderr else unless_closed(2),
        pass_fds=inherited,
        cwd=embedding.directory,
    )
    streams = [(process.stdout, output), (process.stderr, embedding.stderr)]
    return attend(process, streams, embedding.check)


def attend(
    process: subprocess.Popen[bytes],
    streams: Sequence[tuple[IO[bytes] | None, Write | None]],
    check: Callable[[], object] | None = None,
) -> int:
    """Hand on what a process writes to its streams, until it ends, and return its exit status, as subprocess has it.

    ``check``: called while the process is waited for.

    Whatever is raised meanwhile, the process has ended then, with all that it has started.
    """
    given = {stream.fileno(): (stream, take) for stream, take in streams if stream is not None and take is not None}
    poll = select.poll()
    for fd in given:
        poll.register(fd, select.POLLIN)
    try:
        left = set(given)
        while left:
            for fd, _ in poll.poll(None if check is None else 1000 * WAIT_SECONDS):
                said = os.read(fd, _PIECE_BYTES)
                if said:
                    given[fd][1](said)
                else:
                    poll.unregister(fd)
                    left.remove(fd)
            if check is not None:
                check()
        while check is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(WAIT_SECONDS)
            check()
        return process.wait()
    except BaseException:
        end(process)
        raise
    finally:
        for stream, _ in given.values():
            stream.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, tidily if it can, and wait for it and for all that it has started."""
    started = _started_by(process.pid)
    try:
        process.terminate()
        # It may have more to say than a pipe holds, and nobody hears it.
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        try:
            process.wait(_TIDY_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for fd in started:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            if not poll.poll(1000 * _TIDY_SECONDS):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
                poll.poll(1000 * _TIDY_SECONDS)
    finally:
        for fd in started:
            os.close(fd)


def _started_by(pid: int) -> list[int]:
    """Return a descriptor of each process below one, as far as the kernel tells: pidfd_open(2), proc(5)."""
    found: list[int] = []
    # It may have ended, or the kernel be older than 5.3: then what it started ends when it will.
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            below = [int(child) for child in children.read().split()]
        for child in below:
            with contextlib.suppress(OSError):
                found.append(os.pidfd_open(child))
                found += _started_by(child)
    return found
