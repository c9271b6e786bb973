"""Kill a copy by workers at random moments, and look at what is there, and at what the next run reads.

::

    a source          of many extents of random data; in a tree two of them, other names, and small files
    an old file       of other content has the name
    the first run     is killed, or one of its workers is, when so many tasks are in its journals, and a moment later
    each name         must have the old content or the new one (cmp)
    the next run      of the same command ends well, and leaves nothing beside the files: cmp, the same data and no more
                      of it by ``qemu-img map``, for a tree also ``rsync -aHAXnic``
    what it reads     is counted by the kernel, of all processes together (:mod:`whole_io`): the bytes that the journals
                      do not have as done, and no more than an allowance beside them

The allowance is what runs that were not killed read beside the data, measured before the first kill with the same
engine, and 2 MiB: Python's modules, and rsync. A task is more than those 2 MiB, so that one done once more shows.
A worker that is killed while its coordinator goes on costs a task, and what a new worker reads to begin.

Half of the next runs begin at once, while workers of the killed one may still be there.

::

    python -m tests.support.kills --engine threads|processes|dask|dask-cluster|mpi --kills 50 --seed 1 [--tree]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.filesystems import command, data_bytes, need_tools, same_content
from tests.support.whole_io import Ended, Running, cmdline, descendants, parent

MIB = 1 << 20
_MARGIN = 2 * MIB
_POOLS = "tests.support.executors:two_"

ENGINES = {
    "threads": f"{_POOLS}threads",
    "processes": f"{_POOLS}processes",
    "dask": "dask:local",
    "dask-cluster": "dask:{file}",
    "mpi": "mpi",
}
VICTIMS = {
    "threads": ["coordinator"],
    "processes": ["coordinator", "worker"],
    "dask": ["coordinator", "worker"],
    "dask-cluster": ["coordinator", "worker", "nanny", "scheduler"],
    "mpi": ["coordinator", "worker", "mpiexec"],
}

_SMALL = """
from sparsesync.commands.main import main
from sparsesync.workers import file_copy
file_copy.share_of = lambda data, workers: {share}
file_copy.is_recent = lambda mtime_ns: False
file_copy._ORPHANS_SECONDS = 0.2
raise SystemExit(main())
"""
"""For sources that are too small, and too new, to be gone on with."""

_TWO_WORKERS = """
import sys
from distributed import Client
with Client(scheduler_file=sys.argv[1]) as client:
    client.wait_for_workers(2)
"""


class Plan(NamedTuple):
    """What is tried. ``share``: bytes of a task, for small files; 0 is what the program takes."""

    engine: str
    tree: bool = False
    mib: int = 256
    share: int = 0
    signal: int = signal.SIGKILL
    nanny: bool = True


class Kills:
    """What was found. ``counts``: how often what happened; ``wrong``: a line for each promise that was not kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.allowance = self.most_beside = 0


def kill_often(plan: Plan, place: Path, kills: int, seed: int, baselines: int = 2) -> Kills:
    """Try an engine below the empty directory ``place``. ``baselines``: how many runs are not killed."""
    need_tools("qemu-img", "cmp", *(["rsync"] if plan.tree else []))
    tried = _Tried(plan, place)
    tried.measure(baselines)
    for number in range(kills * 3):
        if tried.found.counts["kills"] >= kills:
            break
        tried.kill(random.Random(f"{seed}/{number}"), number)
    return tried.found


