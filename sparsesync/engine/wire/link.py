"""One connection between two engines: file descriptors around :mod:`protocol`.

:class:`Link` reads and writes frames, and is where time is watched: a peer that is silent for longer than
``timeout`` is given up, and so is one that says no more than that it is alive; ``pace`` slows down what is
written. Both descriptors are non-blocking and waited for by poll(2), since a write to a pipe may otherwise hang in
the kernel for good.

Reading and writing may happen in two threads, and pings come from a third; so writing is
locked, and a frame is always written whole.

Two engines may have more connections, which carry a part of the content: :mod:`streams`.
"""

import contextlib
import errno
import os
import select
import struct
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NoReturn, Optional, Tuple, Union

from ..errors import LinkError, ProtocolError
from . import protocol
from .fields import ERRNO, MAX_TEXT_CHARACTERS, TEXT, flag, get, maybe
from .protocol import Decoder, Frame
from .rate_limit import RateLimit

Part = Union[bytes, memoryview]

_POLL_SECONDS = 1.0
"""Seconds after which whoever waits looks whether there is still something to wait for."""

_CHECK_SECONDS = 0.1
"""The same, where somebody may want no more of it."""

_PIPE_BYTES = 1 << 20
"""What pipes are made to hold if allowed: an unprivileged process may ask for this much by default, pipe(7)."""

_F_SETPIPE_SZ = 1031

_IDLE_CPU_SECONDS = 0.0002
"""Seconds of the processor that mean nothing: so much a thread needs that only sleeps."""

_SHOWN_BYTES = 200

_COUNT = struct.Struct(">Q")


