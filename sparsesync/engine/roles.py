"""Source and destination of a transfer on this machine: the two roles of a :class:`~.host.LocalHost`.

A source is asked which of some files are sparse, and then gives them one by one (:meth:`LocalSource.outgoing`). A
destination is opened once, told what is going to come, asked whether there is room for it, and given to what writes
the files. Who copies, and over what, is not known here: sparsesync.hosts.transfer knows it at the one end, and
:mod:`.agent` at the other.

What a method needs is imported when it is called: another host compiles whatever is imported there, and many a
destination is only asked what it has.
"""

import errno
import os
import stat
from typing import TYPE_CHECKING, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from .errors import NoSpaceError, ProtocolError, error_path
from .files.beneath import Sources, look_at
from .files.extents import Extent, extents
from .files.status import SparseStat, open_quietly, stat_mode
from .transfer.records import FileResult, Listed, Space, SpaceNeed, Tracked, reason

if TYPE_CHECKING:
    from .content.copy_file import CopyOptions
    from .files.dig import Dug
    from .transfer.outgoing import OutgoingFile
    from .transfer.place.destination import Destination

OnResult = Callable[[FileResult], None]


class Planned(NamedTuple):
    """A sparse file to be seeded: its name in the transfer and its path at the source. Sizes are bytes.

    The fields from ``links`` on are those of :class:`~.files.status.SparseStat`.
    """

    name: str
    source: str
    size: int
    data: int
    links: int = 1
    mtime_ns: int = 0
    recent: bool = False
    reserved: int = 0
    room: int = 0


class SourceSettings(NamedTuple):
    """How a source is read.

    ``follow``, ``listed``: how its files are found (:class:`~.files.beneath.Sources`).
    ``attributes``: copy all attributes of a file.
    ``live``: files may be written to meanwhile.
    ``holes``: whether the files' maps are believed (:func:`~.files.claims.believes`).
    ``reserve``: send reserved ranges too.
    ``every``: treat dense files as sparse ones.
    ``overlay``: do not send a file whose map is not believed.
    ``modify_window``: seconds by which rsync lets times differ; None if it does not compare them.
    """

    follow: bool = False
    listed: bool = False
    attributes: bool = False
    live: bool = False
    holes: str = "auto"
    reserve: bool = False
    every: bool = False
    overlay: bool = False
    modify_window: Optional[int] = None


class Opening(NamedTuple):
    """What decides which path rsync writes to (rsync(1), USAGE), and the options for it.

    ``many``: the transfer has more than one name, or begins with a directory.
    ``one_source``: the command has only one source.
    ``like``: the mode that the directory gets from the source; None if it is not part of the transfer.
    ``existing``: open only an existing directory.
    ``bases``: the directories of --compare-dest, --copy-dest or --link-dest.
    ``modify_window``: None if rsync does not compare times.
    ``space_check``: a file is left alone if it does not seem to fit.

    The other fields are rsync's options of the same name.
    """

    many: bool
    one_source: bool
    relative: bool = False
    like: Optional[int] = None
    mkpath: bool = False
    inplace: bool = False
    perms: bool = True
    group: bool = True
    implied_dirs: bool = True
    backup: bool = False
    fsync: bool = False
    partial_dir: Optional[str] = None
    preallocate: bool = False
    existing: bool = False
    temp_dir: Optional[str] = None
    bases: Sequence[str] = ()
    fuzzy: int = 0
    modify_window: Optional[int] = None
    space_check: bool = True


