"""The files that an image of a disk needs beside it: backing files, and files with its data.

Only the header of QCOW2 is read: "QCOW2 image format" in QEMU's documentation. A name is relative to the image's
folder, and may be JSON with a "filename".
"""

import os
import re
import struct
from typing import Iterator, List, Set

from .reading import open_regular

_HEADER = struct.Struct(">4sIQI")
"""Magic, version, offset and size of the backing file's name."""

_LENGTH_AT, _EXTENSION = 100, struct.Struct(">II")
_EXTERNAL_DATA = 0x44415441
_CLUSTER_BYTES = 64 * 1024
"""The name and the extensions are in the first cluster; this much of it is read."""

_MAX_CHAIN = 1000


def needed_by(image: str) -> Iterator[str]:
    """Yield what an image needs, and what that needs, as far as it is on this machine."""
    waiting: List[str] = [image]
    seen: Set[str] = set()
    while waiting and len(seen) < _MAX_CHAIN:
        path = waiting.pop()
        for name in _names(_head(path)):
            if not name or "\0" in name:
                continue
            found = os.path.realpath(os.path.join(os.path.dirname(path), name))
            if found not in seen and os.path.exists(found):
                seen.add(found)
                waiting.append(found)
                yield found


def _head(path: str) -> bytes:
    try:
        fd = open_regular(path)
    except OSError:
        return b""
    try:
        magic = os.read(fd, 4)
        return magic + os.read(fd, _CLUSTER_BYTES - 4) if magic == b"QFI\xfb" else b""
    except OSError:
        return b""
    finally:
        os.close(fd)


def _names(head: bytes) -> Iterator[str]:
    if len(head) < _HEADER.size:
        return
    _, version, offset, size = _HEADER.unpack_from(head)
    if size and offset + size <= len(head):
        yield _file(head[offset : offset + size])
    if version < 3 or len(head) < _LENGTH_AT + 4:
        return
    at = int.from_bytes(head[_LENGTH_AT : _LENGTH_AT + 4], "big")
    while at + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if not kind:
            break
        if kind == _EXTERNAL_DATA:
            yield _file(head[at : at + length])
        at += -(-length // 8) * 8


def _file(name: bytes) -> str:
    text = os.fsdecode(name)
    if text.startswith("json:"):
        match = re.search(r'"(?:file\.)?filename"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
        return re.sub(r"\\(.)", r"\1", match.group(1)) if match else ""
    return text[len("file:") :] if text.startswith("file:") else text
