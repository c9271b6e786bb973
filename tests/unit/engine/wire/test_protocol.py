"""The bytes between two engines: what survives any cutting, and what is refused."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.engine.errors import ProtocolError
from sparsesync.engine.wire import fields, protocol
from sparsesync.engine.wire.capabilities import (
    Digest,
    capabilities,
    choose_compressor,
    choose_digest,
)
from sparsesync.engine.wire.compression import NONE
from sparsesync.engine.wire.protocol import Decoder, Frame

CONTROL_KINDS = (
    protocol.HELLO, protocol.CALL, protocol.ITEM, protocol.TROUBLE, protocol.DONE, protocol.FAIL, protocol.WANT,
    protocol.FILE, protocol.SKIP, protocol.STATE, protocol.ABORT, protocol.CLOSED,
)  # fmt: skip
RANGED_KINDS = (protocol.ASK, protocol.KEEP, protocol.HOLE)

# Names as the file system has them: any bytes, by way of surrogate escapes.
names = st.binary(min_size=1, max_size=60).map(lambda name: name.decode("utf-8", "surrogateescape"))
values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)


@st.composite
def range_lists(draw: Any) -> list[tuple[int, int]]:
    steps = draw(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 1 << 40)), min_size=1, max_size=20))
    ranges, end = [], 0
    for gap, length in steps:
        ranges.append((end + gap, length))
        end += gap + length
    return ranges


numbers = st.integers(0, (1 << 32) - 1)


@st.composite
def frames(draw: Any) -> tuple[bytes, int, Any]:
    """A frame, its kind, and what its reader gives."""
    form = draw(st.sampled_from(["json", "ranges", "data", "digests", "finish", "empty"]))
    number = draw(numbers)
    if form == "json":
        kind, value = draw(st.sampled_from(CONTROL_KINDS)), draw(st.dictionaries(names, values, max_size=5))
        value.pop("kind", None)
        return protocol.encode_json(kind, **value), kind, value
    if form == "empty":
        kind = draw(st.sampled_from([protocol.PING, protocol.END]))
        return protocol.encode(kind), kind, b""
    if form in ("digests", "finish"):
        tail = draw(st.binary(max_size=200))
        encode, kind = {
            "digests": (protocol.encode_digests, protocol.DIGESTS), "finish": (protocol.encode_finish, protocol.FINISH)
        }[form]  # fmt: skip
        return encode(number, tail), kind, (number, tail)
    ranges = draw(range_lists())
    code = draw(numbers)
    if form == "ranges":
        kind = draw(st.sampled_from(RANGED_KINDS))
        return protocol.encode_ranges(kind, number, ranges, code), kind, (number, code, ranges, b"")
    content = draw(st.binary(max_size=2000))
    head = protocol.data_head(number, code, protocol.pack_ranges(ranges), len(content))
    return head + content, protocol.DATA, (number, code, ranges, content)


def meaning(frame: protocol.Frame) -> Any:
    """A frame as its reader understands it."""
    if frame.kind in CONTROL_KINDS:
        return frame.json()
    if frame.kind in (protocol.PING, protocol.END):
        return bytes(frame.payload)
    if frame.kind in (protocol.DIGESTS, protocol.FINISH):
        return protocol.read_tail(frame.payload)
    ranged = protocol.read_ranged(frame.payload)
    assert bytes(ranged.packed) == protocol.pack_ranges(ranged.ranges)
    return ranged.file, ranged.code, ranged.ranges, bytes(ranged.content)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    borders = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in zip(borders, borders[1:])]


def decoded(decoder: Decoder, parts: list[bytes]) -> list[tuple[int, Any]]:
    return [(frame.kind, meaning(frame)) for part in parts for frame in decoder.feed(part)]


@given(st.lists(frames(), max_size=6), st.lists(st.integers(0, 1 << 20), max_size=30), st.booleans())
def test_frames_survive_any_cutting(sent: list[Any], cuts: list[int], greeting: bool) -> None:
    stream = (protocol.MAGIC if greeting else b"") + b"".join(frame for frame, _, _ in sent)
    decoder = Decoder(greeting)
    assert decoded(decoder, pieces(stream, cuts)) == [(kind, value) for _, kind, value in sent]
    decoder.ended()


def test_frames_survive_byte_by_byte_and_all_at_once() -> None:
    large = protocol.data_head(7, NONE, protocol.pack_ranges([(0, protocol.PAYLOAD_BYTES)]), protocol.PAYLOAD_BYTES)
    stream = protocol.MAGIC + b"".join(
        [
            protocol.encode_json(protocol.HELLO, name="\udcff\u00e9"),
            *(protocol.encode(protocol.PING) for _ in range(3)),
            protocol.encode_ranges(protocol.ASK, 1, [(0, 5), (9, 1)], 4096),
            protocol.encode(protocol.END),
        ]
    )
    found = decoded(Decoder(True), [bytes([byte]) for byte in stream])
    assert [kind for kind, _ in found] == [protocol.HELLO, *[protocol.PING] * 3, protocol.ASK, protocol.END]
    assert found[0][1] == {"name": "\udcff\u00e9"}
    # The longest frames there are, more of them than the buffer holds.
    longest = protocol.encode_json(protocol.ITEM, text="x" * (protocol.CONTROL_BYTES - len('{"text":""}')))
    content = large + b"y" * protocol.PAYLOAD_BYTES
    found = decoded(Decoder(), [(longest + content) * 5])
    assert [kind for kind, _ in found] == [protocol.ITEM, protocol.DATA] * 5
    assert all(value[3] == b"y" * protocol.PAYLOAD_BYTES for kind, value in found if kind == protocol.DATA)


@given(st.lists(frames(), min_size=1, max_size=4), st.integers(0, 1 << 30), st.integers(1, 255), st.booleans())
def test_a_bad_byte_is_seen(sent: list[Any], at: int, flip: int, greeting: bool) -> None:
    stream = bytearray((protocol.MAGIC if greeting else b"") + b"".join(frame for frame, _, _ in sent))
    at %= len(stream)
    stream[at] ^= flip
    decoder = Decoder(greeting)
    good = []
    try:
        for frame in decoder.feed(bytes(stream)):
            good.append((frame.kind, bytes(frame.payload)))
            meaning(frame)
        decoder.ended()
    except ProtocolError:
        whole = [(frame[0], frame[protocol.HEAD.size :]) for frame, _, _ in sent]
        assert good == whole[: len(good)] or good[-1][0] == protocol.DATA
    else:
        # Only content is not checked here: the digest over the whole file is there for it.
        position = len(protocol.MAGIC) if greeting else 0
        for frame, kind, _ in sent:
            if position <= at < position + len(frame):
                assert kind == protocol.DATA and at >= position + protocol.HEAD.size
            position += len(frame)


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5), st.booleans(), st.booleans())
def test_garbage_is_refused_and_nothing_else_happens(
    garbage: bytes, cuts: list[int], greeting: bool, framed: bool
) -> None:
    if framed:  # heads that are right, payloads that are not
        kind = garbage[0] % 22 if garbage else 1
        garbage = protocol.encode(kind, garbage[1:])
    decoder = Decoder(greeting)
    try:
        decoded(decoder, pieces(garbage, cuts))
        decoder.ended()
    except ProtocolError as error:
        assert "\n" not in str(error) and str(error)


@given(st.lists(frames(), min_size=1, max_size=3), st.integers(0, 1 << 30), st.booleans())
def test_a_stream_that_was_cut(sent: list[Any], at: int, greeting: bool) -> None:
    stream = (protocol.MAGIC if greeting else b"") + b"".join(frame for frame, _, _ in sent)
    borders = [len(protocol.MAGIC) if greeting else 0]
    for frame, _, _ in sent:
        borders.append(borders[-1] + len(frame))
    at %= len(stream)
    decoder = Decoder(greeting)
    found = decoded(decoder, [stream[:at]])
    assert len(found) == max(0, sum(border <= at for border in borders) - 1)
    if at in borders:
        decoder.ended()
    else:
        with pytest.raises(ProtocolError, match="cut"):
            decoder.ended()


def head(kind: int, length: int) -> bytes:
    """A head that is right in all but what it says."""
    return protocol.HEAD.pack(kind, length, 0, zlib.crc32(struct.pack(">BII", kind, length, 0)))


@pytest.mark.parametrize("kind", [0, 24, 99, 255])
def test_an_unknown_kind(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"unknown kind {kind}"):
        decoded(Decoder(), [head(kind, 0)])


@pytest.mark.parametrize("kind", range(1, 21))
def test_a_length_over_the_limit_is_refused_by_the_head_alone(kind: int) -> None:
    def refused(length: int) -> bool:
        try:
            assert decoded(Decoder(), [head(kind, length)]) == [] or length == 0
        except ProtocolError as error:
            assert str(length) in str(error)
            return True
        return False

    assert refused((1 << 32) - 1)
    low, high = 0, (1 << 32) - 1  # the limit, found by halving
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refused(middle) else (middle, high)
    assert low <= protocol.CONTROL_BYTES
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            decoded(Decoder(), [head(kind, 1 << 31)])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def ranged(*ranges: tuple[int, int], count: int | None = None, more: bytes = b"") -> memoryview:
    packed = b"".join(struct.pack(">QQ", *each) for each in ranges)
    return memoryview(struct.pack(">III", 1, 0, len(ranges) if count is None else count) + packed + more)


@pytest.mark.parametrize(
    "payload",
    [
        ranged((5, 5), (0, 5)),
        ranged((0, 5), (4, 5)),
        ranged((0, 5), (0, 5)),
        ranged((0, 0)),
        ranged((0, 5), (7, 0)),
        ranged(((1 << 63) - 1, 1)),
        ranged(((1 << 64) - 1, (1 << 64) - 1)),
        ranged((0, 1 << 63)),
        ranged(),
        ranged((0, 1), count=2),
        ranged((0, 1), count=(1 << 32) - 1),
        ranged(*((n * 2, 1) for n in range(protocol.MAX_RANGES + 1))),
        memoryview(b""),
        memoryview(b"\0" * 11),
    ],
    ids=range(14),
)
def test_ranges_that_are_refused(payload: memoryview) -> None:
    with pytest.raises(ProtocolError):
        protocol.read_ranged(payload)


def test_ranges_at_their_limits() -> None:
    most = [(n * 2, 1) for n in range(protocol.MAX_RANGES)]
    assert protocol.read_ranged(ranged(*most)).ranges == most
    last = (protocol.LARGEST - 1, 1)
    assert protocol.read_ranged(ranged(last, more=b"x")).ranges == [last]
    for short in (b"", b"\0\0\0"):
        with pytest.raises(ProtocolError):
            protocol.read_tail(memoryview(short))


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"1", b"null", b'"x"', b"{", b"{}x", b"\xff", b'{"a": "\xc3\xa9"}', b"[" * 100_000, b'{"a":' * 100_000,
     b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", b'{"a": ' + b"9" * 5000 + b"}", b"NaN", b'{"a": NaN}',
     b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": ' + b"9" * 400 + b"}", b'{"a": 0.' + b"1" * 400 + b"}",
     b'{"a": 1, "a": 1}', b'{"a": {"b": 1, "b": 2}}', b'{"a": [' + b"[]," * 40_000 + b"0]}",
     b'{"a": [' + b'{"":0},' * 40_000 + b"0]}", b'{"\\"": [' + b'"",[],' * 40_000 + b"0]}"],
    ids=range(24),
)  # fmt: skip
def test_json_that_is_refused(text: bytes) -> None:
    (frame,) = Decoder().feed(protocol.encode(protocol.ITEM, text))
    with pytest.raises(ProtocolError):
        frame.json()


def test_json_that_is_not_refused() -> None:
    large = {"a": ["[{" * 100_000, '\\"[' * 100_000, -(1 << 93), 0.1], "b": [[]] * 30_000}
    (frame,) = Decoder().feed(protocol.encode_json(protocol.ITEM, **large))
    assert frame.json() == large


@pytest.mark.slow
def test_what_json_takes() -> None:
    """Whatever a megabyte of it holds, up to 32,768 lists and objects."""
    for piece in (b'{"":0},', b'"ab",', b"999,"):
        payload = b'{"a":[' + piece * ((protocol.CONTROL_BYTES - 20) // len(piece)) + b"0]}"
        frame = Frame(protocol.ITEM, memoryview(payload))
        tracemalloc.start()
        try:
            frame.json()
        except ProtocolError:
            pass
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert most < 24 << 20, piece


def test_fields_that_are_missing_or_of_another_type() -> None:
    for value in ({}, {"x": None}, {"x": True}, {"x": 1.0}, {"x": "1"}, {"x": [1]}):
        with pytest.raises(ProtocolError, match="'x'"):
            fields.get(value, "x", fields.SIZE)
    for number in (-1, 1 << 63, True, 1.0, "1"):
        with pytest.raises(ProtocolError, match="'x'"):
            fields.get({"x": number}, "x", fields.SIZE)
    for name in ("a\0b", "\ud800", 3, None, b"a"):
        with pytest.raises(ProtocolError, match="'x'"):
            fields.get({"x": name}, "x", fields.NAME)
    assert fields.get({}, "x", fields.maybe(fields.SIZE)) is None
    assert fields.get({"x": protocol.LARGEST}, "x", fields.SIZE) == protocol.LARGEST
    assert fields.get({"x": "\udcff"}, "x", fields.NAME) == "\udcff"


def test_a_control_frame_that_would_be_too_long_is_not_made() -> None:
    with pytest.raises(ValueError, match="too many"):
        protocol.encode_json(protocol.ITEM, text="x" * protocol.CONTROL_BYTES)


@pytest.mark.parametrize(
    ("said", "quoted"),
    [
        (b"Welcome to the machine!\nLast login: yesterday\n" + protocol.MAGIC, "Welcome to the machine!"),
        (b"\x1b[31mred\x07" + protocol.MAGIC, "?[31mred?"),
        (b"stty: standard input: Inappropriate ioctl for device\r\n", "stty: standard input"),
        (b"\xff\xfe" * 200, "\\ufffd" * 3),
        (b"\0sparsesync agenT\n", ""),
    ],
)
def test_what_is_said_before_the_greeting_is_quoted(said: bytes, quoted: str) -> None:
    with pytest.raises(ProtocolError, match="something prints before the agent does") as caught:
        decoded(Decoder(True), [said])
    message = str(caught.value)
    assert quoted.encode().decode("unicode_escape") in message and "\n" not in message and len(message) < 200


# Capabilities


def compressors() -> list[str]:
    return list(capabilities()["compressors"])


# Choosing


def test_both_ends_choose_what_both_have() -> None:
    ours = capabilities()
    assert {"blake2b", "sha256"} <= set(ours["digests"]) and all(type(n) is int for n in ours["digests"].values())
    assert "zlib" in ours["compressors"]
    slow = {"digests": {"blake2b": 100, "sha256": 5, "md5": 1 << 40}, "compressors": ["zlib"]}
    fast = {"digests": {"sha256": 900, "blake2b": 90}, "compressors": ["zstd", "zlib"]}
    assert choose_digest(slow, fast) == choose_digest(fast, slow) == "blake2b"
    both = {"digests": {"blake3": 1, "sha256": 5}}
    assert choose_digest(both, both) == "blake3"
    assert choose_compressor(fast, fast, None) == "zstd"
    assert choose_compressor(fast, fast, "zlib") == "zlib"
    assert choose_compressor(slow, fast, "zstd") == "zlib"
    nothing: list[dict[str, Any]]
    nothing = [{"digests": {"md5": 1}}, {"digests": {}}, {"digests": {"sha256": "fast"}}, {}, {"digests": []}]
    for none in nothing:
        with pytest.raises(ProtocolError):
            choose_digest(ours, none)


@pytest.mark.parametrize("basis", [False, True])
def test_a_guard_depends_on_salt_order_and_content(basis: bool) -> None:
    def guard(name: str, salt: bytes, *content: bytes) -> bytes:
        made = Digest(name, salt).guard(basis)
        for part in content:
            made.update(memoryview(part))
        return bytes(made.digest())

    for name in capabilities()["digests"]:
        whole = guard(name, b"a", b"xyz")
        assert guard(name, b"a", b"x", b"yz") == whole
        assert whole not in [guard(name, b"b", b"xyz"), guard(name, b"a", b"xzy"), guard(name, b"a", b"xyz", b"\0")]
        assert len(whole) >= (32 if basis else 4)


def test_a_salt_makes_another_digest() -> None:
    for name in capabilities()["digests"]:
        one, other = Digest(name, b"a"), Digest(name, b"b")
        assert one.of(b"x") != other.of(b"x") and one.of(b"x") == Digest(name, b"a").of(memoryview(b"x"))
        longer = one.new()
        longer.update(b"x")
        assert longer.digest() == one.of(b"x") and len(one.of(b"x")) >= 32
