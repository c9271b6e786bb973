"""Who copies the ranges: :class:`Threads`, and the seam for others, :class:`Hands`.

On network and stacked filesystems and in memory the ranges go through copy_file_range(2), so that a server can copy by
itself. On a local disk that call is a copy in the page cache on one core, and threads that read and write are faster:
threads of their own (:mod:`workers`) take pieces of the large extents while the caller's thread goes on mapping and
takes the rest. Of very many small extents a second process takes a part (:mod:`range_helper`).

Sizes and offsets are bytes.
"""

import os
import stat
from functools import partial
from itertools import chain, islice
from typing import Callable, Iterable, Iterator, NamedTuple, Optional, Tuple

from ...errors import OnProgress, TruncatedError
from ...files.extents import Extent
from ...files.syscalls import copy_range, read_into, write_all
from ...files.writing.target import Target
from ..pieces import not_zeros
from .range_helper import FEW_RANGES, RangeHelper
from .workers import PIECE_BYTES, Clock, Helpers, helps, pieces

_PROGRESS_BYTES = 1 << 20

_KERNEL_BYTES = 1 << 30
"""How much one call of copy_file_range(2) is asked for, so that an interrupt, and whoever cancels, is heard."""


class Work(NamedTuple):
    """What is copied, and how: ranges of the open file ``source`` to the same places of ``target``.

    ``kernel``: copy_file_range(2) may be used.
    ``zero_block``: if not 0, blocks of that size that hold zeros are not written: they are holes of a new target.
    ``progress``: called with the bytes done since the last call.
    ``believed``: the source's map is believed, so that it may be asked again.
    ``st``: the source's stat, if it was just taken.
    """

    source: int
    source_path: str
    target: Target
    kernel: bool
    zero_block: int
    progress: OnProgress
    believed: bool = True
    st: Optional[os.stat_result] = None


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
            work.source, work.target.fd, work.kernel, work.zero_block, work.progress, work.source_path, self.jobs,
            st=work.st,
        )  # fmt: skip
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
        st: Optional[os.stat_result] = None,
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
        self._second: Optional[RangeHelper[Extent]] = None
        # A device number without a major is a filesystem without a disk of its own: tmpfs, NFS, SMB, overlay.
        st = os.fstat(source) if st is None else st
        self.kernel: bool = kernel and stat.S_ISREG(st.st_mode) and os.major(st.st_dev) == 0

    def write(self, ranges: Iterable[Extent]) -> int:
        """Copy every range; returns the bytes written."""
        buffer = memoryview(b"")
        helper: Optional[Helpers] = None
        clock: Optional[Clock] = None
        try:
            for offset, length in self._own(ranges):
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
                            clock = Clock() if clock is None else clock
                            started = clock.read()
                            self.written += self.copy_piece(buffer, piece, count)
                            self.position += count
                            self.done += count
                            if helper is not None and clock.mostly_waits(started):
                                helper.more()
                            self._tell(helper)
                if self.done - self.told >= _PROGRESS_BYTES:
                    self._tell(helper)
            if helper is not None:
                helper.finish()
        finally:
            try:
                if helper is not None:
                    helper.stop()
            finally:
                if self._second is not None:
                    self._second.close()
                    missing = self._second.first_missing
                    self.position = self.position if missing is None else min(missing, self.position)
                if helper is not None and helper.failed:  # of what was offered before, some may not be there
                    self.position = 0
        self._tell(helper)
        return self.written + (helper.result if helper is not None else 0)

    def _own(self, ranges: Iterable[Extent]) -> Iterator[Extent]:
        """Yield the ranges that this process is to copy: all, or what a second one leaves of very many."""
        ranges = iter(ranges)
        if self.helps:
            for extent in islice(ranges, FEW_RANGES):
                yield extent
            following = next(ranges, None)
            if following is None:
                return
            ranges = chain([following], ranges)
            ranges, self._second = RangeHelper.for_rest(ranges, self._alone(), self._took, PIECE_BYTES, "copy")
        for extent in ranges if self._second is None else self._second.leave(ranges):
            yield extent

    def _alone(self) -> Callable[[Iterable[Extent]], int]:
        """Return a function that copies ranges in another process, and returns the bytes written."""
        writer = RangeWriter(self.source, self.target, self.kernel, self.zero_block, None, self.source_path, 1)

        def copy(ranges: Iterable[Extent]) -> int:
            before = writer.written
            return writer.write(ranges) - before

        return copy

    def _took(self, written: int, done: int) -> None:
        self.written += written
        self.done += done

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
