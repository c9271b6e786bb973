"""What `sync` prints and logs, held against what rsync alone does from the same start."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.support.filesystems import allocated, command, need_root, need_tools, sparse_file
from tests.support.shells import script
from tests.support.sshd import Sshd

MIB = 1 << 20
SYNC = [sys.executable, "-m", "sparsesync", "sync"]

# "_" stands for a blank.
OPTIONS = [
    "-v", "-vv", "-i", "-ii", "-vi", "-vvi", "-n -i", "-n -v", "-q -i", "--stats", "-v --stats", "-h --stats",
    "-hh --stats", "--no-h --stats", "--out-format=<<CHANGED>>%i%_%n%L", "--out-format=%n", "--out-format=/%n",
    "--out-format=%o_%l_%'l_%''l_%f_%B_%M", "--out-format=", "--out-format=100%", "--log-format=%n", "--info=name",
    "--info=name2", "--info=name0 -v", "--info=all2", "--info=none -i", "--info=stats2,name1", "--info=stats0 -v",
    "--progress", "--progress -v", "-P -i", "--info=progress2", "--info=progress2 -h", "--info=progress2 --stats",
    "-v --info=progress2", "-i --delete", "-v -b", "-ii -m", "-i -R", "-vR --stats", "-i --existing", "-i -u", "-i -O",
    "-i -H", "-i -c", "-8 -i", "--outbuf=N -i", "--log-file=LOG", "-v --log-file=LOG",
    "-ii --log-file=LOG --log-file-format=%o_%n", "--log-file=LOG --log-file-format=", "--log-file=LOG --stats",
    "-vv --log-file=LOG", "--log-file=NONE/LOG -i", "-i --no-p --chmod=F600", "-i --size-only", "-i -t --no-t",
    "-i --remove-source-files", "-v --remove-source-files", "--out-format=%b_%n", "--stderr=all -i",
    "--msgs2stderr -v", "-i --max-size=1M", "-v --mkpath", "-i --no-o --no-g",
]  # fmt: skip


def source(top: Path) -> None:
    for name in ("a/b/img", "top.img", "new\nline\tand \\#012", "c d/img"):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        sparse_file(top / name, MIB, [(4096, 5000)], seed=len(name))
    (top / "dense").write_bytes(b"dense" * 1000)
    (top / "a/dense").write_bytes(b"dense" * 999)
    os.symlink("dense", top / "link")
    os.link(top / "top.img", top / "z hard")
    (top / "empty").mkdir()
    for path in top.rglob("*"):
        if not path.is_symlink():
            os.utime(path, (10**9, 10**9))
    os.utime(top, (10**9, 10**9))


def destination(top: Path, kind: str) -> None:
    if kind == "new":
        return
    command("cp", "-a", "--sparse=always", top.parent / "src", top)
    (top / "extra").write_bytes(b"?")
    if kind == "older":
        with open(top / "a/b/img", "r+b") as file:
            file.write(b"older")
        os.utime(top / "a/b/img", (10**8, 10**8))
        os.utime(top / "a/b", (10**9, 10**9))  # nothing but the file tells of the change
        os.truncate(top / "top.img", 5)
        os.chmod(top / "a/dense", 0o600)
        os.chmod(top / "a", 0o700)
        shutil.rmtree(top / "c d")


_NUMBERS = re.compile(
    r"(?<=sent )[0-9.,]+[KMG]?|(?<=received )[0-9.,]+[KMG]?|[0-9.,]+[KMG]? bytes/sec|(?<=speedup is )[0-9.,]+"
    r"|(?<=to-chk=)[0-9]+|(?<=bytes received: )[0-9.,]+[KMG]?|(?<=bytes sent: )[0-9.,]+[KMG]?|(?<=time: )[0-9.]+"
    r"|(?<=File list size: )[0-9.,]+[KMG]?| +[0-9.]+[kMG]B/s|[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9:]{8} \[[0-9]+\]"
    r"|[0-9]+:[0-9]{2}:[0-9]{2}"
)


def lines(said: bytes, where: Path, options: str = "") -> Counter[str]:
    """The lines as a multiset, without what is another time or another number of bytes on the wire."""
    text = said.decode(errors="surrogateescape").replace(str(where), "WHERE")
    # Of the progress of one file only the last step is certain, and of that of all files the last file's.
    if "progress2" in options or "all2" in options:
        text = re.sub(r"\r[^\r\n]*(?=\r)", "", text)
        *_, last = re.findall(r"\r[^\r\n]*xfr#[^\r\n]*", text) or [""]
        text = re.sub(r"\r[^\r\n]*xfr#[^\r\n]*", "", text)
        text += re.sub(" *[0-9]+%", "%", last.rstrip()) if "-h" in options else last.rstrip()
        text = re.sub("\n+", "\n", text)  # what ends a step, and how many there are, is a matter of time
    text = re.sub(r"[^\n]*\r(?=[^\r\n]*(?:\n|$))", "", text)
    text = re.sub(r"(?<=xfr#)[0-9]+(?=, to)", "N", text)
    return Counter(_NUMBERS.sub("#", text).replace(where.name, "WHO").split("\n"))


def compare(tmp_path: Path, options: str, kind: str, rsh: str = "", push: bool = True) -> None:
    said = {}
    words = [word.replace("_", " ") for word in options.split()]
    relative = any(re.fullmatch("-[a-z]*R", word) for word in words)
    for who in ("rsync", "sparsesync"):
        place = tmp_path / f"by-{who}"
        place.mkdir()
        source(place / "src")
        destination(place / "dst", kind)
        log = place / "LOG"
        remote = f"host:{place}/" if rsh else ""
        paths = ["" if push else remote, remote if push else ""]
        paths = [paths[0] + ("src/./" if relative else "src/"), paths[1] + "dst/"]
        given = [*([f"--rsh={rsh}"] if rsh else []), *(word.replace("LOG", str(log)) for word in words)]
        program = ["rsync"] if who == "rsync" else SYNC
        done = subprocess.run([*program, "-a", *given, *paths], cwd=place, capture_output=True)
        logged = log.read_bytes() if log.exists() else b""
        if rsh and kind == "older":  # what was sent is another share of the file than rsync's algorithm finds
            numbers = (
                rb"(?<=Literal data: |Matched data: )[0-9,]+|(?<=data=)[0-9]+|(?<=matches=)[0-9]+|(?<=hits=)[0-9]+"
            )
            done.stdout = re.sub(numbers, b"#", done.stdout)
        said[who] = done.returncode, lines(done.stdout, place, options), lines(logged, place), done.stderr
        kept = (place / "dst/top.img").exists() and allocated(place / "dst/top.img") < 64 * 1024
    ours, theirs = said["sparsesync"], said["rsync"]
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1], (ours[1] - theirs[1], theirs[1] - ours[1])
    assert ours[2] == theirs[2], (ours[2] - theirs[2], theirs[2] - ours[2])
    if kind == "new" and not any(option in LEFT for option in words):
        assert kept and (ours[3] == theirs[3] or any(option in words for option in ("--no-o", "--log-file=NONE/LOG")))
    shutil.rmtree(tmp_path)


LEFT = ("-n", "--out-format=%b %n", "--stderr=all", "--msgs2stderr", "-c", "--chmod=F600", "--max-size=1M", "-b")
"""Where nothing is seeded, or nothing is to be transferred."""


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_it_is_what_rsync_says(tmp_path: Path, options: str) -> None:
    need_tools("rsync")
    compare(tmp_path, options, "older")


@pytest.mark.slow
@pytest.mark.parametrize("options", ["-v", "-vvi", "--log-file=LOG -v --stats", "--progress", "-v --mkpath", "-iR"])
def test_it_is_what_rsync_says_where_nothing_was(tmp_path: Path, options: str) -> None:
    need_tools("rsync")
    compare(tmp_path, options, "new")


@pytest.mark.parametrize("options", ["-vi", "-vv", "-ii --log-file=LOG", "--info=progress2", "-v --stats", "-i -z"])
@pytest.mark.parametrize("kind", ["new", "older"])
@pytest.mark.parametrize("push", [True, False])
def test_it_is_what_rsync_says_over_ssh(tmp_path: Path, sshd_server: Sshd, options: str, kind: str, push: bool) -> None:
    need_tools("rsync")
    compare(tmp_path, options, kind, sshd_server.rsh, push)


@pytest.mark.parametrize(("way", "options"), [("local", "-tvv"), ("push", "-avv"), ("pull", "-avvH")])
def test_a_single_file_is_told_by_its_name_in_the_transfer(tmp_path: Path, way: str, options: str) -> None:
    need_tools("rsync")
    far = f"far:{tmp_path}/"
    sparse_file(tmp_path / "img", MIB, [(4096, 5000)])
    rsh = script(tmp_path / "shell", 'shift; exec sh -c "$*"')
    said = []
    for program in (["rsync"], SYNC):
        paths = [f"{far if way == 'pull' else ''}img", f"{far if way == 'push' else ''}new"]
        argv = [*program, f"--rsh={rsh}", options, *paths]
        said.append(lines(subprocess.run(argv, cwd=tmp_path, capture_output=True).stdout, tmp_path))
        (tmp_path / "new").unlink()
    assert said[0] == said[1] and said[0]["img"] == 1


@pytest.mark.parametrize("options", ["-ilrtg", "-ilrp"])
def test_a_directory_is_told_that_was_made_for_files_that_rsync_copies(tmp_path: Path, options: str) -> None:
    need_tools("rsync")
    for who in ("theirs", "ours"):
        source = tmp_path / who / "src"
        (source / "below").mkdir(parents=True)
        if options == "-ilrp":
            (source / "below/img").write_bytes(b"dense")
        else:
            sparse_file(source / "below/img", MIB, [(4096, 5000)])
        os.chmod(source / "below/img", 0o640)
    # Without -p and with -g it may be open to another group; with -p and without -g its directory is rsync's to make.
    theirs = subprocess.run(["rsync", options, "src/", "dst/"], cwd=tmp_path / "theirs", capture_output=True)
    given = [*SYNC, "--seed-min-hole=0", options]
    ours = subprocess.run([*given, "src/", "dst/"], cwd=tmp_path / "ours", capture_output=True)
    assert Counter(ours.stdout.splitlines()) == Counter(theirs.stdout.splitlines())


REFUSED = re.compile(r"(?<=/\.img\.)[0-9A-Za-z]{6}(?=\")")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("immutable file", "-ai --stats"),
        ("immutable file", "-av --inplace"),
        ("immutable directory", "-aii --log-file=log"),
        ("read-only", "-av"),
        ("read-only", "-r"),
        ("no inodes", "-ai"),
    ],
)
def test_what_the_destination_refuses_is_told_as_rsync_tells_it(tmp_path: Path, kind: str, options: str) -> None:
    need_root("mounts and chattr")
    need_tools("rsync", "chattr", "lsattr")
    said = {}
    for who in ("rsync", "sparsesync"):
        place = tmp_path / who
        (place / "dst/d").mkdir(parents=True)
        (place / "src/d").mkdir(parents=True)
        for name in ("img", "d/img"):
            sparse_file(place / "src" / name, MIB, [(4096, 5000)])
        for name in ("src/d", "src"):  # other times than what is made below, whenever that is
            os.utime(place / name, (1, 1))
        with contextlib.ExitStack() as stack:
            if kind in ("read-only", "no inodes"):
                limit = "nr_inodes=3" if kind == "no inodes" else "size=9m"
                command("mount", "-t", "tmpfs", "-o", limit, "none", place / "dst")
                stack.callback(command, "umount", place / "dst")
                (place / "dst/d").mkdir()
                if kind == "no inodes":
                    (place / "dst/last").touch()
                else:
                    command("mount", "-o", "remount,ro", place / "dst")
            else:
                closed = place / "dst/d"
                if kind == "immutable file":
                    closed /= "img"
                    closed.write_bytes(b"old")
                command("chattr", "+i", closed)
                stack.callback(command, "chattr", "-i", closed)
            program = ["rsync"] if who == "rsync" else SYNC
            done = subprocess.run([*program, *options.split(), "src/", "dst/"], cwd=place, capture_output=True)
            logged = (place / "log").read_bytes() if (place / "log").exists() else b""
            logged = logged.replace(b"rsync error", b"error")  # lines() takes the name for that of the place
            told = Counter(REFUSED.sub("X", done.stderr.decode().replace(str(place), "WHERE")).splitlines())
            numbers = lines(done.stdout, place), lines(logged, place)
            said[who] = done.returncode, told, *numbers
    assert said["sparsesync"][0] == said["rsync"][0] == 23
    for ours, theirs in zip(said["sparsesync"][1:], said["rsync"][1:]):
        assert ours == theirs, (ours - theirs, theirs - ours)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
@pytest.mark.parametrize("options", ["-ai --log-file-format=%i_%n", "-av", "-aii"])
def test_the_log_has_names_that_a_terminal_has_not(tmp_path: Path, locale: str, options: str) -> None:
    need_tools("rsync")
    names = ["Bücher À.img", "kü.txt", "bad\udcff\udcfe.img", "a\tb\x1bc\\#303\\#274.img", "d é/e\x7f.img"]
    said = {}
    for who in ("theirs", "ours"):
        for name in names:
            path = tmp_path / who / "src" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            sparse_file(path, MIB, [(4096, 5000)])
        program = ["rsync"] if who == "theirs" else SYNC
        given = [word.replace("_", " ") for word in options.split()]
        done = subprocess.run(
            [*program, *given, "--log-file=log", "src/", "dst/"],
            cwd=tmp_path / who, capture_output=True, env={**os.environ, "LC_ALL": locale},
        )  # fmt: skip
        log = re.sub(rb"(?m)^[0-9/]+ [0-9:]+ \[[0-9]+\] ", b"", (tmp_path / who / "log").read_bytes())
        totals = rb"(?m)^(?:sent |total size is ).*\n"
        said[who] = [Counter(re.sub(totals, b"", text).splitlines()) for text in (log, done.stdout)]
        kept = allocated(tmp_path / who / "dst" / names[0])
    assert said["ours"] == said["theirs"]
    assert kept < 64 * 1024


def test_nothing_of_ours_is_said_where_rsync_refuses_its_arguments(tmp_path: Path) -> None:
    need_tools("rsync")
    (tmp_path / "src").mkdir()
    sparse_file(tmp_path / "src/img", MIB, [(4096, 5000)])
    refused = ["--bogus", "--append --partial-dir=x", "--exclude-from=none"]
    for options in refused:
        argv = ["-a", *options.split(), "src/", "dst/"]
        said = [subprocess.run([*program, *argv], cwd=tmp_path, capture_output=True) for program in (["rsync"], SYNC)]
        theirs, ours = ((done.returncode, done.stdout, done.stderr) for done in said)
        assert ours == theirs and theirs[0]


@pytest.mark.parametrize(("options", "number"), [("--partial", signal.SIGTERM), ("--partial-dir=.part", signal.SIGINT)])
def test_an_interrupted_sync_keeps_what_rsync_keeps(tmp_path: Path, options: str, number: signal.Signals) -> None:
    need_tools("rsync")
    (tmp_path / "src").mkdir()
    source = sparse_file(tmp_path / "src/img", 32 * MIB, [(MIB, 4 * MIB), (8 * MIB, 16 * MIB)])
    kept = tmp_path / "dst" / (".part/img" if "dir" in options else "img")
    argv = [*SYNC, "-a", "--bwlimit=10M", options, "src/", "dst/"]
    process = subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not any(allocated(found) > MIB for found in tmp_path.glob("dst/.img.*")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    error = process.communicate()[1]
    assert process.returncode == 20 and error.startswith(b"rsync error: received SIGINT, SIGTERM, or SIGHUP (code 20)")
    assert 0 < kept.stat().st_size < 24 * MIB
    assert kept.read_bytes() == source.read_bytes()[: kept.stat().st_size]
    assert [path.name for path in (tmp_path / "dst").iterdir()] == [".part" if "dir" in options else "img"]
    again = subprocess.run([*SYNC, "-a", options, "src/", "dst/"], cwd=tmp_path, capture_output=True)
    assert again.returncode == 0 and not again.stderr
    assert (tmp_path / "dst/img").read_bytes() == source.read_bytes()
    assert not (tmp_path / "dst/.part").exists() and allocated(tmp_path / "dst/img") <= 21 * MIB


@pytest.mark.parametrize(
    ("how", "number", "status"),
    [("ignored", signal.SIGINT, 20), ("blocked", signal.SIGHUP, 20), ("taken", signal.SIGUSR1, 19)],
)
def test_a_signal_ends_it_as_it_ends_rsync_also_if_the_caller_does_not_want_it(
    tmp_path: Path, how: str, number: signal.Signals, status: int
) -> None:
    need_tools("rsync")
    for name in ("src", "few"):
        (tmp_path / name).mkdir()
    sparse_file(tmp_path / "src/img", 32 * MIB, [(MIB, 16 * MIB)])
    sparse_file(tmp_path / "few/img", MIB, [(4096, 5000)])
    (tmp_path / "few/z").write_bytes(os.urandom(MIB) * 16)

    def unwanted() -> None:
        if how == "ignored":
            signal.signal(number, signal.SIG_IGN)
        elif how == "blocked":
            signal.pthread_sigmask(signal.SIG_BLOCK, [number])

    for program, source, growing in ((["rsync"], "src/", "img"), (SYNC, "src/", "img"), (SYNC, "few/", "z")):
        shutil.rmtree(tmp_path / "dst", ignore_errors=True)
        argv = [*program, "-av", "--bwlimit=5M", source, "dst/"]
        process = subprocess.Popen(argv, cwd=tmp_path, preexec_fn=unwanted, stderr=subprocess.DEVNULL)
        while not any(allocated(found) > MIB for found in tmp_path.glob(f"dst/.{growing}.*")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGVTALRM)  # how far is it?
        process.send_signal(number)
        assert process.wait() == status, (program, source)
        left = f"dst/.{growing}.*"
        until = time.monotonic() + 10  # of rsync's processes the one that has the temporary may end a little later
        while (program, source) != (SYNC, "src/") and [*tmp_path.glob(left)] and time.monotonic() < until:
            time.sleep(0.01)
        assert not [*tmp_path.glob(left)], (program, source)


def test_the_log_has_what_is_said_of_a_run(tmp_path: Path) -> None:
    need_tools("rsync")
    (tmp_path / "src").mkdir()
    sparse_file(tmp_path / "src/img", MIB, [(0, 4096)])
    stamped = re.compile(r"[0-9]{4}(?:/[0-9]{2}){2} (?:[0-9]{2}:){2}[0-9]{2} \[[0-9]+\] (.*)")

    def lines(*options: str) -> list[str]:
        (tmp_path / "log").unlink(missing_ok=True)
        subprocess.run([*SYNC, "-a", "--log-file=log", *options, "src/", "dst/"], cwd=tmp_path, stderr=subprocess.PIPE)
        found = map(stamped.fullmatch, (tmp_path / "log").read_text().splitlines())
        return [match[1].partition(":")[0] if match else "" for match in found]

    left = "1 sparse file is left to rsync, which may write 1020 KiB of holes as data"
    assert lines("-c", "--seed-required") == ["sparsesync"]
    assert lines("-c")[:2] == ["sparsesync", "building file list"] and len(lines("-c")) == 3
    assert left in (tmp_path / "log").read_text()
    assert lines("--no-such-option") == ["rsync", "rsync error"]
    shutil.rmtree(tmp_path / "dst")
    said = lines("--seed-verbose")
    assert said[:2] == ["sparsesync", "building file list"] and ">f+++++++++ img" in said[2:-1]
