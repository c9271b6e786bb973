"""What is claimed of the holes of a file, and whose claim is believed.

A hole is a claim: somebody says that a range reads as zeros, and whoever believes it does not read. A claim can be
false, so the first question is who makes it:

* ``st_blocks`` against ``st_size`` is the cheap claim: one stat, no open. Fewer allocated bytes than apparent
  bytes means that something is missing, most often because there is a hole (:func:`looks_sparse`).
* The map of an open file, which its filesystem gives by lseek(2) and FIEMAP (:mod:`extents`), is the other.

:func:`believes` decides for an open file, by the table :data:`_WORD` of filesystems::

    TRUST   a local filesystem that is known: its map is believed
    CHECK   a protocol that has holes, but the server's word: believed if some blocks of its holes are zeros
    READ    anything else: it is read, as rsync reads it, and blocks of zeros are the holes

Some files have no extents worth the name, because the kernel writes them while they are read (proc(5),
sysfs(5)): their ``st_size`` is 0 or a page, whatever they hold. :func:`is_view` knows them, and
whoever wants their content reads on to the end.

All sizes and offsets are bytes. The functions move the descriptor's file offset, so use positioned reads beside them.
"""

import errno
import os
import stat
import warnings
from typing import Iterator, Optional, Tuple

from . import fiemap
from .flags import is_compressed
from .mounts import filesystem_of, held_type, mount_of, mounted

SECTOR_BYTES = 512
"""The unit of ``st_blocks``, whatever the filesystem's own block: see stat(2)."""

ZERO_BLOCK_BYTES = 4096
"""The unit in which zeros are looked for where a filesystem's word does not count."""

MIN_DENSE_BYTES = 1 << 20
"""The apparent size from which a file is asked for holes though its ``st_blocks`` say that it has none."""

HOLES = ("auto", "trust", "check", "read")
"""Whether a map is believed: by the table, always, if a sample agrees, never."""

_TRUST, _CHECK, _READ = "trust", "check", "read"

_WORD = {
    # Local. Their lseek walks the extents and the page cache: fs/NAME/file.c and fs/iomap/seek.c in the kernel.
    "ext4": _TRUST, "ext3": _TRUST, "xfs": _TRUST, "btrfs": _TRUST, "tmpfs": _TRUST, "devtmpfs": _TRUST,
    "f2fs": _TRUST,
    "bcachefs": _TRUST, "gfs2": _TRUST, "ocfs2": _TRUST,
    "zfs": _TRUST,  # but see _zfs_loses_data
    # Two drivers: ext4's knows holes, ext2's own has no lseek for them and says that all is data.
    "ext2": _CHECK,
    # The server answers. NFS has SEEK since 4.2 (RFC 7862), SMB 3 has FSCTL_QUERY_ALLOCATED_RANGES ([MS-FSCC]).
    "nfs": _CHECK, "nfs4": _CHECK, "cifs": _CHECK, "smb3": _CHECK, "ceph": _CHECK,
    # Hands both questions to the file below, whose filesystem has no name here: see _overlays_unknown.
    "overlay": _CHECK,
    # Somebody's program answers, and may tell the holes of another file than the one it shows (gocryptfs -reverse).
    "fuse": _READ, "fuseblk": _READ, "9p": _READ, "virtiofs": _READ,
}  # fmt: skip
"""Whose word counts. What is not here, and any ``fuse.NAME``, is read."""

_CACHE_HIDES = frozenset(["ext4", "ext3", "xfs"])
"""Where SEEK_DATA calls what is reserved data once it is cached (fs/iomap/seek.c), and FIEMAP, after a flush, does not.

A flush (sync_file_range(2)) ends there only when what was written to a reserved range is unwritten no more. That is
not so on btrfs, and an overlay flushes nothing that is below it."""

_CHEAP_ON_BTRFS = (6, 2)
"""The first kernels whose FIEMAP does not take minutes on btrfs if extents are shared. SEEK_HOLE passes over
reserved ranges there that are shared with a clone."""

_ZFS_VERSION = "/sys/module/zfs/version"

_SAMPLED_HOLES = 16

_COMPRESSING = {"btrfs": "compress", "f2fs": "compress_algorithm", "zfs": "", "bcachefs": "", "ubifs": ""}
"""Filesystems that compress, and how the mount option begins that says so; "": nobody but the filesystem knows."""


def allocated(st: os.stat_result) -> int:
    """Return the allocated size in bytes, from a stat."""
    return st.st_blocks * SECTOR_BYTES


