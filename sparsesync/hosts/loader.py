"""What starts the engine on another host, with nothing installed there.

A shell looks for a Python of 3.6 or newer and has it read one line, a program that has the ``engine`` package and all
packages in it, and imports them from memory. Nothing is written to the remote host's disk.

**What is in the line**: the modules that every connection needs as code, which is compiled already, since to compile
them there would take longer than all else that the start of the agent consists of; and the source of the others, which
is compiled when an operation needs it. A Python of another version than the one that runs here asks for the source of
the first, too (:data:`NEEDS`).

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
(:func:`fingerprint`). The line is sent all the same, and thrown away unread: to wait for the greeting first would
cost every other host a round trip.
"""

from __future__ import annotations

import base64
import marshal
import sys
import zlib
from collections.abc import Iterator
from types import CodeType
from typing import NamedTuple

from ..engine.wire.link import Link
from ..engine.wire.protocol import MAGIC
from .address import check_python

NO_PYTHON = 86
"""The exit status of our script where it finds no Python."""

READY = b"sparsesync\n"
"""What the script says when the shell has read it, where that is waited for."""

FOUND = b"sparsesync by "
"""What the script says before the path of a Python that it starts with a prefix, in a line."""

NEEDS = b"sparsesync needs source\n"
"""What the program says where its Python is of another version."""

# It has no character that has a meaning in sudoers(5). What Python reads ahead is none of what comes later: we send
# nothing before it asks, or the agent has greeted.
STAGE_ONE = "exec(input())"

_LEVEL = 4
"""Of zlib: half the time of its own level 6, for 5 % more."""

_LINE_BYTES = 4200
"""A path is shorter, path_resolution(7)."""

NO_PROGRAM = b"raise SystemExit\n"
"""What is sent in place of a program, to a Python that would say at length that it gets none."""

_LINES = (3, 11), (3, 15)
"""The Pythons whose code has its lines in one known form."""

_PYTHONS = ["python3", "/usr/libexec/platform-python", *(f"python3.{minor}" for minor in range(19, 5, -1))]
_OLD_ENOUGH = "import sys;sys.exit(sys.version_info<(3,6))"
# To start a Python only to ask it takes as long as the login shell, so its file's name is believed.
_NAMED = "*/python3.[6-9]|*/python3.[1-9][0-9]"

# ``version`` and ``code`` are of the Python that runs here: ``code`` has by each module's name whether it is a package,
# and its code. ``packed`` has of the others the source, and is not unpacked before that is needed.
# Nothing must be imported from the current directory, which -c puts first.
# An interrupt that reaches the remote end too is the client's to act on: the agent ends with the connection.
# Nothing of what is made here is garbage, and to look for that each time would take a tenth of the whole.
_STAGE_TWO = """
import gc, sys
gc.disable()
sys.path[:] = filter(None, sys.path)
import base64, importlib.machinery, importlib.util, json, marshal, os, signal, zlib
signal.signal(signal.SIGINT, lambda number, frame: None)
def read(count):
    have = b""
    while len(have) < count:
        more = os.read(0, count - len(have))
        if not more:
            sys.exit(0)
        have += more
    return have
class Finder:
    def find_spec(self, name, path, target=None):
        while name not in code and packed:
            sources.update(json.loads(zlib.decompress(base64.b64decode(packed.pop())).decode()))
        if name in code or name in sources:
            is_package = (code if name in code else sources)[name][0]
            return importlib.machinery.ModuleSpec(name, self, is_package=is_package)
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        name = module.__name__
        exec(code[name][1] if name in code else compile(sources[name][1], name, "exec"), module.__dict__)
sources, packed = {}, [packed]
if version == "%s %s" % (sys.implementation.cache_tag, importlib.util.MAGIC_NUMBER.hex()):
    code = marshal.loads(zlib.decompress(base64.b64decode(code)))
else:
    code = {}
    os.write(1, needs)
    packed.append(read(int(read(10))))
sys.meta_path.insert(0, Finder())
from sparsesync.engine.agent import main
gc.enable()
sys.exit(main())
"""

_AT_ONCE = """
    __init__ access agent errors host roles text
    content.__init__ content.basis
    files.__init__ files.attributes files.beneath files.claims files.extents files.fiemap files.flags files.mounts
    files.status files.syscalls
    files.writing.__init__ files.writing.existing files.writing.known files.writing.partial files.writing.target
    queries.__init__ queries.registry
    transfer.__init__ transfer.records
    transfer.place.__init__ transfer.place.destination transfer.place.destination_file transfer.place.parents
    wire.__init__ wire.capabilities wire.compression wire.fields wire.link wire.protocol wire.rate_limit wire.streams
"""
"""The modules of the engine that an agent needs to greet, and to look for files at a destination."""


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
    ask = f'"$p" -S -c "{_OLD_ENOUGH}" </dev/null 2>/dev/null'
    is_new = f'case $(readlink -f "$p" 2>/dev/null) in {_NAMED}) ;; *) {ask} ;; esac'
    find = f'for p in {names}; do p=$(command -v "$p") && {is_new} && '
    return f"{find}{{ {run}; }}; done; exit {NO_PYTHON}"


