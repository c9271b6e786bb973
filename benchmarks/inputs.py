"""What is copied, made from a seed, and whether a copy of it is right.

A file is described by its size and its data extents (:class:`Layout`), and its content by a seed: the same numbers give
the same bytes on every machine. No block of it is zeros, and about half of it is left by a compressor, so that
neither compressing nor not compressing is a waste.

A copy is compared without any help from what is measured: the kernel is asked for the extents, and every byte that is
data at either side is read at both (:func:`check`). That is a comparison of the whole, because what is data at neither
side is a hole at both; and it takes seconds for 8 TiB. Then the copy may have a tenth more data than the source, some
peers lose a few holes; and a tenth more allocated, but on XFS. That allocates ahead of a writer, ten times what is
written and more, and takes some of it back later; there the size is only reported.
"""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
BLOCK = 4096

# 16 byte values, none of them zero: four bits of content in a byte.
_LETTERS = bytes(33 + 5 * (value & 15) for value in range(256))
_CHUNK = 4 * MIB


class Wrong(Exception):
    """A contender's result is not what it should be; the message says how."""


@dataclass(frozen=True)
class Layout:
    """A file: its apparent size and its data, in bytes, the data in so many extents of the same length."""

    size: int
    data: int
    extents: int

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The data extents, spread evenly and never touching, so that the last bytes of the file are a hole."""
        if not self.extents:
            return
        length = self.data // self.extents
        step = self.size // self.extents // BLOCK * BLOCK
        for number in range(self.extents):
            yield number * step, length

    def __str__(self) -> str:
        if self.data == self.size:
            return f"{iec(self.size)} dense"
        if not self.data:
            return f"{iec(self.size)} hole"
        return f"{iec(self.size)}/{iec(self.data)} in {self.extents}"


def iec(size: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def content(seed: int) -> Iterator[bytes]:
    """Chunks of bytes without end. Only the first is drawn anew; the others are it, turned and marked."""
    base = random.Random(seed).randbytes(_CHUNK).translate(_LETTERS)
    number = 0
    while True:
        # Every block gets a mark of its own, so that no two are the same and none can be taken for another.
        turned = bytearray(base[number * 97 % _CHUNK :] + base[: number * 97 % _CHUNK])
        for block in range(0, _CHUNK, BLOCK):
            turned[block : block + 16] = b"%016x" % (seed << 40 | number << 10 | block // BLOCK)
        yield bytes(turned)
        number += 1


def make_file(path: Path, layout: Layout, seed: int, new: bool = True) -> None:
    """Make a file of this layout; or, with ``new`` false, write the data to one that is there."""
    chunks = content(seed)
    left = b""
    with open(path, "wb" if new else "r+b", buffering=0) as file:
        file.truncate(layout.size)
        for offset, length in layout.ranges():
            while length:
                left = left or next(chunks)
                count = os.pwrite(file.fileno(), left[:length], offset)
                left = left[count:]
                offset += count
                length -= count


def pack(path: Path, packed: Path) -> None:
    """Make a file that has the data of another one and no holes."""
    with open(path, "rb") as source, open(packed, "wb") as out:
        for offset, length in data_ranges(source.fileno()):
            for at, count in _steps(offset, length):
                out.write(os.pread(source.fileno(), count, at))


def change(path: Path, share: float, seed: int, again: int = 0) -> int:
    """Write new content to a share of the data blocks of a file, single ones; returns how many. It is made newer.

    ``again``: another number gives other content to the same blocks.
    """
    draw, content = random.Random(seed), random.Random(seed << 32 | again)
    fd = os.open(path, os.O_RDWR)
    try:
        blocks = [at for offset, length in data_ranges(fd) for at in range(offset, offset + length, BLOCK)]
        chosen = draw.sample(blocks, round(len(blocks) * share))
        for at in chosen:
            os.pwrite(fd, content.randbytes(BLOCK).translate(_LETTERS), at)
        # Not what the clock says: rsync takes files of the same second for unchanged.
        st = os.fstat(fd)
        os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns + 60 * 10**9))
    finally:
        os.close(fd)
    return len(chosen)


def make_tree(root: Path, files: int, seed: int, *, sparse: int = 0, size: int = 100) -> None:
    """Make a tree of small files, a hundred to a directory; the first ``sparse`` ones have a hole."""
    draw = random.Random(seed)
    payload = draw.randbytes(size).translate(_LETTERS)
    for first in range(0, files, 100):
        directory = root / f"{first // 10000:04}" / f"{first // 100:06}"
        directory.mkdir(parents=True, exist_ok=True)
        folder = os.open(directory, os.O_RDONLY)
        for number in range(first, min(first + 100, files)):
            fd = os.open(f"file-{number:07}", os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=folder)
            os.write(fd, payload)
            if number < sparse:
                os.ftruncate(fd, MIB)
            os.close(fd)
        os.close(folder)


def change_tree(root: Path, files: int, seed: int) -> None:
    """Write new content to so many files of a tree of :func:`make_tree`; they are made newer."""
    draw = random.Random(seed)
    for path in draw.sample(sorted(root.glob("*/*/file-*")), files):
        st = path.stat()
        path.write_bytes(draw.randbytes(st.st_size).translate(_LETTERS))
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns + 60 * 10**9))


def data_ranges(fd: int) -> Iterator[tuple[int, int]]:
    """The data extents of an open file, as the kernel tells them."""
    end = os.fstat(fd).st_size
    position = 0
    while position < end:
        try:
            offset = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(fd, offset, os.SEEK_HOLE)
        yield offset, position - offset


def _union(*many: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What is in any of some ascending ranges, each byte once."""
    done = 0
    for offset, length in heapq.merge(*many):
        begin, end = max(offset, done), offset + length
        if begin < end:
            yield begin, end - begin
            done = end


