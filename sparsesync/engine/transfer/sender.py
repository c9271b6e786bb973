"""The sending end of a transfer: which blocks differ, and nothing else goes over the wire.

The sender decides everything; the receiver answers questions (:mod:`receiver`). For each file::

    announce it                                        FILE   -> STATE: is there a basis? (on a pull WANT says it)
    it is the known one:  what has not changed         SAME
                          what has, in short ranges    DATA
                          in long ones, that may only have moved: ask for a digest of the first block. If it is
                          equal, go on as with a basis, else  DATA
    no basis:  send every extent
    a basis:   for each job, that is up to 1 MiB of extents:
                   ask for digests of its blocks       ASK    -> DIGESTS
                   hash the same blocks here
                   equal                               KEEP
                   different: ask again, finer         ASK    -> DIGESTS
                   what still differs                  DATA
                   what lies between extents           HOLE
    what is reserved, if that is wanted                RESERVE
    the guard over it all                              FINISH -> CLOSED

Nothing waits for an answer that could do something else meanwhile: many files are announced ahead, questions for many
jobs are under way, and both ends hash at the same time. The jobs are done in order, so that the guard
is the same at both ends. What is held is a window of jobs, not the file (:mod:`jobs` does them).

The receiver's frames are read by a thread of their own. So the receiver can always write, and two ends
that both write never wait for each other.
"""

import os
import queue
import threading
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Set, Tuple

from ..errors import LeftToRsync, LinkError, OnProgress, ProtocolError
from ..files.extents import Extent
from ..wire import protocol
from ..wire.capabilities import Digest
from ..wire.compression import Compressor
from ..wire.fields import MAX_TEXT_CHARACTERS, NAME, NUMBER, flag, get, listed, row
from ..wire.link import Link, peer_error
from ..wire.protocol import BLOCK_BYTES, CONTROL_BYTES
from ..wire.ranges import blocks
from .jobs import Job, JobWriter, cut
from .limits import (
    ANNOUNCED_BYTES,
    FILES_AHEAD,
    FINE_BYTES,
    MAX_WANTED_BYTES,
    MAX_WANTS,
    WANTS_AHEAD,
    Reasons,
    digest_size,
    pack_known,
    read_result,
)
from .outgoing import OutgoingFile
from .records import FileResult, reason

_JOBS_AHEAD = 128
"""More would take fewer round trips for many small files, but the receiver holds four descriptors for each of them.

Where even so many are not to be had, fewer files are under way: :func:`wire.capabilities.choose_files`.
"""

_MAX_QUEUED_BYTES = 32 << 20
_QUEUED_BYTES = 400
"""Bytes that a frame takes in the queue besides its payload."""

OnResult = Callable[[FileResult], None]


