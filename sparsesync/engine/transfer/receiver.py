"""The receiving end of a transfer: digests of what is here, and files made of what comes.

The receiver is a loop over frames with no opinion of its own; the sender decides (:mod:`sender`)::

    FILE    -> is there a basis?                          STATE
    ASK     -> digests of the basis' blocks               DIGESTS
    DATA    -> write the bytes
    KEEP    -> what the basis has there is right: leave it, or copy it within the machine
    HOLE    -> punch, if there is anything
    SAME    -> what the known file has there is right, unread: leave it, or copy it within the machine
    RESERVE -> reserve it, if that was asked for here
    FINISH  -> the digests over everything agree? commit  CLOSED
    END     -> no more files                              DONE, once all are closed

A target is opened when the first frame needs it, so a thousand files can be announced at once
(:class:`~.incoming.IncomingFile`, which knows the basis too).

The guard is one digest over every range and its content, in the order they were sent: the bytes themselves for
DATA, the digest of each :data:`~.wire.protocol.BLOCK_BYTES` for KEEP, nothing for HOLE and SAME. The identity of a
known file goes before all of it. The digest is computed from what was read here. A block that is in the target already
was read when its digest was asked for, and is not read and hashed once more.

The sender is not trusted: ranges are checked against the size that was announced, names by the place.
If the connection breaks, what was received is kept as a partial file.
"""

from itertools import islice
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from ..errors import LeftToRsync, LinkError, NoSpaceError, OnProgress, ProtocolError, TruncatedError
from ..wire import fields, protocol
from ..wire.capabilities import Digest
from ..wire.compression import NONE, Decompressor
from ..wire.fields import MAX_TEXT_CHARACTERS, NAME, NUMBER, PERMISSIONS, SIZE, TEXT, TIME, get, listed, maybe
from ..wire.link import Link, peer_error, unexpected
from ..wire.protocol import BLOCK_BYTES, Frame
from ..wire.ranges import blocks
from .incoming import IncomingFile
from .limits import ANNOUNCED_BYTES, FILES_AHEAD, MAX_WANTS, WANTED_BYTES, WANTS_AHEAD, Reasons, digest_size, is_known
from .place.destination import Destination
from .records import FileResult, FileSpec, reason

_WANT_BYTES = 64 * 1024

_KNOWN = 4096
"""Digests that are remembered from the question to the answer: of twice as many blocks as a sender asks for ahead."""

_TROUBLE = (OSError, ValueError, OverflowError, LeftToRsync)
"""What may go wrong with one file, with the peer's numbers too."""


