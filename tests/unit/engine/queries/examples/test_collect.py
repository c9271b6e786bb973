"""What is kept of a tree to be tried elsewhere: few examples, and each that another filesystem may refuse."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from sparsesync.engine.queries.examples import collect
from sparsesync.engine.queries.examples.collect import Example, folded
from sparsesync.engine.queries.registry import answer_query
from tests.support.filesystems import command, filesystem, need_root, need_tools


def examples(top: Path, *kinds: str) -> list[Example]:
    found = answer_query("survey", source=f"{top}/").examples
    return [each for each in found if not kinds or each.kind in kinds]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("File", "fILE", True), ("Stra\u00dfe", "STRASSE", True), ("\u00e9", "e\u0301", True), ("\u00c9", "e\u0301", True),
     ("a", "b", False), ("a", "\u00e4", False), ("\udcff", "\udcfe", False), ("\u1e9e", "ss", True)],
)  # fmt: skip
def test_names_that_a_filesystem_may_take_for_one(one: str, other: str, same: bool, tmp_path: Path) -> None:
    assert (folded(one) == folded(other)) == same
    for name in (one, other):
        (tmp_path / name).touch()
    pairs = [{each.name, each.value} for each in examples(tmp_path, "pair")]
    assert pairs == [{one, other}] * same


def test_a_name_that_is_left_out_clashes_with_none(tmp_path: Path) -> None:
    for name in ("File", "file", "Other", "other", "FILE"):
        (tmp_path / name).touch()
    found = answer_query("survey", source=f"{tmp_path}/", rules=["", r"\Z", r"/(file|FILE)\Z", True]).examples
    assert [{each.name, each.value} for each in found if each.kind == "pair"] == [{"Other", "other"}]
    for name in ("FILE", "file", "other"):
        os.unlink(tmp_path / name)
    assert examples(tmp_path, "pair") == []
    os.link(tmp_path / "Other", tmp_path / "other")  # one file, and still two names
    assert len(examples(tmp_path, "pair")) == 1


def test_names_with_a_meaning_elsewhere(tmp_path: Path) -> None:
    odd = [
        "a:b",
        "a?b",
        "back\\slash",
        "line\nbreak",
        "end.",
        "end ",
        "nul",
        "COM1.txt",
        "\udcff",
        "\U0001f600",
        "\u4e00",
    ]
    for name in [*odd, "plain", "v1.2", "a-b_c", "x:y", "." + "n" * 200, "\u00e4" * 100]:
        (tmp_path / name).touch()
    found = {each.name for each in examples(tmp_path, "name")}
    assert found >= {*odd[:1], *odd[1:]} - {"a:b"} and found & {"a:b", "x:y"}
    assert {"." + "n" * 200} <= found and not found & {"plain", "v1.2", "a-b_c"}


def test_owners_modes_and_times(tmp_path: Path) -> None:
    need_root("owners need root")
    for number, (mode, time) in enumerate([(0o644, 10), (0o644, 1 << 33), (0o4755, -5), (0o600, 13)]):
        path = tmp_path / str(number)
        path.touch()
        os.chown(path, 1000 + number % 2, 77)
        os.chmod(path, mode)
        os.utime(path, (time, time))
    os.utime(tmp_path, (20, 20))
    found = examples(tmp_path)
    modes = {each.number for each in found if each.kind == "mode" and each.type == "-"}
    assert modes == {0o644, 0o4755, 0o600}
    assert {each.number for each in found if each.kind == "owner"} >= {1000, 1001}
    times = {each.number // 10**9 for each in found if each.kind == "time"}
    assert times >= {-5, 1 << 33} and any(time % 2 for time in times)


def test_types_and_links(tmp_path: Path) -> None:
    need_root("device nodes need root")
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    for name, target in (("short", "x"), ("long", "y" * 300)):
        os.symlink(target, tmp_path / name)
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "whiteout", 0o600 | stat.S_IFCHR, 0)
    os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(240, 1))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{os.open(tmp_path, os.O_PATH)}/socket")
    found = {(each.type, each.name, each.number) for each in examples(tmp_path, "type")}
    expected = {
        ("l", "y" * 300, 0),
        ("h", "", 0),
        ("p", "", 0),
        ("c", "", 0),
        ("b", "", os.makedev(240, 1)),
        ("s", "", 0),
    }
    assert found == expected


def test_attributes_and_flags(tmp_path: Path) -> None:
    need_tools("setfacl", "chattr")
    with filesystem("btrfs", tmp_path, "400M") as mounted:
        for name in ("a", "b", "c"):
            (mounted / name).touch()
            os.setxattr(mounted / name, "user.same", name.encode())
        os.setxattr(mounted / "a", "trusted.one", b"\0\xff")
        os.setxattr(mounted / "b", "user.large", b"x" * 9000)
        command("setfacl", "-m", "u:5:r", mounted / "a")
        command("setfacl", "-m", "u:5:r,u:6:r", mounted / "b")
        command("btrfs", "property", "set", mounted / "c", "compression", "zstd")
        command("chattr", "+i", mounted / "a")
        try:
            found = examples(mounted, "xattr", "xattr size", "acl", "flag")
        finally:
            command("chattr", "-i", mounted / "a")
        names = {each.name: each for each in found if each.kind == "xattr"}
        assert set(names) == {"user.same", "trusted.one", "user.large", "btrfs.compression"}
        assert (names["trusted.one"].value, names["btrfs.compression"].value) == ("00ff", b"zstd".hex())
        assert (names["user.large"].number, len(names["user.large"].value)) == (9000, 2 * 4096)
        (size,) = (each for each in found if each.kind == "xattr size")
        assert size.number == sum(map(int, size.value.split(","))) > 9000
        assert [each.path for each in found if each.kind == "acl"] == [f"{mounted}/b"]
        assert ("immutable (i)", 1, f"{mounted}/a") in [
            (each.name, each.number, each.path) for each in found if each.kind == "flag"
        ]


def test_examples_are_few(tmp_path: Path) -> None:
    """However many names there are, and however long: they have to fit into one frame. The odd ones are among them."""
    for number in range(0x4E00, 0x4E00 + 300):
        (tmp_path / (chr(number) * 80)).touch()
    (tmp_path / "a:b").touch()
    found = examples(tmp_path)
    assert len(found) < 30 and "a:b" in {each.name for each in found}
    assert sum(len(ascii(each)) for each in found) < 1 << 19


def test_the_largest_of_many_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the one that a user namespace has no number for."""
    need_root("owners need root")
    monkeypatch.setattr(collect, "_MAX_EACH", 6)
    for number in range(20):
        os.symlink("/", tmp_path / f"l{number}")
        os.lchown(tmp_path / f"l{number}", 2 * number, 0)
        (tmp_path / str(number)).touch()
        os.chown(tmp_path / str(number), 1000 + number, 5000 - number)
    for kind, largest in (("owner", 1019), ("group", 5000)):
        found = {each.number for each in examples(tmp_path, kind) if each.type == "-"}
        assert len(found) <= 7 and max(found) == largest
    assert [each.number for each in examples(tmp_path, "owner") if each.type == "l"] == [38]
