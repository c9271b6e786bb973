"""What runs on a store.

A process is known by its name. A file with its number may tell what it runs, such as a domain. One that has one of a
store's own files open runs on that store. So it does not run on another one of the same kind, and a machine may have
several: with another data root, or at the same path in another mount namespace. Who has none open, or does not show
what he has, may run on any.
"""

import fnmatch
import glob
import os
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Union

from .reading import open_regular
from .table import Kind


class Process(NamedTuple):
    """A process by its number, and what it is called."""

    name: str
    number: str


def running(kind: Kind, path: str, certainly: bool) -> Iterator[Process]:
    """Yield what runs on this machine, and may run on the store of a kind at ``path``, or does so ``certainly``."""
    names = {}
    for pattern in kind.pid_files:
        for file in glob.glob(pattern):
            names[_first_word(file, open_regular)] = os.path.basename(file).partition(".pid")[0]
    for process in processes_of(kind.processes):
        if _holds(process.number, kind, path) in ((True,) if certainly else (True, None)):
            yield process._replace(name=names.get(process.number, process.name))


def processes_of(programs: Sequence[str]) -> Iterator[Process]:
    """Yield this machine's processes with one of the names, which may have wildcards."""
    for number in sorted(filter(str.isdigit, listed("/proc") if programs else ()), key=int):
        name = _first_word("/proc/{}/comm".format(number))
        if any(fnmatch.fnmatch(name, program[:15]) for program in programs):
            yield Process(name, number)


def _holds(number: str, kind: Kind, path: str) -> Optional[bool]:
    """Whether a process has a file of the store's own open, None if it has none of any store."""
    verdict = None
    folder = "/proc/{}/fd".format(number)
    for fd in listed(folder) if kind.held else ():
        opened = os.path.join(folder, fd)
        try:
            parts = os.readlink(opened).split("/")
            for held in kind.held:
                name = "/".join(parts[-1 - held.count("/") :])
                if fnmatch.fnmatch(name, held):
                    own = os.path.join(path, name)
                    if os.path.exists(own) and os.path.samestat(os.stat(opened), os.stat(own)):
                        return True
                    verdict = False
        except OSError:
            continue  # it has been closed
    return verdict


def words_of(process: Process, what: str = "cmdline") -> List[str]:
    """Return the command line of a process, or its "environ"; empty if it has ended."""
    try:
        with open("/proc/{}/{}".format(process.number, what), "rb") as file:
            return os.fsdecode(file.read()).split("\0")[:-1]
    except OSError:
        return []


def listed(path: str) -> List[str]:
    """Return the names in a directory, none if it cannot be read."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def _first_word(path: str, opening: Callable[[str], Union[int, str]] = str) -> str:
    try:
        with open(opening(path), "rb") as file:
            return os.fsdecode((file.read(100).split() or [b""])[0])
    except OSError:
        return ""
