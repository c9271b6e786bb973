"""The public names: that they are seen, what type checkers make of them, and that results are values."""

from __future__ import annotations

import ast
import json
import operator
import os
import pickle
import pydoc
import rlcompleter
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparsesync
from sparsesync.api import copying
from tests.support.filesystems import sparse_file

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests/typing_examples.py"
MIB = 1 << 20


def python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_to_import_it_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import sparsesync; print(*set(sys.modules) - before)"
    assert python(code).split() == ["sparsesync"]


def test_every_name_is_seen_before_it_is_used() -> None:
    names = set(python("import sparsesync; print(*dir(sparsesync))").split())
    assert names >= set(sparsesync.__all__) and "__path__" in names
    assert set(python("from sparsesync import *; print(*dir())").split()) >= set(sparsesync.__all__)
    helped = python("import sparsesync; help(sparsesync)")
    for name in set(sparsesync.__all__) - {"__version__"}:
        assert name in helped, name
    assert "Copy the content of" in helped and "class LinkError" in helped
    assert "Yield each sparse regular file" in pydoc.render_doc(sparsesync)
    completer = rlcompleter.Completer({"sparsesync": sparsesync})
    assert str(completer.complete("sparsesync.exclude_p", 0)).startswith("sparsesync.exclude_patterns(")
    with pytest.raises(AttributeError, match="no attribute 'nonexistent'"):
        sparsesync.nonexistent  # type: ignore[attr-defined]  # noqa: B018
    assert all(getattr(sparsesync, name) is not None for name in sparsesync.__all__)


def checked(*command: str) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run([*command, str(EXAMPLES)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_mypy_reads_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    checked("mypy", "--strict", "--warn-unused-ignores", f"--cache-dir={tmp_path}")


def test_pyright_reads_the_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    checked("pyright", "--pythonpath", sys.executable)


def test_overloads_take_what_the_function_takes() -> None:
    module = ast.parse(Path(copying.__file__).read_text())
    taken: dict[str, list[list[str]]] = {}
    for each in module.body:
        if isinstance(each, ast.FunctionDef):
            taken.setdefault(each.name, []).append([arg.arg for arg in (*each.args.args, *each.args.kwonlyargs)])
    assert {name for name, variants in taken.items() if len(variants) > 1} == {"copy", "copy2"}
    for name, (*variants, function) in taken.items():
        assert all(variant == function for variant in variants), name


def test_what_a_scan_finds_compares_by_what_it_says(tmp_path: Path) -> None:
    path = sparse_file(tmp_path / "disk", MIB, [(0, 4096)])
    (one,) = sparsesync.scan(path)
    os.utime(path, (1, 1))
    (other,) = sparsesync.scan(path)
    assert one.st != other.st
    assert one == other and operator.ne(one, other) is False and hash(one) == hash(other) and len({one, other}) == 1
    for changed in (one._replace(size=3), one._replace(path="x"), one._replace(allocated=3)):
        assert one != changed and operator.eq(one, changed) is False
    assert one != tuple(one) and one != "disk"
    assert (one.size, one.saved, one.saved + one.allocated) == (MIB, MIB - one.allocated, MIB)
    assert one._replace(allocated=2 * MIB).saved == 0
    assert json.loads(json.dumps(one.asdict())) == {
        "path": str(path), "size": MIB, "allocated": one.allocated, "saved": one.saved
    }  # fmt: skip


RESULTS = [
    sparsesync.Sparse("a\udcff", 3, 2, os.stat("/")),
    sparsesync.Difference("a\udcff", "content", 7),
    sparsesync.Difference("a", "missing"),
    sparsesync.Seeded("a\udcff", 3, 2, 1, 4096),
    sparsesync.Segment(0, 4096, True, False),
]


@pytest.mark.parametrize("result", RESULTS, ids=repr)
def test_a_result_is_a_value(result: Any) -> None:
    again = pickle.loads(pickle.dumps(result))
    assert again == result and hash(again) == hash(result) and type(again) is type(result)
    assert json.loads(json.dumps(result.asdict())) == result.asdict()
    for name in (*result._fields, "more"):
        with pytest.raises(AttributeError):
            setattr(result, name, 3)


def test_a_tally_counts_on() -> None:
    tally = sparsesync.Tally(3)
    assert tally == sparsesync.Tally(3, 0) != sparsesync.Tally(3, 1) and tally != 3
    tally.read += 1
    assert (repr(tally), tally.asdict()) == ("Tally(read=4, believed=0)", {"read": 4, "believed": 0})
