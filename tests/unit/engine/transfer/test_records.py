"""How much room files take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsesync.engine.transfer.records import Room


def test_a_mount_that_tells_nothing_of_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FUSE without statfs: all zeros."""
    nothing = os.statvfs_result((0,) * 11)
    for name in ("statvfs", "fstatvfs"):
        monkeypatch.setattr(os, name, lambda path: nothing)
    room = Room()
    room.take(str(tmp_path), 5000, 0)
    assert room.space() == []
