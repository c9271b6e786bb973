"""What programs read: each command's object as its schema says, on success and when the command fails."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable

import pytest

import sparsesync
from sparsesync.commands.main import main, parser
from sparsesync.console.progress import data_bar
from sparsesync.engine.files.dig import Dug, dig
from tests.support.filesystems import sparse_file
from tests.support.schemas import FOLDER, document

MIB = 1 << 20

CALLS = {
    "scan": ["src", "--all --top 1 src", "none src", "none", "none gone"],
    "map": ["src/disk", "none"],
    "copy": ["src/disk to", "-n src/disk to", "none to", "src/disk none none/to"],
    "dig": ["src/zeros", "none"],
    "exclude": ["src/", "odd/", "--preset system -o list src/", "none"],
    "verify": ["src other", "src/disk src/disk", "src none"],
    "track": ["list kept", "check kept", "drop kept 0123456789abcdef0123456789abcdef", "drop kept"],
    "migrate": ["--check src/ to", "src/ to -- --foo"],
}
"""Calls of each command, the last of which fails."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("src", "other", "kept", "odd"):
        (tmp_path / name).mkdir()
    sparse_file(tmp_path / "src/disk", 2 * MIB, [(0, 4096), (MIB, 4096)])
    (tmp_path / "src/zeros").write_bytes(bytes(MIB))
    sparse_file(tmp_path / "other/disk", 2 * MIB, [(0, 4096)])
    sparse_file(tmp_path / "odd/line\nbreak", 2 * MIB, [(0, 4096)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CALLS)
def test_an_object_is_as_its_schema_says(tree: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    for words in CALLS[name]:
        status = main([name, "--json", *shlex.split(words)])
        told = capfd.readouterr()
        found = document(told.out)
        assert found["schema"] == f"sparsesync/{name}/1" and found["status"] == status, words
        assert found["failure"] is None or f"sparsesync: {found['failure']}\n" in told.err
    assert status != 0 and found["failure"]


def test_every_command_has_an_object_and_every_object_a_schema() -> None:
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    printing = {name for name, each in commands.choices.items() if "--json" in each._option_string_actions}
    assert printing == set(CALLS) == set(commands.choices) - {"sync", "serve"}
    assert {path.stem for path in FOLDER.glob("*.json")} == printing | {"sync", "progress"}


def test_the_object_of_a_command_that_is_ended(
    tree: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(path: str, **more: Any) -> Dug:
        if path != "src/zeros":
            raise SystemExit(143)
        return dig(path, **more)

    monkeypatch.setattr("sparsesync.commands.dig.dig", ended)
    with pytest.raises(SystemExit):
        main(["dig", "--json", "src/zeros", "src/disk"])
    found = document(capfd.readouterr().out)
    assert [each["path"] for each in found["files"]] == ["src/zeros"]
    assert (found["status"], found["failure"]) == (143, "interrupted")


def test_a_report_of_sync(tree: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def report(*words: str) -> dict[str, Any]:
        status = main(["sync", *words, "--seed-report=report"])
        found = document((tree / "report").read_text())
        assert found["status"] == status and (found["failure"] is None) is (status == 0)
        return found

    old = os.umask(0o027)
    try:
        found = report("-a", "src/", "to")
    finally:
        os.umask(old)
    assert ((tree / "report").stat().st_mode & 0o777, found["sources"], found["destination"]) == (0o640, ["src/"], "to")
    assert [each["name"] for each in found["sync"]["seeded"]] == ["disk"] and found["sync"]["sent"] == 8192
    assert report("-an", "src/", "to")["pass"] == "plan"
    assert report("-a", "src/", "none", "to")["sync"]["status"] == 23
    assert "-c is given" in report("-ac", "--seed-required", "other/", "to")["failure"]
    assert report("-a", "--foo", "src/", "to")["status"] == 1
    assert "could not log in" in report("-a", "-e", "sh -c 'exit 255'", "src/", "h:to")["failure"]
    monkeypatch.setenv("SPARSESYNC_RSYNC", "/none")
    assert report("-a", "src/", "to")["status"] == 127
    monkeypatch.setattr("sparsesync.seeding.run.run", lambda *rest, **more: os.kill(os.getpid(), signal.SIGTERM))
    found = report("-a", "src/", "to")
    assert (found["status"], found["failure"]) == (20, "interrupted") and "sync" not in found
    for path, said in (("no/report", "does not exist"), ("src", "Is a directory"), ("", "needs a file")):
        assert main(["sync", "-a", "src/", "new", f"--seed-report={path}"]) == 1
        assert said in capfd.readouterr().err and not (tree / "new").exists()


@pytest.fixture
def pipe() -> Iterator[tuple[int, Callable[[], list[dict[str, Any]]]]]:
    """A descriptor as a parent gives it, and what reads all lines that were written to it."""
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    os.set_blocking(ours, False)
    with open(ours, "rb") as reader:
        yield theirs, lambda: [document(line) for line in reader.read().splitlines()]
    os.close(theirs)


def test_progress_is_told_to_a_program(tree: Path, pipe: Any) -> None:
    fd, lines = pipe
    for words in (
        "copy --reflink=never --progress-fd {} src/disk to",
        "dig -q --progress-fd {} to",
        "verify --progress-fd {} src src",
        "scan --zeros --progress-fd {} src",
        "sync -a --seed-progress-fd={} src/ synced",
        "migrate --progress-fd {} src/ moved",
    ):
        os.set_inheritable(fd, True)
        assert main([word.format(fd) for word in words.split()]) == 0
        assert not os.get_inheritable(fd)  # an ssh that stays would keep it open
        told = lines()
        by_file = not words.startswith(("verify", "scan"))
        assert (told[0]["bytes"] == 0 and told[-1]["bytes"] == told[-1]["total"]) or not by_file, words
        assert len(told) > 1 and {each["file"] for each in told} <= {None, "disk", "to"}
        assert any(each["file"] for each in told) or not by_file, words


def test_progress_does_not_hold_up_the_work(tree: Path, pipe: Any) -> None:
    fd, _ = pipe
    os.write(fd, b"\n" * 15 * 4096)  # pipe(7): one page is left
    for _ in range(3):
        with data_bar(0, "seeding", fd=fd, file="x" * 5000):
            pass
    assert main(["copy", "--progress-fd", str(fd), "src/disk", "to"]) == 0


def test_progress_that_nobody_reads(tree: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    os.set_inheritable(theirs, True)
    assert main(["copy", "--progress-fd", str(theirs), "src/disk", "to"]) == 0
    os.close(theirs)
    reading = os.open("src/disk", os.O_RDONLY)
    os.set_inheritable(reading, True)
    for words in ["dig", "--progress-fd"], ["sync", "--seed-progress-fd"]:
        for given in (1, theirs, reading, "x"):
            with pytest.raises(SystemExit) if words[0] == "dig" else nullcontext():
                assert main([*words, str(given), "src/disk", "to"]) == 1
            assert "descriptor" in capfd.readouterr().err
    os.close(reading)
    with pytest.raises(ValueError, match="sync\\(\\) has progress"):
        sparsesync.sync("src/", "to", ["-a", "--seed-progress-fd=2"])
    with pytest.raises(ValueError, match="sync\\(\\) has a result"):
        sparsesync.sync("src/", "to", ["-a", "--seed-report=x"])
