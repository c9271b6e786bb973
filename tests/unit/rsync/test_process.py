"""rsync as a process: which version it is."""

from __future__ import annotations

import pytest

from sparsesync.rsync.process import version
from tests.support.filesystems import need_tools


def test_version() -> None:
    need_tools("rsync")
    assert version() >= (3, 0, 0)


def test_version_of_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSESYNC_RSYNC", "/nonexistent/rsync")
    with pytest.raises(FileNotFoundError):
        version()
    monkeypatch.setenv("SPARSESYNC_RSYNC", "true")
    with pytest.raises(ValueError, match="not a known rsync"):
        version()
