"""The forms of ``sparsesync map``, held against qemu-img and bmaptool."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.commands import map as mapfile
from sparsesync.console.document import Document
from sparsesync.engine.host import LocalHost
from sparsesync.hosts.base import Location
from tests.support.filesystems import KINDS, Mounted, command, need_tools, qemu_map, same_content, sparse_file
from tests.support.schemas import fields

layouts = st.lists(st.tuples(st.integers(0, 1 << 21), st.integers(1, 1 << 19)), max_size=6)


def shown(path: Path, form: str | None, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding)
    location = Location(LocalHost(), str(path), "")
    if form == "json":
        document = Document("map", out)
        mapfile.show_json(document, location)
        document.end(0)
    else:
        mapfile.show(out, location, form, path.name)
    out.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(size=st.integers(0, 1 << 21), layout=layouts)
def test_as_qemu_img_prints_it(mounted: Mounted, kind: str, size: int, layout: list[tuple[int, int]]) -> None:
    path = sparse_file(mounted(kind) / "f", size, [(o, n) for o, n in layout if o < size])
    known = {"start", "length", "depth", "present", "zero", "data", "offset"}
    expected = [{name: part[name] for name in known & part.keys()} for part in qemu_map(path)]
    assert json.loads(shown(path, "qemu")) == expected
    end = 0
    for part in fields(shown(path, "json"))["ranges"]:
        assert part["offset"] == end and part["length"] > 0
        end += part["length"]
    assert end == size


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(size=st.integers(1, 1 << 21), layout=layouts)
def test_bmaptool_accepts_it(mounted: Mounted, size: int, layout: list[tuple[int, int]]) -> None:
    need_tools("bmaptool")
    top = mounted("ext4")
    path = sparse_file(top / "a--b & <c>", size, [(o, n) for o, n in layout if o < size])
    (top / "bmap").write_text(shown(path, "bmap"))
    command("bmaptool", "copy", "--bmap", top / "bmap", path, top / "copy")
    assert same_content(path, top / "copy")


@pytest.mark.parametrize("name", [b"x\x01y", b"\xff\xfe", b"a---b-", b"&<\n\x7f>", "é\u3000".encode()])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_bmaptool_accepts_any_name(tmp_path: Path, name: bytes, encoding: str) -> None:
    need_tools("bmaptool")
    path = sparse_file(Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)), 1 << 20, [(4096, 8192)])
    (tmp_path / "bmap").write_text(shown(path, "bmap", encoding))
    command("bmaptool", "copy", "--bmap", tmp_path / "bmap", path, tmp_path / "copy")
    assert same_content(path, tmp_path / "copy")


def test_bmaptool_notices_a_change(tmp_path: Path) -> None:
    need_tools("bmaptool")
    path = sparse_file(tmp_path / "f", 1 << 20, [(4096, 8192)])
    bmap = shown(path, "bmap")
    (tmp_path / "bmap").write_text(bmap)
    with open(path, "r+b") as file:
        file.seek(5000)
        file.write(b"!")
    with pytest.raises(AssertionError, match="checksum mismatch"):
        command("bmaptool", "copy", "--bmap", tmp_path / "bmap", path, tmp_path / "copy")
    (tmp_path / "bmap").write_text(bmap.replace("<Range", "<Range ", 1))
    with pytest.raises(AssertionError, match="checksum"):
        command("bmaptool", "copy", "--bmap", tmp_path / "bmap", path, tmp_path / "copy")


def test_the_bar_and_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "22")
    path = sparse_file(tmp_path / "f", 20 << 16, [(0, 10 << 16), (15 << 16, 4096)])
    lines = shown(path, None).splitlines()
    assert lines[0] == "[██████████·····▒····]"
    assert lines[-1] == "2 extents: 644 KiB data of 1 MiB"
    assert [line.split()[:2] for line in lines[2:-1]] == [["0", "655360"], ["983040", "4096"]]
    assert shown(path, None, "ascii").splitlines()[0] == "[##########.....+....]"
    many = sparse_file(tmp_path / "many", 100 << 16, [(n << 16, 4096) for n in range(100)])
    lines = shown(many, None).splitlines()
    assert len(lines) == 44
    assert lines[-2].split() == ["...", "and", "60", "more"]
    assert lines[-1].startswith("100 extents: 400 KiB data of")
    assert shown(sparse_file(tmp_path / "empty", 0, []), None) == "[empty]\n0 extents: 0 B data of 0 B\n"
