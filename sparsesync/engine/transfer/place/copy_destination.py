"""The destination of a copy, as cp and shutil see it: one file, or one in a directory.

It differs from the destination of a transfer (:mod:`destination`) in what the file gets besides its content. A new file
has the mode that open(2) would give it, a replaced one keeps what it had; then come the source's mode or all of
its attributes, if they are asked for. A destination that is a symlink is followed, and what it leads to is replaced.
"""

import errno
import os
from typing import List, Optional

from ...content.copy_file import CopyOptions
from ...files import attributes
from ...files.claims import is_anybodys
from ...files.flags import carry
from ...files.status import check_no_lost_device, check_replaceable, no_directory
from ..records import FileSpec
from .destination import Destination
from .destination_file import DestinationFile


class CopyDestination(Destination):
    """The destination ``path`` of a copy. If ``path`` is a directory, it is the file ``name`` in the directory.

    A copy of content alone does not look into a directory. Raises OSError if the directory is missing,
    IsADirectoryError if a directory has the file's name, FileNotFoundError for a device that is not there.
    """

    seeds = False

    def __init__(self, path: str, name: str, options: CopyOptions, *, resume: bool) -> None:
        if options.into_directory and os.path.isdir(path):
            path = os.path.join(path, name)
        elif path.endswith("/"):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        check_no_lost_device(path)
        target = os.path.realpath(path)
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        directory, base = os.path.split(target)
        try:
            super().__init__(
                directory,
                base,
                inplace=options.in_place,
                resume=resume,
                preallocate=options.reserve,
                fsync=options.fsync,
                space_check=options.space_check,
                merging=options.overlay,
            )
        except FileNotFoundError:
            raise no_directory(path) from None
        self.file = path
        self.keep: str = options.keep
        self.carries: bool = options.keep != "content"

    def _existing(self, directory: int, base: str) -> Optional[os.stat_result]:
        old = super()._existing(directory, base)
        if old is not None and not self.inplace:
            try:
                check_replaceable(base, directory, self.file)
            except OSError as error:
                del error.filename  # whoever hears of it knows which file that is
                raise
        return old

    def _made_mode(self, directory: int, spec: FileSpec, old: Optional[os.stat_result]) -> int:
        # A mount may refuse to change it. That nobody else may write shows whose a partial file is.
        if self.keep in ("mode", "all") or not is_anybodys(directory):
            return 0o600
        if old is not None:
            return attributes.replacing_mode(directory, self.single or spec.name, old) & ~0o022
        if self.keep == "new-mode" and spec.attributes is not None:
            return attributes.without_privileges(spec.attributes["mode"]) & ~0o022
        return 0o666 & ~0o022

    def finish(self, target: DestinationFile, spec: FileSpec) -> None:
        """Set the attributes of the file, and commit it."""
        replaced = None
        lost: List[str] = []
        old = target.open_old()
        place = target.open_place_of_old() if old is None else None
        try:
            if old is not None:
                replaced = attributes.of_replaced(old)
                lost += carry(old, target.fd)
            elif place is not None:
                # It may be written to, and not read. Then only its name tells what it has.
                replaced = attributes.of_replaced("/proc/self/fd/{}".format(place))
        finally:
            for fd in (old, place):
                if fd is not None:
                    os.close(fd)
        lost += attributes.finish(
            target.fd, target.directory, self.keep, spec.attributes, replaced, inplace=target.inplace
        )
        attributes.tell(self.file, lost)
        target.commit(fsync=self.fsync)
