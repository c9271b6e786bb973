"""One file on its way out: opened for reading, and known to be the file that was announced.

Between the moment a file is found and the moment it is read it may be replaced, and while it is
read it may be written to. Both show in its stat, as far as anything shows them.

The content of a file that is tracked (:class:`~.records.Tracked`) is that of its clone, which nobody writes to.

A file that is sent ``live`` may be written to meanwhile: what arrives is then no state the file ever had, and has the
time that the file had before, or an earlier one if that is recent, so that it is looked at again.
"""

import errno
import os
import stat
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

from ..content.changes import Change, changes, read_ahead, within
from ..content.copy import not_to_be_merged
from ..errors import LeftToRsync, error_path
from ..files import attributes
from ..files.beneath import Sources
from ..files.claims import allocated, believes, file_size, is_view
from ..files.status import is_recent, open_quietly, stat_sparse, was_written
from .records import FileSpec, Listed, Tracked

_SECOND_NS = 10**9


class OutgoingFile:
    """A file to be sent: its ``path`` on this machine, found by ``sources``, and what the receiver is told of it.

    ``holes``: whether its map is believed (:func:`files.claims.believes`).
    ``overlay``: do not send a file whose map is not believed.
    ``believed``: the decision, made when the file is opened.
    ``tracked``: where its content is taken from, if not from the file itself.
    ``listed``: what changed in it, if somebody else knows.
    ``was_known``: the destination says that it has the content of ``tracked.since``, or is ``listed.known``.
    ``since``: what changed since that, once the file is open; None if unknown.
    ``is_mapped``: as of :class:`~.records.FileResult`.
    """

    def __init__(
        self,
        path: str,
        spec: FileSpec,
        st: os.stat_result,
        sources: Sources,
        live: bool = False,
        holes: str = "auto",
        overlay: bool = False,
        tracked: Optional[Tracked] = None,
        listed: Optional[Listed] = None,
    ) -> None:
        self.path = path
        self.spec = spec
        self.st = st
        self.sources = sources
        self.live = live
        self.holes = holes
        self.overlay = overlay
        self.tracked = tracked
        self.listed = listed
        self.was_known = False
        self.since: Optional[Iterator[Change]] = None
        self.is_mapped: bool = True
        self._earlier: Optional[int] = None
        self.believed: bool = False
        self.number = 0
        self.basis: Optional[bool] = None
        self.over = False
        self.fd: Optional[int] = None
        self.opened: Optional[os.stat_result] = None
        self.guard: Any = None

    def open(self) -> int:
        """Open the source, if it is not. Raises OSError, and LeftToRsync if it changed since it was announced."""
        fd, st = self.fd, self.st
        if fd is None:
            fd, st = self._open()
        if is_view(fd, st):
            self.close()
            raise LeftToRsync("it is a view of the kernel's, which has no size to go by; copy what cat(1) prints of it")
        self.opened = st
        self.believed = believes(fd, self.holes, st)
        if self.overlay and not self.believed:
            self.close()
            raise not_to_be_merged(self.path)
        if self.tracked is not None and self.tracked.since is not None:
            self._earlier = open_quietly(self.tracked.since, os.O_NOFOLLOW)
            found = changes(fd, self._earlier) if self.believed else None
            self.since = None if found is None else read_ahead(fd, found)
            self.is_mapped = found is not None
        elif self.listed is not None:
            self.since = read_ahead(fd, within(fd, self.listed.changed, self.believed))
        return fd

    def _open(self) -> Tuple[int, os.stat_result]:
        if self.tracked is None:
            fd = _open(self.sources, self.path, self.spec.name)
        else:
            fd = open_quietly(self.tracked.snapshot, os.O_NOFOLLOW)
        self.fd, st = fd, os.fstat(fd)
        try:
            self.check(st, "before it was sent")
        except LeftToRsync:
            self.close()
            raise
        return fd, st

    def check(self, st: os.stat_result, when: str = "while it was copied") -> None:
        """Raise LeftToRsync if the file, whose stat is now ``st``, changed in a way that matters."""
        same = os.path.samestat(st, self.st) and st.st_size == self.st.st_size
        if self.opened is not None and not self.live:
            same = same and not was_written(self.opened, st)
        if not same or (not self.live and st.st_mtime_ns != self.st.st_mtime_ns):
            raise LeftToRsync("it changed " + when)

    def close(self) -> None:
        """Close the source."""
        self.since = None
        for fd in (self.fd, self._earlier):
            if fd is not None:
                os.close(fd)
        self.fd = self._earlier = None


