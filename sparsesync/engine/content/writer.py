"""Who copies the ranges: :class:`Threads`, and the seam for others, :class:`Hands`.

On network and stacked filesystems and in memory the ranges go through copy_file_range(2), so that a server can copy by
itself. On a local disk that call is a copy in the page cache on one core, and threads that read and write are faster:
threads of their own (:mod:`workers`) take pieces of the large extents while the caller's thread goes on mapping and
takes the rest.

The functions are for content piece by piece: from what has no map, a file of the kernel's or a pipe, and to a mount
without random access, which takes bytes only one after the other.

Sizes and offsets are bytes.
"""

import errno
import os
import stat
import warnings
from functools import partial
from itertools import chain
from typing import Callable, Iterable, Iterator, NamedTuple, Optional, Tuple

from ..errors import OnProgress, TruncatedError, error_path
from ..files.claims import is_anybodys
from ..files.extents import Extent
from ..files.syscalls import NO_ORDER, copy_range, read_into, resize, write_all
from ..files.writing.target import Target
from .workers import PIECE_BYTES, Clock, Helpers, helps, pieces

_PROGRESS_BYTES = 1 << 20

_KERNEL_BYTES = 1 << 30
"""How much one call of copy_file_range(2) is asked for, so that an interrupt, and whoever cancels, is heard."""

_ZEROS = bytes(PIECE_BYTES)


class Work(NamedTuple):
    """What is copied, and how: ranges of the open file ``source`` to the same places of ``target``.

    ``kernel``: copy_file_range(2) may be used.
    ``zero_block``: if not 0, blocks of that size that hold zeros are not written: they are holes of a new target.
    ``progress``: called with the bytes done since the last call.
    ``believed``: the source's map is believed, so that it may be asked again.
    """

    source: int
    source_path: str
    target: Target
    kernel: bool
    zero_block: int
    progress: OnProgress
    believed: bool = True


class Hands:
    """Who copies the ranges. A context manager, around what is done with one target.

    ``jobs``: how many threads of this process work; None is as many as help.
    """

    jobs: Optional[int] = None

    def __enter__(self) -> "Hands":
        return self

    def partial(self, directory: int, name: str) -> Optional[Tuple[int, str]]:
        """Return the partial file for a target, if it is to be continued by a later run: its directory, and its name.

        ``directory``: of the target, open.
        """
        return None

    def __exit__(self, *exc_info: object) -> None:
        """Release what was held for the target, which is committed by now, or given up."""

    def begin(self, source: int, source_path: str, target: Target) -> None:
        """Take note of the open target, before anything is written."""

    def write(self, work: Work, ranges: Iterable[Extent]) -> int:
        """Copy every range, and return the bytes written. Raises OSError."""
        raise NotImplementedError


class Asked(NamedTuple):
    """What is to be copied, and whose hands are to do it."""

    hands: Hands
    work: Work
    ranges: Iterable[Extent]


class Threads(Hands):
    """The caller's thread, and others of this process."""

    def __init__(self, jobs: Optional[int] = None) -> None:
        self.jobs = jobs

    def write(self, work: Work, ranges: Iterable[Extent]) -> int:
        """Copy every range, and return the bytes written."""
        writer = RangeWriter(
            work.source, work.target.fd, work.kernel, work.zero_block, work.progress, work.source_path, self.jobs
        )
        try:
            return writer.write(ranges)
        finally:
            work.target.reached = writer.position


