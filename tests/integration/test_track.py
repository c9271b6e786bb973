"""copy --track: a repeat reads and sends what changed, and is right whatever happened meanwhile."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import sparsesync
from sparsesync.commands.main import main
from sparsesync.engine.content.copy_file import Copied, CopyOptions
from sparsesync.hosts.copies import Copies
from sparsesync.tracking.store import Store
from tests.support.filesystems import Mounted, command, filesystem, qemu_map, same_content
from tests.support.schemas import document
from tests.support.shells import local_shell
from tests.support.sshd import Sshd

BLOCK = 4096
SIZE = 8 << 20


def image(path: Path, seed: int = 1) -> Path:
    """A file with data in its first and its third quarter."""
    chance = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(SIZE)
        for offset in (0, SIZE // 2):
            file.seek(offset)
            file.write(chance.randbytes(SIZE // 4))
    return path


def poke(path: Path, *blocks: int, text: bytes = b"poked") -> None:
    with open(path, "r+b") as file:
        for block in blocks:
            file.seek(block * BLOCK)
            file.write(text)


def tracked(src: Path, dst: Path, track: Path, inplace: bool = False) -> Copied:
    """What a copy that is tracked says."""
    with Copies(track=track) as copies, warnings.catch_warnings():
        warnings.simplefilter("error")
        return copies.copy(src, dst, CopyOptions(inplace=inplace))


def bytes_read() -> int:
    """What this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def rewrite(path: Path, length: int, text: bytes | None = None) -> None:
    """Write the first bytes of a file anew: the same ones, unless others are given."""
    with open(path, "r+b") as file:
        text = text or file.read(length)
        file.seek(0)
        file.write(text)


def names(track: Path) -> list[str]:
    return sorted(path.name[-9:] for path in track.rglob("*") if path.is_file())


PAIR = [".snapshot", "cord.json"]


@pytest.fixture(params=["xfs", "btrfs"])
def here(request: pytest.FixtureRequest, mounted: Mounted) -> Path:
    return mounted(request.param)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("there", ["xfs", "btrfs", "ext4"])
