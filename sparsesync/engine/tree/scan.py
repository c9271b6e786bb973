"""Walk a tree and find its sparse files.

One ``lstat`` per file decides: fewer bytes allocated than the apparent size, or large enough (1 MiB) to have
reserved ranges, which are holes though they are allocated. Only
the files that pass are opened, to ask whether there really is a hole
(see :mod:`files.extents`); compressed and inlined files look alike but have none.
Nothing is kept while walking but the directories still to visit and, unless
every link is wanted, the inode numbers of sparse files with several links.
In a large tree a second process may look through a part of them (:mod:`scan_helper`).

Filesystems that exist only in the kernel (proc, sysfs and the like) are never
entered: /proc/kcore shows 128 TiB and allocates nothing, and no copy wants it.
Symlinks are never followed, except a starting path that ends in a slash, which
names the directory behind the link, as everywhere; or any starting path, if that
is wanted.
"""

import contextlib
import errno
import os
import stat
from functools import partial
from typing import (
    Any,
    Callable,
    Collection,
    Dict,
    Generator,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from ..errors import OnError
from ..files.claims import (
    MIN_DENSE_BYTES,
    SECTOR_BYTES,
    allocated,
    believes,
    looks_sparse,
    may_be_sparse,
)
from ..files.extents import is_sparse
from ..files.mounts import filesystem_type
from ..files.status import open_quietly
from ..second import possible
from .left_out import LeftOut, left_out
from .scan_helper import Found, Helper

# The kernel's own views; see filesystems(5) and the kernel's Documentation/filesystems. devtmpfs is none: as in any
# tmpfs, files in it hold what was written to them, and /dev/shm may be a directory of it.
_KERNEL_VIEWS = frozenset(
    [
        "autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs",
        "fusectl", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs", "securityfs", "selinuxfs",
        "sysfs", "tracefs",
    ]
)  # fmt: skip

_MIN_WAITING_DIRECTORIES = 32
"""Directories that wait when the tree is taken for a large one."""


class Sparse(NamedTuple):
    """A file that was found, with its apparent and allocated size in bytes.

    Two are equal if path and sizes are: in ``st`` there is when the file was last read.
    """

    path: str
    size: int
    allocated: int
    st: os.stat_result

    @property
    def saved(self) -> int:
        """The bytes of the apparent size that are not allocated."""
        return max(0, self.size - self.allocated)

    def asdict(self) -> Dict[str, Any]:
        """Return path and sizes, for JSON."""
        return {"path": self.path, "size": self.size, "allocated": self.allocated, "saved": self.saved}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sparse) and self[:3] == other[:3]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self[:3])


@contextlib.contextmanager
def _entries(directory: str) -> "Iterator[Iterator[os.DirEntry[str]]]":
    """Give the entries of a directory, each looked up beneath its descriptor: from the root takes a third longer."""
    if os.scandir not in os.supports_fd:  # Python 3.6
        with os.scandir(directory) as entries:
            yield entries
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with os.scandir(fd) as entries:
            yield entries
    finally:
        os.close(fd)


def _look_through(directory: str, min_size: int, every_file: bool, skip: LeftOut) -> Iterator[Tuple[str, Found]]:
    """Of what is in a directory the directories, and the files that may be sparse; or an error instead of the stat.

    A directory that is left out is not even looked at: it may be a mount that does not answer.
    """
    prefix = os.path.join(directory, "")
    sector, asked_from = SECTOR_BYTES, 0 if every_file else MIN_DENSE_BYTES
    try:
        with _entries(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False):
                        st = entry.stat(follow_symlinks=False)
                        # As may_be_sparse(), which is called too often here.
                        size = st.st_size
                        may_be = (st.st_blocks * sector < size or size >= asked_from) and size >= min_size
                        if may_be and not (skip and skip(prefix + entry.name, False)):
                            yield prefix + entry.name, st
                    elif entry.is_dir(follow_symlinks=False) and not (skip and skip(prefix + entry.name, True)):
                        yield prefix + entry.name, entry.stat(follow_symlinks=False)
                except OSError as error:
                    yield prefix + entry.name, error
    except OSError as error:
        yield directory, error


def _pruned(prune: Collection[str], skip: LeftOut, path: str, directory: bool) -> bool:
    return (directory and path in prune) or (skip is not None and skip(path, directory))


def _has_hole(file: str, st: os.stat_result, holes: str, reading: bool) -> bool:
    """Whether a file that may be sparse is; for the parameters see :func:`scan`."""
    try:
        fd = open_quietly(file, os.O_NOFOLLOW)
    except (PermissionError, BlockingIOError):
        if looks_sparse(st):
            raise
        return False  # by its stat it has none, and nobody can copy it
    try:
        if not reading and not believes(fd, holes):
            return looks_sparse(st)
        return is_sparse(fd, holes)
    finally:
        os.close(fd)


