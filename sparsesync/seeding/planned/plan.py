"""The files that a run is going to seed, as often as they are wanted, in the memory of a thousand.

What does not fit into that goes through a temporary file, a batch at a time. Nobody but this process reads the file, so
it is written as Python's :mod:`marshal` has it, which takes a tenth of the time of JSON. A run of few files has none.
"""

from __future__ import annotations

import marshal
import struct
import tempfile
from collections.abc import Iterator
from itertools import starmap
from typing import IO, Any

from ...engine.roles import Planned

_BATCH_FILES = 1000

_LENGTH = struct.Struct("=Q")
"""The bytes of a batch, before it: marshal.load() reads a file in bits."""


class Plan:
    """Files in their order, which are added one by one and can be iterated over at any time, also twice at once."""

    def __init__(self) -> None:
        self._last: list[tuple[Any, ...]] = []
        self._file: IO[bytes] | None = None
        self._end = 0

    def add(self, planned: Planned) -> None:
        """Add a file. Raises OSError."""
        self._last.append(tuple(planned))
        if len(self._last) == _BATCH_FILES:
            if self._file is None:
                self._file = tempfile.TemporaryFile()
            self._file.seek(self._end)
            batch = marshal.dumps(self._last)
            self._file.write(_LENGTH.pack(len(batch)) + batch)
            self._file.flush()  # a full disk is told now, and not when nobody expects it
            self._end, self._last = self._file.tell(), []

    def __iter__(self) -> Iterator[Planned]:
        """Yield what has been added so far. Raises OSError."""
        end, last, position = self._end, tuple(self._last), 0
        while self._file is not None and position < end:
            self._file.seek(position)  # somebody else may have moved it
            batch = self._file.read(*_LENGTH.unpack(self._file.read(_LENGTH.size)))
            position = self._file.tell()
            yield from starmap(Planned, marshal.loads(batch))
        yield from starmap(Planned, last)

    def close(self) -> None:
        """Discard it."""
        if self._file is not None:
            self._file.close()
