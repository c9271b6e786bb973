"""What docs/ say, held against the program: options, public names, frames, and where links lead."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparsesync
from sparsesync.engine.wire import protocol

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", ["scan", "map", "copy", "dig", "exclude", "verify", "serve", "migrate"])
def test_every_option_is_documented(name: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "sparsesync", name, "--help"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    options = set(re.findall(r"(?<![\w-])--?[a-z0-9][a-z-]*", shown)) - {"-h", "--help"}
    text = (ROOT / ("docs/migrate.md" if name == "migrate" else "docs/commands.md")).read_text()
    if name != "migrate":
        text = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    assert options - set(re.findall(r"(?<![\w-])--?[a-z0-9][a-z-]*", text)) == set()


def test_every_option_of_sync_is_documented() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "sparsesync", "sync", "--seed-"], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ).stderr
    helped = subprocess.run(
        [sys.executable, "-m", "sparsesync", "sync", "--help"], cwd=ROOT, capture_output=True, text=True
    ).stderr
    text = (ROOT / "docs/commands.md").read_text().partition("\n## sync\n")[2].partition("\n### ")[0]
    option = r"--seed-[a-z]+[a-z-]*"
    known = set(re.findall(option, told))
    assert known and known == set(re.findall(f"`({option})", text)) == set(re.findall(option, helped))
    assert "rsync(1)" in helped and "rsync --help" in helped


def test_every_public_name_is_documented() -> None:
    text = (ROOT / "docs/python.md").read_text()
    assert [name for name in sparsesync.__all__ if not re.search(rf"\b{name}\b", text)] == ["__version__"]


def test_every_frame_is_documented() -> None:
    text = (ROOT / "docs/protocol.md").read_text()
    listed = {name: int(kind) for kind, name in re.findall(r"^\| (\d+) \| ([A-Z]+) \|", text, re.MULTILINE)}
    assert listed == {name: getattr(protocol, name) for name in listed}
    assert sorted(listed.values()) == list(range(protocol.HELLO, protocol.STREAM + 1))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads], target
