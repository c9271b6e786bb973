"""An agent on another host as an end: the operations of :class:`ends.Here`, asked over a connection.

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

from .ends import Range, Scanned
from .engine.ask import QUESTIONS
from .engine.manifest import DIGEST, Event, Reader
from .engine.presets import Place
from .engine.protocol import ProtocolError, get, get_name, get_size, is_name
from .engine.scan import OnError, Sparse

if TYPE_CHECKING:
    from .engine.bmap import Run
    from .engine.delta import Tally
    from .engine.extents import Layer
    from .ssh import Agent


class There:
    """An agent on another host. The operations are those of :class:`Here`."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def scan(
        self, path: str, *, measured: bool = False, holes: str = "auto", on_error: OnError = None, **options: Any
    ) -> Iterator[Scanned]:
        with self._naming():
            for item in self.agent.items("scan", on_error, path=path, measured=measured, holes=holes, **options):
                if not item:
                    return
                found, stat = get_name(item, "path"), get(item, "stat", list)
                size, allocated, data, count = (get_size(item, key) for key in ("size", "allocated", "data", "extents"))
                if found != path and not found.startswith(path if path.endswith("/") else path + "/"):
                    raise ProtocolError("a file is not below the path that was scanned")
                if len(stat) != 10 or any(type(part) is not int or part.bit_length() > 64 for part in stat):
                    raise ProtocolError("a file's stat is none")
                st = os.stat_result(stat, {"st_blocks": allocated // 512})
                yield Scanned(Sparse(found, size, allocated, st), data, count)

    @contextlib.contextmanager
    def layers(self, path: str, holes: str) -> Iterator[tuple[int, Iterator[Layer]]]:
        size, parts = self._mapped([int, int, bool], "layers", path=path, holes=holes)
        yield size, self._ordered(parts, size, _extent)

    @contextlib.contextmanager
    def checksums(self, path: str, block: int, holes: str) -> Iterator[tuple[int, Iterator[Run]]]:
        size, parts = self._mapped([int, int, str], "checksums", path=path, block=block, holes=holes)
        yield size, self._ordered(parts, -(-size // block), _run)

    def preset(self, preset: str, source: str) -> list[Place]:
        with self._naming():
            places = get(self.agent.call("preset", preset=preset, sources=[source]), "places", list)
            for place in places:
                if type(place) is not list or [type(part) for part in place] != [str] * len(Place._fields):
                    raise ProtocolError("a place of a preset that is none")
                if place[0] != source or not is_name(place[1]) or not re.fullmatch("[a-z/*]*", place[2]):
                    raise ProtocolError("a place that no preset has")
        return [Place(*place) for place in places]

    def directory(self) -> str:
        with self._naming():
            return get_name(self.agent.call("directory"), "path")

    def ask(self, question: str, **arguments: Any) -> Any:
        room = import_module(QUESTIONS[question], "sparsesync.engine")
        kind = get_type_hints(getattr(room, question))["return"]
        with self._naming():
            return _answer(kind, get(self.agent.call("ask", question=question, arguments=arguments), "answer", list))

    @contextlib.contextmanager
    def locked(self, path: str, parents: bool) -> Iterator[None]:
        self.agent.call("lock", path=path, parents=parents)
        yield  # it ends with the agent

    def contents(self, parts: list[Range], full: bool) -> list[list[Any]]:
        with self._naming():
            found = get(self.agent.call("contents", parts=parts, full=full), "digests", list)
            if len(found) != len(parts):
                raise ProtocolError("digests are missing")
            for each in found:
                if type(each) is not list or [type(part) for part in each] != [int, int, str, int]:
                    raise ProtocolError("a digest that is none")
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
                    tally.read += get_size(item, "read")
                    tally.believed += get_size(item, "believed")
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
                text = get(item, "digests", str, optional=True)
                if text is None and troubles == before:
                    raise ProtocolError("digests are missing")
                yield None if text is None else _unhex(text, -(-length // block) * DIGEST)
            if next(items, {}):
                raise ProtocolError("more digests than were asked for")

    def _mapped(self, types: list[type], op: str, **arguments: Any) -> tuple[int, Iterator[Any]]:
        """The size of a file, and the parts of it that an operation lists."""
        items = self.agent.items(op, **arguments)

        def parts() -> Iterator[Any]:
            for item in items:
                for part in get(item, "parts", list) if item else []:
                    if type(part) is not list or [type(field) for field in part] != types:
                        raise ProtocolError("a part of a file that is none")
                    yield part

        with self._naming():
            return get_size(next(items), "size"), parts()

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

    @contextlib.contextmanager
    def _naming(self) -> Iterator[None]:
        """Name the host in what is said of its answers."""
        try:
            yield
        except ProtocolError as error:
            raise ProtocolError(f"{self.agent.host}: {error}") from None


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
    if type(value) is not kind:
        raise ProtocolError("an answer that is none")
    return value


def _extent(part: list[Any]) -> tuple[int, int]:
    return part[0], part[0] + part[1]


def _run(part: list[Any]) -> tuple[int, int]:
    _unhex(part[2], 32)
    return part[0], part[1] + 1


def _unhex(text: str, size: int) -> bytes:
    if len(text) != 2 * size or not re.fullmatch("[0-9a-f]*", text):
        raise ProtocolError("a digest that is none")
    return bytes.fromhex(text)