class ScanOptions(NamedTuple):
    """What a scan finds. The fields are parameters of :func:`sparsesync.api.trees.scan`."""

    one_file_system: bool = False
    every_link: bool = False
    every_file: bool = False
    min_size: int = 0
    prune: Collection[str] = ()
    follow: bool = False
    holes: str = "auto"
    rules: Optional[Sequence[Any]] = None
    """A :class:`.left_out.NameRules`: what else is not looked at."""


def scan(
    path: str,
    options: ScanOptions = ScanOptions(),  # noqa: B008
    *,
    parallel: bool = False,
    reading: bool = True,
    on_error: OnError = None,
    check: Optional[Callable[[], object]] = None,
    waiting: Optional[List[str]] = None,
) -> Generator[Sparse, None, None]:
    """Yield each sparse regular file at or below ``path``. The paths begin with ``path`` as it was given.

    ``parallel``: a second process may help, and files are yielded in any order.
    ``reading``: read a file whose map is not believed, and whose ``st_blocks`` indicate a hole. Otherwise ``st_blocks``
    decides.
    ``on_error``: called with the OSError of what cannot be examined below ``path``, and the walk goes on. Without it
    the error is raised.
    ``check``: called for each directory; what it raises ends the scan.
    ``waiting``: directories below ``path`` that are to be looked through, the last one first; if it is empty, ``path``
    is. What the scan has not come to when it ends is left there.

    Raises OSError if ``path`` itself cannot be examined.
    """
    one_file_system, every_link, every_file, min_size, prune, follow, holes, rules = options
    if follow and os.path.islink(path):
        path = path + "/" if os.path.isdir(path) else os.path.realpath(path)
    top = os.stat(path) if path.endswith("/") else os.lstat(path)
    if follow and not stat.S_ISREG(top.st_mode) and not stat.S_ISDIR(top.st_mode):
        raise OSError(errno.EINVAL, "is neither a file nor a directory", path)
    skip = left_out(path, rules)
    if prune:
        skip = partial(_pruned, prune, skip)
    if skip is not None and skip(path, stat.S_ISDIR(top.st_mode)):
        return
    seen: Set[Tuple[int, int]] = set()
    entered = {top.st_dev: filesystem_type(top.st_dev) not in _KERNEL_VIEWS}
    waiting = [] if waiting is None else waiting

    def decide(file: str, found: Found) -> Optional[Sparse]:
        try:
            if isinstance(found, OSError):
                raise found
            if stat.S_ISDIR(found.st_mode):
                enter(file, found.st_dev)
                return None
            return examine(file, found)
        except OSError as error:
            error.filename = file
            if on_error is None:
                raise
            on_error(error)
            return None

    def enter(directory: str, device: int) -> None:
        if device not in entered:
            entered[device] = not one_file_system and filesystem_type(device) not in _KERNEL_VIEWS
        if entered[device]:
            waiting.append(directory)

    def examine(file: str, st: os.stat_result) -> Optional[Sparse]:
        inode = (st.st_dev, st.st_ino)
        if not every_link and st.st_nlink > 1 and inode in seen:
            return None
        if not every_file and not _has_hole(file, st, holes, reading):
            return None
        if st.st_nlink > 1:
            seen.add(inode)
        return Sparse(file, st.st_size, allocated(st), st)

    if not stat.S_ISDIR(top.st_mode):
        if stat.S_ISREG(top.st_mode) and entered[top.st_dev] and top.st_size >= min_size:
            sparse = examine(path, top) if every_file or may_be_sparse(top) else None
            if sparse:
                yield sparse
        return
    if not waiting:
        enter(path, top.st_dev)
    look_through = partial(_look_through, min_size=min_size, every_file=every_file, skip=skip)
    helper = None
    try:
        while waiting or (helper is not None and helper.busy):
            if check is not None:
                check()
            if helper is None and parallel and len(waiting) >= _MIN_WAITING_DIRECTORIES and possible():
                helper = Helper(look_through)
            if helper is not None:
                helper.give(waiting)
            if waiting:
                for file, found in look_through(waiting.pop()):
                    sparse = decide(file, found)
                    if sparse:
                        yield sparse
            if helper is not None:
                for file, found in helper.answers(wait=not waiting):
                    sparse = decide(file, found)
                    if sparse:
                        yield sparse
    finally:
        if helper is not None:
            helper.close()
