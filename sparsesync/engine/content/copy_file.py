"""One file copied by its path, as shutil's ``copyfile``, ``copy`` and ``copy2`` do it, with holes.

:func:`copy_file` opens the source, makes a :class:`~.writing.target.Target` for the destination (:func:`replacing`),
has :func:`~.copy.copying` fill it, gives it its attributes through the open descriptor and commits. So an existing
destination is replaced whole or not at all; what shutil would have left of it (for ``copyfile`` its owner, mode and
extended attributes, for ``copy`` all but the mode) is carried over to the new file, as far as it may be read. A
destination that is a symlink is followed, as shutil does, and the file it leads to is replaced. A hard-linked
destination loses its other names, unless ``inplace``. A device is written to instead (:mod:`device`).
"""

import contextlib
import errno
import os
import stat
import warnings
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional, Union

from ..errors import OnProgress, error_path
from ..files import attributes, flags
from ..files.claims import file_size, is_anybodys, is_view
from ..files.status import check_replaceable, no_directory, open_source, special_file, was_written
from ..files.syscalls import flush_directory
from ..files.writing.target import Target
from .copy import by_hands, check_choices, copying
from .hands.writer import Hands, Threads

if TYPE_CHECKING:  # as in :mod:`..files.writing.target`
    Path = Union[str, "os.PathLike[str]"]


class CopyOptions(NamedTuple):
    """How a file is copied. What is not named here is a parameter of :func:`~sparsesync.api.copying.copyfile`.

    ``keep``: what is copied besides content. "content" is nothing, as shutil.copyfile; the destination must not be a
    directory then. "mode" is as shutil.copy. "new-mode" is the mode of a new file, less the umask, as cp. "all" is as
    shutil.copy2 and cp -p.
    ``space_check``: raise NoSpaceError before anything is written if the data does not seem to fit.
    """

    keep: str = "content"
    follow_symlinks: bool = True
    inplace: bool = False
    reflink: str = "auto"
    sparse: str = "auto"
    holes: str = "auto"
    reserve: bool = False
    fsync: bool = False
    space_check: bool = True
    overlay: bool = False

    @property
    def into_directory(self) -> bool:
        """Whether a destination that is a directory stands for a file in it."""
        return self.keep != "content"

    @property
    def in_place(self) -> bool:
        """Whether a file that is there is written to."""
        return self.inplace or self.overlay

    def check(self) -> None:
        """Raise ValueError for an unknown choice, or for choices that exclude each other."""
        check_choices(self.sparse, self.reflink, self.in_place, self.holes, self.overlay)


class Copied(NamedTuple):
    """A file that was made: its path, its apparent size, and the bytes that were written, or shared, or sent.

    ``why_whole``: why all of it was compared or copied though it is tracked; None otherwise.
    """

    path: str
    size: int = 0
    written: int = 0
    why_whole: Optional[str] = None


def copy_file(
    src: "Path",
    dst: "Path",
    options: CopyOptions,
    progress: OnProgress = None,
    hands: Hands = Threads(),  # noqa: B008
) -> Copied:
    """Copy ``src`` to ``dst`` on this machine.

    ``hands``: who copies the ranges.

    Raises what :func:`sparsesync.api.copying.copyfile` does.
    """
    if options.into_directory and os.path.isdir(dst):
        dst = os.path.join(dst, os.path.basename(os.fspath(src)))
    options.check()
    reflink, sparse, holes, fsync = options.reflink, options.sparse, options.holes, options.fsync
    source_path = os.fspath(src)
    if not options.follow_symlinks and os.path.islink(source_path):
        return Copied(os.fspath(_copy_symlink(source_path, dst, options.keep, fsync)))
    path = os.fspath(dst)
    source = _open_source(source_path)
    try:
        before = os.fstat(source)
        old = existing(path)
        if old is not None and os.path.samestat(before, old):
            from shutil import SameFileError

            # Not as an OSError has it: shutil.copytree takes the first argument for what there is to say.
            raise SameFileError("{!r} and {!r} are the same file".format(source_path, path))
        if old is not None and (stat.S_ISCHR(old.st_mode) or stat.S_ISBLK(old.st_mode)):
            from .device import write_device

            written = write_device(
                source, path, reflink=reflink, sparse=sparse, holes=holes, fsync=fsync, overlay=options.overlay,
                progress=progress, source_path=source_path
            )  # fmt: skip
            return Copied(os.fspath(dst), file_size(source) or written, written)
        carried = attributes.read(source)
        with hands, replacing(path, old, options, carried, hands) as target:
            target.reserving, target.checks_room = options.reserve, options.space_check
            hands.begin(source, source_path, target)
            steps = copying(
                source, target, sparse=sparse, reflink=reflink, holes=holes, progress=progress, source_path=source_path,
                hands=hands,
            )  # fmt: skip
            written = by_hands(steps)
            _tell_of_change(source, before, source_path)
            return Copied(os.fspath(dst), os.fstat(target.fd).st_size, written)
    finally:
        os.close(source)


