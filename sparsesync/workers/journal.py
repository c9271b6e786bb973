"""The tasks of a copy that are done, in a file beside the temporary, so that a later run goes on.

A line of JSON says what the copy is of: the source's identity, the temporary's inode, the plan. Then comes a line for
each task: its number, its checksum, the bytes written. What a line tells of is on the disk before the line is written.
Lines are flushed now and then: one that a power cut takes away costs its task. A line without its end was never
written.

A journal is believed only if it is of the same source, temporary and plan; else the copy starts anew. It is not
believed either if the source was written to a moment before the copy began: a further write may have left its times as
they were.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import json
import os
import stat
import zlib
from typing import Any

from .plan import Task
from .task import lock

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MAX_HEADER_BYTES = 64 * 1024
_MAX_TASKS = 1 << 26
"""More, of 16 MiB and more each, no filesystem has."""


class Journal:
    """The journal ``name`` in an open directory."""

    def __init__(self, directory: int, name: str) -> None:
        self._directory = os.dup(directory)
        self.name: str = name
        self._fd = -1
        # Of a million tasks twelve megabytes.
        self._checksums = array.array("Q")
        self._written = array.array("I")

    def take_up(self, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """Read the journal of an earlier run, and return what it is of. None if it cannot be gone on with.

        ``wanted``: what it has to be of.
        """
        try:
            fd = os.open(self.name, _READ, dir_fd=self._directory)
        except OSError:
            return None
        with open(fd, "rb") as file:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or st.st_uid != os.geteuid() or st.st_nlink != 1 or st.st_mode & 0o022:
                return None
            first = _line(file.readline(_MAX_HEADER_BYTES))
            if not isinstance(first, dict) or any(first.get(name) != value for name, value in wanted.items()):
                return None
            for text in file:
                line = _line(text)
                if isinstance(line, list) and len(line) == 3 and all(isinstance(each, int) for each in line):
                    number, checksum, written = line
                    if 0 <= number < _MAX_TASKS and 0 < checksum < 1 << 32 and 0 <= written < 1 << 32:
                        self._note(number, checksum, written)
        return first

    @property
    def any_done(self) -> bool:
        """Whether it has a task of an earlier run."""
        return any(self._checksums)

    def _note(self, number: int, checksum: int, written: int) -> None:
        missing = number + 1 - len(self._checksums)
        if missing > 0:
            self._checksums.frombytes(bytes(missing * self._checksums.itemsize))
            self._written.frombytes(bytes(missing * self._written.itemsize))
        self._checksums[number], self._written[number] = checksum, written

    def begin(self, header: dict[str, Any] | None) -> None:
        """Open the journal for writing: a new one with ``header``, or the one that was taken up."""
        if header is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self._directory)
            self._checksums, self._written = array.array("Q"), array.array("I")
        self._fd = os.open(self.name, _WRITE, 0o600, dir_fd=self._directory)
        if header is not None:
            self._append(header)
        else:
            os.write(self._fd, b"\n")  # behind what may be half a line
        self.flush()

    def written(self, task: Task) -> int | None:
        """Return the bytes that a task has written, or None if it is not done."""
        number = task.number
        if number >= len(self._checksums) or self._checksums[number] != task.checksum:
            return None
        return self._written[number]

    def add(self, task: Task, written: int) -> None:
        """Note a task that is done."""
        self._append([task.number, task.checksum, min(written, (1 << 32) - 1)])

    def _append(self, what: object) -> None:
        text = json.dumps(what).encode()
        os.write(self._fd, text + b" %08x\n" % zlib.crc32(text))

    def lock(self) -> bool:
        """Have its lock alone: as :func:`.task.lock`."""
        return lock(self._fd, fcntl.F_WRLCK)

    def flush(self) -> None:
        """Have what was noted on the disk."""
        os.fdatasync(self._fd)

    def close(self, keep: bool) -> None:
        """Close the journal, and remove it unless it is to be kept."""
        if self._fd >= 0:
            lock(self._fd, fcntl.F_UNLCK)  # also if a process was forked meanwhile, and has it open
            os.close(self._fd)
            if not keep:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.name, dir_fd=self._directory)
        os.close(self._directory)


def _line(text: bytes) -> Any:
    """Return what a line of the journal says, or None if it is damaged."""
    said, _, checksum = text.rstrip(b"\n").rpartition(b" ")
    if not text.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(said):
        return None
    try:
        return json.loads(said)
    except ValueError:
        return None
