"""Whether rsync takes a time for the source's: rsync itself says what it would transfer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparsesync.engine.errors import LeftToRsync
from sparsesync.engine.transfer.place.destination import Destination
from sparsesync.engine.transfer.place.destination_file import is_near
from sparsesync.engine.transfer.records import FileSpec
from tests.support.filesystems import command

SECOND = 10**9
NOW = 1_700_000_001 * SECOND


@pytest.mark.parametrize("window", [-1, 0, 1, 2])
def test_is_near_as_rsync_has_it(tmp_path: Path, window: int) -> None:
    offsets = [
        0,
        1,
        SECOND // 2,
        SECOND - 1,
        SECOND,
        SECOND + 1,
        2 * SECOND - 1,
        2 * SECOND,
        3 * SECOND - 1,
        3 * SECOND,
    ]
    times = [
        (start, start + sign * off) for start in (NOW, NOW + 1, -3 * SECOND) for off in offsets for sign in (1, -1)
    ]
    for side in ("src", "dst"):
        (tmp_path / side).mkdir()
    for number, pair in enumerate(times):
        for side, time in zip(("src", "dst"), pair):
            path = tmp_path / side / f"{number:03}"
            path.write_bytes(b"x")
            os.utime(path, ns=(time, time))
    listed = command(
        "rsync", "-rtn", "--out-format=%n", f"--modify-window={window}", f"{tmp_path}/src/", f"{tmp_path}/dst/"
    )
    near = {f"{number:03}" for number, (a, b) in enumerate(times) if is_near(a, b, window)}
    assert near == {f"{number:03}" for number in range(len(times))} - set(listed.split())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Destination]:
    opened = Destination(str(tmp_path), modify_window=0)
    yield opened
    opened.close()


@pytest.mark.parametrize("older", [False, True])
def test_a_time_that_is_lost_with_the_new_name(
    place: Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """As on some FUSE filesystems, where to rename is to copy. rsync must look at it again, also with --update."""
    if older:
        (tmp_path / "f").write_bytes(b"old")
    real = os.replace

    def rename(src: str, dst: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        real(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        os.utime(dst, dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", rename)
    spec = FileSpec("f", 3, 3, 0o644, NOW)
    with place.target(spec) as target:
        os.pwrite(target.fd, b"new", 0)
        with pytest.raises(LeftToRsync, match="its time does not fit"):
            place.finish(target, spec)
    assert (tmp_path / "f").read_bytes() == b"new" and (tmp_path / "f").stat().st_mtime_ns < NOW
    assert os.listdir(tmp_path) == ["f"]
