"""The file a copy writes to, and how it takes the place of the old one.

:class:`Target` mostly is a temporary beside the file, created with O_EXCL where that is had, and renamed over it when
:meth:`Target.commit` is called, so whoever looks sees the old file or the new one. Where nothing is known of the
filesystem, renaming is tried before, since it would be too late to hear of it when all is written. In an append-only
directory, where a name stays once it is made, a new file has none until then::

    with Target(directory, name, path) as target:
        target.reserve(size, needed)     the size, once it is sure that the data fits
        write to target.fd               what is not written is a hole
        target.commit(mtime_ns=...)      over the old file; else nothing has changed

In place it is the file itself; and it may be the partial file of an earlier run, which is taken up again. Then there is
something below what is written (:attr:`Target.overlay`), and what is to be a hole has to be punched. Where
what is there cannot be read, it is given up (:mod:`existing`).

Either way it is reached through the descriptor of its directory, which :func:`~.files.beneath.open_beneath` opens
without following a symlink below a root. Sizes and offsets are bytes. Failures are OSError, with the path that is to
blame.
"""

import contextlib
import errno
import os
import stat
import warnings
from typing import TYPE_CHECKING, Callable, Optional, Tuple, Type, TypeVar

from ...errors import error_path
from ...text import hidden_name, name_limit
from .. import syscalls
from ..beneath import check_renaming
from ..claims import allocated, is_anybodys
from ..extents import has_data, own_extents
from ..flags import cannot_replace, carry, copy_on_write_by_block, keeps_names, refusal
from ..syscalls import NO_SIZE, check_room, clone, flush_directory, keeps_holes, preallocate, punch, release, resize
from .existing import CREATE, UPDATE, emptied, is_empty, make, open_existing, rename_over, takes_any_order, write_once
from .known import Known
from .partial import take_up

_MIN_NAME_BYTES = 32
"""Bytes of a name below which it is not cut further."""

if TYPE_CHECKING:  # what has a forward reference in it is compiled, and that takes longer than all of this module
    _Target = TypeVar("_Target", bound="Target")


