"""``sparsesync copy``: each file by itself, with a bar for what is allocated of it."""

from __future__ import annotations

import argparse
import errno
import os
import stat

from ..console.progress import data_bar
from ..engine.content.copy_file import CopyOptions
from ..engine.errors import LinkError
from ..engine.files.claims import allocated, believes, file_size, looks_sparse
from ..engine.files.status import open_source
from ..hosts.copies import Copies
from ..hosts.pool import is_remote
from .options import Troubles, add_holes, add_remote_end


def add(command: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    command.add_argument("paths", nargs="+", metavar="PATH", help="SOURCE... DESTINATION")
    add_holes(command)
    add_remote_end(command)
    command.add_argument("-p", "--preserve", action="store_true", help="times, ownership, xattrs and ACLs too")
    command.add_argument("--inplace", action="store_true", help="write only the blocks that differ, into the old file")
    command.add_argument(
        "--overlay", action="store_true", help="as --inplace, but leave DESTINATION as it is where SOURCE has a hole"
    )
    command.add_argument("--reflink", choices=["auto", "always", "never"], default="auto", help="share extents")
    command.add_argument(
        "--sparse", choices=["auto", "always"], default="auto", help="always: make blocks of zeros holes as well"
    )
    command.add_argument("--reserve", action="store_true", help="reserve what is preallocated in SOURCE (fallocate)")
    command.add_argument("--fsync", action="store_true", help="flush each file and then its name to the disk")
    command.add_argument("--no-space-check", action="store_true", help="start even if the data does not seem to fit")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command, and return the exit status."""
    *sources, destination = arguments.paths
    if not sources:
        raise ValueError(f"{destination}: a destination is missing")
    if len(sources) > 1 and not is_remote(destination) and not os.path.isdir(destination):
        raise NotADirectoryError(errno.ENOTDIR, "is not a directory, and there are several sources", destination)
    if len(sources) > 1 and is_remote(destination):
        # Nobody has looked whether it is a directory; with the slash it has to be one.
        destination += "./" if destination.endswith(":") else "/"
    options = CopyOptions(
        "all" if arguments.preserve else "new-mode",
        inplace=arguments.inplace,
        reflink=arguments.reflink,
        sparse=arguments.sparse,
        holes=arguments.holes,
        reserve=arguments.reserve,
        fsync=arguments.fsync,
        space_check=not arguments.no_space_check,
        overlay=arguments.overlay,
    )
    troubles = Troubles()
    with Copies(arguments.rsh, arguments.python, arguments.remote_prefix) as copies:
        for source in sources:
            try:
                total = None if is_remote(source) else _work(source, arguments.holes)
                with data_bar(total, os.path.basename(source), arguments.quiet) as advance:
                    copies.copy(source, destination, options, advance)
            except IsADirectoryError as error:
                hint = "is a directory; for trees use 'sparsesync sync -a'"
                troubles(IsADirectoryError(errno.EISDIR, hint, error.filename))
            except LinkError:
                raise
            except OSError as error:
                troubles(error)
    return troubles.status


def _work(source: str, holes: str) -> int:
    """Return the bytes to be read for a copy of a file: its allocated size, or all of it if its map is not believed."""
    st = os.stat(source)
    if stat.S_ISREG(st.st_mode) and not looks_sparse(st):
        return st.st_size
    if not stat.S_ISREG(st.st_mode) and not stat.S_ISBLK(st.st_mode):
        return 0
    fd = open_source(source)
    try:
        return allocated(st) if believes(fd, holes) else file_size(fd)
    finally:
        os.close(fd)
