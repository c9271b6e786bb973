"""The command as a person or a script meets it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import Mounted, allocated, device, need, need_root, need_tools, same_content, sparse_file
from tests.support.schemas import fields
from tests.support.shells import local_shell, script

MIB = 1 << 20
PROC = "/proc/version"
SYS = "/sys/kernel/mm/transparent_hugepage/enabled"


def run(*argv: str, cwd: Path, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparsesync", *argv]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, **more)  # type: ignore


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "d").mkdir()
    sparse_file(tmp_path / "d/large", 100 << 30, [(0, MIB), (50 << 30, 2 * MIB)])
    sparse_file(tmp_path / "d/small", 2 * MIB, [(0, 4096)])
    sparse_file(tmp_path / "d/dense", MIB, [(0, MIB)])
    os.link(tmp_path / "d/large", tmp_path / "d/name too")
    return tmp_path


def test_scan(tree: Path) -> None:
    done = run("scan", "d", cwd=tree)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].split() == ["apparent", "allocated", "data", "saved", "could", "be", "extents", "path"]
    assert lines[1].split()[:11] == ["100.0", "GiB", "3", "MiB", "3", "MiB", "100.0", "GiB", "0", "B", "2"]
    assert lines[2].split() == ["2", "MiB", "4", "KiB", "4", "KiB", "2", "MiB", "0", "B", "1", "d/small"]
    assert lines[3:] == ["2 sparse files: 100.0 GiB apparent, 3 MiB allocated, 100.0 GiB saved"]
    assert run("scan", "--min-size", "1G", "d", cwd=tree).stdout.endswith(
        "1 sparse file: 100.0 GiB apparent, 3 MiB allocated, 100.0 GiB saved\n"
    )
    assert "d/dense" in run("scan", "--all", "d", cwd=tree).stdout
    paths = run("scan", "-0", "d", "d/small", cwd=tree).stdout.split("\0")
    assert paths[1:] == ["d/small", ""] and paths[0] in ("d/large", "d/name too")
    (tree / "to").symlink_to("d")
    assert "to/small" in run("scan", "to", cwd=tree).stdout


def test_scan_json(tree: Path) -> None:
    found = fields(run("scan", "--json", "d/small", "d/large", cwd=tree).stdout)
    large, small = allocated(tree / "d/large"), allocated(tree / "d/small")
    files = [
        {"path": "d/large", "size": 100 << 30, "allocated": large, "data": 3 * MIB, "extents": 2,
         "saved": (100 << 30) - large, "could": 0},
        {"path": "d/small", "size": 2 * MIB, "allocated": 4096, "data": 4096, "extents": 1,
         "saved": 2 * MIB - small, "could": 0},
    ]  # fmt: skip
    total = {name: sum(int(str(file[name])) for file in files) for name in files[0] if name != "path"}
    assert found == {"files": files, "total": {"files": 2, **total}}


def test_scan_says_what_could_be_saved(mounted: Mounted) -> None:
    top = mounted("ext4")
    with open(top / "reserved", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 20 * MIB)
    sparse_file(top / "sparse", 10 * MIB, [(0, 4096)])
    lines = run("scan", ".", cwd=top).stdout.splitlines()
    assert lines[1].split() == ["20", "MiB", "20", "MiB", "0", "B", "0", "B", "20", "MiB", "0", "./reserved"]
    assert lines[3] == "2 sparse files: 30 MiB apparent, 20 MiB allocated, 10 MiB saved, 20 MiB more could be"


@pytest.mark.parametrize("far", [False, True])
def test_scan_counts_zeros_that_could_be_holes(tmp_path: Path, far: bool) -> None:
    (tmp_path / "d").mkdir()
    content = bytes(MIB) + b"x" * 5000 + bytes(2 * MIB)
    (tmp_path / "d/zeros").write_bytes(content)
    (tmp_path / "d/dense").write_bytes(b"x" * MIB)
    before = (tmp_path / "d/zeros").stat()
    remote = ["-e", local_shell(tmp_path / "rsh"), f"far:{tmp_path}/d"] if far else ["d"]
    found = json.loads(run("scan", "--zeros", "--json", *remote, cwd=tmp_path).stdout)
    assert [Path(file["path"]).name for file in found["files"]] == ["zeros"]
    sparsesync.dig(tmp_path / "d/zeros")
    assert found["files"][0]["could"] == (before.st_blocks - (tmp_path / "d/zeros").stat().st_blocks) * 512 - (
        -(before.st_size % -4096)  # of the last block only what there is of the file
    )


def test_scan_draws_a_tree(tmp_path: Path) -> None:
    for name, size in (("a/b/c/one", 9), ("a/b/c/two", 7), ("a/b/d/only/three", 5), ("a/small", 1), ("e", 3)):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        sparse_file(tmp_path / "t" / name, size * MIB, [])
    plain = {**os.environ, "LC_ALL": "C"}

    def tree(*options: str) -> list[list[str]]:
        lines = run("scan", "--tree", *options, cwd=tmp_path, env=plain).stdout.splitlines()[1:-1]
        return [[" ".join(line.split()[6:8]), line[65:]] for line in lines]

    whole = [["25 MiB", "t"], ["22 MiB", "| a"], ["21 MiB", "| | b"], ["16 MiB", "| | | c"], ["9 MiB", "| | | | one"]]
    assert tree("t")[:5] == whole
    assert tree("t")[5:] == [
        ["7 MiB", "| | | ` two"], ["5 MiB", "| | ` d/only/three"], ["1 MiB", "| ` small"], ["3 MiB", "` e"]
    ]  # fmt: skip
    # What is left out is what saves least, and what is shown hangs together.
    assert tree("--top", "4", "t/") == [["25 MiB", "t"], ["22 MiB", "` a"], ["21 MiB", "  ` b"], ["16 MiB", "    ` c"]]


@pytest.mark.parametrize(
    ("options", "names"),
    [("--sort path", "large small"), ("--sort data", "large small"), ("--sort allocated", "large small"),
     ("--top 1", "large"), ("--sort path --top 1", "large"), ("-0 --sort extents --top 1", "large")],
)  # fmt: skip
def test_scan_sorts_and_cuts(tree: Path, options: str, names: str) -> None:
    (tree / "d/name too").unlink()
    files = json.loads(run("scan", "--json", *options.replace("-0", "").split(), "d", cwd=tree).stdout)
    assert [file["path"] for file in files["files"]] == [f"d/{name}" for name in names.split()]
    assert files["total"]["files"] == 2
    if "-0" in options:
        assert run("scan", *options.split(), "d", cwd=tree).stdout == "".join(f"d/{name}\0" for name in names.split())
    for wrong in ("0", "-1", "x"):
        assert run("scan", f"--top={wrong}", "d", cwd=tree).returncode == 2


def test_scan_follows_or_refuses_what_is_named(tree: Path) -> None:
    (tree / "link").symlink_to("d/small")
    (tree / "broken").symlink_to("nothing")
    os.mkfifo(tree / "pipe")
    assert f"{tree}/d/small\n" in run("scan", "link", cwd=tree).stdout
    for name, why in (("broken", "No such file"), ("pipe", "is neither a file nor a directory")):
        done = run("scan", name, cwd=tree)
        # A total of nothing would look like a result.
        assert (done.returncode, done.stdout) == (
            1,
            "",
        ) and f"{name if name == 'pipe' else 'nothing'}: {why}" in done.stderr
    done = run("scan", "-e", "false", "far:", cwd=tree)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1


def test_scan_goes_on_after_a_trouble(tree: Path) -> None:
    done = run("scan", "none", "d", cwd=tree)
    assert done.returncode == 1
    assert done.stderr == "sparsesync: none: No such file or directory\n"
    assert "2 sparse files" in done.stdout


def test_odd_names_reach_the_terminal_as_one_line(tmp_path: Path) -> None:
    sparse_file(Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\nb\x1b[31m\xff")), MIB, [])
    done = subprocess.run([sys.executable, "-m", "sparsesync", "scan", "."], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].endswith(b"./a\\#012b\\#033[31m\\#377")


HOSTILE = "x\x9b31mRED\u202egnp\u2028\x1b]0;t\x07\u3000"
SHOWN = "x\\#302\\#23331mRED\\#342\\#200\\#256gnp\\#342\\#200\\#250\\#033]0;t\\#007\u3000"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argv", "times"),
    [
        (["scan", "."], 1),
        (["scan", HOSTILE, HOSTILE + "none"], 2),
        (["map", HOSTILE + "none"], 1),
        (["copy", HOSTILE + "none", "x"], 1),
        (["copy", "a", "b", HOSTILE], 1),
        (["exclude", "--format", "borg", HOSTILE + "none"], 1),
        (["exclude", HOSTILE], 1),
        (["verify", "a", "b"], 1),
        (["verify", HOSTILE, HOSTILE + "none"], 1),
        (["verify", f"a/{HOSTILE}", HOSTILE], 1),
        (["scan", f"--{HOSTILE}", "."], 1),
        (["scan", "--min-size", HOSTILE, "."], 0),
        (["frob" + HOSTILE], 0),
        (["sync", "-av", "--seed-verbose", "a/", "c"], 2),
        (["sync", "-an", "--seed-verbose", "a/", "c"], 1),
        (["sync", f"--seed-{HOSTILE}"], 1),
        (["sync", f"--seed-holes={HOSTILE}", "a", "c"], 0),
        (["migrate", HOSTILE], 1),
        (["migrate", "--check", HOSTILE + "none", "c"], 1),
        (["migrate", "--check", "a/", HOSTILE], 1),
        (["migrate", "--check", f"--exclude-from={HOSTILE}none", "a/", "c"], 1),
        (["scan", f"h{HOSTILE}:x"], 1),
        (["scan", "-e", f"./{HOSTILE}", "h:x"], 1),
        (["scan", "--python", HOSTILE, "h:x"], 1),
    ],
    ids=lambda value: "",
)
def test_no_name_reaches_the_terminal_as_it_is(tmp_path: Path, argv: list[str], times: int) -> None:
    """In no command, on neither stream, and escaped once. (Patterns for rsync and others are as they have to be.)"""
    need_tools("rsync")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in (HOSTILE, "a/" + HOSTILE):
        sparse_file(tmp_path / name, MIB, [(0, 4096)])
    with open(tmp_path / HOSTILE, "r+b") as file:
        file.write(b"!")
    done = subprocess.run([sys.executable, "-m", "sparsesync", *argv], cwd=tmp_path, capture_output=True)
    said = done.stdout + done.stderr
    if argv[0] == "exclude":
        said = b"".join(line for line in said.splitlines(True) if line.startswith((b"#", b"sparsesync")))
    if argv[:2] == ["sync", "-av"]:
        # rsync escapes what its locale does not know, and no more.
        assert said.count(SHOWN.encode()) >= 1
        said = b"".join(line for line in said.splitlines(True) if SHOWN.encode() in line)
    else:
        assert said.count(SHOWN.encode()) >= times
    assert b"Traceback" not in said
    assert not set(said.decode()) & set("\x9b\u202e\u2028\x1b\x07")
    assert b"\\#134" not in said


def test_json_has_names_as_they_are(tmp_path: Path) -> None:
    sparse_file(tmp_path / HOSTILE, MIB, [(0, 4096)])
    found = json.loads(run("scan", "--json", ".", cwd=tmp_path).stdout)
    assert found["files"][0]["path"] == f"./{HOSTILE}"
    report = json.loads(run("migrate", "--json", "--check", f"./{HOSTILE}none", "c", cwd=tmp_path).stdout)
    assert any(each["subject"] == f"./{HOSTILE}none" for each in report["findings"])


@pytest.mark.parametrize("argv", [["scan", "."], ["map", "é\u3000"], ["exclude", "."], ["verify", ".", "e"]])
def test_an_encoding_without_the_name(tmp_path: Path, argv: list[str]) -> None:
    sparse_file(tmp_path / "é\u3000", MIB, [])
    (tmp_path / "e").mkdir()
    done = subprocess.run([sys.executable, "-m", "sparsesync", *argv], cwd=tmp_path, capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii"})  # fmt: skip
    assert done.returncode == (1 if argv[0] == "verify" else 0)
    assert done.stderr == b""
    assert argv[0] == "map" or "é\u3000".encode() in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_sync_in_python_says_any_name(tmp_path: Path, encoding: str) -> None:
    need_tools("rsync")
    (tmp_path / "a").mkdir()
    for name in (b"\xff", "é".encode()):
        sparse_file(Path(os.fsdecode(os.fsencode(tmp_path) + b"/a/" + name)), MIB, [(0, 4096)])
    call = "sparsesync.sync('a/', 'b/', ['-a', '--seed-verbose'], output=sys.stderr)"
    script = f"import sys, sparsesync; sys.exit({call}.status)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"})  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"seeded \\#377: " in done.stderr
    assert len(os.listdir(tmp_path / "b")) == 2


def shell(script: str, cwd: Path) -> tuple[int, str]:
    """The status and the standard error of a script in which ``$S`` is the program."""
    environment = {**os.environ, "S": f"{sys.executable} -m sparsesync"}
    done = subprocess.run(["bash", "-c", script], cwd=cwd, stderr=subprocess.PIPE, text=True, timeout=60,
                          stdout=subprocess.DEVNULL, env=environment)  # fmt: skip
    return done.returncode, done.stderr


def test_closed_streams(tree: Path) -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert shell(f"rm -f x; $S copy d/small x {closed}", tree) == (0, "")
        assert same_content(tree / "d/small", tree / "x")
    assert shell("$S scan d 2>&-", tree) == (0, "")
    assert shell("$S scan none 2>&-", tree) == (1, "")
    assert shell("$S scan d >&-", tree) == (1, "sparsesync: standard output: Bad file descriptor\n")
    need_tools("rsync")
    assert shell("$S sync -a d/small y >&-", tree) == (0, "")
    assert same_content(tree / "d/small", tree / "y")


@pytest.mark.parametrize("argv", ["scan d", "scan -0 d", "map d/large", "map --json d/large", "exclude d", "--help",
                                  "exclude -o /dev/stdout d"])  # fmt: skip
def test_an_output_that_is_full(tree: Path, argv: str) -> None:
    device(tree / "full", 7)
    name = "/dev/stdout" if "-o" in argv else "standard output"
    assert shell(f"$S {argv} >full", tree) == (1, f"sparsesync: {name}: No space left on device\n")


def test_copy(tree: Path) -> None:
    assert run("copy", "d/large", "copied", cwd=tree).returncode == 0
    assert allocated(tree / "copied") == allocated(tree / "d/large")
    (tree / "into").mkdir()
    os.link(tree / "copied", tree / "linked")
    said = "sparsesync: copied: its other names keep the old content; --inplace writes to all of them\n"
    assert run("copy", "d/small", "copied", cwd=tree).stderr == said
    assert (tree / "linked").stat().st_size == 100 << 30 and same_content(tree / "copied", tree / "d/small")
    os.utime(tree / "d/small", (1, 1))
    done = run("copy", "-p", "d/small", "d/dense", "into", cwd=tree)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert same_content(tree / "d/dense", tree / "into/dense")
    assert os.stat(tree / "into/small").st_mtime == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["copy", "none", "x"], "none: No such file or directory"),
        (["copy", "d", "x"], "d: is a directory; for trees use 'sparsesync sync -a'"),
        (["copy", "-n", "d/small", "/dev/no-such-disk"], "/dev/no-such-disk: there is no such device"),
        (["copy", "-n", "d/no-such-disk", "/dev"], "/dev/no-such-disk: there is no such device"),
        (
            ["copy", "-e", "sh -c 'exit 255'", "na:me", "x"],
            "na: ssh could not log in; the file of that name here is ./na:me",
        ),
        (["copy", "d/small", "d/small"], "'d/small' and 'd/small' are the same file"),
        (["copy", "d/small", ""], "'': No such file or directory"),
        (["copy", "", "x"], "'': No such file or directory"),
        (["copy", "d/small", "no/x"], "no/x: No such file or directory (its directory does not exist)"),
        (["copy", "d/small"], "d/small: a destination is missing"),
        (["copy", "d/small", "d/dense", "x"], "x: is not a directory, and there are several sources"),
        (["map", "none"], "none: No such file or directory"),
        (["map", "d"], "d: Is a directory"),
        (["exclude", "none"], "none: No such file or directory"),
        (["exclude", "--preset", "docker", "--format", "tar", "d"], "the presets are for rsync"),
        (["scan", "none"], "none: No such file or directory"),
    ],
)
def test_one_line_and_a_status_for_bad_input(tree: Path, argv: list[str], message: str) -> None:
    (tree / "na:me").touch()
    before = sorted(os.listdir(tree))
    done = run(*argv, cwd=tree)
    assert done.returncode == 1
    assert done.stderr.startswith(f"sparsesync: {message}")
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tree)) == before


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("u@far: Permission denied (publickey).", "it refused the user"),
        ("ssh: connect to host far port 22: Connection refused", "nothing takes connections there"),
        ("ssh: Could not resolve hostname far: Name or service not known", "no host of that name is known"),
        ("@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
         "its key is another than that of earlier logins"),
        ("No ED25519 host key is known for far and you have requested strict checking.\nHost key verification failed.",
         "its key is not known yet; log in once by hand"),
    ],
)  # fmt: skip
def test_why_a_login_failed(tree: Path, said: str, why: str) -> None:
    shell = script(tree / "ssh", f"echo '{said}' >&2; exit 255")
    assert (
        run("scan", "-e", shell, "far:", cwd=tree).stderr == f"{said}\nsparsesync: far: ssh could not log in: {why}\n"
    )


def test_a_size_limit_and_a_full_disk_say_what_to_do(tree: Path) -> None:
    script = f"ulimit -f 1000; exec {sys.executable} -m sparsesync copy d/large x"
    done = subprocess.run(["bash", "-c", script], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "sparsesync: x: File too large (the filesystem's limit, or 'ulimit -f')\n"
    need(os.path.isdir("/dev/shm"), "there is no /dev/shm")


def test_exclude_leaves_out_only_what_is_worth_it(tree: Path) -> None:
    """What is left out is in no backup: a hole of 56 KiB in 40 MiB, or a small file, is no reason."""
    sparse_file(tree / "d/qcow2", 40 * MIB, [(56 << 10, (40 * MIB) - (56 << 10))])
    sparse_file(tree / "d/tiny", 64 << 10, [(0, 4096)])

    def left_out(*options: str) -> list[str]:
        done = run("exclude", *options, "d/", cwd=tree)
        assert (done.returncode, done.stderr) == (0, "")
        return [line for line in done.stdout.splitlines() if not line.startswith("#")]

    worth_it = ["/large", "/name too", "/small"]
    assert left_out() == worth_it
    assert left_out("--min-ratio=0", "--min-size=0") == [*worth_it[:2], "/qcow2", "/small", "/tiny"]
    assert left_out("--min-ratio=0.999") == worth_it[:2]
    for wrong in ("2", "-1", "nan", "half"):
        done = run("exclude", f"--min-ratio={wrong}", "d", cwd=tree)
        assert done.returncode == 2 and f"'{wrong}' is not a share from 0 to 1" in done.stderr
    helped = " ".join(run("exclude", "--help", cwd=tree).stdout.split())
    for default in ("1M", "0.5", "rsync"):
        assert f"(default: {default})" in helped


def test_exclude_to_a_file_is_all_or_nothing(tree: Path) -> None:
    assert run("exclude", "-o", "list", "d/", cwd=tree).returncode == 0
    assert (tree / "list").read_text().splitlines()[-1] == "/small"
    sparse_file(tree / "d/new\nline", MIB, [])
    done = run("exclude", "-o", "list", "d/", cwd=tree)
    assert done.returncode == 1 and "use -0" in done.stderr
    assert (tree / "list").read_text().splitlines()[-1] == "/small"
    assert run("exclude", "-0", "-o", "list", "d/", cwd=tree).returncode == 0
    assert "/new\nline\0" in (tree / "list").read_text()


def test_exclude_to_a_file_keeps_its_attributes(tree: Path) -> None:
    mask = os.umask(0o077)
    try:
        assert run("exclude", "-o", "new", "d/", cwd=tree).returncode == 0
    finally:
        os.umask(mask)
    assert stat.S_IMODE(os.stat(tree / "new").st_mode) == 0o600
    os.chmod(tree / "new", 0o640)
    need_root("changing the owner needs root")
    os.chown(tree / "new", 1234, 4321)
    (tree / "link").symlink_to("new")
    assert run("exclude", "-o", "link", "d", cwd=tree).returncode == 0
    st = os.stat(tree / "new")
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o640, 1234, 4321)
    assert os.path.islink(tree / "link") and "/d/small" in (tree / "new").read_text()


def test_exclude_to_what_is_not_a_file_writes_to_it(tree: Path) -> None:
    listed = run("exclude", "d", cwd=tree).stdout
    assert run("exclude", "-o", "/dev/stdout", "d", cwd=tree).stdout == listed
    # What is there already is there still: a shell's redirection would not have replaced the file.
    assert shell("{ $S exclude -o /dev/stdout d; echo end >&2; } >both 2>>both", tree)[0] == 0
    assert (tree / "both").read_text() == f"{listed}end\n"
    os.mkfifo(tree / "pipe")
    reader = subprocess.Popen(["cat", "pipe"], cwd=tree, stdout=subprocess.PIPE, text=True)
    assert run("exclude", "-o", "pipe", "d", cwd=tree).returncode == 0
    assert reader.communicate(timeout=60)[0] == listed
    assert stat.S_ISFIFO(os.stat(tree / "pipe").st_mode)
    device(tree / "null", 3)
    assert run("exclude", "-o", "null", "d", cwd=tree).returncode == 0
    assert stat.S_ISCHR(os.stat(tree / "null").st_mode)
    assert sorted(os.listdir(tree)) == ["both", "d", "null", "pipe"]


def test_verify(tree: Path) -> None:
    run("copy", "d/large", "copied", cwd=tree)
    done = run("verify", "d/large", "copied", cwd=tree)
    told = "1 name; 3 MiB read, 100.0 GiB believed to be holes"
    assert (done.returncode, done.stdout) == (0, f"equal: {told}\n")
    assert run("verify", "-v", "d/large", "copied", cwd=tree).stdout == f"d/large: equal\nequal: {told}\n"
    assert run("verify", "-q", "d/large", "copied", cwd=tree).stdout == ""
    with open(tree / "copied", "r+b") as file:
        file.seek(70 << 30)
        file.write(b"!")
    done = run("verify", "d/large", "copied", cwd=tree)
    assert done.returncode == 1
    assert done.stdout == f"d/large: content differs at byte {70 << 30}\n"
    (tree / "e").mkdir()
    done = run("verify", "d", "e", cwd=tree)
    assert done.returncode == 1 and "dense: missing in e\n" in done.stdout
    done = run("verify", "d", "none", cwd=tree)
    assert (done.returncode, done.stderr) == (2, "sparsesync: none: No such file or directory\n")


@pytest.mark.parametrize("far", [False, True])
def test_verify_compares_attributes(tree: Path, far: bool) -> None:
    (tree / "d/link").symlink_to("x")
    need_root("gives files to others")
    shutil.copytree(tree / "d", tree / "e", symlinks=True, copy_function=sparsesync.copy2)
    remote = ["-e", local_shell(tree / "rsh"), f"far:{tree}/d"] if far else ["d"]
    # Of two names of one file in d the file counts once, as for scan.
    assert run("verify", "--attributes", *remote, "e", cwd=tree).stdout.startswith("equal: 5 names of 4 files; ")
    (tree / "e").chmod(0o700)
    (tree / "e/small").chmod(0o4755)
    os.chown(tree / "e/dense", 5, 0)
    os.lchown(tree / "e/link", 0, 5)
    assert far or run("verify", "d", "e", cwd=tree).returncode == 0
    done = run("verify", "--attributes", *remote, "e", cwd=tree)
    owner, mode = "another owner or group in e", "another mode in e"
    said = [f"{remote[-1]}: {mode}", f"dense: {owner}", f"link: {owner}", f"small: {mode}"]
    assert (done.returncode, done.stdout.splitlines()) == (1, said)


@pytest.mark.parametrize("far", [False, True])
def test_verify_leaves_out_what_a_migration_leaves_out(tree: Path, far: bool) -> None:
    rsh = local_shell(tree / "rsh")
    for name in ("a/proc/1", "a/var/log/x", "a/etc/keep", "a/kept.tmp/y", "b/proc/2", "b/etc/keep", "b/var/tmp/z"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"text")
    (tree / "b/var/log").mkdir()
    (tree / "b/kept.tmp").mkdir()
    (tree / "rules").write_text("*.tmp\n/var/log/*\n")
    pair = ("a", f"far:{tree}/b") if far else ("a", "b/")
    whole = run("verify", *pair, cwd=tree, env={**os.environ, "RSYNC_RSH": rsh})
    assert whole.returncode == 1 and "proc/1: missing" in whole.stdout and "kept.tmp/y: missing" in whole.stdout
    # tmp is the top's only, and var/tmp none of it.
    options = ["--preset", "system", "--exclude-from", "rules"]
    done = run("verify", *options, *pair, cwd=tree, env={**os.environ, "RSYNC_RSH": rsh})
    assert (done.returncode, done.stdout, done.stderr) == (1, f"var/tmp: only in {pair[1]}\n", "")
    shutil.rmtree(tree / "b/var/tmp")
    done = run("verify", *options, *pair, cwd=tree, env={**os.environ, "RSYNC_RSH": rsh})
    assert (done.returncode, done.stdout[:7], done.stderr) == (0, "equal: ", "")
    (tree / "rules").write_text("- [[:graph:]/]x\n")
    for name, why in (("none", "none: No such file"), ("rules", "rules: has rules that only rsync understands")):
        done = run("verify", "--exclude-from", name, "a", "b", cwd=tree)
        assert done.returncode == 2 and done.stderr.startswith(f"sparsesync: {why}")


def test_files_that_the_kernel_writes_when_they_are_read(tree: Path) -> None:
    need_root("the kernel's addresses are root's to see")
    need(os.path.exists(PROC) and os.path.exists(SYS), "there is no proc or no sysfs")
    for path in (PROC, SYS):
        assert run("copy", path, "x", cwd=tree).returncode == 0
        # Not cmp(1): with -s it believes the sizes.
        assert (tree / "x").read_bytes() == Path(path).read_bytes()
        assert run("verify", path, "x", cwd=tree).returncode == 0
    done = run("verify", PROC, SYS, cwd=tree)
    assert (done.returncode, done.stdout) == (1, f"{PROC}: content differs at byte 0\n")
    assert run("scan", SYS, cwd=tree).stdout == "0 sparse files: 0 B apparent, 0 B allocated, 0 B saved\n"
    done = run("map", SYS, cwd=tree)
    assert (done.returncode, done.stderr) == (1, f"sparsesync: {SYS}: the file ends before its size says\n")


def test_a_reader_that_goes_away(tree: Path) -> None:
    script = f"{sys.executable} -m sparsesync map --json d/large | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=tree, capture_output=True, text=True)
    assert done.stderr == ""


def test_the_installed_command(tmp_path: Path) -> None:
    """It starts as fast as Python does: for its version nothing is imported that Python had not, not even re."""
    script = Path(sys.executable).with_name("sparsesync")
    for argv in ([script], [sys.executable, "-S", "-X", "importtime", script]):
        done = subprocess.run(
            [*argv, "--version"], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(Path(sparsesync.__file__).parents[1])},
        )  # fmt: skip
        assert done.stdout == f"sparsesync {sparsesync.__version__}\n"
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "sparsesync" in imported
    assert not imported & {"re", "argparse", "typing", "collections", "importlib.metadata"}


def test_help_and_version(tree: Path) -> None:
    assert run("--version", cwd=tree).stdout == f"sparsesync {sparsesync.__version__}\n"
    done = run("--help", cwd=tree)
    assert done.returncode == 0
    for command in ("scan", "map", "copy", "exclude", "verify", "sync"):
        assert command in done.stdout
        if command != "sync":
            assert run(command, "--help", cwd=tree).returncode == 0
    for word, said in (
        ("cp", "did you mean copy?"), ("ls", "did you mean scan?"), ("help", "did you mean --help?"),
        ("synk", "did you mean sync?"), ("frob", "there are scan, map, "), ("a\x1bb", "'a\\x1bb' is no command"),
    ):  # fmt: skip
        done = run(word, "scan", cwd=tree)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1], done
    for argv, said in (
        ("copy -r d x", "for trees use 'sparsesync sync -a'"), ("scan --mni-size 1 d", "did you mean --min-size?"),
        ("migrate d x --delete", "migrate SRC DEST -- --delete"), ("migrate --exclude=a d x", "-- --exclude"),
        ("scan --seed-off d", "--seed-off; options of that kind belong to 'sparsesync sync'"),
        ("map --frob d", "unrecognized arguments: --frob"),
    ):  # fmt: skip
        done = run(*argv.split(), cwd=tree)
        assert done.returncode == 2 and done.stderr.endswith(f"{said}\n"), done
        assert done.stderr.startswith(f"usage: sparsesync {argv.split()[0]} ")
    # tar knows no comments, so its exclude file cannot say it.
    assert "--anchored" in run("exclude", "--help", cwd=tree).stdout


def test_the_public_names() -> None:
    for name in sparsesync.__all__:
        assert getattr(sparsesync, name) is not None
    assert callable(sparsesync.verify) and callable(sparsesync.sync)
    with pytest.raises(AttributeError, match="frob"):
        sparsesync.frob  # type: ignore[attr-defined]  # noqa: B018


def test_start_up_imports_only_what_is_used(tmp_path: Path) -> None:
    def imported(what: str) -> set[str]:
        script = f"import sys, sparsesync; {what}; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True,
                              env={"PYTHONPATH": str(Path(__file__).parents[2])})  # fmt: skip
        return set(done.stdout.split())

    modules = imported("import sparsesync.hosts.copies; sparsesync.copyfile")
    assert "sparsesync.engine.content.copy_file" in modules
    assert not {"tqdm", "argparse", "subprocess", "shutil", "ctypes", "sparsesync.rsync.command"} & modules
    modules = imported("from sparsesync.commands.main import parser; parser(['copy'], ['copy'])")
    assert "argparse" in modules and not {"tqdm", "shutil"} & modules
    sparse_file(tmp_path / "a", MIB, [(0, 4096)])
    modules = imported(f"sys.argv[1:] = ['copy', '-q', '{tmp_path}/a', '{tmp_path}/b']\n"
                       "try: from sparsesync.__main__ import run; run()\n"
                       "except SystemExit: pass\nfinally: print(*sys.modules)\n#")  # fmt: skip
    assert (tmp_path / "b").read_bytes() == (tmp_path / "a").read_bytes()
    assert {"sparsesync.hosts.copies", "sparsesync.console.progress"} <= modules
    assert not {"threading", "sparsesync.hosts.base", "sparsesync.engine.host"} & modules
    assert not {"sparsesync.embedding", "sparsesync.workers.engines", "sparsesync.hosts.address"} & modules


def test_garbage_is_collected_once_the_work_begins() -> None:
    """Of the installed command. In another's process that is left as it is."""
    for command in ("copy", "sync"):
        script = (
            f"import gc, sys; import sparsesync.commands.{command} as command; from sparsesync.__main__ import run\n"
            "command.run = lambda given: print(gc.isenabled(), gc.get_freeze_count() > 0)\n"
            f"sys.argv[1:] = ['{command}', 'a', 'b']; run()\n"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("True True\n", "")
        script = script.replace("sparsesync.__main__ import run", "sparsesync.commands.main import main as run")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("True False\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [True, False])
def test_progress_only_on_a_terminal_and_never_apparent_size(tree: Path, quiet: bool) -> None:
    import fcntl
    import pty
    import struct
    import termios

    sparse_file(tree / "big", 100 << 30, [(0, 64 * MIB)])
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    code = (
        "import sparsesync.console.progress as p\n"
        f"with p.data_bar(64 << 20, 'seeding', quiet={quiet}) as advance:\n"
        "    import time; time.sleep(0.6)\n"
        "    advance and [advance(32 << 20), time.sleep(0.2), advance(32 << 20)]\n"
    )
    code += (
        f"p._STALLED_SECONDS = 0.1\nwith p.data_bar(9 << 30, 'waiting', quiet={quiet}) as advance:\n"
        "    time.sleep(0.6); advance and [advance(32 << 20), time.sleep(0.3)]\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tree, stderr=theirs, check=True)
    os.write(theirs, b"end")
    text = os.read(ours, 65536).decode()
    os.close(theirs)
    os.close(ours)
    assert ("32 MiB of 64 MiB" in text) is (not quiet)
    assert ("nothing for 0 s" in text) is (not quiet)
    assert ("seeding" in text) is (not quiet)
    done = run("copy", "big", "x", cwd=tree)
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 20)])
def test_a_signal_within_a_destructor_is_not_lost(number: int, status: int) -> None:
    script = f"""
        import os, sys, time
        from sparsesync.commands import main as cli, sync as command
        class Dying:
            def __del__(self):
                os.kill(os.getpid(), {number})
                time.sleep(0.01)
        def sync(argv):
            Dying()
            time.sleep(60)
        command.run = sync
        sys.exit(cli.main(["sync"]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, timeout=50)
    assert (done.returncode, done.stderr) == (status, b"")
