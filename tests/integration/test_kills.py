"""A few kills of copies by workers; ``python -m tests.support.kills`` does many, of larger files and of all engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kills import Plan, kill_often

MIB = 1 << 20


@pytest.mark.parametrize(("engine", "kills"), [("processes", 3), ("dask", 1)])
def test_a_killed_copy_is_old_or_new_and_is_gone_on_with(tmp_path: Path, engine: str, kills: int) -> None:
    if engine == "dask":
        pytest.importorskip("distributed")
    # A task is more than what may be read beside it, so that one which is done once more shows. By this seed the
    # coordinator is killed twice, and a worker of each engine, all in the midst of the copy.
    found = kill_often(Plan(engine, mib=24, share=3 * MIB), tmp_path, kills, seed=8, baselines=1)
    assert found.wrong == [] and found.counts["kills"] == kills
    assert found.counts["gone on from"] + found.counts["survived"] > 0
