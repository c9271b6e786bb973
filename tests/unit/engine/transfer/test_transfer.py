"""A sender and a receiver, joined: what arrives, what is left of a break, and what a hostile peer gets."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.engine.errors import LinkError, ProtocolError
from sparsesync.engine.files.beneath import Sources
from sparsesync.engine.transfer.outgoing import outgoing
from sparsesync.engine.transfer.place.destination import Destination
from sparsesync.engine.transfer.receiver import Receiver
from sparsesync.engine.transfer.records import FileResult
from sparsesync.engine.transfer.sender import Sender
from sparsesync.engine.wire import protocol
from sparsesync.engine.wire.capabilities import Digest, capabilities
from sparsesync.engine.wire.link import Link
from tests.support.filesystems import (
    KINDS,
    Mounted,
    allocated,
    command,
    data_bytes,
    filesystem,
    need_root,
    need_tools,
    same_content,
    written_bytes,
)
from tests.support.transfers import DIGEST, Layout, Middle, Outcome, Peer, against, transfer, write

KIB = 1024
MIB = 1024 * KIB

sizes = st.sampled_from([0, 1, 4095, 4096, 4097, 64 * KIB, 64 * KIB + 1]) | st.integers(0, 600 * KIB)
offsets = st.integers(0, 150).map(lambda n: n * 4096) | st.integers(0, 600 * KIB)
lengths = st.sampled_from([1, 4096, 64 * KIB, 300 * KIB]) | st.integers(1, 100 * KIB)
seeds = st.integers(0, 8)
parts = st.lists(st.tuples(offsets, lengths, seeds), max_size=5)
layouts = st.tuples(sizes, parts)
mutations = st.tuples(st.integers(-100 * KIB, 100 * KIB) | st.just(0), parts)


def changed(layout: Layout, how: tuple[int, Any]) -> Layout:
    return max(layout[0] + how[0], 0), [*layout[1], *how[1]]


@st.composite
def cases(draw: Any) -> tuple[Layout, Layout | None, Layout | None]:
    """A source, its basis and a partial file of an earlier run, mostly related."""
    source = draw(layouts)
    related = st.just(source) | mutations.map(lambda how: changed(source, how))
    either = st.none() | related | related | layouts
    return source, draw(either), draw(st.none() | either)


@pytest.mark.parametrize("older", [4097, 4098, 4200, 20000])
@pytest.mark.parametrize("size", [4097, 4100, 12289])
@pytest.mark.parametrize("sparse", ["auto", "always"])
def test_a_clone_takes_no_more_than_a_copy(mounted: Mounted, sparse: str, size: int, older: int) -> None:
    top = mounted("xfs")
    # The last block is data and not whole: to cut or write it makes xfs copy it, and allocate more beside it.
    for directory, length in (("source", size), ("target", older)):
        (top / directory).mkdir()
        write(top / directory / "f", (length, [(4096, length - 4096, 1)]))
    os.utime(top / "source/f", ns=(10**18, 10**18))
    place = Destination(str(top / "target"), resume=True)
    try:
        outcome = transfer([(top / "source/f", "f")], place, sparse=sparse)
    finally:
        place.close()
    assert outcome.left("f") is None
    settled(top / "target/f")
    settled(top / "source/f")
    assert allocated(top / "target/f") <= allocated(top / "source/f")


@pytest.mark.parametrize("cut", [False, True])
def test_an_updated_clone_takes_no_more_than_a_copy(mounted: Mounted, cut: bool) -> None:
    need_tools("xfs_io")
    top = mounted("xfs")
    for directory in ("source", "target"):
        (top / directory).mkdir()
        (top / directory / "f").write_bytes(noise(8 * MIB))
    with open(top / "source/f", "r+b") as file:
        for number in range(32):
            os.pwrite(file.fileno(), b"changed", number * 256 * KIB + 64 * KIB)
    place = Destination(str(top / "target"), resume=True)
    try:
        if cut:
            assert transfer([(top / "source/f", "f")], place, middle=Middle(True, 100 * KIB)).errors
        assert transfer([(top / "source/f", "f")], place).left("f") is None
    finally:
        place.close()
    settled(top / "target/f")
    settled(top / "source/f")
    assert same_content(top / "source/f", top / "target/f")
    assert allocated(top / "target/f") <= allocated(top / "source/f") + 64 * KIB
    # The hint that keeps it small was for the update alone.
    assert command("xfs_io", "-c", "cowextsize", top / "target/f").startswith("[0] ")


def settled(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("TRANSFER_EXAMPLES", "40")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    files=st.lists(cases(), min_size=1, max_size=3),
    inplace=st.booleans(),
    compressor=st.sampled_from([None, *capabilities()["compressors"]]),
    sparse=st.sampled_from(["auto", "auto", "always"]),
    pull=st.booleans(),
    partial_dir=st.sampled_from([None, None, ".part"]),
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_arrives_is_what_was_sent(
    kind: str,
    mounted: Mounted,
    files: list[tuple[Layout, Layout | None, Layout | None]],
    inplace: bool,
    compressor: str | None,
    sparse: str,
    pull: bool,
    partial_dir: str | None,
) -> None:
    need_tools("cmp", "qemu-img")
    top = Path(tempfile.mkdtemp(dir=mounted(kind)))
    source, target = top / "source", top / "target"
    source.mkdir()
    target.mkdir()
    names = [f"file {number}" for number in range(len(files))]
    for name, (layout, basis, partial) in zip(names, files):
        write(source / name, layout)
        os.utime(source / name, ns=(10**18, 10**18 + 123456789))
        if basis is not None:
            write(target / name, basis)
        if partial is not None:
            if partial_dir:
                (target / partial_dir).mkdir(exist_ok=True)
            earlier = target / partial_dir / name if partial_dir else target / f".{name}.sparsesync-partial"
            os.chmod(write(earlier, partial), 0o600)
    place = Destination(str(target), inplace=inplace, partial_dir=partial_dir, resume=True)
    try:
        outcome = transfer(
            [(source / name, name) for name in names], place, compressor=compressor, sparse=sparse, pull=pull
        )
    finally:
        place.close()
    assert outcome.errors == []
    assert [result.reason for result in outcome.receiver] == [None] * len(files)
    assert [(r.name, r.size, r.data, r.sent) for r in outcome.sender] == [
        (r.name, r.size, r.data, r.sent) for r in outcome.receiver
    ]
    kept = [f".{name}.sparsesync-partial" for name, case in zip(names, files) if inplace and None not in case[1:]]
    if partial_dir:
        kept = [partial_dir] if any(inplace and None not in case[1:] for case in files) else []
    assert sorted(os.listdir(target)) == sorted([*names, *kept])
    for name, (layout, basis, partial), result in zip(names, files, outcome.receiver):
        assert same_content(source / name, target / name)
        settled(target / name)
        settled(source / name)
        # A tmpfs has no map of extents.
        data = data_bytes if kind == "tmpfs" else written_bytes
        assert data(target / name) <= data(source / name)
        assert (target / name).stat().st_mtime_ns == 10**18 + 123456789
        assert result.sent <= result.data <= data(source / name)
        if basis == layout and (partial is None or inplace):
            assert result.sent == 0
    shutil.rmtree(top)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Destination]:
    """The directory ``target``, beside an empty ``source``."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    opened = Destination(str(tmp_path / "target"), resume=True)
    yield opened
    opened.close()


