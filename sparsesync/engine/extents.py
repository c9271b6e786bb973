"""Where the data of a file is.

A sparse file is a list of data extents with holes between them. Two questions
are asked of the kernel here:

* ``st_blocks`` against ``st_size`` is the cheap one: one stat, no open. Fewer
  allocated bytes than apparent bytes means that something is missing, most
  often because there is a hole (:func:`looks_sparse`).
* ``lseek`` with ``SEEK_DATA`` and ``SEEK_HOLE`` is the truth: it walks from one
  data extent to the next without reading anything (:func:`extents`). It sees
  data that is written but not yet flushed, and it reports ranges that are
  preallocated but unwritten as holes, which is what a copy wants: they read
  as zeros.

Some filesystems do not know their holes and answer with the stub that
lseek(2) allows: the whole file is one data extent. When such an answer stands
against ``st_blocks`` the file is read, and blocks of zeros count as holes
(:func:`nonzero`). Filesystems that are known to answer truthfully are believed
even so, because there the missing blocks are compression, and reading a
terabyte of compressed data to find no hole would be a poor trade.

Some files have no extents worth the name, because the kernel writes them while they are read (proc(5),
sysfs(5)): their ``st_size`` is 0 or a page, whatever they hold. :func:`is_view` knows them, and
whoever wants their content reads on to the end.

Everything streams: a file may have millions of extents, and none of these
functions keeps more than one. All offsets and lengths are bytes. The functions
move the descriptor's file offset, so use positioned reads beside them.
"""

import errno
import os
import stat
import time
from typing import Dict, Iterator, Optional, Tuple

Extent = Tuple[int, int]

SECTOR = 512
"""The unit of ``st_blocks``, whatever the filesystem's own block: see stat(2)."""

ZERO_BLOCK = 4096
"""The unit in which zeros are looked for where a filesystem cannot tell its holes."""

_CHUNK = 256 * 1024
_ZEROS = bytes(_CHUNK)

# Their lseek knows holes (the kernel's fs/*/file.c; zfs' zfs_vnops_os.c). NFS, SMB and FUSE
# are left out on purpose: there it depends on the protocol version and on the server.
_TRUTHFUL = frozenset(
    ["ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "bcachefs", "gfs2", "ocfs2", "ceph"]
)


def allocated(st: os.stat_result) -> int:
    """Bytes of storage the file has, from its stat."""
    return st.st_blocks * SECTOR


def looks_sparse(st: os.stat_result) -> bool:
    """The cheap test: is less allocated than the apparent size?

    True for nearly every sparse file, and for compressed ones too;
    :func:`is_sparse` knows for certain.
    """
    return stat.S_ISREG(st.st_mode) and st.st_blocks * SECTOR < st.st_size


def file_size(fd: int) -> int:
    """The size in bytes of an open file; of a block device too, whose ``st_size`` is 0."""
    st = os.fstat(fd)
    return os.lseek(fd, 0, os.SEEK_END) if stat.S_ISBLK(st.st_mode) else st.st_size


def is_view(fd: int) -> bool:
    """Whether the content of an open file does not end where ``st_size`` says, as with the kernel's own views.

    The file is asked, not its filesystem: FUSE has such files too, and proc has some of a true size. Reads one
    byte, and only of a file without storage. Raises OSError as pread(2).
    """
    st = os.fstat(fd)
    if not stat.S_ISREG(st.st_mode) or st.st_blocks:
        return False
    if st.st_size == 0:
        return os.pread(fd, 1, 0) != b""
    return os.pread(fd, 1, st.st_size - 1) == b""


def is_sparse(fd: int) -> bool:
    """Whether the open file has a hole. Reads only where the filesystem cannot tell."""
    size = file_size(fd)
    return size > 0 and next(extents(fd), None) != (0, size)


def extents(fd: int, start: int = 0, end: Optional[int] = None) -> Iterator[Extent]:
    """The data extents of an open file between two offsets, ascending, as (offset, length).

    Extents are cut to [start, end). The end of the file is taken once, at the
    first step: what is appended meanwhile is not mapped, and of a file that shrinks
    meanwhile the extents that are left are mapped. Raises OSError as lseek(2)
    and, where zeros have to be looked for, as :func:`nonzero`.
    """
    size = file_size(fd)
    end = size if end is None else min(end, size)
    if start >= end:
        return
    if _answers_stub(fd, size):
        for extent in nonzero(fd, start, end - start):
            yield extent
        return
    lseek, seek_data, seek_hole = os.lseek, os.SEEK_DATA, os.SEEK_HOLE
    position = start
    try:
        while position < end:
            data = lseek(fd, position, seek_data)
            if data >= end:
                return
            position = lseek(fd, data, seek_hole)
            yield data, (position if position < end else end) - data
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from here on, or the file shrank
            return
        if error.errno == errno.EINVAL:  # a kernel or filesystem without the call
            yield position, end - position
            return
        raise


def nonzero(fd: int, offset: int, length: int, block: int = ZERO_BLOCK) -> Iterator[Extent]:
    """The parts of a range that are not zeros, found by reading, in whole blocks.

    Blocks are counted from the start of the file. Ends early if the file was truncated. Raises OSError as
    pread(2), and if there is less to read than the size says.
    """
    end = offset + length
    run_start = run_end = offset
    while offset < end:
        data = os.pread(fd, min(_CHUNK - offset % block, end - offset), offset)
        if not data:
            if file_size(fd) > offset:
                raise OSError(errno.EIO, "the file ends before its size says")
            break
        if data != _ZEROS[: len(data)]:
            at = 0
            while at < len(data):
                stop = min(at + block - (offset + at) % block, len(data))
                if data[at:stop] != _ZEROS[: stop - at]:
                    if offset + at != run_end:
                        if run_end > run_start:
                            yield run_start, run_end - run_start
                        run_start = offset + at
                    run_end = offset + stop
                at = stop
        offset += len(data)
    if run_end > run_start:
        yield run_start, run_end - run_start


def _answers_stub(fd: int, size: int) -> bool:
    """Does the filesystem call the whole file data although blocks are missing?"""
    st = os.fstat(fd)
    if not looks_sparse(st) or _is_truthful(st.st_dev):
        return False
    try:
        return os.lseek(fd, 0, os.SEEK_DATA) == 0 and os.lseek(fd, 0, os.SEEK_HOLE) >= size
    except OSError as error:
        if error.errno == errno.EINVAL:
            return True
        if error.errno == errno.ENXIO:
            return False
        raise


def filesystem_type(device: int) -> Optional[str]:
    """The type, as in mount(8), of the mounted filesystem with this ``st_dev``; None if unknown.

    From /proc/self/mountinfo (proc_pid_mountinfo(5)). A btrfs subvolume has a
    device number of its own that is not listed there.
    """
    number = "{}:{}".format(os.major(device), os.minor(device)).encode()
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            for line in table:
                fields = line.split()
                if fields[2] == number:
                    return os.fsdecode(fields[fields.index(b"-") + 1])
    except FileNotFoundError:
        pass  # a chroot without /proc: nothing is known
    return None


_truthful: Dict[int, bool] = {}
_truthful_asked = 0.0


def _is_truthful(device: int) -> bool:
    """Is the filesystem one whose lseek knows holes? Remembered for a second: a tree may ask for every file."""
    global _truthful_asked
    now = time.monotonic()
    if now - _truthful_asked > 1:
        _truthful.clear()
        _truthful_asked = now
    if device not in _truthful:
        _truthful[device] = filesystem_type(device) in _TRUTHFUL
    return _truthful[device]
