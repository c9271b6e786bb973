"""A sender and a receiver joined in one process, whole or with a man in the middle.

Each end runs in a thread over a socket of its own. Whatever happens has to happen within a time that no
transfer of these tests takes: an end that is still running then is a hang, and fails the test.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from sparsesync.engine.errors import LinkError
from sparsesync.engine.files.beneath import Sources
from sparsesync.engine.transfer.outgoing import outgoing
from sparsesync.engine.transfer.place.destination import Destination
from sparsesync.engine.transfer.receiver import Receiver
from sparsesync.engine.transfer.records import FileResult
from sparsesync.engine.transfer.sender import Sender
from sparsesync.engine.wire import protocol
from sparsesync.engine.wire.capabilities import Digest
from sparsesync.engine.wire.compression import Compressor
from sparsesync.engine.wire.link import Link
from sparsesync.engine.wire.protocol import Decoder, Frame

HANG = 20
DIGEST = Digest("sha256", b"salt")

Layout = tuple[int, Sequence[tuple[int, int, int]]]
"""The size of a file and (offset, length, seed) of what is written to it; seed 0 is zeros."""


def write(path: Path, layout: Layout) -> Path:
    """A file of this layout; what lies beyond the size is left out."""
    size, parts = layout
    with open(path, "wb") as file:
        file.truncate(size)
        for offset, length, seed in parts:
            length = min(length, size - offset)
            if length > 0:
                file.seek(offset)
                file.write(content(seed, length))
    return path


def content(seed: int, length: int) -> bytes:
    """Bytes that are the same for the same seed: zeros, text that is easily compressed, or noise."""
    if seed % 3 == 0:
        return bytes([seed]) * length
    if seed % 3 == 1:
        return (b"line %d\n" % seed * (length // 7 + 1))[:length]
    return random.Random(seed).randbytes(length)


@dataclass
class Outcome:
    """What both ends say of a transfer."""

    sender: list[FileResult] = field(default_factory=list)
    receiver: list[FileResult] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    wire: tuple[int, int] = (0, 0)

    @property
    def sent(self) -> int:
        return sum(result.sent for result in self.receiver)

    def left(self, name: str) -> str | None:
        (found,) = [result for result in self.receiver if result.name == name]
        return found.reason


class Running:
    """Threads that have to end: errors of the connection are an outcome, anything else fails the test."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self._wrong: list[str] = []
        self._threads: list[threading.Thread] = []

    def start(self, call: Callable[[], None], then: Callable[[], None]) -> None:
        def run() -> None:
            try:
                call()
            except LinkError as error:
                assert "\n" not in str(error) and str(error)
                self.errors.append(error)
            except BaseException:
                self._wrong.append(traceback.format_exc())
            finally:
                then()

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(HANG)
        hanging = [thread.ident for thread in self._threads if thread.is_alive()]
        frames = sys._current_frames()
        stacks = ["".join(traceback.format_stack(frames[ident])) for ident in hanging if ident in frames]
        assert not hanging, "a hang:\n" + "\n".join(stacks)
        assert not self._wrong, "\n".join(self._wrong)


def _link(end: socket.socket, timeout: float | None = None) -> Link:
    link = Link(os.dup(end.fileno()), os.dup(end.fileno()))
    link.timeout = timeout
    return link


def _shut(end: socket.socket) -> Callable[[], None]:
    """Ends a connection for both sides, while its descriptors stay: a thread may still be reading."""

    def shut() -> None:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)

    return shut


@dataclass
class Middle:
    """A man in the middle who lets ``count`` bytes of one direction pass, then flips a byte or cuts both."""

    to_receiver: bool
    count: int
    flip: int = 0

    def relay(self, source: socket.socket, sink: socket.socket, mine: bool) -> None:
        passed = 0
        while True:
            try:
                data = bytearray(source.recv(1 << 16))
                if mine and passed <= self.count < passed + len(data):
                    at = self.count - passed
                    if self.flip:
                        data[at] ^= self.flip
                    else:
                        sink.sendall(data[:at])
                        data.clear()
                passed += len(data)
                if not data:
                    break
                sink.sendall(data)
            except OSError:
                break
        _shut(source)()
        _shut(sink)()


