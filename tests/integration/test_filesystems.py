"""The table of docs/filesystems.md is what happens: each of its rows is tried where the packages are.

Content is compared by cmp, and what it takes is judged by what is allocated on the filesystem itself, or below the
mount, which may make its blocks up.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import mounts
from tests.support.filesystems import KINDS, Mounted, filesystem, same_content, sparse_file

MIB = 1 << 20
SIZE = 4 * MIB
DATA = 128 * 1024
TABLE = Path(__file__).parents[2] / "docs/filesystems.md"


class Row(NamedTuple):
    """A row of the table."""

    name: str
    copy: str
    inplace: str
    sync: str
    verify: str
    source: str


def _rows() -> list[Row]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in TABLE.read_text().splitlines() if "|" in line]
    return [Row(*each) for each in cells if len(each) == len(Row._fields) and not set(each[0]) <= set("-:")][1:]


@contextlib.contextmanager
def _place(name: str, top: Path, mounted: Mounted) -> Iterator[tuple[Path, Path]]:
    """Where files go, and where it is judged what they take."""
    below = top / "below"
    below.mkdir()
    over = {
        "overlay": mounts.overlay, "sshfs": mounts.sshfs, "bindfs": mounts.bindfs,
        "gocryptfs": mounts.gocryptfs, "encfs": mounts.encfs, "rclone": mounts.rclone,
    }  # fmt: skip
    kind = name.split()[0]
    with contextlib.ExitStack() as stack:
        if kind in KINDS:
            place = mounted(kind)
            yield place, place
        elif kind == "exFAT":
            place = stack.enter_context(filesystem("exfat", top / "fs", "64M"))
            yield place, place
        elif kind == "NTFS":
            place = stack.enter_context(mounts.ntfs(top / "fs"))
            yield place, place
        elif kind == "s3fs":
            place = stack.enter_context(mounts.s3fs(top / "fs"))
            yield place, place
        elif name.startswith("rclone with"):
            cache = ("--vfs-cache-mode=writes", "--vfs-write-back=0s")
            yield stack.enter_context(mounts.rclone(below, top / "fs", *cache)), below
        else:
            yield stack.enter_context(over[kind](below, top / "fs")), below


def _takes(judged: Path, settled: bool) -> int:
    """The allocated bytes of all files there. ``settled``: wait until that no longer changes."""
    found = -1
    while True:
        paths = [os.path.join(directory, name) for directory, _, names in os.walk(judged) for name in names]
        was, found = found, sum(os.lstat(path).st_blocks * 512 for path in paths if os.path.lexists(path))
        if was == found or not settled:
            return found
        time.sleep(0.3)


def _ours(*words: str | Path) -> int:
    argv = [sys.executable, "-m", "sparsesync", *map(str, words)]
    return subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode


@pytest.mark.parametrize("row", [row for row in _rows() if row.copy != "-"], ids=lambda row: row.name)
def test_a_filesystem(row: Row, tmp_path: Path, mounted: Mounted) -> None:
    (tmp_path / "src").mkdir()
    source = sparse_file(tmp_path / "src/disk", SIZE, [(MIB, DATA // 2), (3 * MIB, DATA // 2)])
    os.utime(source, (1_700_000_000, 1_700_000_000))
    with _place(row.name, tmp_path, mounted) as (top, judged):
        uploads = row.name.startswith("rclone")

        def became(target: Path, status: int, before: int) -> str:
            if status or not same_content(source, target):
                return "no"
            return "holes" if _takes(judged, uploads) - before < SIZE // 4 else "dense"

        before = _takes(judged, uploads)
        copied = became(top / "f", _ours("copy", source, top / "f"), before)
        same = _ours("verify", source, top / "f") == 0
        taken = "no" if _ours("copy", "--reflink=never", top / "f", tmp_path / "back") else "holes"
        assert same_content(source, tmp_path / "back") and _takes(tmp_path / "back", False) == 0
        assert os.stat(tmp_path / "back").st_blocks * 512 < SIZE // 4
        with contextlib.suppress(OSError), open(top / "f", "r+b") as file:  # so that there is something to do
            file.seek(2 * MIB)
            file.write(b"x" * DATA)
        inplace = became(top / "f", _ours("copy", "--inplace", source, top / "f"), before)
        before = _takes(judged, uploads)
        synced = became(top / "sub/disk", _ours("sync", "-rt", f"{tmp_path}/src/", top / "sub"), before)
        same = same and _ours("verify", tmp_path / "src", top / "sub") == 0
    assert Row(row.name, copied, inplace, synced, "equal" if same else "no", taken) == row
    assert not list((tmp_path / "below").rglob(".sparsesync.*")), "what a trial made came back"


@pytest.mark.parametrize("row", [row for row in _rows() if row.copy == "-"], ids=lambda row: row.name)
def test_a_source_that_cannot_be_written_to(row: Row, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    source = sparse_file(tmp_path / "src/disk", SIZE, [(MIB, DATA)])
    with mounts.squashfs(tmp_path / "src", tmp_path / "fs") as mount:
        assert _ours("copy", mount / "disk", tmp_path / "copy") == 0
        assert _ours("sync", "-a", f"{mount}/", tmp_path / "synced") == 0
        for target in (tmp_path / "copy", tmp_path / "synced/disk"):
            assert same_content(source, target) and os.stat(target).st_blocks * 512 < SIZE // 4
        assert _ours("verify", mount, tmp_path / "synced") == 0
    assert row == Row("squashfs", "-", "-", "-", "equal", "holes")
