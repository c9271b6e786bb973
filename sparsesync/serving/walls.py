"""What the kernel refuses for the rest of this process and all that it starts, whatever a path turns out to be.

With Landlock (landlock(7)) nothing can be opened, made, removed or renamed but below the root, and below what Python
and rsync need to run, which can only be read. So a directory that is replaced by a symlink between a look and an open
leads nowhere, in the engine and in rsync. Before Linux 5.19 a file could not be moved or linked to another directory in
there; such a kernel counts as one that has no Landlock.

No device can be made: it would be a way to all that is on a disk.

rsync replaces whatever its peer sends, whether it has asked for that or not: its --ignore-existing is for an honest
peer. So where only new files are to be made, it can write, and remove, in one directory only, that for its temporary
files. From there a file can be moved to a name that nothing has, and to no other.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import sys
from collections.abc import Iterator

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVS, _CAPBSET_DROP = 38, 24
_MKNOD = 27

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_REMOVE_DIR, _REMOVE_FILE = 16, 32
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_ALL = (1 << 14) - 1
"""All that the second version of Landlock knows."""
_TRUNCATE = 1 << 14
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
_CHANGES = _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE

_SYSTEM = (
    "/bin", "/sbin", "/usr", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store", "/etc/ld.so.cache",
    "/etc/ld.so.preload", "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/localtime", "/var/lib/sss",
    "/proc", "/sys/module", "/dev/urandom",
)  # fmt: skip


def build(root: int, writable: bool, temporaries: int | None = None) -> bool:
    """Have the kernel confine this process to the open directory ``root``. Returns whether it has Landlock.

    ``writable``: what is below the root may be written to.
    ``temporaries``: an open directory below the root; what is elsewhere below it stays as it is.

    Raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # Who may not do it anyway has nothing to drop.
    libc.prctl(_CAPBSET_DROP, _MKNOD, 0, 0, 0)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 2:
        return False
    handled = _ALL | (_TRUNCATE if version > 2 else 0)
    everything = handled & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK)
    inside = everything if writable else _READ
    if temporaries is not None:
        inside = everything & ~_CHANGES
    rules = _checked(libc.syscall(_CREATE_RULESET, struct.pack("=Q", handled), ctypes.c_size_t(8), 0))
    try:
        _allow(libc, rules, root, inside)
        if temporaries is not None:
            _allow(libc, rules, temporaries, everything)
        for path, rights in _needed():
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue  # this machine has none
            try:
                _allow(libc, rules, fd, rights & handled if os.path.isdir(path) else rights & handled & _OF_FILES)
            finally:
                os.close(fd)
        _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))
        _checked(libc.syscall(_RESTRICT_SELF, rules, 0))
    finally:
        os.close(rules)
    return True


def _needed() -> Iterator[tuple[str, int]]:
    """Yield what Python and rsync need besides the root, and what for."""
    yield os.devnull, _READ_FILE | _WRITE_FILE
    # Not all of sys.path: the current directory, which is a home, may be in it.
    packages = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    while not os.path.exists(ours):  # it is in a zip file
        ours = os.path.dirname(ours)
    places = {*_SYSTEM, *packages, ours, os.path.dirname(os.__file__), sys.prefix, sys.base_prefix, sys.exec_prefix}
    rsync = shutil.which("rsync")
    if rsync:
        places.add(os.path.realpath(rsync))
    for place in places:
        if os.path.isabs(place) and os.path.normpath(place) != "/":
            yield place, _READ | _EXECUTE


def _allow(libc: ctypes.CDLL, rules: int, fd: int, rights: int) -> None:
    _checked(libc.syscall(_ADD_RULE, rules, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result
