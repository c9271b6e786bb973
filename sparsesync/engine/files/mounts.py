"""Which filesystem a file is on.

The mount by which the file was opened tells that, in the kernel's table (proc_pid_mountinfo(5)). A device number does
not: a btrfs subvolume has one that is listed nowhere. What is known of a filesystem is forgotten at the next mount or
unmount, which may give its number to another. No other gets it while a file of it is open: what is going to be asked
for many files of one filesystem is held so long (:func:`hold`), and the table is not looked at.

In a chroot whose root is no mount point, the table does not have the mount that it is on. Then statfs(2) tells a few
filesystems, by numbers that no other one has.
"""

import contextlib
import os
import select
from typing import Dict, List, Optional, Set, Tuple

_MAGIC = {
    0x58465342: "xfs", 0x9123683E: "btrfs", 0x01021994: "tmpfs", 0xF2F52010: "f2fs",
    0x0BD00BD0: "lustre",
    0xEF53: "ext2",  # or ext3 or ext4: this is the one that is believed least
}  # fmt: skip
"""What statfs(2) has in f_type: linux/magic.h, and Lustre's lustre_user.h."""
_STATFS_BYTES = 256


def filesystem_type(device: int, mount: bytes = b"") -> Optional[str]:
    """Return the type, as in mount(8), of a mount, by its ID, or else ``st_dev``; None if unknown."""
    return mounted(device, mount)[0]


def mounted(device: int, mount: bytes) -> Tuple[Optional[str], str]:
    """Return the type and the filesystem's own options of a mount, by its ID, or else ``st_dev``; None if unknown."""
    number = "{}:{}".format(os.major(device), os.minor(device)).encode()
    try:
        with open("/proc/self/mountinfo", "rb") as table:
            for line in table:
                fields = line.split()
                if fields[0] == mount if mount else fields[2] == number:
                    rest = [os.fsdecode(field) for field in fields[fields.index(b"-") + 1 :]]
                    return rest[0], rest[-1]
    except FileNotFoundError:
        pass  # a chroot without /proc: nothing is known
    return None, ""


def filesystem_of(fd: int, st: Optional[os.stat_result] = None) -> str:
    """Return the type of the filesystem of an open file, or "" if unknown.

    It is remembered by device number until the next mount or unmount, which may reuse the number.

    ``st``: the file's stat, if it is known.
    """
    device = (os.fstat(fd) if st is None else st).st_dev
    for held in _held.get(device, ()):
        return held
    types = _mounts.types()
    name = types.get(device)
    if name is None:
        name = types[device] = filesystem_type(device, mount_of(fd)) or _by_magic(fd)
    return name


def _by_magic(fd: int) -> str:
    try:
        import ctypes
    except ImportError:  # a Python without it
        return ""
    answer = ctypes.create_string_buffer(_STATFS_BYTES)
    if ctypes.CDLL(None, use_errno=True).fstatfs(fd, answer):
        return ""
    return _MAGIC.get(ctypes.c_ulong.from_buffer(answer).value, "")  # it comes first


class _Mounts:
    """The table of mounts, which poll(2) watches: proc_pid_mountinfo(5)."""

    def __init__(self) -> None:
        self._fd = self._process = -1
        self._types: Dict[int, str] = {}
        self.noted: Set[Tuple[int, object]] = set()

    def types(self) -> Dict[int, str]:
        """Return the filesystem types remembered of the current table, by device number. Thread-safe.

        After a change of the table the dictionary is a new one, so that a slower thread adds to the old one only.
        """
        if self._changed():
            self._types, self.noted = {}, set()
        return self._types

    def _changed(self) -> bool:
        if self._process != os.getpid():
            # The kernel tells an open file of a change once, and a fork has the same open file. What the number that it
            # had here means by now, nobody knows, so it is not closed.
            with contextlib.suppress(OSError):
                self._fd = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
                self._process = os.getpid()
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLERR | select.POLLPRI)
        return bool(poll.poll(0))


_mounts = _Mounts()

_held: Dict[int, List[str]] = {}
"""By device number, the type for each file that is held. A list is never removed: other threads may have it."""


def hold(fd: int) -> int:
    """Remember the filesystem of an open file, without a look at the table, until :func:`let_go`.

    Returns its device number. The file has to be open for as long: that keeps the number from meaning another
    filesystem, also in a fork, which has the file open too. Thread-safe.
    """
    st = os.fstat(fd)
    _held.setdefault(st.st_dev, []).append(filesystem_of(fd, st))
    return st.st_dev


def held_type(device: int) -> str:
    """Return the type of a filesystem that is held, or "" if it is not. Thread-safe."""
    for held in _held.get(device, ()):
        return held
    return ""


def let_go(device: int) -> None:
    """Undo one :func:`hold`, before its file is closed."""
    _held[device].pop()


def noted() -> Set[Tuple[int, object]]:
    """Return what was noted of filesystems, each by its device number, since the last mount or unmount."""
    _mounts.types()
    return _mounts.noted


def mount_of(fd: int) -> bytes:
    """Return the ID of the mount by which a file was opened (proc_pid_fdinfo(5)), or b"" if unknown."""
    try:
        with open("/proc/self/fdinfo/{}".format(fd), "rb") as info:
            for line in info:
                if line.startswith(b"mnt_id:"):
                    return line.split()[1]
    except OSError:
        pass  # no /proc: it is looked for by its device
    return b""
