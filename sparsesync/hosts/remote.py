"""An agent on another host as an end: the operations of :class:`pool.Here`, asked over a connection.

An agent's answers are checked here for type, order and sense, before anybody builds on them. What is wrong with one
is a ProtocolError that names the host. Nothing that an agent says is kept: what comes is checked and handed on.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, get_args, get_origin, get_type_hints

from ..engine.errors import OnError, ProtocolError
from ..engine.queries.presets import Place
from ..engine.queries.registry import QUESTIONS
from ..engine.tree.manifest import DIGEST, Event
from ..engine.tree.manifest_wire import Reader
from ..engine.tree.scan import Sparse
from ..engine.wire.fields import (
    LONGEST_TEXT,
    NAME,
    SIZE,
    STAT,
    Check,
    digits,
    flag,
    get,
    integer,
    listed,
    maybe,
    name,
    one_of,
    row,
    text,
)
from .pool import Range, Scanned
from .ssh import named

if TYPE_CHECKING:
    from ..engine.content.compare import Tally
    from ..engine.files.extents import Layer
    from ..engine.tree.block_map import Run
    from .ssh import Agent


class There:
    """An agent on another host. The operations are those of :class:`Here`."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def scan(
        self, path: str, *, measured: bool = False, holes: str = "auto", on_error: OnError = None, **options: Any
    ) -> Iterator[Scanned]:
        told = 0
        with self._naming():
            for item in self.agent.items("scan", on_error, path=path, measured=measured, holes=holes, **options):
                if not item:
                    return
                found, stat = get(item, "path", NAME), get(item, "stat", STAT)
                size, allocated, data, count = [get(item, key, SIZE) for key in _SIZES]
                told += len(found)
                if told > _MOST_TOLD:
                    raise ProtocolError("more files than any filesystem has")
                if found != path and not found.startswith(path if path.endswith("/") else path + "/"):
                    raise ProtocolError("a file is not below the path that was scanned")
                st = os.stat_result(stat, {"st_blocks": allocated // 512})
                yield Scanned(Sparse(found, size, allocated, st), data, count)

    @contextlib.contextmanager
    def layers(self, path: str, holes: str) -> Iterator[tuple[int, Iterator[Layer]]]:
        size, parts = self._mapped(row(SIZE, SIZE, flag), "layers", path=path, holes=holes)
        yield size, self._ordered(parts, size, _extent)

    @contextlib.contextmanager
    def checksums(self, path: str, block: int, holes: str) -> Iterator[tuple[int, Iterator[Run]]]:
        size, parts = self._mapped(row(SIZE, SIZE, digits(32)), "checksums", path=path, block=block, holes=holes)
        yield size, self._ordered(parts, -(-size // block), _run)

    def preset(self, preset: str, source: str) -> list[Place]:
        with self._naming():
            answer = self.agent.call("preset", preset=preset, sources=[source])
            places = get(answer, "places", listed(row(one_of(source), NAME, text(40), text(200))))
            if not all(re.fullmatch("[a-z/*]*", place[2]) for place in places):
                raise ProtocolError("a place that no preset has")
        return [Place(*place) for place in places]

    def directory(self) -> str:
        with self._naming():
            return str(get(self.agent.call("directory"), "path", NAME))

    def ask(self, question: str, **arguments: Any) -> Any:
        room = import_module(QUESTIONS[question], "sparsesync.engine.queries")
        kind = get_type_hints(getattr(room, question))["return"]
        with self._naming():
            value = self.agent.call("ask", question=question, arguments=arguments)
            answer = _answer(kind, value.get("answer"))
            if question in _SENSE and not _SENSE[question](answer, arguments):
                raise ProtocolError("an answer that makes no sense")
            return answer

    @contextlib.contextmanager
    def locked(self, path: str, parents: bool) -> Iterator[None]:
        self.agent.call("lock", path=path, parents=parents)
        yield  # it ends with the agent

    def contents(self, parts: list[Range], full: bool) -> list[list[Any]]:
        with self._naming():
            answer = self.agent.call("contents", parts=parts, full=full)
            found = get(answer, "digests", listed(row(SIZE, SIZE, digits(DIGEST), SIZE)))
            if len(found) != len(parts):
                raise ProtocolError("digests are missing")
        return list(found)

    def manifest(self, root: str, full: bool, holes: str, tally: Tally) -> Iterator[Event]:
        reader = Reader()
        # A trouble stands between two items; the reader refuses a second one there.
        troubles: list[Event] = []

        def trouble(error: OSError) -> None:
            troubles.append(reader.trouble(error))

        with self._naming():
            for item in self.agent.items("manifest", trouble, path=root, full=full, holes=holes):
                yield from troubles
                troubles.clear()
                if "events" in item:
                    yield from reader.item(item)
                else:
                    tally.read += get(item, "read", SIZE)
                    tally.believed += get(item, "believed", SIZE)
            reader.ended()

    def digests(self, root: str, block: int, ranges: list[Range], on_error: OnError) -> Iterator[bytes | None]:
        troubles = 0

        def trouble(error: OSError) -> None:
            nonlocal troubles
            troubles += 1
            if on_error is None:
                raise error
            on_error(error)

        items = self.agent.items("digests", trouble, path=root, block=block, ranges=ranges)
        with self._naming():
            for _, _, length in ranges:
                before = troubles
                item = next(items, {})
                found = get(item, "digests", maybe(digits(-(-length // block) * DIGEST)))
                if troubles - before != (found is None):
                    raise ProtocolError("digests are missing")
                yield None if found is None else bytes.fromhex(found)
            if next(items, {}):
                raise ProtocolError("more digests than were asked for")

    def _mapped(self, check: Check, op: str, **arguments: Any) -> tuple[int, Iterator[Any]]:
        """The size of a file, and the parts of it that an operation lists."""
        items = self.agent.items(op, **arguments)

        def parts() -> Iterator[Any]:
            for item in items:
                yield from get(item, "parts", listed(check)) if item else []

        with self._naming():
            return get(next(items), "size", SIZE), parts()

    def _ordered(self, parts: Iterator[Any], limit: int, span: Callable[[Any], tuple[int, int]]) -> Iterator[Any]:
        """The parts as tuples. Raises ProtocolError unless each begins where there is room and ends by the limit."""
        end = 0
        with self._naming():
            for part in parts:
                start, stop = span(part)
                if not end <= start < stop <= limit:
                    raise ProtocolError("parts of a file that are not in order")
                end = stop
                yield tuple(part)

    def _naming(self) -> contextlib.AbstractContextManager[None]:
        return named(self.agent.host)


_MOST_TOLD = 1 << 31
"""Characters in the names of files that a scan finds: they wait on a disk until there are no more."""

_SIZES = ("size", "allocated", "data", "extents")

_ANSWERED: dict[Any, Check] = {int: integer(-(1 << 63), (1 << 64) - 1), str: name(LONGEST_TEXT), bool: flag}
"""What the parts of an answer may be, whatever they are for."""

_LETTER = one_of("", "?", *"-dlbcpsDPw")
_SENSE: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "host": lambda host, _: host.rsync is None or bool(re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,3}", host.rsync)),
    "identity": lambda identity, _: len(identity.numbers) == 2,
    "in_use": lambda used, _: all(each.how in ("loop", "swap", "writing", "overlay") for each in used.found),
    "probe": lambda probe, _: _LETTER(probe.kind),
    "sizes": lambda sizes, asked: (
        len(sizes.found) == len(asked["paths"]) and all(pair is None or len(pair) == 2 for pair in sizes.found)
    ),
    "sparse": lambda sparse, asked: len(sparse.found) == len(asked["paths"]),
    "suggested": lambda suggested, _: suggested.preset in ("system", "docker", "none"),
    "survey": lambda survey, _: (
        _LETTER(survey.kind) and all(len(pair) == 2 for pair in [*survey.mounts, *survey.clashes])
    ),
}
"""Whether an answer of the right type makes sense, given what was asked."""


def _answer(kind: Any, value: Any) -> Any:
    """``value``, which JSON carried, as the type a question's answer has. Raises ProtocolError."""
    if hasattr(kind, "_fields"):
        fields = get_type_hints(kind)
        if not isinstance(value, list) or len(value) != len(fields):
            raise ProtocolError("an answer to another question")
        return kind(*(_answer(each, part) for each, part in zip(fields.values(), value)))
    inner = get_args(kind)
    if get_origin(kind) is list and isinstance(value, list):
        return [_answer(inner[0], each) for each in value]
    if type(None) in inner:
        return None if value is None else _answer(inner[0], value)
    if kind not in _ANSWERED or not _ANSWERED[kind](value):
        raise ProtocolError("an answer that is none")
    return value


def _extent(part: list[Any]) -> tuple[int, int]:
    return part[0], part[0] + part[1]


def _run(part: list[Any]) -> tuple[int, int]:
    return part[0], part[1] + 1
