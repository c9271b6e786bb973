"""Whose word counts: filesystems that lie, that do not know, and that reserve what was never written.

The content is judged by cmp(1) or by reading the file below, what is reserved by filefrag(8), and what is allocated
by stat.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import random
import struct
import subprocess
import threading
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import sparsesync
from sparsesync.commands.main import main
from sparsesync.engine.files import claims, mounts, syscalls
from sparsesync.engine.files.claims import believes
from sparsesync.engine.files.extents import extents, is_sparse, layers
from sparsesync.engine.files.status import stat_sparse
from sparsesync.engine.transfer.place.destination import Destination
from sparsesync.engine.tree.scan import scan
from tests.support.filesystems import (
    Mounted,
    allocated,
    command,
    data_bytes,
    filesystem,
    loop_device,
    need_root,
    need_tools,
    qemu_map,
    same_content,
    sparse_file,
    unwritten,
)
from tests.support.liar import ERRORS, liar, lie
from tests.support.schemas import fields
from tests.support.sshd import Sshd
from tests.support.transfers import transfer

KIB = 1024
MIB = 1024 * KIB
BLOCK = 4096


def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def with_fd(path: Path, call: Any) -> Any:
    for fd in opened(path):
        return call(fd)


class Lying:
    """The lying filesystem: ``below`` are the files as they are, ``shown`` what is told of them."""

    def __init__(self, top: Path) -> None:
        self.below, self.shown = top / "below", top / "shown"


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lying]:
    place = Lying(tmp_path_factory.mktemp("liar"))
    with liar(place.below, place.shown):
        yield place


def content(blocks: list[int], tail: int) -> bytes:
    """Blocks of zeros (0), of noise, or with a single byte at their end that is not zero (1)."""
    parts = [
        bytes(BLOCK) if seed == 0 else bytes(BLOCK - 1) + b"x" if seed == 1 else random.Random(seed).randbytes(BLOCK)
        for seed in blocks
    ]
    whole = b"".join(parts)
    return whole[: len(whole) - tail] if whole else whole


lies = st.one_of(
    st.fixed_dictionaries({"seed": st.integers(0, 2**32)}, optional={"blocks": st.sampled_from([0, 1, 8, 1 << 40])}),
    st.fixed_dictionaries(
        {
            "data": st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), max_size=4).map(
                lambda runs: [[BLOCK * start, BLOCK * length] for start, length in sorted(runs)]
            )
        },
        optional={"blocks": st.sampled_from([0, 1, 8, 1 << 40])},
    ),
    st.fixed_dictionaries({"errno": st.sampled_from(ERRORS)}, optional={"blocks": st.sampled_from([0, 8])}),
)


@pytest.mark.slow
@settings(max_examples=700, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 4), max_size=40),
    st.integers(0, BLOCK - 1),
    st.lists(st.integers(0, 4), max_size=40),
    lies,
)
@example([2, 0, 2], 0, [], {"data": [], "blocks": 0})
@example([0, 1, 0], 5, [3, 3, 3, 3], {"errno": errno.ENXIO, "blocks": 0})
def test_no_lie_costs_a_byte(
    lying: Lying, blocks: list[int], tail: int, other: list[int], said: dict[str, Any]
) -> None:
    """Three lies each: about a source, about what an update finds at the destination, about one side of a proof."""
    data, old = content(blocks, tail), content(other, 0)
    below, shown = lying.below / "f", lying.shown / "f"
    local, made = lying.below.parent / "local", lying.below.parent / "made"
    below.write_bytes(data)
    lie(below, **said)
    # As a source: new, in place, and as it is sent.
    sparsesync.copyfile(shown, made)
    assert made.read_bytes() == data
    # ext4 has a block of its own for many extents.
    assert allocated(made) <= sum(BLOCK for block in _blocks(data) if any(block)) + BLOCK
    made.write_bytes(old)
    sparsesync.copyfile(shown, made, inplace=True)
    assert made.read_bytes() == data
    # In a proof.
    assert list(sparsesync.verify(shown, made)) == []
    if any(data):
        at = next(index for index, byte in enumerate(data) if byte)
        made.write_bytes(data[:at] + b"\0" + data[at + 1 :])
        assert [each.offset for each in sparsesync.verify(made, shown)] == [at]
    # No walk hangs, whatever is believed; what is told is ascending and inside.
    for holes in ("trust", "check", "read", "auto"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            end = 0
            for offset, length in with_fd(shown, lambda fd: list(extents(fd, holes=holes))):  # noqa: B023
                assert end <= offset < offset + length <= len(data)
                end = offset + length
    # As the destination of an update.
    local.write_bytes(data)
    below.write_bytes(old)
    sparsesync.copyfile(local, shown, inplace=True)
    assert below.read_bytes() == data


def _blocks(data: bytes) -> Iterator[bytes]:
    return (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.lists(st.integers(0, 4), max_size=40), lies, lies)
def test_no_lie_costs_a_byte_on_the_way(
    lying: Lying, tmp_path_factory: pytest.TempPathFactory, blocks: list[int], old: list[int], said: Any, more: Any
) -> None:
    place = tmp_path_factory.mktemp("way")
    (lying.below / "f").write_bytes(content(blocks, 7))
    (lying.below / "g").write_bytes(content(old, 0))
    lie(lying.below / "f", **said)
    lie(lying.below / "g", **more)
    for pull in (False, True):
        done = transfer([(lying.shown / "f", "f")], Destination(str(place)), pull=pull)
        assert not done.errors and done.left("f") is None
        assert (place / "f").read_bytes() == content(blocks, 7)
    done = transfer([(lying.shown / "f", "g")], Destination(str(lying.shown), inplace=True))
    assert not done.errors and done.left("g") is None
    assert (lying.below / "g").read_bytes() == content(blocks, 7)


@pytest.mark.parametrize("said", [{"data": [], "blocks": 0}, {"data": [[0, 8192]], "blocks": 16}])
def test_the_command_line(lying: Lying, tmp_path: Path, capfd: pytest.CaptureFixture[str], said: Any) -> None:
    """sync, map, scan and verify of a file that is shown with holes it does not have: rsync's result is the measure."""
    need_tools("rsync")
    source = lying.below / "disk"
    source.write_bytes(random.Random(1).randbytes(MIB))
    lie(source, **said)
    try:
        assert main(["sync", "-a", "--exclude=f", "--exclude=g", f"{lying.shown}/", f"{tmp_path / 'made'}/"]) == 0
        assert same_content(source, tmp_path / "made/disk")
        assert main(["verify", str(lying.shown / "disk"), str(tmp_path / "made/disk"), "--json"]) == 0
        proof = fields(capfd.readouterr().out)
        assert proof == {
            "differences": [], "a": {"read": MIB, "believed": 0}, "b": {"read": MIB, "believed": 0},
        }  # fmt: skip
        with open(tmp_path / "zeros", "wb") as file:
            file.truncate(MIB)
        assert main(["verify", "-q", str(lying.shown / "disk"), str(tmp_path / "zeros")]) == 1
        assert "content differs at byte 0" in capfd.readouterr().out
        assert main(["map", "--json", str(lying.shown / "disk")]) == 0
        found = {"offset": 0, "length": MIB, "data": True, "reserved": False}
        assert fields(capfd.readouterr().out) == {"size": MIB, "ranges": [found]}
        assert main(["scan", "-0", str(lying.shown / "disk")]) == 0
        assert capfd.readouterr().out == ""
        assert main(["scan", "-0", "--holes=trust", str(lying.shown / "disk")]) == 0
        assert capfd.readouterr().out == f"{lying.shown / 'disk'}\0"
    finally:
        source.unlink()


