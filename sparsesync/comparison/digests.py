"""Compare two trees of which one at least is on another host, by digests.

Each end tells in one fixed order what it has (:mod:`engine.tree.manifest`), and here the two streams are merged::

    directory by directory, those that both have:
        entry by entry
            only in one of them     -> "missing" or "extra"
            of different types      -> "type"
            links, devices          -> compared
            files                   -> block by block; the first block that differs is noted
    a directory that only one has is passed over: it was told as an entry, or is below one

So both ends read at the same time, and nobody is asked about a file: the price is that either end also
reads what the other does not have. Only when both streams have ended, the noted blocks are looked at more closely, many
files at a time (:meth:`_Merge.closer`): digests of ever smaller parts, until it is one byte. What is noted goes to
a temporary file if it is much; nothing else is kept.

What differs and how that is told is exactly as in :mod:`compare`. But a file that changes while it is read is in
trouble here, since it is read once and not side by side.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Generator, Iterator
from itertools import zip_longest
from typing import IO, Callable, NamedTuple

from ..engine.content.compare import Tally
from ..engine.errors import OnError, OnProgress, ProtocolError
from ..engine.tree.left_out import NameRules
from ..engine.tree.manifest import DIGEST_BYTES, UNKNOWN, Blocks, Directory, Entry, Event, Trouble, key
from ..engine.wire.protocol import BLOCK_BYTES
from ..hosts.base import Location, PathLike, Rsh
from ..hosts.pool import HostPool
from .difference import Difference, of_attributes

_STEP_BYTES = (4096, 256, 16, 1)
_BATCH_BYTES = 64 * 1024
"""How many bytes of notes are looked at together."""

_SPOOL_BYTES = 1 << 20
_PROGRESS_BYTES = 1 << 20


def verify(
    a: PathLike,
    b: PathLike,
    *,
    full: bool,
    holes: str,
    tallies: tuple[Tally, Tally] | None,
    on_error: OnError,
    progress: OnProgress,
    rsh: Rsh,
    python: str | None,
    prefix: str,
    rules: NameRules | None,
    attributes: bool,
    on_equal: Callable[[str, bool], object],
) -> Generator[Difference, None, None]:
    """Yield what :func:`compare.verify` yields, if a path is ``host:path``. The first step connects."""
    with HostPool(rsh, python, prefix=prefix) as hosts:
        yield from differences(
            *hosts.locate_pair(a, b), full=full, holes=holes, tallies=tallies, on_error=on_error, progress=progress,
            rules=rules, attributes=attributes, on_equal=on_equal,
        )  # fmt: skip


def differences(
    a: Location,
    b: Location,
    *,
    full: bool = False,
    holes: str = "auto",
    tallies: tuple[Tally, Tally] | None = None,
    on_error: OnError = None,
    progress: OnProgress = None,
    rules: NameRules | None = None,
    attributes: bool = False,
    on_equal: Callable[[str, bool], object] = lambda path, again: None,
) -> Iterator[Difference]:
    """Yield each difference between two locations, on two hosts that compute the same digests."""
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES, "w+", encoding="ascii") as noted:
        with contextlib.ExitStack() as opened:
            a_tally, b_tally = tallies or (Tally(), Tally())
            ours, theirs = [
                _Side(*side, full, holes, rules, attributes, opened) for side in ((a, a_tally), (b, b_tally))
            ]
            merge = _Merge(ours, theirs, on_error, progress, noted, attributes, on_equal)
            yield from merge.differences()
        yield from merge.closer()


class _Noted(NamedTuple):
    """A range of a file in which the first differing byte is; or at ``end``, if that is not None."""

    path: str
    offset: int
    length: int
    end: int | None


class _Side:
    """The manifest of one side. ``event`` is the next one, None when there are no more."""

    def __init__(
        self,
        location: Location,
        tally: Tally,
        full: bool,
        holes: str,
        rules: NameRules | None,
        attributes: bool,
        opened: contextlib.ExitStack,
    ) -> None:
        self.location = location
        self._events = location.host.manifest(location.path, full, holes, tally, rules, attributes)
        opened.callback(self._events.close)  # type: ignore[attr-defined]
        self.event: Event | None = None

    def advance(self) -> None:
        self.event = next(self._events, None)

    def entry(self) -> Entry:
        assert isinstance(self.event, Entry)
        return self.event

    def blocks(self) -> Iterator[tuple[int, bytes]]:
        """(offset, digest) of the entry that was just passed."""
        while isinstance(self.event, Blocks):
            yield from self.event.pairs()
            self.advance()

    def trouble(self) -> OSError | None:
        """Return the error of the entry or directory that was just passed, or None."""
        for _ in self.blocks():
            pass
        if not isinstance(self.event, Trouble):
            return None
        error = self.event.error
        self.advance()
        return error

    def next_directory(self) -> None:
        while self.event is not None and not isinstance(self.event, Directory):
            self.advance()


class _Merge:
    def __init__(
        self,
        a: _Side,
        b: _Side,
        on_error: OnError,
        progress: OnProgress,
        noted: IO[str],
        attributes: bool,
        on_equal: Callable[[str, bool], object],
    ) -> None:
        self._attributes = attributes
        self._on_equal = on_equal
        self._a = a
        self._b = b
        self._sides = (a, b)
        self._on_error = on_error
        self._progress = progress
        self._noted = noted

    def differences(self) -> Iterator[Difference]:
        """Yield each difference, except for files whose content needs a closer look."""
        for side in self._sides:
            side.advance()
        whole = self._a.entry().kind != "d" or self._b.entry().kind != "d"
        yield from self._pair("", "-b")
        if whole:
            return
        for side in self._sides:
            side.next_directory()
        yield from self._trees()
        # An agent does one thing at a time, and there may be more to ask it.
        for side in self._sides:
            while side.event is not None:
                side.advance()

    def _trees(self) -> Iterator[Difference]:
        a, b = self._a, self._b
        while isinstance(a.event, Directory) and isinstance(b.event, Directory):
            path = a.event.path
            keys = [(key(path), a), (key(b.event.path), b)]
            there = [side for order, side in keys if order == min(keys[0][0], keys[1][0])]
            for side in there:
                side.advance()
            # Half a pair says nothing about what is missing.
            if len(there) == 2 and not self._report():
                yield from self._entries(path)
            for side in there:
                side.next_directory()

    def _entries(self, path: str) -> Iterator[Difference]:
        a, b = self._a, self._b
        while True:
            a_name = os.fsencode(a.event.name) if isinstance(a.event, Entry) else None
            b_name = os.fsencode(b.event.name) if isinstance(b.event, Entry) else None
            if a_name is None and b_name is None:
                return
            if a_name == b_name:
                yield from self._pair(os.path.join(path, a.entry().name), "-")
                continue
            only_a = b_name is None or (a_name is not None and a_name < b_name)
            side = a if only_a else b
            yield Difference(os.path.join(path, side.entry().name), "missing" if only_a else "extra")
            side.advance()
            side.trouble()

    def _pair(self, path: str, with_content: str) -> Iterator[Difference]:
        """Compare two entries; those of the kinds in ``with_content`` by their bytes."""
        a, b = self._a.entry(), self._b.entry()
        for side in self._sides:
            side.advance()
        found: Difference | _Noted | None = None
        if UNKNOWN not in (a.kind, b.kind):
            if a.kind != b.kind and not (a.kind in with_content and b.kind in with_content):
                for side in self._sides:
                    side.trouble()  # there is nothing more to be known
                yield Difference(path, "type")
                return
            if a.kind in with_content:
                found = self._content(path, a.size, b.size)
            elif a.target != b.target:
                found = Difference(path, "link")
            elif a.device != b.device:
                found = Difference(path, "device")
        if self._report():
            return
        more: list[Difference] = []
        if self._attributes and UNKNOWN not in (a.kind, b.kind):
            if a.attributes is None or b.attributes is None:
                side = self._a if a.attributes is None else self._b
                raise ProtocolError("attributes are missing in a manifest", side.location.host.name)
            more += of_attributes(path, a.attributes, b.attributes)
        if isinstance(found, Difference):
            yield found
        elif found is not None:
            self._noted.write(json.dumps(found) + "\n")
        elif not more and UNKNOWN not in (a.kind, b.kind) and a.kind != "d":
            self._on_equal(path, a.again)
        yield from more

    def _content(self, path: str, a_size: int, b_size: int) -> Difference | _Noted | None:
        common = min(a_size, b_size)
        offset = self._first_block(a_size)
        if offset is not None and offset < common:
            # The last block of the shorter file has a digest of its own, and may still be all the other has there.
            end = common if a_size != b_size else None
            return _Noted(path, offset, min(BLOCK_BYTES, common - offset), end)
        return None if a_size == b_size else Difference(path, "content", common)

    def _first_block(self, size: int) -> int | None:
        """Return the offset of the first block that differs, or None."""
        untold = 0
        for ours, theirs in zip_longest(self._a.blocks(), self._b.blocks()):
            if ours != theirs:
                return min(block[0] for block in (ours, theirs) if block is not None)
            untold += min(BLOCK_BYTES, size - ours[0])
            if self._progress is not None and untold >= _PROGRESS_BYTES:
                self._progress(untold)
                untold = 0
        if self._progress is not None and untold:
            self._progress(untold)
        return None

    def closer(self) -> Iterator[Difference]:
        """Yield the noted differences in content, each with the first byte that differs."""
        self._noted.seek(0)
        while True:
            batch = [_Noted(*json.loads(line)) for line in self._noted.readlines(_BATCH_BYTES)]
            if not batch:
                return
            for block in _STEP_BYTES:
                closer = []
                for noted, index in self._ask(batch, block):
                    if index is not None:
                        offset = noted.offset + index * block
                        length = min(block, noted.offset + noted.length - offset)
                        closer.append(_Noted(noted.path, offset, length, None))
                    elif noted.end is not None:
                        yield Difference(noted.path, "content", noted.end)
                    else:
                        name = self._a.location.prefix + os.path.join(self._a.location.path, noted.path)
                        self._fail(OSError(errno.ESTALE, "the file changed while it was compared", name))
                batch = closer
            for noted in batch:
                yield Difference(noted.path, "content", noted.offset)

    def _ask(self, batch: list[_Noted], block: int) -> Iterator[tuple[_Noted, int | None]]:
        """For each file that both ends can read, the index of its first block that differs, None if there is none."""
        ranges = [noted[:3] for noted in batch]
        answers = [side.location.host.digests(side.location.path, block, ranges, self._fail) for side in self._sides]
        # Both answers have to be read to their ends, so nothing may stop before them.
        for (ours, theirs), noted in zip(zip_longest(*answers), batch):
            if ours is not None and theirs is not None:
                size = DIGEST_BYTES
                parts = range(0, len(ours), size)
                differing = (at // size for at in parts if ours[at : at + size] != theirs[at : at + size])
                yield noted, next(differing, None)

    def _report(self) -> bool:
        """Tell of the troubles with what was just passed; whether there were any."""
        errors = [error for error in [side.trouble() for side in self._sides] if error is not None]
        for error in errors:
            self._fail(error)
        return bool(errors)

    def _fail(self, error: OSError) -> None:
        if self._on_error is None:
            raise error
        self._on_error(error)
