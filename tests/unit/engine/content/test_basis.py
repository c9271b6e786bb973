"""Where the basis of a new file is found, and what is none."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from sparsesync.engine.content.basis import Bases
from tests.support.filesystems import Mounted, device, need, need_root

DAY = 86400


def write(path: Path, text: str, day: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (day * DAY, day * DAY))


def found(
    top: Path, name: str, bases: Sequence[str] = (), fuzzy: int = 0, size: int = 999, day: int = 999
) -> str | None:
    """The content of the basis of a new file ``name`` below ``top``; it must agree with may_have()."""
    before = len(os.listdir("/proc/self/fd"))
    with opened(top, bases, fuzzy) as places:
        fd = places.open(name, size, day * DAY * 10**9 + 5)
        content = None
        if fd is not None:
            assert places.may_have(name)
            with open(fd) as file:
                content = file.read()
    assert len(os.listdir("/proc/self/fd")) == before
    return content


@contextlib.contextmanager
def opened(top: Path, bases: Sequence[str] = (), fuzzy: int = 0) -> Iterator[Bases]:
    root = os.open(top, os.O_RDONLY)
    places = Bases(root, bases, fuzzy)
    try:
        yield places
    finally:
        places.close()
        os.close(root)


def test_the_first_directory_that_has_the_name(tmp_path: Path) -> None:
    write(tmp_path / "one/a/x", "one")
    write(tmp_path / "two/a/x", "two")
    write(tmp_path / "two/y", "two y")
    (tmp_path / "dst").mkdir()
    places = ["../missing", "../one", str(tmp_path / "two"), "../one/a/x"]
    assert found(tmp_path / "dst", "a/x", places) == "one"
    assert found(tmp_path / "dst", "a/x", places[::-1]) == "two"
    assert found(tmp_path / "dst", "y", places) == "two y"
    assert found(tmp_path / "dst", "z", places) is None
    assert found(tmp_path / "dst", "a", places) is None


def test_relative_is_to_where_the_destination_is(tmp_path: Path) -> None:
    write(tmp_path / "real/monday/x", "monday")
    (tmp_path / "real/tuesday").mkdir()
    (tmp_path / "link").symlink_to("real/tuesday")
    assert found(tmp_path / "link", "x", ["../monday"]) == "monday"


def test_only_a_regular_file_is_a_basis(tmp_path: Path) -> None:
    need_root("making a device needs root")
    base = tmp_path / "base"
    write(base / "directory/x", "")
    write(base / "file", "no")
    (base / "symlink").symlink_to("file")
    (base / "below").symlink_to("directory")
    os.mkfifo(base / "fifo")
    device(base / "device", 3)
    for name in ("directory", "symlink", "below/x", "fifo", "device", "file/x"):
        assert found(tmp_path, name, ["base"]) is None, name
        write(tmp_path / "other" / name, "other")
        assert found(tmp_path, name, ["base", "other"]) == "other", name


def test_a_symlink_of_somebody_else_leads_to_no_basis(tmp_path: Path) -> None:
    need_root("giving a file away needs root")
    write(tmp_path / "base/x", "x")
    (tmp_path / "link").symlink_to("base")
    assert found(tmp_path, "x", ["link"]) == "x"
    os.chown(tmp_path / "link", 1234, -1, follow_symlinks=False)
    assert found(tmp_path, "x", ["link"]) is None


FUZZY: list[tuple[int, str, int, int, str | None]] = [
    # how often, name, size, day, what is found
    (1, "d/completely-else", 3, 7, "new"),  # of the same size and time
    (1, "d/disk-2024-01-03.img", 0, 0, "2nd"),
    (1, "d/a-2024.tar.gz", 0, 0, "old"),
    (1, "d/a-wholly-other-name-that-is-far-from-each-of-them", 0, 0, None),
    (1, "e/x", 0, 0, None),
    (1, "missing/disk-2024-01-03.img", 0, 0, None),
    (1, "d/weekly.raw", 0, 0, None),
    (2, "d/weekly.raw", 0, 0, None),
    (2, "d/weekly-2.img", 0, 0, "base"),
    (2, "d/other", 4, 9, "base"),
]


@pytest.mark.parametrize(("fuzzy", "name", "size", "day", "expected"), FUZZY)
def test_fuzzy(tmp_path: Path, fuzzy: int, name: str, size: int, day: int, expected: str | None) -> None:
    write(tmp_path / "d/disk-2024-01-01.img", "new", day=7)
    write(tmp_path / "d/disk-2024-01-02.img", "2nd", day=8)
    write(tmp_path / "d/b-2024.tar.gz", "old", day=8)
    write(tmp_path / "d/empty", "", day=0)
    os.mkfifo(tmp_path / "d/completely-elsf")
    (tmp_path / "e").mkdir()
    write(tmp_path / "base/d/weekly.img", "base", day=9)
    assert found(tmp_path, name, ["base"], fuzzy, size, day) == expected
    assert found(tmp_path, name, ["base"], 0, size, day) is None


def test_as_rsync_chooses(tmp_path: Path) -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")
    chance = random.Random(7)

    def name() -> str:
        words = ["disk", "vm", "a", "log", "base", "snapshot", "2024", "7", "image"]
        suffixes = ["", ".img", ".raw", ".bak", ".old~", ".7", ".qcow2", ".tar.gz", ".1.2", ".", "~"]
        return "-".join(chance.choices(words, k=chance.randint(1, 3))) + chance.choice(suffixes)

    there = {name() for _ in range(60)}
    new = {name() for _ in range(150)} - there
    for number, each in enumerate(sorted(there)):
        write(tmp_path / "dst" / each, "x" * (number + 1), 2)
    for each in new:
        write(tmp_path / "src" / each, "x" * 200)
    paths = [f"{tmp_path}/src/", f"{tmp_path}/dst/"]
    said = subprocess.run(["rsync", "-rtyn", "--debug=fuzzy1", *paths], stdout=subprocess.PIPE, timeout=60, check=True)
    chosen = dict(re.findall(r"^fuzzy basis selected for (.+): (.+)$", said.stdout.decode(), re.MULTILINE))
    assert len(chosen) > 100
    with opened(tmp_path / "dst", fuzzy=1) as places:
        for each in new:
            fd = places.open(each, 200, DAY * 10**9)
            assert (None if fd is None else os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))) == chosen.get(each)
            if fd is not None:
                os.close(fd)


def test_the_name_comes_before_what_is_like_it(tmp_path: Path) -> None:
    write(tmp_path / "base/disk1", "the name")
    write(tmp_path / "disk2", "alike", day=9)
    assert found(tmp_path, "disk1", ["base"], 2, 5, 9) == "the name"


@pytest.mark.parametrize(("kind", "shared"), [("xfs", True), ("btrfs", True), ("ext4", False)])
def test_what_a_new_file_may_share(tmp_path: Path, mounted: Mounted, kind: str, shared: bool) -> None:
    top = mounted(kind)
    write(top / "base/x", "x" * 8192)
    write(tmp_path / "x", "x" * 8192)
    for path in (top / "base/x", tmp_path / "x"):
        with open(path) as file:
            os.fsync(file.fileno())
    (top / "dst").mkdir()
    with opened(top / "dst", ["../base", str(tmp_path)]) as places:
        assert places.shares("x") == (8192 if shared else 0)
        assert places.shares("y") == 0
    with opened(top / "dst", [str(tmp_path), "../base"]) as places:
        assert places.shares("x") == 0


def test_a_directory_is_read_once_for_the_files_that_are_asked_for_in_a_row(tmp_path: Path) -> None:
    for directory in range(20):
        write(tmp_path / f"{directory}/disk-1", f"{directory}")
    with opened(tmp_path, fuzzy=1) as places:
        assert all(places.may_have(f"{directory}/disk-2") for directory in range(20))
        for directory in range(20):
            (tmp_path / f"{directory}/disk-1").rename(tmp_path / f"{directory}/other")
        assert places.open("19/disk-3", 1, 0) is None  # it is known by the name that it had
        found = places.open("0/othex", 1, 0)
        assert found is not None  # read again
        os.close(found)
