"""What this machine can do that the other end may not: digests and compressors.

Each end says what it has, with how fast its digests are here; the client chooses what suits
both (:func:`choose_digest`, :func:`choose_compressor`). BLAKE3 if both have it, since nothing else comes near; else the
cryptographic hash of hashlib that is the fastest on the slower of the two machines, which is
SHA-256 where the processor has instructions for it and BLAKE2b elsewhere.

A digest says that what was kept at the other end is what is here, and so has to withstand whoever wrote it. Where
nothing is kept, only a mistake of ours is to be noticed: the connection guards itself. For that CRC-32 does
(:meth:`Digest.guard`), which takes a third of the time of SHA-256.

Every digest begins with a salt that is new for each connection. So the short digests by which blocks are
compared cannot be made to collide by whoever wrote the files.
"""

import hashlib
import os
import resource
import time
import zlib
from typing import Any, Dict, Optional

from ..errors import ProtocolError
from .compression import compressors
from .fields import SIZE, get, integer, listed, table, text

_DESCRIPTORS_PER_FILE = 4
"""What the receiver holds for a file: its directory, that of its partial file, the target, the old file."""

_SPARE_DESCRIPTORS = 16
_MAX_DESCRIPTORS = 1 << 20
_USED_DESCRIPTORS = 32
_SAMPLE = bytes(64 * 1024)

_TELL_DIGESTS = table(text(20), SIZE, 20)
_TELL_FILES = integer(1, 1 << 31)
_TELL_COMPRESSORS = listed(text(20), 20)
"""What a HELLO holds."""


def _blake3() -> Any:
    import blake3

    return blake3.blake3()


_DIGESTS = {"blake3": _blake3, "blake2b": hashlib.blake2b, "sha256": hashlib.sha256}  # type: Dict[str, Any]


class _Crc32:
    """CRC-32, with ``update`` and ``digest`` as in hashlib."""

    def __init__(self, salt: bytes) -> None:
        self._value = zlib.crc32(salt)

    def update(self, data: Any) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class Digest:
    """A family of hashes: one algorithm, one salt."""

    def __init__(self, name: str, salt: bytes) -> None:
        self.name = name
        self.salt = salt
        self._base = _DIGESTS[name]()
        self._base.update(salt)

    def new(self) -> Any:
        """Return a hash object, salted, with ``update`` and ``digest`` as in hashlib."""
        return self._base.copy()

    def guard(self, basis: bool) -> Any:
        """Return an object like that of :meth:`new` for the content of a whole file.

        ``basis``: parts of the file are kept at the other end. Otherwise the object notices mistakes, but no enemy.
        """
        return self.new() if basis or self.name == "blake3" else _Crc32(self.salt)

    def of(self, data: Any) -> bytes:
        """Return the digest of ``data``, in full length."""
        digest = self._base.copy()
        digest.update(data)
        return bytes(digest.digest())


def capabilities() -> Dict[str, Any]:
    """Return what this machine offers: ``digests``, each with its bytes per second, ``compressors``, and ``files``.

    ``files``: the number of files of a transfer that may be open at once (RLIMIT_NOFILE).
    """
    digests = {}
    for name in _DIGESTS:
        try:
            digest = Digest(name, b"")
        except Exception:  # not installed, or broken: either way it cannot be used
            continue
        digest.of(_SAMPLE)
        started = time.perf_counter()
        digest.of(_SAMPLE)
        digests[name] = int(len(_SAMPLE) / max(time.perf_counter() - started, 1e-9))
    return {"digests": digests, "compressors": compressors(), "files": _files()}


def _files() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        limit = _MAX_DESCRIPTORS
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        used = _USED_DESCRIPTORS
    return max(1, (min(limit, _MAX_DESCRIPTORS) - used - _SPARE_DESCRIPTORS) // _DESCRIPTORS_PER_FILE)


def choose_files(ours: Dict[str, Any], theirs: Dict[str, Any]) -> int:
    """Return the number of files that may be open at once at both ends. Raises ProtocolError."""
    return int(min(get(ours, "files", _TELL_FILES), get(theirs, "files", _TELL_FILES)))


def choose_digest(ours: Dict[str, Any], theirs: Dict[str, Any]) -> str:
    """Return the common digest that the slower end computes fastest. Raises ProtocolError if there is none."""
    mine, other = get(ours, "digests", _TELL_DIGESTS), get(theirs, "digests", _TELL_DIGESTS)
    both = [name for name in mine if name in other]
    if not both:
        raise ProtocolError("the two ends have no digest in common")
    return "blake3" if "blake3" in both else max(both, key=lambda name: int(min(mine[name], other[name])))


def choose_compressor(ours: Dict[str, Any], theirs: Dict[str, Any], wanted: Optional[str]) -> str:
    """Return ``wanted`` if both ends have it, else zstd if both have that, else zlib."""
    mine, other = get(ours, "compressors", _TELL_COMPRESSORS), get(theirs, "compressors", _TELL_COMPRESSORS)
    both = [name for name in mine if name in other]
    if wanted is not None and wanted in both:
        return wanted
    return "zstd" if "zstd" in both else "zlib"
