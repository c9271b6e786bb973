"""``copytree`` and ``move`` to and from another host, by a real sshd: what shutil would have made, and nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import sparsesync
from sparsesync import Session
from sparsesync.directories.by_rsync import prove
from tests.support.filesystems import allocated, command, need_root, need_tools, same_content, sparse_file
from tests.support.shells import local_shell, script
from tests.support.sshd import Sshd

MIB = 1 << 20
HOUSE = Path(sparsesync.__path__[0]).parent
NAMES = ["a b", "new\nline", "k:d", "-x", "*?[\\", "~", '"q"', "\udcff\udc80"]
WAYS = [("", "far:"), ("far:", "")]

pytestmark = [
    pytest.mark.ssh,
    pytest.mark.filterwarnings("error"),
]


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need_tools("rsync")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    made = tmp_path / "top: it"
    (made / "below/empty").mkdir(parents=True)
    sparse_file(made / "below/disk", 64 * MIB, [(MIB, 8192)])
    for number, name in enumerate(NAMES):
        sparse_file(made / name, MIB * (number + 2), [(4096 * number, 4096)])
    (made / "dense").write_bytes(b"x" * 5000)
    os.link(made / "dense", made / "below/link")
    os.symlink("dense", made / "symlink")
    os.chown(made / "dense", 1234, 4321)
    os.setxattr(made / "dense", "user.color", b"red")
    for path in (made / "below/empty", made / "below", made / "dense", made):
        os.chmod(path, 0o751)
        os.utime(path, ns=(10**18, 10**18 + 123456789))
    # rsync leaves a new symlink its time if that is of the same second.
    os.utime(made / "symlink", ns=(10**18, 10**18 + 123456789), follow_symlinks=False)
    return made


def entries(top: Path) -> dict[str, tuple[object, ...]]:
    """What is in a tree, but for content and holes."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, names, files in os.walk(os.fsencode(top)):
        for name in [b".", *names, *files]:
            path = os.path.join(directory, name)
            st = os.lstat(path)
            size = None if os.path.isdir(path) else st.st_size
            link = os.readlink(path) if os.path.islink(path) else None
            attributes = tuple(os.listxattr(path, follow_symlinks=False))
            key = os.fsdecode(os.path.relpath(path, os.fsencode(top)))
            found[key] = st.st_mode, st.st_uid, st.st_mtime_ns, size, link, attributes
    return found


def assert_copied(expected: Path, made: Path) -> None:
    assert entries(made) == entries(expected)
    assert subprocess.run(["diff", "-r", "--no-dereference", expected, made]).returncode == 0
    for name in ["below/disk", *NAMES]:
        assert allocated(made / name) <= MIB


@pytest.mark.slow
@pytest.mark.parametrize(("at_source", "at_destination"), WAYS)
def test_a_tree_is_copied_as_by_shutil(
    sshd_server: Sshd, top: Path, tmp_path: Path, at_source: str, at_destination: str
) -> None:
    expected = tmp_path / "expected"
    shutil.copytree(top, expected, symlinks=True, copy_function=sparsesync.copy2)
    before = sshd_server.logins()
    source, made = f"{at_source}{top}", f"{at_destination}{tmp_path}/parent of/made"
    with Session(rsh=sshd_server.rsh) as session:
        assert session.copytree(source, made, symlinks=True) is made
        with pytest.raises(FileExistsError) as raised:
            session.copytree(source, made, symlinks=True)
        assert raised.value.filename == made
        if at_source:
            (tmp_path / "parent of/made/dense").write_bytes(b"another")
            assert session.copytree(source, made, symlinks=True, dirs_exist_ok=True) is made
        assert_copied(expected, tmp_path / "parent of/made")
    assert sshd_server.logins() == before + 1


def test_what_is_ignored(tmp_path: Path, top: Path) -> None:
    """By its pattern, and by where it is; in a directory behind a symlink, too."""
    os.symlink("below", top / "behind")

    def ignore(directory: str, names: list[str]) -> set[str]:
        assert os.path.isdir(directory) and sorted(os.listdir(directory)) == sorted(names)
        return (
            {"link"}
            if directory.endswith("/behind")
            else {"empty", *shutil.ignore_patterns("*\n*", "d?nse")(None, names)}
        )

    expected, made = tmp_path / "expected", tmp_path / "made"
    (top / "symlink").unlink()
    shutil.copytree(top, expected, ignore=ignore)
    sparsesync.copytree(top, f"far:{made}", ignore=ignore, rsh=local_shell(tmp_path / "rsh"))
    assert entries(made).keys() == entries(expected).keys()
    assert "behind/disk" in entries(made) and "behind/link" not in entries(made)


