"""What a file has besides its content: owner, mode, times, extended attributes and so ACLs.

:func:`read` takes them from one open file and :func:`apply` gives them to another, which may be on another
machine: what lies between is a dictionary that JSON can carry (:func:`wire.fields.attributes`).

:func:`finish` is what a copy does, by the rules of cp and shutil. What a destination does not keep, because it cannot
or because the user may not set it, is no error: each function returns it in words, and :func:`tell` warns of it all.

:func:`seeded_mode` is what a seeded file has until rsync gives it its own.
"""

import errno
import os
import stat
import struct
import warnings
from base64 import b64decode, b64encode
from typing import AbstractSet, Any, Callable, Dict, List, Optional, Union

from ..errors import LeftToRsync

Attributes = Dict[str, Any]

_PRIVATE = 0o600
"""With ``-p`` rsync knows owner, group and ACL, and widens the mode; until then nobody else may do anything."""

_REFUSED = frozenset([errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.EACCES, errno.ENOSYS, errno.EIO])
"""The destination cannot hold it, or only root may set it; EINVAL is an owner without a number in a user namespace.

EIO is what FUSE mounts say for want of a better word. What a disk cannot write is told where content is flushed.
"""
_NO_XATTR = _REFUSED | {errno.ENODATA}
_NOT_SET = _NO_XATTR | {errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE}
"""What setxattr(2) says of an extended attribute that has no room beside the file, too."""
_ONLY_ROOTS = ("security.", "trusted.")
_FLAGS = "btrfs."
"""How a property of btrfs begins that is a flag by another name, and the directory's or the old file's: btrfs(5)."""

_OWNER, _MODE, _XATTR = "the owner", "the mode", "the extended attribute "
_TAG_USER, _TAG_GROUP, _TAG_MASK, _TAG_OTHER = 0x01, 0x04, 0x10, 0x20
"""ACL_USER_OBJ, ACL_GROUP_OBJ, ACL_MASK and ACL_OTHER: linux/posix_acl.h."""


def read(file: Union[int, str]) -> Attributes:
    """Return the attributes of a file, given by descriptor or path; times in ns. Raises OSError."""
    return _read(file, [])


def _value(file: Union[int, str], name: str) -> str:
    return b64encode(os.getxattr(file, name)).decode()


def _read(file: Union[int, str], unread: List[str]) -> Attributes:
    """As :func:`read`. ``unread``: gets a description of each attribute that may not be read."""
    st = os.stat(file)
    xattrs: Dict[str, str] = {}
    for name in _names(file):
        held = _if_held(lambda name=name: xattrs.update({name: _value(file, name)}))  # type: ignore[misc]
        if not held and not name.startswith(_ONLY_ROOTS):
            unread.append(_XATTR + name)
    return {
        "mode": stat.S_IMODE(st.st_mode),
        "uid": st.st_uid,
        "gid": st.st_gid,
        "atime_ns": st.st_atime_ns,
        "mtime_ns": st.st_mtime_ns,
        "xattrs": xattrs,
    }


def of_replaced(file: Union[int, str]) -> Attributes:
    """Return the attributes of a file that its replacement keeps.

    These are the attributes that a write to the old file would leave: a write removes capabilities, and a write by
    another user than root also the setuid and setgid bits (chmod(2), capabilities(7)). A file that may be written to
    and not read has others, which are lost: "unread" describes them.

    Raises OSError.
    """
    unread: List[str] = []
    found = {**_read(file, unread), "unread": unread}
    if os.geteuid() != 0:
        found["mode"] &= ~(stat.S_ISUID | stat.S_ISGID)
    found["xattrs"].pop("security.capability", None)
    return found


