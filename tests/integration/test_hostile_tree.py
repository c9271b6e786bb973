"""``sparsesync sync`` over trees that others own: what they may read, run, or have copied meanwhile.

A stand-in for rsync in PATH looks at, or changes, what is there at the moment when rsync is asked and when it runs.
Judged by modes and by content, against what rsync alone leaves.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, need, need_root
from tests.support.shells import local_shell
from tests.support.sync import between, difference, image, run, snapshot, sync

MIB = 1 << 20
OTHER = 54321
SECRET = b"SECRET of root"


@pytest.fixture(autouse=True)
def _needs() -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")
    need_root("another user needs root")


def as_other(top: Path, *argv: str, **more: object) -> subprocess.CompletedProcess[bytes]:
    return run("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", *argv, cwd=top, **more)


OPTIONS = [
    # options, mode of the source, of the earlier file, the mode before rsync runs; None: it is left to rsync
    (["-a"], 0o4755, 0o4755, 0o600),
    (["-a"], 0o640, 0o644, 0o600),
    (["-a"], 0o644, None, 0o600),
    (["-rtp"], 0o644, 0o666, 0o600),
    (["-rtpgo", "--chmod=F600"], 0o644, 0o644, 0o600),
    (["-aAX"], 0o640, None, 0o600),
    (["-rt"], 0o640, None, 0o640),
    (["-rt"], 0o4755, None, 0o755),
    (["-rt"], 0o644, 0o604, 0o604),
    (["-rt"], 0o644, 0o4755, None),
    (["-rto"], 0o640, 0o640, 0o640),
    (["-rtg"], 0o640, None, None),
    (["-rtg"], 0o644, None, 0o644),
    (["-rtgo"], 0o644, 0o664, None),
]


@pytest.mark.parametrize(("options", "mode", "old", "seen"), OPTIONS)
@pytest.mark.parametrize("how", ["local", "push", "pull"])
def test_a_seeded_file_is_never_more_open_than_the_finished_one(
    tmp_path: Path, options: list[str], mode: int, old: int | None, seen: int | None, how: str
) -> None:
    (tmp_path / "src").mkdir()
    os.chown(image(tmp_path / "src/f"), OTHER, OTHER)
    os.chmod(tmp_path / "src/f", mode)
    for dst in ("ours", "theirs"):
        (tmp_path / dst).mkdir()
        if old is not None:
            os.chown(image(tmp_path / dst / "f", content=b"old", mtime=1), 77, 77)
            os.chmod(tmp_path / dst / "f", old)
    look = f"stat -c '%a %u %s %Y' {tmp_path}/ours/f > {tmp_path}/seen 2>&1"
    far = [f"--rsh={local_shell(tmp_path / 'rsh')}"]
    source, target = f"{tmp_path}/src/", f"{tmp_path}/ours/"
    ends = {"local": [source, target], "push": [*far, source, f"h:{target}"], "pull": [*far, f"h:{source}", target]}
    environment = between(tmp_path, before=look)
    done = sync(*options, *ends[how], cwd=tmp_path, env=environment, umask=0o022)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "seen").read_text().split()
    if seen is None:
        assert words[3:] != ["1000000000"] and b"left to rsync" in done.stderr
    else:
        assert words == [f"{seen:o}", "0", str(2 * MIB), "1000000000"] and done.stderr == b""
        assert allocated(tmp_path / "ours/f") <= 64 * 1024
    run("rsync", *options, source, f"{tmp_path}/theirs/", cwd=tmp_path, umask=0o022)
    since = time.time() - 60
    assert difference(snapshot(tmp_path / "ours", since), snapshot(tmp_path / "theirs", since)) == {}


@pytest.mark.parametrize(
    ("options", "source", "target"),
    [
        (["-rtX"], 0o4755, None), (["-rtX"], 0o666, 0o600), (["-au", "--modify-window=1"], 0o640, None),
        (["-rtR"], 0o640, None), (["-rt"], 0o644, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("root", [0o700, 0o2750])
def test_modes_are_what_rsync_alone_gives(
    tmp_path: Path, options: list[str], source: int, target: int | None, root: int
) -> None:
    (tmp_path / "src/d/e").mkdir(parents=True)
    os.setxattr(image(tmp_path / "src/f", source), "user.x", b"1")
    os.chown(tmp_path / "src/f", OTHER, OTHER)
    os.chmod(image(tmp_path / "src/d/e/g"), source)
    os.chmod(tmp_path / "src/d/e", 0o570)
    os.chmod(tmp_path / "src", root)
    for top in ("ours", "theirs"):
        (tmp_path / top).mkdir()
        os.chmod(tmp_path / top, 0o2755)
        if target is not None:
            (tmp_path / top / "dst").mkdir()
            os.chmod(image(tmp_path / top / "dst/f", content=b"old", mtime=1), target)
    sync(*options, "src/./", "ours/dst/", cwd=tmp_path)
    run("rsync", *options, "src/./", "theirs/dst/", cwd=tmp_path)
    since = time.time() - 60
    assert difference(snapshot(tmp_path / "ours/dst", since), snapshot(tmp_path / "theirs/dst", since)) == {}


def test_what_rsync_makes_writable_itself_is_not_refused() -> None:
    """As a user who owns a closed directory at the destination."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # pytest's own is closed to others
        top = Path(name)
        os.chmod(top, 0o777)
        (top / "src/e").mkdir(parents=True)
        image(top / "src/e/g")
        os.chmod(top / "src/e", 0o555)
        run("chown", "-R", f"{OTHER}:{OTHER}", "src", cwd=top)
        command = [sys.executable, "-m", "sparsesync", "sync", "-a", "src/", "dst/"]
        for mtime in (10**9, 10**9 + 5):
            os.utime(top / "src/e/g", (mtime, mtime))
            done = as_other(top, *command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
            assert done.returncode == 0, done.stderr
            assert (top / "dst/e/g").stat().st_mtime == mtime


@pytest.mark.parametrize("kind", ["setgid", "default ACL"])
def test_a_directory_gives_its_group_or_its_acl_to_no_one(tmp_path: Path, kind: str) -> None:
    need(shutil.which("setfacl") is not None, "setfacl is not installed")
    (tmp_path / "src").mkdir()
    image(tmp_path / "src/f", 0o640)
    (tmp_path / "dst").mkdir()
    if kind == "setgid":
        os.chown(tmp_path / "dst", 0, OTHER)
        os.chmod(tmp_path / "dst", 0o2755)
    else:
        run("setfacl", "-d", "-m", f"u:{OTHER}:rwx", "dst", cwd=tmp_path)
    os.chmod(tmp_path, 0o755)
    reading = f"setpriv --reuid={OTHER} --regid={OTHER} --clear-groups head -c 1 {tmp_path}/dst/f > {tmp_path}/seen"
    environment = between(tmp_path, before=f"{reading} 2> /dev/null; stat -c %a {tmp_path}/dst/f > {tmp_path}/mode")
    assert sync("-a", "src/", "dst/", cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "seen").read_bytes() == b"" and (tmp_path / "mode").read_text() == "600\n"


def test_after_a_kill_less_may_be_done_and_the_next_run_mends_it(tmp_path: Path) -> None:
    (tmp_path / "src/d").mkdir(parents=True)
    os.chown(image(tmp_path / "src/d/f", 0o644), OTHER, OTHER)
    environment = between(tmp_path, instead="kill -9 $$")
    assert sync("-a", "src/", "dst/", cwd=tmp_path, env=environment).returncode == 128 + signal.SIGKILL
    assert stat.S_IMODE((tmp_path / "dst/d/f").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "dst/d").stat().st_mode) == 0o700
    assert sync("-a", "src/", "dst/", cwd=tmp_path).returncode == 0
    since = time.time() - 60
    assert difference(snapshot(tmp_path / "src", since), snapshot(tmp_path / "dst", since)) == {}
    assert allocated(tmp_path / "dst/d/f") <= 64 * 1024


