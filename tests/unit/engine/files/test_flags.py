from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from sparsesync.engine.files import flags


def test_a_new_file_is_not_asked_for_what_the_old_one_cannot_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it is served by FUSE, the question may wait for the end of the writing."""
    asked, ioctl = list[int](), fcntl.ioctl

    def noting(fd: int, *arguments: Any) -> Any:
        asked.append(fd)
        return ioctl(fd, *arguments)

    monkeypatch.setattr(fcntl, "ioctl", noting)
    with open("/proc/self/status") as old, open(tmp_path / "new", "w") as new:
        assert flags.carry(old.fileno(), new.fileno()) == []
        assert asked == [old.fileno()]
