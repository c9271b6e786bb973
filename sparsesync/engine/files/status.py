"""A file by its path: whether it is there, whether it is sparse, and what a copy of it will have to hold.

:func:`stat_sparse` goes by stat(2) as long as that is enough, which it is for most files, and only then opens the file
(:func:`open_quietly`) and walks its extents. It answers for many files before any is copied, so what goes wrong is
no exception here: whoever copies the file will meet it again, and tell. :func:`data_size` is for one file that
somebody asks about, and raises.

A file that was written to a moment ago may be written to again without its modification time showing it
(:func:`is_recent`); who compares times has to know.
"""

import contextlib
import errno
import os
import stat
import time
from typing import Iterator, NamedTuple, Optional, Tuple, Union

from ..errors import error_path
from .claims import allocated, believes, is_of_known, is_view, knows_holes, looks_sparse, may_be_sparse
from .extents import Extent, extents, is_sparse, layers, nonzero
from .flags import refusal
from .mounts import mount_of

_NOT_THERE = frozenset([errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO])

_ROUGH_BYTES = 64 * 1024
"""So many allocated bytes of a sparse file are taken for its data, if that is not wanted to the byte."""

_CLOCK_REALTIME_COARSE = 5
"""clock_gettime(2): what the times of files are taken from."""
_MAX_TICKS = 25

_RECENT_NS = 2 * 10**9
"""For so many nanoseconds after it, a modification may be followed by one that gives a file the same time again."""


def data_size(path: str, holes: str = "auto", zeros: bool = False) -> Tuple[int, int, int]:
    """Return the bytes inside data extents of a file, the number of extents, and the bytes of zeros in them.

    ``holes``: whether the map is believed (:func:`files.claims.believes`).
    ``zeros``: read the data, and count what blocks of the filesystem's size are zeros; else that is 0.

    Raises OSError as open(2), read(2).
    """
    fd = open_quietly(path)
    try:
        block = os.fstatvfs(fd).f_frsize if zeros else 0
        data = count = empty = 0
        for offset, length in extents(fd, holes=holes):
            data += length
            count += 1
            if block:
                with error_path(path):
                    empty += length - sum(part for _, part in nonzero(fd, offset, length, block))
        return data, count, empty
    finally:
        os.close(fd)


def open_quietly(path: str, flags: int = 0, directory: Optional[int] = None) -> int:
    """Open for reading without waiting on a pipe and, where permitted, without changing the access time.

    ``directory``: the descriptor that ``path`` is relative to, if given.
    """
    flags |= os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError:  # O_NOATIME is for the owner and root: open(2)
        return os.open(path, flags, dir_fd=directory)


def open_source(path: str) -> int:
    """Open a file or block device for reading. Raises IsADirectoryError, shutil.SpecialFileError, OSError."""
    fd = open_quietly(path)
    try:
        _check_content(os.fstat(fd).st_mode, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def _check_content(mode: int, file: "Union[str, int]") -> None:
    """Raise OSError unless a mode is that of a file or a block device."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise special_file(file)


def extents_of(file: "Union[str, int]", start: int, end: Optional[int], holes: str) -> Iterator[Extent]:
    """Yield the data extents of a file as :func:`extents`, and move no offset of anybody's.

    ``file``: a path, or a descriptor. The file is open only as long as the iterator lasts.

    Raises OSError, also as :func:`open_source`.
    """
    with _opened(file) as fd:
        found = _unmoved(fd, start, end, holes) if fd == file else extents(fd, start, end, holes)
        for extent in found:
            yield extent


def has_hole(file: "Union[str, int]", holes: str) -> bool:
    """Return whether a file is sparse, as :func:`is_sparse`. Takes, keeps and raises what :func:`extents_of` does."""
    with _opened(file) as fd:
        if fd != file:
            return is_sparse(fd, holes)
        with _offset_kept(fd):
            return is_sparse(fd, holes)


@contextlib.contextmanager
def _opened(file: "Union[str, int]") -> Iterator[int]:
    """Give a descriptor with an offset of its own; or ``file`` itself, if that cannot be opened again."""
    if isinstance(file, int):
        _check_content(os.fstat(file).st_mode, file)
        try:
            fd = open_quietly("/proc/self/fd/{}".format(file))
        except OSError:  # there is no proc, or it was opened by somebody who may do more
            fd = file
    else:
        fd = open_source(file)
    try:
        with error_path(file):  # type: ignore[arg-type]  # a descriptor names a file, as in the errors of os
            yield fd
    finally:
        if fd != file:
            os.close(fd)


@contextlib.contextmanager
def _offset_kept(fd: int) -> Iterator[None]:
    offset = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        yield
    finally:
        os.lseek(fd, offset, os.SEEK_SET)


def _unmoved(fd: int, start: int, end: Optional[int], holes: str) -> Iterator[Extent]:
    """Yield the extents of an open file, with its offset where it was whenever somebody else can see it."""
    with _offset_kept(fd):
        found = extents(fd, start, end, holes)
    while True:
        with _offset_kept(fd):
            extent = next(found, None)
        if extent is None:
            return
        yield extent


def special_file(path: "Union[str, int]") -> OSError:
    """Return shutil's error for a pipe, a socket or another device."""
    # shutil takes as long to import as the rest of the program, and only its exceptions are wanted.
    from shutil import SpecialFileError

    return SpecialFileError(errno.EINVAL, "not a regular file", path)


def stat_mode(path: str) -> Tuple[Optional[int], bool]:
    """Return the mode of ``path``, following symlinks, or None; and whether there is at least a symlink."""
    try:
        return os.stat(path).st_mode, True
    except (FileNotFoundError, NotADirectoryError):
        return None, os.path.lexists(path)


def no_directory(path: str) -> FileNotFoundError:
    """Return the error for a file that is to be made in a directory that is missing. The system's words say it of both.

    ``path``: of the file, as shutil has it.
    """
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT) + " (its directory does not exist)", path)


