"""verify: what it finds, what it must not touch, and what it does with trouble."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesync.comparison.compare import verify
from sparsesync.comparison.difference import Difference
from sparsesync.engine.files import syscalls
from tests.support.filesystems import (
    loop_device,
    need,
)
from tests.support.trees import ODD_NAMES, Entries, build, entries, inside, unprivileged

Trees = tuple[Path, Path]


@pytest.fixture
def trees(tmp_path: Path) -> Trees:
    """Two empty directories, and a place beside them."""
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    return a, b


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of everything that is opened."""
    names: list[str] = []
    real = os.open

    def recording(path: str, flags: int, *rest: Any, **options: Any) -> int:
        names.append(path)
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", recording)
    return names


def both(trees: Trees, name: str, data: bytes = b"same") -> None:
    for root in trees:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def found(a: str | Path, b: str | Path, **options: Any) -> list[tuple[object, ...]]:
    return [tuple(difference) for difference in verify(a, b, **options)]


def test_two_files(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"0123456789")
    b.write_bytes(b"0123456789")
    assert found(a, b) == found(str(a), str(b)) == []
    b.write_bytes(b"01234x6789")
    assert list(verify(a, b)) == [Difference("", "content", 5)]
    b.write_bytes(b"0123")
    assert found(a, b) == [("", "content", 4)]


@pytest.mark.parametrize("path", ["/proc/kallsyms", "/sys/kernel/mm/transparent_hugepage/enabled"])
@pytest.mark.parametrize("full", [False, True])
def test_a_file_that_does_not_know_its_size(tmp_path: Path, path: str, full: bool) -> None:
    need(os.path.exists(path), f"there is no {path}")
    content = Path(path).read_bytes()
    other = tmp_path / "other"
    told: list[int] = []
    for differs, data in ((None, content), (len(content), content + b"x"), (len(content) - 1, content[:-1]),
                          (len(content) - 1, content[:-1] + b"\0"), (0, b"")):  # fmt: skip
        other.write_bytes(data)
        expected = [] if differs is None else [Difference("", "content", differs)]
        assert list(verify(path, other, full=full, progress=told.append)) == expected
        assert list(verify(other, path, full=full)) == expected
    assert told[0] == min(len(content), 256 * 1024)


def test_every_kind_of_difference(trees: Trees) -> None:
    a, b = trees
    both(trees, "equal")
    both(trees, "sub/equal")
    both(trees, "sub/content")
    both(trees, "rub/content")
    for folder in ("sub", "rub"):
        (b / folder / "content").write_bytes(b"sane")
    both(trees, "zz")
    (b / "zz").write_bytes(b"same and more")
    (a / "missing").write_bytes(b"")
    (b / "extra").write_bytes(b"")
    (a / "only").mkdir()
    (a / "only/below").write_bytes(b"")
    (a / "type").mkdir()
    (b / "type").write_bytes(b"")
    (a / "type2").write_bytes(b"same")
    (b / "type2").symlink_to("equal")
    for root, target in zip(trees, "xy"):
        (root / "link").symlink_to(target)
        (root / "same link").symlink_to("nowhere")
    assert found(a, b) == [
        ("extra", "extra", None),
        ("link", "link", None),
        ("missing", "missing", None),
        ("only", "missing", None),
        ("type", "type", None),
        ("type2", "type", None),
        ("zz", "content", 4),
        ("rub/content", "content", 2),
        ("sub/content", "content", 2),
    ]


def test_a_file_against_a_directory(trees: Trees) -> None:
    a, b = trees
    (a / "file").write_bytes(b"")
    assert found(a / "file", b) == found(b, a / "file") == [("", "type", None)]


@pytest.mark.parametrize("order", [1, -1])
def test_a_missing_root(tmp_path: Path, order: int) -> None:
    (tmp_path / "here").write_bytes(b"")
    ends = [tmp_path / "here", tmp_path / "missing"][::order]
    with pytest.raises(FileNotFoundError) as caught:
        list(verify(*ends, on_error=lambda error: None))
    assert caught.value.filename == str(tmp_path / "missing")


def test_roots_are_followed_and_links_below_are_not(trees: Trees, tmp_path: Path) -> None:
    a, b = trees
    both(trees, "file")
    outside = tmp_path / "outside"
    outside.mkdir()
    (a / "link").symlink_to(outside)
    (b / "link").symlink_to(outside)
    (a / "up").symlink_to("..")
    (b / "up").symlink_to("..")
    (tmp_path / "to a").symlink_to(a)
    (tmp_path / "to file").symlink_to("a/file")
    assert found(tmp_path / "to a", b) == []
    assert found(tmp_path / "to file", b / "file") == []
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        found(tmp_path / "loop", b)
    assert caught.value.errno == errno.ELOOP


