"""What files will take at a destination."""

from __future__ import annotations

from pathlib import Path

from sparsesync.engine.roles import LocalSource, Planned, SourceSettings
from sparsesync.hosts.transfer import needs


def test_the_filesystem_of_a_file_is_known_though_the_one_before_is_gone(tmp_path: Path) -> None:
    """Else there might seem to be no room for what shares its extents."""
    (tmp_path / "there").touch()
    files = [Planned(name, f"{tmp_path}/{name}", 1, 1, room=4096) for name in ("gone", "there")]
    found = [each.device for each in needs(LocalSource(SourceSettings()), files)]
    assert found == [None, tmp_path.stat().st_dev]