class LocalSource:
    """The source of a transfer, on the local machine."""

    def __init__(self, settings: SourceSettings) -> None:
        self.settings = settings
        self.tracked: Dict[str, Tracked] = {}
        """Where the content of some files is, by their names in the transfer."""
        self.listed: Dict[str, Listed] = {}
        """What changed in some files, by their names in the transfer."""
        self._sources = Sources(settings.follow, settings.listed)

    def look(self, files: Iterable[Tuple[str, str]], roughly: bool = False) -> Iterator[Optional[SparseStat]]:
        """Yield the SparseStat of each file, or None if it is dense and not asked for. A file is (path, name).

        ``roughly``: as of :func:`~.files.status.stat_sparse`.
        """
        settings = self.settings
        return look_at(files, self._sources, settings.holes, settings.reserve, settings.every, roughly)

    def ask_mode(self, path: str) -> Callable[[], Optional[int]]:
        """Return a function that returns the mode of ``path``, following symlinks, or None if nothing is there."""
        return lambda: stat_mode(path)[0]

    def measure(self, path: str) -> Tuple[int, int]:
        """Return the size of a file, and the bytes that a copy takes. Raises OSError."""
        from .transfer.outgoing import outgoing

        spec = outgoing(path, "", self._sources, holes=self.settings.holes, reserve=self.settings.reserve).spec
        return spec.size, spec.data

    def open(self, path: str, name: str, data: Optional[int] = None) -> "OutgoingFile":
        """Return a file, ready to be sent. ``data``: the bytes that a copy takes, if known. Raises OSError."""
        from .transfer.outgoing import outgoing

        settings = self.settings
        return outgoing(
            path,
            name,
            self._sources,
            with_attributes=settings.attributes,
            data=data,
            live=settings.live,
            holes=settings.holes,
            reserve=settings.reserve,
            overlay=settings.overlay,
            modify_window=settings.modify_window or 0,
            tracked=self.tracked.get(name),
            listed=self.listed.get(name),
        )

    def extents(self, path: str, name: str) -> Iterator[Extent]:
        """Yield the data extents of a file. Raises OSError."""
        fd = self.open_file(path, name)
        try:
            for extent in extents(fd, holes=self.settings.holes):
                yield extent
        finally:
            os.close(fd)

    def open_file(self, path: str, name: str) -> int:
        """Return a descriptor of a file, for reading. Raises OSError."""
        found, follow = self._sources.find(path, name), self.settings.follow
        return open_quietly(found.name, 0 if follow else os.O_NOFOLLOW, found.directory)

    def outgoing(
        self, planned: Iterator[Planned], on_result: OnResult, at_once: bool = False
    ) -> Iterator["OutgoingFile"]:
        """Yield the files, ready to be sent. ``on_result`` gets those that cannot be opened.

        ``at_once``: each is read before the next is asked for, and may be open already.
        """
        from .transfer.outgoing import opened

        settings, sources, window = self.settings, self._sources, self.settings.modify_window or 0
        for file in planned:
            path, name, data = file.source, file.name, file.data + file.reserved
            try:
                if at_once and not (settings.attributes or name in self.tracked or name in self.listed):
                    yield opened(path, name, sources, data, settings.live, settings.holes, settings.overlay, window)
                else:
                    yield self.open(path, name, data)
            except OSError as error:
                on_result(failed(file.name, file.size, error, True))

    def close(self) -> None:
        """Close the source."""
        self._sources.close()


