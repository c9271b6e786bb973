"""``sparsesync sync`` against real rsync: the same tree, except that holes are holes.

Each case is run twice over the same source and the same earlier destination, by rsync and by
sparsesync, and what they leave is compared entry by entry.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import sparsesync
from sparsesync.engine.transfer.outgoing import OutgoingFile
from tests.support.filesystems import filesystem, need, need_root
from tests.support.sync import OLD, difference, make_destination, make_source, run, snapshot, sparse, sync

KIB = 1024
MIB = 1024 * KIB


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")


OPTIONS = [
    ["-a"], ["-r"], ["-rt"], ["-rp"], ["-rltD"], ["-aH"], ["-aX"], ["-aA"], ["-aHAX"], ["--inplace"], ["-S"], ["-u"],
    ["--size-only"], ["--existing"], ["--ignore-existing"], ["--delete"], ["--delete-before"], ["--backup"],
    ["--backup", "--suffix=.bak"], ["-b", "--backup-dir=old"], ["--no-t"], ["--no-p"], ["-O"], ["-E"], ["-x"],
    ["--chmod=F640"], ["--exclude=/a/b"], ["--exclude=*.img"], ["--include=*/", "--include=*img*", "--exclude=*"],
    ["-m"], ["--max-size=1M"], ["--min-size=1M"], ["-L"], ["-K"], ["-R"], ["--no-implied-dirs"], ["-z"], ["-W"],
    ["--no-W"], ["--partial"], ["--partial-dir=.part"], ["--delay-updates"], ["--append"], ["-c"], ["-I"],
    ["--fsync"], ["--numeric-ids"], ["--chown=55:66"], ["--force"], ["-y"], ["--remove-source-files"], ["-q"],
    ["-v"], ["-i"], ["--out-format=%n"], ["--stats"], ["-P"], ["-h"], ["--modify-window=1"], ["-U"],
    ["-og", "--fake-super"],
]  # fmt: skip


@pytest.mark.slow
@settings(
    max_examples=int(os.environ.get("SYNC_EXAMPLES", "50")), deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    options=st.lists(st.sampled_from(OPTIONS), min_size=1, max_size=4),
    base=st.sampled_from(["-a", "-a", "-aHAX", "-r", "-rt", "-rlpt"]),
    kind=st.sampled_from(["missing", "empty", "older", "in the way"]),
    form=st.sampled_from(["src/", "src", ".", "file", "two", "files-from"]),
    umask=st.sampled_from([0o022, 0o077, 0o002]),
)
@example(options=[["-E"]], base="-r", kind="missing", form="src/", umask=0o022)
@example(options=[["-R"]], base="-r", kind="missing", form=".", umask=0o002)
def test_leaves_what_rsync_leaves(
    tmp_path_factory: pytest.TempPathFactory, options: list[list[str]], base: str, kind: str, form: str, umask: int
) -> None:
    top = tmp_path_factory.mktemp("case")
    given_options = [base, *(word for option in options for word in option)]
    results: dict[str, dict[str, tuple[object, ...]]] = {}
    outcomes = {}
    for who in ("rsync", "sparsesync"):
        place = top / who
        place.mkdir()
        make_source(place / "src")
        make_destination(place / "dst", kind)
        sources, cwd = {
            "src/": (["src/"], place),
            "src": (["src"], place),
            ".": (["."], place / "src"),
            "file": (["src/top.img"], place),
            "two": (["src/a", "src/top.img"], place),
            "files-from": (["--files-from=list", "src"], place),
        }[form]
        (place / "list").write_text("a/b/img\nc\ntop.img\n")
        destination = "../dst" if form == "." else "dst"
        run_it = sync if who == "sparsesync" else (lambda *argv, **more: run("rsync", *argv, **more))
        since = time.time() - 60
        outcomes[who] = run_it(*given_options, *sources, destination, cwd=cwd, umask=umask)
        if (place / "dst").is_dir():
            results[who] = snapshot(place / "dst", since)
        else:
            results[who] = {"": snapshot(place, since)["dst"] if (place / "dst").exists() else ()}
        results[who + " source"] = {p: s[:5] for p, s in snapshot(place / "src", since).items()}
    shutil.rmtree(top)
    assert outcomes["sparsesync"].returncode == outcomes["rsync"].returncode, outcomes
    assert difference(results["sparsesync"], results["rsync"]) == {}
    assert difference(results["sparsesync source"], results["rsync source"]) == {}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    make_source(tmp_path / "src")
    return tmp_path


def allocated(path: Path) -> int:
    return os.stat(path).st_blocks * 512


@pytest.mark.parametrize("options", [[], ["--inplace"], ["-S"], ["-H"], ["--backup"], ["-q"]])
def test_holes_stay_holes(tree: Path, options: list[str]) -> None:
    done = sync("-a", *options, "src/", "dst/", cwd=tree)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    for name in ("a/b/img", "a/disk one", "c/-x", "top.img", "a/hole", "a/zeros"):
        assert allocated(tree / "dst" / name) <= allocated(tree / "src" / name), name
        if "-S" in options and name == "a/zeros":
            assert allocated(tree / "dst" / name) == 0


def test_a_second_run_has_nothing_to_do(tree: Path) -> None:
    sync("-a", "src/", "dst/", cwd=tree)
    before = {p: os.stat(p).st_ino for p in (tree / "dst").rglob("*")}
    done = sync("-ai", "--seed-verbose", "src/", "dst/", cwd=tree)
    assert done.stdout == b"" and b"everything is left to rsync: it would transfer no sparse file" in done.told
    assert before == {p: os.stat(p).st_ino for p in (tree / "dst").rglob("*")}


def test_v_says_what_was_seeded_and_what_was_left_and_why(tree: Path) -> None:
    make_destination(tree / "dst", "in the way")
    out = sync("-av", "--seed-verbose", "src/", "dst/", cwd=tree).told.decode(errors="surrogateescape")
    assert "sparsesync: seeded a/hole: 0 B of 2 MiB\n" in out
    assert "sparsesync: seeded c/" not in out
    assert "sparsesync: left to rsync: c/-x: c at the destination is not a directory\n" in out
    assert "sparsesync: left to rsync: a/disk one: what is at its place is not a regular file\n" in out
    out = sync("-av", "--seed-verbose", "--append", "src/", "other/", cwd=tree).told.decode(errors="surrogateescape")
    assert "sparsesync: everything is left to rsync: --append is given" in out
    out = sync("-av", "--seed-verbose", "host:src/", "other/", "--rsh=false", cwd=tree).told.decode(
        errors="surrogateescape"
    )
    assert "everything is left to rsync: host: no agent could be started: " in out


def test_dry_run_writes_nothing_and_says_what_would_be_seeded(tree: Path) -> None:
    done = sync("-an", "--seed-verbose", "src/", "dst/", cwd=tree)
    assert done.stdout == b"" and b"would seed a/b/img: 16 KiB of 2 MiB\n" in done.told
    assert b"would seed c/\\#377\\#012\\#134#012" in done.told or b"would seed c/\xff\\#012" in done.told
    assert not (tree / "dst").exists()
    assert b"top.img" in sync("-ani", "src/", "dst/", cwd=tree).stdout
    os.link(tree / "src/top.img", tree / "src/too.img")
    theirs, ours = run("rsync", "-aHni", "src/", "dst/", cwd=tree), sync("-aHni", "src/", "dst/", cwd=tree)
    assert ours.returncode == 0 and sorted(ours.stdout.splitlines()) == sorted(theirs.stdout.splitlines())


@pytest.mark.parametrize(
    "argv",
    [["--version"], ["--help", "src", "dst"], ["-h"], [], ["--frob"], ["-a"], ["-a", "none", "dst"], ["src/"],
     ["-a", "--info=x", "src", "dst"]],
)  # fmt: skip
def test_answers_as_rsync_does(tree: Path, argv: list[str]) -> None:
    ours, theirs = sync(*argv, cwd=tree), run("rsync", *argv, cwd=tree)
    assert ours.returncode == theirs.returncode
    assert ours.stdout == theirs.stdout
    strip = lambda text: [line.split(b"(code")[0] for line in text.splitlines()]  # noqa: E731
    assert strip(ours.stderr) == strip(theirs.stderr)


def test_statuses_pass_through(tree: Path) -> None:
    need_root("chattr needs root")
    assert sync("-a", "src/", "none", "dst/", cwd=tree).returncode == 23
    assert (tree / "dst/top.img").exists()


def test_a_tree_without_sparse_files_costs_one_scan(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(tree / "src")
    (tree / "src").mkdir()
    (tree / "src/plain").write_bytes(b"x" * 100_000)
    need(shutil.which("strace") is not None, "strace is not installed")
    argv = [sys.executable, "-m", "sparsesync", "sync", "-a", f"{tree}/src/", f"{tree}/dst/"]
    done = run("strace", "-f", "-e", "trace=execve", "-qq", *argv)
    started = [line for line in done.stderr.splitlines() if b"rsync" in line and line.endswith(b"= 0")]
    assert done.returncode == 0
    assert len([line for line in started if b'rsync", ["rsync"' in line]) == 1


@pytest.mark.parametrize("option", ["--files-from", "--exclude-from", "--include-from"])
def test_a_list_on_standard_input_reaches_both_runs(tree: Path, option: str) -> None:
    argv = ["-a", f"{option}=-", "src/", "dst/"]
    done = sync(*argv, cwd=tree, input=b"a/b/img\n")
    assert done.returncode == 0
    run("rsync", "-a", f"{option}=-", "src/", "theirs/", cwd=tree, input=b"a/b/img\n")
    since = time.time() - 60
    assert difference(snapshot(tree / "dst", since), snapshot(tree / "theirs", since)) == {}
    if option != "--exclude-from":
        assert allocated(tree / "dst/a/b/img") == allocated(tree / "src/a/b/img")


def test_a_list_from_a_pipe_is_left_whole_for_rsync(tree: Path) -> None:
    script = f"cd {tree} && {sys.executable} -m sparsesync sync -av --exclude-from=<(echo /c) src/ dst/"
    done = run("bash", "-c", script)
    assert done.returncode == 0
    assert not (tree / "dst/c").exists()
    assert (tree / "dst/top.img").exists()


def fake_rsync(place: Path, body: str) -> dict[str, str]:
    place.mkdir()
    (place / "rsync").write_text("#!/bin/sh\n" + body)
    os.chmod(place / "rsync", 0o755)
    return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}


def test_without_rsync(tree: Path) -> None:
    (tree / "bin").mkdir()
    environment = {**os.environ, "PATH": str(tree / "bin")}
    done = sync("-a", "src/", "dst/", cwd=tree, env=environment)
    assert done.returncode == 127
    assert done.stderr == b"sparsesync: rsync is not installed; install it, for instance: apt install rsync\n"
    assert not (tree / "dst").exists()
    for argv in (["scan", "src"], ["copy", "src/top.img", "x"], ["verify", "src", "src"], ["exclude", "-0", "src"]):
        other = run(sys.executable, "-m", "sparsesync", *argv, cwd=tree, env=environment)
        assert other.returncode == 0, (argv, other.stderr)


def test_an_rsync_that_is_too_old(tree: Path) -> None:
    environment = fake_rsync(tree / "bin", 'echo "rsync  version 3.0.9  protocol version 30"\n')
    done = sync("-a", "src/", "dst/", cwd=tree, env=environment)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1 and b"rsync 3.0.9 is too old" in done.stderr
    assert not (tree / "dst").exists()
    assert sync("--seed-off", "-a", "src/", "dst/", cwd=tree, env=environment).returncode == 0


def test_options_of_our_own(tree: Path) -> None:
    done = sync("-av", "--seed-verbose", "--seed-off", "src/", "dst/", cwd=tree)
    assert b"everything is left to rsync: --seed-off is given" in done.told
    done = sync("-av", "--seed-verbose", "--seed-min-hole=10M", "src/", "dst2/", cwd=tree)
    assert b"everything is left to rsync: there are no sparse files" in done.told
    done = sync("-av", "--seed-verbose", "--seed-min-hole", "1M", "src/", "dst3/", cwd=tree)
    assert b"sparsesync: seeded" in done.told
    done = sync("-a", "--seed-everything", "src/", "dst4/", cwd=tree)
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    done = sync("-a", "--seed-min-hole=big", "src/", "dst4/", cwd=tree)
    assert done.returncode == 1 and b"'big' is not a size" in done.stderr
    assert not (tree / "dst4").exists()


def test_too_small_a_destination_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    with open(source / "img", "wb") as file:
        file.truncate(1 << 30)
        for _ in range(40):
            file.write(b"x" * MIB)
    (source / "plain").write_bytes(b"plain")
    with filesystem("ext4", tmp_path / "fs", "32M") as small:
        (small / "img").write_bytes(b"old")
        done = sync("-a", f"{source}/", f"{small}/")
        assert done.returncode == 11
        assert done.stderr.count(b"\n") == 1
        assert b"40 MiB are needed" in done.stderr and b"are free" in done.stderr
        assert (small / "img").read_bytes() == b"old"
        assert sorted(os.listdir(small)) == ["img", "lost+found"]
        done = sync("-a", "--seed-no-space-check", f"{source}/", f"{small}/")
        assert done.returncode == 11
        assert (small / "img").read_bytes() == b"old"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_seeding(tmp_path: Path, number: int) -> None:
    (tmp_path / "src").mkdir()
    with open(tmp_path / "src/img", "wb") as file:
        file.write(b"x" * (300 * MIB))
        file.truncate(1 << 30)
    process = subprocess.Popen([sys.executable, "-m", "sparsesync", "sync", "-a", "src/", "dst/"], cwd=tmp_path)
    while process.poll() is None and not any((tmp_path / "dst").glob(".img.*")):
        time.sleep(0.001)
    process.send_signal(number)
    if process.wait(timeout=60) == 0:
        pytest.skip("it had finished before the signal came")
    assert process.returncode == 20
    assert os.listdir(tmp_path / "dst") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_rsync(tree: Path, number: int) -> None:
    body = 'for a in "$@"; do case $a in --dry-run|--version) exec /usr/bin/rsync "$@";; esac; done\n'
    body += "trap 'echo caught; exit 20' INT TERM; echo started; while :; do sleep 0.05; done\n"
    environment = fake_rsync(tree / "bin", body)
    argv = [sys.executable, "-m", "sparsesync", "sync", "-a", "src/", "dst/"]
    process = subprocess.Popen(argv, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "started\n"
    process.send_signal(number)
    assert process.stdout.read() == "caught\n"
    assert process.wait(timeout=60) == 20
    process.stdout.close()


def test_no_symlink_is_followed_below_the_destination(tree: Path) -> None:
    outside = tree / "outside"
    outside.mkdir()
    (tree / "dst").mkdir()
    (tree / "dst/c").symlink_to(outside)
    assert sync("-a", "src/", "dst/", cwd=tree).returncode == 0
    assert os.listdir(outside) == []
    assert (tree / "dst/c").is_dir() and not (tree / "dst/c").is_symlink()


def test_a_source_that_changes_while_it_is_seeded(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsesync.engine.content.hands.writer import Threads, Work

    write = Threads.write

    def then_change(hands: Threads, work: Work, ranges: Iterable[tuple[int, int]]) -> int:
        done = write(hands, work, ranges)
        if work.source_path == f"{tree}/src/top.img":
            with open(tree / "src/top.img", "r+b") as file:
                file.write(b"changed")
        return done

    monkeypatch.setattr(Threads, "write", then_change)
    result = sparsesync.sync(f"{tree}/src/", f"{tree}/dst/", ["-a"])
    assert result.status == 0
    assert ("top.img", "it changed while it was copied") in result.left
    assert (tree / "dst/top.img").read_bytes() == (tree / "src/top.img").read_bytes()


def test_from_python(tree: Path) -> None:
    result = sparsesync.sync([tree / "src/a", tree / "src/top.img"], tree / "dst", ["-aH"])
    assert result.status == 0 and result.handoff is None
    assert {"a/b/img", "a/disk one", "top.img"} < {seeded.name for seeded in result.seeded}
    assert result.bytes == sum(seeded.data for seeded in result.seeded) > 0
    assert result.command[:2] == ("rsync", "-aH")
    assert sparsesync.sync(f"{tree}/none", f"{tree}/dst").status == 23
    with pytest.raises(ValueError, match="--seed-x"):
        sparsesync.sync(tree / "src", tree / "dst", ["--seed-x"])


def test_the_command_of_a_real_report(tmp_path: Path) -> None:
    """rsync -aAXv --exclude={...} --progress /* DEST, on a small root of our own: a chroot-like tree by cwd."""
    root = tmp_path / "root"
    for path in ("etc/passwd", "proc/1/x", "tmp/x", "var/log/x", "mnt/disk/x", "lost+found/x", "dev/x"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    (root / "var/lib/docker").mkdir(parents=True)
    sparse(root / "var/lib/docker/data")
    script = (
        'cd {root} && {run} -aAXv --exclude={{"/dev/*","/proc/*","/sys/*","/tmp/*","/run/*","/mnt/*",'
        '"/media/*","/lost+found"}} --progress {root}/* {target}'
    )
    ours = run("bash", "-c", script.format(root=root, run=f"{sys.executable} -m sparsesync sync", target="../ours"))
    theirs = run("bash", "-c", script.format(root=root, run="rsync", target="../theirs"))
    assert ours.returncode == theirs.returncode == 0
    assert b"var/lib/docker/data\n" in ours.stdout and ours.stdout.count(b"lib/docker/data") == 1
    since = time.time() - 60
    assert difference(snapshot(tmp_path / "ours", since), snapshot(tmp_path / "theirs", since)) == {}
    assert allocated(tmp_path / "ours/var/lib/docker/data") == allocated(root / "var/lib/docker/data")


# Found by comparing with rsync in odd places: each of these once came out differently.


def both(top: Path, options: list[str], *paths: str) -> tuple[Path, Path]:
    """Run rsync and sparsesync, each in a copy of ``top / "case"``; the two copies."""
    places = top / "rsync", top / "sparsesync"
    for place, run_it in zip(places, (lambda *argv, **more: run("rsync", *argv, **more), sync)):
        run("cp", "-a", str(top / "case"), str(place))
        done = run_it(*options, *paths, cwd=place)
        assert done.returncode == 0, done
    return places


def odd_parents(case: Path) -> None:
    (case / "src/closed").mkdir(parents=True)
    sparse(case / "src/closed/f")
    os.chmod(case / "src/closed", 0o555)


def newer_link(case: Path) -> None:
    (case / "src").mkdir(parents=True)
    (case / "dst").mkdir()
    sparse(case / "src/a")
    os.utime(case / "src/a", (OLD, OLD))
    os.link(case / "src/a", case / "src/b")
    (case / "dst/b").write_text("newer")


def setgid(case: Path) -> None:
    (case / "src/s").mkdir(parents=True)
    (case / "dst/s").mkdir(parents=True)
    sparse(case / "src/s/f")
    if os.geteuid() == 0:
        os.chown(case / "dst/s", 0, 1001)
    os.chmod(case / "src/s", 0o2755)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (odd_parents, ["-r"]),
        (odd_parents, ["-a"]),
        (odd_parents, ["-aR", "--no-implied-dirs"]),
        (newer_link, ["-aHu"]),
        (setgid, ["-rp"]),
        (setgid, ["-a", "--no-g"]),
        (setgid, ["-a"]),
    ],
)
def test_odd_places(tmp_path: Path, make: Callable[[Path], None], options: list[str]) -> None:
    make(tmp_path / "case")
    theirs, ours = both(tmp_path, options, "src/", "dst/")
    assert difference(snapshot(ours, time.time() - 60), snapshot(theirs, time.time() - 60)) == {}


def test_parents_are_made_with_mkpath_and_links_are_looked_through(tree: Path) -> None:
    done = sync("-av", "--seed-verbose", "--mkpath", "src/", "one/two/three/", cwd=tree)
    assert b"seeded top.img" in done.told
    (tree / "links").mkdir()
    (tree / "links/f").symlink_to(tree / "src/top.img")
    assert b"seeded f" in sync("-aL", "--seed-verbose", "links/", "looked/", cwd=tree).told


def test_the_value_of_an_option_is_not_an_option_of_ours(tree: Path) -> None:
    done = sync("-av", "--seed-verbose", "--exclude", "--seed-off", "src/", "dst/", cwd=tree)
    assert done.returncode == 0
    assert b"seeded top.img" in done.told


@pytest.mark.parametrize("options", [["-aS"], ["-a"]])
def test_what_fits_is_not_refused(tmp_path: Path, options: list[str]) -> None:
    with filesystem("ext4", tmp_path / "fs", "64M") as top:
        source = tmp_path / "src"
        source.mkdir()
        (top / "a").write_bytes(os.urandom(30 * MIB))
        (source / "a").write_bytes(b"short now")
        sparse(source / "zeros", size=80 * MIB, extents=())
        os.posix_fallocate(fd := os.open(source / "preallocated", os.O_RDWR | os.O_CREAT), 0, 80 * MIB)
        os.ftruncate(fd, 90 * MIB)
        os.close(fd)
        if "-aS" in options:
            with open(source / "zeros", "r+b") as file:
                file.write(bytes(70 * MIB))
        done = sync(*options, f"{source}/", f"{top}/")
        assert done.returncode == 0, done
        assert allocated(top / "preallocated") <= 64 * KIB


def test_without_a_temporary_directory_rsync_does_it_all(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    result = sparsesync.sync(f"{tree}/src/", f"{tree}/dst/", ["-a"])
    assert (result.status, result.handoff) == (
        0,
        "there is no directory for temporary files that can be written to; TMPDIR can name one",
    )


def test_a_signal_right_after_a_rename_is_not_lost(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsesync.commands.main import main

    real = os.replace

    def rename(*arguments: object, **more: object) -> None:
        real(*arguments, **more)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(os, "replace", rename)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["sync", "-a", f"{tree}/src/", f"{tree}/dst/"]) == 20
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (tree / "dst/plain").exists()


def test_bwlimit_is_obeyed_on_one_machine(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    sparse(tree / "src/a/large", size=40 * MIB, extents=tuple(range(0, 40 * MIB, 16 * KIB)))
    result = sparsesync.sync(f"{tree}/src/a/", f"{tree}/dst/", ["-a", "--bwlimit=1m"])
    assert result.bytes > 20 * MIB
    assert sum(pauses) > result.bytes / MIB / 2


@pytest.mark.parametrize("options", [[], ["--update"]])
def test_what_was_not_finished_in_place_is_brought_by_rsync(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that changes in the second in which its copy is written: rsync would take the two for the same."""
    source, target = tmp_path / "src", tmp_path / "dst"
    for directory, seed, when in ((source, 1, OLD), (target, 2, OLD - 1000)):
        directory.mkdir()
        sparse(directory / "disk", seed=seed)
        os.utime(directory / "disk", (when, when))
    real = OutgoingFile.check

    def check(file: OutgoingFile, st: os.stat_result, *when: str) -> None:
        if not when:  # it has been written
            with open(source / "disk", "r+b") as changed:
                changed.write(b"changed")
            moment = os.stat(target / "disk").st_mtime - (5 if options else 0)
            os.utime(source / "disk", (moment, moment))
            st = os.stat(source / "disk")
        real(file, st, *when)

    monkeypatch.setattr(OutgoingFile, "check", check)
    result = sparsesync.sync(f"{source}/", f"{target}/", ["-a", "--inplace", *options])
    assert result.left == (("disk", "it changed while it was copied"),)
    assert result.status == 0
    assert (target / "disk").read_bytes() == (source / "disk").read_bytes()
