"""The events of a manifest on their way from one end to the other.

An event is a list (:func:`pack`), a batch of them an ITEM frame (:func:`batches`); a Trouble is a TROUBLE frame between
them. What comes in is taken apart by :class:`Reader`, which believes nothing: neither types nor order nor names. It
yields the events that :func:`manifest.manifest` yielded at the other end.
"""

import binascii
import os
import time
from base64 import b64decode, b64encode
from typing import Any, Dict, Iterator, List, Optional, Union

from ..errors import ProtocolError
from ..wire.fields import (
    MAX_NAME_CHARACTERS,
    NAME,
    PERMISSIONS,
    SIZE,
    UNSIGNED,
    components,
    get,
    listed,
    one_of,
    row,
    text,
)
from ..wire.protocol import BLOCK_BYTES, CONTROL_BYTES
from .manifest import PAIR, UNKNOWN, Blocks, Directory, Entry, Event, Trouble, key

_BATCH_BYTES = 128 * 1024
"""Bytes of events after which a batch is full."""

_MAX_DELAY_SECONDS = 0.05
"""Seconds after which it is sent as it is."""

_NOTHING = Blocks(b"")

_KIND = one_of(UNKNOWN, *"-dlbcpsDPw")
"""The letters of stat.filemode()."""

_NAMED = one_of("e", "h")
"""An entry; an entry that is another name of a file that was told before."""

_ENTRY = row(_NAMED, NAME, _KIND, SIZE, text(MAX_NAME_CHARACTERS), UNSIGNED)
_ENTRY_WITH_ATTRIBUTES = row(
    _NAMED, NAME, _KIND, SIZE, text(MAX_NAME_CHARACTERS), UNSIGNED, PERMISSIONS, UNSIGNED, UNSIGNED
)
_DIRECTORY = row(one_of("d"), text(CONTROL_BYTES))
_DIGESTS = row(one_of("b"), text(CONTROL_BYTES))


def pack(event: Event) -> List[Any]:
    """Return an event as it is sent. A Trouble has a frame of its own."""
    if isinstance(event, Entry):
        letter = "h" if event.again else "e"
        return [letter, event.name, event.kind, event.size, event.target, event.device, *(event.attributes or ())]
    if isinstance(event, Directory):
        return ["d", event.path]
    assert isinstance(event, Blocks)
    return ["b", b64encode(event.packed).decode("ascii")]


def batches(events: Iterator[Event]) -> Iterator[Union[List[Any], OSError]]:
    """Yield packed events in batches of a frame each, and the errors of Troubles between them.

    A batch is sent after a short time even if it is empty. So the other end compares what it has while this one reads
    on, and this end learns if the other has gone.
    """
    batch = []  # type: List[Any]
    size = 0
    since = time.monotonic()
    for event in events:
        if isinstance(event, Trouble):
            if batch:
                yield batch
            yield event.error
            batch, size, since = [], 0, time.monotonic()
            continue
        if event != _NOTHING:
            batch.append(pack(event))
        size += 50 + sum([len(part) for part in event if isinstance(part, (str, bytes))])
        if size >= _BATCH_BYTES or time.monotonic() - since > _MAX_DELAY_SECONDS:
            yield batch
            batch, size, since = [], 0, time.monotonic()
    yield batch


class Reader:
    """The decoder of a peer's events. Raises ProtocolError for an event that no manifest holds."""

    def __init__(self) -> None:
        self._last: Optional[Event] = None
        self._tree = False
        self._directory: Optional[List[bytes]] = None
        self._name = b""
        self._size = -1
        self._end = 0

    def item(self, value: Dict[str, Any]) -> Iterator[Event]:
        """Yield the events of an ITEM frame."""
        for packed in get(value, "events", listed(lambda packed: type(packed) is list)):
            event = self._event(packed)
            self._last = event
            yield event

    def trouble(self, error: OSError) -> Trouble:
        """Return the event of a TROUBLE frame."""
        if self._last is None or isinstance(self._last, Trouble):
            raise ProtocolError("an error for no entry in a manifest")
        self._last = Trouble(error)
        return self._last

    def ended(self) -> None:
        """End the manifest. Raises ProtocolError if it is not complete."""
        if self._last is None or (self._tree and self._directory is None):
            raise ProtocolError("an incomplete manifest")

    def _event(self, packed: Any) -> Event:
        if _ENTRY(packed) or _ENTRY_WITH_ATTRIBUTES(packed):
            letter, name, kind, size, target, device, *attributes = packed
            told: Any = tuple(attributes) or None
            return self._entry(Entry(name, kind, size, target, device, told, letter == "h"))
        if _DIRECTORY(packed):
            return self._begin(Directory(packed[1]))
        if _DIGESTS(packed):
            return self._blocks(packed[1])
        raise ProtocolError("an invalid event in a manifest")

    def _entry(self, entry: Entry) -> Entry:
        root = self._last is None
        name = entry.name
        if root != (not name) or (not root and len(components(name)) > 1):
            raise ProtocolError("an invalid entry in a manifest")
        if root:
            self._tree = entry.kind == "d"
        else:
            encoded = os.fsencode(name)
            if self._directory is None or encoded <= self._name:
                raise ProtocolError("manifest entries out of order")
            self._name = encoded
        self._size = entry.size if entry.kind == "-" or (root and entry.kind == "b") else -1
        self._end = 0
        return entry

    def _begin(self, directory: Directory) -> Directory:
        if directory.path:
            components(directory.path)
        order = key(directory.path)
        if not self._tree or (order <= self._directory if self._directory is not None else order):
            raise ProtocolError("manifest directories out of order")
        self._directory, self._name, self._size = order, b"", -1
        return directory

    def _blocks(self, text: str) -> Blocks:
        try:
            blocks = Blocks(b64decode(text, validate=True))
        except (ValueError, binascii.Error):
            raise ProtocolError("invalid digests in a manifest") from None
        if len(blocks.packed) % PAIR.size or isinstance(self._last, Trouble):
            raise ProtocolError("invalid digests in a manifest")
        for offset, _ in blocks.pairs():
            if offset < self._end or offset % BLOCK_BYTES or offset >= self._size:
                raise ProtocolError("digests of blocks beyond the end of the file")
            self._end = offset + BLOCK_BYTES
        return blocks