def check_no_lost_device(path: str) -> None:
    """Raise FileNotFoundError if a new file would be made in /dev, in memory, where a device was meant."""
    real = os.path.realpath(path)
    directory = os.path.dirname(real)
    if not real.startswith("/dev/") or real.startswith("/dev/shm/") or os.path.exists(real):
        return
    if os.path.isdir(directory) and os.stat(directory).st_dev == os.stat("/dev").st_dev:
        raise FileNotFoundError(errno.ENOENT, "there is no such device", path)


class Identity(NamedTuple):
    """What tells that a file is the one it was, with the content it had: its inode, size and times (ns)."""

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def identity(fd: int) -> Optional[Identity]:
    """Return the identity of an open file, or None if it would not show each change of its content.

    That is so for other files than regular ones, for a filesystem that is not known, and for one that counts seconds.
    """
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or not knows_holes(fd, st) or not st.st_ctime_ns % 10**9:
        return None
    return identity_of(st)


def identity_at(name: str, directory: int) -> Optional[Identity]:
    """Return the :func:`identity` of the file ``name`` in an open directory, or None also if it cannot be opened."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return None  # to open a device may set something off
        fd = open_quietly(name, os.O_NOFOLLOW, directory)
    except OSError:
        return None
    try:
        return identity(fd)
    finally:
        os.close(fd)


def identity_of(st: os.stat_result) -> Identity:
    """Return the identity in a stat, whether it shows each change or not."""
    return Identity(st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns)


def was_written(before: os.stat_result, after: os.stat_result) -> bool:
    """Return whether an open file may have been written to between two stats, even if its time was set back.

    A new mode or owner counts too, since the change time shows only the last change. A changed number of names does not
    count.
    """
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        return True
    return before.st_ctime_ns != after.st_ctime_ns and before.st_nlink == after.st_nlink


def is_past(mtime_ns: int) -> bool:
    """Return whether a file that is written to from now on gets a modification time after ``mtime_ns``.

    The kernel's clock for times of files goes on by steps of some milliseconds, which are waited for.
    """
    for _ in range(_MAX_TICKS):
        if time.clock_gettime(_CLOCK_REALTIME_COARSE) * 10**9 > mtime_ns + 1000:
            return True
        time.sleep(0.002)
    return False


class SparseStat(NamedTuple):
    """A sparse file's apparent size, most bytes of data, number of hard links and modification time.

    ``reserved``: bytes preallocated and unwritten, if they were asked for.
    ``room``: bytes that a copy may take: data and reserved bytes, or all of the size if the map is not believed.
    ``recent``: a further write may leave the modification time as it is (:func:`is_recent`).
    """

    size: int
    data: int
    links: int
    mtime_ns: int
    recent: bool
    reserved: int = 0
    room: int = 0


def cannot_tell(error: OSError) -> Optional[SparseStat]:
    """Return a stand-in for a file that could not be examined, or None if it is missing or no file."""
    return None if error.errno in _NOT_THERE else SparseStat(0, 0, 1, 0, False)


def is_recent(mtime_ns: int) -> bool:
    """Return whether a further write may leave this modification time as it is."""
    return mtime_ns > time.time() * 10**9 - _RECENT_NS


def stat_sparse(
    path: str,
    follow: bool,
    holes: str = "auto",
    reserved: bool = False,
    directory: Optional[int] = None,
    every: bool = False,
    roughly: bool = False,
) -> Optional[SparseStat]:
    """Return what a copy of a sparse file takes, or None if the file is not sparse or cannot be reached.

    A file that cannot be examined for another reason has size 0. If the map is not believed, or an error occurs,
    ``st_blocks`` counts as data, and nothing is read: the copy of the file reports the error.

    ``follow``: follow symlinks.
    ``holes``: whether the map is believed (:func:`files.claims.believes`).
    ``reserved``: count reserved bytes too.
    ``directory``: the descriptor that ``path`` is relative to, if given.
    ``every``: return what a copy of a dense file takes too.
    ``roughly``: a small file is not opened if its stat tells that most of it is a hole. Then its reserved bytes are
    counted as data.
    """
    data = kept = 0
    believed = True
    try:
        st = os.stat(path, dir_fd=directory, follow_symlinks=follow)
    except ValueError:
        return None
    except OSError as error:
        return cannot_tell(error)
    if not (stat.S_ISREG(st.st_mode) if every else may_be_sparse(st)):
        return None
    if roughly and not reserved and holes in ("auto", "trust") and _is_mostly_hole(st) and is_of_known(st):
        data = allocated(st)
        return SparseStat(st.st_size, data, st.st_nlink, st.st_mtime_ns, is_recent(st.st_mtime_ns), 0, data)
    try:
        fd = open_quietly(path, 0 if follow else os.O_NOFOLLOW, directory)
        try:
            opened = os.fstat(fd)
            if not os.path.samestat(opened, st) or is_view(fd, opened):
                return None
            believed = believes(fd, holes, opened)
            if not believed:
                data = min(allocated(st), st.st_size)
            elif reserved:
                for _, length, is_data in layers(fd, holes="trust"):
                    data, kept = (data + length, kept) if is_data else (data, kept + length)
            else:
                data = sum(length for _, length in extents(fd, holes="trust", st=opened))
        finally:
            os.close(fd)
    except OSError as error:
        if cannot_tell(error) is None:
            return None
        data, kept, believed = min(allocated(st), st.st_size), 0, False
    if data >= st.st_size and not every:
        return None
    # What is compressed takes less than it holds, and perhaps at the destination too.
    data = min(data, allocated(st), st.st_size)
    room = data + kept if believed else st.st_size
    return SparseStat(st.st_size, data, st.st_nlink, st.st_mtime_ns, is_recent(st.st_mtime_ns), kept, room)


def _is_mostly_hole(st: os.stat_result) -> bool:
    """Whether a file has little data, and a hole that is at least as large. What takes no room may be a view."""
    return looks_sparse(st) and 0 < allocated(st) <= min(_ROUGH_BYTES, st.st_size // 2)


def home(path: str) -> str:
    """Return ``path`` with a leading ``~`` replaced, as the shell does for rsync."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def check_replaceable(name: str, directory: int, path: str) -> None:
    """Raise OSError unless the file ``name`` in an open directory may be replaced, by the rules for writing to it.

    A rename would get past the file's own permissions and a read-only mount. EBUSY is for a file that is a mount point,
    which rename(2) cannot replace.
    """
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
        swaps = _is_swapped_to(fd)
        with contextlib.suppress(OSError):  # rclone misses the bytes that were not written
            os.close(fd)
        if swaps:
            raise OSError(errno.EBUSY, "the system swaps to it; swapoff ends that", path)
    except OSError as error:
        if error.errno != errno.ETXTBSY:  # a running program is what a rename may replace
            error.filename = path
            raise refusal(error, path, name, directory) from None
    fd = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=directory)
    try:
        if mount_of(fd) != mount_of(directory):
            raise OSError(errno.EBUSY, "a mount point cannot be replaced; write into it in place (--inplace)", path)
        holder = os.fstat(directory)
        if holder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, holder.st_uid, os.fstat(fd).st_uid):
            why = "only its owner may replace it (its directory is sticky); write into it in place (--inplace)"
            raise PermissionError(errno.EPERM, why, path)
    finally:
        os.close(fd)


def _is_swapped_to(fd: int) -> bool:
    try:
        os.pwrite(fd, b"", 0)
    except OSError as error:
        return error.errno == errno.ETXTBSY
    return False


def has_inodes(directory: str) -> bool:
    """Return whether a new file could be made there, as far as their number is limited."""
    with contextlib.suppress(OSError):  # it has gone meanwhile
        left = os.statvfs(directory)
        return left.f_favail > 0 or not left.f_files  # btrfs counts none
    return True
