"""Frames and answers as an honest end gives them, what none of their fields may be, and an agent that lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Callable

from sparsesync.engine.content.compare import Tally
from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.engine.roles import Opening, SourceSettings
from sparsesync.engine.tree.scan import ScanOptions
from sparsesync.hosts.remote import RemoteDestination, RemoteHost, RemoteSource

MISSING = object()

# What each kind of field may not be.
NONE = [MISSING, None]
NUMBER = [*NONE, "1", True, 1.0, [1], {}, -1, 1 << 64]
SIZE = [*NUMBER, 1 << 63]
SIGNED = [*NONE, "1", True, 1.0, [1], {}, 1 << 94, -(1 << 94)]
FLAG = [*NONE, 0, 1, "", "true", [], {}]
NAME = [*NONE, 1, True, [], {}, "a\0b", "\ud800", "x" * 4097]
TEXT = [*NONE, 1, True, [], {}, "x" * 8193]


def optional(bad: list[Any]) -> list[Any]:
    return [value for value in bad if value is not MISSING and value is not None]


FILE: dict[str, Any] = {
    "id": 1, "name": "f", "size": 8192, "data": 4096, "mode": 0o644, "mtime_ns": 0, "parents": [], "attributes": None,
}  # fmt: skip
CLOSED: dict[str, Any] = {
    "id": 1, "reason": "no", "space": None, "data": 0, "sent": 0, "errno": None, "at_source": False,
    "allocated": 0,
}  # fmt: skip
ERROR: dict[str, Any] = {"errno": 2, "strerror": "no", "filename": None, "value": False}


class Liar:
    """An agent that has one answer for everything, as call and as items."""

    host = "far"
    prefix = "far:"
    op = "any"

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = answers

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.answers[-1]

    def post(self, op: str, **arguments: Any) -> Any:
        return SimpleNamespace(get=lambda: self.answers[-1])

    def items(self, op: str, on_trouble: Any = None, **arguments: Any) -> Iterator[dict[str, Any]]:
        return iter([*self.answers, {"read": 0, "believed": 0} if op == "manifest" else {}])


LOOKED = [[9, 1, 1, 0, False, 0, 1]]
SCANNED: dict[str, Any] = {
    "path": "/x", "stat": [0o100644, 1, 1, 1, 0, 0, 9, 0, 0, 0], "size": 9, "allocated": 0, "data": 0, "extents": 0,
    "zeros": 0,
}  # fmt: skip


def rows(good: list[Any], *bad: list[Any]) -> list[Any]:
    """A row with each of its parts wrong in every way, and of another length."""
    wrong = [[*good[:at], value, *good[at + 1 :]] for at, values in enumerate(bad) for value in optional(values)]
    return [*wrong, good[:-1], [*good, 1], None, 1, "x", {}]


def source(liar: Any) -> RemoteSource:
    return RemoteHost(liar).source(SourceSettings())


def destination(liar: Any) -> RemoteDestination:
    return RemoteHost(liar).destination()


ANSWERS: dict[str, tuple[Callable[[Any], object], dict[str, Any], dict[str, Sequence[Any]]]] = {
    "mode": (lambda liar: source(liar).ask_mode("x")(), {"answer": None}, {"answer": [*optional(NUMBER), 1 << 16]}),
    "look": (lambda liar: list(source(liar).look([("x", "x")])), {"answer": LOOKED},
             {"answer": [*NONE, 1, {}, [], [None, None],
                         *([row] for row in rows(LOOKED[0], SIZE, SIZE, SIZE, SIGNED, FLAG, SIZE, SIZE) if row)]}),
    "measure": (lambda liar: source(liar).measure("x"), {"answer": [1, 1]}, {"answer": rows([1, 1], SIZE, SIZE)}),
    "open": (lambda liar: destination(liar).open("x", Opening(True, True)), {"answer": None}, {"answer": TEXT[2:]}),
    "find": (lambda liar: destination(liar).find("x", Opening(True, True)), {"answer": None}, {"answer": TEXT[2:]}),
    "space": (lambda liar: destination(liar).space(), {"answer": [[1, 2, "/"]]},
              {"answer": [*NONE, 1, {}, *([row] for row in rows([1, 2, "/"], ["1", True, 1.0, 1 << 63], SIZE, NAME))]}),
    "states": (lambda liar: list(destination(liar).states(["x"])), {"answer": [[1, 2, 3, 4, 5, 6]]},
               {"answer": [*NONE, 1, {}, [], [None, None], *([row] for row in rows([1, 2], SIZE, SIGNED) if row)]}),
    "open_copy": (
        lambda liar: destination(liar).open_copy("x", "x", CopyOptions()), {"answer": "/x"}, {"answer": NAME},
    ),
    "directory": (lambda liar: RemoteHost(liar).directory(), {"answer": "/x"}, {"answer": NAME}),
    "scan": (lambda liar: list(RemoteHost(liar).scan("/x", ScanOptions())), SCANNED, {
        "path": [*NAME, "/etc/passwd"], "size": SIZE, "allocated": SIZE, "data": SIZE, "extents": SIZE, "zeros": SIZE,
        "stat": rows(SCANNED["stat"], [*NUMBER, 1 << 16], *[NUMBER] * 5, SIZE, *[SIGNED] * 3)}),
    "contents": (lambda liar: RemoteHost(liar).contents([("x", 0, 1)], False), {"answer": [[9, 9, "0" * 32, 9]]},
                 {"answer": [*NONE, 1, {}, [], *([row] for row in rows(
                     [9, 9, "0" * 32, 9], SIZE, SIZE, [*TEXT, "0" * 31, "0" * 33, "G" * 32, "\uff10" * 32], SIZE))]}),
    "digests": (lambda liar: list(RemoteHost(liar).digests("/", 65536, [("x", 0, 9)], None)), {"digests": "0" * 32},
                {"digests": [*TEXT, "0" * 31, "0" * 33, "G" * 32]}),
    "manifest": (lambda liar: list(RemoteHost(liar).manifest("/", False, "auto", Tally(), None, False)),
                 {"events": [["e", "", "-", 9, "", 0]]},
                 {"events": [1, {}, "x", [1], [[]], [["x", ""]], [["d", 1]], [["d", "../x"]], [["b", 1]], [["b", "!"]],
                             *([row] for row in rows(["e", "", "-", 9, "", 0], NUMBER, [*NAME, "x"],
                                                     [*TEXT, "", "--", "z"], SIZE, [*NONE, 1, "x" * 4097], NUMBER))]}),
    "preset": (lambda liar: RemoteHost(liar).preset("docker", "/x"), {"answer": [["/x", "/x/y", "/*", "why"]]},
               {"answer": [*NONE, 1, {}, *([row] for row in rows(
                   ["/x", "/x/y", "/*", "why"], [*NAME, "/y"], NAME, [*TEXT, "/x\n", "A"], TEXT))]}),
    "host": (lambda liar: RemoteHost(liar).query("host"), {"answer": ["L", "3.11", "3.2.7", True, "x"]},
             {"answer": [*rows(["L", "3.11", "3.2.7", True, "x"], TEXT, TEXT, [1, True, "x", "3.x", "9" * 9, ""],
                               FLAG, TEXT), MISSING]}),
    "kernel": (lambda liar: RemoteHost(liar).query("kernel"), {"answer": ["6.1", [["a", "b"]], ["c"]]},
               {"answer": [*rows(["6.1", [["a", "b"]], ["c"]], TEXT, [*NONE, 1, {}, "x", [1], [["a"]]],
                                 [*NONE, 1, {}, "x", [1], ["\ud800"]]), MISSING]}),
    "in_use": (lambda liar: RemoteHost(liar).query("in_use"), {"answer": [[["/a", "loop", "x", 1]], 0]},
               {"answer": [MISSING, [[], -(1 << 64)], *([[row], 0] for row in rows(
                   ["/a", "loop", "x", 1], NAME[2:7], [*TEXT, "odd"], TEXT, NUMBER[2:6]))]}),
    "identity": (lambda liar: RemoteHost(liar).query("identity"), {"answer": [[1, 2]]},
                 {"answer": [[[1]], [[1, 2, 3]], [1, 2]]}),
    "sizes": (lambda liar: RemoteHost(liar).query("sizes", paths=["a"]), {"answer": [[[1, 2]]]},
              {"answer": [[[]], [[[1]]], [[[1, 2, 3]]], [[None, None]]]}),
    "sparse": (lambda liar: RemoteHost(liar).query("sparse", paths=["a"]), {"answer": [[True]]},
               {"answer": [[[]], [[1]], [[True, True]]]}),
    "suggested": (lambda liar: RemoteHost(liar).query("suggested"), {"answer": ["docker"]},
                  {"answer": [["docker,"], ["Docker"], [""], [1], [None]]}),
}  # fmt: skip
