"""Which ranges of a file changed, as another program tells it: ``copy --extents-from=FILE``.

::

    nbdinfo --map=qemu:dirty-bitmap:NAME --json      offset, length, description: "dirty" or "clean"
    qemu-img map --output=json (x-dirty-bitmap)      start, length, zero, data: no data and no zeros is "dirty"
    rbd diff --format=json                           offset, length, exists: all of them changed
    anybody's JSON                                   offset, length: all of them changed
    thin_delta                                       XML: what is not "same" changed

The first two tell of all of a file. What they do not tell of counts as changed. So does everything if nothing is
dirty in the list of ``qemu-img map``: the map of a full image, which is no list of changes, looks the same. All else
that is a map, or that makes no sense, is refused: to take it for a list of changes would make a wrong copy.

Ranges may overlap, be in any order, and lie beyond the end. They are rounded up to blocks. JSON is read object by
object, XML element by element; what is held are the ranges that changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any
from xml.etree import ElementTree

from ..engine.errors import error_path
from ..engine.files.claims import SECTOR_BYTES, ZERO_BLOCK_BYTES
from ..engine.files.extents import Extent

_READ_CHARACTERS = 1 << 16
_MAX_OBJECT_CHARACTERS = 1 << 20
_MAX_OFFSET = 1 << 63

_DIFFERS = frozenset(["different", "left_only", "right_only"])
"""What thin_delta calls ranges that changed."""

_CHANGES = (
    "the changes of a file are told by nbdinfo --map=qemu:dirty-bitmap:NAME --json, qemu-img map --output=json with "
    "x-dirty-bitmap, thin_delta, rbd diff --format=json, or a JSON list of objects with offset and length"
)


def changed_ranges(path: str, size: int, known: int) -> list[Extent]:
    """Return the ranges of a file of ``size`` bytes that changed, ascending and apart, by the list at ``path``.

    ``known``: the bytes that it had when the list was begun; what is beyond changed.

    Raises ValueError, which names ``path``, for what is no such list, OSError.
    """
    try:
        with error_path(path), open(path, encoding="utf-8-sig") as file:
            start = file.read(1)
            while start.isspace():
                start = file.read(1)
            if start == "<":
                told = _of_thin_delta(_Again(start, file))
            elif start == "[":
                told = _of_objects(_objects(file), size)
            else:
                raise ValueError(f"it is neither JSON nor XML; {_CHANGES}")
            return _joined(chain(told, [(min(size, known), max(0, size - known))]), size)
    except IsADirectoryError:
        raise ValueError(f"{path}: it is a directory, and no list of what changed") from None
    except (ValueError, SyntaxError, RecursionError) as error:  # a ParseError is a SyntaxError
        raise ValueError(f"{path}: {error}") from None


class _Again:
    """A text file of which the beginning was read already."""

    def __init__(self, start: str, file: IO[str]) -> None:
        self._start, self._file = start, file

    def read(self, count: int = -1) -> str:
        start, self._start = self._start, ""
        return start + self._file.read(count)


def _joined(ranges: Iterator[Extent], size: int) -> list[Extent]:
    """Return ranges in whole blocks, ascending and apart, without what is beyond the end."""
    found: list[Extent] = []
    for offset, length in ranges:
        start = offset // ZERO_BLOCK_BYTES * ZERO_BLOCK_BYTES
        end = min(-(-(offset + length) // ZERO_BLOCK_BYTES) * ZERO_BLOCK_BYTES, size)
        if length and start < end:
            _add(found, start, end)
    apart: list[Extent] = []
    for start, length in sorted(found):
        _add(apart, start, start + length)
    return apart


def _add(ranges: list[Extent], start: int, end: int) -> None:
    """Add a range, as a part of the last one if it begins in it, or where it ends."""
    if ranges and ranges[-1][0] <= start <= sum(ranges[-1]):
        start, end = ranges[-1][0], max(end, sum(ranges.pop()))
    ranges.append((start, end - start))


def _objects(file: IO[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON list, of which the bracket was read."""
    decode = json.JSONDecoder().raw_decode
    text, after = "", False
    while True:
        text = text.lstrip()
        if text[:1] == "]":
            if (text[1:] + file.read(_READ_CHARACTERS)).strip():
                raise ValueError("more follows the list")
            return
        if after and text[:1] == ",":
            text, after = text[1:].lstrip(), False
        # One that the text ends with may be cut short, and be valid all the same: a number.
        end = text.find("}") + 1
        if end and not after:
            try:
                value, end = decode(text)
            except ValueError:
                end = 0
            if end:
                if not isinstance(value, dict):
                    raise ValueError(f"in the list is something that is no range; {_CHANGES}")
                yield value
                text, after = text[end:], True
                continue
        more = file.read(_READ_CHARACTERS)
        if not more or len(text) > _MAX_OBJECT_CHARACTERS:
            raise ValueError("it is not JSON, or ends too early")
        text += more


