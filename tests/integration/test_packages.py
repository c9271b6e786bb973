"""What people install: one file, which has all in it; the pages of the manual; what shells complete."""

from __future__ import annotations

import argparse
import compileall
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

import sparsesync
from release import manual, pyz
from sparsesync.commands.main import COMMANDS, main, parser
from sparsesync.console.progress import ProgressBar
from tests.support.filesystems import allocated, need, need_tools, same_content, sparse_file
from tests.support.shells import local_shell
from tests.support.sshd import Sshd

MIB = 1 << 20


def run(*argv: str | Path, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """The status and the output of a command that finds no package but what is in its file."""
    done = subprocess.run(
        argv, cwd=cwd, capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"], **environment}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("dist") / "new" / "sparsesync.pyz"
    pyz.make(made)
    return made


@pytest.mark.slow
def test_the_one_file_moves_files_to_another_host(tmp_path: Path, one_file: Path, sshd_server: Sshd) -> None:
    need_tools("rsync")
    python = (sys.executable, "-I", "-S", one_file)
    (tmp_path / "d").mkdir()
    sparse_file(tmp_path / "d/image", 256 * MIB, [(0, MIB), (100 * MIB, MIB)])
    there = f"far:{tmp_path}"
    remote = {"RSYNC_RSH": sshd_server.rsh}
    said = run(*python, "sync", "-a", "--seed-required", "--seed-verbose", "d/", f"{there}/e/", cwd=tmp_path, **remote)
    assert said[:2] == (0, "") and "image" in said[2]
    assert run(*python, "copy", f"{there}/e/image", "copied", cwd=tmp_path, **remote) == (0, "", "")
    for made in ("e/image", "copied"):
        assert same_content(tmp_path / "d/image", tmp_path / made)
        assert allocated(tmp_path / made) == allocated(tmp_path / "d/image")
    status, shown, _ = run(*python, "scan", f"{there}/e", cwd=tmp_path, **remote)
    assert status == 0 and f"{there}/e/image" in shown


def test_the_one_file_is_a_command_also_under_the_name_of_rsync(tmp_path: Path, one_file: Path) -> None:
    need_tools("rsync")
    assert run(one_file, "--version", cwd=tmp_path) == (0, f"sparsesync {sparsesync.__version__}\n", "")
    assert "sparsesync/schemas/scan.json" in zipfile.ZipFile(one_file).namelist()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/rsync").symlink_to(one_file)
    sparse_file(tmp_path / "image", 64 * MIB, [(0, MIB)])
    first = f"{tmp_path}/bin:{os.environ['PATH']}"
    assert run("rsync", "-t", "image", "copied", cwd=tmp_path, PATH=first) == (0, "", "")
    assert allocated(tmp_path / "copied") == allocated(tmp_path / "image")


def test_a_python_that_is_too_old_is_told(tmp_path: Path, one_file: Path) -> None:
    script = f"import runpy, sys; sys.version_info = (3, 8); runpy.run_path({str(one_file)!r}, run_name='__main__')"
    status, _, said = run(sys.executable, "-c", script, cwd=tmp_path)
    assert status == 1 and said.startswith("sparsesync: needs Python 3.9 or newer, and this is ")
    assert said.count("\n") == 1


def test_modules_without_their_source_cannot_be_sent(tmp_path: Path) -> None:
    compiled = tmp_path / "sparsesync"
    shutil.copytree(Path(sparsesync.__file__).parent, compiled, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(compiled, quiet=1, legacy=True)
    for source in compiled.rglob("*.py"):
        source.unlink()
    rsh = local_shell(tmp_path / "rsh")
    said = run(sys.executable, "-S", "-m", "sparsesync", "scan", "far:.", cwd=tmp_path, RSYNC_RSH=rsh)
    message = "sparsesync.engine is here without its source, which other hosts need: install sparsesync with it"
    assert said[0] == 1 and said[2] == f"sparsesync: {message}\n"


def test_without_tqdm_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressBar(None) as bar:
        assert bar.shown
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with ProgressBar(None) as bar, bar.phase(MIB, "copying") as advance:
        assert (bar.shown, advance) == (False, None)


def test_all_packages_have_the_same_version() -> None:
    root = Path(pyz.__file__).parents[1]
    assert f"sparsesync ({sparsesync.__version__}) " in (root / "debian/changelog").read_text().splitlines()[0]
    assert f"\nVersion:        {sparsesync.__version__}\n" in (root / "release/sparsesync.spec").read_text()


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed below share/, below one directory."""
    top = tmp_path_factory.mktemp("prefix")
    manual.write(top / "share/man/man1")
    need(find_spec("shtab") is not None, "shtab is not installed")
    from release import completion

    completion.write(top)
    return top


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_tells_what_the_help_tells(prefix: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = (prefix / f"share/man/man1/sparsesync-{name}.1").read_text()
    with pytest.raises(SystemExit):
        main([name, "--help"])
    options = re.compile(r"(?<![\w-])--?[a-z0-9][a-z-]*")
    said = capsys.readouterr()
    told = set(options.findall((said.err if name == "sync" else said.out).partition("\n\n")[2]))
    assert told and told <= set(options.findall(re.sub(r"\\f[BIR]", "", page).replace(r"\-", "-")))
    assert {status for status, _ in manual.statuses(name)} >= {"0", "1"}
    assert all(f"\\fB{status}\\fR\n" in page for status, _ in manual.statuses(name))


def test_choices_are_what_every_shtab_can_count() -> None:
    # That of Debian 12 takes the first by its number.
    whole = parser()
    (commands,) = (action for action in whole._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        assert all(isinstance(action.choices, (list, tuple, type(None))) for action in command._actions)


def test_man_finds_a_page_and_has_nothing_to_complain_of(prefix: Path) -> None:
    if shutil.which("man") is None:
        pytest.skip("man is not installed")
    (prefix / "bin").mkdir()
    # man looks beside the directories of PATH.
    path, more = f"{prefix}/bin:{os.environ['PATH']}", {"MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-wall"}
    for title in ("sparsesync", *(f"sparsesync-{name}" for name in COMMANDS)):
        status, shown, said = run("man", "--warnings", title, cwd=prefix, PATH=path, **more)
        assert (status, said) == (0, "") and "EXIT STATUS" in shown and "SEE ALSO" in shown


_SHELLS = {
    "bash": "bash --norc --noprofile -i",
    "zsh": "zsh -f -i",
    "fish": "fish -i",
}
_PREPARED = {
    "bash": ". /usr/share/bash-completion/bash_completion; bind 'set show-all-if-ambiguous on'",
    "zsh": "fpath=({prefix}/share/zsh/site-functions $fpath); autoload -U compinit; compinit -u -D",
    "fish": "source {prefix}/share/fish/vendor_completions.d/sparsesync.fish",
}


_TYPED = {
    "sparsesync sc": "sparsesync scan",
    "sparsesync copy --reflink n": "--reflink never",
    "sparsesync migrate imag": "migrate images/",
    "sparsesync exclude --format ko": "kopia",
    "sparsesync track dr": "track drop",
    "sparsesync sync -a --seed-req": "--seed-required",
    "sparsesync sync -a --seed-holes=tr": "--seed-holes=trust",
    "sparsesync sync -a --delete-ex": "--delete-excluded",
}
"""What is typed before the tabulator, and what the terminal shows then."""


@pytest.mark.parametrize("shell", _SHELLS)
def test_shells_complete_by_what_the_shtab_of_the_system_makes(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    old, root = "/usr/bin/python3", Path(pyz.__file__).parents[1]
    write = f"from pathlib import Path; from release.completion import write; write(Path({str(tmp_path)!r}))"
    if not os.path.exists(old) or run(old, "-c", "import shtab", cwd=root)[0]:
        pytest.skip("python3-shtab is not installed")
    assert run(old, "-c", write, cwd=root) == (0, "", "")
    test_a_shell_completes(tmp_path, tmp_path, shell)


@pytest.mark.parametrize("shell", _SHELLS)
def test_a_shell_completes(prefix: Path, tmp_path: Path, shell: str) -> None:
    if shell == "bash":
        need(os.path.exists("/usr/share/bash-completion/bash_completion"), "bash-completion is not installed")
    elif shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "images").mkdir()
    environment = {
        "PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(tmp_path), "PS1": "> ",
        "XDG_DATA_DIRS": f"{prefix}/share:/usr/local/share:/usr/share",
    }  # fmt: skip
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", *_SHELLS[shell].split()]
    started = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        os.write(ours, f"{_PREPARED[shell].format(prefix=prefix)}; echo rea''dy\n".encode())
        assert "ready" in read_until(ours, "ready")
        for keys, expected in _TYPED.items():
            os.write(ours, keys.encode() + b"\t")
            assert expected in read_until(ours, expected)
            os.write(ours, b"\x15")  # the line is not run
    finally:
        started.kill()
        started.wait()
        os.close(ours)


def read_until(terminal: int, expected: str) -> str:
    """What a terminal shows until it shows what is expected, or for some seconds."""
    shown, end = "", time.monotonic() + 20
    poll = select.poll()
    poll.register(terminal, select.POLLIN)
    while expected not in shown and poll.poll(1000 * max(0, end - time.monotonic())):
        shown += os.read(terminal, 65536).decode(errors="replace")
    return shown
