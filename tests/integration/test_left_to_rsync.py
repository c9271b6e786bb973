"""What ``sparsesync sync`` leaves to rsync is told, since its holes are lost for good; and rsync always runs, or not.

A stand-in for rsync in PATH dies, is refused, or only tells that it ran.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sparsesync.rsync.process import spooled
from tests.support.filesystems import allocated, filesystem, need, need_root
from tests.support.shells import local_shell
from tests.support.sshd import Sshd
from tests.support.sync import between, image, run, sync

LINE = "sparsesync: 1 sparse file {be} left to rsync, which {writes} {size} of holes as data: {reason}\n"


@pytest.fixture(autouse=True)
def _rsync() -> None:
    need(shutil.which("rsync") is not None, "rsync is not installed")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A directory with a sparse file in ``src``, and an empty ``dst``."""
    (tmp_path / "src").mkdir()
    (tmp_path / "dst").mkdir()
    image(tmp_path / "src/f")
    (tmp_path / "src/plain").write_bytes(b"plain")
    return tmp_path


def line(reason: str, *, be: str = "is", writes: str = "writes", size: str = "2 MiB") -> bytes:
    return LINE.format(be=be, writes=writes, size=size, reason=reason).encode()


def test_a_file_that_is_left_is_told(top: Path) -> None:
    (top / "dst/f").symlink_to("nowhere")
    reason = "f: what is at its place is not a regular file"
    said = sync("-a", "--seed-required", "src/", "dst/", cwd=top)
    assert (said.returncode, os.listdir(top / "dst")) == (4, ["f"])
    assert said.stderr == b"sparsesync: --seed-required is given, and " + line(reason)[len("sparsesync: ") :]
    assert sync("-aq", "src/", "dst/", cwd=top).stderr == line(reason)
    assert (top / "dst/plain").exists()
    # Now rsync finds it equal, and there is nothing that could be left.
    assert sync("-a", "--seed-required", "src/", "dst/", cwd=top).stderr == b""


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--append"], "--append is given: "), (["-c"], "-c is given: "), (["-aS", "-c"], None),
     (["--list-only"], None), (["--seed-off"], None)],
)  # fmt: skip
def test_a_run_that_is_left_is_told_if_there_is_something_to_lose(
    top: Path, options: list[str], reason: str | None
) -> None:
    said = sync("-a", *options, "src/", "dst/", cwd=top).stderr.decode()
    if reason is None:
        assert "left to rsync" not in said
        return
    assert said.startswith(line("", writes="may write").decode().rstrip("\n") + reason) and said.count("\n") == 1
    dry = sync("-an", *options, "src/", "dst/", cwd=top).stderr.decode()
    assert dry.startswith(line("", be="would be", writes="may write").decode().rstrip("\n") + reason)
    (top / "src/f").unlink()
    assert sync("-a", *options, "src/", "dst/", cwd=top).stderr == b""


def test_a_dry_run_that_is_killed_is_asked_again(top: Path) -> None:
    once = f"test -e {top}/once || {{ touch {top}/once; kill -9 $$; }}"
    done = sync("-a", "src/", "dst/", cwd=top, env=between(top, asked=once))
    assert (done.returncode, done.stderr) == (0, b"") and allocated(top / "dst/f") <= 64 * 1024


def test_one_that_is_killed_again_ends_the_run(top: Path) -> None:
    done = sync("-a", "src/", "dst/", cwd=top, env=between(top, asked="kill -9 $$"))
    assert done.returncode == 128 + signal.SIGKILL and os.listdir(top / "dst") == []
    assert done.stderr == b"sparsesync: rsync was killed twice when asked what it would transfer (status 137)\n"


@pytest.mark.parametrize("status", [12, 13, 99])
def test_one_that_fails_otherwise_leaves_it_to_rsync(top: Path, status: int) -> None:
    done = sync("-a", "src/", "dst/", cwd=top, env=between(top, after=f"exit {status}"))
    assert (done.returncode, done.stderr) == (0, line(f"its dry run ends with status {status}", writes="may write"))
    assert (top / "dst/f").exists()


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_login_that_is_refused_ends_the_run(top: Path, sshd_server: Sshd, direction: str) -> None:
    """The second login, of rsync that is asked; the shell is none that could be shared."""
    counted = f"flock {top}/lock sh -c 'echo >> {top}/logins; wc -l < {top}/logins'"  # two may begin at once
    count = f"test $({counted}) != {{}} || {{{{ echo refused >&2; exit 255; }}}}"
    for login in (1, 2):
        shell = local_shell(top / f"rsh{login}", count.format(login))
        (top / "logins").write_bytes(b"")
        ends = ["src/", f"h:{top}/dst/"] if direction == "push" else [f"h:{top}/src/", "dst/"]
        done = sync("-a", "-e", shell, *ends, cwd=top)
        # rsync's own is 12 or 255, as it notices first that it cannot write or that the shell is gone.
        assert done.returncode in (12, 255) and done.stderr.startswith(b"refused\n"), done.stderr
        assert os.listdir(top / "dst") == []


