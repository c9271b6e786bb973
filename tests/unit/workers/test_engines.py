"""What is told of an engine that cannot be had, or is lost."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

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
