"""Run a command, wait for it and for all that it has started, and say what they have read and written altogether.

The kernel adds to what a process has read, in ``/proc/PID/io``, what each of its children has, once that has been
waited for. So this process takes in all orphans (PR_SET_CHILD_SUBREAPER of prctl(2)), waits for the last, and looks at
its own. Killed processes are in it, too.

What is to be run is one JSON object, the only argument: ``main``; ``background``, commands that are started before and
get SIGTERM after it, and SIGKILL 5 s later; ``ready``, a file that the first of them makes; ``before``, a command that
has to end before ``main`` starts. Three lines of JSON come out: the pid of ``main``, its exit status, and the counts
when nothing is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = Path(__file__).parents[2]
_TIMEOUT = 150

_PR_SET_CHILD_SUBREAPER = 36


def counted() -> dict[str, int]:
    """What this process and those that it has waited for have read and written."""
    with open("/proc/self/io") as file:
        return {name: int(count) for name, count in (line.split(": ") for line in file)}


class Ended(NamedTuple):
    """What became of a run: its status, what it said, and the bytes that all its processes have read."""

    status: int
    said: str
    read: int


class Running:
    """A run under way."""

    def __init__(self, wanted: dict[str, Any], said: Path) -> None:
        self.said = said
        environment = {**os.environ, "PYTHONPATH": str(_ROOT), "COLUMNS": "80"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with open(said, "w") as file:
            self.process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(wanted)],
                cwd=said.parent, env=environment, stdout=subprocess.PIPE, stderr=file, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        self.out = self.process.stdout
        self.pid = int(self.out.readline())
        self.deadline = time.monotonic() + _TIMEOUT

    def going(self) -> bool:
        try:
            return "Z" not in Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False

    def status(self) -> int:
        """Wait for the end of what was started, and return its status."""
        while self.going():
            self.check_time()
        self._status = int(self.out.readline())
        return self._status

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            left = [(pid, cmdline(pid)[-120:]) for pid in descendants(self.process.pid)]
            for pid, _ in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise TimeoutError(f"it hangs: {left}; it said {self.said.read_text()[-2000:]}")
        time.sleep(0.002)

    def end(self) -> Ended:
        """Wait until nothing is left of it."""
        status = self._status if hasattr(self, "_status") else self.status()
        while self.process.poll() is None:
            self.check_time()
        read = json.loads(self.out.readline())["rchar"]
        self.out.close()
        return Ended(status, self.said.read_text(), read)

    def kill(self, pid: int, number: int) -> bool:
        if not self.going():
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def descendants(pid: int) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            children.setdefault(parent(int(name)), []).append(int(name))
    waiting = [*children.get(pid, [])]
    while waiting:
        waiting += children.get(waiting[0], [])
        yield waiting.pop(0)


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _kill_all() -> None:
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    wanted = json.loads(sys.argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    background = []
    for argv in wanted.get("background", []):
        background.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        while not os.path.exists(wanted["ready"]) and background[0].poll() is None:
            time.sleep(0.01)
    if wanted.get("before"):
        subprocess.run(wanted["before"], stdout=subprocess.DEVNULL, check=True)
    before = counted()
    to_stderr = [(os.POSIX_SPAWN_DUP2, 2, 1)]
    started = os.posix_spawn(wanted["main"][0], wanted["main"], os.environ, setpgroup=0, file_actions=to_stderr)
    print(started, flush=True)
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            break
        if pid == started:
            print(os.waitstatus_to_exitcode(status), flush=True)
            for each in background:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGTERM)
            if background:  # a nanny of dask whose scheduler is gone may wait for good
                threading.Timer(5, _kill_all).start()
    after = counted()
    print(json.dumps({name: after[name] - before[name] for name in after}), flush=True)


if __name__ == "__main__":
    main()
