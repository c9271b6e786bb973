"""workers/plan.py, by any extents, any share and any unit."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from sparsesync.engine.files.extents import Extent
from sparsesync.workers import plan as module
from sparsesync.workers.plan import large_files_first, largest_first, pack, plan, union, unpack

gaps_and_lengths = st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3000)), max_size=30)


def laid_out(gaps_and_lengths: list[tuple[int, int]]) -> list[Extent]:
    extents, end = [], 0
    for gap, length in gaps_and_lengths:
        extents.append((end + gap, length))
        end += gap + length
    return extents


def bytes_of(ranges: list[Extent]) -> set[int]:
    return {byte for offset, length in ranges for byte in range(offset, offset + length)}


@given(made=gaps_and_lengths, tail=st.integers(0, 5000), share=st.integers(0, 6000), unit=st.sampled_from([1, 7, 512]))
def test_tasks_are_disjoint_by_page_and_their_union_is_the_data(
    made: list[tuple[int, int]], tail: int, share: int, unit: int
) -> None:
    extents = laid_out(made)
    size = (sum(extents[-1]) if extents else 0) + tail
    tasks = list(plan(iter(extents), size, share, unit))
    assert [task.number for task in tasks] == list(range(len(tasks)))
    assert (tasks[0].start, tasks[-1].stop) == (0, size) if tasks else not extents
    found: list[Extent] = []
    for task, behind in itertools.zip_longest(tasks, tasks[1:]):
        ranges = list(unpack(task.ranges))
        assert behind is None or (task.stop == behind.start and task.stop % unit == 0)
        assert all(task.start <= offset and offset + length <= task.stop for offset, length in ranges)
        assert sum(length for _, length in ranges) == task.data <= max(share, unit) + unit
        found += ranges
    assert found == sorted(found) and sum(length for _, length in found) == sum(length for _, length in extents)
    assert bytes_of(found) == bytes_of(extents)


def joined(ranges: list[Extent]) -> list[Extent]:
    """The ranges, those that touch as one."""
    found: list[Extent] = []
    for offset, length in ranges:
        if found and sum(found[-1]) == offset:
            offset, length = found[-1][0], found.pop()[1] + length
        found.append((offset, length))
    return found


TIB = 1 << 40
MOST_OFFSET = (1 << 63) - 1


@given(
    made=gaps_and_lengths,
    scale=st.sampled_from([1, 1000, 4096, 1 << 20]),
    at=st.sampled_from([0, 4095, 17 * TIB, MOST_OFFSET - 30 * 6000 * (1 << 20)]),
    parts=st.integers(1, 50),
    unit=st.sampled_from([module.UNIT_BYTES, 1 << 20, 48 << 20, 64 << 20]),
)
def test_no_two_tasks_share_a_stripe_however_large_the_file_is(
    made: list[tuple[int, int]], scale: int, at: int, parts: int, unit: int
) -> None:
    extents = [(at + offset * scale, length * scale) for offset, length in laid_out(made)]
    size = sum(extents[-1]) if extents else at
    share = sum(length for _, length in extents) // parts
    tasks = list(plan(iter(extents), size, share, unit))
    assert all(before.stop == task.start and task.start % unit == 0 for before, task in zip(tasks, tasks[1:]))
    assert not tasks or (tasks[0].start, tasks[-1].stop) == (0, size)
    for task in tasks:
        ranges = list(unpack(task.ranges))
        assert task.start <= ranges[0][0] and sum(ranges[-1]) <= task.stop
        assert sum(length for _, length in ranges) == task.data <= max(share, unit) + unit
    assert joined([part for task in tasks for part in unpack(task.ranges)]) == joined(extents)


@given(made=gaps_and_lengths, share=st.integers(1, 3000))
def test_a_task_has_few_extents_and_none_is_passed_over(made: list[tuple[int, int]], share: int) -> None:
    extents = laid_out(made)
    before, module.MOST_EXTENTS = module.MOST_EXTENTS, 3
    try:
        tasks = list(plan(iter(extents), 10**9, 10**9, 1))
    finally:
        module.MOST_EXTENTS = before
    assert [part for task in tasks for part in unpack(task.ranges)] == extents
    assert all(len(list(unpack(task.ranges))) == 3 for task in tasks[:-1])
    ordered = list(largest_first(iter(tasks)))
    assert sorted(ordered) == tasks and [task.data for task in ordered] == sorted((t.data for t in tasks), reverse=True)


@given(sizes=st.lists(st.integers(0, 2 * module.LEAST_BYTES)), held=st.integers(0, 5))
def test_large_files_come_first_and_few_are_held(sizes: list[int], held: int) -> None:
    before, module._MOST_LARGE = module._MOST_LARGE, held
    try:
        files = list(enumerate(sizes))
        ordered = list(large_files_first(lambda: iter(files), lambda file: file[1]))
    finally:
        module._MOST_LARGE = before
    large = sorted((file for file in files if file[1] > module.LEAST_BYTES), key=lambda file: (-file[1], file))[:held]
    assert ordered[: len(large)] == large
    assert ordered[len(large) :] == [file for file in files if file not in large]


@given(a=gaps_and_lengths, b=gaps_and_lengths)
def test_a_union_has_what_either_has(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    one, other = laid_out(a), laid_out(b)
    found = list(union(unpack(pack(one)), iter(other)))
    assert bytes_of(found) == bytes_of(one) | bytes_of(other)
    assert all(sum(first) < second[0] for first, second in zip(found, found[1:]))


def test_the_extents_are_not_collected() -> None:
    endless = ((offset, 4096) for offset in itertools.count(0, 8192))
    tasks = largest_first(plan(endless, 1 << 62, module.MOST_BYTES))
    assert [next(tasks).data for _ in range(100)] == [4096 * module.MOST_EXTENTS] * 100