class Receiver:
    """The receiver of files. ``on_result`` gets each :class:`FileResult`; ``progress`` gets bytes of data done."""

    def __init__(
        self,
        link: Link,
        digest: Digest,
        place: Destination,
        on_result: Callable[[FileResult], None],
        progress: OnProgress = None,
    ) -> None:
        self.link = link
        self.digest = digest
        self.place = place
        self.on_result = on_result
        self.progress = progress
        self._files: Dict[int, IncomingFile] = {}
        self._announced = 0
        self._held = 0
        self._reasons = Reasons()
        self._buffer = memoryview(bytearray(BLOCK_BYTES))
        self._decompressor = Decompressor()
        self._known: Dict[Tuple[int, int, int], bytes] = {}
        self._more = True
        self._wanted: Dict[int, Tuple[str, int, bool]] = {}
        self._wanted_size = 0
        self._handlers = {
            protocol.FILE: self._file,
            protocol.SKIP: self._skip,
            protocol.ASK: self._ask,
            protocol.DATA: self._data,
            protocol.KEEP: self._keep,
            protocol.HOLE: self._hole,
            protocol.SAME: self._same,
            protocol.RESERVE: self._reserve,
            protocol.FINISH: self._finish,
            protocol.ABORT: self._abort,
            protocol.END: self._end,
        }  # type: Dict[int, Callable[[Frame], None]]

    def run(self, wants: Optional[Iterator[Tuple[str, str]]] = None) -> None:
        """Receive until the sender ends.

        ``wants``: for a pull, the files to ask for, as (path at the sender, name at the receiver).

        Raises LinkError and ProtocolError, once partial files are kept. An error of one file is in its result.
        """
        self._pull = wants is not None
        self._wants = wants
        self._count = 0
        try:
            while True:
                self._ask_for_more()
                if not self._more:
                    break
                frame = self.link.read()
                handler = self._handlers.get(frame.kind)
                if handler is None:
                    if frame.kind == protocol.FAIL:
                        raise peer_error(frame.json())
                    raise unexpected(frame)
                handler(frame)
            self.place.settle()
            self.link.send_json(protocol.DONE)
        finally:
            for arriving in self._files.values():
                arriving.close(keep=True)

    def _ask_for_more(self) -> None:
        while self._wants is not None and len(self._wanted) < WANTS_AHEAD and self._wanted_size < WANTED_BYTES:
            batch: List[Tuple[int, str, str, bool]] = []
            size = 0
            for path, name in self._wants:
                self._count += 1
                length = len(path) + len(name)
                basis = self._has_basis(name)
                self._wanted[self._count] = name, length, basis
                self._wanted_size += length
                batch.append((self._count, path, name, basis))
                size += length
                if len(batch) == MAX_WANTS or size > _WANT_BYTES:
                    break
            self.link.send_json(protocol.WANT, files=batch)
            if not batch:
                self._wants = None

    def _has_basis(self, name: str) -> bool:
        try:
            return self.place.has_basis(name)
        except _TROUBLE:
            return False  # whoever opens it meets the same, and tells

    def _file(self, frame: Frame) -> None:
        value = frame.json()
        number = get(value, "id", NUMBER)
        name = get(value, "name", NAME)
        held, basis = len(frame.payload), False
        if self._pull:
            # The names are ours: what the peer calls the file is not looked at.
            name, basis = self._take_wanted(number)
        spec = FileSpec(
            name,
            get(value, "size", SIZE),
            get(value, "data", SIZE),
            get(value, "mode", PERMISSIONS),
            get(value, "mtime_ns", TIME),
            get(value, "parents", listed(PERMISSIONS))[: name.count("/")],
            get(value, "attributes", maybe(fields.attributes)),
            None if self._pull else get(value, "known", maybe(is_known)),
        )
        if spec.attributes is not None and not self.place.carries:
            raise ProtocolError("attributes that were not requested")
        if number <= self._announced or len(self._files) == FILES_AHEAD or self._held + held > ANNOUNCED_BYTES:
            raise ProtocolError("a file was announced out of turn or beyond the limits")
        self._announced = number
        arriving = IncomingFile(number, spec, self.digest, held)
        self._files[number] = arriving
        self._held += held
        if self._pull:
            arriving.basis = basis  # the sender knows it since it was asked for the file
            return
        try:
            arriving.basis = self.place.has_basis(name)
            arriving.was_known = arriving.basis and bool(spec.known) and self.place.knows(name, spec.known or ())
        except _TROUBLE as error:
            self._leave(arriving, error)
        else:
            self.link.send_json(protocol.STATE, id=number, basis=arriving.basis, known=arriving.was_known)

    def _skip(self, frame: Frame) -> None:
        value = frame.json()
        name, _ = self._take_wanted(get(value, "id", NUMBER))
        why = self._reasons.keep(get(value, "reason", TEXT))
        self.on_result(FileResult(name, 0, 0, 0, why, at_source=True))

    def _take_wanted(self, number: int) -> Tuple[str, bool]:
        if number not in self._wanted:
            raise ProtocolError("a file that was not requested")
        name, length, basis = self._wanted.pop(number)
        self._wanted_size -= length
        return name, basis

    def _ranged(self, frame: Frame) -> Tuple[protocol.Ranged, Optional[IncomingFile]]:
        """Return the frame's content and its file; None if the file was left, and the sender goes on with it."""
        ranged = protocol.read_ranged(frame.payload)
        arriving = self._find(ranged.file)
        if arriving is not None:
            offset, length = ranged.ranges[-1]
            if offset + length > arriving.spec.size:
                raise ProtocolError("a range beyond the end of its file")
        return ranged, arriving

    def _find(self, number: int) -> Optional[IncomingFile]:
        arriving = self._files.get(number)
        if arriving is None and number > self._announced:
            raise ProtocolError("a frame for a file that was not announced")
        return arriving

    def _ask(self, frame: Frame) -> None:
        asked, arriving = self._ranged(frame)
        size = digest_size(asked.code)
        most = protocol.MAX_DIGESTS_BYTES // size
        wanted = list(islice(blocks(asked.ranges, asked.code), most + 1))
        if len(wanted) > most:
            raise ProtocolError("too many digests are requested")
        answer = bytes(len(wanted) * size)
        if arriving is not None:
            try:
                arriving.open(self.place)
                digests = [self._digest(arriving, offset, n, asked.code) for offset, n in wanted]
                answer = b"".join([digest[:size] for digest in digests])
            except _TROUBLE as error:
                self._leave(arriving, error)
        self.link.write(protocol.encode_digests(asked.file, answer))

    def _digest(self, arriving: IncomingFile, offset: int, length: int, block: int) -> bytes:
        view, there = arriving.read_basis(offset, length, self._buffer)
        if view is None:
            return bytes(32)
        digest = self.digest.of(view)
        if there and block == BLOCK_BYTES:
            self._known[arriving.number, offset, length] = digest
            if len(self._known) > _KNOWN:  # of blocks that were not kept
                del self._known[next(iter(self._known))]
        return digest

    def _data(self, frame: Frame) -> None:
        ranged, arriving = self._ranged(frame)
        size = sum(length for _, length in ranged.ranges)
        content = ranged.content
        if ranged.code != NONE:
            content = memoryview(self._decompressor.decompress(ranged.code, content, size))
        if len(content) != size:
            raise ProtocolError("a frame whose length does not match its ranges")
        if arriving is None:
            return
        try:
            arriving.open(self.place)
            arriving.guard.update(ranged.packed)
            arriving.guard.update(content)
            for offset, length in ranged.ranges:
                arriving.write(content[:length], offset)
                content = content[length:]
        except _TROUBLE as error:
            self._leave(arriving, error)
            return
        arriving.sent += size
        self._tell(arriving, size)

    def _keep(self, frame: Frame) -> None:
        ranged, arriving = self._ranged(frame)
        if arriving is None:
            return
        try:
            arriving.open(self.place)
            for offset, length in blocks(ranged.ranges, BLOCK_BYTES):
                digest = self._known.pop((arriving.number, offset, length), None)
                if digest is None:
                    view, there = arriving.read_basis(offset, length, self._buffer)
                    if view is None:
                        raise TruncatedError(arriving.spec.name)
                    if not there:
                        arriving.write(view, offset)
                    digest = self.digest.of(view)
                arriving.guard.update(protocol.pack_ranges([(offset, length)]) + digest)
                self._tell(arriving, length)
        except LinkError:
            raise
        except _TROUBLE as error:
            self._leave(arriving, error)

    def _hole(self, frame: Frame) -> None:
        ranged, arriving = self._ranged(frame)
        if arriving is None:
            return
        try:
            target = arriving.open(self.place)
            arriving.guard.update(ranged.packed)
            for offset, length in ranged.ranges:
                if offset + length == arriving.spec.size and target.overlay:
                    target.cut(offset, arriving.spec.size)
                else:
                    target.punch(offset, length)
        except _TROUBLE as error:
            self._leave(arriving, error)

    def _same(self, frame: Frame) -> None:
        ranged, arriving = self._ranged(frame)
        if arriving is None:
            return
        if not arriving.was_known:
            raise ProtocolError("a file is taken for a known one that is not")
        try:
            arriving.open(self.place)
            arriving.guard.update(ranged.packed)
            with self.link.waiting():
                for offset, length in ranged.ranges:
                    arriving.take_over(offset, length)
        except _TROUBLE as error:
            self._leave(arriving, error)

    def _reserve(self, frame: Frame) -> None:
        ranged, arriving = self._ranged(frame)
        if not self.place.preallocate:
            raise ProtocolError("a reservation that was not requested")
        if arriving is None:
            return
        try:
            target = arriving.open(self.place)
            for offset, length in ranged.ranges:
                target.preallocate(offset, length)
        except _TROUBLE as error:
            self._leave(arriving, error)

    def _finish(self, frame: Frame) -> None:
        number, digest = protocol.read_tail(frame.payload)
        arriving = self._find(number)
        if arriving is None:
            return
        try:
            arriving.open(self.place)
            if arriving.guard.digest() != digest:
                raise LeftToRsync("what arrived is not what was sent: their digests differ")
            target = arriving.finish()
            # A disk may take long to flush, and nothing shows that it gets on.
            with self.link.waiting():
                self.place.finish(target, arriving.spec)
        except _TROUBLE as error:
            self._leave(arriving, error)
        else:
            self._close(arriving.result(), arriving)

    def _abort(self, frame: Frame) -> None:
        value = frame.json()
        arriving = self._find(get(value, "id", NUMBER))
        why = get(value, "reason", TEXT)
        if arriving is not None:
            self._leave(arriving, LeftToRsync(self._reasons.keep(why)), at_source=True)

    def _end(self, frame: Frame) -> None:
        if self._wanted or self._wants is not None or self._files:
            raise ProtocolError("the sender ended before all was sent")
        self._more = False

    def _tell(self, arriving: IncomingFile, count: int) -> None:
        arriving.data += count
        if arriving.data > arriving.spec.size:
            raise ProtocolError("more data than was announced")
        if self.progress is not None:
            self.progress(count)

    def _leave(self, arriving: IncomingFile, error: Exception, at_source: bool = False) -> None:
        space = (error.needed, error.free) if isinstance(error, NoSpaceError) else None
        why = reason(error, arriving.spec.name)[:MAX_TEXT_CHARACTERS]
        opened = arriving.target is not None and arriving.target.fd >= 0
        result = arriving.result()._replace(
            reason=why,
            space=space,
            errno=getattr(error, "errno", None),
            at_source=at_source,
            refusal=self.place.refusal(arriving.spec.name, error, opened),
        )
        self._close(result, arriving)

    def _close(self, result: FileResult, arriving: IncomingFile) -> None:
        del self._files[arriving.number]
        self._held -= arriving.held
        arriving.close(keep=False)
        told = result._asdict()
        for known in ("name", "size", "was_known", "is_mapped"):
            del told[known]  # the sender knows
        self.link.send_json(protocol.CLOSED, id=arriving.number, **told)
        self.on_result(result)