@pytest.mark.slow
@pytest.mark.parametrize(("at_source", "at_destination"), WAYS)
def test_what_cannot_be_copied_is_an_error_and_the_rest_is_copied(
    tmp_path: Path, top: Path, at_source: str, at_destination: str
) -> None:
    rsh = local_shell(tmp_path / "rsh")
    os.symlink("nowhere", top / "dangling")
    source, made = f"{at_source}{top}", f"{at_destination}{tmp_path}/made"
    wrong = {"below/a\tpipe"}
    if at_source:
        sparsesync.copytree(source, f"{made}-quiet", ignore_dangling_symlinks=True, rsh=rsh)
        wrong.add("dangling")
    os.mkfifo(top / "below/a\tpipe")
    before = entries(top)
    with pytest.raises(shutil.Error) as raised:
        (sparsesync.copytree if at_source else sparsesync.move)(source, made, rsh=rsh)
    found = {(src, dst) for src, dst, _ in raised.value.args[0]}
    assert found == {(f"{source}/{name}", f"{made}/{name}") for name in wrong}
    assert same_content(tmp_path / "made/dense", top / "dense")
    assert same_content(tmp_path / "made/below/disk", top / "below/disk")
    assert entries(top) == before


def test_what_cannot_be_done_is_said_at_once(tmp_path: Path, top: Path) -> None:
    rsh = local_shell(tmp_path / "rsh", f"touch {tmp_path}/called")
    for function in (sparsesync.copytree, sparsesync.move):
        with pytest.raises(ValueError, match="cannot both be on another host"):
            function("one:a", "two:b", rsh=rsh)
        with pytest.raises(TypeError, match="copy_function"):
            function("far:a", "b", copy_function=shutil.copy, rsh=rsh)
        with pytest.raises(ValueError, match="daemon"):
            function("far::a", "b", rsh=rsh)
    with pytest.raises(ValueError, match="ignore is called"):
        sparsesync.copytree("far:a", "b", ignore=shutil.ignore_patterns("*"), rsh=rsh)
    for odd in ("a*", "new\nline"):
        with pytest.raises(ValueError, match="remote host's shell"):
            sparsesync.copytree(top, f"far:{tmp_path}/{odd}", rsh=rsh)
    assert not (tmp_path / "called").exists()
    with pytest.raises(sparsesync.LinkError):
        sparsesync.copytree(top, "far:b", rsh="/nonexistent/rsh")
    for missing, kind in ((tmp_path / "none", FileNotFoundError), (top / "dense", NotADirectoryError)):
        for source in (missing, f"far:{missing}"):
            with pytest.raises(kind) as raised:
                sparsesync.copytree(source, f"{tmp_path}/x" if source != missing else f"far:{tmp_path}/x", rsh=rsh)
            assert raised.value.filename == str(source)
    for function in (sparsesync.copytree, sparsesync.move):
        with pytest.raises(shutil.Error, match="into itself"):
            function(top, f"far:{top}/below/copy", rsh=rsh)
    assert not (top / "below/copy").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("at_source", "at_destination"), WAYS)
def test_a_move_as_by_shutil(sshd_server: Sshd, top: Path, tmp_path: Path, at_source: str, at_destination: str) -> None:
    expected = tmp_path / "expected"
    shutil.copytree(top, expected, symlinks=True, copy_function=sparsesync.copy2)
    into = tmp_path / "into"
    into.mkdir()
    with Session(rsh=sshd_server.rsh) as session:
        made = session.move(f"{at_source}{top}", f"{at_destination}{into}")
        assert made == f"{at_destination}{into}/{top.name}" and not top.exists()
        assert_copied(expected, into / top.name)
        # Of one size and time, which rsync would take for a copy.
        for name in ("old", "new"):
            (tmp_path / name).write_text(name)
            os.utime(tmp_path / name, (10**9, 10**9))
        session.move(f"{at_source}{tmp_path}/new", f"{at_destination}{tmp_path}/old")
        assert (tmp_path / "old").read_text() == "new" and not (tmp_path / "new").exists()
        with pytest.raises(shutil.SameFileError):
            session.move(f"{at_source}{tmp_path}/old", f"{at_destination}{tmp_path}/old")
    assert (tmp_path / "old").read_text() == "new"