def noise(count: int, seed: int = 5) -> bytes:
    return random.Random(seed).randbytes(count)


def test_a_block_of_which_each_half_is_somewhere_else(tmp_path: Path, place: Destination) -> None:
    """The earlier partial file has its beginning, the old file its middle; only the end has to be sent."""
    content = noise(64 * KIB)
    (tmp_path / "source/f").write_bytes(content)
    (tmp_path / "target/f").write_bytes(b"x" * 4096 + content[4096 : 60 * KIB] + b"x" * 4096)
    (tmp_path / "target/.f.sparsesync-partial").write_bytes(content[:4096])
    os.truncate(tmp_path / "target/.f.sparsesync-partial", 64 * KIB)
    os.chmod(tmp_path / "target/.f.sparsesync-partial", 0o600)
    outcome = transfer([(tmp_path / "source/f", "f")], place)
    assert (outcome.errors, outcome.left("f"), outcome.sent) == ([], None, 4096)
    assert (tmp_path / "target/f").read_bytes() == content


@pytest.mark.parametrize("changed", [0, 4096])
def test_each_block_is_hashed_once_at_each_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: int) -> None:
    """In place, where nothing has to be read again to be copied."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target/f").write_bytes(noise(1024 * KIB))
    (tmp_path / "source/f").write_bytes(noise(changed, 6) + noise(1024 * KIB)[changed:])
    hashed: list[int] = []
    real = Digest.of

    def of(self: Digest, data: Any) -> bytes:
        hashed.append(len(data))
        return real(self, data)

    monkeypatch.setattr(Digest, "of", of)
    place = Destination(str(tmp_path / "target"), inplace=True)
    outcome = transfer([(tmp_path / "source/f", "f")], place)
    place.close()
    assert (outcome.errors, outcome.left("f"), outcome.sent) == ([], None, changed)
    assert (tmp_path / "target/f").read_bytes() == (tmp_path / "source/f").read_bytes()
    # Of a block that differs its parts are asked for too, and what is left of it goes into the guard.
    assert sum(hashed) <= 2 * 1024 * KIB + (4 * 64 * KIB if changed else 0)


# Hostile senders


def announce(peer: Peer, number: int = 1, **fields: Any) -> None:
    file = {"name": "f", "size": 8192, "data": 4096, "mode": 0o644, "mtime_ns": 10**18, "parents": [],
            "attributes": None}  # fmt: skip
    peer.say(protocol.FILE, id=number, **{**file, **fields})


def send_data(peer: Peer, content: bytes = b"d" * 4096, number: int = 1, offset: int = 0) -> None:
    """Data, and the end of a file that has no other."""
    packed = protocol.pack_ranges([(offset, len(content))])
    head = protocol.data_head(number, 0, packed, len(content))
    peer.write(head, content, end_of_file(number, packed + content))


def end_of_file(number: int, content: bytes) -> bytes:
    """Of a file without a basis."""
    guard = DIGEST.guard(False)
    guard.update(content)
    return protocol.encode_finish(number, guard.digest())


def received(
    place: Destination, script: Callable[[Peer], None], wants: list[tuple[str, str]] | None = None
) -> tuple[list[FileResult], list[Exception]]:
    results: list[FileResult] = []

    def run(link: Link) -> None:
        Receiver(link, DIGEST, place, results.append).run(None if wants is None else iter(wants))

    errors = against(run, script)
    return results, errors


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("what", ["f", ".f.sparsesync-partial"])
def test_a_file_that_is_made_after_the_sender_was_told_there_is_none(
    tmp_path: Path, place: Destination, what: str, inplace: bool
) -> None:
    place.inplace = inplace

    def script(peer: Peer) -> None:
        announce(peer)
        assert peer.json(protocol.STATE)["basis"] is False
        (tmp_path / "target" / what).write_bytes(b"x" * 8192)
        send_data(peer)
        peer.json(protocol.CLOSED)
        peer.write(protocol.encode(protocol.END))
        peer.all()

    (result,), errors = received(place, script)
    assert errors == []
    if inplace and what == "f":
        assert result.reason == "it was made meanwhile"
        assert (tmp_path / "target/f").read_bytes() == b"x" * 8192
    else:
        assert result.reason is None
        assert (tmp_path / "target/f").read_bytes() == b"d" * 4096 + bytes(4096)
        assert os.listdir(tmp_path / "target") == ["f"]


def finish(peer: Peer) -> None:
    peer.write(protocol.encode(protocol.END))
    peer.all()


def range_frame(kind: int, *ranges: tuple[int, int], number: int = 1, code: int = 0) -> bytes:
    return protocol.encode_ranges(kind, number, list(ranges), code)


BAD_NAMES = ["../f", "/tmp/f", "a/../../f", "..", ".", "", "a/", "a/..", "x" * 300]


@pytest.mark.parametrize("name", BAD_NAMES, ids=range(len(BAD_NAMES)))
def test_a_name_that_leads_elsewhere(tmp_path: Path, place: Destination, name: str) -> None:
    def script(peer: Peer) -> None:
        announce(peer, name=name)
        send_data(peer)
        finish(peer)

    (result,), errors = received(place, script)
    assert errors == [] and result.reason and "\n" not in result.reason
    assert sorted(os.listdir(tmp_path)) == ["source", "target"] and not os.path.exists("/tmp/f")
    assert [name for _, _, names in os.walk(tmp_path / "target") for name in names] == []


@pytest.mark.parametrize(
    "fields",
    [
        {"size": -1}, {"size": 1 << 63}, {"size": 8192.0}, {"size": "8192"}, {"size": True}, {"size": None},
        {"data": -1}, {"data": 1 << 70}, {"data": []}, {"mode": None}, {"mode": "rw"}, {"mode": 1.5},
        {"mtime_ns": None}, {"mtime_ns": "now"}, {"mtime_ns": 1e18}, {"mtime_ns": True}, {"parents": None},
        {"parents": {}}, {"name": 3}, {"name": ["f"]}, {"name": "x/" * 2500 + "f"}, {"attributes": []}, {"number": 0},
        {"number": -1},
    ],
    ids=lambda fields: str(fields)[:40],
)  # fmt: skip
def test_an_announcement_that_makes_no_sense(tmp_path: Path, place: Destination, fields: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        announce(peer, **fields)
        peer.all()

    results, (error,) = received(place, script)
    assert results == [] and isinstance(error, ProtocolError)
    assert os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize(
    "fields",
    [{"mode": 0o7777}, {"mtime_ns": -(10**18)}, {"mtime_ns": (1 << 63) * 10**9}, {"mtime_ns": -(1 << 63) * 10**9},
     {"parents": [0o7777, 0]}, {"data": (1 << 63) - 1}, {"size": 1 << 62, "data": 1}, {"size": (1 << 63) - 1}],
    ids=str,
)  # fmt: skip
def test_numbers_that_are_large(tmp_path: Path, place: Destination, fields: dict[str, Any]) -> None:
    def script(peer: Peer) -> None:
        announce(peer, name="a/b/f", **fields)
        send_data(peer)
        finish(peer)

    (result,), errors = received(place, script)
    assert errors == []
    made = tmp_path / "target/a/b/f"
    assert made.exists() == (result.reason is None)
    if result.reason is None:
        assert stat.S_IMODE(made.stat().st_mode) & ~0o777 == 0 and made.stat().st_size >= 4096
    assert os.listdir(tmp_path / "target/a/b") == (["f"] if result.reason is None else [])


def test_a_huge_size_costs_nothing(tmp_path: Path, mounted: Mounted) -> None:
    place = Destination(str(mounted("xfs")), resume=True)

    def script(peer: Peer) -> None:
        announce(peer, size=1 << 62)
        peer.json(protocol.STATE)
        send_data(peer, offset=(1 << 62) - 4096)
        finish(peer)

    (result,), errors = received(place, script)
    assert errors == []
    assert result.reason is None and allocated(Path(place.path) / "f") < 64 * KIB
    place.close()


RANGE_TROUBLE = {
    "beyond the end": [range_frame(protocol.KEEP, (4096, 4097))],
    "far beyond": [range_frame(protocol.HOLE, (1 << 62, 1))],
    "ask beyond": [range_frame(protocol.ASK, (8192, 1), code=4096)],
    "out of order": [range_frame(protocol.KEEP, (4096, 1), (0, 1))],
    "an odd block": [range_frame(protocol.ASK, (0, 1), code=5)],
    "a block of none": [range_frame(protocol.ASK, (0, 1), code=0)],
    "data without bytes": [protocol.data_head(1, 0, protocol.pack_ranges([(0, 4096)]), 0)],
    "data with more": [protocol.data_head(1, 0, protocol.pack_ranges([(0, 3)]), 4), b"1234"],
    "an unknown compressor": [protocol.data_head(1, 9, protocol.pack_ranges([(0, 4)]), 4), b"1234"],
    "a bomb": [protocol.data_head(1, 1, protocol.pack_ranges([(0, 4096)]), len(zlib.compress(bytes(1 << 22)))),
               zlib.compress(bytes(1 << 22))],
    "data for nobody": [protocol.data_head(2, 0, protocol.pack_ranges([(0, 4)]), 4), b"1234"],
    "finish for nobody": [protocol.encode_finish(7, b"x" * 32)],
    "abort for nobody": [protocol.encode_json(protocol.ABORT, id=1 << 90, reason="x")],
    "abort without a reason": [protocol.encode_json(protocol.ABORT, id=1)],
    "a skip": [protocol.encode_json(protocol.SKIP, id=1, reason="x")],
    "a state": [protocol.encode_json(protocol.STATE, id=1, basis=True)],
    "digests": [protocol.encode_digests(1, b"x" * 16)],
    "a call": [protocol.encode_json(protocol.CALL, op="x", arguments={})],
    "the end": [protocol.encode(protocol.END)],
    "the same again": [protocol.encode_json(protocol.FILE, id=1, name="f", size=1, data=1, mode=1, mtime_ns=1,
                                            parents=[])],
    "the same without having been asked": [protocol.encode_ranges(protocol.SAME, 1, [(0, 4096)])],
    "kept thrice": [protocol.encode_ranges(protocol.KEEP, 1, [(0, 4096)]) * 3],
    "data thrice": [b"".join([protocol.data_head(1, 0, protocol.pack_ranges([(0, 4096)]), 4096), b"x" * 4096]) * 3],
}  # fmt: skip


@pytest.mark.parametrize("trouble", RANGE_TROUBLE)
def test_frames_that_make_no_sense(tmp_path: Path, place: Destination, trouble: str) -> None:
    (tmp_path / "target/f").write_bytes(b"old" * 1000)

    def script(peer: Peer) -> None:
        announce(peer)
        peer.json(protocol.STATE)
        peer.write(*RANGE_TROUBLE[trouble])
        peer.all()

    results, (error,) = received(place, script)
    assert results == [] and isinstance(error, ProtocolError), error
    assert (tmp_path / "target/f").read_bytes() == b"old" * 1000
    # What had been received is there for the next run, and nothing else is.
    assert os.listdir(tmp_path / "target") in (["f"], ["f", ".f.sparsesync-partial"], [".f.sparsesync-partial", "f"])


def _announce_known(peer: Peer, path: Path) -> None:
    st = os.stat(path)
    announce(peer, size=st.st_size, known=[st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns])


@pytest.mark.parametrize("inplace", [False, True])
def test_a_known_file_that_changes_after_it_was_looked_at(inplace: bool, mounted: Mounted) -> None:
    place = Destination(str(mounted("ext4")), resume=True, inplace=inplace)
    path = Path(place.path) / "f"
    path.write_bytes(b"old" * 10000)

    def script(peer: Peer) -> None:
        _announce_known(peer, path)
        state = peer.json(protocol.STATE)
        assert state["basis"] is state["known"] is True
        path.write_bytes(b"new" * 10000)
        peer.write(range_frame(protocol.SAME, (0, 30000)), protocol.encode_finish(1, bytes(32)))
        finish(peer)

    (result,), errors = received(place, script)
    assert errors == [] and result.reason == "it changed while it was compared"
    assert path.read_bytes() == b"new" * 10000
    place.close()


def test_a_guard_without_the_known_file(mounted: Mounted) -> None:
    place = Destination(str(mounted("xfs")), resume=True)
    path = Path(place.path) / "f"
    path.write_bytes(b"old" * 10000)
    guard = DIGEST.guard(True)
    guard.update(protocol.pack_ranges([(0, 30000)]))

    def script(peer: Peer) -> None:
        _announce_known(peer, path)
        peer.json(protocol.STATE)
        peer.write(range_frame(protocol.SAME, (0, 30000)), protocol.encode_finish(1, guard.digest()))
        finish(peer)

    (result,), errors = received(place, script)
    assert errors == [] and result.reason is not None and "their digests differ" in result.reason
    place.close()


@pytest.mark.parametrize("known", [1, [1], [1, 2, 3], [1, 2, 3, "4"], [-1, 0, 0, 0], [None] * 4, [[]] * 4])
def test_a_known_file_that_makes_no_sense(tmp_path: Path, place: Destination, known: object) -> None:
    def script(peer: Peer) -> None:
        announce(peer, known=known)
        peer.all()

    results, (error,) = received(place, script)
    assert results == [] and isinstance(error, ProtocolError)


def test_a_guard_that_does_not_agree(tmp_path: Path, place: Destination) -> None:
    (tmp_path / "target/f").write_bytes(b"old")

    def script(peer: Peer) -> None:
        announce(peer)
        peer.write(protocol.data_head(1, 0, protocol.pack_ranges([(0, 4)]), 4), b"1234")
        peer.write(protocol.encode_finish(1, b"x" * 32))
        finish(peer)

    (result,), errors = received(place, script)
    assert errors == [] and result.reason and "digests differ" in result.reason
    assert (tmp_path / "target/f").read_bytes() == b"old" and os.listdir(tmp_path / "target") == ["f"]


def test_more_files_than_may_be_under_way(tmp_path: Path, place: Destination) -> None:
    def script(peer: Peer) -> None:
        peer.ignore()
        for number in range(1, 100_000):
            announce(peer, number, name="x" * 4000)

    _results, (error,) = received(place, script)
    assert isinstance(error, ProtocolError) and "announced" in str(error)


def test_a_reason_that_is_too_long_to_be_told_again(place: Destination) -> None:
    def script(peer: Peer) -> None:
        announce(peer)
        peer.say(protocol.ABORT, id=1, reason="\0" * 8192)
        announce(peer, 2, name="../" + "\\" * 4000)
        finish(peer)

    results, errors = received(place, script)
    assert errors == [] and len(results) == 2 and all(result.reason for result in results)


def test_the_peer_says_that_it_failed(place: Destination) -> None:
    def script(peer: Peer) -> None:
        announce(peer)
        peer.say(protocol.FAIL, errno=None, strerror="it hurts", filename=None, value=True)
        peer.all()

    with pytest.raises(AssertionError, match="ValueError: it hurts"):
        received(place, script)


def test_a_partial_file_that_is_taken_away(tmp_path: Path, place: Destination) -> None:
    def script(peer: Peer) -> None:
        announce(peer)
        announce(peer, 2, name="g")
        peer.json(protocol.STATE)
        peer.json(protocol.STATE)
        content = b"d" * 4096
        packed = protocol.pack_ranges([(0, 4096)])
        peer.write(protocol.data_head(1, 0, packed, 4096), content, range_frame(protocol.ASK, (0, 1), code=4096))
        assert peer.hear()
        (tmp_path / "target/.f.sparsesync-partial").unlink()
        peer.write(end_of_file(1, packed + content))
        assert peer.json(protocol.CLOSED)["reason"]
        send_data(peer, number=2)
        finish(peer)

    results, errors = received(place, script)
    assert errors == [] and [bool(result.reason) for result in results] == [True, False]
    assert os.listdir(tmp_path / "target") == ["g"]


@pytest.mark.parametrize("what", ["symlink", "dangling", "directory", "fifo", "hard link", "foreign"])
def test_something_else_has_the_name_of_the_partial_file(tmp_path: Path, place: Destination, what: str) -> None:
    partial, other = tmp_path / "target/.f.sparsesync-partial", tmp_path / "other"
    other.write_bytes(b"other")
    if what in ("symlink", "dangling"):
        partial.symlink_to(other if what == "symlink" else tmp_path / "none")
    elif what == "directory":
        partial.mkdir()
    elif what == "fifo":
        os.mkfifo(partial)
    elif what == "hard link":
        os.link(other, partial)
    else:
        need_root("giving files away needs root")
        partial.write_bytes(b"theirs")
        os.chown(partial, 1234, 1234)
    write(tmp_path / "source/f", (MIB, [(0, 4096, 1)]))
    outcome = transfer([(tmp_path / "source/f", "f")], place)
    assert outcome.errors == [] and other.read_bytes() == b"other" and not (tmp_path / "none").exists()
    if what == "directory":
        assert outcome.left("f") and os.listdir(tmp_path / "target") == [".f.sparsesync-partial"]
    else:
        assert outcome.left("f") is None and os.listdir(tmp_path / "target") == ["f"]
        assert same_content(tmp_path / "source/f", tmp_path / "target/f")


@pytest.mark.parametrize("up", ["a", "a/b"])
def test_a_parent_that_is_a_symlink(tmp_path: Path, place: Destination, up: str) -> None:
    (tmp_path / "out/b").mkdir(parents=True)
    (tmp_path / "target" / up).parent.mkdir(exist_ok=True)
    (tmp_path / "target" / up).symlink_to(tmp_path / "out")
    write(tmp_path / "source/f", (MIB, [(0, 4096, 1)]))
    outcome = transfer([(tmp_path / "source/f", "a/b/f")], place)
    assert outcome.errors == [] and outcome.left("a/b/f") == f"{up} at the destination is not a directory"
    assert [names for _, _, names in os.walk(tmp_path / "out")] == [[], []]


def test_two_at_the_same_partial_file(tmp_path: Path, place: Destination) -> None:
    source = write(tmp_path / "source/f", (MIB, [(0, 300 * KIB, 5)]))
    other = Destination(str(tmp_path / "target"), resume=True)

    def meanwhile(count: int) -> None:
        if not found:
            found.append(transfer([(source, "f")], other).left("f"))

    found: list[str | None] = []
    outcome = transfer([(source, "f")], place, on_data=meanwhile)
    other.close()
    assert outcome.errors == [] and outcome.left("f") is None
    assert found == ["another run is writing it"]
    assert same_content(source, tmp_path / "target/f") and os.listdir(tmp_path / "target") == ["f"]


# Hostile receivers


def sent(
    files: list[Path], script: Callable[[Peer], None], pull: bool = False
) -> tuple[list[FileResult], list[Exception]]:
    results: list[FileResult] = []

    def run(link: Link) -> None:
        sender = Sender(link, DIGEST, results.append)
        with Sources() as sources:
            if pull:
                sender.send_wanted(lambda path, name: outgoing(path, name, sources))
            else:
                sender.send(outgoing(str(path), path.name, sources) for path in files)

    errors = against(run, script)
    return results, errors


def state(basis: object, number: object = 1) -> bytes:
    return protocol.encode_json(protocol.STATE, id=number, basis=basis)


def closed(number: int = 1, **fields: Any) -> bytes:
    values = {"reason": None, "space": None, "data": 0, "sent": 0, "at_source": False, "allocated": 0, **fields}
    return protocol.encode_json(protocol.CLOSED, id=number, **values)


ANSWERS = {
    "a state that is none": [state("yes")],
    "a state that is a number": [state(1)],
    "the state of another": [state(True, 2)],
    "the state of none": [state(True, None)],
    "two states": [state(True) * 2],
    "closed without being sent": [closed()],
    "closed, and unknown": [closed(9, reason="x")],
    "closed for a list": [closed(reason=["x"])],
    "closed twice": [closed(reason="x") * 2],
    "no space that is none": [closed(reason="x", space=[1, "2"])],
    "no space for three": [closed(reason="x", space=[1, 2, 3])],
    "digests unasked for": [protocol.encode_digests(1, b"x" * 16)],
    "no digests": [state(True), protocol.encode_digests(1, b"")],
    "more digests": [state(True), protocol.encode_digests(1, b"x" * 32)],
    "half a digest": [state(True), protocol.encode_digests(1, b"x" * 8)],
    "digests of another": [state(True), protocol.encode_digests(2, b"x" * 16)],
    "the same digests again": [state(True), protocol.encode_digests(1, b"x" * 16) * 3],
    "done": [protocol.encode_json(protocol.DONE)],
    "done after all was left": [state(True), closed(reason="x"), protocol.encode_json(protocol.DONE)],
    "a file": [protocol.encode_json(protocol.FILE, id=1)],
    "data": [protocol.data_head(1, 0, protocol.pack_ranges([(0, 1)]), 1), b"x"],
    "the end": [protocol.encode(protocol.END)],
    "an item": [protocol.encode_json(protocol.ITEM)],
    "text": [b"Connection to host closed.\n"],
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_that_make_no_sense(tmp_path: Path, answer: str) -> None:
    path = write(tmp_path / "f", (MIB, [(0, 4096, 5)]))

    def script(peer: Peer) -> None:
        peer.json(protocol.FILE)
        peer.write(*ANSWERS[answer])
        peer.all()

    results, (error,) = sent([path], script)
    assert isinstance(error, ProtocolError), error
    assert all(result.reason for result in results)


def test_done_while_there_is_something_to_send(tmp_path: Path) -> None:
    """What was left is over, but the sender has not said so when it is told that the receiver is done."""
    path = write(tmp_path / "f", (64 * MIB, [(0, 64 * MIB, 1)]))

    def script(peer: Peer) -> None:
        peer.json(protocol.FILE)
        peer.write(state(False))
        assert peer.hear()
        peer.write(closed(reason="x"), protocol.encode_json(protocol.DONE))
        peer.all()

    results, (error,) = sent([path], script)
    assert isinstance(error, ProtocolError) and [result.reason for result in results] == ["x"]


@pytest.mark.parametrize(
    "files",
    [None, {}, 3, [3], [[1]], [[1, "f", "f"]], [[1, "f", "f", 1]], [[1, "f", "f", "f", True]],
     *([[*row, True]] for row in (["1", "f", "f"], [1, 2, "f"], [0, "f", "f"], [-1, "f", "f"], [2, "f", "f"],
                                  [1 << 40, "f", "f"], [True, "f", "f"], [1, "x" * 5000, "f"])),
     [[1, "f", "f", True]] * 2, [[1, "f", "f", True]] * 3000],
    ids=lambda files: str(files)[:30],
)  # fmt: skip
def test_wants_that_make_no_sense(files: object) -> None:
    def script(peer: Peer) -> None:
        peer.say(protocol.WANT, files=files)
        peer.all()

    _, (error,) = sent([], script, pull=True)
    assert isinstance(error, ProtocolError), error


def test_wants_without_end(tmp_path: Path) -> None:
    """They arrive faster than they can be answered: the sender is not to remember them all."""

    def script(peer: Peer) -> None:
        peer.ignore()
        for batch in range(1000):
            peer.say(protocol.WANT, files=[(batch * 64 + n, "x" * 4000, "f", False) for n in range(1, 65)])

    tracemalloc.start()
    try:
        _, (error,) = sent([], script, pull=True)
        assert tracemalloc.get_traced_memory()[1] < 50 * MIB
    finally:
        tracemalloc.stop()
    assert isinstance(error, LinkError)


def test_wants_that_cannot_be_met(tmp_path: Path, place: Destination) -> None:
    os.mkfifo(tmp_path / "source/fifo")
    (tmp_path / "source/to").symlink_to("/etc/passwd")
    (tmp_path / "source/directory").mkdir()
    names = ["fifo", "to", "directory", "none", "x" * 300, ""]
    files = [(Path(f"{tmp_path}/source/{name}"), f"f{number}") for number, name in enumerate(names)]
    outcome = transfer([*files, (write(tmp_path / "source/f", (MIB, [])), "f")], place, pull=True)
    assert outcome.errors == []
    assert {result.name for result in outcome.receiver if result.reason} == {name for _, name in files}
    assert outcome.left("f") is None and os.listdir(tmp_path / "target") == ["f"]


def test_long_names_are_asked_for_by_the_frame(tmp_path: Path, place: Destination) -> None:
    """Bytes that are no UTF-8 take six each in JSON."""
    directory = tmp_path / "source"
    for _ in range(6):
        directory /= "\udcff" * 250
    directory.mkdir(parents=True)
    files = [(write(directory / f"{n}", (4096, [])), f"{directory.relative_to(tmp_path / 'source')}/{n}")
             for n in range(200)]  # fmt: skip
    outcome = transfer(files, place, pull=True)
    assert outcome.errors == [] and len(outcome.receiver) == 200
    assert not any(result.reason for result in outcome.receiver)


def test_what_was_to_be_sent_of_a_file_that_is_left_does_not_go_into_another(tmp_path: Path) -> None:
    """The receiver leaves a file of which half a frame is filled, and the next one begins without a pause."""
    a = write(tmp_path / "a", (64 * MIB, [(n * 64 * KIB, 12 * KIB, 5) for n in range(400)]))
    b = write(tmp_path / "b", (64 * MIB, [(60 * MIB, 8 * KIB, 5)]))
    ranges = []

    def script(peer: Peer) -> None:
        peer.json(protocol.FILE)
        peer.json(protocol.FILE)
        peer.write(state(False), state(False, 2))
        assert peer.hear()
        peer.write(closed(reason="x"))
        for kind, payload in iter(peer.hear, None):  # type: ignore[misc]
            if kind == protocol.DATA and (data := protocol.read_ranged(memoryview(payload))).file == 2:
                ranges.extend(data.ranges)
            elif kind == protocol.FINISH:
                peer.write(closed(2))
            elif kind == protocol.END:
                peer.say(protocol.DONE)

    results, errors = sent([a, b], script)
    assert errors == [] and [result.reason for result in results] == ["x", None]
    assert ranges == [(60 * MIB, 8 * KIB)]


# Breaks


CUT_LAYOUT: Layout = (
    2 * MIB, [(0, 200 * KIB, 5), (512 * KIB, 300 * KIB, 8), (MIB, 100 * KIB, 4), (1900 * KIB, 4096, 2)]
)  # fmt: skip


class Case:
    """Three files on their way to a place that has none, the same, and an older one of them."""

    def __init__(self, top: Path, inplace: bool) -> None:
        self.source, self.target = top / "source", top / "target"
        self.source.mkdir()
        self.target.mkdir()
        size, parts = CUT_LAYOUT
        self.files = []
        for name, seed in (("new", 0), ("same", 3), ("older", 6)):
            layout: Layout = (size, [(offset, length, part + seed) for offset, length, part in parts])
            self.files.append((write(self.source / name, layout), name))
            os.utime(self.source / name, ns=(10**18, 10**18))
            if name != "new":
                older: Layout = (size + 5000, [*layout[1][:2], (MIB + 8192, 50 * KIB, 7)])
                write(self.target / name, older if name == "older" else layout)
                os.utime(self.target / name, ns=(10**17, 10**17))
        self.before = {name: (self.target / name).read_bytes() for name in os.listdir(self.target)}
        self.inplace = inplace

    def run(self, middle: Middle | None = None, pull: bool = False) -> Outcome:
        place = Destination(str(self.target), inplace=self.inplace, resume=True)
        try:
            # A peer that is gone may only show in its silence: what was cut off may be the end of a frame.
            return transfer(self.files, place, pull=pull, compressor="zlib", middle=middle, timeout=5)
        finally:
            place.close()

    def check(self, outcome: Outcome) -> None:
        """Each file is the old one or the new one, and who says that it is the new one is right."""
        done = {result.name for result in outcome.receiver if result.reason is None}
        names = {name for _, name in self.files}
        assert {name for name in os.listdir(self.target) if not name.startswith(".")} <= names
        for path, name in self.files:
            target = self.target / name
            if target.exists() and target.read_bytes() == path.read_bytes():
                if name in done:
                    assert target.stat().st_mtime_ns == 10**18
                continue
            assert name not in done
            if self.inplace and name in self.before:
                assert target.stat().st_mtime_ns != 10**18
            else:
                assert (target.read_bytes() if target.exists() else None) == self.before.get(name)
        # A sender that has heard nothing bad knows as much as the receiver.
        assert outcome.errors or {result.name for result in outcome.sender if result.reason is None} == done
        assert outcome.errors or len(outcome.receiver) == len(self.files)

    def complete(self, pull: bool) -> None:
        second = self.run(pull=pull)
        assert second.errors == [] and [result.reason for result in second.receiver] == [None] * len(self.files)
        for path, name in self.files:
            assert same_content(path, self.target / name)
        assert sorted(os.listdir(self.target)) == sorted(name for _, name in self.files)


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("CUT_EXAMPLES", "60")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(st.booleans(), st.floats(0, 1), st.integers(0, 255), st.booleans(), st.booleans())
def test_a_cut_or_a_bad_byte_anywhere(
    mounted: Mounted, to_receiver: bool, where: float, flip: int, inplace: bool, pull: bool
) -> None:
    need_tools("cmp")
    top = Path(tempfile.mkdtemp(dir=mounted("ext4")))
    try:
        whole = sum(length for _, length, _ in CUT_LAYOUT[1])
        # What crosses: most of one file's data and part of another's one way, questions and answers the other.
        case = Case(top, inplace)
        count = int(where * (whole if to_receiver else 1500))
        outcome = case.run(Middle(to_receiver, count, flip), pull)
        case.check(outcome)
        case.complete(pull)
    finally:
        shutil.rmtree(top)


@pytest.mark.parametrize("pull", [False, True])
@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_what_was_received_before_a_break_is_not_sent_again(
    tmp_path: Path, place: Destination, where: float, pull: bool
) -> None:
    count = 8 * MIB
    path = tmp_path / "source/f"
    path.write_bytes(noise(count))
    os.truncate(path, 16 * MIB)
    first = transfer([(path, "f")], place, pull=pull, middle=Middle(True, int(count * where)))
    assert first.errors and os.listdir(tmp_path / "target") == [".f.sparsesync-partial"]
    assert stat.S_IMODE((tmp_path / "target/.f.sparsesync-partial").stat().st_mode) == 0o600
    second = transfer([(path, "f")], place, pull=pull)
    assert second.errors == [] and second.left("f") is None
    # What was under way when it broke: a frame, and what the sockets between the ends hold.
    assert second.sent <= count * (1 - where) + 512 * KIB
    assert same_content(path, tmp_path / "target/f") and os.listdir(tmp_path / "target") == ["f"]


# A source that changes


@pytest.mark.parametrize("pull", [False, True])
@pytest.mark.parametrize("what", ["truncate", "append", "rewrite", "replace", "remove"])
@pytest.mark.parametrize("old", [False, True])
def test_a_source_that_changes_while_it_is_sent(
    tmp_path: Path, place: Destination, what: str, old: bool, pull: bool
) -> None:
    path, target = tmp_path / "source/f", tmp_path / "target/f"
    path.write_bytes(noise(4 * MIB))
    os.truncate(path, 8 * MIB)
    if old:
        target.write_bytes(b"old")
    done: list[int] = []

    def change(count: int) -> None:
        if not done:
            done.append(count)
            if what == "truncate":
                os.truncate(path, MIB)
            elif what == "replace":
                path.with_name("g").write_bytes(b"another")
                os.rename(path.with_name("g"), path)
            elif what == "remove":
                path.unlink()
            else:
                with open(path, "r+b") as file:
                    file.seek(0, os.SEEK_END if what == "append" else os.SEEK_SET)
                    file.write(b"more")

    outcome = transfer([(path, "f")], place, on_data=change, pull=pull)
    assert outcome.errors == []
    if what in ("replace", "remove"):
        # What was opened is sent; that another file has the name now is for rsync's pass to see.
        assert outcome.left("f") is None and target.read_bytes() == noise(4 * MIB) + bytes(4 * MIB)
        return
    left = outcome.left("f")
    assert left and ("changed while it was copied" in left or (what == "truncate" and "truncated" in left))
    assert os.listdir(tmp_path / "target") == (["f"] if old else [])
    assert not old or target.read_bytes() == b"old"
    assert [result.reason for result in outcome.sender] == [left]


@pytest.mark.slow
def test_a_source_that_changes_before_it_is_sent(tmp_path: Path, place: Destination) -> None:
    names = ["a", "b", "c"]
    paths = [write(tmp_path / "source" / name, (MIB, [(0, 4096, 1)])) for name in names]

    def change(count: int) -> None:
        os.truncate(paths[1], 5)
        paths[2].unlink(missing_ok=True)

    # The first is large, so that the others are announced and not yet opened.
    paths[0].write_bytes(noise(100 * MIB))
    outcome = transfer(list(zip(paths, names)), place, on_data=change)
    assert outcome.errors == []
    assert outcome.left("b") == "it changed before it was sent"
    assert outcome.left("c") == "No such file or directory"
    assert outcome.left("a") is None and os.listdir(tmp_path / "target") == ["a"]


# Memory

END = """
import socket, sys
from sparsesync.engine.files.beneath import Sources
from sparsesync.engine.wire.capabilities import Digest
from sparsesync.engine.wire.link import Link
from sparsesync.engine.transfer.outgoing import outgoing
from sparsesync.engine.transfer.place.destination import Destination
from sparsesync.engine.transfer.receiver import Receiver
from sparsesync.engine.transfer.sender import Sender
role, path, fd = sys.argv[1], sys.argv[2], int(sys.argv[3])
end = socket.socket(fileno=fd)
link, results = Link(fd, fd), []
digest = Digest("sha256", b"")
if role == "send":
    Sender(link, digest, results.append).send(iter([outgoing(path, "f", Sources())]))
