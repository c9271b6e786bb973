"""What a far end answers is checked before it is believed. (How files travel: engine/transfer/, integration/.)"""

from __future__ import annotations

from typing import Any

import pytest

from sparsesync.engine.errors import NoSpaceError, ProtocolError
from sparsesync.hosts.transfer import Settings, check_space
from sparsesync.hosts.transfer_remote import Pull, Push
from tests.support.answers import Liar


def push(answer: dict[str, Any]) -> Push:
    return Push(Liar(answer), Settings())  # type: ignore[arg-type]


def pull(answer: dict[str, Any]) -> Pull:
    return Pull(Liar(answer), Settings())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "space",
    ["x", 1, [], [1, 2], [1, 2, 3], ["1", 2, "/"], [None, None, None], [[1], {}, "/"], [1.5, 2, "/"], [1, 2, "/", 4]],
)
def test_space_that_is_none(space: object) -> None:
    with pytest.raises(ProtocolError):
        push({"space": [space]}).space()


def test_a_lack_of_space() -> None:
    check_space(push({"space": []}))
    check_space(push({"space": [[2, 2, "/mnt"]]}))
    with pytest.raises(NoSpaceError) as caught:
        check_space(push({"space": [[1, 2, "/"], [3, 2, "/mnt"]]}))
    assert (caught.value.needed, caught.value.free, caught.value.filename) == (3, 2, "far:/mnt")


@pytest.mark.parametrize("found", [None, 1, [], [None, None], [[1, 2]], [[1, 2, 3, 4, 5]], [{}], ["abc"]])
def test_sizes_that_are_none(found: object) -> None:
    with pytest.raises(ProtocolError):
        list(pull({"found": found}).look([("a", "a")]))


@pytest.mark.parametrize("answer", [{}, {"mode": "x", "exists": True}, {"mode": 1}, {"mode": 1, "exists": 1}])
def test_a_mode_that_is_none(answer: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        pull(answer).source_mode("a")
    with pytest.raises(ProtocolError):
        push(answer).destination_mode("a")


@pytest.mark.parametrize("answer", [{}, {"size": -1, "data": 0}, {"size": 1 << 70, "data": 0}, {"size": 1, "data": ""}])
def test_a_size_that_is_none(answer: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        pull(answer).measure("a")
