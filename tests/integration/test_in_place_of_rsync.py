"""Whole command lines, through rsync and through sparsesync: what is left, and the status.

``--lines=N`` tries N of them (:mod:`tests.support.lines`); a few are enough for every day.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import lines
from tests.support.filesystems import command, need_root
from tests.support.sshd import Sshd
from tests.support.sync import MIB, OLD, Synced, difference, run, snapshot, sparse, sync

KEPT = "--seed-required"
"""rsync must not run where a sparse file is left to it: so what is tried is known to be seeded."""


@pytest.fixture
def started(tmp_path: Path) -> Path:
    (tmp_path / "start").mkdir()
    lines.start(tmp_path / "start")
    return tmp_path


@pytest.mark.slow
def test_lines(started: Path, sshd_server: Sshd, request: pytest.FixtureRequest) -> None:
    count = int(request.config.getoption("lines"))
    wrong = []
    for seed in (["--seed-min-hole=0"], []):
        for line in lines.lines(len(seed), count // 2):
            found = lines.differs(started, line, sshd_server.rsh, seed)
            if "tree" in found or "status" in found:
                wrong.append((line, seed, found))
    assert not wrong


def _both(top: Path, *argv: str, ours: tuple[str, ...] = ()) -> Synced:
    """Run a line below "start" by rsync and, below a copy, by sparsesync; both leave the same. Return our run."""
    lines.age(top / "start/src", OLD)
    if (top / "start/dst").exists():
        os.utime(top / "start/dst", (10**9, 10**9))
    run("cp", "-a", str(top / "start"), str(top / "copy"))
    before = time.time() - 0.05
    theirs = run("rsync", *argv, cwd=top / "start")
    done = sync("--seed-min-hole=0", KEPT, "--seed-verbose", *ours, *argv, cwd=top / "copy")
    assert done.returncode == theirs.returncode, done.stderr
    assert difference(snapshot(top / "copy", before), snapshot(top / "start", before)) == {}
    return done


def test_every_file_is_seeded_with_no_hole_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "start/src"
    source.mkdir(parents=True)
    (source / "dense").write_bytes(b"x" * 70_000)
    (source / "empty").touch()
    sparse(source / "sparse")
    done = _both(tmp_path, "-a", "src/", "dst/")
    for name in (b"dense", b"empty", b"sparse"):
        assert b"seeded " + name in done.told


def test_a_dense_file_that_is_left_is_no_loss(tmp_path: Path) -> None:
    source = tmp_path / "start/src"
    source.mkdir(parents=True)
    (source / "dense").write_bytes(b"x" * 70_000)
    (tmp_path / "start/dst").mkdir()
    (tmp_path / "start/dst/dense").symlink_to("elsewhere")
    done = _both(tmp_path, "-a", "src/", "dst/")
    assert b"left to rsync: dense" in done.told
    assert b"holes as data" not in done.stderr


@pytest.mark.parametrize(
    ("option", "way"), [("--exclude-from", "inherited"), ("--include-from", "pipe"), ("--files-from", "pipe")]
)
def test_what_can_be_read_once_is_kept_for_both_runs(tmp_path: Path, option: str, way: str) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name / "src").mkdir(parents=True)
        for file in ("a", "b"):
            sparse(tmp_path / name / "src" / file)
        lines.age(tmp_path / name / "src", OLD)
    before = time.time() - 0.05
    content = "- b\n" if option != "--files-from" else "a\n"
    program = f"{sys.executable} -m sparsesync sync {KEPT} --seed-verbose"
    words = f"{option}=pipe" if way == "pipe" else f"{option}=<(echo '{content.strip()}')"
    for name, wrapper in (("theirs", "rsync"), ("ours", program)):
        feed = f"mkfifo pipe; (echo '{content.strip()}' > pipe) & " if way == "pipe" else ""
        done = run(
            "bash", "-c", f"{feed}{wrapper} -a {words} src/ dst/; s=$?; rm -f pipe; exit $s", cwd=tmp_path / name
        )
        assert done.returncode == 0, done.stderr
    assert b"seeded a" in done.stderr
    found, wanted = (snapshot(tmp_path / name / "dst", before) for name in ("ours", "theirs"))
    assert difference(found, wanted) == {}


@pytest.mark.parametrize("options", ["-l", "-a --no-r", "-rl", "-d"])
def test_a_directory_that_is_skipped_makes_no_directory(tmp_path: Path, options: str) -> None:
    (tmp_path / "start/src/a").mkdir(parents=True)
    sparse(tmp_path / "start/src/img")
    run("cp", "-a", str(tmp_path / "start"), str(tmp_path / "copy"))
    line = [*options.split(), "src/a", "src/img", "new"]
    before = time.time() - 0.05
    theirs = run("rsync", *line, cwd=tmp_path / "start")
    done = sync("--seed-min-hole=0", *line, cwd=tmp_path / "copy")
    assert done.returncode == theirs.returncode
    assert (tmp_path / "copy/new").is_dir() == (tmp_path / "start/new").is_dir()
    assert snapshot(tmp_path / "copy/new", before).keys() == snapshot(tmp_path / "start/new", before).keys()


def test_append_verify(tmp_path: Path) -> None:
    top = tmp_path / "start"
    (top / "src").mkdir(parents=True)
    (top / "dst").mkdir()
    for name in ("grown", "other", "same size", "new"):
        sparse(top / "src" / name, extents=(0, MIB))
    for name, size, seed in (("grown", MIB, 1), ("other", MIB, 7), ("same size", 2 * MIB, 7)):
        sparse(top / "dst" / name, size, extents=(0,), seed=seed)
    for name in ("grown", "other"):
        os.link(top / "dst" / name, top / "dst" / (name + " link"))
    for each in (top / "dst").iterdir():
        os.utime(each, (10**9, 10**9))
    done = _both(tmp_path, "-a", "--append-verify", "src/", "dst/")
    assert b"seeded grown" in done.told
    assert b"seeded same size" not in done.told


@pytest.mark.parametrize("where", ["inside", "missing", "another filesystem", "not ours alone"])
def test_temp_dir(tmp_path: Path, where: str) -> None:
    top = tmp_path / "start"
    (top / "src/a").mkdir(parents=True)
    (top / "src/a/dense").write_bytes(b"x" * 70_000)
    sparse(top / "src/a/img")
    lines.age(top / "src", OLD)
    (top / "dst").mkdir()
    aside = "tmp"
    if where == "another filesystem":
        aside = "/dev/shm"
    elif where != "missing":
        (top / "dst/tmp").mkdir()
    if where == "not ours alone":
        os.chmod(top / "dst/tmp", 0o777)
    run("cp", "-a", str(top), str(tmp_path / "copy"))
    before = time.time() - 0.05
    theirs = run("rsync", "-a", f"--temp-dir={aside}", "src/", "dst/", cwd=top)
    done = sync(
        "--seed-min-hole=0", "-a", "--seed-verbose", f"--temp-dir={aside}", "src/", "dst/", cwd=tmp_path / "copy"
    )
    assert done.returncode == theirs.returncode
    assert difference(snapshot(tmp_path / "copy/dst", before), snapshot(top / "dst", before)) == {}
    assert (b"seeded a/img" in done.told) == (where == "inside")


@pytest.mark.parametrize(
    ("options", "sources"),
    [
        ("-a", ["vm/*"]),
        ("-a", ["vm/a*", "vm/*.img", "other/d*"]),
        ("-aR", ["vm/./?.img"]),
        ("-a", ["vm/[ab].img"]),
        ("-a", ["vm/one*"]),
    ],
)
def test_wildcards_of_a_pull(tmp_path: Path, sshd_server: Sshd, options: str, sources: list[str]) -> None:
    for name in ("vm/a.img", "vm/b.img", "vm/sub/c.img", "vm/one file", "other/d.img", "vm/.hidden"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        sparse(tmp_path / name)
    lines.age(tmp_path, OLD)
    before = time.time() - 0.05
    rsh = ["-e", sshd_server.rsh]
    wild = [f"h:{tmp_path}/{each}" for each in sources]
    theirs = run("rsync", options, *rsh, *wild, "theirs", cwd=tmp_path)
    done = sync(options, "--seed-verbose", *rsh, *wild, "ours", cwd=tmp_path)
    assert done.returncode == theirs.returncode == 0, done.stderr
    one = sources == ["vm/one*"]
    assert (b"seeded" in done.told) is not one
    if one:  # whether the destination is a file depends on what else there is
        assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    else:
        assert difference(snapshot(tmp_path / "ours", before), snapshot(tmp_path / "theirs", before)) == {}


@pytest.mark.parametrize(("way", "named"), [("push", "h:{}/list"), ("pull", ":{}/list"), ("pull", ":{}/pipe")])
def test_a_list_on_the_other_host(tmp_path: Path, sshd_server: Sshd, way: str, named: str) -> None:
    (tmp_path / "src/c").mkdir(parents=True)
    for name in ("a", "b", "c/d"):
        sparse(tmp_path / "src" / name)
    (tmp_path / "list").write_text("a\nc/d\n")
    os.mkfifo(tmp_path / "pipe")
    ends = [f"{tmp_path}/src", f"h:{tmp_path}/dst"] if way == "push" else [f"h:{tmp_path}/src", f"{tmp_path}/dst"]
    argv = ["-av", "--seed-verbose", "-e", sshd_server.rsh, f"--files-from={named.format(tmp_path)}", *ends]
    feeder = None
    if "pipe" in named:
        feeder = subprocess.Popen(["sh", "-c", f"printf 'a\\nc/d\\n' > {tmp_path}/pipe"])
    done = sync(*argv)
    assert done.returncode == 0, done.stderr
    if feeder:
        feeder.wait(10)
    assert (b"seeded c/d" in done.told) is (feeder is None)
    assert sorted(os.listdir(tmp_path / "dst")) == ["a", "c"]
    assert (tmp_path / "dst/c/d").read_bytes() == (tmp_path / "src/c/d").read_bytes()


def test_dense_files_alone_are_told(tmp_path: Path) -> None:
    source = tmp_path / "start/src"
    source.mkdir(parents=True)
    (source / "dense").write_bytes(b"x" * 70_000)
    done = _both(tmp_path, "-ai", "src/", "dst/")
    assert b"seeded dense" in done.told
    assert sorted(done.stdout.splitlines()) == [b">f+++++++++ dense", b"cd+++++++++ ./", b"created directory dst"]


@pytest.mark.parametrize("aside", ["..", "../tmp"])
def test_a_temp_dir_above(tmp_path: Path, aside: str) -> None:
    (tmp_path / "start/src").mkdir(parents=True)
    sparse(tmp_path / "start/src/img")
    (tmp_path / "start/tmp").mkdir()
    run("cp", "-a", str(tmp_path / "start"), str(tmp_path / "copy"))
    theirs = run("rsync", "-a", "-T", aside, "src/", "dst/", cwd=tmp_path / "start")
    done = sync("-a", "-T", aside, "src/", "dst/", cwd=tmp_path / "copy")
    assert done.returncode == theirs.returncode
    assert sorted(os.listdir(tmp_path / "copy/dst")) == sorted(os.listdir(tmp_path / "start/dst"))


def test_a_directory_that_may_not_be_written_to(tmp_path: Path) -> None:
    need_root("an immutable directory needs root")
    (tmp_path / "src/sub").mkdir(parents=True)
    sparse(tmp_path / "src/sub/img")
    (tmp_path / "dst/sub").mkdir(parents=True)
    run("chattr", "+i", "dst/sub", cwd=tmp_path)
    try:
        theirs = run("rsync", "-a", "src/", "dst/", cwd=tmp_path)
        done = sync("-a", "--seed-verbose", "src/", "dst/", cwd=tmp_path)
    finally:
        run("chattr", "-i", "dst/sub", cwd=tmp_path)
    assert done.returncode == theirs.returncode
    assert b"left to rsync: sub/img: its directory is immutable" in done.told


def test_a_small_filesystem_that_is_read_only(tmp_path: Path) -> None:
    need_root("mounting needs root")
    (tmp_path / "src").mkdir()
    sparse(tmp_path / "src/img", size=64 * MIB, extents=tuple(range(0, 8 * MIB, 8192)))
    (tmp_path / "dst").mkdir()
    command("mount", "-t", "tmpfs", "-o", "size=4m,ro", "none", tmp_path / "dst")
    try:
        theirs = run("rsync", "-a", "src/", "dst/", cwd=tmp_path)
        done = sync("-a", "src/", "dst/", cwd=tmp_path)
    finally:
        command("umount", tmp_path / "dst")
    assert (done.returncode, theirs.returncode) == (23, 23)
    assert b"Read-only file system" in done.stderr


def test_rsync_gets_the_locale_that_was_given(tmp_path: Path) -> None:
    """Python makes one of its own where that is C."""
    (tmp_path / "src").mkdir()
    (tmp_path / "src/\u00e9").touch()
    environ = {name: value for name, value in os.environ.items() if name != "LC_ALL"}
    environ["LANG"] = "C"
    said = []
    for program in (["rsync"], [sys.executable, "-m", "sparsesync", "sync"]):
        shutil.rmtree(tmp_path / "dst", ignore_errors=True)
        done = subprocess.run([*program, "-av", "src/", "dst/"], cwd=tmp_path, env=environ, capture_output=True)
        said.append(done.stdout.splitlines())
    assert rb"\#303\#251" in said[0] and rb"\#303\#251" in said[1]
