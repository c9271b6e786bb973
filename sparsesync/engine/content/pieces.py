"""Content piece by piece, where a copy has no map or no random access.

So it is with what comes from a file of the kernel's or from a pipe, which is read on to its end, and with what goes to
a mount that takes bytes only one after the other. What is read is looked at for blocks of zeros.

Sizes and offsets are bytes.
"""

import errno
import os
import warnings
from itertools import chain
from typing import Iterable, Iterator, Tuple

from ..errors import TruncatedError, error_path
from ..files.claims import is_anybodys
from ..files.extents import Extent
from ..files.syscalls import NO_ORDER, read_into, resize, write_all
from ..files.writing.target import Target
from .hands.workers import PIECE_BYTES

_ZEROS = bytes(PIECE_BYTES)


def read_on(source: int, source_path: str) -> Iterator[Tuple[int, memoryview]]:
    """Yield all there is to read in an open file, as (offset, data). The data is valid until the next step."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = 0
    with error_path(source_path):
        count = read_into(source, buffer, offset)
        while count:
            yield offset, buffer[:count]
            offset += count
            count = read_into(source, buffer, offset)


def read_ranges(source: int, ranges: Iterable[Extent], source_path: str) -> Iterator[Tuple[int, memoryview]]:
    """Yield the content of the ranges as (offset, data). The data is valid until the next step."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    with error_path(source_path):
        for offset, length in ranges:
            while length:
                count = read_into(source, buffer[:length], offset)
                if not count:
                    raise TruncatedError(source_path)
                yield offset, buffer[:count]
                offset += count
                length -= count


def read_stream(source: int, source_path: str) -> Iterator[Tuple[int, memoryview]]:
    """Yield what comes from a pipe or the like, as (offset, data). The data is valid until the next step.

    All parts but the last have the same size.
    """
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = filled = 0
    with error_path(source_path):
        count = os.readv(source, [buffer])
        while count:
            filled += count
            if filled == len(buffer):
                yield offset, buffer
                offset, filled = offset + filled, 0
            count = os.readv(source, [buffer[filled:]])
    if filled:
        yield offset, buffer[:filled]


def not_zeros(content: memoryview, offset: int, block: int) -> Iterator[Extent]:
    """Yield the parts of ``content`` that are not blocks of zeros, as (index in ``content``, length).

    ``offset``: that of ``content`` in its file, by which blocks are counted.
    """
    if _ZEROS.startswith(content):
        return
    size = len(content)
    start = at = 0
    while at < size:
        stop = min(at + block - (offset + at) % block, size)
        if _ZEROS.startswith(content[at:stop]):
            if at > start:
                yield start, at - start
            start = stop
        at = stop
    if size > start:
        yield start, size - start


def write_in_order(target: int, pieces: Iterable[Tuple[int, memoryview]], size: int) -> int:
    """Write pieces, and zeros between them, one after the other, and return the bytes written.

    ``pieces``: (offset, data), ascending.
    ``size``: of the file, which ends with zeros if the pieces end before.
    """
    writer = _InOrder(target, 0)
    for offset, data in chain(pieces, [(size, memoryview(b""))]):
        writer.write(data, offset)
    return writer.position


class _InOrder:
    """Writes to an open file from ``position`` on, and zeros for what is left out."""

    def __init__(self, fd: int, position: int) -> None:
        self.position = position
        self._fd = fd

    def write(self, data: memoryview, offset: int) -> None:
        if offset < self.position:
            raise OSError(errno.ESPIPE, "its mount takes bytes in order only")
        while self.position < offset:
            self._put(memoryview(_ZEROS)[: offset - self.position])
        self._put(data)

    def _put(self, data: memoryview) -> None:
        write_all(self._fd, data, self.position)
        self.position += len(data)


class PieceWriter:
    """Writes pieces of a file to a target: where they belong, until its mount shows that it takes bytes in order only.

    Then the zeros between them are written too. Failures are OSError.
    """

    def __init__(self, target: Target) -> None:
        self.in_order: bool = False
        self._target = target
        self._reached = 0
        self._ordered = _InOrder(target.fd, 0)

    def place(self, data: memoryview, offset: int) -> bool:
        """Write a piece where it belongs. Returns False if that can be done in order only: :meth:`write`."""
        if self.in_order:
            return False
        try:
            write_all(self._target.fd, data, offset)
        except OSError as error:
            self._begin_in_order(error)
            return False
        self._reached = max(self._reached, offset + len(data))
        return True

    def write(self, data: memoryview, offset: int) -> None:
        """Write a piece that is behind all others."""
        if not self.place(data, offset):
            self._ordered.write(data, offset)

    def set_size(self, size: int) -> None:
        """Set the size of the file, which has nothing behind that."""
        if not self.in_order:
            try:
                resize(self._target.fd, size)
                return
            except OSError as error:
                self._begin_in_order(error)
        self._ordered.write(memoryview(b""), size)

    def _begin_in_order(self, error: OSError) -> None:
        """Take it that a mount refused what was not at the end. Raises ``error`` if it cannot be that."""
        target = self._target
        if error.errno not in NO_ORDER or target.overlay or not is_anybodys(target.fd):
            raise error
        if not self._reached and os.fstat(target.fd).st_size:
            resize(target.fd, 0)
        self.begin_in_order()

    def begin_in_order(self) -> None:
        """Write in order from now on, and warn of that."""
        self.in_order = True
        self._ordered.position = self._reached
        what = "{}: its mount takes bytes in order only: zeros will be written too"
        warnings.warn(what.format(self._target.path), RuntimeWarning, stacklevel=5)
