"""More connections below one link: what is written comes in its order, by whichever stream, or the link is lost."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesync.engine.errors import LinkError, ProtocolError
from sparsesync.engine.wire import protocol, streams
from sparsesync.engine.wire.link import Link
from sparsesync.engine.wire.streams import Meeting, join


@contextlib.contextmanager
def linked(count: int) -> Iterator[tuple[Link, Link]]:
    """Two links joined by ``count`` sockets, the first and its streams."""
    ends = [socket.socketpair() for _ in range(count)]
    one, other = ([Link(end.fileno(), end.detach()) for end in side] for side in zip(*ends))
    for link, *more in (one, other):
        for stream in more:
            link.add_stream(stream)
    try:
        yield one[0], other[0]
    finally:
        one[0].close()
        other[0].close()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.lists(st.tuples(st.booleans(), st.integers(1, protocol.PAYLOAD_BYTES)), max_size=40))
def test_all_comes_once_and_in_order(count: int, frames: list[tuple[bool, int]]) -> None:
    with linked(count) as (one, other):

        def write() -> None:
            for number, (is_data, size) in enumerate(frames):
                if is_data:
                    packed = protocol.pack_ranges([(number, size)])
                    one.write_data(protocol.data_head(1, 0, packed, size), bytes([number]) * size)
                else:
                    one.send_json(protocol.ITEM, number=number)

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        for number, (is_data, size) in enumerate(frames):
            frame = other.read()
            if is_data:
                ranged = protocol.read_ranged(frame.payload)
                assert frame.kind == protocol.DATA and ranged.ranges == [(number, size)]
                assert ranged.content == bytes([number]) * size
            else:
                assert frame.json() == {"number": number}
        writing.join(10)
        sent = [one.sent, *(stream.sent for stream in one.streams)]
        assert not any(size for size in sent[1 + sum(is_data for is_data, _ in frames) :])


def test_whoever_has_room_takes_the_next() -> None:
    with linked(3) as (one, other):
        block = protocol.data_head(1, 0, protocol.pack_ranges([(0, 4096)]), 4096), bytes(4096)
        for _ in range(6):
            one.write_data(*block)
        assert len({stream.sent for stream in one.streams}) == 1 and one.streams[0].sent > 8192
        assert [other.read().kind for _ in range(6)] == [protocol.DATA] * 6


@pytest.mark.parametrize("number", [b"", b"\0", b"\2"])
def test_a_stream_that_there_is_not(number: bytes) -> None:
    with linked(2) as (one, other):
        one.write(protocol.encode(protocol.STREAM, number))
        with pytest.raises(ProtocolError, match="by a stream that there is not"):
            other.read()


def test_what_does_not_belong_in_a_stream_and_the_end_of_one() -> None:
    with linked(2) as (one, other):
        one.write(protocol.encode(protocol.STREAM, b"\1") * 2)
        one.streams[0].send_json(protocol.DONE)
        with pytest.raises(ProtocolError, match="an unexpected frame of kind"):
            other.read()
        one.streams[0].close()
        with pytest.raises(LinkError, match="the connection has ended"):
            other.read()
        one.broken = LinkError("it is over")
        with pytest.raises(LinkError, match="it is over"):
            one.streams[0].check()  # type: ignore[misc]


def test_a_meeting_takes_those_who_know_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    with Meeting() as meeting, linked(1) as (main, _), contextlib.ExitStack() as stack:
        name, secret = meeting.open()
        assert meeting.open() == (name, secret)
        heard: list[Link] = []
        for number, given_secret in ((2, secret), (1, secret), (3, "00" * 16)):
            here, there = socket.socketpair()
            heard.append(Link(here.fileno(), here.detach()))
            stack.callback(heard[-1].close)
            link = Link(there.fileno(), os.dup(there.detach()))
            threading.Thread(target=_joining, args=(link, name, given_secret, number), daemon=True).start()
            assert heard[-1].read().kind == protocol.DONE
        meeting.widen(main, [1, 2])
        for number, stream in enumerate(main.streams, 1):
            stream.send_json(protocol.ITEM, number=number)
        assert [heard[at].read().json()["number"] for at in (0, 1)] == [2, 1]
        monkeypatch.setattr(streams, "_WAIT_SECONDS", 0.05)
        with pytest.raises(OSError, match="timed out"):
            meeting.widen(main, [3])
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        with pytest.raises(PermissionError):
            join(main, name, secret, 4)
    with pytest.raises(ConnectionRefusedError):
        join(main, name, secret, 4)


def test_a_crowd_at_the_meeting_keeps_nobody_waiting() -> None:
    """Any user of the machine may connect: a meeting's name is in /proc/net/unix."""
    with Meeting() as meeting, linked(1) as (main, _), contextlib.ExitStack() as stack:
        name, secret = meeting.open()
        with contextlib.suppress(BlockingIOError):
            while True:
                stranger = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                stranger.setblocking(False)
                stranger.connect("\0sparsesync-" + name)
        failed: list[OSError] = []

        def come() -> None:
            try:
                join(main, name, secret, 1)
            except OSError as error:
                failed.append(error)

        coming = threading.Thread(target=come, daemon=True)
        coming.start()
        coming.join(5)
        assert isinstance(failed[0], BlockingIOError)


def _joining(link: Link, name: str, secret: str, number: int) -> None:
    with pytest.raises(LinkError, match="another agent's"):
        join(link, name, secret, number)
