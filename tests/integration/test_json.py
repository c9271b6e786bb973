"""What programs read: each command's object as its schema says, on success and when the command fails."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import pytest

from sparsesync.commands.main import main, parser
from sparsesync.engine.files.dig import Dug, dig
from tests.support.filesystems import sparse_file
from tests.support.schemas import FOLDER, document

MIB = 1 << 20

CALLS = {
    "scan": ["src", "--all --top 1 src", "none"],
    "map": ["src/disk", "none"],
    "copy": ["src/disk to", "-n src/disk to", "src/disk none none/to"],
    "dig": ["src/zeros", "none"],
    "exclude": ["src/", "--preset system -o list src/", "none"],
    "verify": ["src other", "src/disk src/disk", "src none"],
    "track": ["list kept", "check kept", "drop kept 0123456789abcdef0123456789abcdef", "drop kept"],
    "migrate": ["--check src/ to", "src/ to -- --foo"],
}
"""Calls of each command, the last of which fails."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("src", "other", "kept"):
        (tmp_path / name).mkdir()
    sparse_file(tmp_path / "src/disk", 2 * MIB, [(0, 4096), (MIB, 4096)])
    (tmp_path / "src/zeros").write_bytes(bytes(MIB))
    sparse_file(tmp_path / "other/disk", 2 * MIB, [(0, 4096)])
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
    assert status != 0 and told.err


def test_every_command_has_an_object_and_every_object_a_schema() -> None:
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    printing = {name for name, each in commands.choices.items() if "--json" in each._option_string_actions}
    assert printing == set(CALLS) == set(commands.choices) - {"sync"}
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
