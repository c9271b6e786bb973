"""One login with a key that may do one thing: what the client asked for, and what is done.

sshd starts ``sparsesync serve``, whatever the client asks for, and puts that into SSH_ORIGINAL_COMMAND. None of it is
executed::

    an agent's loader    the engine that is installed here answers, and the source that comes is thrown away
    rsync --server ...   rsync runs, with arguments that have been looked at (:mod:`server_options`)
    true                 nothing is done, and well

Anything else is refused. Before either begins, the kernel confines this process (:mod:`walls`), and the current
directory is the root: all that a client names is relative to it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import signal
from typing import NoReturn

from ..console.messages import print_error
from ..engine import agent
from ..hosts import loader
from ..rsync.process import check_version
from . import calls, server_options, walls
from .beneath import Root
from .rules import Served

COMMAND = "SSH_ORIGINAL_COMMAND"

_UNWALLED = "this kernel has no Landlock: a symlink put in place at the right moment can lead rsync out"
_MAX_SCRIPT_BYTES = 1 << 16


def run(directory: str, mode: str, version: str) -> int:
    """Serve the client that has logged in, and return the exit status.

    ``mode``: one of :data:`.rules.MODES`.
    ``version``: of sparsesync, for people.

    Raises ValueError for what is refused, OSError.
    """
    asked = os.environ.get(COMMAND, "").strip()
    if asked == "true":  # whether one can log in
        return 0
    root = Root(directory)
    os.fchdir(root.fd)
    if asked == "sh":  # by a remote shell that is not known to join its words, the script comes first
        asked = _line()
        os.write(1, loader.READY)
    if loader.is_script(asked):
        if loader.is_prefixed(asked):
            raise ValueError("this key runs no command: --rsync-path and --remote-prefix are not for it")
        served = Served(root, mode, loader.fingerprint(), version)
        walls.build(root.fd, mode != "read-only")
        calls.build(root)
        return agent.serve(served, line=True)
    program, _, rest = asked.partition(" ")
    if os.path.basename(program) == "rsync" and rest.split(" ", 1)[0] == "--server":
        return _run_rsync(rest.partition(" ")[2], root, mode)
    if not asked:
        raise ValueError("this key is for rsync and sparsesync only, and no command was given")
    raise ValueError("this key is for rsync and sparsesync only")


def _run_rsync(line: str, root: Root, mode: str) -> int:
    words = server_options.arguments(line, root, mode, check_version())
    if mode != "append-only" or "--sender" in words[:2]:
        if not walls.build(root.fd, mode != "read-only"):
            print_error(_UNWALLED)
        _become_rsync(words, root)
    place = f".sparsesync-append.{secrets.token_hex(4)}"
    os.mkdir(place, 0o700, dir_fd=root.fd)
    try:
        child = os.fork()
        if not child:
            _become_rsync_that_adds(words, root, place)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except BaseException:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            raise
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return status if status >= 0 else 128 - status


def _become_rsync_that_adds(words: list[str], root: Root, place: str) -> NoReturn:
    try:
        temporaries = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root.fd)
        if not walls.build(root.fd, True, temporaries):
            raise ValueError("this kernel has no Landlock, and cannot keep rsync from replacing files: use copy")
        _become_rsync([words[0], f"--temp-dir={root.path}/{place}", *words[1:]], root)
    except (OSError, ValueError) as error:
        print_error(error)
    finally:
        os._exit(1)


def _become_rsync(words: list[str], root: Root) -> NoReturn:
    program = shutil.which("rsync")
    if program is None:
        raise OSError(errno.ENOENT, "rsync is not installed")
    # What a variable would have rsync do is not looked at, and there may be rules in a home.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RSYNC_", "CVS"))}
    environ["HOME"] = root.path
    os.execve(program, ["rsync", *words], environ)


def _line() -> str:
    """Return the first line of the standard input, and read nothing behind it."""
    read = b""
    while not read.endswith(b"\n"):
        more = os.read(0, 1)
        if not more or len(read) > _MAX_SCRIPT_BYTES:
            raise ValueError("this key is for rsync and sparsesync only")
        read += more
    return os.fsdecode(read).strip()
