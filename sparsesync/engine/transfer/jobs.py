"""A job: a part of a file that is compared and sent at once.

:func:`cut` makes a file into jobs, each up to :data:`JOB_BYTES` bytes of extents and the holes between them. A
:class:`JobWriter` does with each what is to be done::

    the file was known:     write     SAME for what has not changed, DATA for what has, or as below if it may have moved
    the file has a basis:   compare   the digests that came with those of the same blocks here
                            write     HOLE for the gaps, KEEP for what is the same, DATA for the rest
    it has none:            write     DATA for all of it

Whatever is written goes into the guard of its file too, in the same order. When there is something to do is for
:mod:`sender` to decide.
"""

from itertools import islice
from typing import Dict, Iterator, List, Optional, Tuple, Union

from ..content.copy import data_ranges, reserved_ranges
from ..content.update import SHORT_BYTES
from ..errors import OnProgress, TruncatedError
from ..files.extents import Extent, nonzero
from ..files.syscalls import read_full
from ..wire import protocol
from ..wire.capabilities import Digest
from ..wire.compression import NONE, Compressor
from ..wire.link import Link
from ..wire.protocol import BLOCK_BYTES, PAYLOAD_BYTES
from ..wire.ranges import blocks, merged, without
from .limits import FINE_BYTES, JOB_BYTES, JOB_RANGES
from .outgoing import OutgoingFile

_DATA, _HOLE, _SAME = "data", "hole", "same"


class Job:
    """A part of a file.

    ``gaps``: the holes before and between its ranges.
    ``unchanged``: what lies there and is in the basis, without being compared.
    ``samples``: by their offsets, ranges of a known file that may only have moved, until that has been looked at.
    ``last``: it ends the file.
    """

    def __init__(self, file: OutgoingFile) -> None:
        self.file = file
        self.last = False
        self.ranges: List[Extent] = []
        self.gaps: List[Extent] = []
        self.unchanged: List[Extent] = []
        self.size = 0
        self.waits = 0
        self.samples: Dict[int, Extent] = {}
        self.same: List[Extent] = []
        self.digests: Dict[Extent, bytes] = {}


def cut(file: OutgoingFile, sparse: str) -> Iterator[Job]:
    """Yield the jobs of an open file: its extents in parts of JOB_BYTES bytes, and the end.

    ``sparse``: as for copy.
    """
    job = Job(file)
    for offset, length, what in _parts(file, sparse):
        if what != _DATA:
            if len(job.gaps) + len(job.unchanged) == 2 * JOB_RANGES:
                yield job
                job = Job(file)
            (job.gaps if what == _HOLE else job.unchanged).append((offset, length))
            continue
        for start, count in blocks([(offset, length)], JOB_BYTES):
            if job.size + count > JOB_BYTES or len(job.ranges) == JOB_RANGES:
                yield job
                job = Job(file)
            job.ranges.append((start, count))
            job.size += count
            if file.was_known and length > SHORT_BYTES:
                job.samples[start] = start, count
    job.last = True
    yield job


def _parts(file: OutgoingFile, sparse: str) -> Iterator[Tuple[int, int, str]]:
    """Yield all of an open file, ascending, as (offset, length, what it is)."""
    assert file.fd is not None
    size, zeros = file.spec.size, FINE_BYTES if sparse == "always" else 0
    changes = file.since if file.was_known else None
    between, end = (_HOLE if changes is None else _SAME), 0
    if changes is None:
        changes = ((*extent, True) for extent in data_ranges(file.fd, size, zeros, file.believed))
        zeros = 0
    for offset, length, is_data in changes:
        if offset > end:
            yield end, offset - end, between
        end = offset + length
        if not is_data:
            yield offset, length, _HOLE
            continue
        position = offset
        for start, count in nonzero(file.fd, offset, length, zeros) if zeros else [(offset, length)]:
            if start > position:
                yield position, start - position, _HOLE
            yield start, count, _DATA
            position = start + count
        if position < end:
            yield position, end - position, _HOLE
    if end < size:
        yield end, size - end, between