def test_a_repeat_writes_what_changed(here: Path, there: str, mounted: Mounted, inplace: bool) -> None:
    src, dst, track = image(here / "src"), mounted(there) / "dst", here / "track"
    assert tracked(src, dst, track, inplace=inplace).why_whole == "nothing is known of an earlier copy"
    assert same_content(src, dst)
    for number in range(3):
        before = os.stat(dst)
        poke(src, 3 + number, 1030)
        command("fallocate", "-p", "-o", str(64 * BLOCK), "-l", str(8 * BLOCK), src)
        made = tracked(src, dst, track, inplace=inplace)
        assert same_content(src, dst)
        assert names(track) == PAIR
        after = os.stat(dst)
        assert (before.st_ino == after.st_ino) == inplace
        assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
        if there == "ext4" and not inplace:  # nothing can be cloned: as without
            assert made.why_whole is not None
        else:
            assert made.why_whole is None and made.written <= (3 + number) * BLOCK
    if inplace or there != "ext4":
        rewrite(src, SIZE // 4, os.urandom(SIZE // 4))
        before_read = bytes_read()
        assert tracked(src, dst, track, inplace=inplace).written == SIZE // 4
        assert bytes_read() - before_read < SIZE // 4 * 1.2 and same_content(src, dst)
        rewrite(src, SIZE // 4)  # only moved
        made = tracked(src, dst, track, inplace=inplace)
        assert (made.written, made.why_whole) == (0, None) and same_content(src, dst)
    assert oct(track.stat().st_mode & 0o777) == "0o700"
    (snapshot,) = track.rglob("*.snapshot")
    assert oct(snapshot.stat().st_mode & 0o777) == "0o600" and same_content(snapshot, src)


def test_a_repeat_of_nothing_changes_nothing(here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    before = os.stat(dst)
    made = tracked(src, dst, track, inplace=True)
    assert (made.written, made.why_whole) == (0, None)
    assert os.stat(dst).st_mtime_ns == before.st_mtime_ns
    assert tracked(src, dst, track, inplace=True).why_whole is None


@pytest.mark.parametrize("there", ["xfs", "ext4"])
def test_to_another_host(there: str, mounted: Mounted, sshd_server: Sshd) -> None:
    here = mounted("btrfs" if there == "xfs" else "xfs")
    src, dst = image(here / "src"), mounted(there) / "dst"
    with Copies(sshd_server.rsh, track=here / "track") as copies:
        _copied_and_copied(src, dst, lambda i: copies.copy(src, f"host:{dst}", CopyOptions(inplace=i)))


def _copied_and_copied(src: Path, dst: Path, copy: Callable[[bool], Copied]) -> None:

    assert copy(False).why_whole is not None and same_content(src, dst)
    for number, inplace in enumerate((False, True, False)):
        poke(src, 3 + number, 1030, text=b"%d" % number)
        command("fallocate", "-p", "-o", str(64 * BLOCK), "-l", str((8 + number) * BLOCK), src)
        made = copy(inplace)
        assert same_content(src, dst) and made.why_whole is None
        assert made.written == 2 * BLOCK
        assert sum(int(str(part["length"])) for part in qemu_map(dst) if part["data"]) < SIZE // 2
    for text, sent in ((None, 0), (os.urandom(SIZE // 4), SIZE // 4)):
        rewrite(src, SIZE // 4, text)
        made = copy(True)
        assert (made.written, made.why_whole) == (sent, None) and same_content(src, dst)
    poke(dst, 7)
    made = copy(False)
    assert made.why_whole == "what is there is not what the last copy left" and same_content(src, dst)
    os.truncate(src, SIZE // 4 + 100)
    assert copy(False).why_whole is None and same_content(src, dst)
    os.truncate(src, 2 * SIZE)
    assert copy(False).why_whole is None and same_content(src, dst)


def _written_with_its_time(dst: Path) -> None:
    st = os.stat(dst)
    poke(dst, 5)
    os.utime(dst, ns=(st.st_atime_ns, st.st_mtime_ns))


def _replaced(dst: Path) -> None:
    st = os.stat(dst)
    other = image(dst.with_name("other"), seed=9)
    os.utime(other, ns=(st.st_atime_ns, st.st_mtime_ns))
    os.replace(other, dst)


BEHIND: dict[str, Callable[[Path], object]] = {
    "written to": lambda dst: poke(dst, 5),
    "written to, with its time": _written_with_its_time,
    "replaced by one of the same size and time": _replaced,
    "shorter": lambda dst: os.truncate(dst, SIZE // 2),
    "gone": os.unlink,
}


@pytest.mark.parametrize("what", BEHIND)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_destination_that_was_changed_behind_our_back(what: str, inplace: bool, mounted: Mounted) -> None:
    here = mounted("xfs")
    src, dst, track = image(here / "src"), mounted("btrfs") / "dst", here / "track"
    tracked(src, dst, track)
    poke(src, 9)
    BEHIND[what](dst)
    assert tracked(src, dst, track, inplace=inplace).why_whole is not None
    assert same_content(src, dst)
    poke(src, 10)
    assert tracked(src, dst, track, inplace=inplace).why_whole is None
    assert same_content(src, dst)


def _other(src: Path) -> None:
    st = os.stat(src)
    os.replace(image(src.with_name("new"), seed=5), src)
    os.utime(src, ns=(st.st_atime_ns, st.st_mtime_ns))


def _restored(src: Path) -> None:
    shutil.copy2(src, src.with_name("backup"))
    poke(src, 1, 2, 3)
    os.replace(src.with_name("backup"), src)


def _clock_back(src: Path) -> None:
    poke(src, 1, 2, 3)
    os.utime(src, ns=(0, 10**18))


@pytest.mark.parametrize("change", [_other, _restored, _clock_back])
def test_a_source_that_is_another(change: Callable[[Path], None], here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    change(src)
    tracked(src, dst, track, inplace=True)
    assert same_content(src, dst)


def test_clones_of_which_nobody_knows_what_changed(mounted: Mounted, tmp_path: Path) -> None:
    folder = mounted("btrfs") / "nodatacow"
    folder.mkdir()
    command("chattr", "+C", folder)
    src, dst, track = image(folder / "src"), folder / "dst", folder / "track"
    why = "the maps of its clones do not tell what changed"
    tracked(src, dst, track)
    for inplace in (False, True):
        assert tracked(src, dst, track, inplace=inplace).why_whole == why and same_content(src, dst)
    with Copies(local_shell(tmp_path / "rsh"), track=track) as copies:
        copies.copy(src, f"host:{dst}", CopyOptions())
        assert copies.copy(src, f"host:{dst}", CopyOptions()).why_whole == why


def test_several_destinations(here: Path, mounted: Mounted) -> None:
    src, track, ext4 = image(here / "src"), here / "track", mounted("ext4")
    for round_ in range(3):
        for name in ("a", "b")[: 1 + round_ % 2]:
            poke(src, 20 + round_)
            tracked(src, ext4 / name, track, inplace=True)
            assert same_content(src, ext4 / name)
    assert tracked(src, ext4 / "b", track, inplace=True).why_whole is None
    assert names(track) == [".snapshot", ".snapshot", "cord.json", "cord.json"]


def _warned(src: Path, dst: Path, track: Path) -> str:
    """The one warning of a copy that is right all the same."""
    with pytest.warns(RuntimeWarning) as told:
        sparsesync.copy(src, dst, track=track)
    assert same_content(src, dst)
    (warning,) = told
    return str(warning.message)


RECORDS = {
    "empty": b"",
    "binary": os.urandom(100),
    "deep": b"[" * 100_000,
    "a list": b"[]",
    "old": b'{"format": 0}',
    "a path": b"../../../etc/passwd",
    "long": b" " * (2 << 20),
    "half": b'{"format": 1, "time": 1, "runs": true}',
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_broken_record(what: str, mounted: Mounted) -> None:
    here = mounted("xfs")
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    (record,) = track.rglob("record.json")
    record.write_bytes(RECORDS[what])
    poke(src, 8)
    assert str(record) in _warned(src, dst, track)
    assert json.loads(record.read_text())["format"] == 1 and names(track) == PAIR
    assert tracked(src, dst, track, inplace=True).why_whole is None


def test_each_field_that_is_wrong(mounted: Mounted) -> None:
    here = mounted("xfs")
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    (path,) = track.rglob("record.json")
    record = json.loads(path.read_text())
    wrong: list[dict[str, object]] = [{**record, name: value} for name in record for value in (None, "x", -(1 << 70))]
    wrong += [
        {**record, place: {**record[place], name: value}}
        for place in ("source", "destination", "snapshot")
        for name in record[place]
        for value in (None, True, [1])
    ]
    wrong += [{**record, "snapshot": {**record["snapshot"], "path": value}} for value in ("../x", "", "..", "a\0b")]
    for each in wrong[:: int(os.environ.get("SPARSESYNC_STEP", "3"))]:
        path.write_text(json.dumps(each))
        assert str(path) in _warned(src, dst, track), each


def test_a_record_of_a_newer_version_is_left(mounted: Mounted) -> None:
    here = mounted("xfs")
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    (record,) = track.rglob("record.json")
    record.write_text('{"format": 2}')
    poke(src, 8)
    assert "a newer version" in _warned(src, dst, track)
    assert record.read_text() == '{"format": 2}'


def test_a_directory_that_was_copied_from_another_host(here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    command("cp", "-a", track, here / "copied")
    shutil.rmtree(track)
    os.rename(here / "copied", track)
    poke(src, 8)
    assert tracked(src, dst, track, inplace=True).why_whole == "the snapshot of the last copy was changed"
    assert same_content(src, dst)


def test_a_snapshot_that_was_written_to(here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    (snapshot,) = track.rglob("*.snapshot")
    poke(snapshot, 3)
    command("cp", "--reflink=always", snapshot, src)
    tracked(src, dst, track, inplace=True)
    assert same_content(src, dst)


def test_two_runs_at_once(here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    inner: list[int] = []

    def progress(count: int) -> None:
        if not inner:
            inner.append(count)
            assert "another run" in _warned(src, dst.with_name("dst"), track)

    sparsesync.copy(src, dst, track=track, progress=progress)
    assert inner and same_content(src, dst)
    poke(src, 8)
    tracked(src, dst, track, inplace=True)
    assert same_content(src, dst)


def test_a_failed_run_leaves_the_old_pair(here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    before = {path: path.stat().st_mtime_ns for path in track.rglob("*") if path.is_file()}
    poke(src, 8)

    def progress(count: int) -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        sparsesync.copy(src, dst, track=track, progress=progress, inplace=True)
    assert {path: path.stat().st_mtime_ns for path in track.rglob("*") if path.is_file()} == before
    tracked(src, dst, track, inplace=True)
    assert same_content(src, dst)


def test_where_it_cannot_be(mounted: Mounted, tmp_path: Path) -> None:
    xfs, ext4 = mounted("xfs"), mounted("ext4")
    src, dst = image(xfs / "src"), ext4 / "dst"
    with pytest.raises(OSError, match="is not on the filesystem of") as error:
        sparsesync.copy(src, dst, track=ext4 / "track")
    assert error.value.filename == str(ext4 / "track")
    with pytest.raises(NotADirectoryError):
        sparsesync.copy(src, dst, track=src)
    with pytest.raises(FileNotFoundError):
        sparsesync.copy(src, dst, track=xfs / "no" / "track")
    (xfs / "open").mkdir()
    (xfs / "open").chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        sparsesync.copy(src, dst, track=xfs / "open")
    (xfs / "other").mkdir()
    os.chown(xfs / "other", 12345, 12345)
    with pytest.raises(PermissionError, match="belongs to user 12345"):
        sparsesync.copy(src, dst, track=xfs / "other")
    assert not dst.exists()
    for wrong in ("overlay", "reserve"):
        with pytest.raises(ValueError, match="do not go together"):
            sparsesync.copy(src, dst, track=xfs / "track", **{wrong: True})  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="only a file of this machine"):
        sparsesync.copy(f"host:{src}", dst, track=xfs / "track")
    with pytest.raises(shutil.SameFileError):
        sparsesync.copy(src, src, track=xfs / "track")


def test_without_clones_it_is_said_once(mounted: Mounted) -> None:
    ext4 = mounted("ext4")
    for name in ("a", "b"):
        image(ext4 / name)
    (ext4 / "to").mkdir()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sparsesync",
            "copy",
            "-q",
            "--track",
            ext4 / "track",
            ext4 / "a",
            ext4 / "b",
            ext4 / "to",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr.count("\n") == 1 and "has no clones" in done.stderr
    assert same_content(ext4 / "b", ext4 / "to" / "b")
    assert names(ext4 / "track") == []


def test_a_full_and_a_read_only_directory(mounted: Mounted, tmp_path: Path) -> None:
    dst = mounted("ext4") / "dst"
    with filesystem("xfs", tmp_path / "small", size="310M") as small:
        src, track = image(small / "src"), small / "track"
        tracked(src, dst, track)
        command("mount", "-o", "remount,ro", small)
        assert "no snapshot can be kept" in _warned(src, dst, track)
        command("mount", "-o", "remount,rw", small)
        poke(src, 8)
        tracked(src, dst, track, inplace=True)
        assert same_content(src, dst)


def test_no_room_for_a_clone(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    here = mounted("xfs")
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"

    def full(source: int, target: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sparsesync.tracking.entry.share", full)
    assert "No space left" in _warned(src, dst, track)
    assert names(track) == []


_KILLED = """
import os, sys
import sparsesync, sparsesync.tracking.entry, sparsesync.tracking.store, sparsesync.hosts.copies
left = int(sys.argv[1])
def trace(frame, event, argument):
    global left
    if "tracking" not in frame.f_code.co_filename and "copies" not in frame.f_code.co_filename:
        return None
    left -= 1
    if left == 0:
        os.kill(os.getpid(), 9)
    return trace
sys.settrace(trace)
sparsesync.copy(sys.argv[2], sys.argv[3], track=sys.argv[4], inplace=True)
"""


@pytest.mark.slow
def test_a_kill_at_any_moment(mounted: Mounted) -> None:
    here = mounted("xfs")
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    tracked(src, dst, track)
    killed = 0
    for number in range(1, 400, int(os.environ.get("SPARSESYNC_STEP", "61"))):
        poke(src, number)
        argv = [sys.executable, "-c", _KILLED, str(number), str(src), str(dst), str(track)]
        killed += subprocess.run(argv, capture_output=True).returncode == -9
        poke(src, number + 1)
        tracked(src, dst, track, inplace=True)
        assert same_content(src, dst) and names(track) == PAIR
    assert killed > 3


def test_a_copy_is_of_one_moment(here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("ext4") / "dst", here / "track"
    number = 0

    def write(_: int = 0) -> None:
        nonlocal number
        number += 1
        poke(src, 3, 1500, text=number.to_bytes(8, "big"))

    def both() -> list[int]:
        with open(dst, "rb") as file:
            return [int.from_bytes(file.read(8), "big") for block in (3, 1500) if file.seek(block * BLOCK)]

    write()
    with Copies(jobs=1) as copies, pytest.warns(RuntimeWarning, match="of no one moment"):
        copies.copy(src, dst, CopyOptions(), write)  # as without a clone
    assert both()[0] < both()[1]
    with Copies(track=track) as copies:
        for _ in range(3):
            before = number
            copies.copy(src, dst, CopyOptions(inplace=True), write)
            assert both() == [before, before] and number > before
    writer = (
        "import os, sys\nfd, number = os.open(sys.argv[1], os.O_RDWR), int(sys.argv[2])\n"
        "while True:\n number += 1\n block = number.to_bytes(8, 'big') * 512\n"
        f" os.pwrite(fd, block, 3 * {BLOCK})\n os.pwrite(fd, block, 1500 * {BLOCK})\n"
        " if sys.argv: print(flush=True)\n sys.argv.clear()\n"
    )
    argv = [sys.executable, "-c", writer, str(src), str(number)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(int(os.environ.get("SPARSESYNC_ROUNDS", "3"))):
                tracked(src, dst, track, inplace=True)
                (snapshot,) = track.rglob("*.snapshot")
                assert same_content(snapshot, dst)
                assert both()[0] - both()[1] in (0, 1)  # the second is written after the first
        finally:
            process.kill()


def test_as_copy2_has_it(here: Path, mounted: Mounted) -> None:
    src, dst, track = image(here / "src"), mounted("xfs") / "dst", here / "track"
    os.utime(src, ns=(10**18, 10**18 + 5))
    src.chmod(0o640)
    for block in (1, 2):
        assert sparsesync.copy2(src, dst, track=track) == dst
        st = os.stat(dst)
        assert (st.st_mtime_ns, oct(st.st_mode & 0o777)) == (os.stat(src).st_mtime_ns, "0o640")
        poke(src, block)


def test_a_property_of_any_changes(here: Path, mounted: Mounted) -> None:
    chance = random.Random(int(os.environ.get("SPARSESYNC_SEED", "3")))
    src, track = image(here / "src"), here / "track"
    places = [(mounted("ext4") / "dst", True), (mounted("xfs") / "dst", False)]
    for _ in range(int(os.environ.get("SPARSESYNC_ROUNDS", "8"))):
        for _ in range(chance.randrange(4)):
            offset = chance.randrange(os.stat(src).st_size)
            what = chance.randrange(4)
            if what == 0:
                os.truncate(src, chance.choice([SIZE, offset + 1, SIZE + offset]))
            elif what == 1:
                command("fallocate", "-p", "-o", str(offset), "-l", str(chance.choice([100, 300_000])), src)
            else:
                poke(src, offset // BLOCK, text=chance.randbytes(chance.choice([1, BLOCK, 300_000])))
        for dst, inplace in places:
            if chance.randrange(6) == 0 and dst.exists():
                poke(dst, 3, text=chance.randbytes(9))
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                warnings.filterwarnings("ignore", ".*its snapshots hold")
                sparsesync.copyfile(src, dst, track=track, inplace=inplace, sparse=chance.choice(["auto", "always"]))
            assert same_content(src, dst)


def _track(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """What ``sparsesync track`` prints, run in this process."""
    argv, status = ["track", *map(str, words)], 0
    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        try:
            status = main(argv)
        except SystemExit as error:
            status = int(error.code or 0)
    told = [stream.detach().getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(argv, status, *told)


def test_what_is_kept_is_listed_checked_and_dropped(here: Path, mounted: Mounted) -> None:
    track, ext4 = here / "track", mounted("ext4")
    for name in ("a", "b", "c"):
        tracked(image(here / name), ext4 / name, track)
    image(here / "b", seed=9)
    os.truncate(here / "c", 0)  # XFS lets go of what was removed some time later
    (here / "c").unlink()
    listed = document(_track("list", "--json", track).stdout)["files"]
    by = {Path(each["source"]).name: each for each in listed}
    assert by["a"]["held"] == 0 and by["b"]["held"] == by["c"]["held"] == SIZE // 2
    assert [by[name]["orphan"] for name in "abc"] == [False, False, True]
    assert {each["trouble"] for each in listed} == {None}
    shown = _track("list", track).stdout
    assert shown.count("\n") == 4 and "4 MiB held; its source is gone" in shown and "8 MiB are held" in shown
    assert by["c"]["key"] in _track("check", track).stdout
    assert _track("drop", "--orphans", track).returncode == 0
    poke(next((track / by["b"]["key"]).glob("*.snapshot")), 3)
    checked = _track("check", track)
    assert checked.returncode == 1 and checked.stdout.count("\n") == 1 and "was written to" in checked.stdout
    (track / by["a"]["key"] / "record.json").write_text("x")
    assert _track("check", track).stdout.count("cannot be read") == 1
    assert _track("drop", track, by["a"]["key"], by["b"]["key"]).returncode == 0
    assert os.listdir(track) == []
    # Another file, for the same reason.
    tracked(image(here / "e"), ext4 / "e", track)
    assert _track("list", track).stderr == ""
    os.truncate(here / "e", 0)
    (here / "f").touch()
    with pytest.warns(RuntimeWarning, match=r"its snapshots hold 4 MiB, which is more than the 0 B of their files"):
        sparsesync.copy(here / "f", ext4 / "f", track=track)
    assert "hold 4 MiB, which is more than the 0 B" in _track("list", track).stderr


def test_what_cannot_be_dropped(mounted: Mounted) -> None:
    here = mounted("xfs")
    src, track = image(here / "src"), here / "track"
    store = Store(str(track))
    with contextlib.closing(store), store.entry(str(src), "x") as entry:
        assert entry is not None
        done = _track("drop", track, Path(entry.path).name)
        assert done.returncode == 1 and "a run is under way" in done.stderr and os.path.isdir(entry.path)
    for words in (
        ["drop", track, ".."],
        ["drop", track, "0" * 32],
        ["drop", track],
        ["list", track, "x"],
        ["list", "/no"],
    ):
        done = _track(*words)
        assert done.returncode and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert src.exists()


@pytest.mark.parametrize("there", ["xfs", "ext4", "ssh"])
def test_a_list_of_what_changed(there: str, mounted: Mounted, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    src, told = image(tmp_path / "src"), tmp_path / "told"
    dst, rsh = mounted("xfs" if there == "ssh" else there) / "dst", None
    to: Path | str = dst
    if there == "ssh":
        rsh, to = request.getfixturevalue("sshd_server").rsh, f"host:{dst}"
    with Copies(rsh, extents_from=told) as copies:
        told.write_text(json.dumps([{"offset": 3 * BLOCK + 7, "length": 9}, {"offset": 2 * SIZE, "length": SIZE}]))
        assert copies.copy(src, to, CopyOptions()).why_whole is not None and same_content(src, dst)  # it is not there
        poke(dst, SIZE // 4 // BLOCK - 1)  # nobody looks there
        poke(src, 3)
        for inplace in (True, False):
            made = copies.copy(src, to, CopyOptions(inplace=inplace))
            assert (made.why_whole is None) == (there != "ext4" or inplace)
            assert made.written == BLOCK or made.why_whole or not inplace
            assert same_content(src, dst) == (there == "ext4" and not inplace)
        if there == "xfs":
            assert sparsesync.copy2(src, dst, inplace=True, extents_from=told) == dst and not same_content(src, dst)
            with pytest.raises(ValueError, match="extents_from and track do not go together"):
                sparsesync.copyfile(src, dst, extents_from=told, track=dst.parent / "track")
        poke(dst, SIZE // 4 // BLOCK - 1, text=src.read_bytes()[SIZE // 4 - BLOCK :][:BLOCK])
        os.truncate(src, 2 * SIZE)
        poke(src, 2 * SIZE // BLOCK - 1)
        command("fallocate", "-p", "-o", str(SIZE // 2), "-l", str(SIZE // 4), src)
        told.write_text(json.dumps([{"offset": SIZE // 2, "length": SIZE // 2}]))
        assert copies.copy(src, to, CopyOptions(inplace=True)).why_whole is None
        assert same_content(src, dst) and os.stat(dst).st_blocks * 512 < SIZE // 2
        told.write_text("[{}]")
        with pytest.raises(ValueError, match=str(told)):
            copies.copy(src, to, CopyOptions())
        for wrong in (CopyOptions(overlay=True), CopyOptions(reserve=True)):
            with pytest.raises(ValueError, match="do not go together"):
                copies.copy(src, to, wrong)


def test_a_list_of_what_changed_on_a_device(mounted: Mounted, tmp_path: Path, sshd_server: Sshd) -> None:
    disk, dst, told = image(tmp_path / "disk"), mounted("xfs") / "dst", tmp_path / "told"
    loop = subprocess.run(["losetup", "-f", "--show", disk], check=True, capture_output=True, text=True).stdout.strip()
    try:
        for to, rsh, most in ((dst, None, 200_000), (f"host:{dst}", sshd_server.rsh, 3 << 20)):
            sparsesync.copyfile(loop, dst)
            told.write_text(json.dumps([{"offset": 7 * BLOCK, "length": 5}, {"offset": 0, "length": 4 * BLOCK}]))
            poke(Path(loop), 2, 7)
            poke(Path(loop), 3, text=bytes(BLOCK))
            before = bytes_read()
            with Copies(rsh, extents_from=told) as copies:
                made = copies.copy(loop, to, CopyOptions(inplace=True))
            assert (made.why_whole, made.written) == (None, 4 * BLOCK) and bytes_read() - before < most
            assert same_content(disk, dst)
    finally:
        command("losetup", "-d", loop)
