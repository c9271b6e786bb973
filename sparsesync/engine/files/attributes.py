"""What a file has besides its content: owner, mode, times, extended attributes and so ACLs.

:func:`read` takes them from one open file and :func:`apply` gives them to another, which may be on another
machine: what lies between is a dictionary that JSON can carry (:func:`wire.fields.attributes`).
"""

import errno
import os
import stat
import warnings
from base64 import b64decode, b64encode
from typing import Any, Callable, Dict, List, Union

Attributes = Dict[str, Any]

# What shutil leaves out without a word (shutil.copystat): the destination cannot hold it, or only root may.
_NOT_HELD = frozenset([errno.EOPNOTSUPP, errno.EPERM, errno.ENODATA, errno.EINVAL, errno.EACCES])


def read(file: Union[int, str]) -> Attributes:
    """The attributes of an open file, or of one that perhaps cannot be opened; times are in ns. Raises OSError."""
    st = os.stat(file)
    xattrs: Dict[str, str] = {}
    for name in _names(file):
        _if_held(lambda name=name: xattrs.update({name: b64encode(os.getxattr(file, name)).decode()}))  # type: ignore[misc]
    return {
        "mode": stat.S_IMODE(st.st_mode),
        "uid": st.st_uid,
        "gid": st.st_gid,
        "atime_ns": st.st_atime_ns,
        "mtime_ns": st.st_mtime_ns,
        "xattrs": xattrs,
    }


def of_replaced(file: Union[int, str]) -> Attributes:
    """The attributes of a file that a new one keeps when it takes its place.

    They are what would be left if somebody had written to the old one: whoever is not root takes from it the setuid and
    setgid bits, and anybody its capabilities (chmod(2), capabilities(7)). Raises OSError.
    """
    found = read(file)
    if os.geteuid() != 0:
        found["mode"] &= ~(stat.S_ISUID | stat.S_ISGID)
    found["xattrs"].pop("security.capability", None)
    return found


def without_privileges(mode: int) -> int:
    """The mode that a copy gets if it does not get the owner as well: as cp(1) without -p."""
    return mode & 0o777


def apply(fd: int, attributes: Attributes) -> None:
    """Give an open file owner, extended attributes and mode, but no times. Raises OSError, ValueError for nonsense.

    What the destination cannot hold or the user may not set is left out.
    """
    mode, uid, gid = (attributes[name] for name in ("mode", "uid", "gid"))
    new = os.fstat(fd)
    if (uid, gid) != (new.st_uid, new.st_gid):
        try:
            os.fchown(fd, uid, gid)
        except PermissionError:
            # What ran as its owner must not run as somebody else: as cp -p.
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
    wanted = attributes["xattrs"]
    for name in set(_names(fd)) - set(wanted):  # an ACL inherited from the directory
        _if_held(lambda name=name: os.removexattr(fd, name))  # type: ignore[misc]
    for name in sorted(wanted):
        _if_held(lambda name=name: os.setxattr(fd, name, b64decode(wanted[name])))  # type: ignore[misc]
    os.fchmod(fd, mode)


def apply_times(fd: int, attributes: Attributes) -> None:
    """Give an open file access and modification time."""
    os.utime(fd, ns=(attributes["atime_ns"], attributes["mtime_ns"]))


def umask() -> int:
    """The process' umask, without changing it where that can be avoided: another thread may be making a file."""
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
        _if_held(lambda: names.extend(os.listxattr(file)))
    except OSError as error:
        if error.errno != errno.E2BIG:
            raise
        # XFS lets a file have more than the system can list: listxattr(2), BUGS.
        what = "a file has too many extended attributes to be listed: none are kept"
        warnings.warn(what, RuntimeWarning, stacklevel=2)
    return names


def _if_held(call: Callable[[], None]) -> None:
    try:
        call()
    except OSError as error:
        if error.errno not in _NOT_HELD:
            if isinstance(error.filename, int):  # a descriptor says nothing to whoever reads of it
                error.filename = None
            raise


def has_default_acl(directory: int) -> bool:
    """Whether an open directory has an ACL that what is made in it inherits: acl(5). Raises OSError."""
    try:
        return bool(os.getxattr(directory, "system.posix_acl_default"))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise
