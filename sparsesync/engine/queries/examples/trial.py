"""Examples tried at a destination: the query ``trial``.

All is done in a hidden directory beside what will be there, with what that gives to a new file, and removed. What a
filesystem takes it has to give back the same: some take a time or a name, and make another of it.
"""

import contextlib
import os
import shutil
import stat
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

_SOCKET_AND_DEVICES = {"p": stat.S_IFIFO, "s": stat.S_IFSOCK, "c": stat.S_IFCHR, "b": stat.S_IFBLK}
_MAX_XATTR_BYTES = 60000
_MAX_LINKS = 65536
"""More than btrfs, and than ext4 has: 65,535 and 65,000 of a file."""

_MAX_LINKS_SECONDS = 5


class Refused(NamedTuple):
    """An example that was refused: its number, and why, for people.

    ``seconds``: by how much the time differs that came of it.
    ``attribute``: the name of an attribute that comes with it, which rsync would remove again and again.
    """

    number: int
    why: str
    seconds: int = 0
    attribute: str = ""


class Trial(NamedTuple):
    """The examples that were refused."""

    refused: List[Refused]


def trial(path: str, examples: Sequence[Sequence[Any]]) -> Trial:
    """Try examples at a destination.

    ``examples``: of each the first five fields of an :class:`..collect.Example`.

    Raises OSError if nothing can be written there at all, ValueError for what is no example.
    """
    for kind, _, name, value, _ in examples:
        # Whoever has the source chooses them, and they are tried by root.
        if kind not in _TRIED or (kind in ("name", "pair") and not (_is_name(name) and _is_name(value or name))):
            raise ValueError("not an example: {!a}".format(kind))
    holder = os.path.abspath(path)
    while not os.path.isdir(holder):
        holder = os.path.dirname(holder)
    refused: List[Refused] = []
    top = os.path.join(holder, ".sparsesync-probe." + os.urandom(4).hex())
    os.mkdir(top, 0o700)
    try:
        for number, example in enumerate(examples):
            place = os.path.join(top, str(number))
            os.mkdir(place, 0o700)
            found = _try(number, _Example(place, *example))
            if found is not None:
                refused.append(found)
            shutil.rmtree(place, ignore_errors=True)
    finally:
        shutil.rmtree(top)
    return Trial(refused)


def _is_name(name: str) -> bool:
    return "/" not in name and "\0" not in name and name not in ("", ".", "..")


class _Example(NamedTuple):
    place: str
    kind: str
    type: str
    name: str
    value: str
    number: int

    @property
    def path(self) -> str:
        return os.path.join(self.place, "x")


def _try(number: int, example: _Example) -> Optional[Refused]:
    try:
        return _TRIED[example.kind](Refused(number, ""), example)
    except OSError as error:
        return Refused(number, os.strerror(error.errno) if error.errno else str(error))
    except OverflowError:
        return Refused(number, "it is out of range")


def _unless(right: bool, refused: Refused, why: str) -> Optional[Refused]:
    return None if right else refused._replace(why=why)


def _make(path: str, type: str = "-", target: str = "x", device: int = 0) -> None:
    if type == "d":
        os.mkdir(path, 0o700)
    elif type == "l":
        os.symlink(target, path)
    elif type in _SOCKET_AND_DEVICES:
        os.mknod(path, 0o600 | _SOCKET_AND_DEVICES[type], device)
    else:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _is_made(example: _Example) -> bool:
    """Make what an example is of, unless it is a symlink and there are none: that is an example of its own."""
    with contextlib.suppress(*[OSError] * (example.type == "l")):
        _make(example.path, example.type)
    return os.path.lexists(example.path)


def _name(refused: Refused, example: _Example) -> Optional[Refused]:
    _make(os.path.join(example.place, example.name))
    found = os.listdir(example.place)
    return _unless(found == [example.name], refused, "it becomes " + ascii((found or [""])[0]))


def _pair(refused: Refused, example: _Example) -> Optional[Refused]:
    _make(os.path.join(example.place, example.name))
    both = not os.path.lexists(os.path.join(example.place, example.value))
    return _unless(both, refused, "they are one name")


