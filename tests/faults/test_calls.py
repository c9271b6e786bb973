"""A fault at each call: errors, short reads and writes, signals, and files that others change meanwhile."""

from __future__ import annotations

import os
import random

import pytest

from tests.faults.harness import Fault, Lab, Verdict
from tests.faults.kinds import FAMILIES, Family, Table, count, inject, places, some_faults
from tests.faults.scenarios import SCENARIOS, Scenario

SEED = "1"
MOST = int(os.environ.get("FAULTS_MOST", "20"))
"""Of a family in one scenario, in the long form."""


def _right(verdicts: list[Verdict]) -> None:
    assert not verdicts, f"{len(verdicts)}:\n" + "\n".join(map(str, verdicts[:20]))


@pytest.mark.faults(form="long")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_fault_at_each_call(family: Family, lab: Lab, table: Table) -> None:
    count(lab, SCENARIOS)
    jobs = [
        (family, scenario, fault)
        for scenario in SCENARIOS
        for fault in some_faults(lab, scenario, family, MOST, SEED + family.name)
    ]
    _right(inject(lab, jobs, table))


@pytest.mark.faults(form="short")
def test_a_sample_of_all_faults(lab: Lab, table: Table) -> None:
    chosen = random.Random(SEED)
    jobs: list[tuple[Family, Scenario, Fault]] = []
    scenarios = chosen.sample(SCENARIOS, 4)
    count(lab, scenarios)
    for scenario in scenarios:
        for family in chosen.sample([each for each in FAMILIES if any(places(scenario, each))], 5):
            jobs += [(family, scenario, fault) for fault in some_faults(lab, scenario, family, 1, SEED)]
    _right(inject(lab, jobs, table))
