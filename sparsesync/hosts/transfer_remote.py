"""Transfers with an agent at the far end: :class:`Push` to another host, :class:`Pull` from one.

They call the agent for what is asked of the far end, and turn the connection into a transfer of the
engine's (:mod:`.engine.transfer.sender`, :mod:`.engine.transfer.receiver`) for the content. What a broken connection
leaves is a partial file, which the next run takes up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..console.progress import Advance
from ..engine.errors import ProtocolError
from ..engine.files.status import Looked
from ..engine.transfer.copy_destination import CopyPlace
from ..engine.transfer.outgoing import outgoing
from ..engine.transfer.receiver import Receiver
from ..engine.transfer.records import Space
from ..engine.transfer.sender import Sender
from ..engine.wire.capabilities import Compressor
from ..engine.wire.fields import MODE, NAME, SIZE, TIME, flag, get, integer, listed, maybe, row
from ..engine.wire.protocol import LARGEST
from ..engine.wire.rate_limit import Pace
from .ssh import Agent, named
from .transfer import DestinationHere, OnResult, Planned, Settings, SourceHere

_BATCH = 256 * 1024

_LOOKED = row(SIZE, SIZE, SIZE, TIME, flag, SIZE, SIZE)
_GROWTH = integer(-LARGEST, LARGEST)
"""Bytes that are needed; fewer than none where what is replaced takes more."""


class Push(SourceHere):
    """The destination on another host."""

    def __init__(self, agent: Agent, settings: Settings) -> None:
        super().__init__(settings)
        self.agent = agent

    def destination_mode(self, path: str) -> tuple[int | None, bool]:
        return _far_mode(self.agent, path)

    def open(self, path: str, single: str | None, make: int | None, **options: Any) -> None:
        preallocate = self.settings.preallocate
        self.agent.call("place", path=path, single=single, make=make, resume=True, preallocate=preallocate, **options)

    def open_copy(self, path: str, name: str, **options: Any) -> str:
        """Open the destination of a copy; returns the path of the file it will be. Raises OSError."""
        preallocate = self.settings.preallocate
        answer = self.agent.call("copy_place", path=path, name=name, preallocate=preallocate, **options)
        return str(get(answer, "path", NAME))

    def measure(self, path: str) -> tuple[int, int]:
        """Size of a file, and what it will take; bytes. Raises OSError."""
        settings = self.settings
        spec = outgoing(path, "", self.sources, holes=settings.holes, reserve=settings.preallocate).spec
        return spec.size, spec.data

    def expect(self, planned: Iterable[Planned]) -> None:
        for batch in _batches((file.name, file.room) for file in planned):
            self.agent.call("expect", needs=batch)

    def space(self) -> list[Space]:
        found = get(self.agent.call("space"), "space", listed(row(_GROWTH, SIZE, NAME)))
        return [Space(needed, free, f"{self.agent.host}:{path}") for needed, free, path in found]

    def run(self, planned: Iterator[Planned], on_result: OnResult, progress: Advance) -> None:
        settings, link = self.settings, self.agent.link
        squeeze = None
        if settings.compress is not None:
            squeeze = Compressor(self.agent.compressor(settings.compress[0]), settings.compress[1])
        link.pace = Pace(settings.bwlimit) if settings.bwlimit else None
        self.agent.start("receive")
        sparse = "always" if settings.sparse else "auto"
        sender = Sender(
            link, self.agent.digest, on_result, compressor=squeeze, sparse=sparse, reserve=settings.preallocate,
            progress=progress,
        )  # fmt: skip
        with named(self.agent.host):
            sender.send(self.outgoing(planned, on_result))
        link.pace = None

    def touch(self, names: Sequence[str]) -> None:
        for batch in _batches(names):
            self.agent.call("touch", names=batch)

    def states(self, names: Sequence[str]) -> Iterator[tuple[int, int] | None]:
        for batch in _batches(names):
            found = get(self.agent.call("states", names=batch), "states", listed(maybe(row(SIZE, TIME))))
            if len(found) != len(batch):
                raise ProtocolError(f"{self.agent.host}: answers for {len(found)} files of {len(batch)}")
            yield from found

    def close(self) -> None:
        self.sources.close()  # the agent lets go of the destination when it ends


class Pull(DestinationHere):
    """The source on another host."""

    _resume = True

    def __init__(self, agent: Agent, settings: Settings) -> None:
        self.agent = agent
        self.settings = settings

    def look(self, files: Iterable[tuple[str, str]]) -> Iterator[Looked | None]:
        for batch in _batches(files):
            settings = self.settings
            answer = self.agent.call(
                "look", files=batch, follow=settings.follow, listed=settings.listed, holes=settings.holes,
                reserved=settings.preallocate,
            )  # fmt: skip
            found = get(answer, "found", listed(maybe(_LOOKED)))
            if len(found) != len(batch):
                raise ProtocolError(f"{self.agent.host}: answers for {len(found)} files of {len(batch)}")
            yield from (None if each is None else Looked(*each) for each in found)

    def source_mode(self, path: str) -> int | None:
        return _far_mode(self.agent, path)[0]

    def open_copy(self, path: str, name: str, **options: Any) -> str:
        """Open the destination of a copy; returns the path of the file it will be. Raises OSError."""
        self.place = place = CopyPlace(
            path, name, resume=True, preallocate=self.settings.preallocate, **options
        )
        return place.file

    def measure(self, path: str) -> tuple[int, int]:
        """Size of a file, and what it will take; bytes. Raises OSError."""
        settings = self.settings
        found = self.agent.call("measure", path=path, holes=settings.holes, reserve=settings.preallocate)
        return get(found, "size", SIZE), get(found, "data", SIZE)

    def run(self, planned: Iterator[Planned], on_result: OnResult, progress: Advance) -> None:
        settings, agent = self.settings, self.agent
        compress = settings.compress and (agent.compressor(settings.compress[0]), settings.compress[1])
        agent.start(
            "send",
            follow=settings.follow,
            listed=settings.listed,
            sparse="always" if settings.sparse else "auto",
            compressor=compress,
            bwlimit=settings.bwlimit,
            with_attributes=settings.attributes,
            live=settings.live,
            holes=settings.holes,
            reserve=settings.preallocate,
        )
        receiver = Receiver(agent.link, agent.digest, self._at(), on_result, progress)
        with named(agent.host):
            receiver.run((file.source, file.name) for file in planned)


def _far_mode(agent: Agent, path: str) -> tuple[int | None, bool]:
    found = agent.call("stat", path=path)
    return get(found, "mode", maybe(MODE)), get(found, "exists", flag)


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Items by the frameful, estimated by the length of their representation."""
    batch: list[Any] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(ascii(item))
        if size > _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
