"""What is in a tree, as a stream: the half of a comparison that one end does alone.

Two ends that compare a tree do not ask each other about each file. Each walks its own and tells what it
finds in one fixed order, and whoever reads both streams merges them (``sparsesync.comparison.digests``)::

    Entry           the root
    Directory ""                   each directory before those below it, siblings in order
        Entry a                    its entries, by name
        Entry b, a file            with content:
            Blocks                     digests of those blocks that hold anything but zeros
            Blocks
        Entry c, a directory       what is in it comes later
    Directory c
        Trouble                    it cannot be read: nothing is known of what is below

In order means by the bytes of the names, component by component (:func:`key`). A Trouble belongs to what comes
before it, the file or the directory that could not be looked at; the walk goes on behind it. What is held is
the names of one directory, and the directories still to enter beside the way down to it.

A block is :data:`~.wire.protocol.BLOCK_BYTES` long, counted from the start of the file. Holes are not read, and a block
of zeros is left out as if it were one, so both look the same; ``full`` reads everything, and leaves out what is zeros.
Digests are salted (:class:`wire.capabilities.Digest`) and cut to :data:`DIGEST_BYTES` bytes. Where a block differs,
:func:`digests` looks closer.

How the events travel is in :mod:`manifest_wire`.
"""

import errno
import os
import stat
import struct
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from ..content.compare import Tally
from ..errors import TruncatedError, error_path
from ..files.beneath import open_beneath
from ..files.claims import believes, file_size, is_view
from ..files.extents import extents
from ..files.syscalls import read_full
from ..wire.capabilities import Digest
from ..wire.protocol import BLOCK_BYTES, LARGEST
from .left_out import LeftOut, left_out
from .node import Names, Node, has_content

DIGEST_BYTES = 16
"""How many bytes of a digest are told."""

UNKNOWN = "?"
"""The kind of an entry that could not be examined."""

PAIR = struct.Struct(">Q{}s".format(DIGEST_BYTES))
"""The offset of a block and its digest, as they are packed."""

_BATCH_BLOCKS = 128


class Entry(NamedTuple):
    """A name in a directory.

    ``kind``: the letter of ls(1) for its type, or UNKNOWN.
    ``size``: bytes of content.
    ``target``: where a symlink leads.
    ``device``: the number of a device.
    ``attributes``: mode, owner and group, if they were asked for.
    ``again``: another name of a file that was told before.
    """

    name: str
    kind: str
    size: int = 0
    target: str = ""
    device: int = 0
    attributes: Optional[Tuple[int, int, int]] = None
    again: bool = False


class Directory(NamedTuple):
    """The directory whose entries follow. ``path`` is relative to the root, and empty for the root."""

    path: str


class Blocks(NamedTuple):
    """The (offset, digest) of blocks of the last entry, ascending. ``packed``: as they are sent."""

    packed: bytes

    def pairs(self) -> Iterator[Tuple[int, bytes]]:
        """Yield (offset, digest) of each block."""
        return PAIR.iter_unpack(self.packed)


class Trouble(NamedTuple):
    """The error of the last entry or directory, which could not be read."""

    error: OSError


Event = Union[Entry, Directory, Blocks, Trouble]


def key(path: str) -> List[bytes]:
    """Return the sort key of a directory: the bytes of each component."""
    return os.fsencode(path).split(b"/") if path else []


class Reading(NamedTuple):
    """How content is read.

    ``full``: read the holes too.
    ``holes``: otherwise, whether maps are believed (:func:`files.claims.believes`).
    ``names``: of which files with several names one was told.
    ``attributes``: told, too.
    """

    digest: Digest
    full: bool
    holes: str
    tally: Tally
    names: Names
    attributes: bool = False

    def attributes_of(self, st: os.stat_result) -> Optional[Tuple[int, int, int]]:
        """Return what is told of a file's attributes."""
        return (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) if self.attributes else None