def test_a_symlink_is_moved_as_one_and_what_is_in_the_way_stays(top: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "into/link").mkdir(parents=True)
    with Session(rsh=local_shell(tmp_path / "rsh")) as session:
        with pytest.raises(shutil.Error, match="already exists"):
            session.move(f"far:{tmp_path}/link", tmp_path / "into")
        for source in ("link", top.name):
            with pytest.raises(FileExistsError):
                session.move(f"far:{tmp_path}/{source}", f"{tmp_path}/file")
        for source, kind in (("none", FileNotFoundError), ("link/", OSError), ("..", ValueError), ("file/", OSError)):
            with pytest.raises(kind):
                session.move(f"{tmp_path}/{source}", f"far:{tmp_path}/moved")
        assert session.move(tmp_path / "link", f"far:{tmp_path}/a link") == f"far:{tmp_path}/a link"
    assert os.readlink(tmp_path / "a link") == "nowhere" and not (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"old" and top.exists()


@pytest.mark.parametrize(("at_source", "at_destination"), WAYS)
def test_what_changes_while_it_is_moved_stays(
    top: Path, tmp_path: Path, at_source: str, at_destination: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(*arguments: object) -> None:
        prove(*arguments)  # type: ignore[arg-type]
        st = os.stat(top / "dense")
        (top / "dense").write_bytes(b"y" * 5000)
        os.utime(top / "dense", ns=(st.st_atime_ns, st.st_mtime_ns))

    before = entries(top).keys()
    monkeypatch.setattr("sparsesync.directories.move.prove", change)
    with pytest.raises(shutil.Error) as raised:
        sparsesync.move(f"{at_source}{top}", f"{at_destination}{tmp_path}/made", rsh=local_shell(tmp_path / "rsh"))
    left = {path for path, _, why in raised.value.args[0] if "has changed while it was moved" in why}
    assert left == {f"{at_source}{top}/{name}" for name in ("dense", "below/link")}
    assert entries(top).keys() == before


def test_attributes_that_the_destination_does_not_take_are_warned_of(top: Path, tmp_path: Path) -> None:
    need_root("mounting needs root")
    (tmp_path / "ram").mkdir()
    command("mount", "-t", "ramfs", "none", tmp_path / "ram")
    try:
        with pytest.warns(RuntimeWarning, match="user.color.*Operation not supported"):
            sparsesync.copytree(top, f"far:{tmp_path}/ram/made", symlinks=True, rsh=local_shell(tmp_path / "rsh"))
        made = entries(tmp_path / "ram/made")
        assert made.keys() == entries(top).keys()
        assert made["dense"][:-1] == entries(top)["dense"][:-1] and made["dense"][-1] == ()
    finally:
        command("umount", tmp_path / "ram")


def test_what_a_filter_keeps_from_the_copy_and_the_proof_stays(
    top: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = entries(top)
    filtering = script(tmp_path / "rsync", f'exec {shutil.which("rsync")} --exclude=dense "$@"')
    monkeypatch.setenv("SPARSESYNC_RSYNC", filtering)
    with pytest.raises(shutil.Error, match="the number of files"):
        sparsesync.move(top, f"far:{tmp_path}/made", rsh=local_shell(tmp_path / "rsh"))
    assert entries(top) == before and not (tmp_path / "made/dense").exists()


@pytest.mark.parametrize(("at_source", "at_destination", "after"), [(*WAYS[0], 1), (*WAYS[1], 3), (*WAYS[0], 4)])
def test_a_move_that_loses_its_host_leaves_the_source(
    top: Path, tmp_path: Path, at_source: str, at_destination: str, after: int
) -> None:
    """The shell leads there ``after`` times: the agent, its like for the seeding, rsync twice; rsync for the proof."""
    before = entries(top)
    log = tmp_path / "log"
    rsh = local_shell(tmp_path / "rsh", f"echo >> {log}", f"[ $(wc -l < {log}) -le {after} ] || exit 255")
    with pytest.raises(sparsesync.LinkError) as raised:
        sparsesync.move(f"{at_source}{top}", f"{at_destination}{tmp_path}/made", rsh=rsh)
    assert raised.value.host == "far"
    assert entries(top) == before


MOVES = """
import os, signal, sys, sparsesync

source, made, rsh, phase = sys.argv[1:]
unlink = os.unlink

def kill(*arguments, dir_fd=None):
    unlink(*arguments, dir_fd=dir_fd)
    if phase == "removing" and dir_fd is not None:
        os.kill(os.getpid(), signal.SIGKILL)

os.unlink = kill
sparsesync.move(source, made, rsh=rsh)
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["copying", "removing"])
def test_a_move_that_is_killed_loses_no_file(top: Path, tmp_path: Path, phase: str) -> None:
    for number in range(100):
        (top / f"below/empty/{number}").write_bytes(b"%d" % number)
    saved, made = tmp_path / "saved", tmp_path / "made"
    shutil.copytree(top, saved, symlinks=True, copy_function=sparsesync.copy2)
    program = [sys.executable, "-X", "dev", "-W", "error", "-c", MOVES, str(top), f"far:{made}"]
    process = subprocess.Popen(
        [*program, local_shell(tmp_path / "rsh"), phase], env={**os.environ, "PYTHONPATH": str(HOUSE)}
    )
    while phase == "copying" and process.poll() is None:
        if made.exists():
            process.kill()
    assert process.wait() == -signal.SIGKILL
    lost = [name for name in entries(saved) if not os.path.lexists(top / name)]
    assert len(lost) == (phase == "removing")
    for name in lost:
        if not os.path.isdir(saved / name):
            assert same_content(saved / name, made / name)
