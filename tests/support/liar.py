"""A filesystem that lies about its holes: FUSE, in a process of its own, spoken to the kernel by hand.

It shows the files of a directory below, read and written as they are. What it says of them is in a file ``NAME.lie``
beside each, a JSON object:

    blocks   st_blocks, whatever is there
    data     the extents it tells of for SEEK_DATA and SEEK_HOLE, as [offset, length]
    seed     instead of "data": each answer is another one: back, no progress, beyond the end, an error, anything
    errno    instead of "data": each answer is this error

Without a lie a file is dense and has the blocks that it has. The structures are those of the kernel's
include/uapi/linux/fuse.h, protocol 7.31. Run as ``python -m tests.support.liar BELOW MOUNTPOINT``; unmounting ends it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.filesystems import command, need, need_root

_IN = struct.Struct("=IIQQIIIHH")
_OUT = struct.Struct("=IiQ")
_ATTR = struct.Struct("=6Q10I")
_ROOT = 1

(LOOKUP, FORGET, GETATTR, SETATTR) = (1, 2, 3, 4)
(OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH, INIT) = (14, 15, 16, 17, 18, 20, 25, 26)
(OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY) = (27, 28, 29, 34, 36, 38)
(BATCH_FORGET, FALLOCATE, LSEEK) = (42, 43, 46)
_SILENT = (FORGET, BATCH_FORGET, INTERRUPT)

ERRORS = (errno.ENXIO, errno.ENOENT, errno.EINVAL, errno.EIO, errno.EOPNOTSUPP, errno.EPERM)
"""Not ENOSYS: the kernel would not ask again."""


@contextlib.contextmanager
def liar(below: Path, mountpoint: Path) -> Iterator[None]:
    """The filesystem, mounted; its type is ``fuse.liar``."""
    need_root("FUSE needs root")
    need(os.path.exists("/dev/fuse"), "FUSE needs /dev/fuse")
    for directory in (below, mountpoint):
        directory.mkdir()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.liar", below, mountpoint],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert server.stdout is not None and server.stdout.readline() == b"mounted\n"
        yield
    finally:
        command("umount", "-l", mountpoint)
        server.kill()
        server.wait()


def lie(path: Path, **said: Any) -> None:
    """Have the filesystem say this of the file ``path`` below it."""
    Path(f"{path}.lie").write_text(json.dumps(said))


class _Liar:
    def __init__(self, below: str, fd: int) -> None:
        self.below = below
        self.fd = fd
        self.names = {_ROOT: ""}
        self.random: dict[int, random.Random] = {}

    def serve(self) -> None:
        while True:
            try:
                request = os.read(self.fd, 1 << 20 | 1 << 16)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                raise
            _, code, unique, node = _IN.unpack_from(request)[:4]
            if code in _SILENT:
                continue
            number, answer = 0, b""
            try:
                answer = self.answer(code, node, request[_IN.size :])
            except OSError as error:
                number = error.errno or errno.EIO
            with contextlib.suppress(FileNotFoundError):  # interrupted
                os.write(self.fd, _OUT.pack(_OUT.size + len(answer), -number, unique) + answer)

    def answer(self, code: int, node: int, body: bytes) -> bytes:
        path = os.path.join(self.below, self.names.get(node, ""))
        if code == INIT:
            return struct.pack("=IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 12, 9, 1 << 17, 1, 0, 0, 0)
        if code == LOOKUP:
            name = os.fsdecode(body.rstrip(b"\0"))
            inode = os.lstat(os.path.join(self.below, name)).st_ino
            self.names[inode] = name
            return struct.pack("=4Q2I", inode, 0, 0, 0, 0, 0) + self.attributes(inode)
        if code in (GETATTR, SETATTR):
            if code == SETATTR:
                valid, _, _, size = struct.unpack_from("=IIQQ", body)
                if valid & 8:
                    os.truncate(path, size)
            return struct.pack("=QII", 0, 0, 0) + self.attributes(node)
        if code in (OPEN, OPENDIR):
            # Direct I/O: every read and write comes here.
            return struct.pack("=QIi", os.open(path, os.O_RDWR if code == OPEN else os.O_RDONLY), 1, 0)
        if code in (RELEASE, RELEASEDIR):
            os.close(struct.unpack_from("=Q", body)[0])
            return b""
        if code == READ:
            handle, offset, size = struct.unpack_from("=QQI", body)
            return os.pread(handle, size, offset)
        if code == WRITE:
            handle, offset, size = struct.unpack_from("=QQI", body)
            return struct.pack("=II", os.pwrite(handle, body[40 : 40 + size], offset), 0)
        if code == READDIR:
            return self.entries(*struct.unpack_from("=QQI", body)[1:])
        if code == LSEEK:
            _, offset, whence = struct.unpack_from("=QQI", body)
            return struct.pack("=q", self.seek(node, path, offset, whence))
        if code == STATFS:
            return struct.pack("=5Q4I24x", 1 << 20, 1 << 19, 1 << 19, 1000, 1000, 4096, 255, 4096, 0)
        if code in (ACCESS, FLUSH, FSYNC, DESTROY):
            return b""
        raise OSError(errno.ENOSYS, "not here")

    def attributes(self, node: int) -> bytes:
        st = os.lstat(os.path.join(self.below, self.names[node]))
        blocks = self.said(node).get("blocks", st.st_blocks)
        return _ATTR.pack(
            node, st.st_size, blocks, int(st.st_atime), int(st.st_mtime), int(st.st_ctime),
            st.st_atime_ns % 10**9, st.st_mtime_ns % 10**9, st.st_ctime_ns % 10**9,
            st.st_mode, st.st_nlink, st.st_uid, st.st_gid, 0, 4096, 0,
        )  # fmt: skip

    def said(self, node: int) -> dict[str, Any]:
        try:
            return dict(json.loads(Path(self.below, self.names[node] + ".lie").read_text()))
        except FileNotFoundError:
            return {}

    def entries(self, start: int, room: int) -> bytes:
        listed = b""
        names = [".", "..", *sorted(name for name in os.listdir(self.below) if not name.endswith(".lie"))]
        for number, name in list(enumerate(names, 1))[start:]:
            kind = stat.S_IFREG if number > 2 else stat.S_IFDIR
            encoded = os.fsencode(name)
            entry = struct.pack("=QQII", number, number, len(encoded), kind >> 12) + encoded
            entry += bytes(-len(entry) % 8)
            if len(listed) + len(entry) > room:
                break
            listed += entry
        return listed

    def seek(self, node: int, path: str, offset: int, whence: int) -> int:
        said, size = self.said(node), os.stat(path).st_size
        if "seed" in said:
            return self.anything(self.random.setdefault(said["seed"], random.Random(said["seed"])), offset, size)
        if "errno" in said:
            raise OSError(said["errno"], "no")
        for start, length in said.get("data", [(0, size)]):
            if offset < start + length:
                if whence == os.SEEK_DATA:
                    return max(offset, int(start))
                return offset if offset < start else int(start + length)
        if whence == os.SEEK_DATA or offset >= size:
            raise OSError(errno.ENXIO, "no data")
        return offset

    def anything(self, choice: random.Random, offset: int, size: int) -> int:
        near = [offset + step for step in (0, 4096, 65536, -4096)]
        answer = choice.choice([*near, 0, size, size + 1, 2**62, choice.randrange(size + 1), -1])
        if answer < 0:
            raise OSError(choice.choice(ERRORS), "no")
        return answer


def main(below: str, mountpoint: str) -> None:
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other".encode()
    if libc.mount(b"liar", os.fsencode(mountpoint), b"fuse.liar", 0, options):
        raise OSError(ctypes.get_errno(), "mount")
    print("mounted", flush=True)
    _Liar(below, fd).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