class _Tried:
    def __init__(self, plan: Plan, place: Path) -> None:
        self.plan, self.place, self.found = plan, place, Kills()
        self.source = place / "source"
        self.source.mkdir()
        names = {"big": plan.mib // 2, "a/big": plan.mib // 2} if plan.tree else {"big": plan.mib}
        for number, (name, mib) in enumerate(names.items()):
            _make(self.source / name, mib * MIB, number)
        if plan.tree:
            for number in range(60):
                _make(self.source / ["", "a", "a/b"][number % 3] / f"f{number}", 20_000, number, 1)
            os.link(self.source / "a/big", self.source / "a/b/other name")
        self.files = [path for path in sorted(self.source.rglob("*")) if path.is_file()]
        self.old = place / "old"
        for path in self.files[::2] if plan.tree else self.files:
            _make(self.old / path.relative_to(self.source), 100_000, 99, 2)
        self.data = {os.stat(path).st_ino: data_bytes(path) for path in self.files}
        self.tasks = 0
        self.count = itertools.count()
        if not plan.share:
            time.sleep(2.1)  # what was written to a moment ago is not gone on with

    def command(self, destination: Path) -> dict[str, Any]:
        """What :mod:`whole_io` is to run."""
        plan, file = self.plan, str(destination.parent / f"scheduler{next(self.count)}.json")
        workers = ENGINES[plan.engine].format(file=file)
        main = [sys.executable, *(["-c", _SMALL.format(share=plan.share)] if plan.share else ["-m", "sparsesync"])]
        if plan.engine == "mpi":
            mpiexec = shutil.which("mpiexec") or "mpiexec"
            main = [mpiexec, "-n", "3", sys.executable, "-m", "mpi4py.futures", "-m", "sparsesync"]
        if plan.tree:
            main += ["sync", "-aHAX", "--seed-min-hole=0", "--seed-workers", workers]
            main += [f"{self.source}/", f"{destination}/"]
        else:
            main += ["copy", "-p", "--reflink=never", "--workers", workers]
            main += [str(self.source / "big"), str(destination / "big")]
        if plan.engine != "dask-cluster":
            return {"main": main}
        more = ["--scheduler-file", file, "--no-dashboard"]
        worker = [*_dask("worker"), *more, "--nthreads", "1", "--nanny" if plan.nanny else "--no-nanny"]
        worker += ["--local-directory", str(destination.parent)]
        return {
            "main": main,
            "background": [[*_dask("scheduler"), *more, "--port", "0", "--host", "127.0.0.1"], worker, worker],
            "ready": file,
            "before": [sys.executable, "-c", _TWO_WORKERS, file],
        }

    def fresh(self, number: int) -> Path:
        """A destination that has what is old."""
        folder = self.place / f"run{number}"
        shutil.copytree(self.old, folder / "dst")
        return folder / "dst"

    def measure(self, runs: int) -> None:
        """Find out what runs that nobody kills read beside the data."""
        whole = sum(self.data.values())
        for _ in range(runs):
            destination = self.fresh(0)
            run = Running(self.command(destination), destination.parent / "said")
            while run.going():
                run.check_time()
                self.tasks = max(self.tasks, sum(1 for _ in _lines(destination)))
            ended = run.end()
            assert ended.status == 0 and ended.read >= whole and not ended.said, ended
            self.check_all(destination, "unkilled")
            self.found.allowance = max(self.found.allowance, ended.read - whole + _MARGIN)
            shutil.rmtree(destination.parent)

    def kill(self, chance: random.Random, number: int) -> None:
        """Start a run, kill what chance says when it says so, judge, and have the next run finish it."""
        destination = self.fresh(number + 1)
        counts, before = self.found.counts, len(self.found.wrong)
        who = chance.choice(VICTIMS[self.plan.engine])
        at, later, at_once = chance.randrange(-1, self.tasks + 1), chance.random(), chance.random() < 0.5
        what = f"kill {number} of {self.plan.engine}, {who}, at {at} of {self.tasks} tasks"
        run = Running(self.command(destination), destination.parent / "said")
        if at >= 0:
            while run.going() and sum(1 for _ in _lines(destination)) < at:
                run.check_time()
        time.sleep(later * (0.05 if at >= 0 else 0.5))
        victim = _find(run, who, chance)
        while victim is None and run.going():
            run.check_time()
            victim = _find(run, who, chance)
        known = _done(destination)
        hit = victim is not None and run.kill(victim, self.plan.signal if who == "coordinator" else signal.SIGKILL)
        counts["kills" if hit else "too late"] += 1
        counts[f"of a {who}" if hit else "not killed"] += 1
        status = run.status()
        first = None
        if not at_once:
            first = run.end()
        self.check_names(destination, what)
        done, left = self.left(destination)
        if self.plan.signal != signal.SIGKILL and who == "coordinator" and status and done < sum(known.values()):
            self.wrong(what, f"{sum(known.values())} bytes were done when it was interrupted, and {done} after")
        counts["gone on from"] += bool(done)
        counts["survived"] += status == 0 and hit
        if status == 0:
            self.check_all(destination, what)
            left = 0 if self.plan.tree else left
        if status != 0 or not self.plan.share:
            self.run_again(destination, what, left if status or self.plan.tree else sum(self.data.values()))
        first = first or run.end()
        self.check_said(first, status, what)
        if status == 0:
            most = sum(self.data.values()) + (2 * self.found.allowance + self.most_task() if hit else 0)
            if first.read > most + self.found.allowance:
                self.wrong(what, f"the run that went on read {first.read} bytes, and not {most}")
        if len(self.found.wrong) == before:
            shutil.rmtree(destination.parent)

    def most_task(self) -> int:
        return self.plan.share or max(16 * MIB, self.plan.mib * MIB // 8) + 64 * 1024

    def run_again(self, destination: Path, what: str, left: int) -> None:
        run = Running(self.command(destination), destination.parent / "again")
        ended = run.end()
        self.check_said(ended, ended.status, f"{what}: again")
        if ended.status:
            self.wrong(what, f"the next run ended with {ended.status}")
            return
        self.check_all(destination, what)
        beside = ended.read - left
        self.found.most_beside = max(self.found.most_beside, beside)
        if not 0 <= beside <= self.found.allowance:
            self.wrong(what, f"the next run read {ended.read} bytes, and {left} were not done")

    def left(self, destination: Path) -> tuple[int, int]:
        """The bytes that are done of files that are under way, and those that the next run has to read."""
        known, done, left = _done(destination), 0, 0
        seen = set()
        for path in self.files:
            st = os.stat(path)
            if st.st_ino in seen:
                continue
            seen.add(st.st_ino)
            copies = [destination / each.relative_to(self.source) for each in self.files if each.samefile(path)]
            whole = self.data[st.st_ino]
            of_it = sum(known.get(copy, 0) for copy in copies)
            if self.plan.tree and any(copy.exists() and same_content(path, copy) for copy in copies):
                whole = of_it = 0
            done, left = done + of_it, left + whole - of_it
        return done, left

    def check_names(self, destination: Path, what: str) -> None:
        for path in self.files:
            name = path.relative_to(self.source)
            there = [each / name for each in (self.source, self.old) if (each / name).exists()]
            missing = not (destination / name).exists()
            if missing if self.old / name in there else False:
                self.wrong(what, f"{name} is gone")
            elif not missing and not any(same_content(each, destination / name) for each in there):
                self.wrong(what, f"{name} has neither the old content nor the new")

    def check_all(self, destination: Path, what: str) -> None:
        for path in self.files:
            name = path.relative_to(self.source)
            if not same_content(path, destination / name):
                self.wrong(what, f"{name} is not what it should be")
            elif data_bytes(destination / name) != self.data[os.stat(path).st_ino]:
                self.wrong(what, f"{name} has other holes")
        found = {path.relative_to(destination) for path in destination.rglob("*")}
        wanted = {path.relative_to(self.source) for path in self.source.rglob("*")}
        if found != wanted:
            self.wrong(what, f"{[*map(str, found ^ wanted)]} should not be left, or missing")
        if self.plan.tree:
            listed = command("rsync", "-aHAXnic", f"{self.source}/", f"{destination}/")
            if listed:
                self.wrong(what, f"rsync finds {listed!r}")

    def check_said(self, ended: Ended, status: int, what: str) -> None:
        lines = ended.said.splitlines()
        if self.plan.engine == "mpi" and status:
            return  # mpiexec has its own to say
        if "Traceback" in ended.said:
            self.wrong(what, f"a traceback: {ended.said[-2000:]}")
        elif status > 0 and (not lines or (len(lines) > 1 and not self.plan.tree)):
            self.wrong(what, f"ended with {status}, and said {lines}")
        elif status == 0 and lines:
            self.found.counts["said something though all is well"] += 1
        for line in lines:
            self.found.counts[f"said: {line[:150]}"] += 1

    def wrong(self, what: str, line: str) -> None:
        self.found.wrong.append(f"{what}: {line}")


def _find(run: Running, who: str, chance: random.Random) -> int | None:
    """A process of that kind, if there is one."""
    found = []
    for pid in descendants(run.process.pid):
        text, rank = cmdline(pid), _rank(pid)
        kinds = {
            "mpiexec": pid == run.pid and "mpiexec" in text,
            "scheduler": _dask("scheduler")[-1] in text,
            "nanny": _dask("worker")[-1] in text,
            "coordinator": pid == run.pid,
            "worker": (parent(pid) == run.pid and text == cmdline(run.pid)) or "spawn_main" in text,
        }
        if rank is not None:
            kinds["coordinator"], kinds["worker"] = rank == 0, rank > 0
        if kinds[who]:
            found.append(pid)
    return chance.choice(sorted(found)) if found else None


def _dask(kind: str) -> list[str]:
    return [sys.executable, "-m", f"distributed.cli.dask_{kind}"]


def _rank(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    ranks = [value for name, _, value in (each.partition(b"=") for each in text.split(b"\0")) if name == b"PMI_RANK"]
    return int(ranks[0]) if ranks else None


def _make(path: Path, data: int, seed: int, extents: int = 0) -> None:
    """A file of random data in many extents."""
    chance = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    length, position = 4096 * (data // (extents or max(8, data // 200_000)) // 4096), 0
    with open(path, "wb") as file:
        while data > 0:
            position += 4096 * chance.randrange(1, 100)
            file.seek(position)
            file.write(chance.randbytes(min(length, data)))
            data, position = data - length, position + length
        file.truncate(position + 100_000)
    os.utime(path, ns=(seed, 1_500_000_000_123_456_789 + seed))


def _lines(destination: Path) -> Iterator[tuple[Path, list[int]]]:
    """The tasks in all journals that are under way, each with the name of its file."""
    for journal in destination.rglob(".*.sparsesync-journal"):
        name = journal.name[1:].removesuffix(".sparsesync-journal")
        if not any((journal.parent / f".{name}.sparsesync-{kind}").exists() for kind in ("tasks", "done")):
            continue
        with contextlib.suppress(FileNotFoundError):
            for text in journal.read_bytes().splitlines()[1:]:
                line, _, checksum = text.rpartition(b" ")
                if line and checksum == b"%08x" % zlib.crc32(line):
                    yield journal.parent / name, json.loads(line)


def _done(destination: Path) -> dict[Path, int]:
    """The bytes of each file that its journal has as done."""
    tasks = {(path, number): written for path, (number, _, written) in _lines(destination)}
    done: dict[Path, int] = {}
    for (path, _), written in tasks.items():
        done[path] = done.get(path, 0) + written
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill copies by workers, and go on with them.")
    parser.add_argument("--engine", choices=ENGINES, default="processes")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tree", action="store_true")
    parser.add_argument("--mib", type=int, default=256, help="of data")
    parser.add_argument("--signal", choices=["KILL", "TERM", "INT"], default="KILL", help="for the coordinator")
    parser.add_argument("--no-nanny", action="store_true", help="workers of dask-cluster that nobody starts again")
    arguments = parser.parse_args()
    sent = signal.Signals[f"SIG{arguments.signal}"]
    plan = Plan(arguments.engine, arguments.tree, arguments.mib, signal=sent, nanny=not arguments.no_nanny)
    place = Path(tempfile.mkdtemp(prefix="kills"))
    found = kill_often(plan, place, arguments.kills, arguments.seed)
    for name, count in found.counts.most_common():
        print(f"{count:5} {name}")
    print(f"the next run read at most {found.most_beside} bytes beside what was not done; allowed: {found.allowance}")
    for line in found.wrong:
        print(line)
    if not found.wrong:
        shutil.rmtree(place)
    return bool(found.wrong)


if __name__ == "__main__":
    sys.exit(main())
