"""Put files in place: :func:`transfer` is the only place that knows push, pull and local.

Between two ends on this machine the kernel copies. With an agent at one of them the connection becomes a transfer of
the engine's (:mod:`..engine.transfer.sender`, :mod:`..engine.transfer.receiver`), of which this process is one end.
What a broken connection leaves is a partial file, which the next run takes up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..engine.content.copy import copy_content
from ..engine.content.update import update
from ..engine.errors import LeftToRsync, LinkError, NoSpaceError, OnProgress
from ..engine.roles import LocalDestination, LocalSource, OnResult, Planned, failed
from ..engine.transfer.outgoing import OutgoingFile
from ..engine.transfer.records import FileResult, SpaceNeed
from ..engine.wire.rate_limit import RateLimit

if TYPE_CHECKING:
    from ..engine.transfer.place.destination_file import DestinationFile
    from .base import Destination, Source
    from .remote import RemoteDestination, RemoteSource


MAX_STREAMS = 16
STREAM_BYTES = 64 << 20
"""The data for which another connection is opened: with less the login takes longer than it saves."""


class Settings(NamedTuple):
    """How files are transferred, mostly rsync's options.

    ``sparse``: make holes of blocks of zeros too.
    ``bwlimit``: bytes per second.
    ``compress``: (algorithm, level).
    ``streams``: how many connections carry the content, at most.
    ``say``: called with a line for people if there are fewer.
    """

    sparse: bool = False
    bwlimit: int | None = None
    compress: tuple[str | None, int | None] | None = None
    streams: int = 1
    say: Callable[[str], object] = lambda line: None

    def sized(self, data: int) -> Settings:
        """Return the settings for files that have so many bytes of data."""
        return self._replace(streams=max(1, min(self.streams, data // STREAM_BYTES)))


def parse_streams(value: str) -> int:
    """Return a number of streams. Raises ValueError."""
    if not re.fullmatch("[0-9]{1,2}", value) or not 0 < int(value) <= MAX_STREAMS:
        raise ValueError(f"{value!r} is no number of streams: 1 to {MAX_STREAMS}")
    return int(value)


def transfer(
    source: Source,
    destination: Destination,
    files: Iterator[Planned],
    settings: Settings,
    on_result: OnResult,
    progress: OnProgress = None,
) -> None:
    """Transfer ``files`` from ``source`` to ``destination``, which is open.

    ``on_result``: called with the result of each file, including its error.
    ``progress``: called with the bytes of data done since the last call.

    Raises LinkError, and ValueError if both ends are on other hosts.
    """
    if isinstance(source, LocalSource) and isinstance(destination, LocalDestination):
        _local(source, destination, files, settings, on_result, progress)
    elif isinstance(source, LocalSource):
        _push(source, destination, files, settings, on_result, progress)  # type: ignore[arg-type]
    elif isinstance(destination, LocalDestination):
        _pull(source, destination, files, settings, on_result, progress)  # type: ignore[arg-type]
    else:
        raise ValueError("the source and the destination cannot both be on another host")


def _local(
    source: LocalSource,
    destination: LocalDestination,
    files: Iterator[Planned],
    settings: Settings,
    on_result: OnResult,
    progress: OnProgress,
) -> None:
    pace = RateLimit(settings.bwlimit).spend if settings.bwlimit else None
    for file in source.outgoing(files, on_result):
        target: DestinationFile | None = None
        try:
            fd = file.open()
            with destination.place.target(file.spec) as target:
                result = _copy(fd, file, target, destination, settings.sparse, progress, pace)
            on_result(result)
        except LinkError:  # not of a file: the caller wants no more
            raise
        except (OSError, ValueError, LeftToRsync) as error:
            result = failed(file.spec.name, file.spec.size, error, getattr(error, "filename", None) == file.path)
            refusal = destination.place.refusal(file.spec.name, error, opened=target is not None)
            on_result(result._replace(refusal=refusal))
        finally:
            file.close()
    destination.place.settle()


def _copy(
    fd: int,
    file: OutgoingFile,
    target: DestinationFile,
    destination: LocalDestination,
    zeros: bool,
    progress: OnProgress,
    pace: OnProgress,
) -> FileResult:
    """Copy the open file to the open target, and commit that."""
    spec = file.spec
    sparse = "always" if zeros else "auto"
    # What an old file shares with the new one is gone with it. A basis stays.
    basis = target.find_basis() if target.old is None else None
    known = bool(spec.known) and file.since is not None and target.begin_as_known(spec.known or ())
    sent = 0
    try:
        if known and file.since is not None:
            sent = update(
                fd, target, file.since, spec.size, zeros=zeros, progress=progress, pace=pace, source_path=file.path
            )
            target.trim(spec.data + spec.data // 64 + 64 * 1024)  # blocks of a map are no data
            data = spec.data
        else:
            data = copy_content(
                fd, target, sparse=sparse, holes=file.holes, progress=progress, pace=pace, source_path=file.path,
                basis=basis,
            )  # fmt: skip
    except (KeyboardInterrupt, SystemExit):
        destination.place.interrupted(target)
        raise
    finally:
        if basis is not None:
            os.close(basis)
    file.check(os.fstat(fd))
    destination.place.finish(target, spec)
    return FileResult(spec.name, spec.size, data, sent, allocated=target.allocated, there=target.there, was_known=known)


def _push(
    source: LocalSource,
    destination: RemoteDestination,
    files: Iterator[Planned],
    settings: Settings,
    on_result: OnResult,
    progress: OnProgress,
) -> None:
    from ..engine.transfer.sender import Sender
    from ..engine.wire.compression import Compressor
    from .sharing import widen
    from .ssh import named

    connection = destination.host.connection
    squeeze = None
    if settings.compress is not None:
        squeeze = Compressor(connection.compressor(settings.compress[0]), settings.compress[1])
    link = connection.link
    widen(connection, settings.streams, settings.say)
    link.pace = RateLimit(settings.bwlimit) if settings.bwlimit else None
    connection.start("receive")
    sender = Sender(
        link,
        connection.digest,
        on_result,
        compressor=squeeze,
        sparse="always" if settings.sparse else "auto",
        reserve=source.settings.reserve,
        progress=progress,
    )
    with named(connection.host):
        sender.send(source.outgoing(files, on_result))
    link.pace = None


def _pull(
    source: RemoteSource,
    destination: LocalDestination,
    files: Iterator[Planned],
    settings: Settings,
    on_result: OnResult,
    progress: OnProgress,
) -> None:
    from ..engine.transfer.receiver import Receiver
    from .sharing import widen
    from .ssh import named

    connection = source.host.connection
    widen(connection, settings.streams, settings.say)
    compress = settings.compress and (connection.compressor(settings.compress[0]), settings.compress[1])
    connection.start(
        "send",
        settings=source.settings,
        sparse="always" if settings.sparse else "auto",
        compressor=compress,
        bwlimit=settings.bwlimit,
    )
    receiver = Receiver(connection.link, connection.digest, destination.place, on_result, progress)
    with named(connection.host):
        receiver.run((file.source, file.name) for file in files)


def needs(source: Source, files: Iterable[Planned], shares: bool = True) -> Iterator[SpaceNeed]:
    """Yield the space that each file takes at a destination.

    ``shares``: files within one filesystem share extents, and may take no space.
    """
    local = isinstance(source, LocalSource) and shares
    for file in files:
        yield SpaceNeed(file.name, file.room, _device(file, source.settings.follow) if local else None)


def _device(file: Planned, follow: bool) -> int | None:
    try:
        return os.stat(file.source, follow_symlinks=follow).st_dev
    except OSError:
        return None


def check_space(destination: Destination) -> None:
    """Raise NoSpaceError if the expected files do not fit."""
    for needed, free, path in destination.space():
        if needed > free:
            raise NoSpaceError(needed, free, path)