class Sender:
    """The sender of files.

    ``sparse``: as for copy.
    ``on_result``: gets each :class:`FileResult`.
    ``progress``: gets bytes of data done.
    ``reserve``: send reserved ranges, to be reserved at the receiver.
    """

    def __init__(
        self,
        link: Link,
        digest: Digest,
        on_result: Optional[OnResult] = None,
        *,
        compressor: Optional[Compressor] = None,
        sparse: str = "auto",
        reserve: bool = False,
        progress: OnProgress = None,
    ) -> None:
        self.link = link
        self.digest = digest
        self.on_result = on_result
        self.sparse = sparse
        self.reserve = reserve
        self._files: Dict[int, OutgoingFile] = {}
        self._open: Set[int] = set()
        self._held: Dict[int, int] = {}
        self._held_in_all = 0
        self._reasons = Reasons()
        self._announced: Deque[OutgoingFile] = deque()
        self._current: Optional[Tuple[OutgoingFile, Iterator[Job]]] = None
        self._jobs: Deque[Job] = deque()
        self._questions: Deque[Tuple[Job, int, List[Extent]]] = deque()
        self._wanted: Deque[Tuple[int, str, str, bool]] = deque()
        self._wanted_size = 0
        self._wants = 0
        self._wants_over = False
        self._events: "queue.Queue[Any]" = queue.Queue()
        self._put = self._got = 0
        self._writer = JobWriter(link, digest, compressor, progress)

    def send(self, files: Iterator[OutgoingFile]) -> None:
        """Send the files, in order. Raises LinkError and ProtocolError. An error of one file is in its result."""
        self._source = self._numbered(files)
        self._run()

    def send_wanted(self, make: Callable[[str, str], OutgoingFile]) -> None:
        """Send the files that the receiver asks for.

        ``make``: returns the file for a path and a name, or raises why not.
        """
        self._source = self._made(make)
        self._run()

    def _numbered(self, files: Iterator[OutgoingFile]) -> Iterator[Optional[OutgoingFile]]:
        for number, file in enumerate(files, 1):
            file.number = number
            yield file

    def _made(self, make: Callable[[str, str], OutgoingFile]) -> Iterator[Optional[OutgoingFile]]:
        """Yield the wanted files, and None while the next is unknown."""
        while self._wanted or not self._wants_over:
            if not self._wanted:
                yield None
                continue
            number, path, name, basis = self._wanted.popleft()
            self._wanted_size -= len(path) + len(name)
            try:
                file = make(path, name)
            except (OSError, ValueError, LeftToRsync) as error:
                self.link.send_json(protocol.SKIP, id=number, reason=reason(error, path)[:MAX_TEXT_CHARACTERS])
                continue
            file.number, file.basis = number, basis
            yield file

    def _run(self) -> None:
        listener = threading.Thread(target=self._listen, daemon=True)
        listener.start()
        self._exhausted = self._ended = False
        try:
            while True:
                self._announce()
                self._plan()
                if self._jobs and not self._jobs[0].waits:
                    self._do(self._jobs.popleft())
                    while not self._events.empty():
                        self._next_event()
                elif self._exhausted and not (self._jobs or self._current or self._announced):
                    break
                else:
                    self._writer.flush()
                    self._next_event()
            self._ended = True
            self.link.write(protocol.encode(protocol.END))
            while self._next_event():
                pass
            listener.join()
        finally:
            for file in self._files.values():
                file.close()

    # What comes from the receiver

    def _listen(self) -> None:
        try:
            while True:
                frame = self.link.read()
                if frame.kind == protocol.FAIL:
                    raise peer_error(frame.json())
                self._put += len(frame.payload) + _QUEUED_BYTES
                if self._put - self._got > _MAX_QUEUED_BYTES:
                    raise ProtocolError("the receiver sent more than was requested")
                self._events.put(protocol.Frame(frame.kind, memoryview(bytes(frame.payload))))
                if frame.kind == protocol.DONE:
                    return
        except BaseException as error:  # whatever it is, the thread that sends has to know
            self.link.broken = error
            self._events.put(error)

    def _next_event(self) -> bool:
        """Take one event, waiting for it; False if it was the last."""
        with self.link.waiting():
            event = self._events.get()
        if isinstance(event, BaseException):
            raise event
        self._got += len(event.payload) + _QUEUED_BYTES
        if event.kind == protocol.DIGESTS:
            self._answered(event)
        elif event.kind == protocol.STATE:
            value = event.json()
            file = self._files.get(get(value, "id", NUMBER))
            if file is None or file.basis is not None:
                raise ProtocolError("the state of a file that was not announced")
            file.basis = get(value, "basis", flag)
            file.was_known = bool(file.spec.known) and get(value, "known", flag)
        elif event.kind == protocol.CLOSED:
            self._closed(event.json())
        elif event.kind == protocol.WANT:
            self._want(event.json())
        elif event.kind == protocol.DONE:
            if self._files or not self._ended:
                raise ProtocolError("the receiver ended before the sender")
            return False
        else:
            raise ProtocolError("an unexpected frame of kind {}".format(event.kind))
        return True

    def _closed(self, value: Dict[str, Any]) -> None:
        file = self._files.pop(get(value, "id", NUMBER), None)
        if file is None:
            raise ProtocolError("a file is closed that was not announced")
        self._held_in_all -= self._held.pop(file.number)
        result = read_result(value, file.spec.name, file.spec.size, self._reasons)
        if not file.over and result.reason is None:
            raise ProtocolError("a file is closed that was not sent")
        result = result._replace(was_known=file.was_known, is_mapped=file.is_mapped)
        if file.was_known:
            result = result._replace(data=max(result.data, file.spec.data))
        self._writer.drop(file)
        self._done_with(file)
        if self.on_result is not None:
            self.on_result(result)

    def _want(self, value: Dict[str, Any]) -> None:
        wanted = get(value, "files", listed(row(NUMBER, NAME, NAME, flag), MAX_WANTS))
        if self._wants_over or len(self._wanted) + len(wanted) > WANTS_AHEAD + MAX_WANTS:
            raise ProtocolError("more files are requested than allowed")
        self._wants_over = not wanted
        for number, path, name, basis in wanted:
            self._wants += 1
            self._wanted_size += len(path) + len(name)
            if number != self._wants or self._wanted_size > MAX_WANTED_BYTES:
                raise ProtocolError("an invalid request for a file")
            self._wanted.append((number, path, name, basis))

    # What is to be done

    def _announce(self) -> None:
        # The next frame may be as long as any.
        room = ANNOUNCED_BYTES - CONTROL_BYTES
        while not self._exhausted and len(self._files) < FILES_AHEAD and self._held_in_all <= room:
            try:
                file = next(self._source)
            except StopIteration:
                self._exhausted = True
                return
            if file is None:
                return
            self._files[file.number] = file
            self._announced.append(file)
            # How much is left without the zeros is known only once all is read.
            spec = file.spec if self.sparse == "auto" else file.spec._replace(data=0)
            frame = protocol.encode_json(protocol.FILE, id=file.number, **spec._asdict())
            self._held[file.number] = len(frame)
            self._held_in_all += len(frame)
            self.link.write(frame)

    def _plan(self) -> None:
        while len(self._jobs) < _JOBS_AHEAD:
            if self._current is None:
                if self.link.files is not None and len(self._open) >= self.link.files:
                    return
                if not self._announced or (self._announced[0].basis is None and not self._announced[0].over):
                    return
                file = self._announced.popleft()
                if file.over:
                    continue
                try:
                    file.open()
                except (OSError, LeftToRsync) as error:
                    self._give_up(file, error)
                    continue
                self._open.add(file.number)
                file.guard = self.digest.guard(bool(file.basis))
                if file.was_known:
                    file.guard.update(pack_known(file.spec.known or ()))
                    file.was_known = file.since is not None
                self._current = file, cut(file, self.sparse)
            file, jobs = self._current
            try:
                job = None if file.over else next(jobs, None)
            except (OSError, LeftToRsync) as error:
                self._give_up(file, error)
                job = None
            if job is None:
                self._current = None
                continue
            self._jobs.append(job)
            if file.was_known:
                if job.samples:
                    self._ask(job, FINE_BYTES, [next(blocks([each], FINE_BYTES)) for each in job.samples.values()])
            elif file.basis and job.ranges:
                self._ask(job, BLOCK_BYTES, job.ranges)

    def _ask(self, job: Job, block: int, ranges: List[Extent]) -> None:
        job.waits += 1
        self._questions.append((job, block, list(blocks(ranges, block))))
        self.link.write(protocol.encode_ranges(protocol.ASK, job.file.number, ranges, block))

    def _answered(self, event: protocol.Frame) -> None:
        number, answer = protocol.read_tail(event.payload)
        if not self._questions or self._questions[0][0].file.number != number:
            raise ProtocolError("digests that were not requested")
        job, block, asked = self._questions.popleft()
        size = digest_size(block)
        if len(answer) != size * len(asked):
            raise ProtocolError("another number of digests than requested")
        job.waits -= 1
        if job.file.over:
            return
        try:
            different = self._writer.compare(job, asked, answer, size)
        except (OSError, LeftToRsync) as error:
            self._give_up(job.file, error)
            return
        if job.samples:
            moved = [job.samples[offset] for offset, _ in job.same]
            job.samples, job.same, job.digests = {}, [], {}
            if moved:
                self._ask(job, BLOCK_BYTES, moved)
            return
        # Where every block is another one the file was made anew, and to look closer would find nothing.
        if block == BLOCK_BYTES and different and len(different) < max(len(asked), 2):
            self._ask(job, FINE_BYTES, different)

    # What goes to the receiver

    def _do(self, job: Job) -> None:
        file = job.file
        if file.over:
            return
        try:
            self._writer.write(job)
            if job.last:
                self._finish(file)
        except LinkError:
            raise
        except (OSError, LeftToRsync) as error:
            self._give_up(file, error)

    def _finish(self, file: OutgoingFile) -> None:
        self._writer.flush()
        assert file.fd is not None
        if self.reserve and file.believed:
            self._writer.reserve(file)
        file.check(os.fstat(file.fd))
        self._done_with(file)
        self.link.write(protocol.encode_finish(file.number, file.guard.digest()))

    def _give_up(self, file: OutgoingFile, error: Exception) -> None:
        self._writer.drop(file)
        self._done_with(file)
        self.link.send_json(protocol.ABORT, id=file.number, reason=reason(error, file.path)[:MAX_TEXT_CHARACTERS])

    def _done_with(self, file: OutgoingFile) -> None:
        self._open.discard(file.number)
        file.close()
        file.over = True
