"""The bytes between two engines, without any I/O.

A connection is two streams of bytes, one each way. Whoever reads the agent's stream first sees
the greeting ``MAGIC``, which begins with a byte that no login banner does. Then both streams are
frames, and nothing else::

    kind (1 byte)  length  checksum of the payload  checksum of these three  payload (length bytes)

with four bytes each, big-endian, for what lies between. The checksums are CRC-32; that of DATA's payload is 0,
since the digest over the whole file guards it. So a bad byte is seen where it is, and does not leave both ends
waiting for the rest of a frame that is not that long.

:class:`Decoder` takes bytes as they come and gives frames; what it does not like raises
:class:`ProtocolError`, and nothing after that is believed. A frame that is too long is refused
by its head, before a byte of it is stored. :func:`encode` and its neighbours make frames, the ``read_``
functions take payloads apart. They check what can be known from the bytes alone; whether
an offset lies inside a file is for whoever knows the file (:mod:`transfer.receiver`), and what a field of JSON
may be is in :mod:`fields`.

Control frames carry JSON, which is small and rare. What is frequent is packed:

=========  ==========================================================================
HELLO      JSON: protocol version, digests, compressors. The agent's, then the client's
CALL       JSON: an operation of the agent and its arguments
ITEM       JSON: one of its results
TROUBLE    JSON: an error of one file; the operation goes on
DONE       JSON: the operation has ended well
FAIL       JSON: the operation has ended with this error
PING       a number of 8 bytes: the peer is alive, and gets on if it is another one than before
WANT       JSON: the receiver asks for files by name (a pull), and says which have a basis; an empty list: that was all
FILE       JSON: the sender announces a file
SKIP       JSON: the sender does not send a file that was wanted
STATE      JSON: whether the receiver has a basis for it
ASK        file, block, ranges: digests of the basis' blocks in these ranges, please
DIGESTS    the answer, in the order of the questions; zeros for a block that is not there
DATA       file, compressor, ranges, and the bytes of all of them
KEEP       file, ranges that are in the basis as they should be
HOLE       file, ranges that are holes in the source
SAME       file, ranges that have not changed since the known file was made
RESERVE    file, ranges that are reserved in the source, and are to be here
FINISH     file, the digest over everything
ABORT      JSON: the sender gives up on a file
CLOSED     JSON: what became of a file, from the receiver
END        nothing: the sender announces no more files
STREAM     a number of 1 byte: the next frame comes by that stream, and is DATA
=========  ==========================================================================

Names in JSON are UTF-8 with undecodable bytes as surrogate escapes, whatever the encoding of file names is
at the ends: without a locale, Python 3.6 has ASCII.
"""

import json
import math
import os
import struct
import sys
import zlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, NoReturn, Sequence, Tuple

from ..errors import ProtocolError

VERSION = 6

MAGIC = b"\0sparsesync agent\n"

ONLY_RSYNC = "a forced command there runs rsync, whatever is asked for, and lets no agent start"

(
    HELLO, CALL, ITEM, TROUBLE, DONE, FAIL, PING, WANT, FILE, SKIP, STATE, ASK, DIGESTS, DATA, KEEP, HOLE, FINISH,
    ABORT, CLOSED, END, RESERVE, SAME, STREAM,
) = range(1, 24)  # fmt: skip

HEAD = struct.Struct(">BIII")
_CHECKED = struct.Struct(">BII")
_FILE = struct.Struct(">I")
_RANGED = struct.Struct(">III")
_RANGE = struct.Struct(">QQ")

PAYLOAD_BYTES = 256 * 1024
"""The most bytes of content that one DATA frame carries."""

MAX_RANGES = 4096
"""The most ranges that one frame carries."""

BLOCK_BYTES = 64 * 1024
"""The block that digests are compared by first, and that the guard is made of."""

MAX_DIGESTS_BYTES = 64 * 1024
"""The most bytes of digests in one answer."""

CONTROL_BYTES = 1 << 20
"""The most bytes of JSON in one frame."""

MAX_CONTAINERS = 1 << 15
"""The most lists and objects in one frame: an empty one takes fifty times its two bytes."""

_MAX_DIGITS = 30
"""The most characters of a number: 64 bits of seconds, in nanoseconds, and a sign."""

_RANGES_SIZE = _RANGED.size + MAX_RANGES * _RANGE.size
_LIMITS = dict.fromkeys((HELLO, CALL, ITEM, TROUBLE, DONE, FAIL, WANT, FILE, SKIP, STATE, ABORT, CLOSED), CONTROL_BYTES)
_LIMITS.update({
    PING: 8, END: 0, ASK: _RANGES_SIZE, DIGESTS: _FILE.size + MAX_DIGESTS_BYTES, DATA: _RANGES_SIZE + PAYLOAD_BYTES,
    KEEP: _RANGES_SIZE, HOLE: _RANGES_SIZE, RESERVE: _RANGES_SIZE, FINISH: 256, SAME: _RANGES_SIZE,
    STREAM: 1,
})  # fmt: skip

