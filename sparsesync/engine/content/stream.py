"""Standard input and output as the ends of a copy.

A stream has no holes. What comes from one is looked at for blocks of zeros, which become holes::

    for each piece that comes:
        blocks of zeros        -> punch, if there is something below (in place); else nothing
        other blocks           -> write, in place only if they differ

A mount that takes bytes in order only shows that when a hole was left: the zeros are written then, and all that follow.

What goes to one is every byte, zeros for the holes. Nothing says that a stream ended too early, so whoever pipes
has to look at the status of what is before the pipe.
"""

import errno
import os
import stat
from typing import TYPE_CHECKING

from ..errors import OnProgress, error_path
from ..files.status import open_source
from ..files.syscalls import read_full
from ..files.writing.target import Target
from .copy import zero_block
from .copy_file import Copied, CopyOptions, existing, replacing
from .device import write_device
from .hands.workers import PIECE_BYTES
from .pieces import PieceWriter, not_zeros, read_stream

if TYPE_CHECKING:
    from .copy_file import Path

INPUT = "standard input"


def copy_in(stream: int, dst: "Path", options: CopyOptions, progress: OnProgress = None) -> Copied:
    """Copy what comes from a stream to the file ``dst`` on this machine.

    Raises what :func:`~.copy_file.copy_file` does, and IsADirectoryError for a directory, since a stream has no name.
    """
    path = os.fspath(dst)
    old = existing(path)
    if old is not None and (stat.S_ISCHR(old.st_mode) or stat.S_ISBLK(old.st_mode)):
        written = write_device(stream, path, fsync=options.fsync, progress=progress, source_path=INPUT)
        return Copied(path, written, written)
    if path.endswith("/"):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    with replacing(path, old, options) as target:
        writer = _Writer(target)
        size = written = 0
        for offset, data in read_stream(stream, INPUT):
            with error_path(path):
                written += writer.write(data, offset)
            size = offset + len(data)
            if progress is not None:
                progress(len(data))
        with error_path(path):
            writer.end(size)
    return Copied(path, size, written)


def copy_out(src: "Path", stream: int, name: str, options: CopyOptions, progress: OnProgress = None) -> Copied:
    """Copy the content of ``src`` on this machine to a stream. ``name``: what the stream is called in an error."""
    path = os.fspath(src)
    source = open_source(path)
    try:
        written = write_device(
            source, name, holes=options.holes, progress=progress, source_path=path, fd=os.dup(stream)
        )
        return Copied(name, os.fstat(source).st_size or written, written)
    finally:
        os.close(source)


class _Writer:
    """Writes the pieces of a stream to a target, less what is zeros or there already."""

    def __init__(self, target: Target) -> None:
        if target.overlay:
            target.give_up_unusable()
        self.target = target
        self.block = zero_block(target)
        self._there = memoryview(bytearray(PIECE_BYTES if target.overlay else 0))
        self._pieces = PieceWriter(target)

    def write(self, data: memoryview, offset: int) -> int:
        """Write a piece, and return the bytes written."""
        end = written = 0
        for start, length in not_zeros(data, offset, self.block):
            self.target.punch(offset + end, start - end)
            end = start + length
            part = data[start:end]
            if self.target.overlay:
                there = self._there[:length]
                if read_full(self.target.fd, there, offset + start) == length and there == part:
                    continue
            self._pieces.write(part, offset + start)
            written += length
        self.target.punch(offset + end, len(data) - end)
        return written

    def end(self, size: int) -> None:
        """Set the size, now that it is known."""
        if os.fstat(self.target.fd).st_size != size:
            self._pieces.set_size(size)
