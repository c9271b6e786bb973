"""The plan of a seeding: what was put in comes out again, as often as it is wanted, and few of it is in memory."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from sparsesync.engine.roles import Planned
from sparsesync.seeding.planned.plan import Plan


def _file(number: int) -> Planned:
    name = os.fsdecode(b"d/\xff\n%d" % number)
    return Planned(name, "/src/" + name, 1 << 62, number, 2, -(10**18), bool(number % 2), 0, 1 << 40)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_gives_what_it_got_twice_at_once_and_while_it_grows(count: int) -> None:
    plan, files = Plan(), [_file(number) for number in range(count)]
    try:
        for planned in files:
            plan.add(planned)
        one, other = iter(plan), iter(plan)
        assert list(zip(one, other)) == list(zip(files, files))
        begun = iter(plan)
        first = next(begun, None)
        more = [_file(number) for number in range(count, count + 1500)]
        for planned in more:
            plan.add(planned)
        rest = [] if first is None else [first, *begun]
        assert rest == files
        assert list(plan) == files + more
        assert all(type(planned) is Planned for planned in plan)
    finally:
        plan.close()


def test_its_memory_does_not_grow_with_the_files() -> None:
    plan = Plan()
    peaks = []
    try:
        for count in (2000, 10000):
            tracemalloc.start()
            for number in range(count):
                plan.add(_file(number))
            assert sum(1 for _ in plan) >= count
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    finally:
        tracemalloc.stop()
        plan.close()
    assert peaks[1] < 1.5 * peaks[0]
