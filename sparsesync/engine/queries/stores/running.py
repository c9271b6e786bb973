"""What runs on a store.

A process is known by its name, or by a file that has its number. One that has one of a store's own files open runs on
that store. So it does not run on another one of the same kind, and a machine may have several: with another data root,
or at the same path in another mount namespace. Who has none open, or does not show what he has, may run on any.
"""

import fnmatch
import glob
import os
from typing import Iterator, List, NamedTuple

from .table import Kind


class Process(NamedTuple):
    """A process by its number, and what it is called."""

    name: str
    number: str


def running(kind: Kind, path: str) -> Iterator[Process]:
    """Yield what runs on this machine, and may run on the store of a kind at ``path``."""
    for pattern in kind.pid_files:
        for file in sorted(glob.glob(pattern)):
            number = _first_word(file)
            if number.isdigit() and os.path.exists("/proc/" + number):
                yield Process(os.path.basename(file).partition(".pid")[0], number)
                kind = kind._replace(processes=())  # these files tell more of the same
    for number in sorted(filter(str.isdigit, listed("/proc") if kind.processes else ()), key=int):
        name = _first_word("/proc/{}/comm".format(number))
        if any(fnmatch.fnmatch(name, process[:15]) for process in kind.processes) and _may_hold(number, kind, path):
            yield Process(name, number)


def _may_hold(number: str, kind: Kind, path: str) -> bool:
    verdict = True
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


def words_of(process: Process) -> List[str]:
    """Return the command line of a process, empty if it has ended."""
    try:
        with open("/proc/{}/cmdline".format(process.number), "rb") as file:
            return os.fsdecode(file.read()).split("\0")[:-1]
    except OSError:
        return []


def listed(path: str) -> List[str]:
    """Return the names in a directory, none if it cannot be read."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def _first_word(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return os.fsdecode((file.read(100).split() or [b""])[0])
    except OSError:
        return ""
