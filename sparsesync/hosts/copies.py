"""What ``copyfile``, ``copy`` and ``copy2`` do: copies by the engine, and the same to and from another host.

A ``str`` with a colon before its first slash is ``host:path``, by rsync's rule. Then an agent of ours is at the remote
end, and no rsync; only what differs from the file that is there travels, and a copy that broke off goes
on where it was. Several copies share a connection within a :class:`Copies`.

A stream is an end, too. To another host it goes by way of a temporary file, with holes for its zeros, since it cannot
be compared with anything before its end is known, nor sent again. From there it begins once all of the file is here,
so that nobody goes on with a part of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Callable

from ..engine.content.copy_file import Copied, CopyOptions, copy_file, existing
from ..engine.content.hands.writer import Hands, Threads
from ..engine.errors import NoSpaceError, OnProgress, error_path
from ..engine.files.status import Identity
from .pool import HostPool, remote_part

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..engine.roles import Planned
    from ..engine.transfer.records import FileResult, Listed
    from ..tracking.entry import Entry
    from ..tracking.store import Store
    from .address import Remote
    from .base import Destination, PathLike, Rsh, Source


class Copies:
    """Copies that share their connections to other hosts. A context manager.

    ``compress``, ``bwlimit``, ``streams``, ``say``: for copies to and from another host, as in
    :class:`~.transfer.Settings`.
    ``track``: the directory of :class:`~..tracking.store.Store`, if files are tracked.
    ``extents_from``: a list of what changed in the source, if all else is what the destination has
    (:mod:`~..tracking.listed`).
    ``jobs``: how many threads copy, on one machine; None is as many as help.
    ``executor``: whose workers copy, on one machine, or None for threads of this process.
    ``check_other``: have another of the workers read back what one wrote.
    """

    def __init__(
        self,
        rsh: Rsh = None,
        python: str | None = None,
        prefix: str = "",
        *,
        compress: bool = False,
        bwlimit: int | None = None,
        streams: int = 1,
        say: Callable[[str], object] = lambda line: None,
        track: PathLike | None = None,
        extents_from: PathLike | None = None,
        jobs: int | None = None,
        executor: Executor | None = None,
        check_other: bool = False,
    ) -> None:
        self._hosts = HostPool(rsh, python, prefix=prefix)
        self._compress = compress
        self._bwlimit = bwlimit
        if streams != 1:
            from .transfer import checked_streams

            streams = checked_streams(streams)
        self._streams = streams
        self._say = say
        self._track = None if track is None else os.fsdecode(track)
        self._store: Store | None = None
        self._extents_from = None if extents_from is None else os.fsdecode(extents_from)
        self._jobs = jobs
        self._executor = executor
        self._check_other = check_other

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._hosts.__exit__(*exc_info)
        store, self._store = self._store, None
        if store is not None:
            try:
                if exc_info == (None, None, None):
                    from ..tracking.housekeeping import check_room

                    check_room(store)
            finally:
                store.close()

    def _tracking(self, directory: str, ends: _Ends, options: CopyOptions) -> Store:
        """Return the store of tracked files. Raises ValueError for a copy that cannot be tracked, OSError."""
        if ends.source is not None:
            raise ValueError(f"{ends.src}: only a file of this machine can be tracked")
        _refuse("track", options, {"holes=read": options.holes == "read"})
        if self._store is None:
            from ..tracking.store import Store

            self._store = Store(directory)
        return self._store

    def copy(self, src: PathLike | int, dst: PathLike, options: CopyOptions, progress: OnProgress = None) -> Copied:
        """Copy ``src`` to ``dst``. Raises what :func:`~.api.copyfile` does."""
        if isinstance(src, int) and options.keep != "content":
            raise TypeError("a file descriptor has no name and no attributes to copy; copyfile() copies its content")
        ends = _Ends(src, dst)
        hands: Hands = Threads(self._jobs)
        if self._executor is not None:
            hands = self._workers(self._executor, ends, options, isinstance(src, int))
        if self._extents_from is not None:
            if ends.source is not None:
                raise ValueError(f"{ends.src}: extents_from is for a source of this machine")
            _refuse("extents_from", options, {"track": self._track is not None})
        with _naming({ends.src: src, ends.dst: dst}):
            if self._track is not None:
                store = self._tracking(self._track, ends, options)
                self._check_same(ends)
                destination = ends.dst if ends.destination is not None else os.path.abspath(ends.dst)
                with store.entry(ends.src, destination) as entry:
                    if entry is not None and entry.clone():
                        entry.take(0)
                        return self._transferred(ends, options, progress, entry)
            if self._extents_from is not None:
                self._check_same(ends)
            if ends.remote or self._extents_from is not None:
                return self._transferred(ends, options, progress)
            if isinstance(src, int):
                os.fstat(src)
                options = options._replace(follow_symlinks=True)
            return copy_file(ends.src, ends.dst, options, progress, hands)

    def _workers(self, executor: Executor, ends: _Ends, options: CopyOptions, descriptor: bool) -> Hands:
        """Return the hands for a copy. Raises ValueError for what workers cannot do."""
        if ends.remote:
            raise ValueError("workers see both ends through a shared filesystem; neither can be host:path")
        if options.in_place:
            raise ValueError("workers write a new file, and none in place (inplace, overlay)")
        if self._track is not None or self._extents_from is not None:
            raise ValueError("track and extents_from do not go together with workers")
        if descriptor:
            raise ValueError("workers open the source by its path, and a file descriptor has none")
        from ..workers.coordinator import Coordinator
        from ..workers.engines import count_workers

        return Coordinator(executor, count_workers(executor), self._check_other)

    def copy_in(self, stream: int, dst: str, options: CopyOptions, progress: OnProgress = None) -> Copied:
        """Copy what comes from a stream to ``dst``. Raises what :meth:`copy` does."""
        from ..engine.content.stream import copy_in

        if remote_part(dst) is None:
            return copy_in(stream, dst, options, progress)
        self._hosts.locate(dst)  # before anything is read that cannot be read again
        with _spool() as file:
            copy_in(stream, file, CopyOptions())
            return self.copy(file, dst, options._replace(keep="content", sparse="always"), progress)

    def copy_out(self, src: str, stream: int, name: str, options: CopyOptions, progress: OnProgress = None) -> Copied:
        """Copy ``src`` to a stream. ``name``: what the stream is called in an error. Raises what :meth:`copy` does."""
        from ..engine.content.stream import copy_out

        if remote_part(src) is None:
            return copy_out(src, stream, name, options, progress)
        with _spool() as file:
            self.copy(src, file, options._replace(keep="content"), progress)
            return copy_out(file, stream, name, CopyOptions())

    def plan(self, src: PathLike, dst: PathLike, options: CopyOptions) -> Copied:
        """Return what :meth:`copy` would make, with the most bytes that it would write. Nothing is written.

        Raises what it would, as far as that is known before.
        """
        ends = _Ends(src, dst)
        if not ends.remote:
            old = self._check_same(ends)
            if old is not None and not (stat.S_ISREG(old.st_mode) or stat.S_ISDIR(old.st_mode)):
                options = options._replace(space_check=False)  # a device holds what it holds
        with self._opened(ends, options) as (_, _, plan, made):
            return Copied(made, plan.size, plan.data)

    def _check_same(self, ends: _Ends) -> os.stat_result | None:
        """Return the stat of a destination on this machine, or None. Raises SameFileError if it is the source."""
        old = existing(ends.dst) if ends.destination is None else None
        if old is not None and os.path.samestat(old, os.stat(ends.src)):
            from shutil import SameFileError

            raise SameFileError(f"{ends.src!r} and {ends.dst!r} are the same file")
        return old

    def _transferred(
        self, ends: _Ends, options: CopyOptions, progress: OnProgress, entry: Entry | None = None
    ) -> Copied:
        """Copy by a transfer. ``entry``: of a file that is tracked."""
        from ..engine.roles import LocalSource
        from .transfer import Settings, transfer

        options.check()
        if options.reflink == "always" and ends.remote:
            raise OSError(errno.EOPNOTSUPP, "two machines cannot share extents (reflink)", ends.dst)
        if not options.follow_symlinks:
            raise ValueError("follow_symlinks=False is for copies on one machine")
        compress = (None, None) if self._compress else None
        settings = Settings(options.sparse == "always", self._bwlimit, compress, self._streams, self._say)
        results: list[FileResult] = []
        with self._opened(ends, options) as (read, written, plan, made):
            if entry is not None and isinstance(read, LocalSource):
                read.tracked[plan.name] = entry.tracked
            if self._extents_from is not None and isinstance(read, LocalSource):
                read.listed[plan.name] = _listed(self._extents_from, plan, written)
            settings = settings.sized(plan.data or plan.size)  # of a device it is not known yet
            transfer(read, written, iter([plan]), settings, results.append, progress)
        (result,) = results
        if result.space is not None:
            raise NoSpaceError(*result.space, ends.dst)
        if result.reason is not None:
            raise OSError(result.errno or errno.EIO, result.reason, ends.src if result.at_source else ends.dst)
        unless = "" if ends.remote or options.inplace else ", or it cannot be cloned (--inplace needs no clone)"
        if self._extents_from is not None:
            why = None if result.was_known else f"what is there cannot be told to be what it was{unless}"
            sent = ends.remote or result.was_known
            return Copied(made, result.size, result.sent if sent else result.data, why)
        if entry is None:
            return Copied(made, result.size, result.sent)
        if result.there is not None:
            entry.keep(Identity(*result.there), whole=not result.was_known)
        why = None if result.was_known else entry.why_all(result)
        if why is None and not result.was_known:
            why = f"what is there is not what the last copy left{unless}"
        return Copied(made, result.size, result.sent if ends.remote or result.was_known else result.data, why)

    @contextlib.contextmanager
    def _opened(self, ends: _Ends, options: CopyOptions) -> Iterator[tuple[Source, Destination, Planned, str]]:
        """Give both ends, the file between them, and the path that it gets, once there is room for it."""
        from ..engine.roles import Planned, SourceSettings
        from .transfer import check_space, needs

        options.check()
        of = self._hosts.local(ends.src) if ends.source is None else self._hosts.locate(ends.src)
        to = self._hosts.local(ends.dst) if ends.destination is None else self._hosts.locate(ends.dst)
        # What a path is relative to over there, its host knows better.
        path = of.path if ends.source is None else ends.source.path
        target = to.path if ends.destination is None else ends.destination.path or "."
        name = os.path.basename(path)
        settings = SourceSettings(
            follow=True,
            attributes=options.keep != "content",
            holes=options.holes,
            reserve=options.reserve,
            overlay=options.overlay,
        )
        read, written = of.host.source(settings), to.host.destination(resume=ends.remote)
        try:
            with error_path(ends.src, instead=True):
                size, room = read.measure(path)
            plan = Planned(name, path, size, room, room=room)
            with error_path(ends.dst, instead=True):
                made = written.open_copy(target, name, options)
                if options.space_check:
                    written.expect(needs(read, [plan]))
                    check_space(written)
            yield read, written, plan, to.prefix + made
        finally:
            read.close()
            written.close()


def _refuse(what: str, options: CopyOptions, more: Mapping[str, bool]) -> None:
    """Raise ValueError for options that ``what`` does not go together with. ``more``: others, and if they are given."""
    wrong = {
        "overlay": options.overlay,
        "reserve": options.reserve,
        "follow_symlinks=False": not options.follow_symlinks,
        **more,
    }
    for name, given in wrong.items():
        if given:
            raise ValueError(f"{what} and {name} do not go together")


def _listed(path: str, plan: Planned, destination: Destination) -> Listed:
    """Return what changed in a file by a list. Raises ValueError, OSError."""
    from ..engine.transfer.records import Listed
    from ..tracking.listed import changed_ranges

    (state,) = destination.states([plan.name])
    if state is None:
        return Listed((), ())
    there = Identity(*state[2:])
    # What was not there when the list was begun is in no list.
    return Listed(changed_ranges(path, plan.size, there.size), there)


class _Ends:
    """The paths of a copy as text, and their parts at another host. Raises ValueError if both are at one."""

    def __init__(self, src: PathLike | int, dst: PathLike) -> None:
        self.source: Remote | None = None if isinstance(src, int) else remote_part(src)
        self.destination: Remote | None = remote_part(dst)
        self.src = f"/proc/self/fd/{src}" if isinstance(src, int) else os.fsdecode(src)
        self.dst = os.fsdecode(dst)
        if self.source is not None and self.destination is not None:
            raise ValueError(f"{self.src}: the source and the destination cannot both be on another host")

    @property
    def remote(self) -> bool:
        """Whether one end is at another host."""
        return self.source is not None or self.destination is not None


def as_given(made: str, dst: PathLike) -> PathLike:
    """Return the path of the file made, of the type that the destination was given as."""
    if made == os.fsdecode(dst):
        return dst
    return os.fsencode(made) if isinstance(os.fspath(dst), bytes) else made


@contextlib.contextmanager
def _spool() -> Iterator[str]:
    """Give the path of a file to be made, which is removed in the end."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="sparsesync-") as folder:
        path = os.path.join(folder, "stream")
        try:
            yield path
        except OSError as error:
            if error.filename in (path, folder) and error.strerror:
                error.strerror += ": a stream to or from another host is kept there; TMPDIR names another directory"
            raise


@contextlib.contextmanager
def _naming(given: Mapping[str, PathLike | int]) -> Iterator[None]:
    """Name a path in each OSError raised inside as it was ``given``."""
    try:
        yield
    except OSError as error:
        if error.filename in given:
            path = given[error.filename]
            error.filename = path if isinstance(path, int) else os.fspath(path)
        raise