@pytest.mark.parametrize("how", ["local", "push", "pull"])
def test_a_directory_that_becomes_a_symlink_leads_nowhere(tmp_path: Path, how: str) -> None:
    """It is one from the moment rsync has been asked until it runs, and leads to what only root may read."""
    top = tmp_path / "theirs"
    (top / "src/d").mkdir(parents=True)
    (tmp_path / "root").mkdir(mode=0o700)
    image(tmp_path / "root/f", 0o600, SECRET)
    image(top / "src/d/f", content=b"theirs")
    swap = f"mv {top}/src/d {top}/src/.d; ln -s {tmp_path}/root {top}/src/d"
    back = f"rm {top}/src/d; mv {top}/src/.d {top}/src/d"
    seen = f"cat {tmp_path}/dst/d/f > {tmp_path}/seen 2>/dev/null"
    environment = between(tmp_path, after=swap, before=f"{seen}; {back}")
    far = ["--rsh", local_shell(tmp_path / "rsh")]
    ends = {
        "local": [f"{top}/src/", "dst/"],
        "push": [*far, f"{top}/src/", f"h:{tmp_path}/dst/"],
        "pull": [*far, f"h:{top}/src/", "dst/"],
    }
    done = sync("-a", *ends[how], cwd=tmp_path, env=environment)
    assert done.returncode == 0 and (tmp_path / "seen").read_bytes() == b""
    assert (tmp_path / "dst/d/f").read_bytes().rstrip(b"\0") == b"theirs"


