"""Open what lies below a root, whoever else may rearrange the tree meanwhile.

A path is walked one component at a time, each looked up in the descriptor of the one before. So a directory that is
replaced by a symlink while this goes on leads nowhere. There are three rules for a symlink on the way:

* below a root none is followed (:func:`open_beneath`);
* in a path that somebody typed, one is followed if it belongs to root or to the user that this runs as
  (:func:`open_trusted`): whoever could plant another may write where he planted it, and must not choose what root
  reads or writes. It is the rule of rsync 3.5.0 (rsync(1), --insecure-links);
* a source itself is followed wherever it leads, as rsync does it.

:class:`Sources` finds the files of a transfer by these rules. It keeps the directory it opened last, since the files
of one follow each other. :func:`look_at` says what a copy of each will have to hold.

:class:`Temporaries` and :func:`check_renaming` are for a directory in which files take their names.
"""

import contextlib
import errno
import os
import stat
import warnings
from typing import Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from ..errors import LeftToRsync
from .attributes import has_default_acl
from .claims import is_anybodys
from .flags import keeps_names
from .mounts import filesystem_of, hold, let_go, noted
from .status import SparseStat, cannot_tell, stat_sparse
from .syscalls import flush_directory, is_ours_alone

_RENAMING = frozenset(["fuse.rclone", "fuseblk", "vfat", "exfat", "msdos", "ntfs3"])
"""What is known to rename over a file. rclone may bring back what is removed just after it was closed."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_MAX_SYMLINKS = 40
"""Symlinks in one path, as the kernel counts them: path_resolution(7)."""


def open_beneath(root: int, path: str, create: Optional[Callable[[str], int]] = None, fsync: bool = False) -> int:
    """Open the directory ``path`` below the directory ``root``, following no symlink, and return a descriptor.

    ``create``: makes missing directories; called with the path relative to ``root``, returns the mode.
    ``fsync``: have the names of new directories on the disk.

    Raises OSError; ELOOP or ENOTDIR if a component is a symlink or not a directory.
    """
    fd = os.dup(root)
    done = ""
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == "..":
            os.close(fd)
            raise OSError(errno.EINVAL, "'..' in a path below the destination", path)
        done = part if not done else done + "/" + part
        try:
            try:
                below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except FileNotFoundError:
                if create is None:
                    raise
                os.mkdir(part, create(done), dir_fd=fd)
                if fsync:
                    flush_directory(fd, done)
                below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                mode = _mode(os.fstat(below))
                if mode & stat.S_IRWXU != stat.S_IRWXU:  # as the umask has it
                    os.fchmod(below, mode | stat.S_IRWXU)
        except OSError as error:
            error.filename = done
            raise
        finally:
            os.close(fd)
        fd = below
    return fd


def deepest(root: int, path: str) -> str:
    """Return the part of ``path``, relative to the directory ``root``, that is there. No symlink is followed."""
    while path:
        with contextlib.suppress(OSError):
            os.close(open_beneath(root, path))
            break
        path = os.path.dirname(path)
    return path


def open_trusted(path: str, flags: int = _DIRECTORY, start: Optional[int] = None, mode: int = 0o666) -> int:
    """Open a directory, by default for reading, or a file, following only symlinks of root or of our own user.

    ``flags``: as of open(2). Without O_DIRECTORY a file is opened.
    ``start``: the open directory that a relative path begins in, if not the current one.
    ``mode``: the mode of a file that is made, less the umask.

    Raises OSError as open(2); ELOOP for a symlink of somebody else.
    """
    left = _MAX_SYMLINKS
    rest = [part for part in path.split("/") if part not in ("", ".")][::-1]
    fd = os.open("/" if path.startswith("/") else ".", _ON_THE_WAY, dir_fd=start)
    try:
        while rest:
            part = rest.pop()
            if not (rest or flags & os.O_DIRECTORY):
                try:
                    return os.open(part, flags | os.O_NOFOLLOW, mode, dir_fd=fd)
                except OSError as error:
                    if error.errno != errno.ELOOP:
                        raise
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            st = os.fstat(below)
            if stat.S_ISLNK(st.st_mode):
                try:
                    left -= 1
                    if st.st_uid not in (0, os.geteuid()) or not left:
                        raise OSError(errno.ELOOP, "{}, of user {}, is a symlink".format(part, st.st_uid))
                    target = os.readlink("", dir_fd=below)
                finally:
                    os.close(below)
                rest += [part for part in target.split("/") if part not in ("", ".")][::-1]
                if not target.startswith("/"):
                    continue
                below = os.open("/", _ON_THE_WAY)
            os.close(fd)
            fd = below
        return os.open(".", flags, dir_fd=fd)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)


def make_directory(path: str, mode: int, parents: bool, fsync: bool) -> None:
    """Make the directory ``path``, as a user gave it.

    ``parents``: make missing parents too, with the mode of the umask.
    ``fsync``: have the new names on the disk.

    Raises OSError as mkdir(2).
    """
    above = os.path.dirname(path.rstrip("/")) or "."
    if parents and not os.path.isdir(above):
        with contextlib.suppress(FileExistsError):  # made meanwhile
            make_directory(above, 0o777, True, fsync)
    os.mkdir(path, mode)
    if fsync:
        holder = open_trusted(above)
        try:
            flush_directory(holder, path)
        finally:
            os.close(holder)


class Temporaries:
    """The directory for a destination's temporary files: ``path``, or that of each file."""

    def __init__(self, path: Optional[str]) -> None:
        self._path = path
        self._fd: Optional[int] = None

    def directory(self, beside: int) -> int:
        """Return the descriptor of the directory for a temporary file, whose file is in the directory ``beside``.

        Raises LeftToRsync if the temporary file could not be renamed into ``beside``, or would get other attributes.
        """
        if self._path is None:
            return beside
        try:
            if self._fd is None:
                self._fd = open_trusted(self._path)
            st = os.fstat(self._fd)
            inherited = st.st_mode & stat.S_ISGID or has_default_acl(self._fd)
        except OSError as error:
            raise LeftToRsync("--temp-dir: {}: {}".format(self._path, error.strerror)) from None
        if st.st_dev != os.fstat(beside).st_dev:
            raise LeftToRsync("--temp-dir is on another filesystem")
        if inherited or not (is_ours_alone(st) or st.st_mode & stat.S_ISVTX):
            raise LeftToRsync("--temp-dir gives files a group, an ACL or another name")
        return self._fd

    def close(self) -> None:
        """Close the directory."""
        if self._fd is not None:
            os.close(self._fd)


