"""One file on its way in: its target, opened when something comes for it, and its basis.

The basis is the old file, or of a new one what rsync would take (:mod:`~.content.basis`), and over it the data of the
partial file of an earlier run; what of a block came from which does not matter, since its digest decides. Where the
filesystem can clone, the target begins as a clone of the old file, and then has the basis already.
"""

import contextlib
import os
from heapq import heappop, heappush
from typing import Any, List, Optional, Tuple

from ..content.pieces import PieceWriter, read_ranges
from ..content.update import copy_bytes
from ..errors import LeftToRsync, NoSpaceError
from ..files.extents import extents, has_data, own_extents
from ..files.syscalls import NO_SIZE, read_full, resize
from ..wire.capabilities import Digest
from .limits import FINE_BYTES, JOB_BYTES, JOB_RANGES, pack_known
from .place.destination import Destination
from .place.destination_file import DestinationFile
from .records import FileResult, FileSpec

_MAX_PENDING = 4 * JOB_RANGES + JOB_BYTES // FINE_BYTES
"""The most ranges that a job comes in."""


class IncomingFile:
    """A file that is being received. ``held``: the bytes of the frame that announced it."""

    def __init__(self, number: int, spec: FileSpec, digest: Digest, held: int) -> None:
        self.number = number
        self.spec = spec
        self.held = held
        self.basis = False
        self.was_known = False
        self.target: Optional[DestinationFile] = None
        self.old: Optional[int] = None
        self._cloned = False
        self._pieces: Optional[PieceWriter] = None
        self._pending: List[Tuple[int, int, int, Optional[bytes]]] = []
        self._pending_bytes = self._pended = 0
        self.data = 0
        self.sent = 0
        self.guard: Any = None
        self._digest = digest

    def open(self, place: Destination) -> DestinationFile:
        """Open the file, and return its target. Raises LeftToRsync, ValueError, OSError as Destination.target()."""
        target = self.target
        if target is None:
            self.guard = self._digest.guard(self.basis)
            target = self.target = place.target(self.spec)
            target.open()
            size = self.spec.size
            if self.basis:
                self.old = target.open_basis()
            elif target.inplace:
                raise LeftToRsync("it was made meanwhile")
            elif target.resumed:
                # Made meanwhile too. The sender knows of no basis, so it will not say where the holes are.
                target.renew()
            if self.old is not None and not target.resumed:
                self._cloned = target.clone(self.old)
            if self.was_known:
                self._check_known(target)
            if target.overlay:
                self._begin_over(target, size)
            self._pieces = PieceWriter(target)  # not before: it may have got another descriptor
            if not target.overlay:
                self._make_room(target)
        return target

    def _begin_over(self, target: DestinationFile, size: int) -> None:
        """Give what is there its new size, or begin with nothing."""
        try:
            if target.inplace:
                target.begin_over(size, self.spec.data)
            else:
                resize(target.fd, size)
        except OSError as error:
            if target.inplace or self._cloned or error.errno not in NO_SIZE:
                raise
            target.renew()  # what it has is of no use where bytes are taken in order only

    def _make_room(self, target: DestinationFile) -> None:
        try:
            target.reserve(self.spec.size, self.spec.data)
        except NoSpaceError:
            raise
        except OSError as error:
            if error.errno not in NO_SIZE:
                raise
            target.check_room(self.spec.size)
            assert self._pieces is not None
            self._pieces.begin_in_order()

    def write(self, data: memoryview, offset: int) -> None:
        """Write a range of the open file."""
        assert self._pieces is not None
        if not self._pieces.place(data, offset):
            self._pend(offset, len(data), bytes(data))

    def finish(self) -> DestinationFile:
        """Write what is held back, and return the target, of which all has come then."""
        target, pieces = self.target, self._pieces
        assert target is not None and pieces is not None
        if pieces.in_order:
            while self._pending:
                self._write_first()
            pieces.set_size(self.spec.size)
        else:
            target.trim(max(self.spec.data, self.data))
        if self.old is not None:  # some mounts give no name to what is open
            os.close(self.old)
            self.old = None
        return target

    def _pend(self, offset: int, length: int, data: Optional[bytes]) -> None:
        """Hold a range back that is to be written in order. ``data``: None for what the old file has there.

        The ranges of a job come in any order, and those of the next one after them. So of more than are in a job
        the first has none before it that is still to come.
        """
        self._pended += 1
        heappush(self._pending, (offset, self._pended, length, data))
        self._pending_bytes += 0 if data is None else length
        while self._pending_bytes > JOB_BYTES or len(self._pending) > _MAX_PENDING:
            self._write_first()

    def _write_first(self) -> None:
        offset, _, length, data = heappop(self._pending)
        assert self._pieces is not None
        if data is not None:
            self._pending_bytes -= length
            self._pieces.write(memoryview(data), offset)
        elif self.old is not None:
            for start, part in read_ranges(self.old, [(offset, length)], self.spec.name):
                self._pieces.write(part, start)

    def _check_known(self, target: DestinationFile) -> None:
        """Raise LeftToRsync unless the basis is the known file. Only now it is open, and before it may be another."""
        known = self.spec.known or ()
        here = target.fd if target.inplace else self.old
        if target.old is None or here is None or not target.is_known(here, known):
            raise LeftToRsync("it changed while it was compared")
        self.guard.update(pack_known(known))

    def take_over(self, offset: int, length: int) -> None:
        """Have a range of the known file in the target, unless it begins with that."""
        target, old = self.target, self.old
        assert target is not None
        if target.inplace or self._cloned or old is None:
            return
        if self._pieces is not None and self._pieces.in_order:
            self._pend(offset, length, None)
            return
        end = offset
        for start, count in extents(old, offset, offset + length, "trust"):
            target.punch(end, start - end)
            end = start + count
            copy_bytes(old, target.fd, start, count, self.spec.name)
        target.punch(end, offset + length - end)

    def result(self) -> FileResult:
        """Return the result of a file that was received without an error."""
        took = 0 if self.target is None else self.target.allocated
        there = None if self.target is None else self.target.there
        return FileResult(self.spec.name, self.spec.size, self.data, self.sent, allocated=took, there=there)

    def close(self, keep: bool) -> None:
        """Close the target. ``keep``: what was not committed remains as a partial file."""
        target, self.target = self.target, None
        if self.old is not None:
            os.close(self.old)
            self.old = None
        if target is not None:
            target.keep = keep
            with contextlib.suppress(OSError):  # somebody removed the partial file
                target.close()

    def read_basis(self, offset: int, length: int, buffer: memoryview) -> Tuple[Optional[memoryview], bool]:
        """Return (the basis' content of a block, or None if it has no data; whether the target has it already).

        The answer for a range does not depend on how it is cut into blocks: digests may be asked for in other blocks
        than are kept.

        ``buffer``: holds a block; the content is a part of it.
        """
        target, old = self.target, self.old
        assert target is not None
        below = target.overlay and target.is_readable
        own = list(own_extents(target.fd, offset, offset + length)) if below else []
        if old is None or own == [(offset, length)] or not has_data(old, offset, length):
            return (_read(target.fd, offset, buffer[:length]) if own else None), True
        view = _read(old, offset, buffer[:length])
        for start, count in own:
            _read(target.fd, start, view[start - offset : start - offset + count])
        return view, False


def _read(fd: int, offset: int, view: memoryview) -> memoryview:
    """Fill ``view`` with a part of an open file, zeros beyond its end, and return it."""
    done = read_full(fd, view, offset)
    view[done:] = bytes(len(view) - done)
    return view