def _open(sources: Sources, path: str, name: str) -> int:
    with error_path(path, instead=True):
        found = sources.find(path, name)
        return open_quietly(found.name, 0 if sources.follow else os.O_NOFOLLOW, found.directory)


def outgoing(
    path: str,
    name: str,
    sources: Sources,
    *,
    with_attributes: bool = False,
    data: Optional[int] = None,
    live: bool = False,
    holes: str = "auto",
    reserve: bool = False,
    overlay: bool = False,
    modify_window: int = 0,
    tracked: Optional[Tracked] = None,
    listed: Optional[Listed] = None,
) -> OutgoingFile:
    """Return a file or block device to be sent as ``name``. Raises OSError.

    ``sources``: finds the file, now and when it is opened.
    ``with_attributes``: send all its attributes.
    ``data``: the most bytes that a copy takes, if known.
    ``live``: the file may be written to meanwhile.
    ``holes``: whether its map is believed (:func:`files.claims.believes`).
    ``reserve``: count reserved ranges as what a copy takes.
    ``overlay``: do not send it if its map is not believed.
    ``modify_window``: seconds by which rsync lets times differ.
    ``tracked``: where its content is.
    ``listed``: what changed in it.
    """
    with error_path(path, instead=True):
        found = sources.find(path, name)
        st = os.stat(found.name, dir_fd=found.directory, follow_symlinks=sources.follow)
    carried: Optional[Dict[str, Any]] = None
    if with_attributes and (stat.S_ISREG(st.st_mode) or stat.S_ISBLK(st.st_mode)):
        fd = _open(sources, path, name)
        try:
            # It may be another by now: all that is told of a file has to be of one.
            st = os.fstat(fd)
            carried = attributes.read(fd)
        finally:
            os.close(fd)
    known: Optional[Sequence[int]] = None if listed is None else listed.known
    mode = stat.S_IMODE(st.st_mode)
    if tracked is not None:
        st, known = os.stat(tracked.snapshot), tracked.known
        if carried is not None:
            carried["mtime_ns"] = tracked.mtime_ns
    if stat.S_ISDIR(st.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    size = st.st_size
    if stat.S_ISBLK(st.st_mode):
        # How much of it is not zeros is known only once all is read.
        size, data = _device_size(_open(sources, path, name)), 0
    elif not stat.S_ISREG(st.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    if data is None:
        where = (found.name, found.directory) if tracked is None else (tracked.snapshot, None)
        looked = stat_sparse(where[0], sources.follow, holes, reserve, where[1])
        data = looked.data + looked.reserved if looked else min(allocated(st), size)
    live = live and tracked is None
    mtime_ns = _announced_ns(st, live, modify_window) if tracked is None else tracked.mtime_ns
    spec = FileSpec(name, size, data, mode, mtime_ns, found.modes, carried, known)
    return OutgoingFile(path, spec, st, sources, live, holes, overlay, tracked, listed)


def _announced_ns(st: os.stat_result, live: bool, modify_window: int) -> int:
    """Return the time that the receiver is told of a file."""
    earlier = (max(modify_window, 0) + 1) * _SECOND_NS if live and is_recent(st.st_mtime_ns) else 0
    return st.st_mtime_ns - earlier


def opened(
    path: str,
    name: str,
    sources: Sources,
    data: int,
    live: bool = False,
    holes: str = "auto",
    overlay: bool = False,
    modify_window: int = 0,
) -> OutgoingFile:
    """Return a file, open, whose content alone is to be sent at once. The parameters are those of :func:`outgoing`.

    Only a regular file is open already. Raises OSError.
    """
    with error_path(path, instead=True):
        found = sources.find(path, name)
        fd = open_quietly(found.name, 0 if sources.follow else os.O_NOFOLLOW, found.directory)
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode):
        os.close(fd)
        more: Dict[str, Any] = {"live": live, "holes": holes, "overlay": overlay, "modify_window": modify_window}
        return outgoing(path, name, sources, data=data, **more)
    mtime_ns = _announced_ns(st, live, modify_window)
    spec = FileSpec(name, st.st_size, data, stat.S_IMODE(st.st_mode), mtime_ns, found.modes)
    file = OutgoingFile(path, spec, st, sources, live, holes, overlay)
    file.fd = fd
    return file


def _device_size(fd: int) -> int:
    try:
        return file_size(fd)
    finally:
        os.close(fd)
