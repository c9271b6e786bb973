"""What starts the engine on another host, with nothing installed there.

A shell looks for a Python of 3.6 or newer and has it read one line, a program that has the sources of the ``engine``
package and of all packages in it, and imports them from memory. Nothing is written to the remote host's disk.

**How the shell is given its script** depends on the remote shell. ssh joins its words, and the login shell takes them
apart again, whichever that is: so the script is one word in single quotes, ``sh -c '...'``, and all is sent at once.
Any other remote shell may join its words or start them as they are, as ``docker exec`` does. Only what has one word is
the same in both ways: ``sh``, which reads its script from the standard input. It may read more than that, so what is
for Python follows only when the script has said :data:`READY`, which costs a round trip.

**What runs with the prefix** (``sudo``, from ``--rsync-path``) is Python alone, and always as ``python3 -c`` with
:data:`STAGE_ONE`: a rule of sudoers(5) can allow that one command line, and no shell. What belongs to a shell
in the prefix, such as ``cd there &&``, is understood by the script's. Which Python that is, the script says first
(:data:`FOUND`): it is what a rule has to name.

**A forced command** of sshd, ``sparsesync serve``, runs in place of the script, which it only recognises
(:func:`is_script`), and answers with the engine that is installed there. So both have to be the same
(:func:`fingerprint`). The source is sent all the same, and thrown away unread: to wait for the greeting first would
cost every other host a round trip.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from .address import check_python

NO_PYTHON = 86
"""The exit status of our script where it finds no Python."""

READY = b"sparsesync\n"
"""What the script says when the shell has read it, where that is waited for."""

FOUND = b"sparsesync by "
"""What the script says before the path of a Python that it starts with a prefix, in a line."""

# It has no character that has a meaning in sudoers(5). What Python reads ahead is none of the frames: we send none
# before the agent has greeted.
STAGE_ONE = "exec(input())"

_PYTHONS = ["python3", "/usr/libexec/platform-python", *(f"python3.{minor}" for minor in range(19, 5, -1))]
_OLD_ENOUGH = "import sys;sys.exit(sys.version_info<(3,6))"

# Nothing must be imported from the current directory, which -c puts first.
_LINE = (
    "import sys; sys.path[:] = filter(None, sys.path); import base64, zlib, json; "
    'sources = json.loads(zlib.decompress(base64.b64decode("%s")).decode()); exec(sources.pop(""), globals())\n'
)

# ``sources`` has for each module's name whether it is a package, and its text.
# An interrupt that reaches the remote end too is the client's to act on: the agent ends with the connection.
# Nothing of what is compiled is garbage, and to look for that each time would take a tenth of the whole.
_STAGE_TWO = """
import gc, signal, importlib.machinery
gc.disable()
signal.signal(signal.SIGINT, lambda number, frame: None)
class Finder:
    def find_spec(self, name, path, target=None):
        if name in sources:
            return importlib.machinery.ModuleSpec(name, self, is_package=sources[name][0])
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        exec(compile(sources[module.__name__][1], module.__name__, "exec"), module.__dict__)
sys.meta_path.insert(0, Finder())
from sparsesync.engine.agent import main
gc.enable()
sys.exit(main())
"""


class Shell(NamedTuple):
    """How to run a command on another host.

    ``command``: the remote shell and its arguments.
    ``prefix``: put before Python there, as ``--rsync-path='sudo rsync'`` puts sudo before rsync.
    ``python``: the Python to use there.
    """

    command: tuple[str, ...]
    prefix: str = ""
    python: str | None = None

    @property
    def joins(self) -> bool:
        """Whether the remote shell is known to have its words split at the other end."""
        return self.command[0].rpartition("/")[2] == "ssh"


def start(shell: Shell) -> tuple[list[str], bytes]:
    """Return the words for the remote shell, and the script to send before it reports that it is ready.

    Raises ValueError for a Python whose name is not a plain path.
    """
    script = _script(shell)
    if shell.joins:
        quoted = script.replace("'", "'\\''")
        return [f"sh -c '{quoted}'"], b""
    return ["sh"], f"echo {READY.decode().strip()}; {script}\n".encode("utf-8", "surrogateescape")


def _script(shell: Shell) -> str:
    if shell.python is not None:
        check_python(shell.python)
    names = " ".join(f'"{python}"' for python in (_PYTHONS if shell.python is None else [shell.python]))
    # In one line, since csh ends a quoted word with it.
    told = f'echo "{FOUND.decode()}$p"; {shell.prefix} "$p" -c "{STAGE_ONE}"; exit $?'
    run = told if shell.prefix else f'exec "$p" -c "{STAGE_ONE}"'
    find = f'for p in {names}; do p=$(command -v "$p") && "$p" -c "{_OLD_ENOUGH}" </dev/null 2>/dev/null && '
    return f"{find}{{ {run}; }}; done; exit {NO_PYTHON}"


def is_script(command: str) -> bool:
    """Return whether a command is a script of ours: :func:`start` has made it, here or in another version."""
    return f'"$p" -c "{STAGE_ONE}"' in command


def is_prefixed(command: str) -> bool:
    """Return whether a script of ours puts something before Python."""
    return FOUND.decode() in command


def program() -> bytes:
    """Return what is sent to the remote Python. Raises ValueError where sparsesync was installed without sources."""
    import base64

    packed = base64.b64encode(zlib.compress(_sources()))
    return (_LINE % packed.decode("ascii")).encode("ascii")


def fingerprint() -> str:
    """Return what tells an engine from all others. Raises ValueError as :func:`program`."""
    from hashlib import sha256

    return sha256(_sources()).hexdigest()[:32]


def _sources() -> bytes:
    import json

    sources = {"": _STAGE_TWO, "sparsesync": (True, ""), **dict(_modules("sparsesync.engine"))}
    return json.dumps(sources).encode("ascii")


def _modules(package: str) -> Iterator[tuple[str, tuple[bool, str]]]:
    """Yield a package and all modules in it, by name: whether each is a package, and its source.

    Whatever imports them here is asked, since they may be in a zip file, or in a program that has one inside.
    """
    from importlib.util import find_spec
    from pkgutil import iter_modules

    yield package, (True, _source(package))
    folders = getattr(find_spec(package), "submodule_search_locations", [])
    for _, name, is_package in iter_modules(folders, f"{package}."):
        if is_package:
            yield from _modules(name)
        else:
            yield name, (False, _source(name))


def _source(name: str) -> str:
    from importlib.util import find_spec

    read = getattr(getattr(find_spec(name), "loader", None), "get_source", None)
    source: str | None = read(name) if read else None
    if source is None:
        raise ValueError(f"{name} is here without its source, which other hosts need: install sparsesync with it")
    return source
