"""Stripes of Lustre, without Lustre: layouts that are made up, in another attribute, and a program in lfs's place."""

from __future__ import annotations

import os
import struct
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from math import gcd
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsesync
from sparsesync.engine.files.writing import stripes as module
from sparsesync.engine.files.writing.stripes import stripe_bytes
from sparsesync.workers import bundles, file_copy
from sparsesync.workers.plan import UNIT_BYTES, plan
from sparsesync.workers.task import Request
from tests.support.executors import Recording
from tests.support.filesystems import same_content, sparse_file

KIB, MIB = 1024, 1 << 20
MOST = 64 * MIB
PLAIN = [0x0BD10BD0, 0x0BD30BD0, 0x0BD50BD0]


def plain(size: int, magic: int = PLAIN[0]) -> bytes:
    """A layout as lustre_user.h has it: struct lov_user_md_v1, with one object."""
    return struct.pack("=IIQQIHH", magic, 1, 7, 8, size, 1, 0) + bytes(24)


def composite(layouts: list[bytes]) -> bytes:
    """Struct lov_comp_md_v1, with a component for each layout."""
    entries, blobs = b"", b""
    start = 32 + 48 * len(layouts)
    for number, layout in enumerate(layouts):
        place = start + len(blobs)
        entries += struct.pack(
            "=IIQQIIIQI", number + 1, 0, number << 20, (number + 1) << 20, place, len(layout), 0, 0, 0
        )
        blobs += layout
    head = struct.pack("=IIIHHHHHHQ", 0x0BD60BD0, start + len(blobs), 0, 0, len(layouts), 0, 0, 0, 0, 0)
    return head + entries + blobs


@pytest.fixture
def lustre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for Lustre."""
    monkeypatch.setattr(module, "filesystem_of", lambda fd: "lustre")
    monkeypatch.setattr(module, "_LAYOUT", "user.lov")
    monkeypatch.setattr(module, "_hanging", [])
    monkeypatch.setattr(file_copy, "share_of", lambda data, workers: 128 * KIB)
    return tmp_path


def lfs(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Put a program of that name into PATH. Returns the file to which it may write what it was asked."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "lfs"
    program.write_text(f"#!{sys.executable}\nimport os, sys, time\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("LFS_LOG", str(folder / "asked"))
    return folder / "asked"


SETSTRIPE = """
word, copy, new = sys.argv[1:]
assert word == "setstripe" and copy.startswith("--copy=")
old = copy[7:]
st = os.stat(new)
with open(os.environ["LFS_LOG"], "a") as log:
    print(os.path.basename(os.path.realpath(old)), os.path.basename(new), st.st_size, oct(st.st_mode), file=log)
