"""A model of a copy by many workers: what a million tasks cost the coordinator, and how long the last ones take.

``python -m benchmarks.many_workers`` runs the coordinator's own code (sparsesync.workers.plan, run and journal) over
extents that are made up, with workers that are made up: an executor whose clock is virtual, so that a task of a second
takes no time. What it prints of the coordinator is measured, and what it prints of the workers is simulated. Three
kinds of bad luck: some workers are slow, some tasks stall, and some are lost.

With ``--files`` it is a tree instead (sparsesync.workers.bundles), with files of few data and of much, in the order of
their names and with the large ones first.
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
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sparsesync.engine.content.hands.writer import Asked, Work
from sparsesync.workers import bundles, coordinator, run
from sparsesync.workers.file_copy import FileCopy
from sparsesync.workers.journal import Journal
from sparsesync.workers.plan import MOST_BYTES, Task, large_files_first, largest_first, plan, share_of
from sparsesync.workers.task import Answer, Request, bundle_task

MIB = 1 << 20
GIB = 1 << 30
BYTES_PER_SECOND = 1 * GIB
"""Of one worker."""
FILE_SECONDS = 0.002
"""What a file of a bundle takes besides its data."""
STALLED_SECONDS = 3600.0
REQUEST = Request("", "", "/source", (0, 0, 0, 0), "/", "", 0, 0, 0, b"", True, False, 0, False)


class Cluster(Executor):
    """Workers whose time is virtual. It is the queue of answers, too: whoever waits for one sets the clock forward."""

    def __init__(self, workers: int, seed: int) -> None:
        self.now = 0.0
        self.stalled = self.lost = 0
        self._random = random.Random(seed)
        self._speed = [self._random.choice([1.0] * 49 + [0.2]) for _ in range(workers)]
        self._free = [*range(workers)]
        self._waiting: list[tuple[Future[Any], list[Request], bool]] = []
        self._ends: list[tuple[float, int, int, Future[Any], list[Request], bool]] = []
        self._answers: list[Any] = []
        self._count = 0

    def submit(self, do: Any, /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        several = do is bundle_task
        requests = [Request(*request) for request in (args[0][1] if several else args)]
        self._waiting.insert(0, (future, requests, several))
        self._start()
        return future

    def _start(self) -> None:
        while self._waiting and self._free:
            future, requests, several = self._waiting.pop()
            worker = self._free.pop(self._random.randrange(len(self._free)))
            seconds = MOST_BYTES / BYTES_PER_SECOND
            if several:
                seconds = sum((each.stop - each.start) / BYTES_PER_SECOND + FILE_SECONDS for each in requests)
            seconds *= self._random.uniform(0.8, 1.2) / self._speed[worker]
            if self._random.random() < 1e-4:
                seconds, self.stalled = STALLED_SECONDS, self.stalled + 1
            self._count += 1
            heapq.heappush(self._ends, (self.now + seconds, self._count, worker, future, requests, several))

    def put(self, answer: Any) -> None:
        self._answers.append(answer)

    def get(self, timeout: float = 0) -> Any:
        end = self.now + timeout
        while not self._answers and self._ends and self._ends[0][0] <= end:
            self.now, _, worker, future, requests, several = heapq.heappop(self._ends)
            self._free.append(worker)
            self._start()
            if self._random.random() < 1e-4:
                self.lost += 1
                future.set_exception(BrokenProcessPool("lost"))
            else:
                by = f"worker {worker}"
                done = [tuple(Answer("done", by, written=each.stop - each.start)) for each in requests]
                future.set_result(tuple(Answer("done", by, parts=tuple(done))) if several else done[0])
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
    copy.request = REQUEST
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


class MadeUp(FileCopy):
    """The copy of a file that is not there, of so many bytes of data."""

    def __init__(self, workers: int, data: int) -> None:
        super().__init__(workers, journaled=False)
        self._identity = (0, data, 0, 0)
        self.request = REQUEST

    def tasks(self, work: Work, ranges: Iterable[tuple[int, int]], directory: str) -> Iterator[Task]:
        """Yield all tasks."""
        size = self._identity[1] if self._identity else 0
        return plan(ranges, size, share_of(size, self._workers))

    def check_source(self, work: Work) -> None:
        """Believe that it is as it was."""

    def withdraw(self, target: object) -> None:
        """Do nothing."""


def steps(workers: int, data: int) -> Generator[Asked, int, None]:
    """Ask for workers to copy a file that is made up."""
    hands = bundles.WorkersHands(workers, 0, "/")
    hands.copy = MadeUp(workers, data)
    target: Any = SimpleNamespace(continued=False, path="", keep=False)
    yield Asked(hands, Work(-1, "/source", target, True, 0, None), [(0, data)])


def model_tree(files: int, workers: int, seed: int) -> None:
    """Run copies of a tree in which most files are small, and the large ones come last by name; print what they took.

    One file in 100 has 32 MiB of data and more, by Pareto, 64 GiB at most.
    """
    chosen = random.Random(seed)
    sizes = [64 * 1024] * (files - files // 100)
    large = (min(64 * GIB, int(32 * MIB * chosen.paretovariate(0.8))) for _ in range(files // 100))
    sizes += sorted(large)
    print(f"{files} files, {sum(sizes) / GIB:.0f} GiB, the largest {sizes[-1] / GIB:.1f} GiB, {workers} workers")
    for name, order in (
        ("by name", iter(sizes)),
        ("large first", large_files_first(lambda: iter(sizes), lambda size: size)),
    ):
        cluster = Cluster(workers, seed)
        with (
            mock.patch.object(run, "time", cluster),
            mock.patch.object(bundles, "time", cluster),
            bundles._BundleRun(cluster, workers, lambda: None) as made,
        ):
            made._heard = cluster  # type: ignore[assignment]
            made.all_of(made.bundles(steps(workers, size) for size in order))
        power = sum(cluster._speed)
        ideal = sum(size / BYTES_PER_SECOND + FILE_SECONDS for size in sizes) / power
        print(f"  simulated, {name}: {cluster.now:.1f} s, {cluster.now / ideal:.3f} of all workers busy to the end")


def main() -> None:
    """Run the model as the command line says."""
    parser = argparse.ArgumentParser(description="What a million tasks cost their coordinator.")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--extents", type=int, default=1, help="of each task")
    parser.add_argument("--files", type=int, help="model a tree of so many files instead")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.files is not None:
        model_tree(arguments.files, arguments.workers, arguments.seed)
        return
    model(arguments.tasks, arguments.workers, arguments.extents, arguments.seed)


if __name__ == "__main__":
    main()
