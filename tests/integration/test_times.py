"""A destination that does not hold the source's time: the file is left to rsync, and is not called seeded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, filesystem, same_content
from tests.support.shells import local_shell
from tests.support.sync import image, run, sync

SECOND = 10**9
LATE = 4_294_967_295 * SECOND
ODD = 1_700_000_001 * SECOND + 123_456_789
WHOLE = ODD // SECOND * SECOND


@pytest.mark.parametrize("way", ["local", "push", "pull"])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_time_after_2038(tmp_path: Path, way: str, inplace: bool) -> None:
    """Status and time are what they are without the seeding."""
    image(tmp_path / "src", content=b"new" * 1000)
    os.utime(tmp_path / "src", ns=(LATE, LATE))
    shell = ["-e", local_shell(tmp_path / "rsh")]
    options = {"local": [], "push": shell, "pull": shell}[way] + ["--inplace"] * inplace
    with filesystem("ext4-128", tmp_path / "fs", "32M") as fs:
        for name in ("ours", "theirs"):
            image(fs / name, content=b"old" * 1000)
        src = ("host:" if way == "pull" else "") + str(tmp_path / "src")
        dst = ("host:" if way == "push" else "") + str(fs)
        done = sync("-t", "--seed-verbose", *options, src, f"{dst}/ours")
        plain = run("rsync", "-t", *options, src, f"{dst}/theirs")
        assert done.told.startswith(
            b"sparsesync: left to rsync: src: its time does not fit the destination's filesystem"
        )
        assert b"sparsesync: 1 sparse file is left to rsync, which writes 2 MiB of holes as data: src" in done.stderr
        assert (done.returncode, (fs / "ours").stat().st_mtime) == (plain.returncode, (fs / "theirs").stat().st_mtime)
        assert same_content(tmp_path / "src", fs / "ours")
        assert allocated(fs / "ours") < 64 * 1024, "its holes come back all the same"


@pytest.mark.parametrize(
    ("kind", "options", "mtime", "fits"),
    [
        ("ext4-128", [], ODD, True), ("ext4-128", ["-@-1"], ODD, False), ("ext4-128", ["--size-only"], LATE, True),
        ("xfs-2038", ["--modify-window=1"], LATE, False),
        ("exfat", [], ODD, True), ("exfat", ["-@-1"], ODD, False), ("exfat", ["-@-1"], WHOLE, True),
        ("vfat", [], WHOLE - SECOND, True), ("vfat", [], WHOLE, False), ("vfat", ["--modify-window=1"], ODD, True),
    ],
)  # fmt: skip
def test_a_time_is_as_near_as_rsync_wants_it(
    tmp_path: Path, kind: str, options: list[str], mtime: int, fits: bool
) -> None:
    image(tmp_path / "src")
    os.utime(tmp_path / "src", ns=(mtime, mtime))
    with filesystem(kind, tmp_path / "fs", "400M" if kind.startswith("xfs") else "32M") as fs:
        done = sync("-t", "--seed-verbose", *options, str(tmp_path / "src"), str(fs))
        assert done.told.startswith(b"sparsesync: seeded src" if fits else b"sparsesync: left to rsync: src: its time")
        assert done.returncode == 0 and same_content(tmp_path / "src", fs / "src")
        # rsync says whether it would transfer the file if it had come after the seeding.
        again = run("rsync", "-tn", "--out-format=%n", *options, str(tmp_path / "src"), str(fs))
        assert again.stdout == (b"" if fits else b"src\n")