def _open_source(path: str) -> int:
    try:
        return open_source(path)
    except OSError as error:
        from shutil import SpecialFileError

        raise _special_file(path, os.stat(path).st_mode) if isinstance(error, SpecialFileError) else error from None


def _special_file(path: str, mode: int) -> OSError:
    """Return :func:`special_file`, in shutil's words for a pipe."""
    error = special_file(path)
    return type(error)("`{}` is a named pipe".format(path)) if stat.S_ISFIFO(mode) else error


def _tell_of_change(source: int, before: os.stat_result, path: str) -> None:
    """Warn if a file changed while it was copied: what was written may be a content that it never had."""
    if not stat.S_ISREG(before.st_mode) or is_view(source):
        return
    if was_written(before, os.fstat(source)):
        warnings.warn(
            "{}: it changed while it was copied, and the copy may be of no one moment: copy it again".format(path),
            RuntimeWarning,
            stacklevel=4,
        )


def existing(path: str) -> Optional[os.stat_result]:
    """Return the stat of a destination, following symlinks, or None if it does not exist.

    Raises OSError as stat(2).
    """
    try:
        return os.stat(path)
    except FileNotFoundError:
        if not path:  # nothing can be made there
            raise
        return None


@contextlib.contextmanager
def replacing(
    path: str,
    old: Optional[os.stat_result],
    options: CopyOptions = CopyOptions(),  # noqa: B008
    carried: Optional[attributes.Attributes] = None,
    hands: Hands = Threads(),  # noqa: B008
) -> Iterator[Target]:
    """Give the open target for the new content of ``path``, and commit it at the end.

    A new file gets the mode that open(2) gives it. A file that replaces ``old`` gets its owner, mode, extended
    attributes and flags. With ``options.fsync``, content and name are on the disk when the context ends. If an
    exception ends the context, nothing is changed, unless ``options.in_place`` is true.

    ``old``: the stat of the regular file at ``path``, or None.
    ``carried``: the source's attributes, of which ``options.keep`` selects what is copied.
    ``hands``: who writes to the target, and whether to a partial file.

    Warns of what is not kept. Raises IsADirectoryError, shutil.SpecialFileError, OSError; also if the file itself may
    not be written to, and with ``options.fsync`` if the directory may not be read.
    """
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise _special_file(path, old.st_mode)
    real = os.path.realpath(path) if os.path.islink(path) else path
    directory = _open_directory(real, path, options.fsync)
    inplace = options.in_place and old is not None
    mode = 0o600 if old is not None else 0o666
    if old is None and options.keep in ("mode", "all"):
        mode = 0o600
    elif old is None and options.keep == "new-mode" and carried is not None:
        mode = attributes.without_privileges(carried["mode"])
    name = os.path.basename(real)
    try:
        if old is not None and options.keep not in ("mode", "all") and is_anybodys(directory):
            mode = attributes.replacing_mode(directory, name, old)
        if old is not None and not inplace:
            check_replaceable(name, directory, path)
        partial = hands.partial(directory, name)
        target = Target(
            directory, name, path, inplace=inplace, mode=mode, partial=partial, new=old is None, named=options.in_place
        )
        target.merging = options.overlay
        with target:
            lost = [] if old is None or inplace else _carry_flags(real, target.fd)
            yield target
            with error_path(path, instead=True):
                replaced = None if old is None or inplace else attributes.of_replaced(real)
                lost += attributes.finish(target.fd, directory, options.keep, carried, replaced, inplace)
            attributes.tell(path, lost)
            target.commit(fsync=options.fsync)
    finally:
        os.close(directory)


def _carry_flags(path: str, target: int) -> List[str]:
    try:
        old = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []  # it may be written to, and not read
    try:
        return flags.carry(old, target)
    finally:
        os.close(old)


def _open_directory(path: str, given: str, fsync: bool) -> int:
    # Only what may be read can be flushed, and to write into a directory one need not be able to read it.
    access = os.O_RDONLY if fsync else os.O_PATH
    with error_path(given, instead=True):
        try:
            return os.open(os.path.dirname(path) or ".", access | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise no_directory(given) from None


def _copy_symlink(src: str, dst: "Path", keep: str, fsync: bool) -> "Path":
    directory = _open_directory(os.fspath(dst), os.fspath(dst), fsync)
    try:
        _make_symlink(src, dst, keep)
        if fsync:
            flush_directory(directory, os.fspath(dst))
    finally:
        os.close(directory)
    return dst


def _make_symlink(src: str, dst: "Path", keep: str) -> None:
    os.symlink(os.readlink(src), dst)
    if keep == "all":
        import shutil

        st = os.lstat(src)
        with contextlib.suppress(PermissionError):  # ownership where permitted
            os.lchown(dst, st.st_uid, st.st_gid)
        shutil.copystat(src, dst, follow_symlinks=False)
