"""One file on its way out: opened for reading, and known to be the file that was announced.

Between the moment a file is found and the moment it is read it may be replaced, and while it is
read it may be written to. Both show in its stat, as far as anything shows them.
"""

import os
import stat
from typing import Any, Dict, Optional

from .extents import allocated
from .place import Leave, Spec, parent_modes
from .scan import open_quietly


class Outgoing:
    """A file to be sent: ``path`` here, and what the receiver is told of it."""

    def __init__(self, path: str, spec: Spec, st: os.stat_result, follow: bool = False) -> None:
        self.path = path
        self.spec = spec
        self.st = st
        self.follow = follow
        self.number = 0
        self.basis: Optional[bool] = None
        self.over = False
        self.fd: Optional[int] = None
        self.guard: Any = None

    def open(self) -> int:
        """Open the source. Raises Leave if it is not what it was when it was announced, OSError."""
        fd = open_quietly(self.path, 0 if self.follow else os.O_NOFOLLOW)
        st = os.fstat(fd)
        if not os.path.samestat(st, self.st) or changed(st, self.st):
            os.close(fd)
            raise Leave("it changed before it was sent")
        if not stat.S_ISREG(st.st_mode):
            os.close(fd)
            raise Leave("it is not a regular file")
        self.fd = fd
        return fd

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def outgoing(path: str, name: str, *, follow: bool = False, attributes: Optional[Dict[str, Any]] = None) -> Outgoing:
    """A file to be sent under a name. Raises OSError."""
    st = os.stat(path, follow_symlinks=follow)
    parents = parent_modes(path, name) if path.endswith(name) else []
    mode = stat.S_IMODE(st.st_mode)
    return Outgoing(
        path, Spec(name, st.st_size, allocated(st), mode, st.st_mtime_ns, parents, attributes), st, follow
    )


def changed(a: os.stat_result, b: os.stat_result) -> bool:
    """Has the content of a file changed between two stats, as far as can be seen?"""
    return (a.st_size, a.st_mtime_ns) != (b.st_size, b.st_mtime_ns)
