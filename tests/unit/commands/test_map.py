"""The forms of ``sparsesync map``, held against qemu-img and bmaptool."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparsesync.commands import map as mapfile
from sparsesync.console import streams
from sparsesync.console.document import Document
from sparsesync.console.drawing import picture, strip
from sparsesync.engine.host import LocalHost
from sparsesync.hosts.base import Location
from sparsesync.hosts.pool import HostPool
from tests.support.filesystems import KINDS, Mounted, command, need_tools, qemu_map, same_content, sparse_file
from tests.support.schemas import fields

MIB = 1 << 20

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
    assert lines[:2] == ["[██████████·····░····]", " █ data  ▓▒░ in part  □ reserved  · hole"]
    assert lines[-1] == "2 extents: 644 KiB data of 1 MiB"
    assert [line.split()[:2] for line in lines[3:-1]] == [["0", "655360"], ["983040", "4096"]]
    sparse_file(path, 20 << 16, [(0, 10 << 16), (11 << 16, 60000), (13 << 16, 30000), (15 << 16, 4096)])
    plain = shown(path, None, "ascii").splitlines()
    assert plain[:2] == ["[##########.*.+.-....]", " # data  *+- in part  o reserved  . hole"]
    many = sparse_file(tmp_path / "many", 100 << 16, [(n << 16, 4096) for n in range(100)])
    lines = shown(many, None).splitlines()
    assert len(lines) == 45
    assert lines[-2].split() == ["...", "and", "60", "more"]
    assert lines[-1].startswith("100 extents: 400 KiB data of")
    assert shown(sparse_file(tmp_path / "empty", 0, []), None) == "[empty]\n0 extents: 0 B data of 0 B\n"
    assert shown(sparse_file(tmp_path / "tiny", 3, [(0, 3)]), None).startswith("[████████████████████]")


def test_plain_ascii_where_the_locale_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    assert not streams.takes(sys.stdout, "█")
    # What Python makes of LANG=C.
    monkeypatch.setenv("LC_CTYPE", "C.UTF-8")
    assert not streams.takes(sys.stdout, "█")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert streams.takes(sys.stdout, "█")
    monkeypatch.setenv("LC_ALL", "C")
    assert not streams.takes(sys.stdout, "█")


def draw(*paths: Path, picture: Path | None = None) -> None:
    with HostPool() as hosts:
        mapfile._draw(hosts, [*map(str, paths)], "auto", None if picture is None else str(picture))


def ranges(picture: Path, word: str) -> list[tuple[int, int]]:
    """What the rectangles of a picture are said to be, as (start, end)."""
    titles = ElementTree.parse(picture).iter("{http://www.w3.org/2000/svg}title")
    found = [re.fullmatch(f"{word}: ([0-9]+) to ([0-9]+)", title.text or "") for title in titles]
    return [(int(each[1]), int(each[2])) for each in found if each]


def test_a_picture_has_what_is_there(mounted: Mounted) -> None:
    need_tools("filefrag")
    path = sparse_file(mounted("ext4") / "a<b>&\ufffe\x1b", 4 << 20, [(0, 8192), (MIB, 4096), (3 << 20, 40960)])
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 2 << 20, 65536)
        os.fsync(file.fileno())
    draw(path, picture=path.with_name("one.svg"))
    rows = re.findall(r"\d+: +(\d+)\.\. +(\d+):.*?:(.*)", command("filefrag", "-v", path))
    told = {False: "data", True: "reserved"}
    for kind in told:
        blocks = [(int(first) << 12, int(last) + 1 << 12) for first, last, f in rows if ("unwritten" in f) == kind]
        assert ranges(path.with_name("one.svg"), told[kind]) == blocks
    other = sparse_file(path.with_name("b"), 4 << 20, [(0, 8192), (MIB, 8192), (3 << 20, 40960)])
    draw(path, other, picture=path.with_name("two.svg"))
    assert ranges(path.with_name("two.svg"), "differs") == [(MIB + 4096, MIB + 8192), (2 << 20, (2 << 20) + 65536)]
    assert [tree.tag for tree in ElementTree.parse(path.with_name("two.svg")).iter() if tree.tag.endswith("script")]


def test_a_picture_of_millions_of_extents_is_small(tmp_path: Path) -> None:
    size = 100_000 << 16
    shape = picture.grid(size)
    drawn = strip.Strip("", size, size, shape.cells)
    for _ in drawn.passing((n << 16, 4096 * (1 + n // 3 % 15), True) for n in range(100_000)):
        pass
    out = io.StringIO()
    picture.draw(out, size, [drawn], None, shape)
    assert len(out.getvalue()) < 3 * MIB and "100000 extents" in out.getvalue()
    assert abs(sum(drawn.data.shares()) * size / shape.cells - drawn.data.total) < 1


def test_two_maps_one_under_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "22")
    monkeypatch.setenv("LC_ALL", "C")
    a = sparse_file(tmp_path / "a", 20 << 16, [(0, 5 << 16)])
    draw(a, sparse_file(tmp_path / "b", 16 << 16, [(0, 4 << 16), (15 << 16, 4096)]))
    said = capsys.readouterr().out.splitlines()
    assert said[1:5:2] == ["[#####...............]", "[####...........-....]"]
    assert said[4] == "     ^          ^"
    assert said[-1] == "the maps differ in 2 ranges, 68 KiB; content is compared by verify"
    draw(a, a)
    assert capsys.readouterr().out.splitlines()[-1].startswith("the maps are equal")


def test_a_browser_shows_and_zooms_it(tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("chromium is missing")
    path = sparse_file(tmp_path / "a", 4 << 20, [(0, MIB), (3 << 20, 65536)])
    draw(path, sparse_file(tmp_path / "b", 4 << 20, [(0, 65536)]), picture=tmp_path / "two.svg")
    looking = """<script>
      const told = []
      for (let y = 0; y &lt; innerHeight; y += 3)
        told.push(document.elementFromPoint(innerWidth * 0.09, y).textContent)
      svg.dispatchEvent(new WheelEvent('wheel', {deltaY: -1, clientX: 9, clientY: 9, cancelable: true}))
      document.documentElement.setAttribute('seen', [...new Set(told)].join('|'))
    </script></svg>"""
    text = (tmp_path / "two.svg").read_text()
    (tmp_path / "two.svg").write_text(text.replace("</svg>", looking))
    before = re.search('viewBox="([^"]*)"', text)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--window-size=1100,400"]
    shown = command(browser, *options, f"file://{tmp_path}/two.svg")
    seen, after = re.search(' seen="([^"]*)"', shown), re.search('viewBox="([^"]*)"', shown)
    assert seen and before and after and after[1] != before[1]
    assert "data: 0 to 1048576" in seen[1] and "differs: 65536 to 1048576" in seen[1]
