"""Many small files: what one run of ``sync`` asks of the kernel for each, and that two processes are as good as one."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from sparsesync.hosts.local.second import BATCH_FILES
from tests.support.filesystems import command, filesystem, need, need_root, need_tools, written_bytes

_SYNC = [sys.executable, "-B", "-m", "sparsesync", "sync"]


def _tree(top: Path, count: int) -> Path:
    """Make sparse files with 4 KiB of data, 100 in a directory."""
    for number in range(count):
        path = top / f"src/d{number // 100}/f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            file.truncate(1 << 20)
            file.seek(number % 200 * 4096)
            file.write(b"%4096d" % number)
    return top / "src"


def _calls(top: Path, count: int) -> Counter[str]:
    """Return the system calls of the process that is not rsync."""
    source = _tree(top / str(count), count)
    log = top / "log"
    command("strace", "-f", "-qq", "-s0", "-o", log, *_SYNC, "-a", f"{source}/", f"{source}/../dst/")
    lines = log.read_text().splitlines()
    first = lines[0].split()[0]
    names = (line.split()[1].partition("(")[0] for line in lines if line.split()[0] == first)
    return Counter(name for name in names if name != "<...")  # the end of one that has another's lines within it


def test_each_file_costs_few_system_calls(tmp_path: Path) -> None:
    need_root("mount")
    need_tools("strace")
    with filesystem("ext4", tmp_path) as top:
        few, many = _calls(top, 100), _calls(top, 300)
    each = {name: (many[name] - few[name]) / 200 for name in many}
    # The slower it is, the more often a directory is looked up anew.
    assert sum(each.values()) < 36, each
    # Both ends of a copy are opened, and the source before, to see what it takes.
    assert each["openat"] < 3.5, each


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need(len(os.sched_getaffinity(0)) > 1, "there is only one processor")
    top = tmp_path_factory.mktemp("many")
    source = _tree(top, 1100)
    with open(source / "d7/large", "wb") as file:
        file.truncate(1 << 24)
        file.write(bytes(range(256)) * 4096)
    return source


@pytest.mark.slow
def test_two_processes_tell_and_do_what_one_does(many: Path, tmp_path: Path) -> None:
    need_tools("strace")
    log, told, renames = tmp_path / "log", [], []
    for options in ([], ["--seed-jobs=1"]):
        destination = tmp_path / f"dst{len(options)}"
        (destination / "d10").mkdir(parents=True)
        (destination / "d10/f1050").mkdir()  # in the way
        (destination / "d10/f1050/x").touch()
        for each in (destination, destination / "d10"):
            os.utime(each, (1, 1))
        strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-s0", "-e", "trace=rename,renameat,renameat2", "-o", log]
        argv = [*_SYNC, "-avv", "--seed-verbose", *options, f"{many}/", f"{destination}/"]
        done = subprocess.run([*map(str, strace), *argv], capture_output=True, text=True)
        # Where rsync's own processes have their lines, and what they send each other, is a matter of luck.
        lines = sorted(
            set(done.stdout.splitlines()) - set(re.findall(r".*(?:bytes/sec|speedup|file_list pointer).*", done.stdout))
        )
        told.append((done.returncode, lines, done.stderr.replace(str(destination), "DST")))
        renames.append(Counter(line.split()[0] for line in log.read_text().splitlines() if "rename" in line))
    assert set(told[0][1]) ^ set(told[1][1]) == set()
    assert told[0][2] == told[1][2]
    assert told[0][0] == told[1][0] == 23  # of rsync, for what is in the way
    assert told[0][2].count("seeded d") == 1100
    # How much each does is for the scheduler to say: each has more than the batches that it is given at the begin.
    assert min(count for _, count in renames[0].most_common(2)) > 4 * BATCH_FILES
    assert renames[1].most_common(1)[0][1] >= 1100
    assert command("diff", "-r", f"{tmp_path}/dst0", f"{tmp_path}/dst1") == ""
    for path in ("d0/f1", "d7/f777", "d9/f999", "d10/f1099", "d7/large"):
        command("cmp", many / path, tmp_path / "dst0" / path)
        assert written_bytes(tmp_path / "dst0" / path) == written_bytes(many / path)


@pytest.mark.parametrize("group", [True, False], ids=["ctrl-c", "sigterm"])
def test_no_temporary_file_is_left_by_either(many: Path, tmp_path: Path, group: bool) -> None:
    destination = tmp_path / "dst"
    # Whoever is kept from the processor by others would find that rsync has begun, which has processes of its own.
    late = ["nice", "-n19", *_SYNC]
    with subprocess.Popen([*late, "-a", f"{many}/", f"{destination}/"], stderr=-1, start_new_session=True) as run:
        while run.poll() is None and not (destination / "d2").exists():
            time.sleep(0.001)
        if group:
            os.killpg(run.pid, signal.SIGINT)
        else:
            run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=20)
    assert run.returncode == 20  # as rsync's
    assert b"Traceback" not in said
    found = [path for path in destination.rglob("*") if path.is_file()]
    assert 0 < len(found) < 1101
    assert not [path for path in found if path.name.startswith(".")]
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)
    differing = subprocess.run(["diff", "-rq", many, destination], capture_output=True, text=True).stdout
    assert all(line.startswith(f"Only in {many}") for line in differing.splitlines()), differing
