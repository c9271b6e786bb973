"""What a remote host answers is checked before it is believed: the fields are in integration/test_hostile_host."""

from __future__ import annotations

import pytest

from sparsesync.engine.errors import NoSpaceError
from sparsesync.hosts.transfer import check_space
from tests.support.answers import Liar, destination


def test_a_lack_of_space() -> None:
    check_space(destination(Liar({"answer": []})))
    check_space(destination(Liar({"answer": [[2, 2, "/mnt"]]})))
    with pytest.raises(NoSpaceError) as caught:
        check_space(destination(Liar({"answer": [[1, 2, "/"], [3, 2, "/mnt"]]})))
    assert (caught.value.needed, caught.value.free, caught.value.filename) == (3, 2, "far:/mnt")
