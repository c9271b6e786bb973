"""How temporaries are named, whatever a filesystem takes for a name."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.engine.files.writing import target as module
from sparsesync.engine.text import hidden_name
from tests.support.filesystems import filesystem, need, same_content, sparse_file

names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]) | st.sampled_from("яß漢😀"),
    min_size=1,
    max_size=255,
)


@given(name=names, limit=st.integers(32, 255))
def test_a_hidden_name_fits_and_is_cut_between_characters(name: str, limit: int) -> None:
    found = hidden_name(name, ".1234abcd", limit)
    assert found.startswith(".") and found.endswith(".1234abcd")
    assert len(found.encode()) <= max(limit, 1)  # which raises if it was cut within a character
    if len(name.encode()) + 10 <= limit:
        assert found == f".{name}.1234abcd"


@given(a=names, b=names, limit=st.integers(48, 255))
def test_two_names_stay_two(a: str, b: str, limit: int) -> None:
    assert (hidden_name(a, ".sparsesync-partial", limit) == hidden_name(b, ".sparsesync-partial", limit)) == (a == b)


def test_bytes_that_are_no_characters_are_cut_too() -> None:
    assert len(os.fsencode(hidden_name(os.fsdecode(b"\xbf" * 255), ".part"))) <= 255


@pytest.mark.parametrize("name", ["я" * 127, "\x01" * 255])
def test_a_limit_may_be_told_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import sparsesync

    monkeypatch.setattr(module, "name_limit", lambda directory: 4096)
    source = sparse_file(tmp_path / "src", 1 << 20, [(0, 4096)])
    sparsesync.copyfile(source, tmp_path / name)
    assert same_content(source, tmp_path / name) and sorted(os.listdir(tmp_path)) == sorted(["src", name])


def test_names_of_a_filesystem_that_takes_characters(tmp_path: Path) -> None:
    import sparsesync

    need(os.path.exists("/dev/fuse"), "exfat-fuse needs /dev/fuse")
    source = sparse_file(tmp_path / "src", 1 << 20, [(0, 4096)])
    with filesystem("exfat", tmp_path / "fs", "64M") as top:
        with pytest.warns(RuntimeWarning, match="has no holes"):
            sparsesync.copyfile(source, top / ("я" * 124))
        assert same_content(source, top / ("я" * 124)) and os.listdir(top) == ["я" * 124]


@pytest.mark.parametrize("content", [b"content", b""])
def test_an_interruption_right_after_the_rename_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    real = os.replace

    def replace(*arguments: object, **more: object) -> None:
        real(*arguments, **more)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    directory = os.open(tmp_path, os.O_RDONLY)
    target = module.Target(directory, "new", "new")
    try:
        target.open()
        os.pwrite(target.fd, content, 0)
        with pytest.raises(KeyboardInterrupt):
            target.commit()
        target.close()
    finally:
        os.close(directory)
    assert os.listdir(tmp_path) == ["new"] and (tmp_path / "new").read_bytes() == content


@pytest.mark.parametrize("after", ["flush_directory", "rename_over"])
def test_an_interruption_after_the_rename_leaves_the_mode_of_what_may_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    do = getattr(module, after)

    def interrupted(*arguments: object, **more: object) -> None:
        do(*arguments, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, after, interrupted)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        target = module.Target(directory, "file", "file", partial=(directory, ".file.partial"))
        with contextlib.suppress(KeyboardInterrupt), target:
            target.continuable = True
            os.write(target.fd, b"content")
            target.commit(mode=0o644, fsync=True)
            pytest.fail("it was not interrupted")
    finally:
        os.close(directory)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert target.temporary is None  # whoever has a journal of it knows that it is of no use