def is_script(command: str) -> bool:
    """Return whether a command is a script of ours: :func:`start` has made it, here or in another version."""
    return f'"$p" -c "{STAGE_ONE}"' in command


def is_prefixed(command: str) -> bool:
    """Return whether a script of ours puts something before Python."""
    return FOUND.decode() in command


def program() -> bytes:
    """Return what is sent to the remote Python. Raises ValueError where sparsesync was installed without sources."""
    named = _named_modules()
    code = {name: (is_package, _compiled(name)) for name, is_package in named.items()}
    version = our_version() if all(each for _, each in code.values()) else ""
    parts = {
        "version": version,
        "code": _text(marshal.dumps(code)) if version else "",
        "packed": _text(_json({name: module for name, module in _all_modules().items() if name not in named})),
        "needs": NEEDS,
    }
    assigned = "".join(f"{name} = {value!r}; " for name, value in parts.items())
    return f"{assigned}exec({_STAGE_TWO!r}, globals())\n".encode("ascii")


def needed_source() -> bytes:
    """Return what is sent to a Python of another version when it says so: a length in 10 bytes, and so many more."""
    named, modules = _named_modules(), _all_modules()
    text = _text(_json({name: modules[name] for name in named})).encode("ascii")
    return b"%10d" % len(text) + text


def expect(link: Link, line: bytes, have: bytes = b"") -> None:
    """Read what the script or the program says, of which ``have`` is read. Raises LinkError, ProtocolError if not."""
    while have != line:
        if not line.startswith(have):
            link.refuse(have)
        have += link.ahead(len(line) - len(have))


def rest_of_line(link: Link) -> str:
    """Read the rest of such a line. Raises LinkError, and ProtocolError for an odd one."""
    have = b""
    while not have.endswith(b"\n"):
        have += link.ahead(1)
        if len(have) > _LINE_BYTES:
            link.refuse(have)
    text = have[:-1].decode("utf-8", "replace")
    if not text.isprintable():
        link.refuse(have)
    return text


def needs_source(link: Link) -> bool:
    """Return whether a Python says that it :data:`NEEDS` source; if not, an agent greets. Raises as :func:`expect`."""
    have = link.ahead(len(NEEDS))
    if have[:1] == MAGIC[:1]:
        link.begin(have)
        return False
    expect(link, NEEDS, have)
    return True


def our_version() -> str:
    """Return what the code of this Python is for: its implementation, and importlib's magic number."""
    from importlib.util import MAGIC_NUMBER

    return f"{sys.implementation.cache_tag} {MAGIC_NUMBER.hex()}"


def fingerprint() -> str:
    """Return what tells an engine from all others. Raises ValueError as :func:`program`."""
    from hashlib import sha256

    return sha256(_json({"": _STAGE_TWO, **_all_modules()})).hexdigest()[:32]


def _text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, _LEVEL)).decode("ascii")


def _json(what: dict[str, object]) -> bytes:
    import json

    return json.dumps(what).encode("ascii")


def _all_modules() -> dict[str, object]:
    return {"sparsesync": (True, ""), **dict(_modules("sparsesync.engine"))}


def _named_modules() -> dict[str, bool]:
    """Return for each module of :data:`_AT_ONCE`, and for what contains them, whether it is a package."""
    names = [f"sparsesync.engine.{name}" for name in _AT_ONCE.split()]
    return {"sparsesync": True, **{name.replace(".__init__", ""): name.endswith(".__init__") for name in names}}


def _compiled(name: str) -> CodeType | None:
    """Return the code of a module, from its .pyc file if there is one."""
    from importlib.util import find_spec

    if name == "sparsesync":
        return compile("", name, "exec")
    read = getattr(getattr(find_spec(name), "loader", None), "get_code", None)
    code: CodeType | None = read(name) if read else None
    return None if code is None else _lean(code, name)


def _lean(code: CodeType, name: str) -> CodeType:
    """Return code whose file is named as the module, since nobody there has to know where it is here, without lines.

    Where each instruction has its line and columns that is a third of all bytes: Objects/locations.md in CPython.
    """
    inner = tuple([_lean(each, name) if isinstance(each, CodeType) else each for each in code.co_consts])
    if not _LINES[0] <= sys.version_info < _LINES[1]:
        return code.replace(co_filename=name, co_consts=inner)
    eights, rest = divmod(len(code.co_code) // 2, 8)
    lines = b"\xff" * eights + (bytes([0xF8 | rest - 1]) if rest else b"")
    return code.replace(co_filename=name, co_consts=inner, co_linetable=lines)


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
