"""Rows in order, however many there are: what does not fit into memory waits in a temporary file.

Rows are tuples of numbers and strings that compare with each other. Once they take :data:`_MEMORY_CHARACTERS`, they
are sorted and written, as lines of JSON. At the end the file is merged with the rows in memory. So memory does not grow
with a tree, or with what another host says of it.
"""

from __future__ import annotations

import heapq
import json
import tempfile
from collections.abc import Iterator
from typing import IO, Any

_MEMORY_CHARACTERS = 8 << 20
"""Characters, with what a row takes besides."""

_ROW_CHARACTERS = 200
_READ_BYTES = 64 * 1024


class Sorted:
    """A collector of rows, which then iterates over them in order."""

    def __init__(self, room: int = _MEMORY_CHARACTERS) -> None:
        self._room = room
        self._held: list[tuple[Any, ...]] = []
        self._size = 0
        self._file: IO[bytes] | None = None
        self._runs: list[tuple[int, int]] = []

    def add(self, *row: Any) -> None:
        """Add a row."""
        self._held.append(row)
        self._size += _ROW_CHARACTERS + sum(len(part) for part in row if isinstance(part, str))
        if self._size > self._room:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()
        start = self._file.tell()
        self._held.sort()
        for row in self._held:
            self._file.write(json.dumps(row).encode("ascii") + b"\n")
        self._runs.append((start, self._file.tell()))
        self._held, self._size = [], 0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        self._held.sort()
        return heapq.merge(self._held, *(self._read(*run) for run in self._runs))

    def _read(self, start: int, stop: int) -> Iterator[tuple[Any, ...]]:
        assert self._file is not None
        while start < stop:
            self._file.seek(start)
            # It goes on while there are no more bytes than that.
            lines = self._file.readlines(min(_READ_BYTES, stop - start) - 1)
            start = self._file.tell()
            yield from (tuple(json.loads(line)) for line in lines)
