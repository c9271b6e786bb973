"""A model of a copy by many workers: what a million tasks cost the coordinator, and how long the last ones take.

``python -m benchmarks.many_workers`` runs the coordinator's own code (sparsesync.workers.plan, run and journal) over
extents that are made up, with workers that are made up: an executor whose clock is virtual, so that a task of a second
takes no time. What it prints of the coordinator is measured, and what it prints of the workers is simulated. Three
kinds of bad luck: some workers are slow, some tasks stall, and some are lost.
"""

from __future__ import annotations

import argparse
import heapq
import os
import queue
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any
from unittest import mock

from sparsesync.workers import coordinator, run
from sparsesync.workers.file_copy import FileCopy
from sparsesync.workers.journal import Journal
from sparsesync.workers.plan import MOST_BYTES, largest_first, plan
from sparsesync.workers.task import Answer, Request

MIB = 1 << 20
GIB = 1 << 30
BYTES_PER_SECOND = 1 * GIB
"""Of one worker."""
STALLED_SECONDS = 3600.0


class Cluster(Executor):
    """Workers whose time is virtual. It is the queue of answers, too: whoever waits for one sets the clock forward."""

    def __init__(self, workers: int, seed: int) -> None:
        self.now = 0.0
        self.stalled = self.lost = 0
        self._random = random.Random(seed)
        self._speed = [self._random.choice([1.0] * 49 + [0.2]) for _ in range(workers)]
        self._free = [*range(workers)]
        self._waiting: list[tuple[Future[Any], Request]] = []
        self._ends: list[tuple[float, int, int, Future[Any], Request]] = []
        self._answers: list[Any] = []
        self._count = 0

    def submit(self, do: Any, /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.insert(0, (future, Request(*args[0])))
        self._start()
        return future

    def _start(self) -> None:
        while self._waiting and self._free:
            future, request = self._waiting.pop()
            worker = self._free.pop(self._random.randrange(len(self._free)))
            seconds = MOST_BYTES / BYTES_PER_SECOND / self._speed[worker] * self._random.uniform(0.8, 1.2)
            if self._random.random() < 1e-4:
                seconds, self.stalled = STALLED_SECONDS, self.stalled + 1
            self._count += 1
            heapq.heappush(self._ends, (self.now + seconds, self._count, worker, future, request))

    def put(self, answer: Any) -> None:
        self._answers.append(answer)

    def get(self, timeout: float = 0) -> Any:
        end = self.now + timeout
        while not self._answers and self._ends and self._ends[0][0] <= end:
            self.now, _, worker, future, request = heapq.heappop(self._ends)
            self._free.append(worker)
            self._start()
            if self._random.random() < 1e-4:
                self.lost += 1
                future.set_exception(BrokenProcessPool("lost"))
            else:
                future.set_result(tuple(Answer("done", f"worker {worker}", written=request.stop - request.start)))
        if not self._answers:
            self.now = end
            raise queue.Empty
        return self._answers.pop()

    def get_nowait(self) -> Any:
        return self.get()

    def monotonic(self) -> float:
        return self.now


def model(tasks: int, workers: int, extents: int, seed: int) -> None:
    """Run a copy of so many tasks by so many workers, each with so many extents, and print what it took."""
    length = MOST_BYTES // extents

    def ranges() -> Iterator[tuple[int, int]]:
        for number in range(tasks * extents):
            yield number * 2 * length, length

    cluster = Cluster(workers, seed)
    copy = FileCopy(workers)
    copy.request = Request("", "", "/source", (0, 0, 0, 0), "/", "", 0, 0, 0, b"", True, False, 0, False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        directory = os.open(folder, os.O_RDONLY)
        journal = Journal(directory, "journal")
        os.close(directory)
        journal.begin({})
        copy._journal = journal
        started, busy = time.perf_counter(), time.process_time()
        with mock.patch.object(run, "time", cluster), mock.patch.object(coordinator, "time", cluster):
            made = coordinator.CopyRun(cluster, workers, copy, False, "/source")
            made._heard = cluster  # type: ignore[assignment]
            made.all_of(largest_first(plan(ranges(), tasks * 2 * MOST_BYTES, MOST_BYTES)))
        busy, took = time.process_time() - busy, time.perf_counter() - started
        size = os.stat(os.path.join(folder, "journal")).st_size
        journal.close(False)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    power = sum(cluster._speed)
    ideal = tasks * MOST_BYTES / BYTES_PER_SECOND / power
    print(f"{tasks} tasks of {extents} extents, {workers} workers")
    print(f"  measured: {busy / tasks * 1e3:.3f} ms of processor and {took / tasks * 1e3:.3f} ms of time a task,")
    print(f"    memory {grown / 1024:.0f} MiB beside the {before / 1024:.0f} of Python, journal {size / MIB:.1f} MiB")
    print(f"  simulated: {cluster.now:.1f} s, {cluster.now / ideal:.3f} of what {power:.0f} full workers would take,")
    print(f"    {cluster.stalled} tasks stalled and {cluster.lost} were lost on the way")
    print(f"  extrapolated: {tasks / took * MOST_BYTES / GIB:.0f} GiB/s is the most that one coordinator can give out")


def main() -> None:
    """Run the model as the command line says."""
    parser = argparse.ArgumentParser(description="What a million tasks cost their coordinator.")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--extents", type=int, default=1, help="of each task")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    model(arguments.tasks, arguments.workers, arguments.extents, arguments.seed)


if __name__ == "__main__":
    main()