def looks_sparse(st: os.stat_result) -> bool:
    """Return whether the allocated size is less than the apparent size.

    That is true for nearly every sparse file, and for compressed files too. :func:`is_sparse` is exact.
    """
    return stat.S_ISREG(st.st_mode) and st.st_blocks * SECTOR_BYTES < st.st_size


def may_be_sparse(st: os.stat_result) -> bool:
    """Return whether the map of a file is worth reading: the file looks sparse, or is large."""
    return looks_sparse(st) or (stat.S_ISREG(st.st_mode) and st.st_size >= MIN_DENSE_BYTES)


def file_size(fd: int, st: Optional[os.stat_result] = None) -> int:
    """Return the size in bytes of an open file, or of a block device, whose ``st_size`` is 0. ``st``: its stat."""
    st = os.fstat(fd) if st is None else st
    return os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(st.st_mode) else st.st_size


def is_view(fd: int, st: Optional[os.stat_result] = None) -> bool:
    """Return whether an open file's content does not end at ``st_size``, as in proc and sysfs.

    The file is tested, not its filesystem: FUSE has such files too, and some in proc have a true size. One byte is
    read, and only if the file has no storage.

    ``st``: the file's stat, if it was just taken.

    Raises OSError as pread(2).
    """
    st = os.fstat(fd) if st is None else st
    if not stat.S_ISREG(st.st_mode) or st.st_blocks:
        return False
    if st.st_size == 0:
        return os.pread(fd, 1, 0) != b""
    return os.pread(fd, 1, st.st_size - 1) == b""


def check_holes(holes: str) -> None:
    """Raise ValueError for an unknown choice."""
    if holes not in HOLES:
        raise ValueError("holes must be 'auto', 'trust', 'check' or 'read', not {!r}".format(holes))


def believes(fd: int, holes: str = "auto", st: Optional[os.stat_result] = None) -> bool:
    """Return whether the map of an open file is believed. If it is not, the file must be read to find its holes.

    ``holes``: "auto" decides by filesystem, and never believes a block device, which has no map. "trust" believes, and
    "read" does not. "check" believes unless a block of a claimed hole holds data; then it warns (RuntimeWarning) of the
    offset. A map without holes is not believed, unless its filesystem is trusted.

    ``st``: the file's stat, if it was just taken.

    Raises ValueError for another ``holes``, OSError as fstat(2), and as pread(2) of a hole.
    """
    st = os.fstat(fd) if st is None else st
    if holes in ("auto", "trust") and stat.S_ISREG(st.st_mode) and is_of_known(st):
        return True
    check_holes(holes)
    word = _READ if stat.S_ISBLK(st.st_mode) else _word(fd, st)
    if word == _TRUST and holes in ("auto", "trust"):
        return True
    if holes == "auto":
        holes = word
    if holes == _READ:
        return False
    if word != _TRUST and (looks_sparse(st) or word == _READ) and _claims_none(fd):
        return False
    return holes == _TRUST or _holds(fd)


def knows_holes(fd: int, st: Optional[os.stat_result] = None) -> bool:
    """Return whether an open file is on a filesystem whose map needs no check. ``st``: its stat, if that is known."""
    if st is not None and is_of_known(st):
        return True
    return _word(fd, st) == _TRUST


def is_of_known(st: os.stat_result) -> bool:
    """Return whether a file with this stat is on a filesystem that is held, and whose map needs no check.

    If not, the file has to be open to tell (:func:`knows_holes`).
    """
    name = held_type(st.st_dev)
    return name != "zfs" and _WORD.get(name) == _TRUST  # whose version would have to be asked for


def is_anybodys(fd: int, st: Optional[os.stat_result] = None) -> bool:
    """Return whether nothing is known of the filesystem of an open file or directory: it may be anybody's program.

    ``st``: its stat, if that is known.
    """
    return _WORD.get(filesystem_of(fd, st), _READ) == _READ


def cache_hides(fd: int) -> bool:
    """Return whether SEEK_DATA takes cached reserved ranges of an open file for data, which FIEMAP does not."""
    return filesystem_of(fd) in _CACHE_HIDES


def asks_fiemap(fd: int, st: Optional[os.stat_result] = None) -> bool:
    """Return whether FIEMAP improves on SEEK_DATA for an open file, and is not slow. ``st``: its stat, if known."""
    name = filesystem_of(fd, st)
    return name in _CACHE_HIDES or name == "overlay" or (name == "btrfs" and _kernel() >= _CHEAP_ON_BTRFS)


