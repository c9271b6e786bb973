from __future__ import annotations

import contextlib
import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesync.engine.content import changes as module
from sparsesync.engine.content.changes import changes, differences
from sparsesync.engine.files.fiemap import Placed, placed
from tests.support.filesystems import Mounted, command, filesystem, need_tools, same_content

BLOCK = 4096
UNWRITTEN, SHARED, LAST = 0x800, 0x2000, 0x1
NOT_UNDERSTOOD = (0x2, 0x4, 0x8, 0x80, 0x100, 0x200, 0x400, 0x1000, 0x4000)

Block = tuple[int, int]
"""Physical block, or 0 for a hole; and flags."""
_blocks = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from([0, 0, 0, SHARED, UNWRITTEN, *NOT_UNDERSTOOD])),
    min_size=1,
    max_size=24,
)


def _as_extents(blocks: list[Block], run: bool) -> list[Placed]:
    """The extents of a file; if ``run``, what goes on at the next physical block is one."""
    found: list[Placed] = []
    for number, (place, flags) in enumerate(blocks):
        if not place:
            continue
        if run and found:
            offset, physical, length, before = found[-1]
            if (offset + length, physical + length, before) == (number * BLOCK, place * BLOCK, flags):
                found[-1] = offset, physical, length + BLOCK, flags
                continue
        found.append((number * BLOCK, place * BLOCK, BLOCK, flags))
    return found


def _naive(old: Block, new: Block) -> bool | None:
    """Whether a block has changed to data, or to a hole; None if it has not changed."""

    def seen(block: Block) -> int | None:
        place, flags = block
        if not place or flags == UNWRITTEN:
            return 0
        return None if flags & ~(SHARED | LAST) else place

    there, here = seen(old), seen(new)
    return None if here == there and here is not None else here != 0


@given(_blocks, _blocks, st.booleans(), st.booleans(), st.data())
def test_any_two_layouts_differ_where_their_blocks_do(
    old: list[Block], new: list[Block], run_old: bool, run_new: bool, data: st.DataObject
) -> None:
    count = max(len(old), len(new))
    old += [(0, 0)] * (count - len(old))
    new += [(0, 0)] * (count - len(new))
    start = data.draw(st.integers(0, count - 1))
    found: list[bool | None] = [None] * count
    end = start * BLOCK
    for offset, length, is_data in differences(
        _as_extents(old, run_old), _as_extents(new, run_new), start * BLOCK, count * BLOCK
    ):
        assert offset >= end and length > 0
        end = offset + length
        for block in range(offset // BLOCK, end // BLOCK):
            found[block] = is_data
    assert found[start:] == [_naive(*pair) for pair in zip(old, new)][start:]


_ANY = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20), st.sampled_from([0, SHARED, UNWRITTEN]))


@given(st.lists(_ANY, max_size=6), st.lists(_ANY, max_size=6))
def test_a_map_that_makes_no_sense_makes_nothing_unchanged_after_it(a: list[Placed], b: list[Placed]) -> None:
    def scaled(extents: list[Placed]) -> list[Placed]:
        return [(o * BLOCK, p * BLOCK, n * BLOCK, f) for o, p, n, f in extents]

    def wrong_from(extents: list[Placed]) -> int:
        end = 0
        for offset, _, length, _ in extents:
            if offset < end or not length:
                return end
            end = offset + length
        return 64

    covered = sum(length for _, length, _ in differences(scaled(a), scaled(b), 0, 64 * BLOCK)) // BLOCK
    assert covered >= 64 - min(wrong_from(a), wrong_from(b))


def _clone(source: Path, target: Path) -> Path:
    with open(source, "rb") as a, open(target, "wb") as b:
        fcntl.ioctl(b.fileno(), 0x40049409, a.fileno())
    return target


def _dedupe(path: Path, source: int, target: int, length: int) -> None:
    """Have two equal ranges of a file share an extent: FIDEDUPERANGE."""
    with open(path, "r+b") as file:
        request = bytearray(struct.pack("=QQHHI qQQiI", source, length, 1, 0, 0, file.fileno(), target, 0, 0, 0))
        with contextlib.suppress(OSError):
            fcntl.ioctl(file.fileno(), 0xC0189436, request)


def _changed(new: Path, old: Path) -> list[tuple[int, int, bool]] | None:
    with open(new, "rb") as a, open(old, "rb") as b:
        found = changes(a.fileno(), b.fileno())
        return None if found is None else list(found)


