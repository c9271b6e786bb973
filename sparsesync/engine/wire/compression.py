"""The content of DATA frames, compressed.

All frames of a transfer are one stream, so that what one frame holds need not be told again by the next. The stream
is flushed after each frame, and each can be read when it has arrived.

What compression does not make smaller is sent as it is. The stream has taken it in by then, and the receiver's has not;
so a new stream begins with the next frame, whose code has :data:`FRESH` in it.

For zstd there are two libraries, and what one makes the other reads: Python's own, from 3.14 on, and the package
zstandard.

A sender may be hostile. No frame makes more bytes than it announces, and no stream has a window of more than
:data:`_WINDOW_BITS`.
"""

import sys
import zlib
from typing import Any, Callable, List, Optional

from ..errors import ProtocolError
from .protocol import PAYLOAD_BYTES

NONE, ZLIB, ZSTD = range(3)
"""How the content of a DATA frame is compressed."""

FRESH = 16
"""Added to it: a new stream begins."""

_WINDOW_BITS = 21
"""The logarithm of the bytes that zstd looks back: 2 MiB, as much as its level 3 has."""

_TABLES_LEVEL = 11
"""Above this level zstd has tables for a larger window than that, of up to 640 MiB."""


class Compressor:
    """A compressor of what is sent in one transfer. ``level``: None for the library's default."""

    def __init__(self, name: str, level: Optional[int]) -> None:
        self._begin: Callable[[], Any]
        if name == "zstd":
            self._code = ZSTD
            chosen = 3 if level is None else max(1, min(level, 22))
            own = _own_zstd()  # type: Any
            zstd = _zstandard()  # type: Any
            if own is not None:
                names = own.CompressionParameter
                options = {names.compression_level: chosen, names.window_log: _WINDOW_BITS}
                if chosen > _TABLES_LEVEL:
                    options[names.chain_log] = options[names.hash_log] = _WINDOW_BITS + 1
                self._begin = lambda: own.ZstdCompressor(options=options)
                self._flush = own.ZstdCompressor.FLUSH_BLOCK
            else:
                settings = zstd.ZstdCompressionParameters.from_level(chosen, source_size=1 << _WINDOW_BITS)
                self._begin = zstd.ZstdCompressor(compression_params=settings).compressobj
                self._flush = zstd.COMPRESSOBJ_FLUSH_BLOCK
        else:
            self._code = ZLIB
            chosen = -1 if level is None else max(-1, min(level, 9))
            self._begin = lambda: zlib.compressobj(chosen)
            self._flush = zlib.Z_SYNC_FLUSH
        self._stream: Any = None
        self.code: int = NONE
        """That of what was compressed last."""

    def compress(self, data: memoryview) -> Optional[bytes]:
        """Return the data compressed, or None if that is not smaller."""
        self.code = self._code
        if self._stream is None:
            self._stream = self._begin()
            self.code |= FRESH
        made = self._stream.compress(data) + self._stream.flush(self._flush)
        if len(made) < len(data):
            return bytes(made)
        self._stream = None
        return None


class Decompressor:
    """A decompressor of what arrives in one transfer."""

    def __init__(self) -> None:
        self._code = NONE
        self._stream: Any = None

    def decompress(self, code: int, data: memoryview, size: int) -> bytes:
        """Return the ``size`` bytes that the content of a frame with this ``code`` holds.

        Raises ProtocolError if the content is invalid or of another size.
        """
        if size > PAYLOAD_BYTES:
            raise ProtocolError("a frame holds {} bytes, where {} are allowed".format(size, PAYLOAD_BYTES))
        if code & FRESH:
            self._code = code & ~FRESH
            self._stream = None if self._code not in _STREAMS else _STREAMS[self._code]()
        if self._stream is None or code & ~FRESH != self._code:
            raise ProtocolError("data is compressed by an unknown method")
        try:
            made = self._stream.decompress(data, size)
        except ProtocolError:
            raise
        except Exception:  # each library has errors of its own, and none means anything but this
            raise ProtocolError("compressed data is broken") from None
        if len(made) != size:
            raise _other_length()
        return bytes(made)


class _Zlib:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def decompress(self, data: memoryview, size: int) -> bytes:
        # One byte more than wanted is enough to see a bomb, and is all that is ever made of it.
        made = self._stream.decompress(data, size + 1)
        if self._stream.unconsumed_tail or self._stream.unused_data or self._stream.eof:
            raise _other_length()
        return made


class _OwnZstd:
    def __init__(self, zstd: Any) -> None:
        self._stream = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_BITS})

    def decompress(self, data: memoryview, size: int) -> bytes:
        made = self._stream.decompress(data, size + 1)
        if not self._stream.needs_input:  # it has more, or its end
            raise _other_length()
        return bytes(made)


class _Zstandard:
    def __init__(self, zstd: Any) -> None:
        self._data: Optional[bytes] = None
        self._stream = zstd.ZstdDecompressor(max_window_size=1 << _WINDOW_BITS).stream_reader(self)

    def read(self, count: int) -> bytes:
        """Give the reader a frame's data. It asks for more than there is if that holds less than was announced."""
        data, self._data = self._data, None
        if not data:
            raise _other_length()
        return data

    def decompress(self, data: memoryview, size: int) -> bytes:
        self._data = bytes(data)
        made = self._stream.read(size)
        # The reader still had something. What it has left now comes with the next frame, and the guard will differ.
        if self._data is not None:
            raise _other_length()
        return bytes(made)


def _decompress_zstd() -> Any:
    own, zstd = _own_zstd(), _zstandard()
    if own is not None:
        return _OwnZstd(own)
    if zstd is not None:
        return _Zstandard(zstd)
    raise ProtocolError("data is compressed by an unknown method")


_STREAMS = {ZLIB: _Zlib, ZSTD: _decompress_zstd}  # type: Any


def _other_length() -> ProtocolError:
    return ProtocolError("compressed data has another length than announced")


def compressors() -> List[str]:
    """Return the names of what this machine can compress with."""
    return ["zlib"] if _own_zstd() is None and _zstandard() is None else ["zstd", "zlib"]


def _own_zstd() -> Any:
    """Return Python's module, or None."""
    if sys.version_info < (3, 14):
        return None
    import importlib  # it is named by a string, for who looks for what Python 3.6 has not

    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return None  # a part of Python that may be left out


def _zstandard() -> Any:
    try:
        import zstandard

        return zstandard
    except ImportError:
        return None
