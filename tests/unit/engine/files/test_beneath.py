"""The files of a source are found where they are said to be, one after the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsesync.engine.files.beneath import Sources


def test_a_path_and_the_same_below_the_top_directory_are_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory that was opened last is kept, and is not to be taken for another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d/etc").mkdir()
    with Sources() as sources:
        for path, name in [("/etc", "etc"), ("etc", "etc"), ("d/etc", "etc"), ("d/etc", "d/etc"), ("/etc", "x")]:
            for _ in range(2):
                found = sources.find(path, name)
                assert os.path.samestat(os.stat(found.name, dir_fd=found.directory), os.stat(path)), (path, name)
            other = sources.find("/proc", "proc")
            assert os.path.samestat(os.stat(other.name, dir_fd=other.directory), os.stat("/proc"))
