from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.tracking.listed import _joined, changed_ranges

K = 4096
SIZE = 100 * K

Read = Callable[[str], "list[tuple[int, int]]"]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read(text: str) -> list[tuple[int, int]]:
        (tmp_path / "list").write_text(text)
        return changed_ranges(str(tmp_path / "list"), SIZE, SIZE)

    return read


@given(st.lists(st.tuples(st.integers(0, 60 * K), st.integers(0, 3 * K))))
def test_any_ranges_are_whole_blocks_ascending_and_apart(ranges: list[tuple[int, int]]) -> None:
    size = 50 * K + 10
    found = _joined(iter(ranges), size)
    blocks = {block for start, n in ranges if n for block in range(start // K, -(-(start + n) // K)) if block <= 50}
    assert {block for start, n in found for block in range(start // K, -(-(start + n) // K))} == blocks
    assert all(a + n < b for (a, n), (b, _) in zip(found, found[1:])) and all(a + n <= size for a, n in found)


def _nbd(*each: tuple[int, int, bool]) -> str:
    words = {False: "clean", True: "dirty"}
    told = [{"offset": o * K, "length": n * K, "type": int(d), "description": words[d]} for o, n, d in each]
    return json.dumps(told, indent=1)


def _qemu(*each: tuple[int, int, bool]) -> str:
    told = [{"start": o * K, "length": n * K, "depth": 0, "zero": False, "data": not d} for o, n, d in each]
    return json.dumps(told)


@pytest.mark.parametrize("as_text", [_nbd, _qemu])
def test_a_dirty_bitmap(as_text: Callable[..., str], read: Read) -> None:
    assert read(as_text((0, 10, False), (10, 2, True), (12, 88, False))) == [(10 * K, 2 * K)]
    # What it does not tell of changed.
    assert read(as_text((0, 10, False), (12, 2, True), (20, 30, False))) == [(10 * K, 10 * K), (50 * K, 50 * K)]
    assert read(as_text((50, 900, False), (40, 12, True), (0, 30, False))) == [(30 * K, 22 * K)]


def test_nothing_dirty(read: Read) -> None:
    assert read(_nbd((0, 100, False))) == []
    # A map of what is there looks the same.
    assert read(_qemu((0, 100, False))) == [(0, SIZE)]


def test_a_plain_list(read: Read) -> None:
    assert read("[ ]\n") == []
    assert read('[{"offset": 1, "length": 1, "exists": "true"},{"offset":9000,"length":1,"exists":false}]') == [
        (0, K), (2 * K, K),
    ]  # fmt: skip
    many = [{"offset": 2 * K * number, "length": 10} for number in range(5000)]
    assert len(read(json.dumps(many))) == 50
    assert read(f'[{{"offset": {99 * K}, "length": {1 << 62}}}]') == [(99 * K, K)]


THIN = (
    '<superblock uuid="" time="0" transaction="0" data_block_size="16" nr_data_blocks="9">\n<diff left="1" right="2">'
)


def test_thin_delta(read: Read) -> None:
    verbose = '<different><range begin="7" left_data_begin="1" right_data_begin="5" length="1"/></different>'
    same = '<same begin="4" length="2"/><same><range begin="11" length="9"/></same>'
    more = '<right_only begin="1" length="1"/><left_only begin="3" length="1"/>'
    assert read(f"{THIN}{more}{same}{verbose}</diff></superblock>") == [
        (2 * K, 2 * K), (6 * K, 2 * K), (14 * K, 2 * K),
    ]  # fmt: skip


WRONG = {
    "empty": "",
    "no list": '{"offset": 1}',
    "not closed": '[{"offset": 1, "length": 2}',
    "cut": '[{"offset": 1, "len',
    "two lists": "[][]",
    "no comma": '[{"offset": 1, "length": 2}{"offset": 1, "length": 2}]',
    "no object": "[1, {}]",
    "no length": '[{"offset": 1}]',
    "negative": '[{"offset": -1, "length": 2}]',
    "a float": '[{"offset": 1.5, "length": 2}]',
    "deep": '[{"offset":' + "[" * 100_000 + "}",
    "a map": '[{"offset": 0, "length": 4096, "type": 3, "description": "hole,zero"}]',
    "a map of an image": '[{"start": 0, "length": 4096, "depth": 0, "zero": true, "data": false}]',
    "two kinds": '[{"offset": 1, "length": 2}, {"start": 0, "length": 4096, "zero": false, "data": false}]',
    "other XML": "<a/>",
    "thin_dump": THIN.replace("<diff", '<device dev_id="1"/><diff') + "</diff></superblock>",
    "cut XML": THIN,
    "no block size": '<superblock><diff><different begin="1" length="2"/></diff></superblock>',
    "no number": THIN + '<different begin="-1" length="2"/></diff></superblock>',
    "alone": THIN + '<range begin="1" length="2"/></diff></superblock>',
    "binary": "\0\1",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_list(what: str, read: Read, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(tmp_path / "list")) as error:
        read(WRONG[what])
    assert "\n" not in str(error.value)