def test_odd_names(trees: Trees) -> None:
    a, b = trees
    for name in ODD_NAMES:
        for root in trees:
            (root / name).mkdir()
            (root / name / name).write_bytes(b"same")
        (b / name / name).write_bytes(b"x")
    assert sorted(found(a, b)) == sorted((f"{name}/{name}", "content", 0) for name in ODD_NAMES)


def test_pipes_sockets_and_devices_are_not_opened(trees: Trees, opens: list[str]) -> None:
    a, b = trees
    with contextlib.ExitStack() as opened:
        for root in trees:
            os.mkfifo(root / "pipe")
            opened.enter_context(inside(root))
            bound = opened.enter_context(socket.socket(socket.AF_UNIX))
            bound.bind("socket")
        os.mkfifo(a / "mixed")
        (b / "mixed").write_bytes(b"")
        assert found(a, b) == [("mixed", "type", None)]
        assert found(a / "pipe", b / "pipe") == []
        assert found(a / "pipe", b / "mixed") == [("", "type", None)]
    assert not {"pipe", "socket", "mixed", str(a / "pipe"), str(b / "mixed")} & set(opens)


def test_device_nodes(trees: Trees, opens: list[str]) -> None:
    a, b = trees
    try:
        for number, root in enumerate(trees):
            os.mknod(root / "null", 0o20600, os.makedev(1, 3))
            os.mknod(root / "other", 0o20600, os.makedev(1, 3 + 2 * number))
            os.mknod(root / "block", 0o60600, os.makedev(7, number))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")
    assert found(a, b) == [("block", "device", None), ("other", "device", None)]
    assert not {"null", "other", "block"} & set(opens)
    assert found(a / "null", b / "null") == []
    assert found(a / "null", b / "other") == [("", "device", None)]


def test_a_block_device_as_root_is_its_content(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20) + b"x" * 4096)
    with loop_device(image, "--read-only") as device:
        assert found(device, image) == found(image, device) == []
        other = tmp_path / "other"
        other.write_bytes(bytes(1 << 20) + b"x" * 4095 + b"y")
        assert found(device, other) == [("", "content", (1 << 20) + 4095)]
        again = tmp_path / "node"
        os.mknod(again, 0o60600, os.stat(device).st_rdev)
        assert found(device, again) == []


def test_one_inode_is_not_opened(trees: Trees, opens: list[str]) -> None:
    a, b = trees
    (a / "one").write_bytes(b"data")
    os.link(a / "one", b / "one")
    assert found(a, b) == []
    assert found(a / "one", b / "one") == []
    assert "one" not in opens and str(a / "one") not in opens
    opens.clear()
    assert found(a, a) == []
    assert opens == []


def test_holes_are_not_read_unless_asked(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = trees
    for root in trees:
        for size, name in ((1 << 40, "huge"), (1 << 20, "small")):
            with open(root / name, "wb") as file:
                file.truncate(size)
                file.seek(size // 2)
                file.write(b"x")
    read = []
    read_into = syscalls.read_into
    monkeypatch.setattr(syscalls, "read_into", lambda *call: read.append(read_into(*call)) or read[-1])
    told: list[int] = []
    assert found(a, b, progress=told.append) == []
    block = os.statvfs(a).f_bsize
    assert sum(read) <= 4 * block
    assert sum(told) == sum(read) // 2
    read.clear()
    assert found(a / "small", b / "small", full=True) == []
    assert sum(read) == 2 << 20


def test_what_cannot_be_read_is_reported_and_the_rest_goes_on(trees: Trees, tmp_path: Path) -> None:
    a, b = trees
    both(trees, "closed/below")
    both(trees, "file")
    both(trees, "zz")
    (a / "closed/more").write_bytes(b"")
    (b / "zz").write_bytes(b"x")
    (a / "closed").chmod(0)
    (b / "file").chmod(0)
    try:
        with unprivileged(tmp_path):
            errors: list[OSError] = []
            assert found("a", "b", on_error=errors.append) == [("zz", "content", 0)]
            assert [(type(error), error.filename) for error in errors] == [
                (PermissionError, "b/file"),
                (PermissionError, "a/closed"),
            ]
            with pytest.raises(PermissionError):
                found("a", "b")
            errors.clear()
            assert found("a/closed", "b/closed", on_error=errors.append) == []
            assert found("a/file", "b/file", on_error=errors.append) == []
            assert [error.filename for error in errors] == ["a/closed", "b/file"]
    finally:
        (a / "closed").chmod(0o700)


def test_a_vanished_file_is_reported(trees: Trees, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = trees
    both(trees, "sub/file")
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda fd: [*listdir(fd), "ghost"])
    errors: list[OSError] = []
    assert found(a, b, on_error=errors.append) == []
    assert [error.filename for error in errors] == [str(a / "ghost"), str(a / "sub/ghost")]
    assert {type(error) for error in errors} == {FileNotFoundError}


def test_a_directory_that_becomes_a_link_is_not_entered(trees: Trees, tmp_path: Path) -> None:
    a, b = trees
    both(trees, "zz")
    both(trees, "sub/file")
    (b / "zz").write_bytes(b"x")
    errors: list[OSError] = []
    walk = verify(a, b, on_error=errors.append)
    assert next(walk) == ("zz", "content", 0)
    (b / "sub").rename(tmp_path / "away")
    (b / "sub").symlink_to(tmp_path / "away")
    assert list(walk) == []
    assert [error.filename for error in errors] == [str(b / "sub")]
    assert errors[0].errno in (errno.ELOOP, errno.ENOTDIR)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("../a/file", path)], ids=["pipe", "link"])
