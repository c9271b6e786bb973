"""Starts processes and accounts for them. It runs as a program of its own and stays small.

Why not the runner itself: a process begins with the peak memory of whoever forked it (exec keeps it, see getrusage(2)),
so that nothing started from a large program could show a peak below that program's. This one has some 9 MiB; what needs
less than that cannot be told from it, and the results call it the floor.

Why not hyperfine or pyperf: they measure one command after the other, and a machine that becomes slower meanwhile would
then be taken for a difference between them. The runner's rounds need single runs, in any order, with peak memory and
bytes for each; that is ``wait4`` and a few lines.

How a run is measured: the clock is read right before ``posix_spawn`` and right after ``waitid`` says that the process
has ended. It has not been reaped then, and what Linux knows of it can still be read: /proc/PID/io, which has the bytes
of the process and of all of its descendants that were waited for. Then ``wait4`` reaps it and gives the peak memory of
the largest one of the same processes, and their processor time.

One request is a line of JSON on standard input, one answer a line on standard output. When standard input ends, or says
anything while a process runs, or the process runs for longer than its limit, its whole process group is
killed. ``starter.py far LOG COMMAND`` instead runs one shell command with its own standard streams and appends
the answer to LOG: that is how the other end of a connection is accounted for.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time

_ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def account(
    argv: list[str],
    environ: dict[str, str],
    output: str | None = None,
    errors: str | None = None,
    limit: float | None = None,
) -> dict[str, object]:
    """Run ``argv`` to its end and return what it took; times in seconds, sizes in bytes.

    With files for its ``output`` and ``errors`` it is on its own: nothing to read, a process group that is killed after
    ``limit`` seconds or when our standard input has something to say. Without, it has our standard streams.
    """
    alone = output is not None and errors is not None
    pid_options: dict[str, object] = {}
    if alone:
        create = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        pid_options = {
            "file_actions": [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, output, create, 0o600),
                (os.POSIX_SPAWN_OPEN, 2, errors, create, 0o600),
            ],
            "setpgroup": 0,
            "setsigdef": _ENDING,
        }
    started = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, environ, **pid_options)  # type: ignore[arg-type]
    over = False
    if alone:
        ended = os.pidfd_open(pid)
        ready, _, _ = select.select([ended, 0], [], [], limit)
        over = ended not in ready
        os.close(ended)
        if over:
            os.killpg(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    seconds = time.perf_counter() - started
    with open(f"/proc/{pid}/io") as lines:
        moved = {name: int(value) for name, value in (line.split(": ") for line in lines)}
    _, status, used = os.wait4(pid, 0)
    return {
        "seconds": seconds,
        "status": os.waitstatus_to_exitcode(status),
        "over": over,
        "peak": used.ru_maxrss * 1024,
        "processor": used.ru_utime + used.ru_stime,
        "read": moved["rchar"],
        "written": moved["wchar"],
        "storage_read": moved["read_bytes"],
        "storage_written": moved["write_bytes"],
    }


def serve() -> None:
    """Answer requests until standard input ends."""
    # A signal to all, from a terminal or timeout(1), reaches the runner too, which ends us by closing the pipe. Ended
    # sooner we would leave what we started running.
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    while True:
        request = sys.stdin.readline()
        if not request:
            return
        asked = json.loads(request)
        try:
            answer = account(**asked)
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


def far(log: str, command: str) -> None:
    """Run a shell command as the other end's, append what it took to ``log``, and exit as it did."""
    answer = account(["sh", "-c", command], dict(os.environ))
    try:
        file = os.open(log, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        # Nobody asks for accounts any more, and to make the file would be to ask.
        pass
    else:
        os.write(file, json.dumps(answer).encode() + b"\n")
        os.close(file)
    status = answer["status"]
    assert isinstance(status, int)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    if sys.argv[1:2] == ["far"]:
        far(sys.argv[2], sys.argv[3])
    serve()
