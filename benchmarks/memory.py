"""Keeps a virtual machine's memory from going back to its host while something is measured.

A guest may tell its host which of its memory is free (the kernel's "free page reporting"), and the host takes it away
within seconds. Who uses it next waits for the host to give it back: up to 1.3 seconds for each GiB were seen, and the
same copy of 950 MiB took 0.37 or 1.8 s, whatever program made it. It is free blocks of 2 MiB that are reported. So a
process of its own (this file as a program) takes much memory, which makes the host give it, and frees it again but for
one page in each MiB: no free block there has 2 MiB any more. It costs 4 MiB for each GiB, and the kernel takes what
lies in small blocks first. Where nothing is reported there is nothing to do.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPORTING = Path("/sys/module/page_reporting")
_STEP = 1 << 20


@contextlib.contextmanager
def kept(size: int) -> Iterator[None]:
    """While the context lasts the host leaves us ``size`` bytes, but at most half of what is free."""
    if not REPORTING.exists():
        yield
        return
    size = min(size, os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE // 2)
    with subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as keeper:
        assert keeper.stdin and keeper.stdout
        if not keeper.stdout.read(1):
            print("benchmarks: memory is not kept from the host, and times will vary", file=sys.stderr)
        yield


def _keep(size: int) -> None:
    # As for the starter: a signal to all ends the runner, and the runner's end is ours.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if size >= _STEP:
        memory = mmap.mmap(-1, size // _STEP * _STEP, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        # A huge page would be freed in one piece, or not at all.
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        anything = bytes(_STEP)
        for offset in range(0, len(memory), _STEP):
            memory[offset : offset + _STEP] = anything
        for offset in range(0, len(memory), _STEP):
            memory.madvise(mmap.MADV_DONTNEED, offset + mmap.PAGESIZE, _STEP - mmap.PAGESIZE)
    sys.stdout.write(".")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _keep(int(sys.argv[1]))