class JobWriter:
    """The writer of jobs: compares them with the receiver's basis, and writes what differs to ``link``.

    The parameters are those of :class:`~.sender.Sender`. The writer holds one block and one DATA frame, which may hold
    parts of several jobs of one file without a basis.
    """

    def __init__(self, link: Link, digest: Digest, compressor: Optional[Compressor], progress: OnProgress) -> None:
        self.link = link
        self.digest = digest
        self.compressor = compressor
        self.progress = progress
        self._buffer = memoryview(bytearray(BLOCK_BYTES))
        self._content = memoryview(bytearray(PAYLOAD_BYTES))
        self._filled = 0
        self._runs: List[Extent] = []
        self._runs_of: Optional[OutgoingFile] = None

    def compare(self, job: Job, asked: List[Extent], answer: bytes, size: int) -> List[Extent]:
        """Note which blocks are the same. Returns the others that the basis has."""
        absent = bytes(size)
        different = []
        for index, (offset, length) in enumerate(asked):
            theirs = answer[index * size : (index + 1) * size]
            if theirs == absent:
                continue
            ours = self.digest.of(self._read(job.file, self._buffer, offset, length))
            if ours[:size] == theirs:
                job.same.append((offset, length))
                job.digests[offset, length] = ours
            else:
                different.append((offset, length))
        return different

    def write(self, job: Job) -> None:
        """Write a job that has all its answers. Raises OSError, TruncatedError."""
        if job.file.basis:
            self._update(job)
        else:
            for offset, length in job.ranges:
                self._add(job.file, offset, length)

    def reserve(self, file: OutgoingFile) -> None:
        """Write the reserved ranges of an open file."""
        assert file.fd is not None
        ranges = reserved_ranges(file.fd, file.spec.size)
        batch = list(islice(ranges, protocol.MAX_RANGES))
        while batch:
            self._write_ranges(protocol.RESERVE, file, batch)
            batch = list(islice(ranges, protocol.MAX_RANGES))

    def flush(self) -> None:
        """Write the DATA frame that is being filled."""
        file = self._runs_of
        if file is None or not self._runs:
            return
        content = self._content[: self._filled]
        packed = protocol.pack_ranges(self._runs)
        file.guard.update(packed)
        file.guard.update(content)
        code = NONE
        body: Union[memoryview, bytes] = content
        if self.compressor is not None:
            smaller = self.compressor.compress(content)
            if smaller is not None:
                code, body = self.compressor.code, smaller
        self.link.write_data(protocol.data_head(file.number, code, packed, len(body)), body)
        self._tell(self._filled)
        self._forget()

    def drop(self, file: OutgoingFile) -> None:
        """Forget what is still to be written of a file."""
        if self._runs_of is file:
            self._forget()

    def _update(self, job: Job) -> None:
        file = job.file
        if job.unchanged:
            self._write_ranges(protocol.SAME, file, job.unchanged)
        if job.gaps:
            self._write_ranges(protocol.HOLE, file, job.gaps)
        same = merged(sorted(job.same))
        if same:
            for offset, length in blocks(same, BLOCK_BYTES):
                digest = job.digests.get((offset, length))
                if digest is None:
                    digest = self.digest.of(self._read(file, self._buffer, offset, length))
                file.guard.update(protocol.pack_ranges([(offset, length)]) + digest)
                self._tell(length)
            self._write_ranges(protocol.KEEP, file, same)
        for offset, length in without(merged(job.ranges), same):
            self._add(file, offset, length)
        self.flush()  # the guard takes what is sent in the order of jobs

    def _write_ranges(self, kind: int, file: OutgoingFile, ranges: List[Extent]) -> None:
        for start in range(0, len(ranges), protocol.MAX_RANGES):
            part = ranges[start : start + protocol.MAX_RANGES]
            if kind in (protocol.HOLE, protocol.SAME):
                file.guard.update(protocol.pack_ranges(part))
            self.link.write(protocol.encode_ranges(kind, file.number, part))

    def _add(self, file: OutgoingFile, offset: int, length: int) -> None:
        """Put a range into the DATA frame that is being filled."""
        while length:
            self._runs_of = file
            count = min(length, PAYLOAD_BYTES - self._filled)
            self._read(file, self._content[self._filled : self._filled + count], offset, count)
            self._runs.append((offset, count))
            self._filled += count
            offset += count
            length -= count
            if self._filled == PAYLOAD_BYTES or len(self._runs) == protocol.MAX_RANGES:
                self.flush()

    def _read(self, file: OutgoingFile, view: memoryview, offset: int, length: int) -> memoryview:
        assert file.fd is not None
        view = view[:length]
        if read_full(file.fd, view, offset) < length:
            raise TruncatedError(file.path)
        return view

    def _forget(self) -> None:
        self._runs, self._runs_of, self._filled = [], None, 0

    def _tell(self, count: int) -> None:
        if self.progress is not None:
            self.progress(count)