def test_without_a_place_for_temporary_files_rsync_runs(top: Path) -> None:
    environment = {**os.environ, "TMPDIR": "/nonexistent"}
    script = "import sys, tempfile; tempfile._candidate_tempdir_list = lambda: ['/nonexistent']; "
    script += "from sparsesync.commands.main import main; sys.exit(main(sys.argv[1:]))"
    done = run(sys.executable, "-c", script, "sync", "-a", "src/", "dst/", cwd=top, env=environment)
    assert done.returncode == 0 and (top / "dst/plain").exists()
    assert done.stderr.startswith(line("", writes="may write").rstrip(b"\n")) and done.stderr.count(b"\n") == 1


def test_a_full_place_for_temporary_files_is_no_reason_not_to_run_rsync(top: Path) -> None:
    need_root("mounting needs root")
    for number in range(500):
        (top / f"src/{number:0200}").touch()
    with filesystem("tmpfs", top / "small", "1M") as small:
        (small / "filler").write_bytes(b"x" * ((1 << 20) - (16 << 10)))
        done = sync("-a", "src/", "dst/", cwd=top, env={**os.environ, "TMPDIR": str(small)})
    assert done.returncode == 0 and (top / "dst/plain").exists() and b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"sparsesync: ") and b"left to rsync" in done.stderr


@pytest.mark.parametrize("how", ["local", "push", "pull"])
def test_a_destination_that_takes_nothing_is_found_before_any_hole_is_read(top: Path, how: str) -> None:
    """rsync would read a terabyte of zeros first."""
    need_root("mounting needs root")
    os.truncate(top / "src/f", 1 << 40)
    with filesystem("ext4", top / "fs", "32M") as small:
        (small / "plain").write_bytes(b"old")
        command = ["mount", "-o", "remount,ro", str(small)]
        subprocess.run(command, check=True)
        far = ["-e", local_shell(top / "rsh")]
        ends = {
            "local": ["src/", f"{small}/"],
            "push": [*far, "src/", f"h:{small}/"],
            "pull": [*far, f"h:{top}/src/", f"{small}/"],
        }
        done = sync("-a", *ends[how], cwd=top)
    assert done.returncode == 23
    refused = f'rsync: [receiver] mkstemp "{small}/.f.XXXXXX" failed: Read-only file system (30)\n'
    assert refused.encode() in done.stderr and b"left to rsync" not in done.stderr


@pytest.mark.parametrize("how", ["push", "pull"])
def test_few_descriptors_are_enough(top: Path, how: str) -> None:
    for number in range(300):
        image(top / f"src/{number}", content=b"new" * 5000)
        image(top / f"dst/{number}", content=b"old" * 5000, mtime=1)
    far = ["-e", local_shell(top / "rsh")]
    ends = [*far, "src/", f"h:{top}/dst/"] if how == "push" else [*far, f"h:{top}/src/", "dst/"]
    script = 'ulimit -n 48; exec "$@"'
    done = run("sh", "-c", script, "sh", sys.executable, "-m", "sparsesync", "sync", "-a", *ends, cwd=top)
    assert (done.returncode, done.stderr) == (0, b"")
    assert max(allocated(top / "dst" / str(number)) for number in range(300)) <= 64 * 1024


@pytest.mark.parametrize("limit", [8, 10])
def test_rsync_runs_where_descriptors_are_too_few_to_seed(top: Path, limit: int) -> None:
    script = f'ulimit -n {limit}; exec "$@"'
    done = run("sh", "-c", script, "sh", sys.executable, "-m", "sparsesync", "sync", "-a", "src/", "dst/", cwd=top)
    assert (done.returncode, (top / "dst/f").read_bytes()) == (0, (top / "src/f").read_bytes())
    assert done.stderr.startswith(line("", writes="may write").rstrip(b"\n")) and done.stderr.count(b"\n") == 1


