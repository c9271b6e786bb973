"""Frames and answers as an honest end gives them, what none of their fields may be, and an agent that lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Callable

from sparsesync.engine.content.compare import Tally
from sparsesync.hosts.remote import There
from sparsesync.hosts.transfer import Settings
from sparsesync.hosts.transfer_remote import Pull, Push

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
    "id": 1, "left": "no", "no_space": None, "data": 0, "sent": 0, "errno": None, "at_source": False,
    "allocated": 0,
}  # fmt: skip
ERROR: dict[str, Any] = {"errno": 2, "strerror": "no", "filename": None, "value": False}


class Liar:
    """An agent that has one answer for everything, as call and as items."""

    host = "far"

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = answers

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.answers[-1]

    def items(self, op: str, on_trouble: Any = None, **arguments: Any) -> Iterator[dict[str, Any]]:
        return iter([*self.answers, {"read": 0, "believed": 0} if op == "manifest" else {}])


LOOKED = [[9, 1, 1, 0, False, 0, 1]]
SCANNED: dict[str, Any] = {
    "path": "/x", "stat": [0o100644, 1, 1, 1, 0, 0, 9, 0, 0, 0], "size": 9, "allocated": 0, "data": 0, "extents": 0,
}  # fmt: skip


def rows(good: list[Any], *bad: list[Any]) -> list[Any]:
    """A row with each of its parts wrong in every way, and of another length."""
    wrong = [[*good[:at], value, *good[at + 1 :]] for at, values in enumerate(bad) for value in optional(values)]
    return [*wrong, good[:-1], [*good, 1], None, 1, "x", {}]


ANSWERS: dict[str, tuple[Callable[[Any], object], dict[str, Any], dict[str, Sequence[Any]]]] = {
    "stat": (lambda liar: Pull(liar, Settings()).source_mode("x"), {"mode": None, "exists": False},
             {"mode": [*optional(NUMBER), 1 << 16], "exists": FLAG}),
    "look": (lambda liar: list(Pull(liar, Settings()).look([("x", "x")])), {"found": LOOKED},
             {"found": [*NONE, 1, {}, [], [None, None],
                        *([row] for row in rows(LOOKED[0], SIZE, SIZE, SIZE, SIGNED, FLAG, SIZE, SIZE) if row)]}),
    "measure": (lambda liar: Pull(liar, Settings()).measure("x"), {"size": 1, "data": 1}, {"size": SIZE, "data": SIZE}),
    "space": (lambda liar: Push(liar, Settings()).space(), {"space": [[1, 2, "/"]]},
              {"space": [*NONE, 1, {}, *([row] for row in rows([1, 2, "/"], ["1", True, 1.0, 1 << 63], SIZE, NAME))]}),
    "states": (lambda liar: list(Push(liar, Settings()).states(["x"])), {"states": [[1, 2]]},
               {"states": [*NONE, 1, {}, [], [None, None], *([row] for row in rows([1, 2], SIZE, SIGNED) if row)]}),
    "copy_place": (lambda liar: Push(liar, Settings()).open_copy("x", "x"), {"path": "/x"}, {"path": NAME}),
    "directory": (lambda liar: There(liar).directory(), {"path": "/x"}, {"path": NAME}),
    "scan": (lambda liar: list(There(liar).scan("/x")), SCANNED, {
        "path": [*NAME, "/etc/passwd"], "size": SIZE, "allocated": SIZE, "data": SIZE, "extents": SIZE,
        "stat": rows(SCANNED["stat"], [*NUMBER, 1 << 16], *[NUMBER] * 5, SIZE, *[SIGNED] * 3)}),
    "contents": (lambda liar: There(liar).contents([("x", 0, 1)], False), {"digests": [[9, 9, "0" * 32, 9]]},
                 {"digests": [*NONE, 1, {}, [], *([row] for row in rows(
                     [9, 9, "0" * 32, 9], SIZE, SIZE, [*TEXT, "0" * 31, "0" * 33, "G" * 32, "\uff10" * 32], SIZE))]}),
    "digests": (lambda liar: list(There(liar).digests("/", 65536, [("x", 0, 9)], None)), {"digests": "0" * 32},
                {"digests": [*TEXT, "0" * 31, "0" * 33, "G" * 32]}),
    "manifest": (lambda liar: list(There(liar).manifest("/", False, "auto", Tally())),
                 {"events": [["e", "", "-", 9, "", 0]]},
                 {"events": [1, {}, "x", [1], [[]], [["x", ""]], [["d", 1]], [["d", "../x"]], [["b", 1]], [["b", "!"]],
                             *([row] for row in rows(["e", "", "-", 9, "", 0], NUMBER, [*NAME, "x"],
                                                     [*TEXT, "", "--", "z"], SIZE, [*NONE, 1, "x" * 4097], NUMBER))]}),
    "preset": (lambda liar: There(liar).preset("docker", "/x"), {"places": [["/x", "/x/y", "/*", "why"]]},
               {"places": [*NONE, 1, {}, *([row] for row in rows(
                   ["/x", "/x/y", "/*", "why"], [*NAME, "/y"], NAME, [*TEXT, "/x\n", "A"], TEXT))]}),
    "host": (lambda liar: There(liar).ask("host"), {"answer": ["L", "3.11", "3.2.7", True, [], "x"]},
             {"answer": [*rows(["L", "3.11", "3.2.7", True, [], "x"], TEXT, TEXT, [1, True, "x", "3.x", "9" * 9, ""],
                               FLAG, [*NONE, 1, {}, "x", [1], ["\ud800"]], TEXT), MISSING]}),
    "in_use": (lambda liar: There(liar).ask("in_use"), {"answer": [[["/a", "loop", "x", 1]], 0]},
               {"answer": [MISSING, [[], -(1 << 64)], *([[row], 0] for row in rows(
                   ["/a", "loop", "x", 1], NAME[2:7], [*TEXT, "odd"], TEXT, NUMBER[2:6]))]}),
    "identity": (lambda liar: There(liar).ask("identity"), {"answer": [[1, 2]]},
                 {"answer": [[[1]], [[1, 2, 3]], [1, 2]]}),
    "sizes": (lambda liar: There(liar).ask("sizes", paths=["a"]), {"answer": [[[1, 2]]]},
              {"answer": [[[]], [[[1]]], [[[1, 2, 3]]], [[None, None]]]}),
    "sparse": (lambda liar: There(liar).ask("sparse", paths=["a"]), {"answer": [[True]]},
               {"answer": [[[]], [[1]], [[True, True]]]}),
    "suggested": (lambda liar: There(liar).ask("suggested"), {"answer": ["docker"]},
                  {"answer": [["podman"], [1], [None]]}),
}  # fmt: skip