class Target:
    """A file being written: a temporary file beside ``name``, or ``name`` itself (``inplace``). A context manager.

    Without :meth:`commit`, the temporary file is removed and nothing has changed.

    ``directory``: a descriptor, which the caller closes. If the name is to be flushed, it is open for reading.
    ``path``: the file's name in messages.
    ``partial``: a directory's descriptor and a name, which make the temporary file a partial file. An earlier run's
    partial file is continued (``resumed``: it has content already), and is kept once more if :attr:`keep` is set. The
    partial file is locked, so that only one run writes to it. One that another user may have open, or linked, is
    replaced by a new one. Where none can be made or locked, it is a temporary file (:attr:`taken_up` is not set).
    ``mode``: the mode of a new temporary or partial file, less the umask. It must not permit reading to a user who may
    not read the finished file.
    ``new``: there is no file of that name, as far as the caller knows.
    ``named``: where nothing can be renamed, a new file is made under its own name, as cp does, and removed if it is
    not committed.

    A temporary file is made in :attr:`temporary_directory`, which may be another one on the same filesystem. If
    :attr:`checks_room` is not set, what does not seem to fit is tried, and the writes fail. If :attr:`merging` is set,
    what is not written stays as it is, also beyond the source's end. If :attr:`is_readable` is not set, what is there
    cannot be read, in place. Up to :attr:`reached`, bytes, an interrupted copy is complete.

    If :attr:`continued` is set, what a partial file has is known to be the source's content, as far as it goes. If
    :attr:`continuable` is set, an interrupt, or whoever gives the copy up, sets :attr:`keep`. An error does not.
    If :attr:`reserving` is set, the file gets the source's reservations (:meth:`preallocate`), and no others.
    :attr:`known`: what is known of its directory, if it is to be a new file there, without a partial file.
    """

    seeds = False
    """Whether rsync comes after, so that nothing may be done that it cannot do."""

    def __init__(
        self,
        directory: int,
        name: str,
        path: str,
        *,
        inplace: bool = False,
        partial: Optional[Tuple[int, str]] = None,
        mode: int = 0o600,
        new: bool = False,
        named: bool = False,
    ) -> None:
        self._create_mode, self._new, self._may_be_named = mode, new, new and named
        self._named = self._nameless = self._closed = self._is_empty = False
        self.taken_up: bool = False
        self.directory: int = directory
        self.name: str = name
        self.path: str = path
        self.inplace = inplace
        self.is_readable: bool = True
        self.resumed: bool = False
        self.committed: bool = False
        self.keep: bool = False
        self.continuable = self.reserving = self.merging = self.continued = False
        self.checks_room = True
        self.allocated: int = 0
        self.reached = 0
        self.fd: int = -1
        self._partial = partial
        self._temporary: Optional[str] = None
        self.temporary_directory: int = directory
        self.known: Optional[Known] = None

    def open(self) -> None:
        """Open the file, or make the temporary file. If that is interrupted, even by a signal, nothing is left."""
        try:
            with error_path(self.path, instead=True):
                if self.inplace:
                    self._open_existing()
                else:
                    self.check_renaming()
                    if self._nameless:
                        self.fd = os.open(".", UPDATE | os.O_TMPFILE, self._create_mode, dir_fd=self.directory)
                    elif self._temporary is not None:  # what was tried with, and cannot be removed
                        self.temporary_directory = self.directory
                        self.fd = os.open(self._temporary, UPDATE | os.O_TRUNC, dir_fd=self.directory)
                    elif self._partial is not None and not self._named:
                        self._take_up(*self._partial)
                    else:
                        self._create()
        except BaseException:
            self.close()
            raise

    def _open_existing(self) -> None:
        try:
            self.fd, self.is_readable = open_existing(self.directory, self.name, self.seeds, self.merging)
        except OSError as error:
            raise self.not_opened(error) from None
        if not stat.S_ISREG(os.fstat(self.fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", self.path)
        self._is_empty = self.is_readable and is_empty(self.fd)

    def not_opened(self, error: OSError) -> Exception:
        """Return what to raise for a file that cannot be opened in place."""
        return refusal(error, self.path, self.name, self.directory)

    def check_renaming(self) -> None:
        """Raise OSError if it is known, or can be tried, that the temporary file cannot take its name in the end."""
        if self.known is not None and not self.known.keeps_names:
            return
        try:
            self._temporary = check_renaming(self.directory, self.path, self._new)
        except OSError:
            self._named = self._may_be_named
            self._nameless = self._new and not self._named and keeps_names(self.directory)
            if not self._named and not self._nameless:
                raise

    @property
    def overlay(self) -> bool:
        """Whether the file has earlier content, so that holes have to be punched."""
        return (self.inplace and not self._is_empty) or (self.resumed and not self.continued)

    def begin_over(self, size: int, needed: int) -> None:
        """Give what there is to be written over its new size. In place, what cannot be read, or sized, is emptied.

        ``needed``: the most bytes of data that it will have.

        Raises NoSpaceError before anything is changed, OSError.
        """
        self.check_room(needed - allocated(os.fstat(self.fd)))
        if self.give_up_unusable():
            return
        there = os.fstat(self.fd).st_size
        if there < size or (not self.merging and there > size):
            try:
                resize(self.fd, size)
            except OSError as error:
                if error.errno not in NO_SIZE or self.merging or self.seeds or not self.inplace:
                    raise
                self.empty()

    def give_up_unusable(self) -> bool:
        """Empty a file, in place, whose content cannot be read or written over. Returns whether that was so."""
        if self.merging or (self.is_readable and (not self.inplace or self.seeds or takes_any_order(self.fd))):
            return False
        self.empty()
        return True

    def empty(self) -> None:
        """Remove all content, so that there is nothing below what is written. Raises OSError."""
        if not self.inplace:
            resize(self.fd, 0)
            os.lseek(self.fd, 0, os.SEEK_SET)
            return
        try:
            self.fd, self.is_readable, self._is_empty = emptied(self.fd), False, True
        except OSError as error:
            raise self.not_opened(error) from None

    def clone(self, old: int) -> bool:
        """Share the extents of the open file ``old``, as a first content. Returns False if that is not possible."""
        if not clone(old, self.fd):
            return False
        self.resumed = True
        self.release()
        copy_on_write_by_block(self.fd, True)
        return True

    def release(self) -> None:
        """Punch what a clone has reserved (:func:`~.files.syscalls.release`)."""
        release(self.fd)

    def _create(self) -> None:
        limit, how = name_limit(self.directory) if self.known is None else self.known.name_limit, CREATE
        while True:
            # As rsync names its temporaries, so that its users recognise them and their excludes match.
            suffix = "." + os.urandom(4).hex()
            self._temporary = self.name if self._named else hidden_name(self.name, suffix, limit)
            try:
                self.fd = make(self.temporary_directory, self._temporary, how, self._create_mode)
                return
            except FileExistsError:
                self._temporary = None
                if self._named:  # it was made meanwhile
                    raise
            except OSError as error:
                self._temporary = None
                # A limit may be told in other units than the name has: characters, or what it is encrypted to.
                if error.errno == errno.ENAMETOOLONG and limit > _MIN_NAME_BYTES:
                    limit //= 2
                elif self._may_be_named and not self._named:
                    self._named = True
                elif how & os.O_RDWR and (self._named or not self.seeds):
                    how ^= os.O_RDWR | os.O_WRONLY  # cp asks for no more
                elif how & os.O_EXCL and not self.seeds and is_anybodys(self.temporary_directory):
                    how ^= os.O_EXCL  # nor does shutil; a name that is made up is new by itself
                else:
                    raise cannot_replace(error, self.path, self.name, self.directory) from None

    def _take_up(self, directory: int, name: str) -> None:
        taken = take_up(directory, name, self._create_mode)
        if taken is None:
            self._create()
            return
        self.fd, self.resumed = taken
        self.taken_up, self.temporary_directory, self._temporary = True, directory, name

    def renew(self, by: Callable[[int, str], object] = lambda directory, name: None) -> None:
        """Begin a new partial file, with the flags of the old one, which is out of reach. ``by``: may make it first."""
        with error_path(self.path, instead=True), contextlib.ExitStack() as stack:
            os.unlink(str(self._temporary), dir_fd=self.temporary_directory)
            stack.callback(os.close, self.fd)
            old, self.fd, self.resumed, self.taken_up = self.fd, -1, False, False
            by(*self._partial)  # type: ignore[misc]
            self._take_up(*self._partial)  # type: ignore[misc]
            carry(old, self.fd)

    @property
    def temporary(self) -> Optional[str]:
        """The name of the temporary file, in its directory, if it has one."""
        return self._temporary

    def withdraw(self, name: str) -> None:
        """Give the temporary file another name."""
        with error_path(self.path, instead=True):
            directory = self.temporary_directory
            os.rename(str(self._temporary), name, src_dir_fd=directory, dst_dir_fd=directory)
        self._temporary = name

    def __enter__(self: "_Target") -> "_Target":
        self.open()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]] = None, *more: object) -> None:
        if self.continuable and self._temporary is not None and not issubclass(kind or Exception, Exception):
            with contextlib.suppress(OSError):  # it has got its name, though that is not noted yet
                os.stat(self._temporary, dir_fd=self.temporary_directory, follow_symlinks=False)
                os.fchmod(self.fd, 0o600)  # by which it is known as ours
                self.keep = True
        self.close()

    def close(self) -> None:
        """Close the file. A temporary file that was not committed is removed, unless ``keep`` is set."""
        if self._closed:
            return
        self._closed, made, self.fd = True, self.fd, -1
        if self._named and made < 0:
            self._temporary = None  # a file of that name may be somebody else's
        # A signal may come between a system call and the note that it is done.
        expected = FileNotFoundError if made >= 0 else OSError
        try:
            # What is removed while open, FUSE and NFS show a while longer. But a partial file is ours while it is open.
            if made >= 0 and not self.taken_up:
                made, closing = -1, made
                if self._temporary is not None:
                    write_once(closing, self.temporary_directory, self._temporary)
                with error_path(self.path):
                    os.close(closing)
        finally:
            try:
                if self._temporary is not None and not (self.keep and made >= 0 and allocated(os.fstat(made))):
                    temporary, self._temporary = self._temporary, None
                    with contextlib.suppress(expected):
                        os.unlink(temporary, dir_fd=self.temporary_directory)
            finally:
                if made >= 0:
                    os.close(made)

    def reserve(self, size: int, needed: int) -> bool:
        """Set the size of the new, empty file, after a check that ``needed`` bytes of data fit.

        Returns whether the filesystem keeps holes. Where it does not, all of ``size`` must fit.
        Raises NoSpaceError before anything is written.
        """
        holes = needed >= size or self.known is not None or keeps_holes(self.fd, size)
        if not holes:
            what = "{}: its filesystem has no holes: {} bytes will be written, not {}"
            warnings.warn(what.format(self.path, size, needed), RuntimeWarning, stacklevel=4)
            needed = size
        self.check_room(needed)
        resize(self.fd, size, trusted=self.known is not None)
        return holes

    def check_room(self, needed: int) -> None:
        """Raise NoSpaceError if ``needed`` more bytes do not fit, unless :attr:`checks_room` is not set."""
        if self.checks_room:
            (self.known.check_room if self.known is not None else check_room)(self.fd, needed, self.path)

    def punch(self, offset: int, length: int) -> None:
        """Make a range a hole. A new temporary file is left as it is, since what is not written is a hole already."""
        if self.overlay and not self.merging and length > 0 and (self.reserving or has_data(self.fd, offset, length)):
            punch(self.fd, offset, length)

    def preallocate(self, offset: int, length: int) -> None:
        """Reserve a range that is a hole, and still reads as zeros. Warns if the filesystem cannot reserve.

        Raises OSError as fallocate(2): ENOSPC if there is no room.
        """
        if not preallocate(self.fd, offset, length):
            what = "{}: its filesystem cannot reserve space (fallocate): there are holes instead"
            warnings.warn(what.format(self.path), RuntimeWarning, stacklevel=4)

    def trim(self, at_most: int) -> None:
        """Free preallocated ranges, if more than ``at_most`` bytes, in whole blocks, are allocated.

        Ranges without data are not punched, so a reservation may remain, which st_blocks shows.
        """
        st = os.fstat(self.fd)
        # Not without need: what is cut in a shared block, XFS copies first, and more beside it.
        if self.reserving or self.merging or allocated(st) <= -(-at_most // st.st_blksize) * st.st_blksize:
            return
        end = 0
        for offset, length in own_extents(self.fd, 0, st.st_size, exactly=True):
            punch(self.fd, end, offset - end)
            end = offset + length
        self.cut(end, st.st_size)

    def cut(self, end: int, size: int) -> None:
        """Make all from ``end`` to ``size`` a hole by truncating, including a last block that the file only begins."""
        if not self.merging:
            syscalls.cut(self.fd, end, size)

    def commit(self, *, mode: Optional[int] = None, mtime_ns: Optional[int] = None, fsync: bool = False) -> None:
        """Set mode and modification time, if given, and rename the temporary file to its name.

        ``fsync``: have the content on the disk before the rename, and the name when this returns. If the content cannot
        be flushed, there is no rename.
        """
        with error_path(self.path, instead=True):
            if (self.taken_up or self.resumed) and not is_anybodys(self.fd):  # FUSE may open it once more
                copy_on_write_by_block(self.fd, False)
            st = os.fstat(self.fd)
            if mode is not None and stat.S_IMODE(st.st_mode) != mode:
                os.fchmod(self.fd, mode)
            if mtime_ns is not None:
                self.allocated = allocated(st)
                os.utime(self.fd, ns=(st.st_atime_ns, mtime_ns))
            if fsync:
                os.fsync(self.fd)
            if self._temporary is not None:
                if not self._named:
                    self._take_name(self._temporary)
                self._temporary = None
            elif self._nameless:
                os.link("/proc/self/fd/{}".format(self.fd), self.name, dst_dir_fd=self.directory)
            if fsync and not self.inplace:
                flush_directory(self.directory, self.path)
            self.committed = True

    def _take_name(self, temporary: str) -> None:
        where = self.temporary_directory, temporary, self.directory, self.name
        try:
            rename_over(*where, trusted=self.known is not None)
        except OSError:
            if not is_anybodys(self.directory):
                raise
            # Some mounts rename only what nobody has open.
            closing, self.fd = self.fd, -1
            os.close(closing)
            rename_over(*where)
