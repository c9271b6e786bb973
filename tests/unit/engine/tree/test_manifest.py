"""What one end tells of its tree, without another end."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.engine.errors import TruncatedError
from sparsesync.engine.files import syscalls
from sparsesync.engine.tree.manifest import (
    DIGEST_BYTES,
    Blocks,
    Directory,
    Entry,
    Event,
    Trouble,
    digests,
    key,
    manifest,
)
from sparsesync.engine.wire.capabilities import Digest
from sparsesync.engine.wire.protocol import BLOCK_BYTES
from tests.support.filesystems import Mounted, need, need_root, sparse_file
from tests.support.trees import unprivileged

SALTED = Digest("sha256", b"salt")


def events(root: Path | str, full: bool = False) -> list[Event]:
    return list(manifest(str(root), SALTED, full))


def blocks(found: list[Event]) -> list[tuple[int, bytes]]:
    return [pair for event in found if isinstance(event, Blocks) for pair in event.pairs()]


def paths(found: list[Event]) -> list[str]:
    """The directories, each with a slash, and the other entries below them, in the order they were told."""
    told, directory = [], ""
    for event in found[1:]:
        if isinstance(event, Directory):
            directory = event.path
            told.append(directory + "/")
        elif isinstance(event, Entry) and event.kind != "d":
            told.append(os.path.join(directory, event.name))
    return told


def test_a_tree_is_told_in_order(tmp_path: Path) -> None:
    for directory in ("a/z", "a.b", "a/b"):
        (tmp_path / directory).mkdir(parents=True)
    for name in (b"\xff", "\u00e9".encode(), "\U0001f600".encode(), b"Z", b"a\nb", b"a/x", b"a/b/x", b"a.b/x"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    found = events(tmp_path)
    assert found[:2] == [Entry("", "d"), Directory("")]
    assert paths(found) == [
        "/", "Z", "a\nb", "\u00e9", "\U0001f600", "\udcff",
        "a/", "a/x", "a/b/", "a/b/x", "a/z/",
        "a.b/", "a.b/x",
    ]  # fmt: skip
    assert [event.name for event in found[2:5] if isinstance(event, Entry)] == ["Z", "a", "a\nb"]


def test_every_kind(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("to/nothing")
    os.mkfifo(tmp_path / "pipe")
    assert [event for event in events(tmp_path) if not isinstance(event, Blocks)] == [
        Entry("", "d"), Directory(""), Entry("file", "-", 4), Entry("link", "l", 10, "to/nothing"), Entry("pipe", "p"),
    ]  # fmt: skip
    need_root("device nodes need root")
    os.mknod(tmp_path / "null", 0o20600, os.makedev(1, 3))
    assert events(tmp_path / "null") == [Entry("", "c", 0, "", os.makedev(1, 3))]


def test_a_root_may_be_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("d")
    (tmp_path / "to file").symlink_to("d/file")
    assert events(tmp_path / "link") == events(tmp_path / "d")
    assert events(tmp_path / "to file") == [Entry("", "-", 4), *events(tmp_path / "d")[-1:]]
    with pytest.raises(FileNotFoundError) as caught:
        events(tmp_path / "none")
    assert caught.value.filename == str(tmp_path / "none")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    size=st.integers(0, 6 * BLOCK_BYTES),
    layout=st.lists(st.tuples(st.integers(0, 6 * BLOCK_BYTES), st.integers(1, BLOCK_BYTES), st.booleans()), max_size=5),
)
def test_the_blocks_that_are_not_zeros(mounted: Mounted, size: int, layout: list[tuple[int, int, bool]]) -> None:
    path = sparse_file(mounted("ext4") / "f", size, [(o, n) for o, n, _ in layout if o < size])
    with open(path, "r+b") as file:
        for offset, length, zeros in layout:
            if zeros and offset < size:
                file.seek(offset)
                file.write(bytes(min(length, size - offset)))
    content = path.read_bytes()
    expected = [
        (offset, SALTED.of(content[offset : offset + BLOCK_BYTES])[:DIGEST_BYTES])
        for offset in range(0, size, BLOCK_BYTES)
        if any(content[offset : offset + BLOCK_BYTES])
    ]
    assert blocks(events(path)) == blocks(events(path, full=True)) == expected


def test_holes_are_not_read_unless_asked(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    read_into = syscalls.read_into
    monkeypatch.setattr(syscalls, "read_into", lambda *call: read.append(read_into(*call)) or read[-1])
    path = sparse_file(mounted("ext4") / "f", 1 << 40, [(4096, 4096), (12288, 4096), (1 << 39, 4096)])
    assert [offset for offset, _ in blocks(events(path))] == [0, 1 << 39]
    assert read == [BLOCK_BYTES, BLOCK_BYTES]
    os.truncate(path, 4 * BLOCK_BYTES)
    events(path, full=True)
    assert sum(read[2:]) == 4 * BLOCK_BYTES


def test_what_cannot_be_read_is_told_where_it_belongs(tmp_path: Path) -> None:
    for name in ("closed/below", "open/file", "secret"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"data")
    (tmp_path / "secret").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        with unprivileged(tmp_path):
            found = events(".")
            troubles = [(found[at - 1], event.error) for at, event in enumerate(found) if isinstance(event, Trouble)]
            assert [before for before, _ in troubles] == [Entry("secret", "-", 4), Directory("closed")]
            assert [(type(error), error.filename) for _, error in troubles] == [
                (PermissionError, "./secret"), (PermissionError, "./closed"),
            ]  # fmt: skip
            assert paths(found)[-2:] == ["open/", "open/file"]
            (trouble,) = (event for event in events("secret") if isinstance(event, Trouble))
            assert trouble.error.filename == "secret"
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("change", ["grow", "shrink", "write"])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 200 * BLOCK_BYTES)
    os.utime(path, (1, 1))
    walk = manifest(str(path), SALTED)
    assert isinstance(next(walk), Entry) and isinstance(next(walk), Blocks)
    with open(path, "r+b") as file:
        if change == "shrink":
            file.truncate(BLOCK_BYTES)
        else:
            file.seek(0, os.SEEK_END if change == "grow" else os.SEEK_SET)
            file.write(b"!")
    last = list(walk)[-1]
    assert isinstance(last, Trouble) and last.error.filename == str(path)
    assert isinstance(last.error, TruncatedError) or change != "shrink"


def test_a_file_that_does_not_know_its_size_is_a_trouble() -> None:
    need(os.path.exists("/proc/version"), "there is no /proc")
    found = events("/proc/version")
    assert [type(event) for event in found] == [Entry, Trouble]
    assert isinstance(found[1], Trouble) and found[1].error.filename == "/proc/version"
    assert "size is unknown" in str(found[1].error)


def test_a_name_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: [*listdir(fd), "ghost"])
    assert events(tmp_path)[2] == Entry("ghost", "?")
    assert isinstance(events(tmp_path)[3], Trouble)


def test_a_directory_that_becomes_a_link_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "root/sub").mkdir(parents=True)
    walk = manifest(str(tmp_path / "root"), SALTED)
    assert [next(walk) for _ in range(3)][-1] == Entry("sub", "d")
    (tmp_path / "root/sub").rename(tmp_path / "away")
    (tmp_path / "root/sub").symlink_to(tmp_path / "away")
    assert [type(event) for event in walk] == [Directory, Trouble]


@pytest.mark.slow
def test_memory_and_descriptors_do_not_grow(tmp_path: Path) -> None:
    for folder in range(50):
        (tmp_path / "/".join(["d"] * (folder + 1))).mkdir()
        for file in range(40):
            (tmp_path / "/".join(["d"] * (folder + 1)) / f"{file:0100}").touch()
    used = len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    try:
        most = max(len(os.listdir("/proc/self/fd")) for _ in manifest(str(tmp_path), SALTED))
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()
    assert most <= used + 3 and len(os.listdir("/proc/self/fd")) == used


def test_digests_of_a_range(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    content = os.urandom(3 * BLOCK_BYTES)
    (tmp_path / "sub/f").write_bytes(content)
    (tmp_path / "link").symlink_to("sub")
    part = content[BLOCK_BYTES : BLOCK_BYTES + 10000]
    expected = b"".join(SALTED.of(part[at : at + 4096])[:DIGEST_BYTES] for at in range(0, 10000, 4096))
    assert digests(str(tmp_path), "sub/f", BLOCK_BYTES, 10000, 4096, SALTED) == expected
    assert digests(str(tmp_path / "sub/f"), "", BLOCK_BYTES, 10000, 4096, SALTED) == expected
    assert digests(str(tmp_path / "link"), "f", BLOCK_BYTES, 10000, 4096, SALTED) == expected
    with pytest.raises(TruncatedError) as caught:
        digests(str(tmp_path), "sub/f", 3 * BLOCK_BYTES - 1, 2, 1, SALTED)
    assert caught.value.filename == str(tmp_path / "sub/f")
    with pytest.raises(OSError):
        digests(str(tmp_path), "link/f", 0, 1, 1, SALTED)
    for wrong in ((0, BLOCK_BYTES + 1, 1), (-1, 1, 1), (0, 1, 0), (0, 0, 1)):
        with pytest.raises(ValueError):
            digests(str(tmp_path), "sub/f", *wrong, SALTED)


def test_the_order_is_that_of_the_bytes_of_each_component() -> None:
    assert sorted(["a.b", "a", "", "a/b", "\udcff", "\U0001f600"], key=key) == [
        "", "a", "a/b", "a.b", "\U0001f600", "\udcff"
    ]  # fmt: skip
