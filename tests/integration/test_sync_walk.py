"""Where ``sparsesync sync`` looks: nowhere that rsync alone would not. What is read is for strace(1) to say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.filesystems import command, dead_mount, need_root, need_tools
from tests.support.sync import image, run

_DIRECTORIES = [
    "a",
    "a/b",
    "a/cache",
    "a/cache/deep",
    "mnt",
    "mnt/x",
    "mnt/x/y",
    "x",
    "x/mnt",
    "x/mnt/z",
    "keep",
    "RCS",
]


_OPTIONS = [
    ["-a"],
    ["-a", "--exclude=/mnt/"],
    ["-a", "--exclude=mnt", "--exclude=cache/***"],
    ["-a", "--include=/mnt/", "--include=/mnt/x", "--exclude=/mnt/*", "--exclude=[mx]nt"],
    ["-a", "-f", "H cache", "--filter=exclude,! */", "--filter=P *"],
    ["-a", "-f.- TOP/list"],
    ["-a", "--exclude-from=TOP/list"],
    ["-a", "-0", "--exclude-from", "TOP/zeros"],
    ["-a", "--include-from=TOP/list", "--exclude=*"],
    ["-a", "--exclude=a", "--exclude=!", "--exclude=b"],
    ["-aF"],
    ["-aC"],
    ["-a", "-f:_rules"],
    ["-a", "-f-/ TOP/src/mnt"],
    ["-a", "--partial-dir=cache"],
    ["-a", "--exclude=[[:lower:]]nt", "--checksum"],
    ["-aF", "--checksum"],
    ["-t"],
    ["-td"],
    ["-r", "--old-dirs"],
]
_SCRIPT = """
import json, subprocess, sys, sparsesync
for options, source, destination in json.loads(sys.argv[2]):
    if sys.argv[1] == "rsync":
        subprocess.run(["rsync", *options, source, destination], check=True)
    elif sparsesync.sync(source, destination, options).status:
        sys.exit(f"{options} fails")
"""


def plant(top: Path) -> Path:
    for name in _DIRECTORIES:
        (top / "src" / name).mkdir(parents=True, exist_ok=True)
        (top / "src" / name / "file").write_bytes(b"file")
    (top / "src/.rsync-filter").write_bytes(b"- /mnt/\n- cache\n")
    (top / "src/x/rules").write_bytes(b"- mnt\n")
    (top / "list").write_bytes(b"# left out\n/mnt/\r\n+ cache/deep\ncache\n")
    (top / "zeros").write_bytes(b"/mnt\0cache\0")
    return top


def read_by(program: str, tops: list[Path], log: Path) -> dict[str, set[str]]:
    """The directories that are read, as rsync or sparsesync copies each tree with its options."""
    runs = [
        ([option.replace("TOP", str(top)) for option in options], f"{top}/src/", f"{top}/{program}/")
        for top, options in zip(tops, _OPTIONS)
    ]
    strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s0", "-e", "trace=getdents64", "-o", str(log)]
    done = run(*strace, sys.executable, "-c", _SCRIPT, program, json.dumps(runs))
    assert done.returncode == 0, done.stderr
    read = set(re.findall(r"<([^>]*)>", log.read_text()))
    return {
        " ".join(options): {name for name in ["", *_DIRECTORIES] if str(top / "src" / name) in read}
        for top, options in zip(tops, _OPTIONS)
    }


@pytest.mark.slow
def test_only_what_rsync_reads_is_read(tmp_path: Path) -> None:
    need_tools("strace")
    tops = [plant(tmp_path / str(number)) for number in range(len(_OPTIONS))]
    for top in tops[::2]:
        image(top / "src/keep/image")
    theirs = read_by("rsync", tops, tmp_path / "log")
    assert theirs["-a"] == {"", *_DIRECTORIES}
    assert theirs["-a --exclude=/mnt/"] == {"", *(name for name in _DIRECTORIES if not name.startswith("mnt"))}
    assert read_by("sparsesync", tops, tmp_path / "log") == theirs


def test_another_filesystem_is_not_read(tmp_path: Path) -> None:
    need_root("mounting needs root")
    need_tools("strace")
    top = plant(tmp_path)
    command("mount", "-t", "tmpfs", "tmpfs", top / "src/mnt")
    try:
        image(top / "src/mnt/image")
        strace = ["strace", "-f", "--seccomp-bpf", "-qq", "-y", "-s0", "-e", "trace=getdents64", "-o", f"{top}/log"]
        done = run(*strace, sys.executable, "-m", "sparsesync", "sync", "-ax", f"{top}/src/", f"{top}/dst/")
        assert done.returncode == 0, done.stderr
        assert f"<{top}/src/mnt>" not in (top / "log").read_text()
        assert os.listdir(top / "dst/mnt") == []
    finally:
        command("umount", top / "src/mnt")


def test_a_mount_that_does_not_answer_is_not_asked(tmp_path: Path) -> None:
    top = plant(tmp_path)
    (top / "src/mnt/dead").mkdir()
    with dead_mount(top / "src/mnt/dead"):
        for options in ("--exclude=mnt/", "--exclude=m*", f"-f.- {top}/list", "-F", "--exclude=/mnt --checksum"):
            argv = [sys.executable, "-m", "sparsesync", "sync", "-a", *options.split(" -")]
            argv[6:] = [f"-{option}" for option in argv[6:]]
            done = subprocess.run([*argv, f"{top}/src/", f"{top}/dst/"], capture_output=True, timeout=20)
            assert (done.returncode, os.path.lexists(f"{top}/dst/mnt")) == (0, False), done.stderr
