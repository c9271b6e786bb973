"""What is removed after a move, and what is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sparsesync.engine.tree.remove import remove_unchanged, totals


@pytest.fixture
def top(tmp_path: Path) -> Path:
    made = tmp_path / "top"
    (made / "a/b").mkdir(parents=True)
    for name in ("a/one", "a/b/two", "three"):
        (made / name).write_bytes(name.encode())
    for name in ("a/link", "a/b/link", "link"):
        os.link(made / "three", made / name)
    os.symlink("/", made / "a/symlink")
    (tmp_path / "old").write_bytes(b"old")
    (tmp_path / "directory").mkdir()
    time.sleep(0.02)  # the clock of the filesystem has coarser ticks than this test
    return made


def test_a_tree_that_has_not_changed_is_removed(top: Path) -> None:
    assert totals(str(top))[1:] == (10, len("a/onea/b/twothree/") + 3 * len("three"))
    os.link(top / "three", top.parent / "elsewhere")
    assert remove_unchanged(f"{top}/", totals(f"{top}").changed) == []
    assert not top.exists() and (top.parent / "elsewhere").read_bytes() == b"three"


@pytest.mark.parametrize("what", ["added", "changed", "same time", "renamed", "directory", "mode"])
def test_what_has_changed_keeps_all_of_it(top: Path, what: str) -> None:
    latest = totals(str(top)).changed
    if what == "added":
        (top / "a/b/added").write_bytes(b"")
    elif what == "changed":
        (top / "a/one").write_bytes(b"changed")
    elif what == "same time":
        st = os.stat(top / "a/one")
        (top / "a/one").write_bytes(b"ONE")
        os.utime(top / "a/one", ns=(st.st_atime_ns, st.st_mtime_ns))
    elif what == "mode":
        os.chmod(top / "a/one", 0o600)
    else:
        os.rename(top.parent / {"renamed": "old", "directory": "directory"}[what], top / "a/renamed")
    before = sorted(map(str, top.rglob("*")))
    left = remove_unchanged(str(top), latest)
    assert left and all(path.startswith(str(top)) for path in left)
    assert sorted(map(str, top.rglob("*"))) == before


def test_what_comes_while_it_is_removed_stays(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    latest = totals(str(top)).changed
    unlink = os.unlink

    def unlink_and_add(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        if not (top / "a/b/added").exists():
            (top / "a/b/added").write_bytes(b"added")
            (top / "a/b/two").write_bytes(b"2")

    monkeypatch.setattr(os, "unlink", unlink_and_add)
    left = remove_unchanged(str(top), latest)
    assert {str(top / name) for name in ("", "a", "a/b")} <= set(left)
    assert (top / "a/b/added").read_bytes() == b"added" and (top / "a/b/two").read_bytes() == b"2"


def test_a_symlink_is_not_followed(top: Path) -> None:
    (top.parent / "link").symlink_to(top)
    assert remove_unchanged(f"{top.parent}/link", totals(f"{top.parent}/link").changed) == []
    assert (top / "three").exists() and not (top.parent / "link").is_symlink()


def test_what_cannot_be_moved(top: Path) -> None:
    for path in ("/", ".", "..", f"{top}/.."):
        with pytest.raises(OSError, match="without a name"):
            totals(path)
    with pytest.raises(FileNotFoundError):
        totals(f"{top}/none")
    deep = top / "a"
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(500):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(OSError, match="too deep"):
        totals(str(top))