def _type(refused: Refused, example: _Example) -> Optional[Refused]:
    if example.type == "h":
        _make(example.path)
        os.link(example.path, example.path + "2")
        # As rsync knows that two are one. Their number is what some mounts tell of earlier.
        same = os.path.samefile(example.path, example.path + "2")
        until = time.monotonic() + _MAX_LINKS_SECONDS
        for number in range(3, min(example.number, _MAX_LINKS) + 1):
            os.link(example.path, example.path + str(number))
            if time.monotonic() > until:
                break  # what is that slow is tried far enough
        return _unless(same, refused, "it becomes another file")
    _make(example.path, example.type, example.name, example.number)
    st = os.lstat(example.path)
    same = stat.filemode(st.st_mode)[0] == example.type
    if example.type in "bc":
        same = same and st.st_rdev == example.number
    if example.type == "l":
        same = same and os.readlink(example.path) == example.name
    return _unless(same, refused, "it becomes something else")


def _mode(refused: Refused, example: _Example) -> Optional[Refused]:
    wanted = example.number & 0o7777
    if example.type == "d":
        os.mkdir(example.path, wanted)
    else:
        _make(example.path)
    if stat.S_IMODE(os.stat(example.path).st_mode) != wanted:  # else rsync leaves it alone, too
        os.chmod(example.path, wanted)
    made = stat.S_IMODE(os.stat(example.path).st_mode)
    with contextlib.suppress(OSError):
        os.chmod(example.path, 0o700)  # or who is not root could not remove it
    return _unless(made == wanted, refused, "it becomes {:04o}".format(made))


def _owner(refused: Refused, example: _Example) -> Optional[Refused]:
    if not _is_made(example):
        return None
    at, given = ("st_uid", (example.number, -1)) if example.kind == "owner" else ("st_gid", (-1, example.number))
    if getattr(os.lstat(example.path), at) != example.number:
        os.lchown(example.path, *given)
    made = getattr(os.lstat(example.path), at)
    return _unless(made == example.number, refused, "it becomes {}".format(made))


def _time(refused: Refused, example: _Example) -> Optional[Refused]:
    if not _is_made(example):
        return None
    os.utime(example.path, ns=(example.number, example.number), follow_symlinks=False)
    made = os.lstat(example.path).st_mtime_ns // 10**9
    seconds = abs(made - example.number // 10**9)
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(made)) if abs(made) < 1 << 36 else "{} s".format(made)
    return _unless(not seconds, refused._replace(seconds=seconds), "it becomes " + shown)


def _xattr(refused: Refused, example: _Example) -> Optional[Refused]:
    _make(example.path, example.type)
    value = bytes.fromhex(example.value)
    if len(value) < example.number and example.kind == "acl":
        return None  # half of a list is none
    value += b"x" * (min(example.number, _MAX_XATTR_BYTES) - len(value))
    before = set(os.listxattr(example.path, follow_symlinks=False))
    os.setxattr(example.path, example.name, value, follow_symlinks=False)
    more = set(os.listxattr(example.path, follow_symlinks=False)) - before
    made = os.getxattr(example.path, example.name, follow_symlinks=False)
    if example.kind == "acl":
        # XFS shows the ACL as an attribute of root's as well.
        others = sorted(name for name in more if not name.startswith("system."))
        return refused._replace(why="it comes with " + others[0], attribute=others[0]) if others else None
    return _unless(example.name in more | before and made == value, refused, "it is not what was set")


def _xattr_size(refused: Refused, example: _Example) -> Optional[Refused]:
    _make(example.path)
    room = 1 << 20
    for number, size in enumerate(map(int, (example.value or str(example.number)).split(","))):
        name = "user.sparsesync{}".format(number)
        value = b"x" * max(0, min(size - len(name), room, _MAX_XATTR_BYTES))
        room -= len(name) + len(value)
        if room < 0:
            break
        os.setxattr(example.path, name, value)
    return None


_TRIED: Dict[str, Callable[[Refused, _Example], Optional[Refused]]] = {
    "name": _name,
    "pair": _pair,
    "type": _type,
    "mode": _mode,
    "owner": _owner,
    "group": _owner,
    "time": _time,
    "xattr": _xattr,
    "acl": _xattr,
    "xattr size": _xattr_size,
}