def _steps(offset: int, length: int) -> Iterator[tuple[int, int]]:
    for at in range(offset, offset + length, _CHUNK):
        yield at, min(_CHUNK, offset + length - at)


def reserve(path: Path, layout: Layout, seed: int) -> None:
    """Make a file of this layout that was preallocated as a whole before its data was written."""
    with open(path, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, layout.size)
    make_file(path, layout, seed, new=False)
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def check(source: Path, copy: Path, *, ahead: bool = False, most: int | None = None) -> int:
    """Raise Wrong unless ``copy`` has the content of ``source`` and its holes; returns bytes allocated.

    ``ahead``: the filesystem is one that allocates ahead, and more may be allocated. ``most``: the bytes that the
    source has of data, where the kernel takes what is cached for data too.
    """
    if not copy.is_file():
        raise Wrong(f"there is no {copy.name}")
    a, b = os.open(source, os.O_RDONLY), os.open(copy, os.O_RDONLY)
    try:
        st, found = os.fstat(a), os.fstat(b)
        if found.st_size != st.st_size:
            raise Wrong(f"its size is {found.st_size}, not {st.st_size}")
        ranges = {fd: list(data_ranges(fd)) for fd in (a, b)}
        data = {fd: sum(length for _, length in ranges[fd]) for fd in (a, b)}
        for offset, length in ranges[b]:
            # A clone is not in the caches, and waiting for one small extent at a time takes minutes in a run.
            os.posix_fadvise(b, offset, length, os.POSIX_FADV_WILLNEED)
        for offset, length in ranges[a] if ranges[a] == ranges[b] else _union(*ranges.values()):
            for at, count in _steps(offset, length):
                if os.pread(a, count, at) != os.pread(b, count, at):
                    raise Wrong(f"its content differs within {count} bytes at {at}")
        has = data[a] if most is None else most
        limit = 1.1 * has + 64 * KIB
        if data[b] > limit:
            raise Wrong(f"{iec(data[b])} of it are data, where the source has {iec(has)}")
        allocated = found.st_blocks * 512
        if allocated > limit and not ahead:
            raise Wrong(f"{iec(allocated)} of it are allocated, where the source has {iec(has)} of data")
        return allocated
    finally:
        os.close(a)
        os.close(b)


def check_tree(source: Path, copy: Path) -> int:
    """Raise Wrong unless the trees have the same names, sizes, times and the content; returns bytes allocated."""
    blocks = {}
    for directory, folders, names in os.walk(source):
        there = copy / os.path.relpath(directory, source)
        try:
            if sorted(os.listdir(there)) != sorted(folders + names):
                raise Wrong(f"{there}: other names")
        except FileNotFoundError:
            raise Wrong(f"{there} is missing") from None
        for name in names:
            ours, theirs = os.path.join(directory, name), there / name
            st, found = os.lstat(ours), os.lstat(theirs)
            if (st.st_size, st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns) != (
                found.st_size, found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns,
            ):  # fmt: skip
                raise Wrong(f"{theirs}: another size, mode, owner or time")
            blocks[found.st_ino] = found.st_blocks
            if st.st_size > MIB:
                check(Path(ours), theirs)
            elif st.st_size:
                with open(ours, "rb") as a, open(theirs, "rb") as b:
                    if a.read() != b.read():
                        raise Wrong(f"{theirs}: its content differs")
    return sum(blocks.values()) * 512
