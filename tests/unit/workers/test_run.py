"""workers/run.py, with an executor whose time is virtual."""

from __future__ import annotations

import heapq
import queue
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from sparsesync.workers import run
from sparsesync.workers.run import Do, Given, Run
from sparsesync.workers.task import Answer


class Stalling(Executor):
    """Does a task in a second, unless ``first_stalls`` says that it never answers when it is first given out.

    It is the clock, and the queue of answers, too: whoever waits for one sets the clock forward.
    """

    def __init__(self, first_stalls: range) -> None:
        self.now = 0.0
        self._first_stalls = set(first_stalls)
        self._ends: list[tuple[float, int, Future[Any]]] = []
        self._heard: list[Any] = []
        self._count = 0

    def submit(self, do: Do, /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._count += 1
        if args[0] in self._first_stalls:
            self._first_stalls.discard(args[0])
        else:
            heapq.heappush(self._ends, (self.now + 1, self._count, future))
        return future

    def monotonic(self) -> float:
        return self.now

    def put(self, heard: Any) -> None:
        self._heard.append(heard)

    def get(self, timeout: float = 0) -> Any:
        end = self.now + timeout
        while not self._heard and self._ends and self._ends[0][0] <= end:
            self.now, _, future = heapq.heappop(self._ends)
            future.set_result(tuple(Answer("done", "a worker")))
        if not self._heard:
            self.now = end
            raise queue.Empty
        return self._heard.pop()

    get_nowait = get


class Numbers(Run):
    """Tasks that are numbers. ``ended``: those that are done."""

    def __init__(self, executor: Stalling, workers: int) -> None:
        super().__init__(executor, workers, "")
        self._heard = executor  # type: ignore[assignment]
        self.ended: list[int] = []
        self.most = 0

    def request(self, given: Given) -> tuple[Do, Any]:
        self.most = max(self.most, len(self._given))
        return str, given.task

    def ends(self, given: Given, future: Future[Any], answer: Answer) -> bool:
        self.ended.append(given.task)
        return True


def test_tasks_that_stall_make_no_others_wait_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = Stalling(range(10, 300))
    monkeypatch.setattr(run, "time", executor)
    tasks = Numbers(executor, 60)
    tasks.all_of(iter(range(300)))
    assert sorted(tasks.ended) == list(range(300)) and tasks.most <= 68
    # Five times as many are out as there may be at a time, and each is given out again after 5 s.
    assert executor.now < 5 * (5 + 1 + 1)