def replacing_mode(directory: int, name: str, old: os.stat_result) -> int:
    """Return the mode to make the temporary file with that replaces a file of an open directory, and keeps its mode.

    A mount may refuse to change that later. Until the file is finished, nobody may do more with it than with the old
    one, so it is 0600 where a group or an ACL may come to be another.
    """
    mode = old.st_mode & 0o777 | _PRIVATE
    place = os.fstat(directory)
    groups = {os.getegid(), place.st_gid if place.st_mode & stat.S_ISGID else os.getegid()}
    path = "/proc/self/fd/{}/{}".format(directory, name)  # the directory may be open as a place only (O_PATH)
    try:
        has_acl = _if_held(lambda: os.getxattr(path, "system.posix_acl_access"))
        has_acl = has_acl or _if_held(lambda: os.getxattr(os.path.dirname(path), "system.posix_acl_default"))
    except OSError:
        has_acl = True  # perhaps: there is no /proc, or the mount cannot say
    return _PRIVATE if has_acl or (mode >> 3 & 7 != mode & 7 and groups != {old.st_gid}) else mode


def without_privileges(mode: int) -> int:
    """Return the mode of a copy that does not get the source's owner, as cp(1) without -p."""
    return mode & 0o777


def seeded_mode(source: int, old: Optional[os.stat_result], *, perms: bool, group: bool, mask: int) -> int:
    """Return the mode that a seeded file gets with its name, until rsync comes to it.

    ``source``: the source's mode.
    ``old``: the stat of the file that is replaced, or None.
    ``perms``, ``group``: as rsync's.
    ``mask``: the umask.

    Raises LeftToRsync if only rsync can tell, or if the file would be open to somebody meanwhile.
    """
    if perms:
        return _PRIVATE
    mode = source & 0o777 & ~mask if old is None else stat.S_IMODE(old.st_mode)
    if mode & ~0o777:
        raise LeftToRsync("whether its setuid, setgid or sticky bit stays is for rsync to decide")
    check_group(mode, group, "it")
    return mode


def check_group(mode: int, group: bool, what: str) -> None:
    """Raise LeftToRsync if a mode is too much, or too little, until rsync sets the group, which it does by ``group``.

    Until then the bits of the group are those of another one, or of "others" for the right one.
    """
    if group and mode >> 3 & 7 != mode & 7:
        raise LeftToRsync("{} may be open to another group before rsync sets its own (-g without -p)".format(what))


def finish(
    fd: int, directory: int, keep: str, carried: Optional[Attributes], old: Optional[Attributes], inplace: bool = False
) -> List[str]:
    """Set the attributes of the copy ``fd``, and return a description of each that is not kept.

    ``directory``: the descriptor of the copy's directory.
    ``keep``: as in :class:`~.content.copy_file.CopyOptions`.
    ``carried``: the source's attributes, or None.
    ``old``: the attributes of the replaced file (:func:`of_replaced`), or None.
    ``inplace``: the copy is the old file.

    Raises OSError, and ValueError for attributes that cannot be.
    """
    lost: List[str] = []
    if old is not None and not inplace:
        lost += old["unread"] + apply(fd, old)
    elif not inplace:
        bits = carried["mode"] if carried is not None and keep == "new-mode" else 0o666
        set_mode(fd, created_mode(directory, bits))  # where that is not kept, a file that cp makes has another one too
    # What gives way to the source's is not missed.
    if carried is not None and keep == "mode":
        lost = [what for what in lost if not what.startswith(_MODE)]
        lost += set_mode(fd, without_privileges(carried["mode"]))
    elif carried is not None and keep == "all":
        # "Ownership where permitted": who is not root is not told that it is not, as by cp -p.
        lost = [what for what in apply(fd, carried) if what != _OWNER or os.geteuid() == 0]
        lost += _apply_times(fd, carried)
    return lost


def tell(path: str, lost: List[str]) -> None:
    """Warn, once, of the attributes that a file does not keep."""
    if lost:
        what = "{}: not kept, since it cannot be read or set there: {}".format(path, ", ".join(sorted(set(lost))))
        warnings.warn(what, RuntimeWarning, stacklevel=5)