def test_a_list_on_standard_input_needs_no_room_on_a_disk(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = b"".join(b"%d\n" % number for number in range(500_000))
    with filesystem("tmpfs", top / "small", size="64k") as small:
        monkeypatch.setattr("tempfile.tempdir", str(small))
        with spooled(io.BytesIO(names)) as copy:
            copy.seek(0)
            assert copy.read() == names


@pytest.mark.parametrize("options", [["-a"], ["-aR"]])
def test_a_tree_that_is_too_deep_for_rsyncs_answer_is_no_reason(top: Path, options: list[str]) -> None:
    """Where it lies and its name in the transfer together are longer than what rsync prints in one line."""
    script = f"""
        import os
        os.chdir("src")
        for _ in range(13):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        os.rename("{top}/src/f", "f")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=top, check=True)
    done = sync(*options, "src/", "dst/", cwd=top)
    assert (done.returncode, done.stderr) == (0, b"")
    used = subprocess.run(["du", "-sk", "dst"], cwd=top, capture_output=True, check=True).stdout.split()[0]
    assert int(used) < 500


@pytest.mark.parametrize("options", [["-rl"], ["-rln"]])
def test_without_times_and_without_a_sparse_file_a_pull_ends_well(top: Path, options: list[str]) -> None:
    (top / "src/f").unlink()
    done = sync(*options, "-e", local_shell(top / "rsh"), f"h:{top}/src/", "dst/", cwd=top)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("argv", [["-a", "--fake-super"], ["-av"]])
def test_rsync_runs_though_nobody_hears_what_is_said(top: Path, argv: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "sparsesync", "sync", *argv, "src/", "dst/"]
        subprocess.run(command, cwd=top, stdout=full if "-av" in argv else None, stderr=full, timeout=60, check=False)
    assert (top / "dst/plain").exists() and (top / "dst/f").exists()


def test_a_dry_run_that_is_cut_within_a_line_is_asked_again(top: Path) -> None:
    real = shutil.which("rsync")
    once = f'test -e {top}/once || {{ touch {top}/once; {real} "$@" | head -c 30; exit 0; }}'
    done = sync("-a", "src/", "dst/", cwd=top, env=between(top, asked=once))
    assert (done.returncode, done.stderr) == (0, b"") and allocated(top / "dst/f") <= 64 * 1024


@pytest.mark.parametrize("way", ["local", "push", "pull"])
def test_holes_that_are_lost_after_the_seeding_are_told(top: Path, way: str) -> None:
    change = "printf y | dd of=src/f conv=notrunc status=none"
    environ = {**between(top, before=change), "RSYNC_RSH": local_shell(top / "shell")}
    source, target = "host:" * (way == "pull") + f"{top}/src/", "host:" * (way == "push") + f"{top}/dst/"
    done = sync("-a", "--seed-no-heal", source, target, cwd=top, env=environ)
    assert (done.returncode, (top / "dst/f").read_bytes()) == (0, (top / "src/f").read_bytes())
    why = b"at one of the ends it changed after it was seeded"
    told = b"sparsesync: rsync wrote 1 seeded file anew, with 2 MiB of holes as data: f: " + why + b"\n"
    assert done.stderr == told and allocated(top / "dst/f") >= 2 * 1024 * 1024
    assert sync("-a", source, target, cwd=top, env={**os.environ, "RSYNC_RSH": environ["RSYNC_RSH"]}).stderr == b""


def test_holes_that_rsync_keeps_are_not_told(top: Path) -> None:
    change = "printf y | dd of=src/f conv=notrunc status=none"
    for options in (["-aS"], ["-a", "--inplace", "--no-whole-file"]):
        environ = between(top, before=change)
        assert sync(*options, "src/", "dst/", cwd=top, env=environ).stderr == b""
        shutil.rmtree(top / "bin")
        shutil.rmtree(top / "dst")
        (top / "dst").mkdir()


@pytest.mark.parametrize("how", ["local", "push"])
def test_nothing_is_said_to_be_left_where_rsync_cannot_make_the_destination(top: Path, how: str) -> None:
    there = f"far:{top}/" if how == "push" else ""
    argv = ["-a", *(["-e", local_shell(top / "rsh")] if there else []), "src/", f"{there}no/such/"]
    alone = subprocess.run(["rsync", *argv], cwd=top, capture_output=True)
    said = sync(*argv, cwd=top)
    assert alone.returncode == 11 and (said.returncode, said.stderr) == (11, alone.stderr)
    said = sync("--seed-required", *argv, cwd=top)
    assert said.returncode == 4 and said.stderr.endswith(b"no/such/: No such file or directory\n")


@pytest.mark.parametrize("options", [[], ["--exclude=/q"], ["--exclude=/q/r"], ["--exclude=/f", "--include=/q"]])
def test_a_destination_in_the_source_is_left_unless_it_is_excluded(top: Path, options: list[str]) -> None:
    trees = []
    for program in (["rsync"], [sys.executable, "-m", "sparsesync", "sync", "--seed-verbose"]):
        folder = top / f"by {len(program)}"
        (folder / "src/q/r").mkdir(parents=True)
        for name in ("src/f", "src/q/g"):
            image(folder / name)
        # With incremental recursion rsync may find what it has just made.
        done = run(*program, "-a", "--no-inc-recursive", *options, "src/", "src/q/r/", cwd=folder)
        assert done.returncode == 0, done.stderr
        trees.append(sorted(str(path.relative_to(folder)) for path in folder.rglob("*")))
    assert trees[0] == trees[1]
    excluded = bool({"--exclude=/q", "--exclude=/q/r"} & {*options})
    assert (b"seeded f" in done.stderr) == excluded
    assert (b"the destination is in a source" in done.stderr) != excluded