def _kernel() -> Tuple[int, ...]:
    try:
        return tuple([int(number) for number in os.uname().release.split(".")[:2]])
    except ValueError:
        return (0,)


def _claims_none(fd: int) -> bool:
    """Return whether the map of an open file has no hole, or there is no map.

    lseek(2) lets a filesystem that knows no holes answer so.
    """
    try:
        return os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 0, os.SEEK_HOLE) >= file_size(fd)
    except OSError as error:
        return error.errno != errno.ENXIO


def _holds(fd: int) -> bool:
    """Whether a sample of the holes that the map claims holds nothing but zeros; if not, a warning says where."""
    for offset, length in _sampled(fd, file_size(fd)):
        data = os.pread(fd, length, offset)
        if data.strip(b"\0"):
            warnings.warn(
                "{}: {} tells of a hole, and there is data at {}: its holes are not believed, all of it is read".format(
                    _name_of(fd), filesystem_of(fd) or "its filesystem", offset + len(data) - len(data.lstrip(b"\0"))
                ),
                RuntimeWarning,
                stacklevel=1,  # so that it is told once, whoever asks
            )
            return False
    return True


def _sampled(fd: int, size: int) -> Iterator[Tuple[int, int]]:
    """Blocks in the holes that the map claims, as (offset, length): at both ends of some holes, and two between.

    The holes are those next to offsets that are spread over the file, the first hole among them, so that it takes few
    calls however many there are: each may be one to a server.
    """
    after = 0
    for number in range(_SAMPLED_HOLES + 1):
        at = max(after, size * number // _SAMPLED_HOLES)
        if number == _SAMPLED_HOLES:
            at = max(after, size - ZERO_BLOCK_BYTES)
        if at >= size:
            return
        try:
            first = os.lseek(fd, at, os.SEEK_HOLE)
            if first >= size:
                return
            if first < at:
                continue
            try:
                after = min(os.lseek(fd, first, os.SEEK_DATA), size)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                after = size
        except OSError:
            return  # what it cannot tell is data
        if after > first:
            room = after - first
            last = max(first, after - ZERO_BLOCK_BYTES)
            for offset in (first, first + _random(room), first + _random(room), last):
                yield min(offset, last), min(ZERO_BLOCK_BYTES, room)  # a hole may be smaller than a block of ours


def _random(limit: int) -> int:
    # Not the same places each time. The module "random" takes long to import.
    return int.from_bytes(os.urandom(8), "little") % limit


def _name_of(fd: int) -> str:
    try:
        return os.readlink("/proc/self/fd/{}".format(fd))
    except OSError:
        return "a file"


def _word(fd: int, st: Optional[os.stat_result]) -> str:
    """Whether the map of an open file is to be trusted, to be checked, or not to be asked for."""
    name = filesystem_of(fd, st)
    word = _WORD.get(name, _READ)
    if name == "zfs" and _zfs_loses_data():
        return _READ
    if name == "overlay" and _overlays_unknown(fd):
        return _READ
    return word


def _zfs_loses_data() -> bool:
    """OpenZFS before 2.1.14 and 2.2.2 may call data a hole that was written a moment ago: its issue 15526."""
    try:
        with open(_ZFS_VERSION) as file:
            numbers = [int(number) for number in file.read().split("-")[0].split(".")[:3]]
    except (OSError, ValueError):
        return True  # nobody knows
    return numbers < [2, 1, 14] or [2, 2] <= numbers < [2, 2, 2]


def _overlays_unknown(fd: int) -> bool:
    """Whether the file below one of an overlay is on a filesystem that may be anybody's: FUSE and 9p have no FIEMAP."""
    try:
        fiemap.records(fd, 0, 1)
    except OSError:
        return True
    return False


def may_compress(fd: int) -> bool:
    """Return whether data written to an open file, or below an open directory, may be compressed, or stored once only.

    Free space does not say what fits then. The filesystem's options decide, or the file's own flag: chattr(1). Of an
    overlay it is the filesystem that is written to, if that can be reached.
    """
    name, options = mounted(os.fstat(fd).st_dev, mount_of(fd))
    if name == "overlay":
        return any(_upper_may_compress(each[9:]) for each in options.split(",") if each.startswith("upperdir="))
    option = _COMPRESSING.get(name or "")
    return is_compressed(fd) or (option is not None and any(each.startswith(option) for each in options.split(",")))


def _upper_may_compress(path: str) -> bool:
    try:
        upper = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False  # in a container it is out of reach
    try:
        return may_compress(upper)
    finally:
        os.close(upper)