def apply(fd: int, attributes: Attributes) -> List[str]:
    """Set owner, extended attributes and mode of an open file, but no times.

    Returns a description of each attribute that is not kept. Raises OSError, and ValueError for attributes that cannot
    be.
    """
    mode, uid, gid = (attributes[name] for name in ("mode", "uid", "gid"))
    lost: List[str] = []
    new = os.fstat(fd)
    if (uid, gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(fd, uid, gid)
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
        new = os.fstat(fd)
        if (uid, gid) != (new.st_uid, new.st_gid):
            # What ran as its owner must not run as somebody else: as cp -p.
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
            lost.append(_OWNER)
    wanted = attributes["xattrs"]
    for name in set(_names(fd)) - set(wanted):  # an ACL inherited from the directory
        if name.startswith(_FLAGS):
            continue
        _if_held(lambda name=name: os.removexattr(fd, name))  # type: ignore[misc]
    if wanted:  # to set one takes the right to write, which a default ACL may have taken from the owner
        set_mode(fd, stat.S_IMODE(os.fstat(fd).st_mode) | stat.S_IWUSR)
    for name in sorted(wanted):
        held = _if_held(lambda name=name: os.setxattr(fd, name, b64decode(wanted[name])), _NOT_SET)  # type: ignore[misc]
        if not held and not name.startswith(_ONLY_ROOTS):
            lost.append(_XATTR + name)
    return lost + set_mode(fd, mode)


def set_mode(fd: int, mode: int) -> List[str]:
    """Set the mode of an open file, if it differs. Returns a description of what is not kept. Raises OSError."""
    if stat.S_IMODE(os.fstat(fd).st_mode) == mode:
        return []
    try:
        os.fchmod(fd, mode)
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
    # Some mounts say that it is done, whatever they do.
    return [] if stat.S_IMODE(os.fstat(fd).st_mode) == mode else ["{} {:04o}".format(_MODE, mode)]


def _apply_times(fd: int, attributes: Attributes) -> List[str]:
    try:
        os.utime(fd, ns=(attributes["atime_ns"], attributes["mtime_ns"]))
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        return ["the times"]
    return []


def created_mode(directory: int, bits: int) -> int:
    """Return the mode of a file that open(2) makes with ``bits`` in an open directory: umask(2), acl(5)."""
    bits &= 0o777
    try:
        # By its name: it may be open as a place only (O_PATH).
        acl = os.getxattr("/proc/self/fd/{}".format(directory), "system.posix_acl_default")
    except OSError as error:
        if error.errno not in _NO_XATTR | {errno.ENOENT}:  # there is no /proc
            raise
        return bits & ~umask()
    entries = {tag: allowed for tag, allowed, _ in struct.iter_unpack("<HHI", acl[4:])}  # type: Dict[int, int]
    group = entries.get(_TAG_MASK, entries[_TAG_GROUP])
    return bits & (entries[_TAG_USER] << 6 | group << 3 | entries[_TAG_OTHER])


def umask() -> int:
    """Return the process' umask, where possible without changing it: another thread may be making a file."""
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"Umask:"):
                    return int(line.split()[1], 8)
    except FileNotFoundError:
        pass  # no /proc: ask the only other way there is
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _names(file: Union[int, str]) -> List[str]:
    names: List[str] = []
    try:
        _if_held(lambda: names.extend(os.listxattr(file)), _NO_XATTR - {errno.EIO})
    except OSError as error:
        # XFS lets a file have more than the system can list (listxattr(2), BUGS), and rclone has no list to give.
        if error.errno not in (errno.E2BIG, errno.EIO):
            raise
        why = "are too many to be listed" if error.errno == errno.E2BIG else "cannot be listed (I/O error)"
        warnings.warn("the extended attributes of a file {}: none are kept".format(why), RuntimeWarning, stacklevel=2)
    return names


def _if_held(call: Callable[[], object], not_held: AbstractSet[int] = _NO_XATTR) -> bool:
    try:
        call()
    except OSError as error:
        if error.errno not in not_held:
            if isinstance(error.filename, int):  # a descriptor says nothing to whoever reads of it
                error.filename = None
            raise
        return False
    return True


def has_default_acl(directory: int) -> bool:
    """Return whether an open directory has a default ACL, which new files inherit: acl(5). Raises OSError."""
    try:
        return bool(os.getxattr(directory, "system.posix_acl_default"))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise
