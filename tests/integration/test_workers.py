"""copy by workers of an executor: every engine gives the same file, and nothing that goes wrong gives another."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import pytest

import sparsesync
from sparsesync.comparison import compare
from sparsesync.engine.content.compare import Tally
from sparsesync.engine.content.copy_file import CopyOptions
from sparsesync.engine.content.hands.writer import RangeWriter
from sparsesync.engine.files.writing.target import Target
from sparsesync.hosts.copies import Copies
from sparsesync.seeding.embedded import Done
from sparsesync.workers import bundles, comparing, coordinator, engines, file_copy, journal, plan, run, scanning, task
from sparsesync.workers.file_copy import FileCopy
from sparsesync.workers.task import Request
from tests.support.executors import (
    Counting,
    Forgetting,
    Losing,
    Recording,
    Stalling,
    TakesNoMore,
    Unruly,
    Wrapped,
    changes_once,
    dies_once,
    sees_another_mount,
    stalls_once,
    writes_before,
    writes_wrong,
)
from tests.support.filesystems import allocated, need_root, same_content, sparse_file
from tests.support.mounts import bindfs, refuser

KIB = 1024
MIB = 1 << 20
ROOT = Path(__file__).parents[2]
EXTENTS = [(number * 700 * KIB, 100 * KIB + number * 1234) for number in range(24)]
SIZE = 32 * MIB


@pytest.fixture(autouse=True)
def _small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_copy, "share_of", lambda data, workers: 128 * KIB)


def goes_at_15(count: int) -> None:
    """Have no executor any more at that task, when some of those before are done."""
    if count == 15:
        time.sleep(0.1)
        raise RuntimeError("gone")


def made(folder: Path) -> tuple[Path, Path]:
    """A sparse source that was not written to a moment ago, and the place for its copy."""
    source = sparse_file(folder / "src", SIZE, EXTENTS)
    os.chmod(source, 0o640)
    os.setxattr(source, "user.kept", b"value")
    os.utime(source, ns=(1, 1_500_000_000_123_456_789))
    return source, folder / "dst"


def check(source: Path, copy: Path) -> None:
    """That is the copy, and nothing is left beside it."""
    assert same_content(source, copy) and allocated(copy) <= allocated(source) + 64 * KIB
    assert sorted(os.listdir(copy.parent)) == sorted({source.name, copy.name} & set(os.listdir(copy.parent)))
    a, b = os.stat(source), os.stat(copy)
    assert (a.st_mode, a.st_mtime_ns, a.st_size) == (b.st_mode, b.st_mtime_ns, b.st_size)
    assert os.getxattr(copy, "user.kept") == b"value"


def copy_checked(source: Path, copy: Path, executor: Executor) -> None:
    """Copy with --check=other."""
    with Copies(executor=executor, check_other=True) as copies:
        copies.copy(source, copy, CopyOptions("all", reflink="never"))


@pytest.fixture(params=["threads", "processes", "dask"], scope="module")
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "threads":
        with ThreadPoolExecutor(2) as threads:
            yield threads
    elif request.param == "processes":
        with ProcessPoolExecutor(2) as processes:
            yield processes
    else:
        distributed = pytest.importorskip("distributed")
        with distributed.Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
            yield client.get_executor(pure=False)


def test_every_engine_makes_the_same_file(tmp_path: Path, executor: Executor) -> None:
    source, copy = made(tmp_path)
    told: list[int] = []
    sparsesync.copy2(source, copy, reflink="never", executor=executor, progress=told.append)
    check(source, copy)
    assert sum(told) == sum(length for _, length in sparsesync.extents(source)) and len(told) > 15
    sparsesync.copyfile(source, copy, executor=executor, sparse="always")
    assert same_content(source, copy)
    if not isinstance(executor, ThreadPoolExecutor):
        os.unlink(copy)
        copy_checked(source, copy, executor)
        check(source, copy)


def made_tree(folder: Path) -> Path:
    """A tree to be sent: small files, a large one, another name of it, and what is no file."""
    source = folder / "tree"
    (source / "a/b").mkdir(parents=True)
    for number in range(40):
        sparse_file(source / ["", "a", "a/b"][number % 3] / f"f{number}", MIB, [(number * 4 * KIB, 4 * KIB)])
    large = sparse_file(source / "a/large", SIZE, EXTENTS)
    os.setxattr(large, "user.kept", b"value")
    os.link(large, source / "a/b/other name")
    (source / "link").symlink_to("a/large")
    os.utime(source / "a", (1, 2))
    return source


def is_sent(source: Path, copy: Path) -> None:
    """rsync finds nothing to do, no file takes more than its source, and nothing is left beside them."""
    found = subprocess.run(["rsync", "-aHAXnic", f"{source}/", f"{copy}/"], capture_output=True, text=True, check=True)
    assert found.stdout == "" and not list(copy.rglob(".*"))
    for path in source.rglob("*"):
        assert allocated(copy / path.relative_to(source)) <= allocated(path) + 64 * KIB or path.is_dir()


def test_every_engine_sends_and_scans_a_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    source = made_tree(tmp_path)
    told: list[Done] = []
    result = sparsesync.sync(f"{source}/", tmp_path / "dst", "-aHAX", executor=executor, progress=told.append)
    assert result.status == 0 and len(result.seeded) == 41 and not result.left
    assert sum(told) == told[0].total == result.bytes
    is_sent(source, tmp_path / "dst")
    monkeypatch.setattr(scanning, "_TASK_SECONDS", 0)
    for every in (False, True):
        found = list(sparsesync.scan(source, every_link=every, executor=executor))
        assert found == list(sparsesync.scan(source, every_link=every)) and len(found) == 41 + every


@pytest.mark.parametrize("seed", range(3))
def test_an_unruly_executor_sends_the_same_tree_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(bundles, "LEAST_BYTES", 128 * KIB)
    monkeypatch.setattr(bundles, "_MOST_FILES", 3)
    source, copy = made_tree(tmp_path), tmp_path / "dst"
    with Unruly(seed) as executor:
        for _ in range(5):
            try:
                result = sparsesync.sync(f"{source}/", copy, "-aHAX", executor=executor)
                break
            except sparsesync.LinkError as error:
                assert "the workers are gone" in str(error)
    assert result.status == 0 and not result.left
    is_sent(source, copy)
    monkeypatch.setattr(scanning, "_TASK_SECONDS", 0)
    with Unruly(seed) as executor:
        assert list(sparsesync.scan(source, executor=executor)) == list(sparsesync.scan(source))


@pytest.mark.parametrize("options", ["-aHAX", "-aAX"])
def test_large_files_are_given_out_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    monkeypatch.setattr(plan, "LEAST_BYTES", 128 * KIB)
    source, copy = made_tree(tmp_path), tmp_path / "dst"
    last = sparse_file(source / "z", SIZE, EXTENTS[12:])
    with Recording() as executor:
        result = sparsesync.sync(f"{source}/", copy, options, executor=executor)
    links = options == "-aAX"
    assert result.status == 0 and not result.left and len(result.seeded) == 42 + links
    order: list[str] = []
    for _, requests in executor.given:
        order += [os.path.basename(Request(*request).source) for request in requests]
    files = list(dict.fromkeys(order))
    # Of one inode rsync asks for one name, or for a file of each.
    large = ["large", "other name"] if links else ["other name"]
    assert sorted(files[: len(large)]) == large and files[len(large)] == last.name and len(files) == len(result.seeded)
    if links:
        assert subprocess.run(["diff", "-r", source, copy]).returncode == 0
    else:
        is_sent(source, copy)


@pytest.mark.parametrize("stalling", [Stalling, Forgetting])
def test_files_that_workers_cannot_send_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stalling: type[Stalling]
) -> None:
    monkeypatch.setattr(run, "_SLOW_SECONDS", 0.1)
    monkeypatch.setattr(run, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(bundles, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(bundles, "_MOST_FILES", 2)
    source, copy = made_tree(tmp_path), tmp_path / "dst"

    def change(count: int) -> None:
        if count == 25:  # some of its tasks are done
            with open(source / "a/large", "r+b") as file:
                file.write(b"changed")

    with Counting(change) as counting:
        result = sparsesync.sync(f"{source}/", copy, "-aHAX", executor=counting)
    assert result.status == 0 and [name for name, why in result.left if "changed" in why] == ["a/b/other name"]
    shutil.rmtree(copy)
    with stalling(3) as executor:
        result = sparsesync.sync(f"{source}/", copy, "-aHAX", executor=executor)
        assert len(result.left) == 2 and all("does not answer" in why for _, why in result.left)
        executor.go_on.set()
    assert not list(copy.rglob(".*"))
    assert subprocess.run(["diff", "-r", source, copy]).returncode == 0


def test_workers_find_the_first_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor) -> None:
    monkeypatch.setattr(comparing, "LEAST_BYTES", 1)
    monkeypatch.setattr(comparing, "share_of", lambda data, workers: 1 * MIB)
    a, b = made(tmp_path)
    shutil.copyfile(a, b)  # dense
    tallies = Tally(), Tally()
    assert list(sparsesync.verify(a, b, tallies=tallies, executor=executor)) == []
    assert tallies[0] == tallies[1] == Tally(SIZE, 0)
    chosen = random.Random(3)
    for tail, full in ((b"", False), (b"", True), (b"longer", False)):
        with open(b, "r+b") as file:
            for at in (chosen.randrange(SIZE), chosen.randrange(SIZE), SIZE):
                file.seek(at)
                file.write(tail or b"\xff")
        found = list(sparsesync.verify(a, b, full=full, executor=executor))
        assert found == list(sparsesync.verify(a, b, full=full)) != []
        shutil.copyfile(a, b)
    with open(b, "ab") as file:
        file.write(b"longer")
    assert [found.offset for found in sparsesync.verify(a, b, executor=executor)] == [SIZE]


@pytest.mark.parametrize("full", [False, True])
def test_workers_compare_small_files_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor, full: bool
) -> None:
    monkeypatch.setattr(comparing, "_MOST_PAIRS", 3)
    monkeypatch.setattr(comparing, "_MOST_AHEAD", 7)
    a, b = made_tree(tmp_path), tmp_path / "dst"
    subprocess.run(["cp", "-a", a, b], check=True)
    os.unlink(a / "f0")
    os.unlink(b / "a/f1")
    os.unlink(b / "a/b/f2")
    (b / "a/b/f2").mkdir()
    os.chmod(b / "f6", 0o600)
    for number in (3, 4, 9, 12, 13, 27, 39):
        with open(b / ["", "a", "a/b"][number % 3] / f"f{number}", "r+b") as file:
            file.seek(number * 20000)
            file.write(b"other")

    def found(executor: Executor | None) -> tuple[object, ...]:
        equal: list[tuple[str, bool]] = []
        tallies = Tally(), Tally()
        told: list[int] = []
        differences = compare.verify(
            a, b, full=full, tallies=tallies, progress=told.append, attributes=True, executor=executor,
            on_equal=lambda path, again: equal.append((path, again)),
        )  # fmt: skip
        return [*differences], equal, tallies, sum(told)

    alone = found(None)
    assert len(alone[0]) == 11 and len(alone[1]) == 32  # type: ignore[arg-type]
    assert found(executor) == alone


def test_what_a_worker_cannot_compare_is_compared_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_MOST_PAIRS", 3)
    a, b = made_tree(tmp_path), tmp_path / "dst"
    subprocess.run(["cp", "-a", a, b], check=True)
    differing = b / "a/f10"
    differing.write_bytes(b"other")
    marker = tmp_path / "gone"
    marker.touch()
    with ProcessPoolExecutor(2) as pool:
        touching = Wrapped(pool, writes_before, str(b / "f3"))
        (found,) = sparsesync.verify(a, b, executor=touching)
        assert (found.path, found.offset) == ("a/f10", 0) and os.stat(b / "f3").st_mtime > os.stat(a / "f3").st_mtime
        with pytest.raises(OSError, match="the workers are gone") as caught:
            list(sparsesync.verify(a, b, executor=Wrapped(pool, dies_once, str(marker))))
        assert caught.value.filename is None
    for at in (1, 3, 14):
        with ProcessPoolExecutor(2) as pool, pytest.raises(OSError, match="the workers are gone"):
            list(sparsesync.verify(a, b, executor=TakesNoMore(pool, at)))


def test_a_file_that_changes_while_workers_compare_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "LEAST_BYTES", 1)
    monkeypatch.setattr(comparing, "share_of", lambda data, workers: 128 * KIB)
    a, b = made(tmp_path)
    shutil.copyfile(a, b)
    with Counting(lambda count: os.utime(b) if count == 5 else None) as executor:
        with pytest.raises(OSError, match="it changed meanwhile") as caught:
            list(sparsesync.verify(a, b, executor=executor))
        assert caught.value.filename == str(b)


def test_mpi(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", "import mpi4py.MPI"], capture_output=True).returncode == 0
    if shutil.which("mpiexec") is None or not found:
        pytest.skip("MPI is not installed")  # on CI too: it is not among what the README installs
    source, copy = made(tmp_path)
    command = [sys.executable, "-m", "mpi4py.futures", "-m", "sparsesync", "copy", "-p", "--workers", "mpi"]
    subprocess.run(["mpiexec", "-n", "3", *command, "--check", "other", "--reflink", "never", source, copy], check=True)
    check(source, copy)


@pytest.mark.parametrize("seed", range(5))
def test_an_unruly_executor_gives_the_same_file_or_an_error(tmp_path: Path, seed: int) -> None:
    source, copy = made(tmp_path)
    copy.write_bytes(b"old")
    with Unruly(seed) as executor:
        for _ in range(5):
            try:
                sparsesync.copy2(source, copy, reflink="never", executor=executor)
                break
            except OSError as error:
                assert "the workers are gone" in str(error) and copy.read_bytes() == b"old"
    check(source, copy)


@pytest.mark.parametrize("kind", [Stalling, Forgetting])
def test_late_workers_write_nothing_into_the_finished_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Stalling]
) -> None:
    monkeypatch.setattr(run, "_SLOW_SECONDS", 0.1)
    source, copy = made(tmp_path)
    withdraw = Target.withdraw

    def then_go_on(target: Target, name: str) -> None:
        withdraw(target, name)
        stalling.go_on.set()

    monkeypatch.setattr(Target, "withdraw", then_go_on)
    with kind(3) as stalling:
        sparsesync.copy2(source, copy, reflink="never", executor=stalling)
        assert isinstance(stalling.late[0], tuple) and stalling.late[0][0] == "stopped"
    check(source, copy)


@pytest.mark.parametrize("tree", [False, True])
def test_nor_does_a_worker_that_the_engine_has_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: bool
) -> None:
    (tmp_path / "files").mkdir()
    source, copy = made(tmp_path / "files")
    go_on = threading.Event()
    there: list[bool] = []

    def then_go_on(method: Callable[..., None]) -> Callable[..., None]:
        return lambda *args, **more: (method(*args, **more), go_on.set())[0]

    def write(writer: RangeWriter, ranges: Iterable[tuple[int, int]]) -> int:
        if threading.current_thread().name == Losing.LOST:
            losing.inside.set()
            go_on.wait(20)
            there.append(copy.exists())
        return really_write(writer, ranges)

    really_write = RangeWriter.write
    monkeypatch.setattr(RangeWriter, "write", write)
    for name in ("withdraw", "commit"):
        monkeypatch.setattr(Target, name, then_go_on(getattr(Target, name)))
    with Losing() as losing:
        if tree:
            copy = tmp_path / "dst/src"
            sparsesync.sync(f"{source.parent}/", f"{copy.parent}/", "-aX", executor=losing)
        else:
            sparsesync.copy2(source, copy, reflink="never", executor=losing)
    assert there == [False]
    check(source, copy)


@pytest.mark.parametrize("locks", ["had by a worker", "of all machines", "of one machine"])
def test_workers_of_a_run_that_broke_off_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: str
) -> None:
    monkeypatch.setattr(file_copy, "is_recent", lambda mtime_ns: False)
    monkeypatch.setattr(file_copy, "_ORPHANS_SECONDS", 0.1 if locks == "of one machine" else 1e9)
    monkeypatch.setattr(file_copy, "knows_holes", lambda fd: locks != "of one machine")
    source, copy = made(tmp_path)
    with pytest.raises(KeyboardInterrupt), Counting(lambda n: time.sleep(0.1) or interrupt() if n == 15 else 0) as some:
        sparsesync.copy2(source, copy, reflink="never", executor=some)
    assert journals(tmp_path)
    withdraw, withdrawn = Target.withdraw, []
    with open(tmp_path / ".dst.sparsesync-journal") as journal, ThreadPoolExecutor(2) as executor:
        if locks == "had by a worker":
            task.lock(journal.fileno(), fcntl.F_RDLCK)

        def end(target: Target, name: str) -> None:
            withdraw(target, name)
            withdrawn.append(copy.exists())
            task.lock(journal.fileno(), fcntl.F_UNLCK)

        monkeypatch.setattr(Target, "withdraw", end)
        sparsesync.copy2(source, copy, reflink="never", executor=executor)
    assert withdrawn == ([] if locks == "of all machines" else [False])
    check(source, copy)


@pytest.mark.parametrize("kind", [Stalling, Forgetting])
def test_a_worker_that_does_not_end_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Stalling]
) -> None:
    monkeypatch.setattr(run, "_SLOW_SECONDS", 0.1)
    monkeypatch.setattr(coordinator, "GRACE_SECONDS", 0.1)
    source, copy = made(tmp_path)
    copy.write_bytes(b"old")
    with kind(3) as executor:
        with pytest.raises(OSError, match="does not answer, and may still write"):
            sparsesync.copy2(source, copy, reflink="never", executor=executor)
        assert copy.read_bytes() == b"old"
        executor.go_on.set()
    with ThreadPoolExecutor(2) as threads:
        sparsesync.copy2(source, copy, reflink="never", executor=threads)
    check(source, copy)


def test_a_source_that_changes_is_an_error(tmp_path: Path) -> None:
    source, copy = made(tmp_path)
    copy.write_bytes(b"old")

    def change(count: int) -> None:
        if count == 9:
            with open(source, "r+b") as file:
                file.seek(SIZE - 4096)
                file.write(b"changed")

    with Counting(change) as executor, pytest.raises(OSError, match="it changed meanwhile") as caught:
        sparsesync.copy2(source, copy, reflink="never", executor=executor)
    assert caught.value.filename == str(source)
    assert copy.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["dst", "src"]


class _Forgetful(Counting):
    """Of which the connection is lost at the second task. What was given to it is never answered."""

    def __init__(self) -> None:
        super().__init__(lambda count: None)
        self._client = types.SimpleNamespace(status="running")

    def submit(self, do, /, *args, **more):  # type: ignore[no-untyped-def]
        future = super().submit(do, *args) if self.count == 0 else Future()
        self.count += 1
        if self.count == 2:
            self._client.status = "closed"
        return future


def test_a_lost_scheduler_is_an_error(tmp_path: Path) -> None:
    source, copy = made(tmp_path)
    copy.write_bytes(b"old")
    with _Forgetful() as executor, pytest.raises(OSError, match="the scheduler is lost"):
        sparsesync.copy2(source, copy, reflink="never", executor=executor)
    assert copy.read_bytes() == b"old"


def test_a_killed_worker_costs_its_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    source, copy = made(folder)
    copy.write_bytes(b"old")
    marker = tmp_path / "die"
    take = FileCopy.take

    def then_die(copy: FileCopy, task: plan.Task, written: int) -> None:
        take(copy, task, written)
        marker.touch()

    with monkeypatch.context() as patched, ProcessPoolExecutor(2) as pool:
        patched.setattr(FileCopy, "take", then_die)
        with pytest.raises(OSError, match="run this again, and it goes on"):
            sparsesync.copy2(source, copy, reflink="never", executor=Wrapped(pool, dies_once, str(marker)))
    assert copy.read_bytes() == b"old"
    with ProcessPoolExecutor(2) as pool:
        sparsesync.copy2(source, copy, reflink="never", executor=pool)
    check(source, copy)


_RUN = """
import sys, sparsesync
from sparsesync.engine.content.compare import Tally
from sparsesync.workers import file_copy
from tests.support.executors import killed_at_some_task
file_copy.share_of = lambda data, workers: 128 * 1024
file_copy._ORPHANS_SECONDS = 0
file_copy.is_recent = lambda mtime_ns: False
before = open("/proc/self/io").read()
with killed_at_some_task() as executor:
    sparsesync.copy2(sys.argv[1], sys.argv[2], reflink="never", executor=executor)
print(int(open("/proc/self/io").read().split()[1]) - int(before.split()[1]))
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_coordinator_is_gone_on_from(tmp_path: Path, seed: int) -> None:
    source, copy = made(tmp_path)
    copy.write_bytes(b"old")
    whole, read = sum(length for _, length in sparsesync.extents(source)), 0
    for number in (*random.Random(seed).sample(range(6, 12), 2), 0):
        done = subprocess.run(
            [sys.executable, "-c", _RUN, source, copy],
            cwd=ROOT, env={**os.environ, "SPARSESYNC_TEST_KILL": str(number)}, capture_output=True, text=True,
        )  # fmt: skip
        journal = tmp_path / ".dst.sparsesync-journal"
        if done.returncode:
            assert done.returncode == -9 and copy.read_bytes() == b"old", done.stderr
            read = sum(json.loads(line.rpartition(" ")[0])[2] for line in _tasks_in(journal))
    assert done.returncode == 0 and read > whole // 10, done.stderr
    assert int(done.stdout) < whole - read + 256 * KIB  # Python reads modules, too
    check(source, copy)


def test_every_engine_bears_a_source_that_changes_and_a_worker_that_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    monkeypatch.setattr(run, "_SLOW_SECONDS", 0.1)
    monkeypatch.setattr(coordinator, "GRACE_SECONDS", 0.1)
    (tmp_path / "files").mkdir()
    source, copy = made(tmp_path / "files")
    copy.write_bytes(b"old")
    change, stall, go_on = (tmp_path / name for name in ("change", "stall", "go on"))
    change.touch()
    changing = Wrapped(executor, changes_once, str(change), str(source))
    with pytest.raises(OSError, match="it changed meanwhile"):
        sparsesync.copy2(source, copy, reflink="never", executor=changing)
    assert copy.read_bytes() == b"old" and sorted(os.listdir(copy.parent)) == ["dst", "src"]
    stall.touch()
    stalling = Wrapped(executor, stalls_once, str(stall), str(go_on))
    try:
        with pytest.raises(OSError, match="does not answer, and may still write"):
            sparsesync.copy2(source, copy, reflink="never", executor=stalling)
        assert copy.read_bytes() == b"old"
    finally:
        go_on.touch()
    sparsesync.copy2(source, copy, reflink="never", executor=executor)
    check(source, copy)


