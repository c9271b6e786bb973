"""Rows in order, through a temporary file or not."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.console.sorting import Sorted

names = st.binary(max_size=20).map(lambda name: name.decode("utf-8", "surrogateescape"))


rows = st.tuples(st.integers(-(1 << 70), 1 << 70), names, st.integers(0, 3))


@given(st.lists(rows, max_size=30), st.integers(0, 3000))
def test_order(rows: list[tuple[Any, ...]], room: int) -> None:
    found = Sorted(room)
    for row in rows:
        found.add(*row)
    assert list(found) == sorted(rows) == list(found)


@pytest.mark.slow
def test_memory_does_not_grow() -> None:
    tracemalloc.start()
    try:
        found = Sorted(1 << 19)
        for number in range(20_000):
            found.add(number * 7919 % 50_021, "a name of some length" * 5)
        assert sum(1 for _ in found) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
