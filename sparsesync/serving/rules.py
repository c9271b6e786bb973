"""What of an agent's operations a client of ``serve`` may use, and what becomes of each argument.

All that is allowed is in two tables, :data:`OPERATIONS` and :data:`QUERIES`; what is in neither is refused, and so is
an argument that its row does not name. Each argument has a function that returns it as the operation is to have it::

    a path              relative to the root, and known to lead to a place below it
    a path of an option relative to the destination, unless absolute
    a name              below what the engine has opened, where it follows no symlink
    anything else       as it is

Nothing here runs a command, takes a lock, or tells of the machine: a migration needs all of these.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

from ..engine.access import Access
from ..engine.errors import ProtocolError
from ..engine.roles import Opening
from .beneath import OutsideError, Root

READ, ADD, CHANGE = range(3)
"""What an operation does: it changes nothing, makes something new, or changes what is there."""

MODES = {"read-only": READ, "append-only": ADD, "read-write": CHANGE}
"""What a key may do at most."""

_NOT_FOR_IT = "is not for a key that is for one directory only"

_TOP = "/."
"""The root, to :mod:`.calls`. The dot keeps what is below it from being taken for something of the kernel's."""

_Admit = Callable[["Served", Any], Any]


class Rule(NamedTuple):
    """``does``: what an operation does. ``admits``: each argument, and how it is admitted."""

    does: int
    admits: Mapping[str, _Admit]


class Served(Access):
    """Access to what is below one directory.

    ``mode``: one of :data:`MODES`.
    ``engine``: the fingerprint of the engine that answers.
    ``version``: of what is installed, for people.
    """

    def __init__(self, root: Root, mode: str, engine: str, version: str) -> None:
        self.root = root
        self.mode = mode
        self.told: dict[str, Any] = {"mode": mode, "engine": engine, "version": version}
        self.only_new: bool = mode == "append-only"
        self.at = "."
        """The path of the destination of the call that is looked at."""

    def greeted(self, hello: dict[str, Any]) -> None:
        """Raise ProtocolError for a client with another engine."""
        assert self.told is not None
        if hello.get("engine") != self.told["engine"]:
            raise ProtocolError(f"the client is not of the version that is installed here, {self.told['version']}")

    def call(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of an operation as it is to use them. Raises OutsideError, OSError."""
        return self._admit(OPERATIONS.get(operation), operation, given)

    def query(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of a query, as :meth:`call`."""
        return self._admit(QUERIES.get(query), query, given)

    def wanted(self, path: str) -> str:
        """Return the path of a file that a transfer wants, as :meth:`call`."""
        return self.root.within(path)

    def _admit(self, rule: Rule | None, name: str, given: dict[str, Any]) -> dict[str, Any]:
        if rule is None:
            raise OSError(errno.EPERM, f"{name!r} {_NOT_FOR_IT}")
        if rule.does > MODES[self.mode]:
            raise OSError(errno.EPERM, f"this key is {self.mode}")
        for argument in given:
            if argument not in rule.admits:
                raise OSError(errno.EPERM, f"{name!r} with {argument!r} {_NOT_FOR_IT}")
        return {argument: admit(self, given[argument]) for argument, admit in rule.admits.items() if argument in given}

    def option(self, path: str) -> str:
        """Return a path that an option of rsync gives, as :func:`of_option` of the destination."""
        return of_option(self.root, path, self.at, _TOP)


def of_option(root: Root, path: str, at: str, top: str) -> str:
    """Return a path that an option of rsync gives: relative to the destination ``at``, unless absolute.

    ``top``: how the root is called.

    Raises OutsideError, OSError.
    """
    if path.startswith(("/", "~")):
        return os.path.join(top, root.within(path))
    if ".." in path.split("/"):
        raise OutsideError(path)
    root.within(os.path.join(at, path))
    return path


def _as_it_is(served: Served, value: Any) -> Any:
    return value


def _path(served: Served, value: str) -> str:
    return served.root.within(value)


def _paths(served: Served, value: list[str]) -> list[str]:
    return [served.root.within(path) for path in value]


def _rows(served: Served, value: list[list[Any]]) -> list[list[Any]]:
    return [[served.root.within(path), *rest] for path, *rest in value]


def _name(served: Served, value: str) -> str:
    # The engine looks for it below what was opened, and follows no symlink.
    if value.startswith("/") or ".." in value.split("/"):
        raise OutsideError(value)
    return value


def _names(served: Served, value: list[str]) -> list[str]:
    return [_name(served, name) for name in value]


def _named_rows(served: Served, value: list[list[Any]]) -> list[list[Any]]:
    return [[_name(served, name), *rest] for name, *rest in value]


def _destination(served: Served, value: str) -> str:
    served.at = served.root.within(value)
    return served.at


def _opening(served: Served, value: list[Any]) -> list[Any]:
    opening = Opening(*value)
    return list(
        opening._replace(
            partial_dir=None if opening.partial_dir is None else served.option(opening.partial_dir),
            temp_dir=None if opening.temp_dir is None else served.option(opening.temp_dir),
            bases=[served.option(base) for base in opening.bases],
        )
    )


def _entry(served: Served, value: str) -> str:
    if "/" in value or value in ("", ".", ".."):
        raise OutsideError(value)
    served.root.within(os.path.join(served.at, value))
    return value


OPERATIONS: dict[str, Rule] = {
    "query": Rule(READ, {"query": _as_it_is, "arguments": _as_it_is}),
    "contents": Rule(READ, {"parts": _rows, "full": _as_it_is}),
    "directory": Rule(READ, {}),
    "scan": Rule(READ, {"path": _path, "options": _as_it_is, "measured": _as_it_is, "zeros": _as_it_is}),
    "layers": Rule(READ, {"path": _path, "holes": _as_it_is}),
    "checksums": Rule(READ, {"path": _path, "block": _as_it_is, "holes": _as_it_is}),
    "manifest": Rule(
        READ, {"path": _path, **dict.fromkeys(("full", "holes", "rules", "attributes"), _as_it_is)}
    ),
    "digests": Rule(READ, {"path": _path, "block": _as_it_is, "ranges": _named_rows}),
    "look": Rule(READ, {"files": _rows, "settings": _as_it_is}),
    "mode": Rule(READ, {"path": _path}),
    "measure": Rule(READ, {"path": _path, "settings": _as_it_is}),
    "extents": Rule(READ, {"path": _path, "name": _as_it_is, "settings": _as_it_is}),
    "send": Rule(
        READ, {"settings": _as_it_is, "sparse": _as_it_is, "compressor": _as_it_is, "bwlimit": _as_it_is}
    ),
    "find": Rule(READ, {"path": _destination, "opening": _opening}),
    "open": Rule(ADD, {"path": _destination, "opening": _opening}),
    "open_copy": Rule(ADD, {"path": _destination, "name": _entry, "options": _as_it_is}),
    "expect": Rule(ADD, {"needs": _named_rows}),
    "space": Rule(READ, {}),
    "touch": Rule(CHANGE, {"names": _names}),
    "states": Rule(READ, {"names": _names}),
    "dig": Rule(CHANGE, {"name": _name, "size": _as_it_is, "holes": _as_it_is, "asks": _as_it_is}),
    "receive": Rule(ADD, {}),
}  # fmt: skip
"""What of :data:`sparsesync.engine.agent.OPERATIONS` is allowed."""

QUERIES: dict[str, Rule] = {
    "sizes": Rule(READ, {"paths": _paths}),
    "sparse": Rule(READ, {"paths": _paths}),
}
"""What of :data:`sparsesync.engine.queries.registry.QUERIES` is allowed."""
