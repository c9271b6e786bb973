"""sparsesync where rsync is looked for: under its name, at the remote end, and for all that is no transfer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparsesync
from tests.support.filesystems import allocated, need_tools, same_content
from tests.support.shells import local_shell, script
from tests.support.sync import sparse

pytestmark = pytest.mark.ssh

_PACKAGE = Path(sparsesync.__file__).parent.parent
_HOW = {
    "link": None,
    "script": 'exec {ours} sync "$@"',
    "child": '{ours} sync "$@"; exit $?',
    "other environment": 'exec env -i PATH="$PATH" PYTHONPATH={package} {ours} sync "$@"',
    "other options": 'exec {ours} sync --omit-dir-times "$@" --no-motd',
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    need_tools("rsync")
    (tmp_path / "src").mkdir()
    sparse(tmp_path / "src/img")
    (tmp_path / "src/plain").write_text("plain")
    (tmp_path / "bin").mkdir()
    ours = tmp_path / "sparsesync"
    ours.write_text(f"#!{sys.executable}\nfrom sparsesync.__main__ import run\n\nrun()\n")
    ours.chmod(0o755)
    return tmp_path


def stand_in(place: Path, how: str) -> None:
    if how == "link":
        (place / "bin/rsync").symlink_to(place / "sparsesync")
    else:
        script(place / "bin/rsync", str(_HOW.get(how) or how).format(ours=place / "sparsesync", package=_PACKAGE))


def run(place: Path, *argv: str | Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": str(_PACKAGE), "PATH": f"{place}/bin:{os.environ['PATH']}", **environment}
    return subprocess.run(argv, cwd=place, env=env, capture_output=True, timeout=60)


def is_copied(place: Path) -> bool:
    copied = all(same_content(place / "src" / name, place / "dst" / name) for name in ("img", "plain"))
    return copied and allocated(place / "dst/img") <= allocated(place / "src/img")


@pytest.mark.parametrize("how", _HOW)
def test_first_in_path(place: Path, how: str) -> None:
    stand_in(place, how)
    done = run(place, "rsync", "-a", "src/", "dst/")
    assert (done.returncode, done.stderr) == (0, b"") and is_copied(place)
    # Nothing to seed, and no transfer.
    assert run(place, "rsync", "-a", "src/", "dst/").returncode == 0
    theirs = subprocess.run(["rsync", "--version"], capture_output=True, check=True).stdout
    assert run(place, "rsync", "--version").stdout == theirs


def test_at_both_ends(place: Path) -> None:
    """The remote rsync is a grandchild of ours here, and finds us under its name, too."""
    stand_in(place, "script")
    rsh = local_shell(place / "rsh")
    done = run(place, "rsync", "-av", "-e", rsh, "src/", f"far:{place}/dst/")
    assert (done.returncode, done.stderr) == (0, b"") and is_copied(place)


def test_which_rsync_is_named(place: Path) -> None:
    stand_in(place, "link")
    real = str(shutil.which("rsync"))
    script(place / "named", f'echo "$@" >> {place}/log; exec {real} "$@"')
    done = run(place, "rsync", "-a", "src/", "dst/", SPARSESYNC_RSYNC=f"{place}/named")
    assert (done.returncode, done.stderr) == (0, b"") and is_copied(place)
    asked = (place / "log").read_text().splitlines()
    assert any("--dry-run" in line for line in asked) and "-a src/ dst/" in asked
    for named, why in (("bin/rsync", "is sparsesync itself"), ("nothing/there", "is not at nothing/there")):
        done = run(place, "rsync", "-a", "src/", "dst/", SPARSESYNC_RSYNC=named)
        (said,) = done.stderr.decode().splitlines()
        assert done.returncode == 127 and why in said and "SPARSESYNC_RSYNC" in said


def test_one_that_goes_round_ends(place: Path) -> None:
    """It says that it is rsync, and runs us."""
    real = shutil.which("rsync")
    stand_in(place, f'[ "$1" = --version ] && exec {real} --version; exec {{ours}} sync "$@"')
    done = run(place, "rsync", "-a", "src/plain", "dst/")
    (said,) = done.stderr.decode().splitlines()
    assert done.returncode == 127 and "leads back to sparsesync" in said


@pytest.mark.parametrize("way", ["push", "pull"])
@pytest.mark.parametrize("options", ["-avvi --stats", "-az --timeout=20 --list-only"])
def test_as_the_other_end_of_rsync(place: Path, way: str, options: str) -> None:
    stand_in(place, "link")
    rsh = local_shell(place / "rsh")
    ends = ["src/", f"far:{place}/dst/"] if way == "push" else [f"far:{place}/src/", "dst/"]
    rsync = str(shutil.which("rsync"))
    for path in ("bin/rsync", "sparsesync sync --seed-min-hole=1M"):
        shutil.rmtree(place / "dst", ignore_errors=True)
        done = run(place, rsync, *options.split(), "-e", rsh, f"--rsync-path={place}/{path}", *ends)
        assert (done.returncode, done.stderr) == (0, b""), done
        assert "--list-only" in options or same_content(place / "src/img", place / "dst/img")


@pytest.mark.parametrize(
    "argv",
    ["--version", "-V", "--help", "", "-a", "src/", "--list-only src/ dst/", "--server --daemon --nonsense .", "-h"],
)
def test_what_is_no_transfer_is_all_of_rsync(place: Path, argv: str) -> None:
    theirs = run(place, str(shutil.which("rsync")), *argv.split())
    stand_in(place, "link")
    ours = run(place, "rsync", *argv.split())
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    ours = run(place, place / "sparsesync", "sync", *argv.split())
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    # Who asks for the help of sync by that name gets ours, too.
    assert b"--seed-off" in ours.stderr if argv == "--help" else ours.stderr == theirs.stderr


@pytest.mark.parametrize("argv", ["-a src/ dst/", "-a -- src/ dst/", "-a src/ -v dst/", "-a src/ --seed-off -- dst/"])
def test_options_end_at_the_first_path_where_posix_has_it(place: Path, argv: str) -> None:
    (place / "-v").mkdir()
    (place / "--").mkdir()
    (place / "--seed-off").mkdir()
    ours = run(place, place / "sparsesync", "sync", *argv.split(), POSIXLY_CORRECT="")
    assert ours.returncode == 0, ours
    assert is_copied(place) and sorted(os.listdir(place / "dst")) == sorted(
        [*os.listdir(place / "src"), *(word for word in argv.split()[2:] if word.startswith("-") and "src/ -" in argv)]
    )
