"""Write a file's content to a device.

A device is not replaced but written to, as cp(1) and shutil do it; an error may leave it half written.
A block device gets the content at its beginning::

    for each data extent of the source:
        make what lies before it read as zeros     # most devices do that by themselves: fallocate(2)
        write the extent

so a hole costs next to nothing there too, and what lies behind the content stays. Any other device (/dev/null,
a terminal) has no places: it gets every byte in order, and zeros for the holes.

Sizes and offsets are bytes.
"""

import array
import errno
import fcntl
import os
import stat
from typing import Optional

from ..errors import NoSpaceError, OnProgress, TruncatedError, error_path
from ..files.claims import ZERO_BLOCK_BYTES, believes, file_size, is_view
from ..files.syscalls import punch, write_all
from .copy import data_ranges, not_to_be_merged
from .hands.workers import PIECE_BYTES
from .pieces import read_on, read_ranges, read_stream

_ZEROS = memoryview(bytes(PIECE_BYTES))

_BLKSSZGET = 0x1268
"""linux/fs.h."""


def write_device(
    source: int,
    path: str,
    *,
    sparse: str = "auto",
    reflink: str = "auto",
    holes: str = "auto",
    fsync: bool = False,
    overlay: bool = False,
    progress: OnProgress = None,
    source_path: str = "source",
    fd: Optional[int] = None,
) -> int:
    """Write what the open file ``source`` holds to the device at ``path``, and return the bytes of data written.

    ``source`` may be a pipe. ``fd``: written to in order instead of the device, and closed.

    ``overlay``: leave what is a hole in the source as it is on a block device. Other options are those of
    :func:`copy.copying`.

    Raises NoSpaceError before anything is written if a block device is too small, TruncatedError if the source is
    truncated meanwhile, OSError as the system calls do.
    """
    if reflink == "always":
        raise OSError(errno.EOPNOTSUPP, "a device cannot share extents (reflink)", path)
    with error_path(source_path):
        size, view = file_size(source), is_view(source)
        believed = view or believes(source, holes)
    if overlay and not believed:
        raise not_to_be_merged(source_path)
    ranges = data_ranges(source, size, ZERO_BLOCK_BYTES if sparse == "always" else 0, believed)
    streamed = not (stat.S_ISREG(os.fstat(source).st_mode) or stat.S_ISBLK(os.fstat(source).st_mode))
    device = _Device(path, fd)
    try:
        if device.room is not None and device.room < size:
            raise NoSpaceError(size, device.room, path)
        if overlay and device.room is None:
            raise OSError(errno.ESPIPE, "a device that has no places cannot keep anything (overlay)", path)
        done = end = 0
        if streamed:
            pieces = read_stream(source, source_path)
        else:
            pieces = read_on(source, source_path) if view else read_ranges(source, ranges, source_path)
        for offset, data in pieces:
            if not overlay:
                device.zero(end, offset)
            device.write(data, offset)
            end = offset + len(data)
            done += len(data)
            if progress is not None:
                progress(len(data))
        if not overlay:
            device.zero(end, end if view or streamed else size)
        if fsync:
            device.flush()
    finally:
        os.close(device.fd)
    if file_size(source) < size:
        raise TruncatedError(source_path)
    return done


def _logical_block(fd: int) -> int:
    """Return the bytes that a block device takes at a time: 512 to 65536."""
    held = array.array("i", [0])
    fcntl.ioctl(fd, _BLKSSZGET, held)
    return held[0]


class _Device:
    """A device open for writing, or the stream ``fd``. ``room`` is the size of a block device, None for any other."""

    def __init__(self, path: str, fd: Optional[int] = None) -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC) if fd is None else fd
        self.room = file_size(self.fd) if fd is None and stat.S_ISBLK(os.fstat(self.fd).st_mode) else None
        self.block = ZERO_BLOCK_BYTES if self.room is None else max(ZERO_BLOCK_BYTES, _logical_block(self.fd))

    def write(self, data: memoryview, offset: int) -> None:
        with error_path(self.path):
            if self.room is not None:
                write_all(self.fd, data, offset)
                return
            while data:
                data = data[os.write(self.fd, data) :]

    def flush(self) -> None:
        """Have all that was written on the disk; what is not a device has nothing to flush."""
        with error_path(self.path):
            try:
                os.fsync(self.fd)
            except OSError as error:
                if error.errno != errno.EINVAL or self.room is not None:
                    raise

    def zero(self, start: int, end: int) -> None:
        """Make a range read as zeros that begins where the last write ended."""
        if self.room is not None:
            # The device zeroes whole blocks of its own: fallocate(2).
            first, last = -(-start // self.block) * self.block, end // self.block * self.block
            if first < last:
                self._write_zeros(start, first)
                with error_path(self.path):
                    punch(self.fd, first, last - first)
                start = last
        self._write_zeros(start, end)

    def _write_zeros(self, start: int, end: int) -> None:
        while start < end:
            count = min(len(_ZEROS), end - start)
            self.write(_ZEROS[:count], start)
            start += count
