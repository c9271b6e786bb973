"""A filesystem by FUSE that shows a directory, and refuses some calls: ``refuser.py BELOW MOUNTPOINT CALL=ERROR...``.

It is a process of its own, so that whoever uses the mount does not wait for itself. What is not refused is a call of
the C library with the path below, which gets the structures as they came. An ERROR of 0 does nothing, and says that it
is done. CALL is one of fuse_operations in fuse.h, or what :func:`_kinds` tells apart from the others.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterator
from ctypes import c_char_p, c_double, c_int, c_int64, c_size_t, c_ssize_t, c_uint, c_uint64, c_void_p
from typing import Any

_OPERATIONS = {
    "getattr": 0, "mkdir": 3, "unlink": 4, "rmdir": 5, "rename": 7, "link": 8, "chmod": 9, "chown": 10, "truncate": 11,
    "open": 12, "read": 13, "write": 14, "statfs": 15, "flush": 16, "release": 17, "fsync": 18, "setxattr": 19,
    "getxattr": 20, "listxattr": 21, "removexattr": 22, "readdir": 24, "init": 27, "create": 30, "utimens": 32,
    "flock": 38, "fallocate": 39,
}  # fmt: skip
"""Where each is in fuse_operations, of libfuse 3."""
_OPERATIONS_BYTES = 42 * 8

_BELOW = os.fsencode(sys.argv[1])
_REFUSED = {call: int(code) for call, _, code in (word.partition("=") for word in sys.argv[3:])}

_opened_now: set[int] = set()
_reached: dict[int, int] = {}
"""Where the last write to an open file has ended, unless a file was emptied since."""

_AT_FDCWD, _AT_SYMLINK_NOFOLLOW = -100, 0x100
_FILL = ctypes.CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_int64, c_int)
_LIBC = ctypes.CDLL(None, use_errno=True)


def _of_libc(name: str, *types: Any) -> Callable[..., int]:
    function = getattr(_LIBC, name)
    function.argtypes, function.restype = types, c_ssize_t if c_size_t in types else c_int

    def call(*arguments: Any) -> int:
        result: int = function(*arguments)
        return result if result >= 0 else -ctypes.get_errno()

    return call


_lstat = _of_libc("lstat", c_char_p, c_void_p)
_chmod = _of_libc("chmod", c_char_p, c_uint)
_lchown = _of_libc("lchown", c_char_p, c_uint, c_uint)
_truncate = _of_libc("truncate64", c_char_p, c_int64)
_open = _of_libc("open64", c_char_p, c_int, c_uint)
_close = _of_libc("close", c_int)
_pread = _of_libc("pread64", c_int, c_void_p, c_size_t, c_int64)
_pwrite = _of_libc("pwrite64", c_int, c_void_p, c_size_t, c_int64)
_statvfs = _of_libc("statvfs", c_char_p, c_void_p)
_fsync = _of_libc("fsync", c_int)
_lsetxattr = _of_libc("lsetxattr", c_char_p, c_char_p, c_void_p, c_size_t, c_int)
_lgetxattr = _of_libc("lgetxattr", c_char_p, c_char_p, c_void_p, c_size_t)
_llistxattr = _of_libc("llistxattr", c_char_p, c_void_p, c_size_t)
_lremovexattr = _of_libc("lremovexattr", c_char_p, c_char_p)
_utimensat = _of_libc("utimensat", c_int, c_char_p, c_void_p, c_int)
_flock = _of_libc("flock", c_int, c_int)
_fallocate = _of_libc("fallocate64", c_int, c_int, c_int64, c_int64)


def _at(path: bytes) -> bytes:
    return _BELOW + path


def _flags(info: int) -> int:
    return c_int.from_address(info).value


def _fd(info: int) -> c_uint64:
    """What fuse_file_info keeps for the open file: its descriptor below."""
    return c_uint64.from_address(info + 16)


def _kinds(call: str, *arguments: Any) -> Iterator[str]:
    """Name what a call is, by which it may be refused."""
    yield call
    if call == "rename" and _opened_now:
        yield "rename-open"
    if call == "create" and os.path.basename(arguments[0]).startswith(b"."):
        yield "hidden"
    if call in ("open", "create") and _flags(arguments[-1]) & os.O_EXCL:
        yield "exclusive"
    if call in ("open", "create") and _flags(arguments[-1]) & os.O_RDWR:
        yield "read-write"
    if call == "open" and _flags(arguments[-1]) & os.O_ACCMODE != os.O_WRONLY:
        yield "open-to-read"
    if call == "truncate" and arguments[1]:
        yield "resize"
    if call == "write" and arguments[3] != os.fstat(_fd(arguments[4]).value).st_size:
        yield "write-out-of-order"
    if call == "write" and arguments[3] != _reached.get(_fd(arguments[4]).value, 0):
        yield "write-elsewhere"


def _opened(path: bytes, mode: int, info: int) -> int:
    fd = _open(_at(path), _flags(info), mode)
    if fd >= 0:
        _fd(info).value = fd
        _opened_now.add(fd)
    return min(fd, 0)


def _closed(path: bytes, info: int) -> int:
    _opened_now.discard(_fd(info).value)
    _reached.pop(_fd(info).value, None)
    return _close(_fd(info).value)


def _written(fd: int, data: int, size: int, offset: int) -> int:
    count = _pwrite(fd, data, size, offset)
    _reached[fd] = offset + max(count, 0)
    return count


def _truncated(path: bytes, size: int) -> int:
    if not size:
        _reached.clear()
    return _truncate(path, size)


def _listed(path: bytes, into: int, fill: int, offset: int, info: int, flags: int) -> int:
    for name in os.listdir(_at(path)):
        _FILL(fill)(into, name, None, 0, 0)
    return 0


def _renamed(path: bytes, to: bytes) -> None:
    os.rename(path, to)
    if "times-by-rename" in _REFUSED:
        os.utime(to, (int(os.stat(to).st_atime), int(os.stat(to).st_mtime)))


def _done(call: Callable[..., object], *arguments: Any) -> int:
    call(*arguments)
    return 0


_CALLS: dict[str, tuple[list[Any], Callable[..., int]]] = {
    "getattr": ([c_void_p, c_void_p], lambda path, st, info: _lstat(_at(path), st)),
    "mkdir": ([c_uint], lambda path, mode: _done(os.mkdir, _at(path), mode)),
    "unlink": ([], lambda path: _done(os.unlink, _at(path))),
    "rmdir": ([], lambda path: _done(os.rmdir, _at(path))),
    "rename": ([c_char_p, c_uint], lambda path, to, flags: _done(_renamed, _at(path), _at(to))),
    "link": ([c_char_p], lambda path, to: _done(os.link, _at(path), _at(to))),
    "chmod": ([c_uint, c_void_p], lambda path, mode, info: _chmod(_at(path), mode)),
    "chown": ([c_uint, c_uint, c_void_p], lambda path, user, group, info: _lchown(_at(path), user, group)),
    "truncate": ([c_int64, c_void_p], lambda path, size, info: _truncated(_at(path), size)),
    "open": ([c_void_p], lambda path, info: _opened(path, 0, info)),
    "create": ([c_uint, c_void_p], _opened),
    "read": (
        [c_void_p, c_size_t, c_int64, c_void_p],
        lambda path, data, size, offset, info: _pread(_fd(info).value, data, size, offset),
    ),
    "write": (
        [c_void_p, c_size_t, c_int64, c_void_p],
        lambda path, data, size, offset, info: _written(_fd(info).value, data, size, offset),
    ),
    "statfs": ([c_void_p], lambda path, answer: _statvfs(_at(path), answer)),
    "flush": ([c_void_p], lambda path, info: 0),
    "release": ([c_void_p], _closed),
    "fsync": ([c_int, c_void_p], lambda path, data_only, info: _fsync(_fd(info).value)),
    "setxattr": (
        [c_char_p, c_void_p, c_size_t, c_int],
        lambda path, name, value, size, flags: _lsetxattr(_at(path), name, value, size, flags),
    ),
    "getxattr": (
        [c_char_p, c_void_p, c_size_t],
        lambda path, name, value, size: _lgetxattr(_at(path), name, value, size),
    ),
    "listxattr": ([c_void_p, c_size_t], lambda path, names, size: _llistxattr(_at(path), names, size)),
    "removexattr": ([c_char_p], lambda path, name: _lremovexattr(_at(path), name)),
    "readdir": ([c_void_p, c_void_p, c_int64, c_void_p, c_int], _listed),
    "utimens": (
        [c_void_p, c_void_p],
        lambda path, times, info: _utimensat(_AT_FDCWD, _at(path), times, _AT_SYMLINK_NOFOLLOW),
    ),
    "flock": ([c_void_p, c_int], lambda path, info, how: _flock(_fd(info).value, how)),
    "fallocate": (
        [c_int, c_int64, c_int64, c_void_p],
        lambda path, how, offset, size, info: _fallocate(_fd(info).value, how, offset, size),
    ),
}


def _refusing(call: str) -> Any:
    types, answer = _CALLS[call]

    def answered(path: bytes, *arguments: Any) -> int:
        try:
            for kind in _kinds(call, path, *arguments):
                if kind in _REFUSED:
                    return -_REFUSED[kind]
            return answer(path, *arguments)
        except OSError as error:
            return -(error.errno or errno.EIO)

    return ctypes.CFUNCTYPE(c_int, c_char_p, *types)(answered)


def _begin(connection: int, config: int) -> int:
    """Have nothing remembered, what is removed gone at once, and inodes as below: struct fuse_config."""
    (c_double * 3).from_address(config + 24)[:] = [0, 0, 0]  # entry_timeout, negative_timeout, attr_timeout
    (c_int * 2).from_address(config + 60)[:] = [1, 1]  # hard_remove, use_ino
    return 0


def main() -> int:
    """Serve until it is unmounted."""
    functions = {call: _refusing(call) for call in _CALLS}
    functions["init"] = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p)(_begin)
    table = (c_void_p * (_OPERATIONS_BYTES // 8))()
    for call, function in functions.items():
        table[_OPERATIONS[call]] = ctypes.cast(function, c_void_p).value
    os.umask(0)
    words = (c_char_p * 4)(b"refuser", b"-f", b"-s", os.fsencode(sys.argv[2]))
    fuse = ctypes.CDLL("libfuse3.so.3")
    ended: int = fuse.fuse_main_real(len(words), words, ctypes.byref(table), c_size_t(_OPERATIONS_BYTES), None)
    return ended


if __name__ == "__main__":
    sys.exit(main())
