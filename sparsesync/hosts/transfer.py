"""Put files in place: :func:`transfer` is the only place that knows push, pull and local.

Between two ends on this machine the kernel copies. With an agent at one of them the connection becomes a transfer of
the engine's (:mod:`..engine.transfer.sender`, :mod:`..engine.transfer.receiver`), of which this process is one end.
What a broken connection leaves is a partial file, which the next run takes up.

On this machine workers may copy instead of threads (:mod:`..workers.bundles`). All but the copying of ranges is done
here, as without them; only then many files are under way at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Callable, NamedTuple

from ..console.messages import format_error
from ..engine.content.copy import by_hands, copying
from ..engine.content.hands.writer import Asked, Hands, Threads
from ..engine.content.update import update
from ..engine.errors import LeftToRsync, LinkError, NoSpaceError, OnProgress
from ..engine.roles import LocalDestination, LocalSource, OnResult, Planned, failed
from ..engine.transfer.outgoing import OutgoingFile
from ..engine.transfer.records import FileResult, SpaceNeed
from ..engine.wire.rate_limit import RateLimit

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..engine.transfer.place.destination import Destination as Place
    from ..engine.transfer.place.destination_file import DestinationFile
    from .base import Destination, Source
    from .remote import RemoteDestination, RemoteSource


MAX_STREAMS = 16
STREAM_BYTES = 64 << 20
"""The data for which another connection is opened: with less the login takes longer than it saves."""

MIN_SHARED_FILES = 1000
"""Fewer are done sooner than another process is worth."""


class Settings(NamedTuple):
    """How files are transferred, mostly rsync's options.

    ``sparse``: make holes of blocks of zeros too.
    ``bwlimit``: bytes per second.
    ``compress``: (algorithm, level).
    ``streams``: how many connections carry the content, at most.
    ``say``: called with a line for people if there are fewer.
    ``jobs``: how many threads copy, on one machine; None is as many as help.
    ``workers``: opens the executor whose workers copy, on one machine, instead of threads.
    ``check``: called now and then while workers copy; what it raises ends the transfer.
    ``check_other``: have another of the workers read back what one wrote.
    ``shares``: a second process may do a part of the files, if both ends are on this machine (:mod:`.local.second`).
    """

    sparse: bool = False
    bwlimit: int | None = None
    compress: tuple[str | None, int | None] | None = None
    streams: int = 1
    say: Callable[[str], object] = lambda line: None
    jobs: int | None = None
    workers: Callable[[], AbstractContextManager[Executor]] | None = None
    check: Callable[[], object] = lambda: None
    check_other: bool = False
    shares: bool = False

    def sized(self, data: int, files: int = 1) -> Settings:
        """Return the settings for so many files that have so many bytes of data."""
        streams = max(1, min(self.streams, data // STREAM_BYTES))
        return self._replace(streams=streams, shares=self.shares and files >= MIN_SHARED_FILES)


def parse_streams(value: str) -> int:
    """Return a number of streams. Raises ValueError."""
    if not re.fullmatch("[0-9]{1,2}", value) or not 0 < int(value) <= MAX_STREAMS:
        raise ValueError(f"{value!r} is no number of streams: 1 to {MAX_STREAMS}")
    return int(value)


def checked_streams(streams: int) -> int:
    """Return a number of streams that a caller gave. Raises ValueError."""
    return streams if streams == 1 else parse_streams(str(streams))


def ordered(read: Callable[[], Iterator[Planned]], settings: Settings) -> Iterator[Planned]:
    """Return files in the order in which to transfer them: for workers large ones first, else as they are.

    ``read``: returns the files, each time it is called.
    """
    if settings.workers is None:
        return read()
    from ..workers.plan import large_files_first

    return large_files_first(read, lambda file: file.data)


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

    Raises LinkError, also if the workers are gone, and ValueError if both ends are on other hosts.
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

    def put_all(files: Iterable[Planned], on_result: OnResult, progress: OnProgress) -> None:
        for file in source.outgoing(iter(files), on_result, at_once=True):
            by_hands(_put(file, destination, settings, on_result, progress, pace, 0))

    if settings.workers is None:
        shares = settings.shares and pace is None and settings.jobs != 1
        if shares:
            from .local.second import is_possible, put_by_two

            shares = is_possible(source, destination)
        if shares:
            put_by_two(source, destination, files, put_all, on_result, progress)
        else:
            put_all(files, on_result, progress)
    else:
        outgoing = source.outgoing(files, on_result)
        from ..workers.bundles import copy_all
        from ..workers.engines import count_workers
        from ..workers.run import check_enough

        with ExitStack() as stack:
            try:
                executor = stack.enter_context(settings.workers())
                workers = count_workers(executor)
                if settings.check_other:
                    check_enough(workers)
            except (OSError, ValueError) as error:
                raise LinkError(format_error(error), retryable=isinstance(error, OSError)) from error
            put = partial(_put, destination=destination, settings=settings, on_result=on_result, progress=progress)
            steps = (put(file, pace=pace, workers=workers) for file in outgoing)
            copy_all(executor, steps, settings.check, settings.check_other)
    destination.place.settle()


def _put(
    file: OutgoingFile,
    destination: LocalDestination,
    settings: Settings,
    on_result: OnResult,
    progress: OnProgress,
    pace: OnProgress,
    workers: int,
) -> Generator[Asked, int, None]:
    """Put a file in place, and yield what hands are to copy on the way. ``workers``: about how many; 0 for threads."""
    place = destination.place
    opened = False
    target: DestinationFile | None = None
    try:
        fd = file.open()
        target = place.target(file.spec)
        with _hands(file, target, place, settings, workers) as hands, target:
            opened = True
            hands.begin(fd, file.path, target)
            result = yield from _copy(fd, file, target, destination, settings.sparse, progress, pace, hands)
        on_result(result)
    except LinkError:  # not of a file: the caller wants no more
        raise
    except (OSError, ValueError, LeftToRsync) as error:
        result = failed(file.spec.name, file.spec.size, error, getattr(error, "filename", None) == file.path)
        refusal = place.refusal(file.spec.name, error, opened=opened)
        on_result(result._replace(refusal=refusal))
    finally:
        if target is not None:
            target.close()
        file.close()


def _hands(file: OutgoingFile, target: DestinationFile, place: Place, settings: Settings, workers: int) -> Hands:
    """Return who copies the ranges of a file: workers, if it is a new one of a source that they see."""
    elsewhere = file.tracked is not None or file.listed is not None or target.temporary_directory != target.directory
    if not workers or target.inplace or elsewhere or _has_basis(target):
        return Threads(settings.jobs)
    from ..workers.bundles import WorkersHands
    from ..workers.file_copy import absolute

    directory = os.path.join(absolute(place.path), os.path.dirname(place.single or file.spec.name))
    hands = WorkersHands(workers, file.spec.data, directory, settings.check_other)
    target.use_partial(hands.partial(target.directory, target.name)[1])
    return hands


def _has_basis(target: DestinationFile) -> bool:
    basis = target.find_basis() if target.old is None else None
    if basis is not None:
        os.close(basis)
    return basis is not None


def _copy(
    fd: int,
    file: OutgoingFile,
    target: DestinationFile,
    destination: LocalDestination,
    zeros: bool,
    progress: OnProgress,
    pace: OnProgress,
    hands: Hands,
) -> Generator[Asked, int, FileResult]:
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
            file.check(os.fstat(fd))
        else:
            data = yield from copying(
                fd, target, sparse=sparse, holes=file.holes, progress=progress, pace=pace, source_path=file.path,
                basis=basis, hands=hands, before=file.opened, check=file.check,
            )  # fmt: skip
    except (KeyboardInterrupt, SystemExit):
        destination.place.interrupted(target)
        raise
    finally:
        if basis is not None:
            os.close(basis)
    destination.place.finish(target, spec)
    return FileResult(
        spec.name, spec.size, data, sent, allocated=target.allocated, there=target.there, was_known=known,
        is_mapped=file.is_mapped,
    )  # fmt: skip


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
    if not isinstance(source, LocalSource) or not shares:
        yield from (SpaceNeed(file.name, file.room, None) for file in files)
        return
    last, device = None, None
    for file in files:
        # Files of one directory are on one filesystem, unless a symlink leads elsewhere. If one is a mount of its own
        # all the same, what is expected is off by one file, and whoever writes that asks for its room again.
        above = file.source.rpartition("/")[0]
        if above != last or device is None or source.settings.follow:
            last, device = above, _device(file, source.settings.follow)
        yield SpaceNeed(file.name, file.room, device)


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