def _of_objects(objects: Iterator[dict[str, Any]], size: int) -> Iterator[Extent]:
    """Yield what changed by the objects of a JSON list."""
    kinds: set[str] = set()
    told: list[Extent] = []
    dirty = False
    for each in objects:
        offset, length = _number(each, "start" if "start" in each else "offset"), _number(each, "length")
        kind, changed = _look(each)
        kinds.add(kind)
        if len(kinds) > 1:
            raise ValueError(f"its ranges are of several kinds; {_CHANGES}")
        dirty = dirty or changed
        if changed:
            yield offset, length
        if kind != _LIST:
            _add(told, offset, offset + length)
    if kinds == {_QEMU_IMG} and not dirty:
        yield 0, size
    if kinds & {_QEMU_IMG, _NBDINFO}:
        position = 0
        for offset, length in [*sorted(told), (size, 0)]:
            yield position, max(0, offset - position)
            position = max(position, offset + length)


_LIST, _NBDINFO, _QEMU_IMG = "list", "nbdinfo", "qemu-img"


def _look(each: dict[str, Any]) -> tuple[str, bool]:
    """Return who tells of a range, and whether it changed."""
    fields = set(each) - {"offset", "start", "length"}
    if {"type", "description"} <= fields and each["description"] in ("dirty", "clean"):
        return _NBDINFO, each["description"] == "dirty"
    if {"zero", "data"} <= fields and each["zero"] is False and isinstance(each["data"], bool):
        return _QEMU_IMG, not each["data"]
    if fields <= {"exists"}:
        return _LIST, True
    raise ValueError(f"it tells what is there, and not what changed; {_CHANGES}")


def _number(each: dict[str, Any], name: str) -> int:
    value = each.get(name)
    if type(value) is not int or not 0 <= value < _MAX_OFFSET:
        raise ValueError(f"{name!r} of a range is not a number of bytes")
    return value


def _of_thin_delta(file: _Again) -> Iterator[Extent]:
    """Yield what changed by the XML of thin_delta. Its elements say what becomes of their ranges, or are ranges."""
    block, within, ended = 0, "", False
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        name = element.tag
        if event == "end":
            ended = name == "superblock"
            within = "" if name == within else within
            element.clear()
            continue
        if name == "superblock":
            block = _attribute(element, "data_block_size") * SECTOR_BYTES
        elif name in _DIFFERS or name == "same":
            within = name
        elif name not in ("diff", "range"):
            raise ValueError(f"<{name}> is nothing that thin_delta tells; {_CHANGES}")
        if name == "range" and not within:
            raise ValueError("<range> is in none of the elements that tell whether it changed")
        if within in _DIFFERS and (name == "range" or "begin" in element.attrib):
            if not block:
                raise ValueError("it does not tell data_block_size")
            yield _attribute(element, "begin") * block, _attribute(element, "length") * block
    if not ended:
        raise ValueError(f"it is not what thin_delta tells; {_CHANGES}")


def _attribute(element: ElementTree.Element, name: str) -> int:
    value = element.get(name, "")
    if not re.fullmatch("[0-9]{1,18}", value):
        raise ValueError(f"{name!r} of <{element.tag}> is not a number")
    return int(value)
