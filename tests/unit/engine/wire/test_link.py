"""A connection between two engines: time is watched, descriptors are ours, errors fit into frames."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sparsesync.engine.agent import Agent
from sparsesync.engine.errors import LinkError, ProtocolError
from sparsesync.engine.wire import protocol, rate_limit
from sparsesync.engine.wire.link import Link, peer_error
from sparsesync.engine.wire.protocol import Frame
from sparsesync.engine.wire.rate_limit import RateLimit
from tests.support.transfers import Peer, against

HELLO = {"protocol": protocol.VERSION, "digest": "sha256", "salt": "00", "timeout": None, "files": 100}


@pytest.fixture
def pair() -> Iterator[tuple[Link, Link]]:
    """Two links joined by two pipes."""
    a, b = os.pipe(), os.pipe()
    links = Link(a[0], b[1], name="one"), Link(b[0], a[1], name="other")
    yield links
    for link in links:
        link.close()


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("rate", [1024, 100 * 1024, 10 << 20])
def test_bwlimit(monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    clock = Clock()
    monkeypatch.setattr(rate_limit, "time", clock)
    source, sink = os.pipe()
    link = Link(source, sink)
    link.pace = RateLimit(rate)
    size = min(rate * 3, 128 * 1024)
    link.write(b"x" * (size // 2), b"y" * (size - size // 2))
    assert link.sent == size
    assert clock.now - 1000 == pytest.approx(size / rate, abs=0.03)
    # The peer hears something all the time, so no pause outlasts a timeout.
    assert not clock.pauses or max(clock.pauses) <= 0.51
    # What was not used is not saved up.
    clock.now += 3600
    before = clock.now
    link.write(b"z" * size)
    assert clock.now - before == pytest.approx(size / rate, abs=0.03)
    link.close()


def test_without_bwlimit_there_are_no_pauses(monkeypatch: pytest.MonkeyPatch, pair: tuple[Link, Link]) -> None:
    clock = Clock()
    monkeypatch.setattr(rate_limit, "time", clock)
    pair[0].write(b"x" * 1000)
    assert clock.pauses == []


def test_a_silent_peer_is_given_up(pair: tuple[Link, Link]) -> None:
    one, _ = pair
    one.timeout = 0.05
    with pytest.raises(LinkError, match=r"one: nothing was heard for 0\.05 seconds"):
        one.read()
    with pytest.raises(LinkError, match="nothing was heard"):
        one.write(b"x" * (4 << 20))


def test_a_peer_that_is_busy_is_not(pair: tuple[Link, Link]) -> None:
    one, other = pair
    one.timeout = 0.5
    other.keep_alive(0.02)
    read: list[Frame] = []
    threading.Thread(target=lambda: read.append(one.read()), daemon=True).start()
    while other.sent < 60 * protocol.HEAD.size:  # more than a second of nothing but pings
        assert not read
        threading.Event().wait(0.02)
    other.send_json(protocol.DONE)
    while not read:
        threading.Event().wait(0.01)
    assert read[0].kind == protocol.DONE


@pytest.mark.slow
@pytest.mark.parametrize("does", ["hangs", "waits", "computes"])
def test_a_peer_that_is_alive_is_given_up_unless_it_gets_on(pair: tuple[Link, Link], does: str) -> None:
    one, other = pair
    one.timeout = 0.3
    over = threading.Event()

    def work() -> None:
        other.keep_alive(0.05, working=True)
        if does == "waits":
            with other.waiting():
                over.wait(60)
        elif does == "computes":
            while not over.is_set():
                hashlib.sha256(bytes(1 << 16))
        over.wait(60)

    threading.Thread(target=work, daemon=True).start()
    if does == "hangs":
        with pytest.raises(LinkError, match=r"one: alive, but without progress for 0\.3 seconds"):
            one.read()
    else:
        threading.Timer(1, other.send_json, [protocol.DONE]).start()
        assert one.read().kind == protocol.DONE
    over.set()


def test_a_peer_that_is_gone(pair: tuple[Link, Link]) -> None:
    one, other = pair
    other.write(protocol.encode(protocol.END)[:-1])
    os.dup2(os.open(os.devnull, os.O_RDWR), other.sink)
    with pytest.raises(ProtocolError, match="cut"):
        one.read()
    a, b = os.pipe()
    os.close(a)
    link = Link(os.open(os.devnull, os.O_RDONLY), b, name="far")
    with pytest.raises(LinkError, match="far: the connection is lost: Broken pipe"):
        link.write(b"x")
    with pytest.raises(LinkError, match="far: the connection has ended"):
        link.read()
    link.close()


def test_a_link_that_was_closed_touches_no_descriptor() -> None:
    a, b = os.pipe()
    c, d = os.pipe()
    link = Link(a, d)
    kept = os.dup(a)  # or to write to b might fail, if nobody waits for it yet
    ended = threading.Event()

    def read() -> None:
        with pytest.raises(LinkError, match="closed"):
            link.read()
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    link.close()
    # The numbers are used again, by a file that has something to read.
    again = [os.open("/etc/passwd", os.O_RDONLY) for _ in range(2)]
    assert set(again) == {a, d}
    with contextlib.suppress(BrokenPipeError):  # it had not begun to wait
        os.write(b, b"wake up")
    os.close(b)
    assert ended.wait(20)
    with pytest.raises(LinkError, match="closed"):
        link.write(b"x")
    assert [os.lseek(fd, 0, os.SEEK_CUR) for fd in again] == [0, 0]
    for fd in (c, kept, *again):
        os.close(fd)


@pytest.mark.parametrize(
    "error",
    [OSError(2, "No such file", "/a\udcff"), OSError("text"), ValueError("not right"), ValueError(),
     ValueError("\\" * (2 << 20)), OSError(5, "x", "\udcff" * (1 << 20)), TypeError("x")],
    ids=range(7),
)  # fmt: skip
def test_errors_cross_the_connection(pair: tuple[Link, Link], error: Exception) -> None:
    one, other = pair
    threading.Thread(target=lambda: one.fail(protocol.FAIL, error), daemon=True).start()
    came = peer_error(other.read().json())
    assert isinstance(came, ValueError) == isinstance(error, ValueError)
    if isinstance(error, OSError) and error.filename and len(error.filename) < 100:
        assert (came.errno, came.strerror, came.filename) == (2, "No such file", "/a\udcff")  # type: ignore
    assert str(came)


# The agent's own part


def served(script: Any) -> list[Exception]:
    def play(peer: Peer) -> None:
        assert peer.end.recv(len(protocol.MAGIC)) == protocol.MAGIC
        assert peer.json(protocol.HELLO)["protocol"] == protocol.VERSION
        script(peer)
        peer.all()

    return against(lambda link: Agent(link).serve(), play)


@pytest.mark.parametrize(
    "fields",
    [{"protocol": 1}, {"files": 0}, {"files": None}, {"protocol": "1"}, {"digest": "md5"}, {"digest": 3},
     {"salt": "x"}, {"salt": None},
     {"timeout": "soon"}, {"timeout": -1}, {"timeout": 0}, {"timeout": float("nan")}, {"timeout": float("inf")},
     {"timeout": True}],
    ids=str,
)  # fmt: skip
def test_a_hello_that_makes_no_sense(fields: dict[str, Any]) -> None:
    (error,) = served(lambda peer: peer.say(protocol.HELLO, **{**HELLO, **fields}))
    assert isinstance(error, ProtocolError)


@pytest.mark.parametrize("timeout", [None, 60, 60.5])
def test_hello(timeout: float | None) -> None:
    def script(peer: Peer) -> None:
        peer.say(protocol.HELLO, **{**HELLO, "timeout": timeout})
        peer.say(protocol.CALL, op="mode", arguments={"path": "/"})
        assert peer.json(protocol.DONE)["answer"] & 0o40000
        peer.end.shutdown(1)

    (error,) = served(script)
    assert "ended" in str(error) and not isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [("mode", {"path": 3}), ("mode", {}), ("mode", {"path": "/", "x" * 1_000_000: 1}), ("open", {"path": []}),
     ("open", {"path": "\0", "opening": []}), ("open", {"path": "/", "opening": [3]}), ("look", {"files": [3]}),
     ("send", {"settings": [], "sparse": "auto", "compressor": [3, "x"], "bwlimit": None}),
     ("digests", {"path": "/", "block": 0, "ranges": [["x", -1, 1]]}), ("layers", {"path": "/none", "holes": "auto"})],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_arguments_that_make_no_sense_fail(op: str, arguments: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        peer.say(protocol.HELLO, **HELLO)
        peer.say(protocol.CALL, op=op, arguments=arguments)
        heard = [peer.hear()]
        while heard[-1] is not None and heard[-1][0] in (protocol.ITEM, protocol.TROUBLE):
            heard.append(peer.hear())
        assert heard[-1] is not None and heard[-1][0] in (protocol.FAIL, protocol.DONE)
        # The connection goes on.
        peer.say(protocol.CALL, op="mode", arguments={"path": "/"})
        assert peer.json(protocol.DONE)["answer"] & 0o40000
        peer.end.shutdown(1)

    (error,) = served(script)
    assert "ended" in str(error) and not isinstance(error, ProtocolError)


@pytest.mark.parametrize(
    "call",
    [{"op": "nothing", "arguments": {}}, {"op": 3, "arguments": {}}, {"arguments": {}}, {"op": "mode"},
     {"op": "receive", "arguments": {}}, {"op": "touch", "arguments": {"names": []}}],
    ids=str,
)  # fmt: skip
def test_calls_that_make_no_sense(call: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        peer.say(protocol.HELLO, **HELLO)
        peer.say(protocol.CALL, **call)

    (error,) = served(script)
    assert isinstance(error, ProtocolError)