class LocalDestination:
    """The destination of a transfer, on the local machine.

    ``partial``: keep what is complete of an interrupted file, as rsync does with ``--partial``.
    ``resume``: keep partial files of a run that breaks off, and continue those of an earlier run.
    ``only_new``: replace no file, and write to none that is there.
    """

    def __init__(self, resume: bool = False, partial: bool = False, only_new: bool = False) -> None:
        self._resume = resume
        self._partial = partial
        self._only_new = only_new
        self._place: Optional["Destination"] = None

    @property
    def place(self) -> "Destination":
        """The opened destination. Raises ProtocolError if none is open, which a correct client cannot cause."""
        if self._place is None:
            raise ProtocolError("no destination is open")
        return self._place

    def find(self, path: str, opening: Opening) -> Optional[str]:
        """Return why opening the root is left to rsync, or None. Nothing is opened."""
        reason, root, _ = self._find(path, opening)
        return self._closed or reason or _check_bases(root, opening)

    @property
    def _closed(self) -> Optional[str]:
        """Why no run of rsync may be seeded here, or None: rsync has to pass over whatever is there."""
        return "only new files are taken there, and rsync would pass over what was seeded" if self._only_new else None

    def _find(self, path: str, opening: Opening) -> Tuple[Optional[str], str, Optional[str]]:
        """Return (a reason, the root, the name of a single file), by rsync's rule for a destination.

        The name is None if the destination is a directory to be filled. The reason says why that is uncertain, or is
        None.
        """
        mode, exists = stat_mode(path)
        if mode is not None and stat.S_ISDIR(mode):
            return None, path, None
        # As rsync decides it: one file that is not a directory, and no slash, names the file itself.
        if not exists:
            if path.endswith("/") or opening.many:
                return None, path, None
            if opening.relative or not opening.one_source:
                return "whether the destination will be a file or a directory is for rsync to decide", path, None
        elif path.endswith("/") or opening.many or opening.relative:
            return "{} is not a directory".format(path), path, None
        root, single = os.path.split(path)
        return None, root or ".", single

    def open(self, path: str, opening: Opening, needs: Iterable[SpaceNeed] = ()) -> Optional[str]:
        """Open the root of a transfer, and expect ``needs``. Returns why that is left to rsync, or None.

        Raises OSError if the root can neither be opened nor made, as it cannot for rsync then.
        """
        from .transfer.place.destination import Destination

        reason, root, single = self._find(path, opening)
        reason = self._closed or reason or _check_bases(root, opening)
        if reason:
            return reason
        if opening.existing and not os.path.exists(path):
            return "{}: {}".format(path, os.strerror(errno.ENOENT))
        make = 0o777 if opening.mkpath else None
        like = None
        if single is None:
            like = opening.like
            # With -p rsync knows whose the directory is to be, and opens it.
            make = 0o777 if like is None else 0o700 if opening.perms else like
        with error_path(root, instead=True):
            self._open(
                Destination(
                    root,
                    single,
                    make=make,
                    like=like,
                    mkpath=opening.mkpath,
                    inplace=opening.inplace,
                    perms=opening.perms,
                    group=opening.group,
                    implied_dirs=opening.implied_dirs,
                    backup=opening.backup,
                    fsync=opening.fsync,
                    partial_dir=opening.partial_dir,
                    resume=self._resume,
                    partial=self._partial,
                    preallocate=opening.preallocate,
                    temp_dir=opening.temp_dir,
                    bases=opening.bases,
                    fuzzy=opening.fuzzy,
                    modify_window=opening.modify_window,
                    space_check=opening.space_check,
                )
            )
        self.expect(needs)
        return None

    def open_copy(self, path: str, name: str, options: "CopyOptions") -> str:
        """Open the destination of a copy, and return the path of the new file. Raises OSError."""
        from .transfer.place.copy_destination import CopyDestination

        place = CopyDestination(path, name, options, resume=self._resume)
        self._open(place)
        return place.file

    def _open(self, place: "Destination") -> None:
        self.close()
        place.only_new = self._only_new
        self._place = place

    def expect(self, needs: Iterable[SpaceNeed]) -> None:
        """Add ``needs`` to the space that will be written. If the root was left to rsync, nothing is added."""
        if self._place is not None:
            self._place.expect(needs)

    def space(self) -> List[Space]:
        """Return the space needed for everything expected, by filesystem."""
        return [] if self._place is None else self._place.space()

    def touch(self, names: Iterable[str]) -> None:
        """Set the modification time of files to now."""
        self.place.touch(names)

    def states(self, names: Iterable[str]) -> Iterator[Optional[Tuple[int, ...]]]:
        """Yield what each regular file is: allocated bytes, modification time, and identity; None if it is none."""
        return self.place.states(names)

    def dig(self, name: str, size: int, holes: Sequence[Extent], asks: bool) -> "Dug":
        """Make holes of the zeros in a file, where its source has ``holes``.

        ``size``: a file of another size is left alone.
        ``asks``: only return the bytes of data there.

        An error is the result's reason.
        """
        from .files.dig import Dug, dig, measure

        for directory, base in self.place.each([name]):
            try:
                if directory is None:
                    break
                if asks:
                    return Dug(measure(base, holes, directory=directory, size=size))
                return dig(base, holes, directory=directory, size=size)
            except OSError as error:
                return Dug(0, reason(error, base))
        return Dug(0, "its directory is out of reach")

    def close(self) -> None:
        """Close the destination."""
        if self._place is not None:
            self._place.close()
            self._place = None


def _check_bases(root: str, opening: Opening) -> Optional[str]:
    """Return why seeding would change rsync's other work, or None: with --compare-dest it removes the file."""
    if not opening.bases:
        return None
    from .content.basis import find_within

    inside = find_within(root, opening.bases)
    return (
        None
        if inside is None
        else "what is seeded would be a basis, since {!r} is below the destination".format(inside)
    )


def failed(name: str, size: int, error: Exception, at_source: bool) -> FileResult:
    """Return the result of a file that an error left to rsync."""
    space = (error.needed, error.free) if isinstance(error, NoSpaceError) else None
    return FileResult(name, size, 0, 0, reason(error, name), space, getattr(error, "errno", None), at_source)