class Link:
    """A connection by two descriptors, which it owns and closes.

    ``timeout``: seconds of silence after which the connection is given up; None for never.
    ``pace``: the RateLimit of what is written; None for no limit.
    ``files``: the number of files that may be open at once at either end; None for no limit.
    ``check``: called again and again while a frame is read or written; it may raise a LinkError. None for nothing.
    ``name``: the peer's name in messages.
    ``greeting``: the peer speaks first, and sends no ping before its greeting.
    ``line``: the peer sends a line before its first frame, which is thrown away unread.
    ``broken``: an error that another thread met while reading; it is raised when writing would wait.
    ``streams``: more connections to the same peer, each with its number, from 1 on, at both ends.
    """

    def __init__(
        self, source: int, sink: int, *, greeting: bool = False, line: bool = False, name: str = "the peer"
    ) -> None:
        self.source = source
        self.sink = sink
        self.name = name
        self.timeout: Optional[float] = None
        self._deadline: Optional[float] = None
        self._silent = greeting
        self.broken: Optional[BaseException] = None
        self.pace: Optional[RateLimit] = None
        self.files: Optional[int] = None
        self.check: Optional[Callable[[], object]] = None
        self.received: int = 0
        self.sent: int = 0
        self._decoder = Decoder(greeting, line)
        self._frames = iter(())  # type: Any
        self._lock = threading.Lock()
        self._pinger: Optional[threading.Event] = None
        self._pinged: Optional[bytes] = None
        self._worker: Optional[int] = None
        self._waits = False
        # Closing waits for calls that are under way, which never block: what a late thread reads or
        # writes must not be another file that has got the descriptor's number.
        self._reading, self._writing = threading.Lock(), threading.Lock()
        self._closed = False
        self.streams: List["Link"] = []
        self._latest = 0
        for fd in (source, sink):
            os.set_blocking(fd, False)
            _widen(fd)

    def read(self) -> Frame:
        """Return the next frame that is not a ping. Raises LinkError at the end of the stream, ProtocolError."""
        frame = self._read()
        return self._from_stream(frame) if frame.kind == protocol.STREAM else frame

    def _from_stream(self, announced: Frame) -> Frame:
        number = announced.payload[0] if announced.payload else 0
        if not 0 < number <= len(self.streams):
            raise ProtocolError("a frame comes by a stream that there is not")
        with self.waiting():
            frame = self.streams[number - 1]._read()
        if frame.kind != protocol.DATA:
            raise unexpected(frame)
        return frame

    def _read(self) -> Frame:
        since = 0.0 if self.timeout is None else time.monotonic()
        while True:
            frame: Frame
            for frame in self._frames:
                if frame.kind != protocol.PING:
                    self._silent = False
                    return frame
                if self._silent:
                    raise unexpected(frame)
                if self.timeout is not None:
                    since = self._heard(bytes(frame.payload), since)
            self._fill()

    def begin(self, have: bytes) -> None:
        """Take what :meth:`ahead` has read as the beginning of the greeting. Raises ProtocolError if it is none."""
        self._decoder.space()[: len(have)] = have
        self._received(len(have))

    def refuse(self, have: bytes) -> NoReturn:
        """Raise ProtocolError for what :meth:`ahead` has read, and what comes behind it at once."""
        with contextlib.suppress(OSError):
            have += os.read(self.source, _SHOWN_BYTES)
        self._decoder.refuse(have)

    def ahead(self, count: int) -> bytes:
        """Read bytes that precede the greeting, at most ``count``. Raises LinkError."""
        while True:
            self._left()
            try:
                have = os.read(self.source, count)
            except BlockingIOError:
                self._wait(select.POLLIN, self.source)
                continue
            except OSError as error:
                self._lost(error)
            if not have:
                raise LinkError("the connection has ended", self.name)
            return have

    def _heard(self, ping: bytes, since: float) -> float:
        """Since when the peer has not got on. Raises LinkError if that is too long ago."""
        assert self.timeout is not None
        now = time.monotonic()
        if ping != self._pinged:
            self._pinged = ping
            return now
        if now - since > self.timeout:
            raise LinkError("alive, but without progress for {} seconds".format(self.timeout), self.name)
        return since

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Give up the connection after the timeout, even if pings or an incomplete frame arrive."""
        if self.timeout is not None:
            self._deadline = time.monotonic() + self.timeout
        try:
            yield
        finally:
            self._deadline = None

    def _fill(self) -> None:
        space = self._decoder.space()
        while True:
            if self.check is not None:
                self.check()
            self._left()
            try:
                with self._reading:
                    self._check_open()
                    count = os.readv(self.source, [space])
                break
            except LinkError:
                raise
            except BlockingIOError:
                self._wait(select.POLLIN, self.source)
            except OSError as error:
                self._lost(error)
        if not count:
            try:
                self._decoder.ended()
            except ProtocolError as error:
                raise ProtocolError(str(error), self.name, retryable=True) from None
            raise LinkError("the connection has ended", self.name)
        self._received(count)

    def _received(self, count: int) -> None:
        self.received += count
        self._decoder.received(count)
        self._frames = self._decoder.frames()

    def write(self, *parts: Part) -> None:
        """Write the parts, one after the other. Raises LinkError."""
        with self._lock:
            rest: List[memoryview] = [memoryview(part) for part in parts if part]
            while rest:
                # By the eighth of a second, so that the peer hears something all the time.
                pace = self.pace
                now = rest if pace is None else [rest[0][: max(pace.rate // 8, 512)]]
                try:
                    with self._writing:
                        self._check_open()
                        count = os.writev(self.sink, now)
                except LinkError:
                    raise
                except BlockingIOError:
                    self._wait(select.POLLOUT, self.sink)
                    continue
                except OSError as error:
                    self._lost(error)
                self.sent += count
                if pace is not None:
                    pace.spend(count)
                while rest and count >= len(rest[0]):
                    count -= len(rest.pop(0))
                if count:
                    rest[0] = rest[0][count:]

    def add_stream(self, stream: "Link") -> None:
        """Have another connection to the same peer carry content too. It is closed with this one."""
        stream.timeout, stream.check = self.timeout, self._check_whole
        self.streams.append(stream)

    def write_data(self, *parts: Part) -> None:
        """Write the parts of a DATA frame, by a stream that has room. Raises LinkError."""
        links = [self, *self.streams]
        if len(links) > 1:
            ready = {fd for fd, _ in self._wait(select.POLLOUT, *[link.sink for link in links])}
            after = self._latest + 1
            turns = [number % len(links) for number in range(after, after + len(links))]
            self._latest = next((number for number in turns if links[number].sink in ready), 0)
        if not self._latest:
            self.write(*parts)
            return
        stream = links[self._latest]
        stream.pace = self.pace
        self.write(protocol.encode(protocol.STREAM, bytes([self._latest])))
        with self.waiting():
            stream.write(*parts)

    def _check_whole(self) -> None:
        """Raise what ends the reading or writing of a stream: what ends that of this link."""
        if self.check is not None:
            self.check()
        if self.broken is not None:
            raise self.broken

    def _check_open(self) -> None:
        if self._closed:
            raise LinkError("the connection was closed", self.name)

    def _lost(self, error: OSError) -> NoReturn:
        raise LinkError("the connection is lost: {}".format(error.strerror), self.name) from None

    def _wait(self, event: int, *fds: int) -> List[Tuple[int, int]]:
        """Wait for one of the descriptors, and return those that are ready, as poll(2)."""
        if threading.get_ident() == self._worker and not self._waits:
            with self.waiting():
                return self._wait(event, *fds)
        poll = select.poll()
        for fd in fds:
            poll.register(fd, event)
        left = self._left()
        step = _POLL_SECONDS if self.check is None else _CHECK_SECONDS
        while True:
            if self.check is not None:
                self.check()
            # A peer that reads no more would be waited for without end, whatever it has said meanwhile.
            if event == select.POLLOUT and self.broken is not None:
                raise self.broken
            ready = poll.poll(1000 * (step if left is None else min(left, step)))
            if ready:
                return ready
            if left is not None:
                left -= step
                if left <= 0:
                    self._left()
                    raise LinkError("nothing was heard for {} seconds".format(self.timeout), self.name)

    def _left(self) -> Optional[float]:
        """For how many seconds there may be silence; None for ever. Raises LinkError if time is up."""
        deadline = self._deadline  # another thread may take it away
        if deadline is None:
            return self.timeout
        left = deadline - time.monotonic()
        if left <= 0:
            raise LinkError("no answer within {} seconds".format(self.timeout), self.name)
        return left

    def is_cut(self) -> bool:
        """Return whether the peer is known to have gone, without reading."""
        poll = select.poll()
        poll.register(self.source, select.POLLRDHUP)
        return bool(poll.poll(0))

    def send_json(self, kind: int, **values: Any) -> None:
        """Write a control frame."""
        self.write(protocol.encode_json(kind, **values))

    def fail(self, kind: int, error: BaseException) -> None:
        """Write an error as a FAIL or TROUBLE frame."""
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        name, code = getattr(error, "filename", None), getattr(error, "errno", None)
        self.send_json(
            kind,
            errno=code if ERRNO(code) else None,
            strerror=text[:MAX_TEXT_CHARACTERS],
            filename=None if name is None else os.fsdecode(name)[:MAX_TEXT_CHARACTERS],
            value=isinstance(error, ValueError),
        )

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark the thread that called :meth:`keep_alive` as waiting for the peer or a flush, not hanging."""
        self._waits, before = True, self._waits
        try:
            yield
        finally:
            self._waits = before

    def keep_alive(self, interval: float, *, working: bool = False) -> None:
        """Send pings every ``interval`` seconds, in a thread of their own, until the link is closed.

        ``working``: send them only while the calling thread computes, or is :meth:`waiting`. If it hangs on a disk that
        does not answer, the peer gives up the connection.
        """
        stop = self._pinger = threading.Event()
        self._worker = threading.get_ident()
        find_clock = getattr(time, "pthread_getcpuclockid", None)  # from Python 3.7 on
        clock = find_clock(self._worker) if working and find_clock else None

        def run() -> None:
            count, used = 0, 0.0
            while not stop.wait(interval):
                now = used if clock is None else time.clock_gettime(clock)
                if clock is None or self._waits or now - used > _IDLE_CPU_SECONDS:
                    count, used = count + 1, now
                try:
                    self.write(protocol.encode(protocol.PING, _COUNT.pack(count)))
                except OSError:
                    return  # whoever reads or writes next meets the same and tells

        threading.Thread(target=run, daemon=True).start()

    def close(self) -> None:
        """Close both descriptors, once. The peer sees the end of the stream."""
        if self._pinger is not None:
            self._pinger.set()
        for stream in self.streams:
            stream.close()
        with self._reading, self._writing:
            fds, self._closed = set() if self._closed else {self.source, self.sink}, True
            for fd in fds:
                os.close(fd)


def peer_error(value: Dict[str, Any]) -> Exception:
    """Return the error of a FAIL or TROUBLE frame as the peer raised it: an OSError or a ValueError."""
    code, name = get(value, "errno", maybe(ERRNO)), get(value, "filename", maybe(TEXT))
    text = get(value, "strerror", TEXT)
    if get(value, "value", flag):
        return ValueError(text)
    if code == errno.EPIPE:  # it is not our own output that has nobody to read it
        code = errno.EIO
    return OSError(text) if code is None else OSError(code, text, name)


def unexpected(frame: Frame) -> ProtocolError:
    """Return the error for a frame that is not expected now."""
    return ProtocolError("an unexpected frame of kind {}".format(frame.kind))


def _widen(fd: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        pass  # a socket, or more than this user may have: it works as it is
