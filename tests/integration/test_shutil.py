"""CPython's own tests of shutil, with our functions in place of its own.

Which of them do not pass, and why, is a table in docs/python.md: a test that is not in it passes, and one that is does
not.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import unittest
from pathlib import Path
from types import ModuleType

import pytest

import sparsesync
from tests.support.filesystems import allocated, filesystem, need, same_content, sparse_file

FUNCTIONS = ("copy", "copy2", "copyfile", "copytree", "move")
CLASSES = ("TestCopy", "TestCopyFile", "TestCopyTree", "TestMove")
ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def theirs() -> ModuleType:
    try:
        return importlib.import_module("test.test_shutil")
    except ImportError:
        need(False, "Python's own tests are not installed (on Debian: libpython3.*-testsuite)")
        raise


@pytest.mark.filterwarnings("ignore:.*it changed while it was copied")
@pytest.mark.parametrize("name", CLASSES)
def test_as_cpython_tests_shutil(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/python.md").read_text()
    excepted = set(re.findall(rf"^\| `{name}\.(\w+)` \|", text, re.MULTILINE))
    module = theirs()
    for function in FUNCTIONS:
        monkeypatch.setattr(shutil, function, getattr(sparsesync, function))
    monkeypatch.chdir(tmp_path)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(getattr(module, name)).run(result)
    assert result.testsRun > len(result.skipped)
    wrong = {str(test).partition(" ")[0]: said for test, said in result.failures + result.errors}
    assert wrong.keys() == excepted, wrong
    assert os.listdir(tmp_path) == []


def test_a_tree_is_copied_with_its_holes(each_filesystem: Path, tmp_path: Path) -> None:
    top = each_filesystem / "top"
    (top / "below").mkdir(parents=True)
    sparse_file(top / "below/disk", 64 * MIB, [(MIB, 8192)])
    os.link(top / "below/disk", top / "link")
    os.symlink("below/disk", top / "symlink")
    os.chown(top / "link", 1234, 4321)
    made = each_filesystem / "made"
    assert sparsesync.copytree(str(top), made, symlinks=True) is made
    assert sparsesync.equal(top, made) and os.readlink(made / "symlink") == "below/disk"
    for name in ("link", "below/disk"):
        assert same_content(top / name, made / name) and allocated(made / name) <= MIB
        assert ((made / name).stat().st_uid, (made / name).stat().st_nlink) == (1234, 1)
    with pytest.raises(FileExistsError):
        sparsesync.copytree(top, made)


def test_what_is_moved_to_another_filesystem_keeps_its_holes(tmp_path: Path) -> None:
    with filesystem("ext4", tmp_path / "fs", size="64M") as there:
        (tmp_path / "top").mkdir()
        sparse_file(tmp_path / "top/disk", 64 * MIB, [(MIB, 8192)])
        content = sparse_file(tmp_path / "expected", 64 * MIB, [(MIB, 8192)])
        assert sparsesync.move(tmp_path / "top", there) == str(there / "top")
        assert same_content(there / "top/disk", content) and allocated(there / "top/disk") <= MIB
        assert sparsesync.move(there / "top/disk", tmp_path / "back") == tmp_path / "back"
        assert same_content(tmp_path / "back", content) and allocated(tmp_path / "back") <= MIB
        assert not (tmp_path / "top").exists() and not (there / "top/disk").exists()


def test_names_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("k:d")
    sparse_file(Path("k:d/f:g"), MIB, [(0, 4096)])
    assert sparsesync.copytree(Path("k:d"), Path("to:d")) == Path("to:d")
    assert same_content(Path("k:d/f:g"), Path("to:d/f:g"))
    assert sparsesync.move(Path("to:d"), Path("k:d")) == "./k:d/to:d"
