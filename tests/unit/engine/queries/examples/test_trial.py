"""Examples tried at a destination: what it refuses, and that nothing is left there."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from sparsesync.engine.queries.registry import answer_query
from tests.support.filesystems import command, filesystem, need_root, need_tools
from tests.support.mounts import sshfs

YEAR = 31556952 * 10**9

CAPABILITY = struct.pack("<IIIII", 0x02000000, 1 << 13, 0, 0, 0).hex()

EXAMPLES: list[tuple[Any, ...]] = [
    ("name", "", "plain", "", 0),
    ("name", "", "a:b", "", 0),
    ("name", "", "\udcff", "", 0),
    ("name", "", "\u00e9" * 127, "", 0),
    ("pair", "", "name", "NAME", 0),
    ("pair", "", "\u00e9", "e\u0301", 0),
    ("type", "l", "x" * 1000, "", 0),
    ("type", "h", "", "", 0),
    ("type", "h", "", "", 1500),
    ("type", "p", "", "", 0),
    ("type", "c", "", "", 0),
    ("type", "b", "", "", os.makedev(240, 1)),
    ("mode", "-", "", "", 0o4711),
    ("mode", "d", "", "", 0o1750),
    ("owner", "-", "", "", 1234),
    ("group", "l", "", "", 4321),
    ("time", "-", "", "", -10 * YEAR),
    ("time", "d", "", "", 150 * YEAR),
    ("time", "l", "", "", 50 * YEAR + 10**9 - 1),
    ("xattr", "-", "user.x", "00ff", 2),
    ("xattr", "d", "trusted.x", "", 0),
    ("xattr", "-", "security.capability", CAPABILITY, 20),
    ("xattr", "-", "btrfs.compression", b"zstd".hex(), 4),
    ("xattr size", "", "", "", 9000),
    ("xattr size", "", "", "1500,1500,1500,1500,1500,1500,1500,1500,1500,1500,1500,1500", 18000),
    ("xattr size", "", "", "18000", 18000),
]


def refused(path: Path, examples: list[tuple[Any, ...]] = EXAMPLES) -> list[tuple[Any, ...]]:
    found = answer_query("trial", path=str(path), examples=[list(each) for each in examples]).refused
    return [examples[each.number] for each in found]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("btrfs", ["18000"]),
        ("xfs", ["btrfs.compression"]),
        ("ext4", ["btrfs.compression", 9000, 18000, 18000]),
        ("exfat", ["a:b", "\udcff", "NAME", "l", "h", "h", "p", "c", "b", 0o4711, 0o1750, 1234, "user.x", "trusted.x",
                   "security.capability", "btrfs.compression", 9000, 18000, 18000]),
    ],
)  # fmt: skip
def test_what_a_filesystem_refuses(tmp_path: Path, kind: str, expected: list[object]) -> None:
    with filesystem(kind, tmp_path, "400M") as mounted:
        found = refused(mounted / "new")
        assert os.listdir(mounted) in ([], ["lost+found"])
    assert len(found) == len(expected), found
    for example, part in zip(found, expected):
        assert part in example


def test_times_beyond_a_filesystem(tmp_path: Path) -> None:
    need_root("mounting needs root")
    with filesystem("ext4-small-inodes", tmp_path, "64M") as mounted:
        examples = [each for each in EXAMPLES if each[0] == "time"]
        (found,) = answer_query("trial", path=str(mounted), examples=[list(each) for each in examples]).refused
    assert (found.number, found.why) == (1, "it becomes 2038-01-19 03:14:07 UTC") and found.seconds > 10**9


def test_what_a_symlink_cannot_have(tmp_path: Path) -> None:
    """Over SFTP it is what the symlink leads to that gets it, or nothing is there."""
    (tmp_path / "behind").mkdir()
    numbers = {"owner": 1234, "group": 1234, "time": 40 * YEAR}
    examples = [(kind, type, "", "", number) for type in "-dl" for kind, number in numbers.items()]
    with sshfs(tmp_path / "behind", tmp_path / "top") as mounted:
        found = refused(mounted, examples)
    assert [each[:2] for each in found] == [(kind, "l") for kind in numbers]


def test_xfs_shows_an_acl_twice(tmp_path: Path) -> None:
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", *entry)
        for entry in [(1, 6, -1 & 0xFFFFFFFF), (2, 4, 5), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    )
    example = ["acl", "-", "system.posix_acl_access", acl.hex(), len(acl)]
    with filesystem("xfs", tmp_path, "400M") as mounted:
        (found,) = answer_query("trial", path=str(mounted), examples=[example]).refused
    assert found.attribute == "trusted.SGI_ACL_FILE"
    assert answer_query("trial", path=str(tmp_path), examples=[[*example[:3], acl.hex()[:60], len(acl)]]).refused == []


@pytest.mark.parametrize(
    "example",
    [["name", "", "../x", "", 0], ["name", "", "", "", 0], ["name", "", "..", "", 0], ["pair", "", "a", "/etc/x", 0],
     ["pair", "", "a/b", "x", 0], ["odd", "", "", "", 0], ["xattr", "-", "user.x", "no hexadecimal", 3]],
)  # fmt: skip
def test_what_is_no_example(tmp_path: Path, example: list[object]) -> None:
    """They come from another host. Nothing outside may be made by a name that leads there."""
    (tmp_path / "inside").mkdir()
    with pytest.raises(ValueError):
        answer_query("trial", path=str(tmp_path / "inside"), examples=[example])
    assert os.listdir(tmp_path) == ["inside"] and os.listdir(tmp_path / "inside") == []


@pytest.mark.parametrize(
    "example",
    [
        ["time", "", "", "", 1 << 90],
        ["owner", "", "", "", 1 << 40],
        ["owner", "", "", "", -5],
        ["type", "c", "", "", 1 << 80],
        ["type", "l", "/etc", "", 0],
        ["type", "h", "", "", -1],
        ["type", "", "", "", 0],
        ["mode", "-", "", "", 1 << 50],
        ["xattr", "-", "user.x", "00", 1 << 60],
        ["xattr size", "", "", "", 1 << 60],
    ],
)
def test_numbers_that_are_none(tmp_path: Path, example: list[object]) -> None:
    """They are refused, or taken for what they can be, and take no memory."""
    assert len(answer_query("trial", path=str(tmp_path), examples=[example]).refused) <= 1
    assert os.listdir(tmp_path) == [] and stat.S_ISDIR(os.stat("/etc").st_mode)


def test_what_is_taken_and_not_kept(tmp_path: Path) -> None:
    """No error tells it. A directory has its mode from the beginning, and a file of rsync's does not."""
    need_root("FUSE needs root")
    need_tools("bindfs", "fusermount")
    for name in ("behind", "mounted"):
        (tmp_path / name).mkdir()
    command("bindfs", "--chown-ignore", "--chmod-ignore", tmp_path / "behind", tmp_path / "mounted")
    try:
        examples = [["owner", "", "", "", 1234], ["mode", "-", "", "", 0o640], ["mode", "d", "", "", 0o750],
                    ["type", "h", "", "", 0]]  # fmt: skip
        found = answer_query("trial", path=str(tmp_path / "mounted"), examples=examples).refused
    finally:
        command("fusermount", "-u", tmp_path / "mounted")
    assert [(each.number, each.why) for each in found] == [(0, "it becomes 0"), (1, "it becomes 0600")]
    assert os.listdir(tmp_path / "behind") == []