def transfer(
    files: Sequence[tuple[Path, str]],
    place: Destination,
    *,
    pull: bool = False,
    compressor: str | None = None,
    sparse: str = "auto",
    middle: Middle | None = None,
    on_data: Callable[[int], object] | None = None,
    timeout: float | None = None,
) -> Outcome:
    """Transfer (path, name) files into a place. ``on_data`` is called by the receiver for data that was done."""
    outcome = Outcome()
    left, right = socket.socketpair()
    ends = [left, right]
    running = Running()
    if middle is not None:
        inner_left, inner_right = socket.socketpair()
        ends += [inner_left, inner_right]
        for way, mine in (((right, inner_left), middle.to_receiver), ((inner_left, right), not middle.to_receiver)):
            running.start(functools.partial(middle.relay, *way, mine), lambda: None)
        right = inner_right
    sending, receiving = _link(left, timeout), _link(right, timeout)
    squeeze = Compressor(compressor, None) if compressor else None
    sender = Sender(sending, DIGEST, outcome.sender.append, compressor=squeeze, sparse=sparse)
    receiver = Receiver(receiving, DIGEST, place, outcome.receiver.append, on_data)

    def send() -> None:
        with Sources() as sources:
            if pull:
                sender.send_wanted(lambda path, name: outgoing(path, name, sources))
            else:
                sender.send(outgoing(str(path), name, sources) for path, name in files)

    def receive() -> None:
        receiver.run(((str(path), name) for path, name in files) if pull else None)

    running.start(send, _shut(left))
    running.start(receive, _shut(right))
    try:
        running.join()
    finally:
        for end in ends:
            end.close()
    outcome.errors = running.errors
    outcome.wire = sending.sent, receiving.sent
    for link in (sending, receiving):
        link.close()
    return outcome


class Peer:
    """The other end, played by a test: frames as they are wanted, however little sense they make."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._decoder = Decoder()
        self._frames: Iterator[Frame] = iter(())

    def say(self, kind: int, **values: Any) -> None:
        self.write(protocol.encode_json(kind, **values))

    def write(self, *data: bytes) -> None:
        self.end.sendall(b"".join(data))

    def hear(self) -> tuple[int, bytes] | None:
        """The next frame of the other end, None at the end."""
        while True:
            for frame in self._frames:
                return frame.kind, bytes(frame.payload)
            data = self.end.recv(1 << 16)
            if not data:
                return None
            self._frames = self._decoder.feed(data)

    def json(self, kind: int) -> dict[str, Any]:
        """The next frame, which has to be of this kind."""
        heard = self.hear()
        assert heard is not None and heard[0] == kind, heard
        return Frame(heard[0], memoryview(heard[1])).json()

    def ignore(self) -> None:
        """Take all that is said from now on, so that the other end never waits."""

        def run() -> None:
            with contextlib.suppress(OSError):  # closed when the test is over
                while self.end.recv(1 << 16):
                    pass

        threading.Thread(target=run, daemon=True).start()

    def all(self) -> list[tuple[int, bytes]]:
        """All that is still said, until the end."""
        return list(iter(self.hear, None))  # type: ignore[arg-type]


def against(run: Callable[[Link], None], script: Callable[[Peer], None]) -> list[Exception]:
    """Run one end against a script; what the connection ended with. The script may be cut short by that end."""
    mine, theirs = socket.socketpair()
    running = Running()
    link = _link(mine)
    peer = Peer(theirs)

    def play() -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            script(peer)

    running.start(lambda: run(link), _shut(mine))
    running.start(play, _shut(theirs))
    try:
        running.join()
    finally:
        mine.close()
        theirs.close()
        link.close()
    return running.errors
