"""One file at the destination of a transfer: a :class:`~.writing.target.Target`, and whether rsync will leave it alone.

rsync passes over a seeded file if its quick check finds size and modification time equal. But a filesystem may not be
able to hold the source's time: FAT counts in 2 s, exFAT in 10 ms, ext4 with small inodes in seconds until 2038; some
mounts set none at all, or lose it when a file is renamed. So a time that was set is read back, twice::

    a new file, still empty        before content travels for nothing
    a file that has got its name   what rsync will see

and :func:`is_near` compares as rsync does. Where it is not near, the file is left to rsync. The second time it has its
name already, and is given a time by which rsync looks at it again.
"""

import contextlib
import errno
import os
from typing import Callable, Optional, Sequence, Tuple

from ...errors import LeftToRsync
from ...files.claims import is_anybodys
from ...files.flags import forbids_replacing
from ...files.status import Identity, identity, is_past
from ...files.writing.existing import LACKING
from ...files.writing.known import Known
from ...files.writing.target import Target

_SECOND = 10**9

_KEPT = "a file of that name is there, and only new ones are taken"


def is_near(a_ns: int, b_ns: int, window: int) -> bool:
    """Return whether rsync takes two modification times, in ns, for the same with ``--modify-window`` (seconds)."""
    if window < 0:
        return a_ns == b_ns
    return abs(a_ns // _SECOND - b_ns // _SECOND) <= window


class DestinationFile(Target):
    """A target below a destination. It owns its directory's descriptor.

    ``old``: the stat of the file that is there, or None.
    ``made``: the mode that it is made with, less the umask. ``mode``: the mode that it gets with its name.
    ``mtime_ns``: the time that it gets, or None for whatever it has.
    ``only_new``: take the name only if nothing has it.
    ``tells``: find out the new file's identity, in ``there``. Then its content is on the disk before it gets its name,
    and its times show what is written to it from then on.
    ``window``: how near rsync wants that to be, as :func:`is_near`; None: rsync does not look at it.
    """

    def __init__(
        self,
        directory: int,
        name: str,
        path: str,
        *,
        partial: Optional[Tuple[int, str]] = None,
        emptied: Optional[str] = None,
        old: Optional[os.stat_result] = None,
        inplace: bool = False,
        named: bool = False,
        made: int = 0o600,
        mode: Optional[int] = None,
        mtime_ns: Optional[int] = None,
        window: Optional[int] = None,
    ) -> None:
        super().__init__(
            directory, name, path, inplace=inplace, partial=partial, mode=made, new=old is None, named=named
        )
        self.old = old
        self.mode = mode
        self.mtime_ns = mtime_ns
        self.window = window
        self.unfinished_ns = 0
        self.find_basis: Callable[[], Optional[int]] = lambda: None
        self.tells = False
        self.seeds = True
        self.only_new = False
        self.there: Optional[Identity] = None
        self._marked = False
        self._emptied = emptied

    def use_partial(self, name: str) -> None:
        """Make the temporary file a partial file ``name`` in the directory, before it is opened."""
        if self._partial is not None:
            os.close(self._partial[0])
        self._partial = os.dup(self.directory), name
        self.known: Optional[Known] = None

    def is_known(self, fd: int, known: Sequence[int]) -> bool:
        """Return whether the open file, which the target begins with, is the one with the identity ``known``.

        A file in place is then marked, on the disk, as one that is being written: after a power cut it could have a
        part of the new content and its old times.
        """
        if identity(fd) != tuple(known):
            return False
        if self.inplace:
            self._marked = True
            self._set_unfinished()
            os.fsync(self.fd)
        return True

    def begin_as_known(self, known: Sequence[int]) -> bool:
        """Have the old file's content in the open target without copying it. Returns False if that is not possible.

        That is so unless the old file has the identity ``known`` and is written to in place, or can be cloned: what
        can only be copied can as well be copied from the source.
        """
        if self.inplace:
            return self.is_readable and self.is_known(self.fd, known)
        old = self.open_old()
        if old is None:
            return False
        try:
            return not self.resumed and self.is_known(old, known) and self.clone(old) and self.is_known(old, known)
        finally:
            os.close(old)

    def commit(self, *, mode: Optional[int] = None, mtime_ns: Optional[int] = None, fsync: bool = False) -> None:
        """Commit as :meth:`~.writing.target.Target.commit`, and note the identity if it is wanted."""
        past = False
        if self._marked and self.old is not None and os.fstat(self.fd).st_mtime_ns == self.unfinished_ns:
            os.utime(self.fd, ns=(self.old.st_atime_ns, self.old.st_mtime_ns))  # nothing was written
        if self.tells:
            os.fsync(self.fd)
            past = is_past(os.fstat(self.fd).st_mtime_ns if mtime_ns is None else mtime_ns)
        super().commit(mode=mode, mtime_ns=mtime_ns, fsync=fsync)
        if past and self.fd >= 0:
            self.there = identity(self.fd)

    def _take_name(self, temporary: str) -> None:
        if not self.only_new:
            super()._take_name(temporary)
            return
        # Unlike a rename, a link fails where something has got the name meanwhile.
        try:
            os.link(
                temporary,
                self.name,
                src_dir_fd=self.temporary_directory,
                dst_dir_fd=self.directory,
                follow_symlinks=False,
            )
        except FileExistsError:
            raise LeftToRsync(_KEPT) from None
        os.unlink(temporary, dir_fd=self.temporary_directory)

    def open(self) -> None:
        """Open the file, or make the temporary file.

        Raises LeftToRsync if rsync would have to open the directory, if the filesystem does not hold the time, or if
        only a new file may be made and one is there; PermissionError if what is there can never be replaced.
        """
        if self.only_new and self.old is not None:
            self.close()
            raise LeftToRsync(_KEPT)
        # What cannot be opened is closed, with its directory.
        place = os.fstat(self.directory) if self.known is None else self.known.st
        owner, anybodys = place.st_uid, self.known is None and is_anybodys(self.directory, place)
        try:
            super().open()
        except PermissionError as error:
            if self.seeds and error.errno == errno.EACCES and owner == os.geteuid():
                raise LeftToRsync("its directory is not to be written to, and rsync may change that") from None
            if self.seeds and self._named and anybodys:
                raise LeftToRsync("as a file that must be new it cannot be made: {}".format(error.strerror)) from None
            raise
        try:
            if self.seeds and not self.is_readable:
                raise LeftToRsync("it can be written to, and not read")
            if not self.inplace:
                if self.old is not None:
                    self._check_old()
                self._try_time()
        except BaseException:
            self.close()
            raise

    def check_renaming(self) -> None:
        """Raise OSError, or LeftToRsync where rsync comes after, if the file cannot take its name in the end."""
        try:
            super().check_renaming()
        except OSError as error:
            if self.seeds:
                raise LeftToRsync(error.strerror) from None
            raise
        if self.seeds and self._nameless:
            raise LeftToRsync("its directory is append-only")

    def not_opened(self, error: OSError) -> Exception:
        """Return LeftToRsync if only reading what is written is refused, which rsync does by another descriptor."""
        if self.seeds:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
            with contextlib.suppress(OSError):
                os.close(os.open(self.name, flags, dir_fd=self.directory))
                return LeftToRsync("it can be written to, and not read by the same descriptor")
        return super().not_opened(error)

    def _check_old(self) -> None:
        fd = self.open_old()
        if fd is None:
            return
        try:
            why = forbids_replacing(fd)
        finally:
            os.close(fd)
        if why is not None:
            raise PermissionError(errno.EPERM, why, self.path)

    def _try_time(self) -> None:
        if self.window is None or self.mtime_ns is None or (self.known is not None and self.known.holds(self.mtime_ns)):
            return
        try:
            os.utime(self.fd, ns=(os.fstat(self.fd).st_atime_ns, self.mtime_ns))
        except OSError as error:
            # rsync goes on without, and says so.
            raise LeftToRsync("its time cannot be set at the destination: {}".format(error.strerror)) from None
        st = os.fstat(self.fd)
        self._check_time(st)
        if self.known is not None:
            self.known.held(self.mtime_ns, st.st_mtime_ns)

    def _check_time(self, st: os.stat_result) -> None:
        if self.window is None or self.mtime_ns is None or is_near(st.st_mtime_ns, self.mtime_ns, self.window):
            return
        off = abs(st.st_mtime_ns - self.mtime_ns)
        seconds = "{}.{:09}".format(off // _SECOND, off % _SECOND).rstrip("0").rstrip(".")
        raise LeftToRsync("its time does not fit the destination's filesystem: it is {} s off there".format(seconds))

    def finish(self, fsync: bool) -> None:
        """Give the file its mode, time and name.

        Raises OSError, and LeftToRsync if rsync will not take its time for the source's.
        """
        self.commit(mode=self.mode, mtime_ns=self.mtime_ns, fsync=fsync)
        try:
            self._check_time(os.stat(self.name, dir_fd=self.directory, follow_symlinks=False))
        except LeftToRsync:
            self._set_unfinished()
            raise

    def keep_reached(self, partial: Optional[Tuple[int, str]]) -> None:
        """Keep what is complete of an interrupted file, as rsync's ``--partial``: under its name, with the time 0.

        ``partial``: the directory, a descriptor, and the name there, where ``--partial-dir`` has it instead.

        Raises OSError.
        """
        if self._temporary is None or self.overlay or not self.reached:
            return
        os.ftruncate(self.fd, self.reached)
        directory, name = (self.directory, self.name) if partial is None else partial
        if partial is None:
            os.utime(self.fd, (0, 0))
        os.replace(self._temporary, name, src_dir_fd=self.temporary_directory, dst_dir_fd=directory)
        self._temporary = None

    def open_old(self) -> Optional[int]:
        """Return a descriptor, for reading, of the file that will be replaced, or None; also if it cannot be read.

        Raises LeftToRsync if it was replaced, OSError if descriptors lack, or where rsync comes after and it cannot be
        read.
        """
        try:
            fd = self._open_replaced(os.O_RDONLY | os.O_NONBLOCK)
            if fd is not None and not self.seeds and is_anybodys(fd):
                try:
                    os.pread(fd, 1, 0)
                except BaseException:
                    os.close(fd)
                    raise
        except OSError as error:
            if self.seeds or error.errno in LACKING:
                raise
            return None
        return fd

    def open_place_of_old(self) -> Optional[int]:
        """Return a descriptor, as a place only (O_PATH), of the file that will be replaced, or None."""
        return self._open_replaced(os.O_PATH)

    def _open_replaced(self, access: int) -> Optional[int]:
        if self.old is None or self.inplace:
            return None
        fd = os.open(self.name, access | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.directory)
        if not os.path.samestat(os.fstat(fd), self.old):
            os.close(fd)
            raise LeftToRsync("it was replaced meanwhile")
        return fd

    def open_basis(self) -> Optional[int]:
        """Return a descriptor, for reading, of the basis: the old file, or what a new one is like."""
        return self.find_basis() if self.old is None else self.open_old()

    def close(self) -> None:
        """Close the file, and its directory."""
        if self._closed:
            return
        try:
            self._show_unfinished()
            super().close()
        finally:
            if self._partial is not None:
                os.close(self._partial[0])
            if self._emptied is not None:
                with contextlib.suppress(OSError):  # something is in it
                    os.rmdir(self._emptied, dir_fd=self.directory)
            os.close(self.directory)

    def _show_unfinished(self) -> None:
        """Give a file that was written to in place and not finished a time by which rsync will look at it again.

        Its size may be the source's already, and the time of the writing that of a source that changed within the same
        second, for rsync compares no more; or --update takes it for the newer one.
        """
        if self.old is None or not self.inplace or self.fd < 0 or self.committed:
            return
        st = os.fstat(self.fd)
        if (st.st_mtime_ns, st.st_size) != (self.old.st_mtime_ns, self.old.st_size):
            self._set_unfinished()

    def _set_unfinished(self) -> None:
        # Whatever ends the copying is what is to be told, not that this failed too.
        with contextlib.suppress(OSError):
            os.utime(self.fd, ns=(os.fstat(self.fd).st_atime_ns, self.unfinished_ns))
