"""What can be asked of one machine, in one question and one answer, here or by way of its agent.

A question is the name of a function in one of the rooms below, which is imported when it is first asked: most
connections ask none. The answer is a NamedTuple, which JSON can carry.
"""

import contextlib
import errno
import os
import signal
import sys
from importlib import import_module
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

from ..files.claims import allocated
from ..wire.fields import PATH, SIZE, arguments, flag, listed, maybe, row, text

QUESTIONS = {
    "host": ".system",
    "docker": ".docker",
    "survey": ".survey",
    "probe": ".probe",
    "in_use": ".in_use",
    "suggested": ".presets",
    "sizes": ".registry",
    "sparse": ".registry",
    "identity": ".registry",
    "flush": ".registry",
    "run": ".registry",
}


_PLACES = maybe(listed(row(PATH, PATH, text(100), text(1000))))
_ARGUMENTS = {
    "host": {"wanted": maybe(listed(text(100), 100)), "rsync": maybe(PATH)},
    "docker": {"source": PATH},
    "survey": {"source": PATH, "one_file_system": maybe(flag), "places": _PLACES, "fold": maybe(flag)},
    "probe": {"path": PATH, "largest": maybe(SIZE)},
    "in_use": {"sources": listed(PATH), "places": _PLACES},
    "suggested": {"source": PATH},
    "sizes": {"paths": listed(PATH)},
    "sparse": {"paths": listed(PATH)},
    "identity": {"path": PATH},
    "flush": {"path": PATH},
    "run": {"command": PATH},
}  # type: Dict[str, Dict[str, Any]]

_GLANCE = 0.2
_PATIENCE = 10
"""Seconds that a command has to end by itself when it is interrupted."""
_SHORT = 2
"""The same where nobody can see how long it takes."""


def ask(question: str, **given: Any) -> Any:
    """The answer of this machine. Raises ValueError for an unknown question, and what the function raises."""
    if question not in QUESTIONS:
        raise ValueError("there is no question {!r}".format(question))
    return getattr(import_module(QUESTIONS[question], __package__), question)(**given)


def checked(question: str, given: Dict[str, Any]) -> Dict[str, Any]:
    """The arguments of a question from another machine. Raises ValueError."""
    return arguments(given, _ARGUMENTS[question])


def home(path: str) -> str:
    """``path`` with a leading ``~`` replaced, as the shell does it for rsync."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


class Sizes(NamedTuple):
    """Apparent and allocated size of each of some files, in bytes; None where there is none."""

    found: List[Optional[List[int]]]


def sizes(paths: Sequence[str]) -> Sizes:
    """The sizes of files, symlinks not followed."""
    found: List[Optional[List[int]]] = []
    for path in paths:
        try:
            st = os.lstat(home(path))
            found.append([st.st_size, allocated(st)])
        except OSError:
            found.append(None)
    return Sizes(found)


class AreSparse(NamedTuple):
    """Whether each of some files has a hole, or reserved ranges."""

    found: List[bool]


def sparse(paths: Sequence[str]) -> AreSparse:
    """Which files are sparse, symlinks not followed. Nothing is read."""
    from ..files.beneath import Sources
    from ..transfer.outgoing import look_at

    with Sources(listed=True) as sources:
        files = [(home(path), os.path.basename(path)) for path in paths]
        return AreSparse([looked is not None for looked in look_at(files, sources, "auto", False)])


class Identity(NamedTuple):
    """[device, inode] of a file, zeros if there is none."""

    numbers: List[int]


def identity(path: str) -> Identity:
    """What a path leads to; the link itself if it is one, and has no slash behind it."""
    try:
        st = os.stat(path) if path.endswith("/") or os.path.basename(path) in (".", "..") else os.lstat(path)
    except OSError:
        return Identity([0, 0])
    return Identity([st.st_dev, st.st_ino])


class Flushed(NamedTuple):
    """The mount points, or the directory, whose filesystems were flushed."""

    paths: List[str]


def flush(path: str) -> Flushed:
    """Have all that was written below a directory on its disk, on filesystems that are mounted there too.

    Raises OSError, with the path, if something could not be written.
    """
    from ..errors import blame
    from ..files.syscalls import flush_filesystem
    from .mounts import is_below, mounts

    top = os.path.realpath(home(path))
    below = {mount.point for mount in mounts().values() if mount.point != top and is_below(mount.point, top)}
    paths = [top, *sorted(below)]
    for each in paths:
        with blame(each, instead=True):
            fd = os.open(each, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                flush_filesystem(fd)
            finally:
                os.close(fd)
    return Flushed(paths)


class Ran(NamedTuple):
    """The exit status of a command; negative: the signal that ended it."""

    status: int


def run(command: str, given_up: Callable[[], bool] = lambda: False) -> Ran:
    """Run a command with ``sh -c``. Its output goes to standard error: what is asked is not what it prints.

    It ends, with all that it has started, when this is interrupted by an exception, or when ``given_up`` says so.
    """
    # Every agent has this room, and few run anything.
    import subprocess

    process = subprocess.Popen(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), start_new_session=True
    )
    try:
        while True:
            try:
                return Ran(process.wait(_GLANCE))
            except subprocess.TimeoutExpired:
                if given_up():
                    raise ConnectionError(errno.ECONNABORTED, "whoever asked has gone") from None
    except BaseException as error:
        # A second interruption must not leave it running either: it could undo what is done next.
        try:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_SHORT if isinstance(error, ConnectionError) else _PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
