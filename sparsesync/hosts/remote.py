"""A host that is reached over a connection: the methods of a :class:`~..engine.host.LocalHost`, asked of an agent.

An agent's answers are checked here for type, order and sense, before anybody builds on them. What is wrong with one
is a ProtocolError that names the host. Nothing that an agent says is kept: what comes is checked and handed on.

Source and destination are its two roles in a transfer. What they are asked in a row, the connection sends in a row
(:meth:`~.ssh.Connection.post`), and waits once for all of it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Callable, get_args, get_origin, get_type_hints

from ..engine.errors import OnError, ProtocolError
from ..engine.files.dig import Dug
from ..engine.files.status import SparseStat
from ..engine.host import Range, Scanned
from ..engine.queries.registry import QUERIES
from ..engine.roles import Opening, SourceSettings
from ..engine.transfer.records import Space, SpaceNeed
from ..engine.tree.manifest import DIGEST_BYTES, Event
from ..engine.tree.manifest_wire import Reader
from ..engine.tree.scan import ScanOptions, Sparse
from ..engine.wire.fields import (
    MAX_TEXT_CHARACTERS,
    MODE,
    NAME,
    SIZE,
    STAT,
    TEXT,
    TIME,
    UNSIGNED,
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
from ..engine.wire.protocol import LARGEST
from .ssh import named

if TYPE_CHECKING:
    from ..engine.content.compare import Tally
    from ..engine.content.copy_file import CopyOptions
    from ..engine.files.extents import Extent, Layer
    from ..engine.queries.presets import ExcludedPath
    from ..engine.tree.block_map import Run
    from ..engine.wire.capabilities import Digest
    from .ssh import Answer, Connection

_BATCH_BYTES = 256 * 1024

_LOOKED = row(SIZE, SIZE, SIZE, TIME, flag, SIZE, SIZE)
_STATE = row(SIZE, TIME, UNSIGNED, SIZE, TIME, TIME)
_GROWTH = integer(-LARGEST, LARGEST)
"""Bytes that are needed; fewer than none where what is replaced takes more."""


class RemoteHost:
    """Another host, connected. Its operations are those of :class:`~..engine.host.LocalHost`."""

    def __init__(
        self, connection: Connection, user: str | None = None, leave: Callable[[], object] = lambda: None
    ) -> None:
        self.connection = connection
        self.leave = leave
        self.user = user

    @property
    def name(self) -> str:
        """The name of the host in messages."""
        return self.connection.host

    @property
    def digest(self) -> Digest:
        """The digest that content is compared by."""
        return self.connection.digest

    def _call(self, check: Check, op: str, **arguments: Any) -> Any:
        with named(self.name):
            return get(self.connection.call(op, **arguments), "answer", check)

    def scan(
        self, path: str, options: ScanOptions, *, measured: bool = False, zeros: bool = False, on_error: OnError = None
    ) -> Iterator[Scanned]:
        told = 0
        asked = {"options": options._replace(prune=list(options.prune)), "measured": measured, "zeros": zeros}
        with self._naming():
            for item in self.connection.items("scan", on_error, path=path, **asked):
                if not item:
                    return
                found, stat = get(item, "path", NAME), get(item, "stat", STAT)
                size, allocated, data, count, empty = [get(item, key, SIZE) for key in _SIZES]
                told += len(found)
                if told > _MAX_NAME_CHARACTERS:
                    raise ProtocolError("too many files in a scan")
                if found != path and not found.startswith(path if path.endswith("/") else path + "/"):
                    raise ProtocolError("a scanned file is not below the scanned path")
                st = os.stat_result(stat, {"st_blocks": allocated // 512})
                yield Scanned(Sparse(found, size, allocated, st), data, count, empty)

    @contextlib.contextmanager
    def layers(self, path: str, holes: str) -> Iterator[tuple[int, Iterator[Layer]]]:
        size, parts = self._mapped(row(SIZE, SIZE, flag), "layers", path=path, holes=holes)
        yield size, self._ordered(parts, size, _extent)

    @contextlib.contextmanager
    def checksums(self, path: str, block: int, holes: str) -> Iterator[tuple[int, Iterator[Run]]]:
        size, parts = self._mapped(row(SIZE, SIZE, digits(32)), "checksums", path=path, block=block, holes=holes)
        yield size, self._ordered(parts, -(-size // block), _run)

    def preset(self, preset: str, source: str) -> list[ExcludedPath]:
        # What it needs to know all stores is not what every command waits for.
        from ..engine.queries.presets import ExcludedPath

        kinds = listed(row(one_of(source), NAME, text(40), text(200)))
        places = self._call(kinds, "preset", preset=preset, source=source)
        with self._naming():
            if not all(re.fullmatch("[a-z0-9/*._~-]*", place[2]) for place in places):
                raise ProtocolError("an invalid path in a preset")
        return [ExcludedPath(*place) for place in places]

    def directory(self) -> str:
        return str(self._call(NAME, "directory"))

    def query(self, query: str, **arguments: Any) -> Any:
        module = import_module(QUERIES[query], "sparsesync.engine.queries")
        kind = get_type_hints(getattr(module, query))["return"]
        with self._naming():
            value = self.connection.call("query", query=query, arguments=arguments)
            answer = _answer(kind, value.get("answer"))
            if query in _SENSE and not _SENSE[query](answer, arguments):
                raise ProtocolError(f"an invalid answer to the query {query!r}")
            return answer

    @contextlib.contextmanager
    def locked(self, path: str, parents: bool) -> Iterator[None]:
        self.connection.call("lock", path=path, parents=parents)
        yield  # it ends with the agent

    def contents(self, parts: Sequence[Range], full: bool) -> list[list[Any]]:
        found = self._call(listed(row(SIZE, SIZE, digits(DIGEST_BYTES), SIZE)), "contents", parts=parts, full=full)
        with self._naming():
            if len(found) != len(parts):
                raise ProtocolError("digests are missing")
        return list(found)

    def manifest(
        self, root: str, full: bool, holes: str, tally: Tally, rules: Sequence[Any] | None, attributes: bool
    ) -> Iterator[Event]:
        asked = {"path": root, "full": full, "holes": holes, "rules": rules, "attributes": attributes}
        reader = Reader()
        # A trouble stands between two items; the reader refuses a second one there.
        troubles: list[Event] = []
        items = self.connection.items("manifest", lambda error: troubles.append(reader.trouble(error)), **asked)
        with self._naming():
            for item in items:
                yield from troubles
                troubles.clear()
                if "events" in item:
                    yield from reader.item(item)
                else:
                    tally.read += get(item, "read", SIZE)
                    tally.believed += get(item, "believed", SIZE)
            reader.ended()

    def digests(self, root: str, block: int, ranges: Sequence[Range], on_error: OnError) -> Iterator[bytes | None]:
        troubles = 0

        def trouble(error: OSError) -> None:
            nonlocal troubles
            troubles += 1
            if on_error is None:
                raise error
            on_error(error)

        items = self.connection.items("digests", trouble, path=root, block=block, ranges=ranges)
        with self._naming():
            for _, _, length in ranges:
                before = troubles
                item = next(items, {})
                found = get(item, "digests", maybe(digits(-(-length // block) * DIGEST_BYTES)))
                if troubles - before != (found is None):
                    raise ProtocolError("digests are missing")
                yield None if found is None else bytes.fromhex(found)
            if next(items, {}):
                raise ProtocolError("more digests than requested")

    def source(self, settings: SourceSettings) -> RemoteSource:
        return RemoteSource(self, settings)

    def destination(self, resume: bool = True) -> RemoteDestination:
        return RemoteDestination(self)

    def _mapped(self, check: Check, op: str, **arguments: Any) -> tuple[int, Iterator[Any]]:
        """Return the size of a file, and the parts of it that an operation lists."""
        items = self.connection.items(op, **arguments)
        with self._naming():
            return get(next(items), "size", SIZE), _parts(items, check)

    def _ordered(self, parts: Iterator[Any], limit: int, span: Callable[[Any], tuple[int, int]]) -> Iterator[Any]:
        """Yield the parts as tuples. Raises ProtocolError unless they are ascending and end by the limit."""
        end = 0
        with self._naming():
            for part in parts:
                start, stop = span(part)
                if not end <= start < stop <= limit:
                    raise ProtocolError("parts of a file out of order")
                end = stop
                yield tuple(part)

    def _naming(self) -> contextlib.AbstractContextManager[None]:
        return named(self.name)


class RemoteSource:
    """The source of a transfer on another host. Its operations are those of LocalSource."""

    def __init__(self, host: RemoteHost, settings: SourceSettings) -> None:
        self.host = host
        self.settings = settings

    def look(self, files: Iterable[tuple[str, str]], roughly: bool = False) -> Iterator[SparseStat | None]:
        for batch in _batches(files):
            yield from _each(self.host, batch, maybe(_LOOKED), SparseStat, "look", files=batch, settings=self.settings)

    def ask_mode(self, path: str) -> Callable[[], int | None]:
        answer = self.host.connection.post("mode", path=path)

        def mode() -> int | None:
            with named(self.host.name):
                found: int | None = get(answer.get(), "answer", maybe(MODE))
            return found

        return mode

    def measure(self, path: str) -> tuple[int, int]:
        size, data = self.host._call(row(SIZE, SIZE), "measure", path=path, settings=self.settings)
        return size, data

    def extents(self, path: str, name: str) -> Iterator[Extent]:
        items = self.host.connection.items("extents", path=path, name=name, settings=self.settings)
        with named(self.host.name):
            yield from self.host._ordered(_parts(items, row(SIZE, SIZE)), LARGEST, _extent)

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


class RemoteDestination:
    """The destination of a transfer on another host. Its operations are those of LocalDestination."""

    def __init__(self, host: RemoteHost) -> None:
        self.host = host
        self._expected: list[Answer] = []
        self._space: Answer | None = None
        self._as: tuple[str, Opening] | None = None

    def find(self, path: str, opening: Opening) -> str | None:
        found: str | None = self.host._call(maybe(TEXT), "find", path=path, opening=opening)
        return found

    def open(self, path: str, opening: Opening, needs: Iterable[SpaceNeed] = ()) -> str | None:
        # All that is asked of a destination before the first file, in one round trip.
        opened = self.host.connection.post("open", path=path, opening=opening)
        self.expect(needs)
        self._space = self.host.connection.post("space")
        with named(self.host.name):
            reason: str | None = get(opened.get(), "answer", maybe(TEXT))
        self._as = path, opening
        return reason

    def open_again(self) -> None:
        """Open the same destination with a new agent, if it could be opened."""
        if self._as is not None:
            self.host._call(maybe(TEXT), "open", path=self._as[0], opening=self._as[1])

    def open_copy(self, path: str, name: str, options: CopyOptions) -> str:
        return str(self.host._call(NAME, "open_copy", path=path, name=name, options=options))

    def expect(self, needs: Iterable[SpaceNeed]) -> None:
        self._space = None
        for batch in _batches((need.name, need.data) for need in needs):
            self._expected.append(self.host.connection.post("expect", needs=batch))

    def space(self) -> list[Space]:
        answer = self._space or self.host.connection.post("space")
        self._space = None
        with named(self.host.name):
            found = get(answer.get(), "answer", listed(row(_GROWTH, SIZE, NAME)))
            for expected in self._expected:
                expected.get()
        self._expected = []
        return [Space(needed, free, f"{self.host.connection.prefix}{path}") for needed, free, path in found]

    def touch(self, names: Sequence[str]) -> None:
        for batch in _batches(names):
            self.host.connection.call("touch", names=batch)

    def states(self, names: Sequence[str]) -> Iterator[tuple[int, ...] | None]:
        for batch in _batches(names):
            yield from _each(self.host, batch, maybe(_STATE), lambda *state: state, "states", names=batch)

    def dig(self, name: str, size: int, holes: Sequence[Extent], asks: bool) -> Dug:
        return Dug(*self.host._call(row(SIZE, maybe(TEXT)), "dig", name=name, size=size, holes=holes, asks=asks))

    def close(self) -> None:
        """Do nothing: the agent closes the destination when it ends."""


def _parts(items: Iterator[dict[str, Any]], check: Check) -> Iterator[Any]:
    """Yield the parts of a file that the items of an answer list."""
    for item in items:
        yield from get(item, "parts", listed(check)) if item else []


def _each(
    host: RemoteHost, batch: list[Any], check: Check, make: Callable[..., Any], op: str, **arguments: Any
) -> Iterator[Any]:
    """Yield an operation's answer for each item of a batch, or None if there is none."""
    found = host._call(listed(check), op, **arguments)
    if len(found) != len(batch):
        raise ProtocolError(f"answers for {len(found)} files of {len(batch)}", host.name)
    return (None if each is None else make(*each) for each in found)


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Items by the frameful, estimated by the length of their representation."""
    batch: list[Any] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(ascii(item))
        if size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_MAX_NAME_CHARACTERS = 1 << 31
"""Characters in the names of files that a scan finds: they wait on a disk until there are no more."""

_SIZES = ("size", "allocated", "data", "extents", "zeros")

_ANSWERED: dict[Any, Check] = {int: integer(-(1 << 63), (1 << 64) - 1), str: name(MAX_TEXT_CHARACTERS), bool: flag}
"""What the parts of an answer may be, whatever they are for."""

_LETTER = one_of("", "?", *"-dlbcpsDPw")
_SENSE: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "host": lambda host, _: host.rsync is None or bool(re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,3}", host.rsync)),
    "identity": lambda identity, _: len(identity.numbers) == 2,
    "in_use": lambda used, _: all(each.how in ("loop", "swap", "writing", "overlay") for each in used.found),
    "probe": lambda probe, _: _LETTER(probe.kind),
    "trial": lambda trial, asked: all(0 <= each.number < len(asked["examples"]) for each in trial.refused),
    "sizes": lambda sizes, asked: (
        len(sizes.found) == len(asked["paths"]) and all(pair is None or len(pair) == 2 for pair in sizes.found)
    ),
    "sparse": lambda sparse, asked: len(sparse.found) == len(asked["paths"]),
    "forbidden": lambda forbidden, asked: len(forbidden.reasons) == len(asked["paths"]),
    "suggested": lambda suggested, _: bool(re.fullmatch("[a-z]+(,[a-z]+)*", suggested.preset)),
    "survey": lambda survey, _: _LETTER(survey.kind) and all(len(row) == 3 for row in survey.mounts),
}
"""Whether an answer of the right type makes sense, given what was asked."""


def _answer(kind: Any, value: Any) -> Any:
    """``value``, which JSON carried, as the type a question's answer has. Raises ProtocolError."""
    if hasattr(kind, "_fields"):
        fields = get_type_hints(kind)
        if not isinstance(value, list) or len(value) != len(fields):
            raise ProtocolError("an answer to another query")
        return kind(*(_answer(each, part) for each, part in zip(fields.values(), value)))
    inner = get_args(kind)
    if get_origin(kind) is list and isinstance(value, list):
        return [_answer(inner[0], each) for each in value]
    if type(None) in inner:
        return None if value is None else _answer(inner[0], value)
    if kind not in _ANSWERED or not _ANSWERED[kind](value):
        raise ProtocolError("an invalid answer to a query")
    return value


def _extent(part: list[Any]) -> tuple[int, int]:
    return part[0], part[0] + part[1]


def _run(part: list[Any]) -> tuple[int, int]:
    return part[0], part[1] + 1