class RangeWriter:
    """Copies ranges of one open file to the same places of another.

    ``jobs``: as of :class:`Hands`.
    ``position``: all before it is copied when :meth:`write` has ended, also by an error.
    ``on_read``: called with what was read, before it is written; without ``kernel`` and with 1 job.

    The other parameters are those of :class:`Work`.
    """

    def __init__(
        self,
        source: int,
        target: int,
        kernel: bool,
        zero_block: int,
        progress: OnProgress,
        source_path: str,
        jobs: Optional[int] = None,
        on_read: Optional[Callable[[memoryview], object]] = None,
    ) -> None:
        self.source = source
        self.target = target
        self.zero_block = zero_block
        self.progress = progress
        self.source_path = source_path
        self.helps: bool = helps(jobs)
        self.jobs = jobs
        self.on_read = on_read
        self.done: int = 0
        self.written: int = 0
        self.told: int = 0
        self.position: int = 0
        self.proven: bool = False
        self._clock = Clock()
        # A device number without a major is a filesystem without a disk of its own: tmpfs, NFS, SMB, overlay.
        st = os.fstat(source)
        self.kernel: bool = kernel and stat.S_ISREG(st.st_mode) and os.major(st.st_dev) == 0

    def write(self, ranges: Iterable[Extent]) -> int:
        """Copy every range; returns the bytes written."""
        buffer = memoryview(b"")
        helper: Optional[Helpers] = None
        try:
            for offset, length in ranges:
                self.position = offset
                if self.kernel and self._by_kernel(offset, length, helper):
                    self.written += length
                    continue
                if len(buffer) < min(length, PIECE_BYTES):
                    # Most files of a tree have one small extent. To zero a large buffer takes longer than to copy that.
                    buffer = memoryview(bytearray(PIECE_BYTES if buffer else min(length, PIECE_BYTES)))
                if length <= PIECE_BYTES:
                    self.written += self.copy_piece(buffer, offset, length)
                    self.done += length
                else:
                    if helper is None and self.helps:
                        helper = Helpers(
                            lambda: partial(self.copy_piece, memoryview(bytearray(PIECE_BYTES))),
                            None if self.jobs is None else self.jobs - 1,
                        )
                    for piece, count in pieces(offset, length, PIECE_BYTES):
                        self.position = piece
                        if helper is None or not helper.offer(piece, count):
                            started = self._clock.read()
                            self.written += self.copy_piece(buffer, piece, count)
                            self.position += count
                            self.done += count
                            if helper is not None and self._clock.mostly_waits(started):
                                helper.more()
                            self._tell(helper)
                if self.done - self.told >= _PROGRESS_BYTES:
                    self._tell(helper)
            if helper is not None:
                helper.finish()
        finally:
            if helper is not None:
                try:
                    helper.stop()
                finally:
                    if helper.failed:  # of what was offered before, some may not be there
                        self.position = 0
        self._tell(helper)
        return self.written + (helper.result if helper is not None else 0)

    def _tell(self, helper: "Optional[Helpers]") -> None:
        # From the caller's thread alone: progress bars are rarely safe to share.
        done = self.done + (helper.done if helper is not None else 0)
        if self.progress is not None and done > self.told:
            self.progress(done - self.told)
        self.told = done

    def copy_piece(self, buffer: memoryview, offset: int, length: int) -> int:
        """Copy at most PIECE_BYTES through ``buffer``, and return the bytes written. Any thread may call this."""
        written = 0
        while length:
            try:
                count = read_into(self.source, buffer[:length], offset)
            except OSError as error:
                error.filename = self.source_path
                raise
            if not count:
                raise TruncatedError(self.source_path)
            if self.on_read is not None:
                self.on_read(buffer[:count])
            if self.zero_block:
                for start, size in not_zeros(buffer[:count], offset, self.zero_block):
                    write_all(self.target, buffer[start : start + size], offset + start)
                    written += size
            else:
                write_all(self.target, buffer[:count], offset)
                written += count
            offset += count
            length -= count
        return written

    def _by_kernel(self, offset: int, length: int, helper: "Optional[Helpers]") -> bool:
        while length:
            step = min(length, _KERNEL_BYTES)
            if self.proven:
                count = os.copy_file_range(self.source, self.target, step, offset, offset)
            else:
                answer = copy_range(self.source, self.target, offset, step)
                if answer is None:
                    self.kernel = False
                    return False
                count, self.proven = answer, True
            if not count:
                raise TruncatedError(self.source_path)
            offset += count
            length -= count
            self.done += count
            if self.done - self.told >= _PROGRESS_BYTES:
                self._tell(helper)
        return True


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
