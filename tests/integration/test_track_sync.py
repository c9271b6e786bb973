"""sync --seed-track: what copy --track does, and rsync in charge of the rest."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import sparsesync
from sparsesync.tracking import files as module
from sparsesync.tracking import freezing
from tests.integration.test_track import BLOCK, SIZE, image, names, poke
from tests.support.filesystems import Mounted, command, same_content
from tests.support.sshd import Sshd

OLD = 1_500_000_000 * 10**9


class Runs:
    """Runs of ``sync -a`` from a directory with two images to another."""

    def __init__(self, here: Path, there: Path, shell: str | None = None) -> None:
        self.source, self.track, self.there, self.shell = here / "source", here / "track", there, shell
        self.given = ""
        self.source.mkdir()
        for number, name in enumerate("ab"):
            image(self.source / name, seed=number)
            os.utime(self.source / name, ns=(OLD, OLD))
        (self.source / "text").write_text("dense")
        self.told: list[str] = []
        self.time = OLD + 100 * 10**9

    def poke(self, name: str, *blocks: int, text: bytes = b"poked") -> None:
        poke(self.source / name, *blocks, text=text)
        self.time += 10**9
        os.utime(self.source / name, ns=(self.time, self.time))

    def __call__(self, *options: str) -> sparsesync.SyncResult:
        destination = f"{self.there}/" if self.shell is None else f"host:{self.there}/"
        self.told = []
        result = sparsesync.sync(
            self.given or f"{self.source}/",
            destination,
            ["-a", f"--seed-track={self.track}", "--seed-verbose", *options],
            output=lambda _, line: self.told.append(line),
            rsh=self.shell,
        )
        assert result.status == 0, self.told
        return result

    def check(self) -> None:
        for name in ("a", "b", "text"):
            assert same_content(self.source / name, self.there / name), name

    def says(self, what: str) -> int:
        return sum(what in line for line in self.told)


@pytest.fixture(params=["local", "ssh"])
def runs(request: pytest.FixtureRequest, mounted: Mounted) -> Runs:
    shell = None
    if request.param == "ssh":
        shell = request.getfixturevalue("sshd_server").rsh
    return Runs(mounted("xfs"), mounted("btrfs"), shell)


def test_a_repeat_sends_what_changed(runs: Runs) -> None:
    runs()
    runs.check()
    assert names(runs.track) == [".snapshot", ".snapshot", "cord.json", "cord.json"]
    runs.poke("a", 3, 1030)
    runs.poke("b", 7)
    command("fallocate", "-p", "-o", str(64 * BLOCK), "-l", str(8 * BLOCK), runs.source / "b")
    os.utime(runs.source / "b", ns=(OLD, OLD + 5 * 10**9))
    result = runs()
    runs.check()
    assert runs.says(", what changed since the last run") == 2, runs.told
    assert sum(each.sent for each in result.seeded) <= 3 * BLOCK
    if runs.shell is not None:
        return  # what follows takes the same way
    runs.poke("a", 9)
    runs.poke("b", 9)
    st = os.stat(runs.there / "b")
    poke(runs.there / "b", 77)
    os.utime(runs.there / "b", ns=(st.st_atime_ns, st.st_mtime_ns))
    runs("--inplace")
    runs.check()
    assert runs.says(", what changed since the last run") == 1
    assert runs.says(", all compared: what is there is not what the last run left") == 1
    assert runs().seeded == ()
    assert {os.stat(runs.there / name).st_mode & 0o777 for name in "ab"} == {0o644}


def test_every_so_many_runs_all_is_compared(mounted: Mounted) -> None:
    runs = Runs(mounted("btrfs"), mounted("ext4"))
    whole = []
    for number in range(7):
        runs.poke("a", 3 + number)
        runs("--seed-track-verify=3", "--inplace")
        runs.check()
        whole.append(runs.says("a: ") and runs.says(", all compared: it is, in one of 3 runs"))
    assert whole == [0, 0, 0, 1, 0, 0, 1]


def test_the_directory_may_be_below_a_source(mounted: Mounted) -> None:
    runs = Runs(mounted("xfs"), mounted("xfs"))
    for where, source in ((runs.source / "x [y]*", f"{runs.source}/"), (runs.source / "t", str(runs.source))):
        for number in range(2):
            runs.poke("a", 3 + number)
            runs.track, runs.given = where, source
            runs("--delete")
            assert runs.says("what changed since") == number, runs.told
            assert len(names(where)) >= 2
        assert not list(runs.there.rglob("*.snapshot"))
        shutil.rmtree(where)
    runs.there /= "source"
    runs.check()


WRONG = {
    "the source": ("source", [], "it is the source"),
    "below the destination": ("there/track", [], "below the destination"),
    "no directory": ("source/text", [], "Not a directory"),
    "no parent": ("no/track", [], "No such file"),
    "looked at": ("source/track", ["--delete-excluded"], "--delete-excluded"),
}


@pytest.mark.parametrize("what", WRONG)
def test_where_it_cannot_be(what: str, mounted: Mounted) -> None:
    here = mounted("xfs")
    (here / "there").mkdir()
    runs = Runs(here, here / "there")
    track, options, message = WRONG[what]
    words = ["-a", f"--seed-track={here / track}", *options, f"{runs.source}/", f"{runs.there}/"]
    done = subprocess.run([sys.executable, "-m", "sparsesync", "sync", *words], capture_output=True, text=True)
    assert done.returncode and message in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not os.listdir(runs.there)


def test_on_another_filesystem(mounted: Mounted) -> None:
    runs = Runs(mounted("xfs"), mounted("ext4"))
    runs.track = mounted("ext4") / "track"
    with pytest.raises(OSError, match="is not on the filesystem of"):
        runs()
    assert not os.listdir(runs.there)


def test_from_another_host(mounted: Mounted, sshd_server: Sshd) -> None:
    here = mounted("xfs")
    with pytest.raises(ValueError, match="for sources of this machine"):
        sparsesync.sync(f"host:{here}/", here, ["-a", f"--seed-track={here}/track"], rsh=sshd_server.rsh)


@pytest.mark.parametrize("option", ["--no-times", "--preallocate", "--seed-holes=read"])
def test_what_cannot_be_tracked_is_as_without(option: str, mounted: Mounted) -> None:
    runs = Runs(mounted("xfs"), mounted("ext4"))
    runs(option)
    runs.check()
    assert runs.says("nothing is tracked") == 1 and not names(runs.track)


def test_without_clones_it_is_said_once(mounted: Mounted) -> None:
    runs = Runs(mounted("ext4"), mounted("xfs"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        runs()
    assert len([each for each in told if "has no clones" in str(each.message)]) == 1
    runs.check()


def test_more_files_than_are_tracked(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_TRACKED_FILES", 1)
    runs = Runs(mounted("xfs"), mounted("ext4"))
    with pytest.warns(RuntimeWarning, match="more than 1 files"):
        runs()
    runs.check()
    assert names(runs.track) == [".snapshot", "cord.json"]


def test_a_file_that_is_written_to_meanwhile(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (runs.source / "a").read_bytes()
    real = module.Tracking.seeded

    def seeded(self: module.Tracking, result: object) -> str:
        poke(runs.source / "a", 3)
        return real(self, result)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(module.Tracking, "seeded", seeded)
        result = runs()
    assert result.later == ("a",) and runs.says("kept from rsync: a") == 1
    assert (runs.there / "a").read_bytes() == before
    assert os.stat(runs.there / "a").st_mtime_ns == OLD
    assert same_content(runs.source / "b", runs.there / "b")
    runs()
    runs.check()
    assert runs.says("seeded a") == runs.says("what changed since") == 1
    assert os.stat(runs.there / "a").st_mode & 0o777 == 0o644


def test_two_blocks_of_a_live_image_agree(mounted: Mounted) -> None:
    runs = Runs(mounted("btrfs"), mounted("xfs"))
    writer = (
        "import os, sys\nfd = os.open(sys.argv[1], os.O_RDWR)\nnumber = 0\n"
        "while True:\n number += 1\n block = number.to_bytes(8, 'big') * 512\n"
        f" os.pwrite(fd, block, 3 * {BLOCK})\n os.pwrite(fd, block, 1500 * {BLOCK})\n"
        " if number == 1: print(flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", writer, runs.source / "a"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            for _ in range(int(os.environ.get("SPARSESYNC_COPIES", "2"))):
                runs()
                with open(runs.there / "a", "rb") as file:
                    found = [int.from_bytes(file.read(8), "big") for block in (3, 1500) if file.seek(block * BLOCK)]
                assert found[0] - found[1] in (0, 1) and os.stat(runs.there / "a").st_size == SIZE
        finally:
            process.kill()
    runs()
    runs.check()


def test_a_symlink_in_its_place_is_not_followed(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    here = mounted("xfs")
    runs = Runs(here, mounted("ext4"))
    image(here / "secret", seed=9)
    real = module.Tracking.clone

    def clone(self: module.Tracking, source: object, planned: object) -> None:
        os.rename(runs.source / "a", here / "away")
        os.symlink(here / "secret", runs.source / "a")
        real(self, source, planned)  # type: ignore[arg-type]

    monkeypatch.setattr(module.Tracking, "clone", clone)
    runs()
    assert os.path.islink(runs.there / "a") or not same_content(here / "secret", runs.there / "a")


def _frozen(runs: Runs, log: Path, thaw: str = "true", *, freeze: str = "true") -> list[str]:
    """The options of a run of which each command notes that it ran, and when it did."""
    note = f"echo {{}} $(ls -A {runs.track}/*/*.snapshot 2>/dev/null | wc -l) >> {log}"
    return [f"--seed-freeze={note.format('freeze')}; {freeze}", f"--seed-thaw={note.format('thaw')}; {thaw}"]


def test_writers_are_held_up_while_all_is_cloned(mounted: Mounted, tmp_path: Path) -> None:
    runs, log = Runs(mounted("xfs"), mounted("ext4")), tmp_path / "log"
    # What the thaw writes is after the moment of the clones.
    runs(*_frozen(runs, log, f"printf poked | dd conv=notrunc of={runs.source}/a status=none", freeze="echo out"))
    assert log.read_text() == "freeze 0\nthaw 2\n" and runs.says("cloned 2 files; writers were held up for") == 1
    assert (runs.there / "a").read_bytes()[:5] != b"poked" == (runs.source / "a").read_bytes()[:5]
    log.unlink()
    with pytest.warns(RuntimeWarning, match="--seed-freeze-max"):
        runs(*_frozen(runs, log), "--seed-freeze-max=0.000001")
    runs.check()
    assert not log.exists()  # nothing is cloned
    runs.poke("b", 3)
    runs(*_frozen(runs, log), "--seed-freeze-max=1")
    runs.check()
    assert log.read_text() == "freeze 2\nthaw 3\n"  # the old ones are there still


@pytest.mark.parametrize("what", ["freeze", "thaw"])
def test_a_freeze_that_fails_ends_the_run(what: str, mounted: Mounted, tmp_path: Path) -> None:
    runs, log = Runs(mounted("xfs"), mounted("ext4")), tmp_path / "log"
    options = _frozen(runs, log, freeze="exit 3") if what == "freeze" else _frozen(runs, log, "exit 3")
    words = ["sync", "-a", f"--seed-track={runs.track}", *options, f"{runs.source}/", str(runs.there)]
    done = subprocess.run([sys.executable, "-m", "sparsesync", *words], capture_output=True, text=True)
    assert (done.returncode, os.listdir(runs.there)) == (4, []) and "ended with status 3" in done.stderr
    assert log.read_text().split()[::2] == ["freeze", "thaw"] and names(runs.track) == []
    without = subprocess.run([sys.executable, "-m", "sparsesync", *words, "--no-times"], capture_output=True, text=True)
    assert without.returncode and "--seed-freeze is for what is tracked" in without.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_thaw_runs_come_what_may(number: signal.Signals, mounted: Mounted, tmp_path: Path) -> None:
    runs, log = Runs(mounted("xfs"), mounted("ext4")), tmp_path / "log"
    options = _frozen(runs, log, freeze=f"kill -{number.value} $PPID; sleep 0.1; echo slept >> {log}")
    words = ["sync", "-a", f"--seed-track={runs.track}", *options, f"{runs.source}/", str(runs.there)]
    assert subprocess.run([sys.executable, "-m", "sparsesync", *words], capture_output=True).returncode
    # Nobody ends a command whose caller was killed: what it froze is thawed once it has ended.
    last = ["slept", "thaw 0"] if number == signal.SIGKILL else ["thaw 0"]
    for _ in range(200):
        if log.read_text().splitlines()[-len(last) :] == last:
            break
        time.sleep(0.01)
    assert log.read_text().splitlines()[-len(last) :] == last and os.listdir(runs.there) == []


def test_a_clone_that_does_not_return_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freezing, "MOST_SECONDS", 0.05)
    log = tmp_path / "log"

    def wait() -> None:
        with freezing.frozen(freezing.Freeze("true", f"echo thaw > {log}")):
            while not log.exists():
                time.sleep(0.01)

    with pytest.raises(freezing.FreezeError, match="it ran after"):
        wait()
    with (
        pytest.raises(freezing.FreezeError, match="took longer"),
        freezing.frozen(freezing.Freeze("exec sleep 9", "true")),
    ):
        pass


@pytest.mark.parametrize(
    "words",
    [
        ["--seed-track="],
        ["--seed-track-verify=3"],
        ["--seed-track=x", "--seed-track-verify=0"],
        ["--seed-track=x", "--seed-freeze=x"],
        ["--seed-track=x", "--seed-freeze=x", "--seed-thaw="],
        ["--seed-freeze=x", "--seed-thaw=x"],
        ["--seed-track=x", "--seed-freeze-max=nan"],
    ],
)
def test_wrong_words(words: list[str]) -> None:
    with pytest.raises(ValueError, match="--seed-"):
        sparsesync.sync("a", "b", words)
