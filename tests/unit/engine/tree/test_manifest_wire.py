"""What one end tells of its tree, as it travels and as the other end reads it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparsesync.engine.errors import ProtocolError
from sparsesync.engine.tree.manifest import Directory, Entry, Event, Trouble, manifest
from sparsesync.engine.tree.manifest_wire import Reader, batches
from sparsesync.engine.wire.capabilities import Digest
from tests.support.filesystems import Mounted, sparse_file
from tests.support.trees import build, entries

SALTED = Digest("sha256", b"salt")


def wire(found: Iterator[Event]) -> Iterator[Event]:
    """What a reader makes of events that have travelled."""
    reader = Reader()
    for batch in batches(found):
        if isinstance(batch, OSError):
            yield reader.trouble(batch)
        else:
            yield from reader.item(json.loads(json.dumps({"events": batch})))
    reader.ended()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(entries)
def test_what_arrives_is_what_was_told(tree: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build(folder + "/t", tree)
        assert list(wire(manifest(folder + "/t", SALTED))) == list(manifest(folder + "/t", SALTED))


def test_troubles_arrive_in_their_places() -> None:
    told: list[Event] = [
        Entry("", "d"), Directory(""), Entry("a", "?"), Trouble(OSError(1, "no", "a")), Entry("b", "-", 1),
        Trouble(OSError(2, "no", "b")), Entry("c", "d"), Directory("c"), Trouble(OSError(3, "no", "c")),
    ]  # fmt: skip
    assert list(wire(iter(told))) == told


A_BLOCK = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
ROOT = ["e", "", "d", 0, "", 0]
FILE = ["e", "f", "-", 9, "", 0]


@pytest.mark.parametrize(
    "told",
    [
        [["d", ""]],
        [ROOT, ["d", "a"]],
        [ROOT, ["d", ""], ["d", ""]],
        [ROOT, ["d", ""], ["d", "b"], ["d", "a/c"]],
        [ROOT, ["d", ""], ["d", "../x"]],
        [ROOT, ["d", ""], ["d", "/x"]],
        [ROOT, ["d", ""], ["d", "a//b"]],
        [ROOT, ["e", "f", "-", 9, "", 0]],
        [ROOT, ["d", ""], FILE, FILE],
        [ROOT, ["d", ""], ["e", "", "-", 9, "", 0]],
        [ROOT, ["d", ""], ["e", "..", "-", 9, "", 0]],
        [ROOT, ["d", ""], ["e", "a/b", "-", 9, "", 0]],
        [ROOT, ["d", ""], ["e", "a\0b", "-", 9, "", 0]],
        [ROOT, ["d", ""], ["e", "\ud800", "-", 9, "", 0]],
        [ROOT, ["d", ""], ["e", "f", "-", -1, "", 0]],
        [ROOT, ["d", ""], ["e", "f", "-", 1 << 64, "", 0]],
        [ROOT, ["d", ""], ["e", "f", "-", True, "", 0]],
        [ROOT, ["d", ""], ["e", "f", "-", 9.0, "", 0]],
        [ROOT, ["d", ""], ["e", "f", "regular", 9, "", 0]],
        [["e", "", "-", 9, "", 0], ["d", ""]],
        [ROOT, ["d", ""], ["b", A_BLOCK]],
        [ROOT, ["d", ""], ["e", "f", "l", 9, "", 0], ["b", A_BLOCK]],
        [ROOT, ["d", ""], ["e", "f", "-", 0, "", 0], ["b", A_BLOCK]],
        [ROOT, ["d", ""], FILE, ["b", A_BLOCK[:-4]]],
        [ROOT, ["d", ""], FILE, ["b", "?" + A_BLOCK]],
        [ROOT, ["d", ""], FILE, ["b", "\u00e9"]],
        [ROOT, ["d", ""], FILE, ["b", A_BLOCK + A_BLOCK]],
        [ROOT, ["d", ""], FILE, ["b", A_BLOCK], ["b", A_BLOCK]],
        [ROOT, ["d", ""], FILE, ["b", "AAAAAAAAAAE" + A_BLOCK[11:]]],
        [ROOT, ["d", ""], FILE, ["b", None]],
        [None],
        [[]],
        [[[], []]],
    ],
)
def test_what_makes_no_sense_is_refused(told: list[Any]) -> None:
    reader = Reader()
    good = list(reader.item({"events": told[:-1]}))
    assert len(good) == len(told) - 1
    with pytest.raises(ProtocolError):
        list(reader.item({"events": told[-1:]}))


def test_a_tree_that_is_not_told_to_its_end_is_refused() -> None:
    reader = Reader()
    with pytest.raises(ProtocolError):
        reader.ended()
    list(reader.item({"events": [ROOT]}))
    with pytest.raises(ProtocolError):
        reader.ended()
    list(reader.item({"events": [["d", ""]]}))
    reader.ended()


def test_nobody_waits_long_to_hear_something(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsesync.engine.tree.manifest_wire._MAX_DELAY_SECONDS", 0)
    path = sparse_file(mounted("ext4") / "f", 64 << 20, [])
    told = list(batches(manifest(str(path), SALTED, full=True)))
    assert told[0] and not any(told[1:]) and len(told) > 8


def test_troubles_that_belong_to_nothing_are_refused() -> None:
    reader = Reader()
    with pytest.raises(ProtocolError):
        reader.trouble(OSError())
    list(reader.item({"events": [ROOT]}))
    reader.trouble(OSError())
    with pytest.raises(ProtocolError):
        reader.trouble(OSError())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.sampled_from("edb-"),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=20,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.lists(JSON | st.sampled_from([ROOT, ["d", ""], FILE, ["b", A_BLOCK]]), max_size=5))
@example([ROOT, ["d", ""], FILE, ["b", A_BLOCK]])
def test_garbage_is_an_error_and_nothing_worse(told: list[Any]) -> None:
    with contextlib.suppress(ProtocolError):
        list(Reader().item({"events": told}))
    with pytest.raises(ProtocolError):
        list(Reader().item({}))
