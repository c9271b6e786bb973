"""What a process may lack: descriptors, memory, processes, its standard streams, the directory to itself, a sane clock.

Here a run may end with an error, if it says so; what must not be is what :mod:`harness` calls a problem.
"""

from __future__ import annotations

import functools
import resource
import subprocess
import sys
from collections.abc import Callable, Container, Iterable
from typing import Any

import pytest

from tests.faults.harness import Fault, Files, Lab, Verdict
from tests.faults.kinds import Table
from tests.faults.scenarios import BY_NAME, Scenario

_FEW = [BY_NAME[name] for name in ("copy-local-update", "sync-local-update", "sync-push-update", "sync-pull-first")]
_SHORT = ("64 descriptors", "60 MB of address space", "all closed", "stdout full")
"""What is tried in the short form, with one command each."""

_STREAMS = {
    "stdin closed": "<&-",
    "stdout closed": ">&-",
    "stderr closed": "2>&-",
    "all closed": "<&- >&- 2>&-",
    "stdout full": ">/dev/full",
    "stderr full": "2>/dev/full",
    "stdout is a pipe that nobody reads": "| :",
}


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


LIMITS: dict[str, Callable[[], object]] = {
    "64 descriptors": functools.partial(_limit, resource.RLIMIT_NOFILE, 64),
    "24 descriptors": functools.partial(_limit, resource.RLIMIT_NOFILE, 24),
    "60 MB of address space": functools.partial(_limit, resource.RLIMIT_AS, 60_000_000),
    "files of 1 MB": functools.partial(_limit, resource.RLIMIT_FSIZE, 1_000_000),
}


def _cases(values: Iterable[object], short: Container[object], command: str) -> list[Any]:
    """Each value with each command; in the short form those of ``short``, with one ``command``."""
    return [
        pytest.param(
            value,
            scenario,
            marks=[] if value in short and scenario.name == command else [pytest.mark.faults(form="long")],
            id=f"{value}-{scenario.name}",
        )
        for value in values
        for scenario in _FEW
    ]


def _check(name: str, verdict: Verdict, table: Table) -> None:
    table.add(name, verdict)
    assert not verdict.problems, verdict


@pytest.mark.parametrize(("name", "scenario"), _cases(LIMITS, _SHORT, "sync-push-update"))
def test_limits(name: str, scenario: Scenario, lab: Lab, table: Table) -> None:
    _check(name, lab.run(scenario, Fault(), start=LIMITS[name]), table)


@pytest.mark.parametrize(("name", "scenario"), _cases(_STREAMS, _SHORT, "sync-local-update"))
def test_streams(name: str, scenario: Scenario, lab: Lab, table: Table) -> None:
    verdict = lab.run(scenario, Fault(), through=_STREAMS[name])
    # What cannot be written cannot be said.
    if "stderr" in name or "all" in name:
        verdict.problems = [(kind, text) for kind, text in verdict.problems if "without a word" not in text]
    _check(name, verdict, table)


@pytest.mark.parametrize(("seconds", "scenario"), _cases([10**8, -(10**8)], [10**8], "sync-local-update"))
def test_a_clock_that_jumps(seconds: int, scenario: Scenario, lab: Lab, table: Table) -> None:
    for side in ("client", "agent") if scenario.remote else ("client",):
        verdict = lab.run(scenario, Fault(side=side), environ={"FAULTS_CLOCK": str(seconds)})
        assert verdict.ended.status == 0
        _check("a clock that jumps", verdict, table)


@pytest.mark.parametrize(("name", "scenario"), _cases(["two runs"], ["two runs"], "sync-push-update"))
def test_two_runs_into_one_destination(name: str, scenario: Scenario, lab: Lab, table: Table) -> None:
    """Both may fail, each with a word; but what is there is one of the two contents, and the next run finishes."""
    with lab.directory() as work:
        files = Files(scenario, work)
        argv = scenario.argv(sys.executable, work / "files")
        other = subprocess.Popen(
            argv, env=lab.environment(work), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        ended = lab.execute(scenario, work)
        other.wait(60)
        verdict = Verdict(scenario, Fault(), ended)
        files.judge(verdict)
        files.judge_next(verdict, lab.execute(scenario, work))
    _check(f"{name} into one destination", verdict, table)