def test_a_sample_finds_out(lying: Lying, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(claims._WORD, "fuse.liar", "check")
    sparse_file(lying.below / "f", 64 * MIB, [(32 * MIB, 4096)])
    lie(lying.below / "f", data=[[32 * MIB, 4096]], blocks=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_fd(lying.shown / "f", lambda fd: list(extents(fd))) == [(32 * MIB, 4096)]
    # Honest but for the last of its holes, of which the end is not one.
    with open(lying.below / "f", "r+b") as file:
        file.seek(64 * MIB - 1)
        file.write(b"x")
    with pytest.warns(RuntimeWarning, match=f"shown/f: fuse.liar tells of a hole, and there is data at {64 * MIB - 1}"):
        sparsesync.copyfile(lying.shown / "f", tmp_path / "made")
    assert same_content(lying.below / "f", tmp_path / "made")
    assert allocated(tmp_path / "made") == 2 * BLOCK
    # One that has none to tell, against its st_blocks.
    lie(lying.below / "f", blocks=8)
    assert not with_fd(lying.shown / "f", believes)


def test_a_hole_smaller_than_a_block_is_no_lie(lying: Lying) -> None:
    (lying.below / "f").write_bytes(b"x" * 8192 + bytes(1024) + b"x" * 8192)
    lie(lying.below / "f", data=[[0, 8192], [9216, 8192]], blocks=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_fd(lying.shown / "f", lambda fd: believes(fd, "check"))


def test_a_sample_is_small(lying: Lying, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4096 * 10_000
    sparse_file(lying.below / "f", size, [])
    lie(lying.below / "f", data=[[2 * BLOCK * number, BLOCK] for number in range(5000)], blocks=40_000)
    calls = []
    for name in ("pread", "lseek"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, real=real: (calls.append(args), real(*args))[1])
    assert with_fd(lying.shown / "f", lambda fd: believes(fd, "check"))
    assert len(calls) < 120


@pytest.mark.parametrize("number", ERRORS[1:])
def test_what_lseek_fails_for_is_read(number: int, mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sparse_file(mounted("tmpfs") / "f", 2 * MIB, [(0, BLOCK), (MIB, BLOCK)])
    real = os.lseek

    def lseek(fd: int, offset: int, whence: int) -> int:
        if whence == os.SEEK_HOLE and offset >= MIB:
            raise OSError(number, os.strerror(number))
        return real(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    assert with_fd(path, lambda fd: list(extents(fd, holes="trust"))) == [(0, BLOCK), (MIB, BLOCK)]


@pytest.mark.parametrize("number", ERRORS[1:])
def test_an_error_means_data(lying: Lying, number: int) -> None:
    (lying.below / "f").write_bytes(b"x" * MIB)
    lie(lying.below / "f", errno=number)
    assert with_fd(lying.shown / "f", lambda fd: list(extents(fd, holes="trust"))) == [(0, MIB)]


def test_an_overlay_is_as_good_as_what_is_below(lying: Lying, tmp_path: Path, mounted: Mounted) -> None:
    for lower, believed in ((mounted("ext4"), True), (mounted("btrfs"), True), (lying.shown, False)):
        place = tmp_path / lower.parent.name / lower.name
        for name in ("upper", "work", "merged"):
            (place / name).mkdir(parents=True)
        if believed:
            sparse_file(lower / "f", 4 * MIB, [(MIB, BLOCK)])
        else:
            (lying.below / "f").write_bytes(b"x" * MIB)
            lie(lying.below / "f", data=[], blocks=0)
        options = f"lowerdir={lower},upperdir={place / 'upper'},workdir={place / 'work'}"
        command("mount", "-t", "overlay", "-o", options, "overlay", place / "merged")
        try:
            assert with_fd(place / "merged/f", believes) is believed
            sparsesync.copyfile(place / "merged/f", place / "made")
            assert same_content(place / "merged/f", place / "made")
            if believed:
                for state in STATES:
                    source = disk(place / "merged/disk", state)
                    sparsesync.copyfile(source, place / "made")
                    assert same_content(source, place / "made")
                    flushed(place / "made")
                    assert allocated(place / "made") <= sum(length for _, length in WRITTEN) + 64 * KIB
                    source.unlink()
        finally:
            command("umount", place / "merged")


def test_a_subvolume_is_btrfs_too(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    need_tools("btrfs")
    volume = mounted("btrfs") / "volume"
    command("btrfs", "subvolume", "create", volume)
    path = sparse_file(volume / "f", 4 * MIB, [(MIB, BLOCK)])
    assert with_fd(path, believes)
    command("btrfs", "subvolume", "delete", volume)


@pytest.mark.parametrize(
    ("version", "loses"),
    [("2.1.11-1+deb12u1", True), ("2.1.14-1", False), ("2.2.1", True), ("2.2.2-rc1", False), ("2.3.0", False),
     ("0.8.6", True), ("?", True), (None, True)],
)  # fmt: skip
def test_versions_of_zfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, loses: bool) -> None:
    if version is not None:
        (tmp_path / "version").write_text(version + "\n")
    monkeypatch.setattr(claims, "_ZFS_VERSION", str(tmp_path / "version"))
    monkeypatch.setattr(mounts, "filesystem_type", lambda device, mount: "zfs")
    monkeypatch.setattr(mounts, "_mounts", mounts._Mounts())
    monkeypatch.setattr(mounts, "_held", {})
    path = sparse_file(tmp_path / "f", MIB, [])
    assert with_fd(path, believes) is not loses


def test_many_threads_and_a_fork_ask(mounted: Mounted) -> None:
    path = sparse_file(mounted("btrfs") / "f", MIB, [])
    wrong: list[str] = []

    def ask() -> None:
        try:
            for _ in range(5000):
                found = with_fd(path, mounts.filesystem_of)
                assert found == "btrfs"
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    child = os.fork()
    if not child:
        os._exit(with_fd(path, mounts.filesystem_of) != "btrfs")
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "tmpfs", "ext4"])
def test_a_chroot_that_shows_no_mounts(mounted: Mounted, kind: str) -> None:
    """What tells ext2's driver from ext4's is the table of mounts alone, and of the two ext2's is believed less."""
    top = mounted(kind)
    path = sparse_file(top / "f", MIB, [])
    child = os.fork()
    if not child:
        found = None
        try:
            with open(path, "rb") as file:
                os.chroot(top)
                found = mounts.filesystem_of(file.fileno()), believes(file.fileno())
        finally:
            os._exit(found != ("ext2" if kind == "ext4" else kind, True))
    assert os.waitpid(child, 0)[1] == 0


def test_another_filesystem_at_the_same_number(tmp_path: Path) -> None:
    """A loop device that is mounted anew is not taken for what it was, however soon."""
    for number, kind in enumerate(("ext4", "xfs", "ext4", "xfs")):
        place = tmp_path / str(number)
        place.mkdir()
        with filesystem(kind, place, "512M") as top:
            assert with_fd(sparse_file(top / "f", MIB, []), mounts.filesystem_of) == kind


def test_wrong_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sparse_file(tmp_path / "f", MIB, [])
    with pytest.raises(ValueError, match="holes must be"):
        with_fd(path, lambda fd: extents(fd, holes="maybe"))
    for call in (sparsesync.copyfile, sparsesync.verify):
        with pytest.raises(ValueError, match="holes must be"):
            call(path, tmp_path / "g", holes="maybe")  # type: ignore[operator, arg-type]
    assert main(["sync", "--seed-holes=maybe", str(path), str(tmp_path / "g")]) == 1
    assert "--seed-holes: 'maybe' is not one of auto, trust, check, read" in capsys.readouterr().err


# What is reserved


RESERVING = ("ext4", "xfs", "btrfs")
STATES = ("cold", "warm", "dirty")


@pytest.fixture(params=RESERVING)
def reserving(request: pytest.FixtureRequest, mounted: Mounted) -> Path:
    return mounted(str(request.param))


def disk(path: Path, state: str, size: int = 64 * MIB) -> Path:
    """A disk that was preallocated as a whole, with three parts that were written: 4 MiB, 4 KiB, and its last bytes."""
    command("fallocate", "-l", str(size), path)
    with open(path, "r+b") as file:
        for offset, length in ((16 * MIB, 4 * MIB), (40 * MIB, BLOCK), (size - 100, 100)):
            file.seek(offset)
            file.write(b"x" * length)
    if state != "dirty":
        flushed(path)
    if state != "cold":
        path.read_bytes()
    return path


def flushed(path: Path) -> None:
    """Have a file on the disk and nothing of it in the page cache, where what is reserved would be data for lseek."""
    for fd in opened(path):
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


WRITTEN = [(16 * MIB, 4 * MIB), (40 * MIB, BLOCK), (64 * MIB - BLOCK, BLOCK)]


@pytest.mark.parametrize("state", STATES)
def test_reserved_ranges_are_holes(reserving: Path, state: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = disk(reserving / "disk", state)
    assert with_fd(path, lambda fd: list(extents(fd))) == WRITTEN
    assert with_fd(path, is_sparse)
    told = with_fd(path, lambda fd: list(layers(fd)))
    assert [part[:2] for part in told if part[2]] == WRITTEN
    reserved: list[tuple[int, int]] = []
    for offset, length in [part[:2] for part in told if not part[2]]:
        if reserved and sum(reserved[-1]) == offset:
            offset, length = reserved[-1][0], reserved.pop()[1] + length
        reserved.append((offset, length))
    assert reserved == unwritten(path)
    assert [found.path for found in scan(str(reserving))] == [str(path)]
    looked = stat_sparse(str(path), False, reserved=True)
    assert looked is not None
    data = sum(length for _, length in WRITTEN)
    assert (looked.data, looked.reserved) == (data, 64 * MIB - data)
    assert sparsesync.exclude_patterns([f"{reserving}/"]) == ["/disk"]
    assert sparsesync.exclude_patterns([f"{reserving}/"], min_ratio=0.9) == ["/disk"]
    assert sparsesync.exclude_patterns([f"{reserving}/"], min_ratio=0.95) == []
    assert main(["map", "--json", str(path)]) == 0
    listed = fields(capfd.readouterr().out)["ranges"]
    assert sum(part["length"] for part in listed) == 64 * MIB
    assert sum(part["length"] for part in listed if part["reserved"]) == 64 * MIB - data
    assert main(["map", str(path)]) == 0
    assert capfd.readouterr().out.endswith("3 extents: 4 MiB data of 64 MiB, 60 MiB reserved\n")


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("how", ["copy", "clone", "sync", "inplace"])
def test_nothing_is_reserved_unasked(reserving: Path, mounted: Mounted, state: str, how: str) -> None:
    (reserving / "s").mkdir()
    source = disk(reserving / "s/disk", state)
    made = reserving / "o/disk"
    if how == "sync":
        need_tools("rsync")
        assert main(["sync", "-a", f"{source.parent}/", f"{made.parent}/"]) == 0
    else:
        made.parent.mkdir()
        if how == "inplace":
            command("fallocate", "-l", str(64 * MIB), made)
        sparsesync.copyfile(source, made, inplace=how == "inplace", reflink="auto" if how == "clone" else "never")
    assert same_content(source, made)
    command("sync", "-f", made)
    # A filesystem's own block for its extents may come on top.
    assert allocated(made) <= sum(length for _, length in WRITTEN) + 64 * KIB
    assert unwritten(made) == []


@pytest.mark.parametrize("how", ["copy", "clone", "inplace", "sync", "push", "pull"])
def test_reservations_are_made_on_request(sshd_server: Sshd, reserving: Path, how: str) -> None:
    need_tools("rsync")
    (reserving / "s").mkdir()
    source = reserving / "s/disk"
    with open(source, "wb") as file:
        file.truncate(64 * MIB)
    for offset in (4, 24, 48):
        command("fallocate", "-o", str(offset * MIB), "-l", str(8 * MIB), source)
    with open(source, "r+b") as file:
        for offset, length in ((6 * MIB, MIB), (40 * MIB, MIB)):
            file.seek(offset)
            file.write(b"x" * length)
    made = reserving / "o/disk"
    made.parent.mkdir()
    if how == "inplace":
        command("fallocate", "-l", str(70 * MIB), made)
    options = {"copy": ["--reflink=never"], "inplace": ["--inplace"]}.get(how, [])
    words = ["-e", sshd_server.rsh]
    if how == "sync":
        assert main(["sync", "-a", "--preallocate", f"{source.parent}/", f"{made.parent}/"]) == 0
    elif how in ("push", "pull"):
        ends = [f"host:{source}", str(made)] if how == "pull" else [str(source), f"host:{made}"]
        assert main(["copy", "-q", "--reserve", *words, *ends]) == 0
    else:
        assert main(["copy", "-q", "--reserve", *options, str(source), str(made)]) == 0
    assert same_content(source, made)
    flushed(made)
    assert unwritten(made) == unwritten(source) != []
    assert [(p["start"], p["length"]) for p in qemu_map(made) if p["data"]] == [(6 * MIB, MIB), (40 * MIB, MIB)]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["push", "pull"])
def test_sync_preallocates_over_there_too(sshd_server: Sshd, mounted: Mounted, tmp_path: Path, way: str) -> None:
    need_tools("rsync")
    top = mounted("xfs")
    (top / "s").mkdir()
    source = disk(top / "s/disk", "warm")
    far, near = ("host:", "") if way == "pull" else ("", "host:")
    for made, options in ((top / "o/disk", []), (top / "p/disk", ["--preallocate"])):
        words = ["-a", "-e", sshd_server.rsh, *options, f"{far}{source.parent}/", f"{near}{made.parent}/"]
        assert main(["sync", *words]) == 0
        assert same_content(source, made)
        flushed(made)
        assert unwritten(made) == (unwritten(source) if options else [])
        assert data_bytes(made) == sum(length for _, length in WRITTEN)


@pytest.mark.slow
def test_a_disk_of_100_gib_fits_on_one_of_2(mounted: Mounted, tmp_path: Path) -> None:
    need_tools("rsync")
    place = mounted("ext4")
    small = tmp_path / "small"
    with filesystem("xfs", small, "120G") as big, filesystem("ext4", tmp_path / "two", "512M") as two:
        (big / "s").mkdir()
        source = big / "s/disk"
        command("fallocate", "-l", str(100 << 30), source)
        with open(source, "r+b") as file:
            for number in range(1500):  # more than a few extents
                file.seek(number * 64 * MIB)
                file.write(b"x" * 64 * KIB)
        assert main(["sync", "-a", f"{source.parent}/", f"{two}/o/"]) == 0
        assert allocated(two / "o/disk") < 110 * MIB
        (two / "o/disk").unlink()
        assert main(["copy", "-q", str(source), str(two / "disk")]) == 0
        assert allocated(two / "disk") < 110 * MIB
        (two / "disk").unlink()
        # With its reservations it does not fit, and that is said before anything is written.
        with pytest.raises(sparsesync.NoSpaceError):
            sparsesync.copyfile(source, two / "disk", reserve=True)
        assert os.listdir(place) == []


@pytest.mark.parametrize("state", STATES)
def test_calls_grow_with_the_extents_only(reserving: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEEK_HOLE walks through all that is cached behind an offset: asked for each of many extents, that takes hours."""
    path = reserving / "f"
    command("fallocate", "-l", str(3000 * 16 * KIB), path)
    with open(path, "r+b") as file:
        for number in range(3000):
            file.seek(number * 16 * KIB)
            file.write(b"x" * BLOCK)
    if state != "dirty":
        flushed(path)
    if state == "warm":
        path.read_bytes()
    asked = {os.SEEK_DATA: 0, os.SEEK_HOLE: 0, os.SEEK_END: 0, os.SEEK_SET: 0}
    real = os.lseek

    def lseek(fd: int, offset: int, whence: int) -> int:
        asked[whence] += 1
        return real(fd, offset, whence)

    monkeypatch.setattr(os, "lseek", lseek)
    assert with_fd(path, lambda fd: sum(length for _, length in extents(fd))) == 3000 * BLOCK
    assert asked[os.SEEK_HOLE] == 0
    assert asked[os.SEEK_DATA] < 3 * 3000


@pytest.mark.parametrize("how", ["new", "inplace"])
def test_what_cannot_fit_is_said_before_anything_is_written(tmp_path: Path, how: str) -> None:
    with filesystem("ext4", tmp_path / "small", "32M") as small:
        source = tmp_path / "source"
        source.write_bytes(b"x" * 60 * MIB)
        (small / "made").write_bytes(b"old")
        with pytest.raises(sparsesync.NoSpaceError):
            sparsesync.copyfile(source, small / "made", inplace=how == "inplace")
        assert (small / "made").read_bytes() == b"old"
        # What is there already makes room.
        (small / "made").write_bytes(b"y" * 16 * MIB)
        source.write_bytes(b"x" * 20 * MIB)
        if how == "inplace":
            sparsesync.copyfile(source, small / "made", inplace=True)
            assert same_content(source, small / "made")


def test_room_for_what_is_not_believed(lying: Lying, tmp_path: Path) -> None:
    """It may all be data, whatever its blocks say; so nothing is begun that would fill the disk."""
    need_tools("rsync")
    (lying.below / "f").write_bytes(random.Random(1).randbytes(40 * MIB))
    lie(lying.below / "f", data=[], blocks=0)
    looked = stat_sparse(str(lying.shown / "f"), False)
    assert looked is not None and (looked.data, looked.room) == (0, 40 * MIB)
    with filesystem("ext4", tmp_path / "small", "32M") as small:
        assert main(["sync", "-a", str(lying.shown / "f"), f"{small}/made"]) == 11
        assert not (small / "made").exists()
    (lying.below / "f").write_bytes(b"")


def test_a_word_that_nobody_gave_is_not_trusted(lying: Lying, tmp_path: Path) -> None:
    """Where a filesystem has no map there is none to believe: as with most of FUSE, and with block devices."""
    sparse_file(lying.below / "f", 4 * MIB, [(MIB, BLOCK)])
    lie(lying.below / "f")
    for holes in ("trust", "check", "auto", "read"):
        sparsesync.copyfile(lying.shown / "f", tmp_path / "made", holes=holes)
        assert allocated(tmp_path / "made") == BLOCK


def test_reservations_that_are_not_told(mounted: Mounted, tmp_path: Path) -> None:
    source = mounted("tmpfs") / "f"
    command("fallocate", "-l", str(MIB), source)
    with pytest.warns(RuntimeWarning, match="its filesystem has no FIEMAP"):
        sparsesync.copyfile(source, tmp_path / "made", reserve=True)


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_reserved(reserving: Path) -> None:
    path = reserving / "f"
    command("fallocate", "-l", str(20_000 * 16 * KIB), path)
    with open(path, "r+b") as file:
        for number in range(20_000):
            file.seek(number * 16 * KIB)
            file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
        tracemalloc.start()
        looked = stat_sparse(str(path), False)
        count = sum(1 for _ in layers(file.fileno()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert looked is not None and looked.data == 20_000 * BLOCK
    assert count == 40_000
    assert peak < 200 * KIB


@pytest.mark.parametrize("kernel", ["6.1.0-13-amd64", "6.18.44", "unknown"])
def test_reservations_of_a_clone(reserving: Path, monkeypatch: pytest.MonkeyPatch, kernel: str) -> None:
    """btrfs: they are shared, and SEEK_HOLE passes over them. With any kernel it is right, with a new one exact."""
    source = disk(reserving / "disk", "cold")
    clone = reserving / "clone"
    command("cp", "--reflink=auto", "--sparse=never", source, clone)
    release = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result([*release[:2], kernel, *release[3:]]))
    found = with_fd(clone, lambda fd: list(extents(fd)))
    if with_fd(clone, mounts.filesystem_of) == "btrfs" and kernel == "6.18.44":
        assert found == WRITTEN
    sparsesync.copyfile(clone, reserving / "made", reflink="never")
    assert same_content(source, reserving / "made")


def test_what_was_just_written_is_not_flushed(mounted: Mounted) -> None:
    need_tools("filefrag")
    path = sparse_file(mounted("ext4") / "f", 64 * MIB, [(MIB, MIB), (8 * MIB, BLOCK)])
    assert with_fd(path, lambda fd: list(layers(fd))) == [(MIB, MIB, True), (8 * MIB, BLOCK, True)]
    assert with_fd(path, is_sparse)
    assert command("filefrag", "-v", path).count("delalloc") == 2


def test_a_map_that_changes_while_it_is_read(reserving: Path) -> None:
    """Written out, read, written again as it was: the content stays, and all of it is told, whatever the map says."""
    path = reserving / "f"
    command("fallocate", "-l", str(64 * MIB), path)
    written = list(range(0, 64 * MIB, 64 * KIB))  # more than there are in one answer of FIEMAP
    with open(path, "r+b") as file:
        for offset in written:
            file.seek(offset)
            file.write(b"x" * BLOCK)
        file.flush()
        changes: list[Callable[[int], object]] = [os.fsync, lambda fd: os.pread(fd, 64 * MIB, 0), lambda fd: None]
        for number, change in enumerate(changes):
            stream = extents(file.fileno())
            told = [next(stream) for _ in range(100)]
            change(file.fileno())
            os.pwrite(file.fileno(), b"x" * BLOCK, written[-1 - number])
            told += stream
            assert [offset for offset, _ in told if offset % (64 * KIB) == 0] == written


def test_a_file_that_is_punched_or_cut_while_it_is_copied(each_filesystem: Path) -> None:
    path = sparse_file(each_filesystem / "f", 8 * MIB, [(MIB * number, 64 * KIB) for number in range(8)])
    for fd in opened(path, os.O_RDWR):
        stream = extents(fd)
        first = next(stream)
        syscalls.punch(fd, 4 * MIB, MIB)
        os.ftruncate(fd, 6 * MIB)
        told = [first, *stream]
        assert set(told) <= {(MIB * number, 64 * KIB) for number in range(6)}
        assert set(told) >= {(MIB * number, 64 * KIB) for number in (0, 1, 2, 3, 5)}


def test_small_files_are_not_asked(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    top = mounted("ext4")
    command("fallocate", "-l", str(MIB - BLOCK), top / "small")
    command("fallocate", "-l", str(MIB), top / "large")
    asked = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: (asked.append(str(path)), real(path, *a, **k))[1])
    assert [found.path for found in scan(str(top))] == [str(top / "large")]
    assert str(top / "small") not in asked


def test_what_nobody_may_read_is_no_trouble(tmp_path: Path) -> None:
    """By its stat a large dense file has no hole, and who may not open it cannot copy it: a scan goes on in silence."""
    need_root("another user is needed")
    (tmp_path / "dense").write_bytes(b"x" * 2 * MIB)
    sparse_file(tmp_path / "sparse", 2 * MIB, [])
    for path in tmp_path.iterdir():
        path.chmod(0)
    for directory in [tmp_path, *tmp_path.parents][:4]:  # pytest's own, one of them for each process
        directory.chmod(directory.stat().st_mode | 0o055)
    errors: list[OSError] = []
    os.seteuid(65534)
    try:
        assert list(scan(str(tmp_path), on_error=errors.append)) == []
    finally:
        os.seteuid(0)
    assert [error.filename for error in errors] == [str(tmp_path / "sparse")]


@pytest.mark.parametrize("options", [["--verify"], ["--verify=full"]])
def test_the_proof_of_a_migration(mounted: Mounted, tmp_path: Path, options: list[str]) -> None:
    need_tools("rsync")
    (mounted("ext4") / "s").mkdir()
    source = disk(mounted("ext4") / "disk", "cold")
    report = tmp_path / "report"
    words = ["-q", "--final", *options, "--preset", "none", "--report", str(report), f"{source.parent}/"]
    assert main(["migrate", *words, str(tmp_path / "made")]) == 0
    verified = json.loads(report.read_text())["verified"]
    full, data = options == ["--verify=full"], sum(length for _, length in WRITTEN)
    assert verified["full"] is full
    # The proof reads by blocks of 64 KiB.
    for end in ("source", "destination"):
        assert verified["read"][end] + verified["believed"][end] == 64 * MIB
        assert (verified["believed"][end] == 0) == full
        assert full or data <= verified["read"][end] <= data + 3 * 64 * KIB


def test_a_reserved_disk_in_use_is_kept_from_rsync(mounted: Mounted, tmp_path: Path) -> None:
    """The first pass of a migration: rsync would read and write all that is reserved."""
    need_tools("rsync")
    top = mounted("xfs")
    source = disk(top / "disk", "cold")
    with loop_device(source):
        report = tmp_path / "report"
        words = ["-q", "--preset", "none", "--report", str(report), f"{top}/", str(tmp_path / "made")]
        assert main(["migrate", *words]) == 0
    assert json.loads(report.read_text())["sync"]["later"] == ["disk"]
    assert same_content(source, tmp_path / "made/disk")
    assert allocated(tmp_path / "made/disk") < 5 * MIB


# Block devices


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    image = sparse_file(tmp_path / "image", 64 * MIB, [(MIB, 4096), (20 * MIB + 4096, 2 * MIB)])
    with loop_device(image) as loop:
        yield Path(loop), image


@pytest.mark.slow
@pytest.mark.parametrize("way", ["local", "push", "pull", "inplace"])
def test_zeros_of_a_device_are_holes(
    sshd_server: Sshd, device: tuple[Path, Path], tmp_path: Path, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    loop, image = device
    made = tmp_path / "made"
    options = []
    if way == "inplace":
        sparse_file(made, 64 * MIB, [(0, 64 * MIB)])
        options = ["--inplace"]
    far, near = {"push": ("", "host:"), "pull": ("host:", "")}.get(way, ("", ""))
    assert main(["copy", "-q", *options, "-e", sshd_server.rsh, f"{far}{loop}", f"{near}{made}"]) == 0
    assert same_content(image, made)
    command("sync", "-f", made)
    assert allocated(made) <= allocated(image) + 64 * KIB
    words = ["-q", "-e", sshd_server.rsh, "--json", f"{far}{loop}", f"{near}{made}"]
    assert main(["verify", *words]) == 0
    proof = json.loads(capfd.readouterr().out)
    assert proof["a"] == {"read": 64 * MIB, "believed": 0}
    assert main(["map", "--json", "-e", sshd_server.rsh, f"{far}{loop}"]) == 0
    data = [part["offset"] for part in fields(capfd.readouterr().out)["ranges"] if part["data"]]
    assert data == [MIB, 20 * MIB + 4096]


# Every kind of extent


def encrypt(directory: Path) -> None:
    """Have an empty directory of an ext4 with that feature encrypted: ioctls of fscrypt, linux/fscrypt.h."""
    key = bytes(range(64))
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(directory, os.O_RDONLY)
    # FS_IOC_ADD_ENCRYPTION_KEY: a specifier that names no key (the kernel does), the key itself.
    added = ctypes.create_string_buffer(struct.pack("=II32xII32x", 2, 0, len(key), 0) + key)
    if libc.ioctl(fd, ctypes.c_ulong(0xC0506617), added):
        assert ctypes.get_errno() in (errno.EOPNOTSUPP, errno.ENOTTY)
        pytest.skip("this kernel has no encrypted files")
    policy = struct.pack("=BBBB4x16s", 2, 1, 4, 0, added.raw[8:24])
    fcntl.ioctl(fd, 0x800C6613, policy)  # FS_IOC_SET_ENCRYPTION_POLICY, of version 2
    os.close(fd)


FLAVOURS = {
    "ext4": ("ext4", "defaults"), "inline": ("ext4-inline", "defaults"), "bigalloc": ("ext4-bigalloc", "defaults"),
    "encrypted": ("ext4-encrypt", "defaults"), "xfs": ("xfs", "defaults"), "btrfs": ("btrfs", "defaults"),
    "compressed": ("btrfs", "compress-force=zstd"), "journal": ("ext4", "data=journal"),
}  # fmt: skip


@pytest.fixture(scope="module", params=FLAVOURS)
def flavour(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    kind, options = FLAVOURS[str(request.param)]
    with filesystem(kind, tmp_path_factory.mktemp(str(request.param)), "512M", options) as top:
        place = top / "place"
        place.mkdir()
        if request.param == "encrypted":
            encrypt(place)
        yield place
        mappings.clear()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3 * MIB), st.sampled_from([1, 100, BLOCK, 70_000])),
        st.tuples(st.just("text"), st.integers(0, 3 * MIB), st.sampled_from([3, 8192, 300_000])),
        st.tuples(st.just("fallocate"), st.integers(0, 3 * MIB), st.sampled_from([BLOCK, MIB])),
        st.tuples(st.just("punch"), st.integers(0, 3 * MIB), st.sampled_from([100, BLOCK, MIB])),
        st.tuples(st.just("truncate"), st.integers(0, 4 * MIB), st.just(0)),
        st.tuples(st.just("sync"), st.just(0), st.just(0)),
        st.tuples(st.just("read"), st.integers(0, 3 * MIB), st.sampled_from([1, MIB])),
        st.tuples(st.just("clone"), st.just(0), st.just(0)),
        st.tuples(st.just("map"), st.integers(0, 3 * MIB), st.sampled_from([1, 9000])),
        st.tuples(st.just("direct"), st.integers(0, 700).map(lambda block: block * BLOCK), st.just(BLOCK)),
    ),
    min_size=1,
    max_size=8,
)


mappings: list[mmap.mmap] = []


def perform(path: Path, steps: list[tuple[str, int, int]]) -> None:
    path.unlink(missing_ok=True)
    mappings.clear()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    for fd in opened(path, os.O_RDWR | os.O_CREAT):
        for what, offset, length in steps:
            if what == "write":
                os.pwrite(fd, random.Random(offset).randbytes(length), offset)
            elif what == "text":
                os.pwrite(fd, b"text" * (length // 4 + 1), offset)
            elif what in ("fallocate", "punch"):
                libc.fallocate(fd, 3 if what == "punch" else 0, offset, length)
            elif what == "truncate":
                os.ftruncate(fd, offset)
            elif what == "sync":
                os.fsync(fd)
            elif what == "read":
                os.pread(fd, length, offset)
            elif what == "map" and os.fstat(fd).st_size >= offset + length:
                # Neither closed nor synced: what is written is in the page cache alone, and known by its page table.
                mapped = mmap.mmap(fd, 0)
                mapped[offset : offset + length] = random.Random(offset).randbytes(length)
                mappings.append(mapped)
            elif what == "direct":
                buffer = mmap.mmap(-1, length)
                buffer[:] = random.Random(offset).randbytes(length)
                for other in opened(path, os.O_WRONLY | os.O_DIRECT):
                    with contextlib.suppress(OSError):  # not everywhere
                        os.pwritev(other, [buffer], offset)
            elif what == "clone":
                subprocess.run(["cp", "--reflink=auto", path, path.with_name("clone")], check=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
@example([("write", 0, 100)])
@example([("truncate", 4 * MIB, 0), ("write", 0, 1)])
@example([("fallocate", 0, MIB), ("write", 5000, 100), ("sync", 0, 0), ("clone", 0, 0), ("write", 5000, 1)])
@example([("write", 0, 70_000), ("clone", 0, 0), ("truncate", 4 * MIB, 0), ("write", 3 * MIB, 100)])
def test_right_without_a_flush(flavour: Path, steps: list[tuple[str, int, int]]) -> None:
    path, made = flavour / "f", flavour / "made"
    perform(path, steps)
    data = path.read_bytes() if len(steps) % 2 else None  # the reading fills the cache, and may hide something
    told = with_fd(path, lambda fd: list(extents(fd)))
    again = with_fd(path, lambda fd: [part[:2] for part in layers(fd) if part[2]])
    made.unlink(missing_ok=True)
    sparsesync.copyfile(path, made, reflink="never")
    data = path.read_bytes() if data is None else data
    assert made.read_bytes() == data
    covered = bytearray(len(data))
    for found in (told, again):
        for offset, length in found:
            covered[offset : offset + length] = data[offset : offset + length]
        assert covered == data
        covered = bytearray(len(data))
    assert list(sparsesync.verify(path, made)) == []
    # Once it is on the disk, lseek alone says the same; but of what ext4 holds inline it says ENOENT.
    flushed(path)
    with open(path, "rb") as file, contextlib.suppress(FileNotFoundError):
        assert list(seek(file.fileno())) == list(extents(file.fileno()))


def seek(fd: int) -> Iterator[tuple[int, int]]:
    """The extents as lseek(2) tells them."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end - start