@pytest.mark.parametrize("owner", [0, OTHER])
@pytest.mark.parametrize("how", ["local", "push"])
def test_a_destination_behind_a_symlink_of_somebody_else(tmp_path: Path, owner: int, how: str) -> None:
    (tmp_path / "src").mkdir()
    image(tmp_path / "src/f")
    (tmp_path / "elsewhere/dst").mkdir(parents=True)
    (tmp_path / "link").symlink_to("elsewhere")
    os.lchown(tmp_path / "link", owner, owner)
    seen = f"ls {tmp_path}/elsewhere/dst > {tmp_path}/seen"
    environment = between(tmp_path, before=seen)
    far = [f"--rsh={local_shell(tmp_path / 'rsh')}", "src/", f"h:{tmp_path}/link/dst/"]
    sync("-a", *(["src/", "link/dst/"] if how == "local" else far), cwd=tmp_path, env=environment)
    assert (tmp_path / "seen").read_text() == ("f\n" if owner == 0 else "")


def test_a_public_file_under_the_name_of_the_partial_file(tmp_path: Path) -> None:
    """Somebody who owns the directory has it open already."""
    os.chmod(tmp_path, 0o755)
    (tmp_path / "src").mkdir()
    image(tmp_path / "src/f", 0o600, SECRET)
    (tmp_path / "dst").mkdir()
    for mode in (0o644, 0o600):
        os.chown(tmp_path / "dst", OTHER, OTHER)
        public = tmp_path / "dst/.f.sparsesync-partial"
        public.write_bytes(b"public" * 1000)
        with open(public, "rb") as held:
            os.chmod(public, mode)
            far = [f"--rsh={local_shell(tmp_path / 'rsh')}", "src/", f"h:{tmp_path}/dst/"]
            assert sync("-a", *far, cwd=tmp_path).returncode == 0
            assert held.read() == b"public" * 1000
        assert os.listdir(tmp_path / "dst") == ["f"]
        (tmp_path / "dst/f").unlink()


def test_a_partial_dir_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    image(tmp_path / "src/f")
    (tmp_path / "shared").mkdir()
    os.chmod(tmp_path / "shared", 0o777)
    os.chmod(image(tmp_path / "shared/f", content=b"planted"), 0o600)
    far = [f"--rsh={local_shell(tmp_path / 'rsh')}", f"--partial-dir={tmp_path}/shared"]
    done = sync("-av", "--seed-verbose", *far, "src/", f"h:{tmp_path}/dst/", cwd=tmp_path)
    assert done.returncode == 0 and b"seeded f" in done.told
    assert (tmp_path / "dst/f").read_bytes() == (tmp_path / "src/f").read_bytes()


