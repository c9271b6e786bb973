"""What is remembered of filesystems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsesync.engine.files import mounts
from sparsesync.engine.files.beneath import Sources
from sparsesync.engine.transfer.place.destination import Destination


def test_the_table_is_not_looked_at_while_a_file_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    types = mounts._mounts.types
    monkeypatch.setattr(mounts, "_held", {})
    monkeypatch.setattr(mounts._mounts, "types", lambda: looks.append(0) or types())
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        name = mounts.filesystem_of(fd)
        assert len(looks) == 1
        with Sources() as sources:
            for each in ("a/f", "b/f"):
                assert sources.find(str(tmp_path / each), each).directory is not None
                looks.clear()
                assert mounts.filesystem_of(fd) == name and not looks
            destination = Destination(str(tmp_path))
            sources.close()
            assert mounts.filesystem_of(fd) == name and not looks
            destination.close()
            assert mounts.filesystem_of(fd) == name and looks
        assert not any(mounts._held.values())
    finally:
        os.close(fd)
