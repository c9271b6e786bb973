"""What is noted of a copy that ended well: a record, in JSON.

::

    {"format": 1,
     "time": 1800000000,                       when, in seconds since 1970
     "runs": 3,                                copies since one that compared everything
     "source": {"path": "/vm/disk.img", "inode", "size", "mtime_ns", "ctime_ns"},
     "destination": {"path": "host:/backup/disk.img", "inode", "size", "mtime_ns", "ctime_ns"},
     "snapshot": {"path": "0123456789abcdef.snapshot", "inode", "size", "mtime_ns", "ctime_ns"}}

The clone named by ``snapshot`` has the content that the destination has, if both still are what they were: that is
what their numbers are for (:class:`~..engine.files.status.Identity`). The source's are for people, since its content
is compared. Of a record in an older format nothing is known. One in a newer format is left as it is.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..engine.files.status import Identity

FORMAT = 1

MAX_RECORD_BYTES = 1 << 20
_MAX_FORMAT = 1 << 31


class NewerRecordError(ValueError):
    """A record is of a newer format."""


class Place(NamedTuple):
    """A file: its path, and what it was."""

    path: str
    identity: Identity

    def asdict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return {"path": self.path, **self.identity._asdict()}


class Record(NamedTuple):
    """A copy that ended well. ``runs``: how many since one that compared everything; ``time``: seconds since 1970."""

    source: Place
    destination: Place
    snapshot: Place
    runs: int
    time: int

    def dump(self) -> bytes:
        """Return the record as it is written."""
        places = {name: getattr(self, name).asdict() for name in _PLACES}
        told = {"format": FORMAT, "time": self.time, "runs": self.runs, **places}
        return json.dumps(told, indent=1).encode("ascii") + b"\n"


_PLACES = ("source", "destination", "snapshot")


def load(data: bytes) -> Record:
    """Return the record that a file holds. Raises NewerRecordError, and ValueError for what is no record."""
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError("it is too long")
    try:
        told = json.loads(data)
    except RecursionError:
        raise ValueError("it is not JSON") from None
    if not isinstance(told, dict):
        raise ValueError("it is not an object")
    found = _number(told, "format")
    if FORMAT < found < _MAX_FORMAT:
        raise NewerRecordError(f"its format is {found}")
    if found != FORMAT:
        raise ValueError("its format is not known")
    source, destination, snapshot = (_place(told, name) for name in _PLACES)
    if "/" in snapshot.path or snapshot.path in ("", ".", ".."):
        raise ValueError("its snapshot has a path")
    return Record(source, destination, snapshot, _number(told, "runs"), _number(told, "time"))


def _number(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    if type(value) is not int or not -(1 << 62) < value < 1 << 64:
        raise ValueError(f"{name!r} is not a number")
    return value


def _place(told: dict[str, Any], name: str) -> Place:
    place = told.get(name)
    if not isinstance(place, dict) or not isinstance(place.get("path"), str) or "\0" in place["path"]:
        raise ValueError(f"{name!r} is not a file")
    return Place(place["path"], Identity(*(_number(place, field) for field in Identity._fields)))