SWAP = """
import os, sys, time
top, end = sys.argv[1], time.monotonic() + float(sys.argv[2])
os.chdir(top)
os.mkfifo("fifo"); os.symlink(sys.argv[3], "out"); os.symlink(sys.argv[3] + "/f", "link"); os.mkdir("dir")
while time.monotonic() < end:
    for one, other in (("d", "out"), ("d/f", "link"), ("d/f", "fifo"), ("e/f", "dir"), ("e", "out"), ("d", "e")):
        try:
            os.rename(one, "swap"); os.rename(other, one); os.rename("swap", other)
            os.rename(one, "swap"); os.rename(other, one); os.rename("swap", other)
        except OSError:
            pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["src", "dst"])
def test_a_tree_that_is_rearranged_all_the_time_leads_nowhere(tmp_path: Path, where: str) -> None:
    (tmp_path / "root").mkdir(mode=0o700)
    image(tmp_path / "root/f", 0o600, SECRET)
    kept = (tmp_path / "root/f").read_bytes()
    for name in ("src/d", "src/e", "dst/d", "dst/e"):
        (tmp_path / name).mkdir(parents=True)
        image(tmp_path / name / "f", content=name.encode(), mtime=10**9 + len(name) + (name < "dst/z"))
    (tmp_path / "swap.py").write_text(SWAP)
    argv = [sys.executable, "swap.py", where, "3", str(tmp_path / "root")]
    swapping = subprocess.Popen(argv, cwd=tmp_path)
    # rsync itself stands still here: it is another program's race.
    environment = between(tmp_path, instead="exit 0")
    runs = 0
    try:
        while swapping.poll() is None:
            for name in ("d", "e"):
                with contextlib.suppress(OSError):
                    os.utime(tmp_path / "src" / name / "f", (runs, runs), follow_symlinks=False)
            done = sync("-a", "src/", "dst/", cwd=tmp_path, env=environment)
            assert b"Traceback" not in done.stderr, done.stderr
            runs += 1
    finally:
        swapping.kill()
        swapping.wait()
    assert runs > 1 and (tmp_path / "root/f").read_bytes() == kept and os.listdir(tmp_path / "root") == ["f"]
    for directory, _, files in os.walk(tmp_path / "dst"):
        for name in files:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                assert SECRET not in path.read_bytes()


@pytest.mark.parametrize("way", ["leaf", "above"])
@pytest.mark.parametrize("owner", [0, OTHER])
def test_the_log_file_is_not_written_where_another_user_points(tmp_path: Path, way: str, owner: int) -> None:
    (tmp_path / "src").mkdir()
    image(tmp_path / "src/img")
    (tmp_path / "secret").mkdir()
    kept = tmp_path / "secret/log"
    kept.write_bytes(b"as it was\n")
    planted = tmp_path / "planted"
    planted.symlink_to(kept if way == "leaf" else kept.parent)
    os.chown(planted, owner, owner, follow_symlinks=False)
    log = planted if way == "leaf" else planted / "log"
    done = sync("-a", "--seed-verbose", f"--log-file={log}", "src/", "dst/", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "dst/img").read_bytes() == (tmp_path / "src/img").read_bytes()
    logged = kept.read_bytes()
    assert logged.startswith(b"as it was\n")
    if owner == 0:
        assert b"f+++++++++ img" in logged and b"seeded img" in done.told
    else:
        assert b"the log file is reached by a symlink of another user" in done.told
        # By the rule of rsync 3.5.0. Older ones follow it.
        newer = run("rsync", "-a", f"--log-file={log}", "src/", "dst2/", cwd=tmp_path).stderr != b""
        assert (logged == b"as it was\n") is newer