else:
    Receiver(link, digest, Destination(path, resume=True, inplace=len(sys.argv) > 4), results.append).run()
end.shutdown(socket.SHUT_WR)
# Not getrusage(2), which begins with the peak of whoever started the process.
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
print(peak, results[0].reason, results[0].data, results[0].sent)
"""


def peaks(source: Path, target: Path, *inplace: str) -> tuple[list[int], int, int]:
    """The peak sizes in KiB of two processes that send a file, and how much data it had and how much was sent."""
    ends = socket.socketpair()
    roles = zip(("send", "receive"), (source, target), ends)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", END, role, path, str(end.fileno()), *inplace],
            pass_fds=[end.fileno()],
            stdout=subprocess.PIPE,
        )
        for role, path, end in roles
    ]
    for end in ends:
        end.close()
    said = [process.communicate(timeout=120)[0].decode().split() for process in processes]
    assert [words[1] for words in said] == ["None", "None"]
    return [int(words[0]) for words in said], int(said[0][2]), int(said[0][3])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["200,000 extents", "100 GiB"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, mounted: Mounted, what: str) -> None:
    with contextlib.ExitStack() as stack:
        of_many = filesystem("tmpfs", tmp_path / "fs", "1800M")
        # A small ext4 takes no file of that size.
        top = mounted("xfs") if what == "100 GiB" else stack.enter_context(of_many)
        (top / "there").mkdir()
        with open(top / "f", "wb") as file:
            if what == "100 GiB":
                file.truncate(100 << 30)
                for number in range(100):
                    os.pwrite(file.fileno(), noise(64 * KIB, number), number << 30)
            else:
                for number in range(200_000):
                    os.pwrite(file.fileno(), b"%d" % number, number * 8 * KIB)
        sizes, data, sent = peaks(top / "f", top / "there")
        assert max(sizes) < 64 * KIB and sent == data
        with open(top / "f", "r+b") as file:
            file.write(b"!")
        # In place, since there is no room for a third one.
        sizes, data, sent = peaks(top / "f", top / "there", "inplace")
        assert max(sizes) < 64 * KIB and sent == 4096
        assert os.stat(top / "there/f").st_mtime_ns == os.stat(top / "f").st_mtime_ns


def test_a_partial_file_that_cannot_be_opened_for_now_is_kept(
    tmp_path: Path, place: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "target/.f.sparsesync-partial"
    partial.write_bytes(b"received")
    os.chmod(partial, 0o600)
    real = os.open

    def fails(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if path == partial.name and not flags & os.O_CREAT:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", fails)
    write(tmp_path / "source/f", (MIB, [(0, 4096, 1)]))
    outcome = transfer([(tmp_path / "source/f", "f")], place)
    assert "Too many open files" in str(outcome.left("f")) and partial.read_bytes() == b"received"
