"""The map of a file, or of two, as a picture: an SVG that any browser shows and zooms.

A file is drawn as text is written: from left to right, and line by line. So it is seen as a whole, and still each
place of a line is a small part of it (:data:`COLUMNS` x :data:`MAX_LINES` places in all, whatever the file). Of two
files each line of the second stands below that of the first, with what differs between them. A place is the darker, the
more of it is data; neighbours that look alike are one rectangle, which tells what it is where the pointer rests on it.

The picture is all in one file, and loads nothing. Its script only changes what part of it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

from ...engine.text import escape_name
from ..units import iec
from .strip import shade

if TYPE_CHECKING:
    from .strip import Cells, Strip

COLUMNS = 512
MAX_LINES = 32
_BLOCK_BYTES = 4096
_SHADES = 5
"""How many densities are told apart."""

_LEFT, _TOP, _WIDTH, _HIGH, _GAP, _MARK = 84, 66, 1024, 12, 6, 3
"""Where the drawing begins, its width, the height of a line, what is free below it, and the height of a difference."""

_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">
<style>text{{font:11px sans-serif;fill:#222}}.h{{fill:#e9edf1}}.d{{fill:#1d4e89}}.r{{fill:#e8a33d}}
.x{{fill:#c8102e}}{shades}</style>
<rect width="{width}" height="{height}" fill="#fff"/>
"""

_SCRIPT = """<script>
// The wheel zooms, dragging moves, a double click shows all again.
const svg = document.documentElement, seen = svg.viewBox.baseVal, all = [seen.x, seen.y, seen.width, seen.height]
const at = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse())
const show = (x, y, width, height) => Object.assign(seen, {x, y, width, height})
svg.addEventListener('wheel', event => {
  event.preventDefault()
  const by = Math.min(event.deltaY &lt; 0 ? 0.8 : 1.25, all[2] / seen.width), to = at(event)
  show(to.x - (to.x - seen.x) * by, to.y - (to.y - seen.y) * by, seen.width * by, seen.height * by)
}, {passive: false})
svg.addEventListener('pointermove', event => {
  if (!event.buttons) return
  const by = svg.getScreenCTM().a
  show(seen.x - event.movementX / by, seen.y - event.movementY / by, seen.width, seen.height)
})
svg.addEventListener('dblclick', () => show(...all))
</script>
"""


class Grid(NamedTuple):
    """How many lines a picture has, and of how many places each."""

    lines: int
    columns: int

    @property
    def cells(self) -> int:
        """The number of cells to be counted."""
        return self.lines * self.columns


def grid(size: int) -> Grid:
    """Return the grid for files of up to ``size`` bytes: no place is smaller than a block."""
    blocks = max(1, -(-size // _BLOCK_BYTES))
    return Grid(min(MAX_LINES, -(-blocks // COLUMNS)), min(COLUMNS, blocks))


def draw(out: TextIO, size: int, strips: Sequence[Strip], differing: Cells | None, shape: Grid) -> None:
    """Write the picture of one file, or of two and where they differ.

    ``size``: that of the longer file in bytes, which the cells cover.
    """
    high = _HIGH * len(strips) + (_MARK + 1 if differing else 0)
    top = _TOP + 16 * len(strips)
    height, width = top + shape.lines * (high + _GAP) + 12, _LEFT + _WIDTH + 16
    # What is there at all is to be seen.
    shades = "".join(f".s{each}{{opacity:{0.2 + 0.8 * each / _SHADES:.2f}}}" for each in range(1, _SHADES))
    out.write(_HEAD.format(width=width, height=height, shades=shades))
    for number, strip in enumerate(strips):
        told = f"{_text(strip.name)}: {strip.summary()}"
        out.write(f'<text x="16" y="{24 + 16 * number}" style="font-size:13px">{told}</text>\n')
    out.writelines(_legend(top - 42, size / shape.cells, differing))
    for line in range(shape.lines):
        first, y = line * shape.columns, top + line * (high + _GAP)
        offset = iec(size * line // shape.lines, 4)
        out.write(f'<text x="{_LEFT - 8}" y="{y + _HIGH - 2}" text-anchor="end">{offset}</text>\n')
        for strip in strips:
            out.write(f'<rect class="h" x="{_LEFT}" y="{y}" width="{_WIDTH}" height="{_HIGH - 1}"/>\n')
            for kind, cells in (("r", strip.reserved), ("d", strip.data)):
                out.writelines(_line(kind, cells, first, shape, size, y, _HIGH - 1))
            y += _HIGH
            if differing and strip is strips[0]:
                out.writelines(_line("x", differing, first, shape, size, y, _MARK))
                y += _MARK + 1
    out.write(_SCRIPT + "</svg>\n")


def _line(kind: str, cells: Cells, first: int, shape: Grid, size: int, y: int, high: int) -> Iterator[str]:
    """Yield a line's rectangles: runs of cells with the same shade."""
    shades = [shade(share, _SHADES) for share in cells.shares()[first : first + shape.columns]]
    wide, cell = _WIDTH / shape.columns, size / shape.cells
    if not any(shades):
        return
    yield f'<g class="{kind}" transform="translate({_LEFT} {y})">\n'
    start = 0
    for at in range(1, len(shades) + 1):
        if at == len(shades) or shades[at] != shades[start]:
            if shades[start]:
                in_part = shades[start] < _SHADES
                begin, end = (int((first + each) * cell) for each in (start, at))
                told = f"{_WORDS[kind]}{' in part' * in_part}: {begin} to {end}"
                class_ = f'class="s{shades[start]}" ' * in_part
                where = f'x="{start * wide:g}" width="{(at - start) * wide:g}" height="{high}"'
                yield f"<rect {class_}{where}><title>{told}</title></rect>\n"
            start = at
    yield "</g>\n"


_NOT_XML = {0xFFFE: "\ufffd", 0xFFFF: "\ufffd"}
_WORDS = {"d": "data", "r": "reserved", "x": "differs"}


def _legend(y: int, cell: float, differing: Cells | None) -> Iterator[str]:
    x = 16
    marks = [("h", "hole"), ("d", "data (paler: in part)"), ("r", "reserved"), ("x", "the maps differ")]
    for kind, word in marks if differing else marks[:-1]:
        yield f'<rect class="{kind}" x="{x}" y="{y}" width="14" height="10"/>'
        yield f'<text x="{x + 20}" y="{y + 9}">{word}</text>\n'
        x += 50 + 6 * len(word)
    yield f'<text x="{x}" y="{y + 9}">a place is {iec(int(cell))}</text>\n'


def _text(name: str) -> str:
    """Return a name as text in XML, with nothing that XML does not allow."""
    from xml.sax.saxutils import escape

    return escape(escape_name(name).translate(_NOT_XML))