def test_a_file_that_is_replaced_meanwhile_is_an_error_and_does_not_hang(
    trees: Trees, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    a, b = trees
    both(trees, "file")
    stat = os.stat
    calls = []

    def replacing(name: str, **options: Any) -> os.stat_result:
        result = stat(name, **options)
        if name == "file":
            calls.append(name)
            if len(calls) == 2:
                (b / "file").unlink()
                make(b / "file")
        return result

    monkeypatch.setattr(os, "stat", replacing)
    errors: list[OSError] = []
    assert found(a, b, on_error=errors.append) == []
    assert [error.filename for error in errors] == [str(b / "file")]


def test_trouble_in_progress_is_the_callers(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")

    def broken(count: int) -> NoReturn:
        raise BrokenPipeError(errno.EPIPE, "gone")

    with pytest.raises(BrokenPipeError):
        found(tmp_path / "a", tmp_path / "b", progress=broken, on_error=lambda error: None)


def test_depth_costs_no_descriptors(trees: Trees) -> None:
    depth = 300
    for root in trees:
        os.makedirs(os.path.join(root, *["d"] * depth))
    deepest = "/".join(["d"] * depth)
    (trees[1] / deepest / "extra").write_bytes(b"")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, limits[1]))
    try:
        assert found(*trees) == [(deepest + "/extra", "extra", None)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(os.listdir("/proc/self/fd")) == used


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tree(trees: Trees) -> None:
    for root in trees:
        for folder in range(100):
            (root / str(folder)).mkdir()
            for file in range(50):
                (root / str(folder) / f"{file:0100}").touch()
    tracemalloc.start()
    try:
        assert found(*trees) == []
        assert tracemalloc.get_traced_memory()[1] < 200_000
    finally:
        tracemalloc.stop()


def test_a_walk_that_is_given_up_closes_what_it_opened(trees: Trees) -> None:
    a, b = trees
    (a / "one").touch()
    (a / "two").touch()
    used = len(os.listdir("/proc/self/fd"))
    walk = verify(a, b)
    next(walk)
    walk.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == used


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(entries, entries, st.booleans())
def test_random_trees(a_entries: Entries, b_entries: Entries, related: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        a = build(folder + "/a", a_entries)
        b = build(folder + "/b", {**a_entries, **b_entries} if related else b_entries)
        expected = set()
        for path in a.keys() | b.keys():
            parent = os.path.dirname(path)
            if parent and not (a.get(parent, "")[:1] == b.get(parent, "")[:1] == ("dir",)):
                continue
            if path not in b:
                expected.add((path, "missing"))
            elif path not in a:
                expected.add((path, "extra"))
            elif a[path][0] != b[path][0]:
                expected.add((path, "type"))
            elif a[path] != b[path]:
                expected.add((path, {"file": "content", "link": "link"}[a[path][0]]))
        differences = [(difference.path, difference.kind) for difference in verify(folder + "/a", folder + "/b")]
        assert len(differences) == len(set(differences))
        assert set(differences) == expected
