"""What is planned while rsync lists: the sparse files, and of small ones no more is asked than a stat tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparsesync.engine.files.status import stat_sparse
from sparsesync.engine.roles import LocalSource, SourceSettings
from sparsesync.rsync.command import parse
from sparsesync.seeding.options.own import SeedOptions
from sparsesync.seeding.planned.planning import Planning
from tests.support.filesystems import filesystem, need_root


def _listed(path: Path, size: int) -> bytes:
    return b">f+++++++++ %d %s//%s\n" % (size, path.name.encode(), os.fsencode(path)[1:])


def test_counts_what_is_found_and_begins_anew(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.write(b"x" * 4096)
        file.truncate(1 << 20)
    (tmp_path / "dense").write_bytes(b"x" * 8192)
    lines = [_listed(tmp_path / "sparse", 1 << 20), _listed(tmp_path / "dense", 8192)]
    changed = _listed(tmp_path / "sparse", 1)
    planning = Planning(parse(["-a", f"{tmp_path}/", "/dst/"]), SeedOptions(), LocalSource(SourceSettings()))
    try:
        planning.hear([changed])
        planning.hear(lines)
        assert [planned.name for planned in planning.plan] == ["sparse"]
        assert (planning.files, planning.sparse, len(planning.left)) == (1, 1, 1)
        assert planning.holes == (1 << 20) - planning.data
        planning.begin()
        assert (planning.files, planning.data, planning.left, [*planning.plan]) == (0, 0, [], [])
    finally:
        planning.close()


@pytest.mark.parametrize("data", [0, 4096, 65536, 131072])
def test_a_small_file_is_known_by_its_stat_as_by_its_map(tmp_path: Path, data: int) -> None:
    """Where its directory is held, and so its filesystem is known. Of what is larger the map is read."""
    need_root("mount")
    with filesystem("ext4", tmp_path) as top:
        with open(top / "f", "wb") as file:
            file.truncate(1 << 20)
            file.seek(1 << 18)
            file.write(b"x" * data)
        os.sync()
        source = LocalSource(SourceSettings())
        try:
            rough, exact = (next(source.look([(str(top / "f"), "f")], roughly)) for roughly in (True, False))
        finally:
            source.close()
        assert rough == exact == stat_sparse(str(top / "f"), False)
        assert rough is not None and rough.data == os.stat(top / "f").st_blocks * 512


def test_what_is_reserved_counts_as_data_of_a_small_file_only(tmp_path: Path) -> None:
    need_root("mount")
    with filesystem("ext4", tmp_path) as top:
        looked = {}
        for name, size, reserved in (("small", 1 << 20, 1 << 15), ("full", 1 << 20, 1 << 20), ("half", 1 << 14, 12288)):
            with open(top / name, "wb") as file:
                file.truncate(size)
                os.posix_fallocate(file.fileno(), 0, reserved)
            source = LocalSource(SourceSettings())
            try:
                looked[name] = next(source.look([(str(top / name), name)], roughly=True))
            finally:
                source.close()
        assert {name: found and found.data for name, found in looked.items()} == {
            "small": 1 << 15,
            "full": 0,
            "half": 0,
        }
