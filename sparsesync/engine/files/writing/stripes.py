"""The stripes of a file on Lustre: which pieces of it are on which server.

A new file gets the layout of its directory, as it does from cp. A file that is there has one that somebody may have
chosen (``lfs setstripe -c 16 disk.img``), and keeps it when cp writes to it. So does one that is replaced here: its
layout is given to the temporary, which has to have none yet, and so no content (:func:`like_replaced`)::

    mknod(2)                       a file without a layout
    lfs setstripe --copy=OLD NEW   which knows all layouts that there are
    open(2), to write              where lfs has failed the file gets the layout of the directory now

The source's layout is not copied. Its directory may be of other servers (a pool), or of another filesystem.

What stripes an open file has (:func:`stripe_bytes`) is in an extended attribute. Its numbers are host-endian. Those
that are read here have had their places since Lustre 2.0, or 2.10 for layouts of several components.
"""

import contextlib
import errno
import os
import stat
import struct
import warnings
from math import gcd
from typing import Callable, Iterator, List, Optional

from ..mounts import filesystem_of

_LAYOUT = "lustre.lov"
_LEAST_BYTES = 64 * 1024
"""What the size of a stripe is a multiple of."""

_MAGIC_PLAIN = frozenset([0x0BD10BD0, 0x0BD30BD0, 0x0BD50BD0])
_MAGIC_COMPOSITE = 0x0BD60BD0
_PLAIN = struct.Struct("=IIQQI")
_COMPOSITE = struct.Struct("=IIIHH")
_COMPONENT = struct.Struct("=IIQQI")
_COMPOSITE_BYTES, _COMPONENT_BYTES = 32, 48
"""LOV_USER_MAGIC_V1, V3, SPECIFIC and COMP_V1; what lov_user_md, lov_comp_md_v1 and its entries begin with, and the
sizes of the last two: lustre_user.h."""

_PLACE = "/proc/self/fd/{}/{}"
"""A file of a directory that is open."""
_SECONDS = 10.0
"""How long lfs may take. It asks one server for one file."""
_END_SECONDS = 1.0
_TOLD_BYTES = 300

_hanging: List[str] = []
"""The programs that were waited for in vain, and are not run again."""


def stripe_bytes(fd: int, most: int) -> int:
    """Return a number of bytes of which every border of a stripe is a multiple; 0 if the file is not on Lustre.

    ``most``: a stripe that is larger, or would make the number larger, is not heeded.
    """
    if filesystem_of(fd) != "lustre":
        return 0
    try:
        layout = os.getxattr(fd, _LAYOUT)
    except OSError:
        return 0  # it has no layout: whoever asks has what stat(2) says
    found = 0
    for size in sorted(set(_sizes(layout)), reverse=True):
        both = size if not found else found // gcd(found, size) * size
        if size and size % _LEAST_BYTES == 0 and both <= most:
            found = both
    return found


def _sizes(layout: bytes) -> Iterator[int]:
    """Yield the size of a stripe of each component, as a layout has it."""
    with contextlib.suppress(struct.error):  # it ends too early
        starts = [0]
        magic, _, _, _, count = _COMPOSITE.unpack_from(layout)
        if magic == _MAGIC_COMPOSITE:
            entries = range(_COMPOSITE_BYTES, _COMPOSITE_BYTES + count * _COMPONENT_BYTES, _COMPONENT_BYTES)
            starts = [_COMPONENT.unpack_from(layout, entry)[-1] for entry in entries]
        for start in starts:
            found = _PLAIN.unpack_from(layout, start)
            if found[0] in _MAGIC_PLAIN:
                yield found[-1]


def like_replaced(directory: int, name: str, path: str) -> Optional[Callable[[int, str], None]]:
    """Return what makes a file with the stripes of the file ``name``; None if it is not on Lustre, or without lfs.

    ``directory``: that of ``name``, open.
    ``path``: the file's name in messages.

    What is returned takes the new file's directory, open, and its name. It warns where lfs fails: the file gets the
    stripes of its directory then.
    """
    if filesystem_of(directory) != "lustre":
        return None
    from shutil import which

    lfs = which("lfs")
    if lfs is None:
        return None
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return None
    except OSError:
        return None  # there is none, or whoever replaces it will hear of it
    program = lfs

    def make(new_directory: int, new_name: str) -> None:
        try:
            os.mknod(new_name, 0o600 | stat.S_IFREG, dir_fd=new_directory)
            old, new = _PLACE.format(directory, name), _PLACE.format(new_directory, new_name)
            _run([program, "setstripe", "--copy=" + old, new], [directory, new_directory])
        except OSError as error:
            what = (
                "{}: it gets the stripes of its directory, and not those of the file that it replaces ({}): "
                "lfs migrate can change that"
            )
            warnings.warn(what.format(path, error.strerror), RuntimeWarning, stacklevel=4)

    return make


def _run(command: List[str], fds: List[int]) -> None:
    """Run lfs, not for ever. Raises OSError if it fails, with what it says, or does not end."""
    import subprocess

    hangs = OSError(errno.ETIMEDOUT, "{} does not end".format(command[0]))
    if command[0] in _hanging:
        raise hangs
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, pass_fds=fds,
        env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    assert process.stderr is not None
    with process.stderr as told:
        try:
            status = process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            _hanging.append(command[0])
            raise hangs from None
        finally:
            if process.poll() is None:
                process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):  # in the kernel nothing ends it
                    process.wait(_END_SECONDS)
        if status:
            os.set_blocking(told.fileno(), False)  # another process may have its other end
            said = (told.read(_TOLD_BYTES) or b"").decode("utf-8", "replace")
            why = " ".join(said.split()) or "status {}".format(status)
            raise OSError(errno.EIO, "{}: {}".format(command[0], why))