LINE_BYTES = 4 << 20
"""The most bytes of a line before the first frame: an engine's source, where none is wanted."""

LARGEST = (1 << 63) - 1
"""The largest size or offset of a file."""

_LIKE_THE_WIRE = sys.getfilesystemencoding().lower() == "utf-8"

Range = Tuple[int, int]


class Frame(NamedTuple):
    """A received frame. ``payload`` is valid until the decoder is given more bytes."""

    kind: int
    payload: memoryview

    def json(self) -> Dict[str, Any]:
        """Return the object that a control frame carries, in at most 20 MiB of memory. Raises ProtocolError."""
        try:
            value = _read_json(bytes(self.payload))
        except (ValueError, RecursionError):
            raise ProtocolError("a control frame is not JSON") from None
        if not isinstance(value, dict):
            raise ProtocolError("a control frame is not an object")
        return value if _LIKE_THE_WIRE else _translate(value, _from_wire)


class Decoder:
    """A decoder: bytes in, frames out.

    Bytes are written into :meth:`space`, and :meth:`received` is told how many. :meth:`feed` does both at once. Then
    :meth:`frames` yields the complete frames.

    ``greeting``: the stream must begin with ``MAGIC``.
    ``line``: the stream begins with a line of at most :data:`LINE_BYTES`, which is thrown away.
    """

    def __init__(self, greeting: bool = False, line: bool = False) -> None:
        self._buffer = bytearray(HEAD.size + max(_LIMITS.values()) + PAYLOAD_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._greeting = MAGIC if greeting else b""
        self._line = LINE_BYTES if line else 0

    def space(self) -> memoryview:
        """Return the buffer for the next bytes, which is never empty. Frames yielded before become invalid."""
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._end < PAYLOAD_BYTES // 4:
            left = bytes(self._view[self._start : self._end])
            self._view[: len(left)] = left
            self._start, self._end = 0, len(left)
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """Count ``count`` bytes as written into the space."""
        self._end += count

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Take bytes of any length, and yield the frames they complete."""
        rest = memoryview(data)
        while rest:
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            self.received(count)
            for frame in self.frames():
                yield frame
            rest = rest[count:]

    def frames(self) -> Iterator[Frame]:
        """Yield the complete frames. Raises ProtocolError for an invalid one."""
        if (self._greeting and not self._greeted()) or (self._line and not self._skipped()):
            return
        while self._end - self._start >= HEAD.size:
            kind, length, checksum, head = HEAD.unpack_from(self._buffer, self._start)
            limit = _LIMITS.get(kind)
            if limit is None:
                raise ProtocolError("a frame of unknown kind {}".format(kind))
            if length > limit:
                raise ProtocolError("a frame of kind {} and {} bytes, where {} are allowed".format(kind, length, limit))
            if head != _head_checksum(kind, length, checksum):
                raise ProtocolError("a frame has an invalid header")
            stop = self._start + HEAD.size + length
            if stop > self._end:
                return
            payload = self._view[self._start + HEAD.size : stop]
            if checksum != (zlib.crc32(payload) if kind != DATA else 0):
                raise ProtocolError("a frame of kind {} is broken".format(kind))
            self._start = stop
            yield Frame(kind, payload)

    def _greeted(self) -> bool:
        have = bytes(self._view[self._start : self._end])
        if have.startswith(self._greeting):
            self._start += len(self._greeting)
            self._greeting = b""
            return True
        if self._greeting.startswith(have):
            return False
        return self.refuse(have)

    def _skipped(self) -> bool:
        end = self._buffer.find(b"\n", self._start, self._end) + 1
        self._line -= (end or self._end) - self._start
        self._start = end or self._end
        if self._line <= 0:
            raise ProtocolError("the line before the first frame is too long")
        self._line = 0 if end else self._line
        return bool(end)

    def refuse(self, have: bytes) -> NoReturn:
        """Raise ProtocolError for bytes that are not the greeting."""
        # It begins with the number of its protocol, or as a daemon does.
        if have[1:4] == bytes(3) or have.startswith(b"@RSYNCD:"):
            raise ProtocolError(ONLY_RSYNC)
        text = have.split(b"\0")[0].decode("ascii", "replace").strip()
        first = "".join(char if char.isprintable() else "?" for char in text[:80].partition("\n")[0])
        raise ProtocolError(
            "something prints before the agent does, perhaps a .bashrc or a login banner: {!r}".format(first)
        )

    def ended(self) -> None:
        """End the stream. Raises ProtocolError in the middle of a frame or of the greeting."""
        if self._greeting or self._start != self._end:
            raise ProtocolError("the connection was cut")


def encode(kind: int, payload: bytes = b"") -> bytes:
    """Return a frame with a payload that is encoded already."""
    return _head(kind, len(payload), zlib.crc32(payload)) + payload


def _head(kind: int, length: int, checksum: int) -> bytes:
    return HEAD.pack(kind, length, checksum, _head_checksum(kind, length, checksum))


def _head_checksum(kind: int, length: int, checksum: int) -> int:
    return zlib.crc32(_CHECKED.pack(kind, length, checksum))


def encode_json(kind: int, **values: Any) -> bytes:
    """Return a control frame. Raises ValueError if it is longer than the peer accepts."""
    if not _LIKE_THE_WIRE:
        values = _translate(values, _to_wire)
    payload = json.dumps(values, separators=(",", ":")).encode("ascii")
    if len(payload) > CONTROL_BYTES:
        raise ValueError("{} bytes of JSON are too many for a frame".format(len(payload)))
    return encode(kind, payload)


def encode_digests(file: int, digests: bytes) -> bytes:
    """Return a DIGESTS frame."""
    return encode(DIGESTS, _FILE.pack(file) + digests)


def encode_finish(file: int, digest: bytes) -> bytes:
    """Return a FINISH frame."""
    return encode(FINISH, _FILE.pack(file) + digest)


def pack_ranges(ranges: Sequence[Range]) -> bytes:
    """Return the ranges as (offset, length) pairs, 16 bytes each."""
    return b"".join([_RANGE.pack(offset, length) for offset, length in ranges])


def encode_ranges(kind: int, file: int, ranges: Sequence[Range], code: int = 0) -> bytes:
    """Return a KEEP, HOLE, RESERVE, SAME or ASK frame. ``code``: the block size of an ASK frame, in bytes."""
    return encode(kind, _RANGED.pack(file, code, len(ranges)) + pack_ranges(ranges))


def data_head(file: int, compressor: int, packed: bytes, size: int) -> bytes:
    """Return a DATA frame without the ``size`` bytes that end it. ``packed``: from :func:`pack_ranges`."""
    head = _RANGED.pack(file, compressor, len(packed) // _RANGE.size) + packed
    return _head(DATA, len(head) + size, 0) + head


class Ranged(NamedTuple):
    """The payload of an ASK, DATA, KEEP, HOLE, RESERVE or SAME frame.

    ``code``: the block size of an ASK frame, the compressor of a DATA frame.
    ``packed``: the ranges as they were received.
    """

    file: int
    code: int
    ranges: List[Range]
    packed: memoryview
    content: memoryview


def read_ranged(payload: memoryview) -> Ranged:
    """Return the decoded payload. Raises ProtocolError unless the ranges are ascending, not empty, and not too many."""
    if len(payload) < _RANGED.size:
        raise ProtocolError("a frame is too short for its kind")
    file, code, count = _RANGED.unpack_from(payload)
    stop = _RANGED.size + count * _RANGE.size
    if not 0 < count <= MAX_RANGES or stop > len(payload):
        raise ProtocolError("a frame of {} bytes with {} ranges".format(len(payload), count))
    packed = payload[_RANGED.size : stop]
    ranges: List[Range] = []
    end = 0
    for offset, length in _RANGE.iter_unpack(packed):
        if offset < end or not length or offset + length > LARGEST:
            raise ProtocolError("ranges out of order")
        end = offset + length
        ranges.append((offset, length))
    return Ranged(file, code, ranges, packed, payload[stop:])


def read_tail(payload: memoryview) -> Tuple[int, bytes]:
    """Return (file, the rest) of a DIGESTS or FINISH frame. Raises ProtocolError."""
    if len(payload) < _FILE.size:
        raise ProtocolError("a frame is too short for its kind")
    return _FILE.unpack_from(payload)[0], bytes(payload[_FILE.size :])


def _read_json(payload: bytes) -> Any:
    """Return the decoded JSON. Raises RecursionError, and ValueError also for JSON that no engine sends."""
    if payload.count(b"[") + payload.count(b"{") > MAX_CONTAINERS:
        # Those in strings do not count: names may be full of them.
        outside = payload.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
        if sum([part.count(b"[") + part.count(b"{") for part in outside]) > MAX_CONTAINERS:
            raise ValueError
    return _JSON.decode(payload.decode("ascii"))


def _integer(digits: str) -> int:
    # Some Pythons read a number of a million digits, for minutes.
    if len(digits) > _MAX_DIGITS:
        raise ValueError
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= 2 * _MAX_DIGITS else math.inf
    if not math.isfinite(value):
        raise ValueError
    return value


def _unique(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError
    return made


_JSON = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_float, object_pairs_hook=_unique)


def _translate(value: Any, way: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        try:
            return way(value)
        except UnicodeError:
            return value  # not a name
    if isinstance(value, dict):
        return {name: _translate(part, way) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_translate(part, way) for part in value]
    return value


def _to_wire(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def _from_wire(name: str) -> str:
    return os.fsdecode(name.encode("utf-8", "surrogateescape"))