def interrupt(*args: object, **more: object) -> NoReturn:
    raise KeyboardInterrupt


def journals(folder: Path) -> dict[str, int]:
    """The journals that can be gone on from, and how many tasks they have."""
    return {
        path.name: len(_tasks_in(path))
        for path in folder.rglob(".*.sparsesync-journal")
        if [*path.parent.glob(path.name.replace("-journal", "-[td]*"))]
    }


@pytest.mark.parametrize("tree", [False, True])
def test_an_interrupt_keeps_what_is_done_whenever_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: bool
) -> None:
    monkeypatch.setattr(file_copy, "_ORPHANS_SECONDS", 0)
    monkeypatch.setattr(file_copy, "is_recent", lambda mtime_ns: False)
    monkeypatch.setattr(bundles, "LEAST_BYTES", 128 * KIB)
    source, copy = (tmp_path / "tree", tmp_path / "dst") if tree else made(tmp_path)
    if tree:
        source.mkdir()
        for name in ("one", "other"):
            sparse_file(source / name, SIZE, EXTENTS)

    def run(executor: Executor) -> None:
        if tree:
            sparsesync.sync(f"{source}/", f"{copy}/", "-a", executor=executor)
        else:
            sparsesync.copy2(source, copy, reflink="never", executor=executor)

    at = 28 if tree else 15  # of a tree the first file's tasks come first, and a few of the other's
    with pytest.raises(KeyboardInterrupt), Counting(lambda n: time.sleep(0.1) or interrupt() if n == at else 0) as some:
        run(some)
    kept = journals(tmp_path)
    assert len(kept) == 1 and min(kept.values()) > 3
    # When it is being gone on with, before anything is planned; and when all is done, before it has its name.
    for module, name in ((file_copy, "plan"), (Target, "commit")):
        with monkeypatch.context() as patched, ThreadPoolExecutor(2) as threads:
            patched.setattr(module, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(threads)
        now = journals(tmp_path)
        assert all(now[each] >= count for each, count in kept.items()), (name, kept, now)
    with Counting(lambda n: None) as executor:
        run(executor)
    assert executor.count < 5 and not journals(tmp_path) and not [*tmp_path.rglob(".*")]
    for path in [*source.iterdir()] if tree else [source]:
        assert same_content(path, copy / path.name if tree else copy)


def test_a_scheduler_without_workers_is_told_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(run, "_ASK_SECONDS", 0.1)
    source, copy = made(tmp_path)
    told: list[str] = []

    def tell(what: Warning | str, *rest: object, **more: object) -> None:
        told.append(str(what))
        cluster.scale(1)

    cluster = distributed.LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0")
    with cluster, distributed.Client(cluster) as client, warnings.catch_warnings():
        warnings.simplefilter("always")
        # Who is told that there are none has one started.
        monkeypatch.setattr(warnings, "showwarning", tell)
        sparsesync.copy2(source, copy, reflink="never", executor=client.get_executor(pure=False))
    assert told[0] == "the scheduler has no workers: they are waited for"
    check(source, copy)


def test_the_command_is_not_run_again_by_a_process_that_is_spawned(tmp_path: Path) -> None:
    source, copy = made(tmp_path)
    script = ROOT / "sparsesync/bin/sparsesync"
    workers = "tests.support.executors:two_spawned"
    argv = [sys.executable, str(script), "copy", "-p", "--workers", workers, str(source), str(copy)]
    done = subprocess.run(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    check(source, copy)


@pytest.mark.parametrize("at", range(3))
def test_where_no_threads_can_be_started_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    source, copy = made(tmp_path)
    start, count = threading.Thread.start, itertools.count()

    def lacking(thread: threading.Thread) -> None:
        if next(count) >= at:
            raise RuntimeError("can't start new thread")
        start(thread)

    with engines.engine("concurrent.futures:ProcessPoolExecutor") as pool:
        monkeypatch.setattr(threading.Thread, "start", lacking)
        if at < 2:
            with pytest.raises(OSError, match="the workers are gone"):
                sparsesync.copy2(source, copy, reflink="never", executor=pool)
            assert os.listdir(tmp_path) == ["src"]
        else:
            sparsesync.copy2(source, copy, reflink="never", executor=pool)


def test_where_there_is_no_room_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = made(tmp_path)
    fdatasync, count = os.fdatasync, itertools.count()

    def full(fd: int) -> None:
        if next(count) > 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", full)
    with ThreadPoolExecutor(2) as threads, pytest.raises(OSError, match="No space left"):
        sparsesync.copy2(source, copy, reflink="never", executor=threads)
    assert os.listdir(tmp_path) == ["src"]


def _tasks_in(journal: Path) -> list[str]:
    return [line for line in journal.read_text().splitlines()[1:] if line]


def test_only_what_goes_on_says_that_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = made(tmp_path)
    tree, same = made_tree(tmp_path), tmp_path / "same"
    shutil.copytree(tree, same, symlinks=True)

    def told(at: int, do: Callable[[Executor], object]) -> bool:
        with ThreadPoolExecutor(2) as threads, pytest.raises(OSError, match=r"workers are gone .*: run this") as caught:
            do(TakesNoMore(threads, at))
        assert str(caught.value).count("run this again") == 1
        return "and it goes on where it was" in str(caught.value)

    assert not told(1, lambda executor: list(sparsesync.scan(tree, executor=executor)))
    for worth in (comparing._WORTH_TASKS, 0):  # many files in a task, and each in tasks of its own
        monkeypatch.setattr(comparing, "_WORTH_TASKS", worth)
        assert not told(1, lambda executor: list(sparsesync.verify(tree, same, executor=executor)))
    assert not told(1, lambda executor: sparsesync.copyfile(source, copy, reflink="never", executor=executor))
    assert told(15, lambda executor: sparsesync.copyfile(source, copy, reflink="never", executor=executor))
    assert told(1, lambda executor: sparsesync.sync(f"{tree}/", tmp_path / "b", "-a", executor=executor))


def test_a_journal_of_another_source_is_not_believed(tmp_path: Path) -> None:
    source, copy = made(tmp_path)

    with Counting(goes_at_15) as executor, pytest.raises(OSError, match="the workers are gone"):
        sparsesync.copy2(source, copy, reflink="never", executor=executor)
    assert len(_tasks_in(tmp_path / ".dst.sparsesync-journal")) > 5
    with open(source, "r+b") as file:
        file.write(b"other")
    with ThreadPoolExecutor(2) as threads:
        sparsesync.copy2(source, copy, reflink="never", executor=threads)
    check(source, copy)


@pytest.mark.skipif(shutil.which("chattr") is None, reason="needs e2fsprogs")
def test_what_is_begun_anew_keeps_the_flags_of_the_old_file(tmp_path: Path) -> None:
    source, copy = made(tmp_path)
    copy.write_bytes(b"old")
    if subprocess.run(["chattr", "+d", copy], check=False, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this filesystem has no flags")
    (tmp_path / ".dst.sparsesync-tasks").write_bytes(b"of another source")
    (tmp_path / ".dst.sparsesync-tasks").chmod(0o600)
    with ThreadPoolExecutor(2) as threads:
        sparsesync.copy2(source, copy, reflink="never", executor=threads)
    check(source, copy)
    assert "d" in subprocess.run(["lsattr", copy], check=True, capture_output=True, text=True).stdout.split()[0]


@pytest.mark.parametrize("removed", [True, False])
def test_a_journal_of_a_temporary_that_is_gone_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    """The next temporary may have its inode, and be of a run that is killed before it has a journal of its own."""
    source, copy = made(tmp_path)
    wanted = file_copy.FileCopy._wanted
    monkeypatch.setattr(file_copy.FileCopy, "_wanted", lambda *given: {**wanted(*given), "temporary": 12})
    monkeypatch.setattr(file_copy, "is_recent", lambda mtime_ns: False)
    monkeypatch.setattr(file_copy, "_ORPHANS_SECONDS", 0)

    with Counting(goes_at_15) as executor, pytest.raises(OSError, match="the workers are gone"):
        sparsesync.copy2(source, copy, reflink="never", executor=executor)
    if removed:
        (tmp_path / ".dst.sparsesync-tasks").unlink()
    killed = os.fork()
    if not killed:
        monkeypatch.setattr(journal.Journal, "begin", lambda *_: os._exit(0))
        with Copies(executor=ThreadPoolExecutor(2), check_other=not removed) as copies:
            copies.copy(source, copy, CopyOptions("all", reflink="never"))
        os._exit(1)
    assert os.waitpid(killed, 0)[1] == 0
    with ThreadPoolExecutor(2) as threads:
        sparsesync.copy2(source, copy, reflink="never", executor=threads)
    check(source, copy)


def test_nothing_is_left_to_go_on_from_where_nothing_can_be_locked(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    source, copy = made(tmp_path / "files")
    with refuser(tmp_path / "files", tmp_path / "refuser", flock=errno.ENOSYS) as mount:
        with Counting(goes_at_15) as executor, pytest.raises(OSError, match="the workers are gone"):
            sparsesync.copyfile(mount / source.name, mount / copy.name, executor=executor)
        assert os.listdir(tmp_path / "files") == [source.name]


def test_what_a_worker_writes_wrong_is_found_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "LEAST_BYTES", 128 * KIB)
    (tmp_path / "files").mkdir()
    source, copy = made(tmp_path / "files")
    tree, dst = made_tree(tmp_path), tmp_path / "dst"
    options = ["-aHAX", "--seed-check=other"]
    with ProcessPoolExecutor(2) as pool:
        with pytest.raises(OSError, match=r"what .* wrote is not what .* has read back"):
            copy_checked(source, copy, Wrapped(pool, writes_wrong, "dst"))
        assert os.listdir(source.parent) == ["src"]
        for wrong in ("f7", "other name"):
            result = sparsesync.sync(f"{tree}/", dst, options, executor=Wrapped(pool, writes_wrong, wrong))
            assert result.status == 0 and [os.path.basename(name) for name, _ in result.left] == [wrong]
            assert "has read back" in result.left[0][1] and not list(dst.rglob(".*"))
            assert subprocess.run(["diff", "-r", tree, dst]).returncode == 0
            shutil.rmtree(dst)
        result = sparsesync.sync(f"{tree}/", dst, options, executor=pool)
        assert result.status == 0 and not result.left
    is_sent(tree, dst)
    with ThreadPoolExecutor(1) as one, pytest.raises(sparsesync.LinkError, match="there is only one worker"):
        sparsesync.sync(f"{tree}/", tmp_path / "other", options, executor=one)
    for option, told in (("--seed-check=other", "is for --seed-workers"), ("--seed-check=me", "'me' is not other")):
        with pytest.raises(ValueError, match=told):
            sparsesync.sync(f"{tree}/", tmp_path / "other", ["-a", option])


def test_two_mounts_of_one_folder(tmp_path: Path) -> None:
    need_root("a mount namespace needs root")
    folder = tmp_path / "files"
    folder.mkdir()
    source, _ = made(folder)
    with bindfs(folder, tmp_path / "one") as one, bindfs(folder, tmp_path / "other") as other:
        # The second process of the pool sees the one mount as the other.
        with (
            ProcessPoolExecutor(1) as here,
            ProcessPoolExecutor(1, initializer=sees_another_mount, initargs=(str(other), str(one))) as there,
        ):
            copy_checked(one / "src", one / "dst", _InTurn([here, there]))
        check(source, folder / "dst")


class _InTurn(Executor):
    _max_workers = 2

    def __init__(self, executors: list[ProcessPoolExecutor]) -> None:
        self._executors = executors

    def submit(self, do, /, *args, **more):  # type: ignore[no-untyped-def]
        self._executors.reverse()
        return self._executors[0].submit(do, *args, **more)


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, copy = made(tmp_path)
    monkeypatch.setattr(file_copy, "version", lambda: "0.0.7")
    with ThreadPoolExecutor(1) as executor, pytest.raises(OSError, match=r"has sparsesync .*, and not 0\.0\.7"):
        sparsesync.copy2(source, copy, reflink="never", executor=executor)
    assert os.listdir(tmp_path) == ["src"]


def test_what_workers_cannot_do(tmp_path: Path) -> None:
    source, copy = made(tmp_path)
    with ThreadPoolExecutor(1) as executor, open(source, "rb") as file:
        for src, more in ((source, {"inplace": True}), (source, {"overlay": True}), (file.fileno(), {})):
            with pytest.raises(ValueError, match="workers"):
                sparsesync.copyfile(src, copy, executor=executor, **more)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="neither can be host:path"):
            sparsesync.copyfile(source, "host:dst", executor=executor)
    assert os.listdir(tmp_path) == ["src"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "nobody"], "is no engine for workers"),
        (["--workers", "no.such:function"], "No module named"),
        (["--workers", "os:getpid"], "returns an executor"),
        (["--check", "other"], "is for --workers"),
        (["--jobs", "0"], "is no number of threads"),
        (["--jobs", "2", "--workers", "mpi"], "do not go together"),
    ],
)
def test_bad_options_take_one_line(tmp_path: Path, options: list[str], told: str) -> None:
    source, copy = made(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "sparsesync", "copy", *options, source, copy], capture_output=True, text=True
    )
    assert done.returncode and told in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not copy.exists()


@pytest.mark.parametrize("jobs", ["1", "3"])
def test_jobs(tmp_path: Path, jobs: str) -> None:
    source, copy = made(tmp_path)
    subprocess.run(
        [sys.executable, "-m", "sparsesync", "copy", "-p", "--reflink=never", "--jobs", jobs, source, copy], check=True
    )
    check(source, copy)
    subprocess.run([sys.executable, "-m", "sparsesync", "copy", "--inplace", "--jobs", jobs, source, copy], check=True)
    check(source, copy)
    subprocess.run([sys.executable, "-m", "sparsesync", "verify", "--jobs", jobs, source, copy], check=True)