os.setxattr(new, "user.lov", os.getxattr(old, "user.lov"))
"""


def made(folder: Path) -> tuple[Path, Path]:
    """A source with data all over, and an older file with stripes of 768 KiB at its place."""
    source = sparse_file(folder / "src", 16 * MIB, [(number * 200 * KIB, 100 * KIB) for number in range(80)])
    os.utime(source, ns=(1, 1_500_000_000_123_456_789))
    copy = folder / "dst"
    copy.write_bytes(b"old")
    os.setxattr(copy, "user.lov", composite([plain(256 * KIB), plain(768 * KIB)]))
    return source, copy


def borders(source: Path, copy: Path) -> set[int]:
    """Copy by workers, and return where their tasks began."""
    with Recording() as executor:
        sparsesync.copyfile(source, copy, reflink="never", executor=executor)
    assert same_content(source, copy)
    assert not [name for name in os.listdir(copy.parent) if name.startswith(".")]
    return {Request(*request).start for request in executor.given}


def test_a_file_that_is_replaced_keeps_its_stripes(lustre: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = made(lustre)
    asked = lfs(lustre, monkeypatch, SETSTRIPE)
    begun = borders(source, copy)
    assert len(begun) > 5 and all(start % (768 * KIB) == 0 for start in begun)
    assert asked.read_text() == "dst .dst.sparsesync-tasks 0 0o100600\n"


def test_a_file_of_a_tree_keeps_its_stripes_if_it_is_cut_into_tasks(
    lustre: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lustre / "a").mkdir()
    (lustre / "b").mkdir()
    source, copy = made(lustre / "a")
    copy.rename(lustre / "b" / "src")
    asked = lfs(lustre, monkeypatch, SETSTRIPE)
    for least, expected in ((4 * MIB, "src .src.sparsesync-tasks 0 0o100600\n"), (16 * MIB, "")):
        asked.write_text("")
        os.utime(lustre / "b" / "src", (1, 1))
        monkeypatch.setattr(bundles, "LEAST_BYTES", least)
        with ThreadPoolExecutor(2) as executor:
            assert sparsesync.sync(f"{lustre}/a/", lustre / "b", "-a", executor=executor).ok
        assert asked.read_text() == expected and same_content(source, lustre / "b" / "src")
        assert os.listdir(lustre / "b") == ["src"]


def test_a_partial_file_of_another_source_is_no_reason_not_to(lustre: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = made(lustre)
    asked = lfs(lustre, monkeypatch, SETSTRIPE)
    (lustre / ".dst.sparsesync-tasks").write_bytes(b"of another source")
    (lustre / ".dst.sparsesync-tasks").chmod(0o600)
    assert all(start % (768 * KIB) == 0 for start in borders(source, copy))
    assert asked.read_text().split()[2:] == ["0", "0o100600"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("sys.stderr.write('error: setstripe:\\n\\0\\xff ' + 'x' * 30000); sys.exit(22)", "error: setstripe: .*xx"),
        ("sys.exit(1)", "status 1"),
        ("time.sleep(60)", "does not end"),
        ("while True: os.write(2, b'y' * 4096)", "does not end"),
        ("os.kill(os.getpid(), 9)", "status -9"),
    ],
)
def test_where_lfs_fails_the_copy_goes_on(lustre: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.8 if "not end" in why else 10)
    source, copy = made(lustre)
    runs = lfs(lustre, monkeypatch, f"open(os.environ['LFS_LOG'], 'a').write('.')\n{body}")
    with pytest.warns(RuntimeWarning, match=f"dst: it gets the stripes of its directory, .*{why}") as told:
        begun = borders(source, copy)
    assert len(begun) > 10 and all(start % UNIT_BYTES == 0 for start in begun)
    assert len(str(told[0].message)) < 1000
    with pytest.warns(RuntimeWarning, match="dst: it gets the stripes of its directory"):
        borders(source, copy)
    assert runs.read_text() == ("." if "not end" in why else "..")  # what hangs is waited for once


def test_nothing_is_asked_of_lfs_for_a_new_file_nor_elsewhere(lustre: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = made(lustre)
    asked = lfs(lustre, monkeypatch, SETSTRIPE)
    copy.unlink()
    assert len(borders(source, copy)) > 10
    monkeypatch.setattr(module, "filesystem_of", lambda fd: "ext4")
    assert len(borders(source, copy)) > 10
    monkeypatch.setattr(module, "filesystem_of", lambda fd: "lustre")
    (lustre / "bin" / "lfs").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(borders(source, copy)) > 10
    assert not asked.exists()


sizes = st.lists(
    st.sampled_from([64 * KIB, 192 * KIB, MIB, 3 * MIB, 4 * MIB, 5 * MIB, 64 * MIB, 256 * MIB, 0, 1, 65537]), max_size=6
)


@given(sizes=sizes, magics=st.lists(st.sampled_from(PLAIN), min_size=6, max_size=6), share=st.integers(MIB, 128 * MIB))
def test_no_stripe_is_shared_by_two_tasks(sizes: list[int], magics: list[int], share: int) -> None:
    layout = composite([plain(size, magic) for size, magic in zip(sizes, magics)])
    unit = unit_of(layout)
    usable = [size for size in sizes if size and size % (64 * KIB) == 0 and size <= MOST]
    assert unit <= MOST and unit % (64 * KIB) == 0 and bool(unit) == bool(usable)
    whole = 1
    for size in usable:
        whole = whole // gcd(whole, size) * size
    tasks = list(plan(iter([(5, 200 * MIB), (7 << 40, 70 * MIB)]), 8 << 40, share, unit or UNIT_BYTES))
    heeded = usable if whole <= MOST else usable and [max(usable)]
    assert all(task.start % size == 0 for task in tasks for size in heeded)
    assert unit_of(plain(MIB, magics[0])) == MIB


@given(junk=st.binary(max_size=200), cut=st.integers(0, 300), count=st.integers(0, 0xFFFF))
def test_any_layout_is_borne(junk: bytes, cut: int, count: int) -> None:
    whole = composite([plain(MIB), plain(4 * MIB)])
    assert unit_of(whole[:cut] + junk) in {*range(0, MOST + 1, 64 * KIB)}
    assert unit_of(struct.pack("=IIIHH", 0x0BD60BD0, 0, 0, 0, count) + junk) in {*range(0, MOST + 1, 64 * KIB)}


def unit_of(layout: bytes) -> int:
    """What a file with a layout has for a unit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "filesystem_of", lambda fd: "lustre")
        patch.setattr(os, "getxattr", lambda fd, name: layout)
        return stripe_bytes(-1, MOST)


def test_a_file_without_a_layout_has_no_stripes(lustre: Path) -> None:
    with open(lustre / "file", "wb") as file:
        assert stripe_bytes(file.fileno(), MOST) == 0
        os.setxattr(file.fileno(), "user.lov", plain(4 * MIB))
        assert stripe_bytes(file.fileno(), MOST) == 4 * MIB
