"""Files that lost their holes have them again after the next run, and nothing else is changed by that.

rsync itself makes the destination dense. Holes are judged by stat and qemu-img, content by cmp, and what rsync leaves
by what it says it would still change.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, command, data_bytes, filesystem, need, need_root, same_content
from tests.support.shells import local_shell
from tests.support.sync import MIB, OLD, between, image, run, sync

WAYS = ["local", "push", "pull"]


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """``src``, and ``dst`` as plain rsync leaves it."""
    (tmp_path / "src/sub").mkdir(parents=True)
    image(tmp_path / "src/f")
    image(tmp_path / "src/sub/g", mode=0o600)
    (tmp_path / "src/plain").write_bytes(b"plain" * 10000)
    rsync("-a", "src/", "dst/", cwd=tmp_path)
    assert is_dense(tmp_path / "dst/f") and is_dense(tmp_path / "dst/sub/g")
    return tmp_path


def rsync(*argv: str, cwd: Path) -> bytes:
    done = run("rsync", *argv, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_dense(path: Path) -> bool:
    return allocated(path) >= path.stat().st_size


def is_sparse(path: Path) -> bool:
    return data_bytes(path) <= 8192 and allocated(path) <= 64 * 1024


def ends(top: Path, way: str, source: str = "src/", target: str = "dst/") -> list[str]:
    far = [] if way == "local" else ["-e", local_shell(top / "rsh")]
    return [*far, "host:" * (way == "pull") + f"{top}/{source}", "host:" * (way == "push") + f"{top}/{target}"]


def states(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for directory, _, names in os.walk(top):
        for name in names:
            st = os.lstat(os.path.join(directory, name))
            found[os.path.join(directory, name)] = (st.st_mode, st.st_ino, st.st_size, st.st_mtime_ns, st.st_nlink)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_holes_come_back(top: Path, way: str) -> None:
    before = states(top / "dst")
    dry = sync("-an", "--seed-verbose", *ends(top, way), cwd=top)
    assert b"would make holes again in f: up to 2 MiB\n" in dry.stdout + dry.stderr
    assert sync("-a", "--seed-no-heal", *ends(top, way), cwd=top).returncode == 0
    assert is_dense(top / "dst/f") and is_dense(top / "dst/sub/g")
    done = sync("-a", "--seed-verbose", *ends(top, way), cwd=top)
    assert done.returncode == 0 and b"made holes again in sub/g: 2 MiB\n" in done.stdout + done.stderr
    for name in ("f", "sub/g"):
        assert is_sparse(top / "dst" / name) and same_content(top / "src" / name, top / "dst" / name)
    assert states(top / "dst") == before
    assert rsync("-ani", "src/", "dst/", cwd=top) == b""
    again = sync("-a", "--seed-verbose", *ends(top, way), cwd=top)
    assert b"holes again" not in again.stdout + again.stderr and states(top / "dst") == before


@pytest.mark.parametrize("way", ["push", "pull"])
def test_of_a_file_partly_dense_only_the_holes_of_the_source_come_back(top: Path, way: str) -> None:
    """What is zeros and data at the source stays data; and a reserved range is a hole."""
    with open(top / "src/f", "r+b") as file:
        os.pwrite(file.fileno(), bytes(MIB // 2), MIB)
        os.truncate(file.fileno(), 8 * MIB + 1000)
    command("fallocate", "-n", "-o", str(5 * MIB), "-l", str(MIB), top / "src/f")
    os.utime(top / "src/f", (OLD, OLD))
    rsync("-a", "src/", "dst/", cwd=top)
    assert sync("-a", *ends(top, way), cwd=top).returncode == 0
    assert same_content(top / "src/f", top / "dst/f")
    assert data_bytes(top / "dst/f") == MIB // 2 + 4096 and (top / "dst/f").stat().st_mtime == OLD


OPTIONS = [
    (["-a"], "src/f", "dst/"),
    (["-a"], "src/f", "dst/other"),
    (["-aH"], "src", "in/"),
    (["-aR"], "src/./sub/g", "dst/"),
    (["-r", "--size-only"], "src/", "dst/"),
    (["-a", "--exclude=*.txt", "--filter=- /x y/", "--include=*/"], "src/", "dst/"),
    (["-a", "--files-from=list"], "src/", "dst/"),
    (["-aL"], "src/", "dst/"),
]


@pytest.mark.parametrize("number", range(len(OPTIONS)), ids=lambda number: " ".join(OPTIONS[number][0]))
def test_whatever_names_the_files(top: Path, number: int) -> None:
    """Exactly those become sparse that are in the transfer."""
    options, source, target = OPTIONS[number]
    (top / "list").write_text("f\n")
    rsync(*options, f"{top}/{source}", f"{top}/{target}", cwd=top)
    found = {Path(where) / name for where, _, names in os.walk(top) for name in names}
    dense = {path for path in found if top / "src" not in path.parents and path.stat().st_size >= MIB}
    assert all(map(is_dense, dense))
    way = WAYS[number % 3]
    assert sync(*options, *ends(top, way, source, target), cwd=top).returncode == 0
    names = {
        "src/f": {"dst/": ["dst/f"]}.get(target, [target]),
        "src/./sub/g": ["dst/sub/g"],
        "src": ["in/src/f", "in/src/sub/g"],
    }
    expected = ["dst/f"] if "--files-from=list" in options else names.get(source, ["dst/f", "dst/sub/g"])
    assert {path for path in dense if is_sparse(path)} == {top / name for name in expected}


@pytest.mark.parametrize("way", ["local", "push"])
def test_what_rsync_would_not_look_at_is_left(top: Path, way: str) -> None:
    """Excluded, changed, newer, behind a symlink, or too small."""
    for name in ("excluded", "newer", "linked/h"):
        (top / "src" / name).parent.mkdir(exist_ok=True)
        image(top / "src" / name)
    rsync("-a", "src/", "dst/", cwd=top)
    os.utime(top / "dst/newer")
    os.rename(top / "dst/linked", top / "elsewhere")
    os.symlink(top / "elsewhere", top / "dst/linked")
    os.rename(top / "dst/sub/g", top / "elsewhere/g")
    os.symlink(top / "elsewhere/g", top / "dst/sub/g")
    options = ["-a", "-u", "-K", "--exclude=/excluded", "--exclude=/sub/g", "--max-size=1G"]
    before = states(top / "elsewhere"), states(top / "dst")
    # rsync does not follow a symlink that leads out of the destination, and says so.
    assert sync(*options, *ends(top, way), cwd=top).returncode == 23
    assert (states(top / "elsewhere"), states(top / "dst")) == before
    assert all(map(is_dense, [top / "dst/excluded", top / "dst/newer", top / "elsewhere/h", top / "elsewhere/g"]))
    assert is_sparse(top / "dst/f")


@pytest.mark.parametrize("way", ["push", "pull"])
def test_a_file_that_is_open_is_left_and_told(top: Path, way: str) -> None:
    with open(top / "dst/f", "rb"):
        done = sync("-a", "--seed-verbose", *ends(top, way), cwd=top)
    assert done.returncode == 0 and is_dense(top / "dst/f") and is_sparse(top / "dst/sub/g")
    assert b"holes of the source are data in f: somebody has it open\n" in done.stdout + done.stderr


def test_content_that_differs_stays(top: Path) -> None:
    """Size and time are equal, so rsync leaves it. Its zeros are zeros all the same."""
    with open(top / "dst/f", "r+b") as file:
        os.pwrite(file.fileno(), b"other", MIB)
    os.utime(top / "dst/f", ns=(0, (top / "src/f").stat().st_mtime_ns))
    shutil.copy(top / "dst/f", top / "was")
    assert sync("-a", "src/", "dst/", cwd=top).returncode == 0
    assert same_content(top / "was", top / "dst/f") and not same_content(top / "src/f", top / "dst/f")


@pytest.mark.parametrize(
    ("way", "option"), [("local", "--link-dest"), ("pull", "--link-dest"), ("push", "--copy-dest")]
)
def test_what_another_directory_has_gets_its_holes_too(top: Path, way: str, option: str) -> None:
    """A link is one file with two names, and a run that makes the second gives both their holes."""
    (top / "new/f").mkdir(parents=True)  # in the way, and empty
    assert sync("-a", "--delete", f"{option}={top}/dst", *ends(top, way, target="new/"), cwd=top).returncode == 0
    for name in ("f", "sub/g"):
        assert is_sparse(top / "new" / name) and same_content(top / "src" / name, top / "new" / name)
        assert os.path.samefile(top / "dst" / name, top / "new" / name) == (option == "--link-dest")
    assert rsync("-ani", "src/", "dst/", cwd=top) == b""


@pytest.mark.parametrize("way", ["local", "push"])
def test_what_rsync_fills_is_healed_in_the_same_run(top: Path, way: str) -> None:
    """Because it changed after it was seeded, or was left to rsync."""
    shutil.rmtree(top / "dst")
    (top / "dst").mkdir()
    (top / "dst/sub").mkdir()
    (top / "dst/sub/g").symlink_to("nowhere")
    environ = between(top, before=f"printf y | dd of={top}/src/f conv=notrunc status=none")
    done = sync("-a", *ends(top, way), cwd=top, env=environ)
    assert done.returncode == 0 and b"sub/g: what is at its place is not" in done.stderr
    assert b"anew" not in done.stderr
    for name in ("f", "sub/g"):
        assert is_sparse(top / "dst" / name) and same_content(top / "src" / name, top / "dst" / name)


def test_where_rsync_ends_badly_nothing_is_healed(top: Path) -> None:
    done = sync("-a", "src/", "dst/", cwd=top, env=between(top, instead="exit 11"))
    assert done.returncode == 11 and is_dense(top / "dst/f")


def test_what_is_reserved_on_purpose_stays(top: Path) -> None:
    assert sync("-a", "--preallocate", "src/", "dst/", cwd=top).returncode == 0
    assert is_dense(top / "dst/f")


@pytest.mark.parametrize("kind", ["exfat", "xfs"])
def test_on_other_filesystems(top: Path, kind: str) -> None:
    """One that has no holes is left as it is."""
    need_root("mounting needs root")
    with filesystem(kind, top / "fs", "512M") as mounted:
        options = ["-rt", "--modify-window=2"]
        rsync(*options, "src/", f"{mounted}/", cwd=top)
        done = sync(*options, "--seed-verbose", "src/", f"{mounted}/", cwd=top)
        assert done.returncode == 0 and same_content(top / "src/f", mounted / "f")
        assert is_dense(mounted / "f") if kind == "exfat" else is_sparse(mounted / "f")


def test_by_migrate(top: Path) -> None:
    report = top / "report"
    argv = ["migrate", "--report", str(report), f"{top}/src/", f"{top}/dst/"]
    done = run(sys.executable, "-m", "sparsesync", *argv, cwd=top)
    assert done.returncode == 0, done.stderr
    assert is_sparse(top / "dst/f") and is_sparse(top / "dst/sub/g")
    healed = json.loads(report.read_text())["sync"]["healed"]
    assert sorted(map(tuple, healed)) == [("f", 2 * MIB - 4096), ("sub/g", 2 * MIB - 4096)]


def test_those_who_read_the_destination_meanwhile_see_what_there_is(top: Path) -> None:
    """They wait at most for a moment."""
    image(top / "src/large")
    os.truncate(top / "src/large", 64 * MIB)
    os.utime(top / "src/large", (OLD, OLD))
    rsync("-a", "src/", "dst/", cwd=top)
    reader = subprocess.Popen(
        ["sh", "-c", "while cmp -s src/large dst/large; do test -e stop && exit 0; done; exit 1"], cwd=top
    )
    try:
        for _ in range(2):
            assert sync("-a", "src/", "dst/", cwd=top).returncode == 0
    finally:
        (top / "stop").touch()
    assert reader.wait(60) == 0
    assert sync("-a", "src/", "dst/", cwd=top).returncode == 0 and is_sparse(top / "dst/large")


CHANGES = {
    "nothing": ":",
    "dense": "cp --sparse=never --preserve=all src/f dst/f",
    "time": "touch -d @5 dst/f",
    "size": "truncate -s +1 dst/f; touch -r src/f dst/f",
    "missing": "rm dst/f",
    "another file": "mv dst/f dst/x; ln -s x dst/f",
    "another directory": "mv dst/sub elsewhere; ln -s ../elsewhere dst/sub",
    "reserved": "fallocate -l 2M src/f; cp --preserve=all src/f dst/f; touch -r src/f dst/f",
}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_rsync_is_asked_only_if_a_sparse_file_may_not_be_as_it_is_to_be(top: Path, change: str) -> None:
    assert sync("-a", "src/", "dst/", cwd=top).returncode == 0
    subprocess.run(CHANGES[change], shell=True, cwd=top, check=True)
    done = sync("-a", "src/", "dst/", cwd=top, env=between(top, asked=f"touch {top}/asked"))
    assert done.returncode == 0 and (top / "asked").exists() == (change != "nothing")
    assert same_content(top / "src/f", top / "dst/f") and (change == "reserved" or is_sparse(top / "dst/f"))
    assert rsync("-ani", "src/", "dst/", cwd=top) == b""


@pytest.mark.parametrize(
    ("sources", "target", "is_asked"),
    [
        (["src/f"], "dst/f", False),
        (["src/", "src/sub/"], "flat", True),  # g is in both, under two names
        (["-R", "src/./sub"], "in", False),
        (["--size-only", "src/"], "dst", False),
        (["-I", "src/"], "dst", False),  # and all is left to rsync
    ],
)
def test_it_is_not_asked_whatever_names_the_files(top: Path, sources: list[str], target: str, is_asked: bool) -> None:
    shutil.rmtree(top / "dst")
    for name in ("dst", "flat"):
        (top / name).mkdir()
    rsync("-aS", *(word for word in sources if word != "-I"), target, cwd=top)
    # Whether it takes its arguments at all is asked with a source that is none.
    asked = f'case "$*" in */none\\ .) ;; *) touch {top}/asked;; esac'
    done = sync("-a", *sources, target, cwd=top, env=between(top, asked=asked))
    assert done.returncode == 0 and (top / "asked").exists() == is_asked