def manifest(
    root: str,
    digest: Digest,
    full: bool = False,
    holes: str = "auto",
    tally: Optional[Tally] = None,
    rules: Optional[Sequence[Any]] = None,
    attributes: bool = False,
) -> Iterator[Event]:
    """Yield the events of a file or a directory at ``root``. Raises OSError if that cannot be examined.

    ``rules``: a :class:`.left_out.NameRules` of what is left out below ``root``.

    ``full``: read the holes too.
    ``holes``: otherwise, whether maps are believed (:func:`files.claims.believes`).
    ``tally``: the bytes read and believed are added.
    ``attributes``: tell mode, owner and group of each entry.
    """
    reading = Reading(digest, full, holes, tally or Tally(), Names(), attributes)
    top = Node(None, root, root)
    st = top.stat()
    if stat.S_ISDIR(st.st_mode):
        yield Entry("", "d", attributes=reading.attributes_of(st))
        walk = _tree(root, reading, left_out(root, rules))
    else:
        walk = _entry(top, "", st, reading, has_content(st))
    for event in walk:
        yield event


def _tree(root: str, reading: Reading, skip: LeftOut) -> Iterator[Event]:
    waiting = [""]
    while waiting:
        path = waiting.pop()
        here = os.path.join(root, path) if path else root
        yield Directory(path)
        try:
            with error_path(here, instead=True):
                fd = _open_directory(root, path)
        except OSError as error:
            yield Trouble(error)
            continue
        below = []  # type: List[str]
        try:
            for event in _listed(fd, path, here, below, reading, skip):
                yield event
        finally:
            os.close(fd)
        waiting += reversed(below)


def _open_directory(root: str, path: str) -> int:
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(top, path)
    finally:
        os.close(top)


def _listed(fd: int, path: str, here: str, below: List[str], reading: Reading, skip: LeftOut) -> Iterator[Event]:
    """Yield the entries of an open directory. Subdirectories are added to ``below``."""
    try:
        with error_path(here, instead=True):
            names = sorted(os.listdir(fd), key=os.fsencode)
    except OSError as error:
        yield Trouble(error)
        return
    for name in names:
        node = Node(fd, name, os.path.join(here, name))
        try:
            st = node.stat()
        except OSError as error:
            yield Entry(name, UNKNOWN)
            yield Trouble(error)
            continue
        if skip is not None and skip(node.path, stat.S_ISDIR(st.st_mode)):
            continue
        if stat.S_ISDIR(st.st_mode):
            below.append(os.path.join(path, name))
            yield Entry(name, "d", attributes=reading.attributes_of(st))
            continue
        for event in _entry(node, name, st, reading, stat.S_ISREG(st.st_mode)):
            yield event


def _entry(node: Node, name: str, st: os.stat_result, reading: Reading, content: bool) -> Iterator[Event]:
    kind = stat.filemode(st.st_mode)[0]
    fd = None
    target, size = "", st.st_size
    try:
        try:
            if content:
                fd = node.open(st)
                with error_path(node.path, instead=True):
                    before, size = os.fstat(fd), file_size(fd)
                    if is_view(fd):
                        raise OSError(errno.EINVAL, "its size is unknown until it is read; compare it on one host")
            elif kind == "l":
                target = node.target()
        except OSError as error:
            yield Entry(name, kind, size)
            yield Trouble(error)
            return
        yield Entry(name, kind, size, target, st.st_rdev, reading.attributes_of(st), reading.names.again(st))
        if fd is None:
            return
        try:
            with error_path(node.path, instead=True):
                for packed in _digested(fd, 0, size, size, reading):
                    yield Blocks(packed)
                if _version(os.fstat(fd)) != _version(before):
                    raise OSError(errno.ESTALE, "the file changed while it was read")
        except OSError as error:
            yield Trouble(error)
    finally:
        if fd is not None:
            os.close(fd)


