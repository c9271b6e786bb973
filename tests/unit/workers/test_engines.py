"""What is told of an engine that cannot be had, or is lost, and what it leaves when it ends: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from sparsesync.workers import engines
from sparsesync.workers.engines import engine


def test_workers_of_dask_that_cannot_be_started_are_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")

    def fail(**options: object) -> None:
        raise RuntimeError("Nanny failed to start.")  # what it says of a worker that is killed meanwhile

    monkeypatch.setattr(distributed, "Client", fail)
    with pytest.raises(OSError, match="its workers cannot be started: Nanny failed"), engine("dask:local"):
        pass


def test_a_scheduler_of_dask_that_is_lost_is_told_by_whoever_gives_out_tasks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster,
        engine(f"dask:{cluster.scheduler_address}"),
    ):
        future: Future[None] = Future()
        future.add_done_callback(lambda done: distributed.Client.cancel(None, done))  # fails, as of a closed client
        future.cancel()
    assert not [record for record in caplog.records if record.name == "concurrent.futures"]


ROOT = Path(__file__).parents[3]
_KILLED = """
import os, signal, sys, time
from sparsesync.workers.engines import engine
parent = os.getpid()
def wait():
    while os.getppid() == parent:
        time.sleep(0.01)
if sys.argv[1] == "new":
    os.register_at_fork(after_in_child=wait)
with engine(sys.argv[2]) as executor:
    answer = executor.submit(time.time)
    if sys.argv[1] == "old":
        answer.result()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("age", "pool"),
    [
        ("old", "concurrent.futures:ProcessPoolExecutor"),
        ("new", "concurrent.futures:ProcessPoolExecutor"),
        ("old", "tests.support.executors:two_spawned"),
    ],
)
def test_no_process_of_a_pool_outlives_a_killed_coordinator(age: str, pool: str) -> None:
    # They have the same standard output, which ends with the last of them.
    done = subprocess.run([sys.executable, "-c", _KILLED, age, pool], cwd=ROOT, stdout=subprocess.PIPE, timeout=20)
    assert done.returncode == -9


def test_a_pool_whose_process_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_END_SECONDS", 0.1)
    with engine("concurrent.futures:ProcessPoolExecutor") as pool:
        late = pool.submit(time.sleep, 1000)
        pool.submit(time.time).result()
    assert late.done()


def test_a_scheduler_that_is_not_there_is_told(tmp_path: Path) -> None:
    dask = pytest.importorskip("dask")
    pytest.importorskip("distributed")
    briefly = dask.config.set({"distributed.comm.timeouts.connect": "100ms"})
    missing = engine(f"dask:{tmp_path}/none.json")
    with briefly, pytest.raises(OSError, match="there is no such file"), missing:
        pass


def test_what_makes_no_executor_is_named() -> None:
    with pytest.raises(ValueError, match=r"^json:loads: it raises TypeError: "), engine("json:loads"):
        pass
    with pytest.raises(ValueError, match=r"^'' is no engine"), engine(""):
        pass


def test_a_fork_ignores_interrupts_only_while_an_engine_is_open() -> None:
    def ignores() -> bool:
        pid = os.fork()
        if not pid:
            os._exit(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
        return bool(os.waitpid(pid, 0)[1])

    with engine("concurrent.futures:ThreadPoolExecutor"):
        assert ignores()
    assert not ignores()