def check_renaming(directory: int, path: str, new: bool) -> Optional[str]:
    """Raise OSError if a file in an open directory cannot take the name of another, or a ``new`` one.

    Where nothing is known of the filesystem, that is tried with small files, once as long as it is mounted. Returns the
    name of one that cannot be removed, but renamed, so that it may become the file that is to be written.

    ``path``: the file that is to be written, in messages.
    """
    if keeps_names(directory):
        why = "its directory is append-only; chattr -a lifts that, or write into it in place (--inplace)"
        raise PermissionError(errno.EPERM, why, path)
    st = os.fstat(directory)
    if not is_anybodys(directory, st) or filesystem_of(directory, st) in _RENAMING:
        return None
    works = st.st_dev, "renames to a new name" if new else "replaces"
    if works in noted():
        return None
    names = [".sparsesync." + os.urandom(4).hex() for _ in range(2)]
    try:
        for name in names[new:]:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
            try:
                os.write(fd, b"\0")  # rclone makes an empty one late
            finally:
                os.close(fd)
    except OSError:
        return None  # whoever makes the file will tell
    else:
        try:
            os.replace(names[1], names[0], src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            text = "its filesystem cannot {} a file ({}); write into it in place (--inplace)"
            why = text.format("rename" if new else "replace", error.strerror)
            raise OSError(error.errno, why, path) from None
        noted().add(works)
        if not _is_removed(names[0], directory):
            return names.pop(0)
    finally:
        for name in names:
            if not _is_removed(name, directory):
                what = "{}: it was made to try the filesystem, and cannot be removed"
                place = os.path.join(os.path.dirname(path), name)
                warnings.warn(what.format(place), RuntimeWarning, stacklevel=2)
    return None


def _is_removed(name: str, directory: int) -> bool:
    """Remove a file, and return whether there is none of that name."""
    with contextlib.suppress(OSError):
        os.unlink(name, dir_fd=directory)
    return not os.access(name, os.F_OK, dir_fd=directory, follow_symlinks=False)


class Found(NamedTuple):
    """The location of a source file: its name in ``directory``, a descriptor.

    ``directory`` is None if the path is to be followed as it is. ``modes`` are those of the directories between the
    root and the file.
    """

    directory: Optional[int]
    name: str
    modes: List[int]


class Sources:
    """The files of a source, found by path. A context manager.

    ``follow``: follow symlinks everywhere, as an option of rsync asks.
    ``listed``: the files have no common root, since each was named by a whole path (``--files-from``, ``--relative``).
    The directories of each are opened as those of a path that a user gave.
    """

    def __init__(self, follow: bool = False, listed: bool = False) -> None:
        self.follow = follow
        self.listed = listed
        self._last: Optional[Tuple[str, str, bool]] = None
        self._directory = self._device = -1
        self._modes: List[int] = []

    def find(self, path: str, name: str) -> Found:
        """Return where the file ``path`` is. The descriptor is valid until the next call.

        ``name``: the file's name in the transfer, which ``path`` ends with.

        Raises OSError; ELOOP or ENOTDIR if a component is a symlink that is not followed, or no directory.
        """
        # This is asked of every file that rsync lists.
        # The slash stays: "/f" and "f" are in different directories.
        cut = path.rfind("/") + 1
        holder, base = path[:cut], path[cut:]
        parent, _, last = name.rpartition("/")
        where = holder, parent, base == last
        if self._last != where:
            self.close()
            self._modes = []
            if path == name or path.endswith("/" + name):
                self._directory = self._open(path[: len(path) - len(name)], parent)
            else:
                self._directory = self._open(os.path.dirname(path), "")
            if self._directory >= 0:
                self._device = hold(self._directory)
            self._last = where
        if self.follow:
            return Found(None, path, self._modes)
        return Found(self._directory, base, self._modes)

    def _open(self, above: str, parent: str) -> int:
        parts = [part for part in parent.split("/") if part]
        if self.follow:
            self._modes = [_mode(os.stat(os.path.join(above, *parts[: n + 1]))) for n in range(len(parts))]
            return -1
        fd = open_trusted(above, _ON_THE_WAY) if self.listed else os.open(above or ".", _ON_THE_WAY)
        done = ""
        for part in parts:
            done = os.path.join(done, part)
            try:
                if self.listed:
                    below = open_trusted(os.path.join(above, done), _ON_THE_WAY)
                else:
                    below = os.open(part, _ON_THE_WAY | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                error.filename = os.path.join(above, done)
                raise
            finally:
                os.close(fd)
            fd = below
            self._modes.append(_mode(os.fstat(fd)))
        return fd

    def close(self) -> None:
        """Close the directory."""
        if self._device >= 0:
            let_go(self._device)
        if self._directory >= 0:
            os.close(self._directory)
        self._last, self._directory, self._device = None, -1, -1

    def __enter__(self) -> "Sources":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _mode(st: os.stat_result) -> int:
    return stat.S_IMODE(st.st_mode)


def look_at(
    files: Iterable[Tuple[str, str]],
    sources: Sources,
    holes: str,
    reserved: bool,
    every: bool = False,
    roughly: bool = False,
) -> Iterator[Optional[SparseStat]]:
    """Yield :func:`files.status.stat_sparse` of each file, given by its path and its name."""
    for path, name in files:
        try:
            found = sources.find(path, name)
        except OSError as error:
            yield cannot_tell(error)
            continue
        yield stat_sparse(found.name, sources.follow, holes, reserved, found.directory, every, roughly)