def _version(st: os.stat_result) -> Tuple[int, int]:
    return st.st_size, st.st_mtime_ns


def _digested(fd: int, first: int, end: int, size: int, reading: Reading) -> Iterator[bytes]:
    """Packed (offset, digest) of the blocks of an open file that are not zeros, some at a time or none.

    Those between two offsets, of which ``first`` begins a block.
    """
    buffer = bytearray(min(BLOCK_BYTES, size))
    view, zeros = memoryview(buffer), memoryview(bytes(len(buffer)))
    packed = []  # type: List[bytes]
    offset, read = first, 0
    digest, tally = reading.digest, reading.tally
    tally.believed += end - first
    believed = not reading.full and believes(fd, reading.holes)
    for start, length in extents(fd, first, end, "trust") if believed else iter([(first, end - first)]):
        # Extents need not begin or end with a block, so two may share one.
        offset = max(offset, start - start % BLOCK_BYTES)
        while offset < start + length:
            count = min(BLOCK_BYTES, size - offset)
            _read(fd, view[:count], offset)
            if not buffer.startswith(zeros[:count]):
                packed.append(PAIR.pack(offset, digest.of(view[:count])[:DIGEST_BYTES]))
            offset += count
            read += 1
            tally.read += count
            tally.believed -= count
            if read % _BATCH_BLOCKS == 0:  # of zeros too, so that nobody waits for long to hear anything
                yield b"".join(packed)
                packed = []
    if packed:
        yield b"".join(packed)


def _read(fd: int, view: memoryview, offset: int) -> None:
    if read_full(fd, view, offset) < len(view):
        raise TruncatedError


def contents(path: str, offset: int, length: int, digest: Digest, full: bool = False) -> List[Any]:
    """Return [apparent size, bytes of data, hex digest, bytes read] of a part of a file, independent of its holes.

    ``offset`` is the start of a block. A part beyond the end of the file has the digest of nothing.

    ``full``: read the holes too.

    Raises OSError, ValueError, TruncatedError if the file becomes shorter.
    """
    if offset % BLOCK_BYTES or not (0 <= offset <= LARGEST and 0 < length <= LARGEST):
        raise ValueError("contents of {} bytes at {}".format(length, offset))
    node = Node(None, path, path)
    fd = node.open(node.stat())
    try:
        with error_path(path, instead=True):
            size = file_size(fd)
            whole = digest.new()
            blocks = 0
            reading = Reading(digest, full, "auto", Tally(), Names())
            for packed in _digested(fd, offset, max(offset, min(size, offset + length)), size, reading):
                whole.update(packed)
                blocks += len(packed) // PAIR.size
            data = max(0, min(blocks * BLOCK_BYTES, length, size - offset))
            return [size, data, whole.digest().hex()[: 2 * DIGEST_BYTES], reading.tally.read]
    finally:
        os.close(fd)


def digests(root: str, path: str, offset: int, length: int, block: int, digest: Digest) -> bytes:
    """Return the digests, DIGEST_BYTES each, of a range of a file below ``root``, cut into blocks from its start on.

    Raises ValueError for a range longer than BLOCK_BYTES, OSError, TruncatedError if the file is shorter.
    """
    if not (0 < length <= BLOCK_BYTES and block > 0 and 0 <= offset <= LARGEST):
        raise ValueError("digests of {} bytes at {} by {}".format(length, offset, block))
    full_path = os.path.join(root, path) if path else root
    content = memoryview(bytearray(length))
    with error_path(full_path, instead=True):
        directory = _open_directory(root, os.path.dirname(path)) if path else None
        try:
            node = Node(directory, os.path.basename(path) if path else root, full_path)
            fd = node.open(node.stat())
            try:
                _read(fd, content, offset)
            finally:
                os.close(fd)
        finally:
            if directory is not None:
                os.close(directory)
    return b"".join([digest.of(content[at : at + block])[:DIGEST_BYTES] for at in range(0, length, block)])