def _check(new: Path, old: Path, work: Path) -> int:
    """Bring a copy of the old file to the new one by what is called changed, and judge by cmp; the bytes changed."""
    found = _changed(new, old)
    assert found is not None
    (work / "rebuilt").write_bytes(old.read_bytes())
    with open(work / "rebuilt", "r+b") as copy, open(new, "rb") as file:
        copy.truncate(os.stat(new).st_size)
        for offset, length, data in found:
            file.seek(offset)
            copy.seek(offset)
            content = file.read(length)
            assert len(content) == length and (data or not content.strip(b"\0"))
            copy.write(content)
    assert same_content(work / "rebuilt", new)
    return sum(length for _, length, _ in found)


SIZE = 4 << 20


def _mutate(path: Path, chance: random.Random, kept: list[Path], mount: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        for _ in range(chance.randrange(1, 5)):
            offset, length = chance.randrange(size), chance.choice([1, 100, BLOCK, 3 * BLOCK, 200_000])
            what = chance.randrange(8)
            if what < 2:
                os.pwrite(fd, chance.randbytes(length), offset)
            elif what == 2:
                command("fallocate", "-p", "-o", str(offset), "-l", str(length), path)
            elif what == 3:
                os.posix_fallocate(fd, min(offset, size - 1), min(length, size - offset))
            elif what == 4:
                size = chance.choice([size, offset + 1, size + length, SIZE])
                os.ftruncate(fd, size)
            elif what == 5 and kept:
                source = chance.choice(kept)
                start = offset // BLOCK * BLOCK
                command("xfs_io", "-c", f"reflink {source} {chance.randrange(16) * BLOCK} {start} {16 * BLOCK}", path)
                size = os.fstat(fd).st_size
            elif what == 6:
                block = chance.randbytes(8 * BLOCK)
                places = [chance.randrange(max(1, size // BLOCK)) * BLOCK for _ in range(2)]
                for place in places:
                    os.pwrite(fd, block, place)
                os.fsync(fd)
                _dedupe(path, places[0], places[1], len(block))
                size = os.fstat(fd).st_size
            elif what == 7:
                tool = ["xfs_fsr"] if mount.name == "xfs" else ["btrfs", "filesystem", "defragment", "-f"]
                subprocess.run([*tool, os.fspath(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_what_is_called_unchanged_is_equal(kind: str, mounted: Mounted, tmp_path: Path) -> None:
    need_tools("xfs_io", "cmp")
    top = mounted(kind)
    place = top / kind
    place.mkdir()
    chance = random.Random(int(os.environ.get("SPARSESYNC_SEED", "1")))
    image = place / "image"
    image.write_bytes(chance.randbytes(SIZE // 4))
    os.truncate(image, SIZE)
    old = _clone(image, place / "0")
    for number in range(1, int(os.environ.get("SPARSESYNC_ROUNDS", "25"))):
        _mutate(image, chance, [place / "0"] if number % 3 else [old, image], place)
        if kind == "btrfs" and number % 12 == 0:
            command("btrfs", "balance", "start", "--full-balance", top)
        new = _clone(image, place / str(number))
        _check(new, old, tmp_path)
        if number % 4:
            old = new


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_only_what_was_written_is_changed(kind: str, mounted: Mounted, tmp_path: Path) -> None:
    place = mounted(kind)
    image = place / "image"
    image.write_bytes(random.Random(2).randbytes(SIZE))
    os.truncate(image, 2 * SIZE)
    old = _clone(image, place / "old")
    with open(image, "r+b") as file:
        for number in (1, 100, 101, 700, 1500):
            file.seek(number * BLOCK + 5)
            file.write(b"new")
    command("fallocate", "-p", "-o", str(200 * BLOCK), "-l", str(3 * BLOCK), image)
    new = _clone(image, place / "new")
    assert _changed(new, old) == [
        (BLOCK, BLOCK, True),
        (100 * BLOCK, 2 * BLOCK, True),
        (200 * BLOCK, 3 * BLOCK, False),
        (700 * BLOCK, BLOCK, True),
        (1500 * BLOCK, BLOCK, True),
    ]
    assert _check(new, old, tmp_path) == 8 * BLOCK


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_reserved_ranges_are_holes(kind: str, mounted: Mounted) -> None:
    place = mounted(kind)
    image = place / "image"
    image.write_bytes(b"x" * BLOCK)
    os.truncate(image, SIZE)
    old = _clone(image, place / "old")
    command("fallocate", "-o", str(8 * BLOCK), "-l", str(64 * BLOCK), image)
    assert _changed(_clone(image, place / "new"), old) == []


def test_a_size_that_is_another_changes_the_last_block_too(mounted: Mounted, tmp_path: Path) -> None:
    place = mounted("xfs")
    image = place / "image"
    image.write_bytes(b"x" * (20 * BLOCK + 7))
    old = _clone(image, place / "old")
    os.truncate(image, SIZE)
    grown = _clone(image, place / "grown")
    assert _check(grown, old, tmp_path) <= 16 * BLOCK
    assert 0 < _check(old, grown, tmp_path) <= 16 * BLOCK


def test_more_extents_than_one_answer_has(mounted: Mounted, tmp_path: Path) -> None:
    place = mounted("xfs")
    image = place / "image"
    with open(image, "wb") as file:
        for number in range(3000):
            file.seek(2 * number * BLOCK)
            file.write(b"x" * BLOCK)
    old = _clone(image, place / "old")
    with open(image, "r+b") as file:
        for number in (511, 512, 513, 2999):
            file.seek(2 * number * BLOCK)
            file.write(b"y")
    new = _clone(image, place / "new")
    found = _changed(new, old)
    assert found == [(2 * number * BLOCK, BLOCK, True) for number in (511, 512, 513, 2999)]
    _check(new, old, tmp_path)


def test_what_moves_while_it_is_looked_up_has_changed(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    place = mounted("xfs")
    image = place / "image"
    image.write_bytes(b"x" * SIZE)
    old, new = _clone(image, place / "old"), _clone(image, place / "new")
    assert _changed(new, old) == []
    asked = 0

    def moving(fd: int, start: int, end: int) -> tuple[list[Placed], int]:
        nonlocal asked
        asked += 1
        found, following = placed(fd, start, end)
        return [(o, p + BLOCK * (asked == 3), n, f) for o, p, n, f in found], following

    monkeypatch.setattr(module, "placed", moving)
    assert _changed(new, old) == [(0, SIZE, True)]


@pytest.fixture(scope="module")
def btrfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A btrfs that compresses."""
    with filesystem("btrfs", tmp_path_factory.mktemp("btrfs") / "fs", options="compress-force=zstd") as mountpoint:
        yield mountpoint


def test_a_compressed_extent_has_changed(btrfs: Path, tmp_path: Path) -> None:
    image = btrfs / "image"
    image.write_bytes(b"line\n" * 100_000)
    os.truncate(image, SIZE)
    old, new = _clone(image, btrfs / "old"), _clone(image, btrfs / "new")
    # A part of the same extent at another offset shows with the same physical offset.
    command("xfs_io", "-c", f"reflink {old} {4 * BLOCK} 0 {4 * BLOCK}", new)
    found = _changed(new, old)
    assert found is not None and sum(length for _, length, _ in found) >= 490_000
    _check(new, old, tmp_path)


def test_an_inline_extent_has_changed(btrfs: Path) -> None:
    for name in ("old", "new"):
        (btrfs / f"{name}.small").write_bytes(b"x" * 1000)
    found = _changed(btrfs / "new.small", btrfs / "old.small")
    assert found == [(0, 1000, True)]


def test_without_copy_on_write_nothing_is_known(btrfs: Path) -> None:
    need_tools("chattr")
    place = btrfs / "nocow"
    place.mkdir()
    command("chattr", "+C", place)
    (place / "image").write_bytes(b"x" * SIZE)
    old, new = _clone(place / "image", place / "old"), _clone(place / "image", place / "new")
    assert _changed(new, old) is None
    with pytest.raises(OSError, match="Invalid"):
        _clone(place / "image", btrfs / "clone")


def test_a_clone_across_a_subvolume_is_one(mounted: Mounted, tmp_path: Path) -> None:
    place = mounted("btrfs")
    command("btrfs", "subvolume", "create", place / "sub")
    image = place / "sub" / "image"
    image.write_bytes(random.Random(3).randbytes(SIZE))
    old = _clone(image, place / "old")
    with open(image, "r+b") as file:
        file.write(b"new")
    new = _clone(image, place / "new")
    assert _changed(new, old) == [(0, BLOCK, True)]
    assert _changed(image, old) is None  # device numbers tell nothing there
    command("btrfs", "subvolume", "delete", place / "sub")


def test_elsewhere_nothing_is_known(mounted: Mounted, tmp_path: Path) -> None:
    for kind in ("ext4", "tmpfs"):
        place = mounted(kind)
        (place / "a").write_bytes(b"x" * SIZE)
        (place / "b").write_bytes(b"x" * SIZE)
        assert _changed(place / "a", place / "b") is None
    other = mounted("xfs") / "a"
    other.write_bytes(b"x" * SIZE)
    assert _changed(other, place / "b") is None


def test_a_swap_file_cannot_be_cloned(mounted: Mounted) -> None:
    need_tools("mkswap", "swapon", "swapoff")
    swap = mounted("xfs") / "swap"
    swap.write_bytes(bytes(SIZE))
    swap.chmod(0o600)
    command("mkswap", swap)
    done = subprocess.run(["swapon", swap], capture_output=True)
    if done.returncode:
        pytest.skip("this kernel does not swap")
    try:
        with pytest.raises(OSError, match="busy"):
            _clone(swap, swap.with_name("clone"))
    finally:
        command("swapoff", swap)
