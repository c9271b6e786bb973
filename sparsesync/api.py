"""The public functions: their signatures, and what each of them promises.

Each body imports what does the work, so that whoever uses one of them does not pay for another. Paths are ``str`` or
``os.PathLike``; sizes, offsets and lengths are bytes. Where a function takes ``rsh`` and ``python``, a ``str`` may be
``host:path``, by rsync's rule: a colon before the first slash. An ``os.PathLike`` is always local. ``rsh`` is the
remote shell's command (by default RSYNC_RSH, else ssh), ``python`` the Python to use there (by default one is looked
for).

``holes`` is whether the map that a filesystem has of a file is believed: "auto" believes local filesystems that are
known, and others after a check or not at all; "trust", "check" and "read" are for all. What is not believed is read,
and its blocks of zeros are holes. What is preallocated and unwritten is a hole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterator, Sequence
    from typing import Union

    from .comparison.difference import Difference
    from .engine.content.compare import Tally
    from .engine.content.copy_file import CopyOptions
    from .engine.errors import OnError, OnProgress
    from .engine.tree.scan import ScanOptions, Sparse
    from .seeding.run import SyncResult

    PathLike = Union[str, os.PathLike[str]]


def copyfile(
    src: PathLike,
    dst: PathLike,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    holes: str = "auto",
    reserve: bool = False,
    fsync: bool = False,
    progress: OnProgress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> PathLike:
    """Copy the content of ``src`` to the file ``dst``, holes as holes, and return ``dst``, as shutil.copyfile.

    One of the two may be ``host:path``. On one machine ``src`` may be a block device, and a file in proc or sysfs is
    read to its end. ``dst`` may be a device: it is written to and keeps its attributes, and on a block device holes
    read as zeros.

    ``follow_symlinks``: False copies a symlink as one, on one machine only.
    ``inplace``: write only the blocks that differ into ``dst``, and punch what became a hole. Otherwise ``dst`` is
    replaced atomically.
    ``reflink``: "auto" shares extents where the filesystem can; "always" fails where it cannot; "never" copies.
    ``sparse``: "auto" makes the source's holes, "always" also holes of blocks of zeros.
    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`.
    ``reserve``: reserve in ``dst`` what is preallocated in ``src``.
    ``fsync``: have the content on the disk before ``dst`` is replaced, and the name before the function returns. A
    power cut leaves the old or the new file (with ``inplace`` also a mixture), and after the return the new one.
    ``progress``: called with the bytes done since the last call.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.

    A new file has the mode that open(2) gives it. A replaced file keeps its owner, mode, extended attributes, flags and
    project.

    Warns with a RuntimeWarning, once, of attributes that the destination does not take, and on one machine if ``src``
    is written to meanwhile. Between two machines the latter is an OSError.

    Raises NoSpaceError before anything is written, TruncatedError if ``src`` is truncated meanwhile, LinkError if the
    other host cannot be reached or is lost, ValueError for an unknown choice, shutil.SameFileError,
    shutil.SpecialFileError for a pipe or a socket, IsADirectoryError, and OSError otherwise. After an error ``dst`` is
    unchanged, unless ``inplace`` is set or ``dst`` is a device. Only a lost connection leaves a partial file.
    """
    from .engine.content.copy_file import CopyOptions

    options = CopyOptions("content", follow_symlinks, inplace, reflink, sparse, holes, reserve, fsync)
    return _copy(src, dst, options, progress, rsh, python)


def copy(
    src: PathLike,
    dst: PathLike,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    holes: str = "auto",
    reserve: bool = False,
    fsync: bool = False,
    progress: OnProgress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> PathLike:
    """Copy content and mode of ``src`` to ``dst``, a file or a directory; return the file made, as shutil.copy.

    Takes and raises what :func:`copyfile` does.
    """
    from .engine.content.copy_file import CopyOptions

    options = CopyOptions("mode", follow_symlinks, inplace, reflink, sparse, holes, reserve, fsync)
    return _copy(src, dst, options, progress, rsh, python)


def copy2(
    src: PathLike,
    dst: PathLike,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: str = "auto",
    sparse: str = "auto",
    holes: str = "auto",
    reserve: bool = False,
    fsync: bool = False,
    progress: OnProgress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> PathLike:
    """Copy as :func:`copy`, and also times (in ns), extended attributes, ACLs, and ownership where permitted.

    Takes and raises what :func:`copyfile` does.
    """
    from .engine.content.copy_file import CopyOptions

    options = CopyOptions("all", follow_symlinks, inplace, reflink, sparse, holes, reserve, fsync)
    return _copy(src, dst, options, progress, rsh, python)


def _copy(
    src: PathLike, dst: PathLike, options: CopyOptions, progress: OnProgress, rsh: str | None, python: str | None
) -> PathLike:
    from .hosts.copies import Copies

    with Copies(rsh, python) as copies:
        return copies.copy(src, dst, options, progress)


def scan(
    path: PathLike,
    *,
    one_file_system: bool = False,
    every_link: bool = False,
    every_file: bool = False,
    min_size: int = 0,
    prune: Collection[str] = (),
    follow: bool = False,
    holes: str = "auto",
    on_error: OnError = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Iterator[Sparse]:
    """Yield each sparse regular file at or below ``path``, with its path, sizes and stat.

    ``path`` may be ``host:path``. The yielded paths begin with ``path`` as it was given.

    ``one_file_system``: stay on the filesystem of ``path``.
    ``every_link``: yield a file with several hard links once for each link.
    ``every_file``: yield files without holes too.
    ``min_size``: the smallest apparent size, in bytes.
    ``prune``: paths that are not entered, spelled as they would be yielded.
    ``follow``: if ``path`` is a symlink, scan the directory it leads to.
    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`. A file whose map is not believed is read
    only if its ``st_blocks`` indicate a hole. A file of less than 1 MiB that looks dense is not searched for reserved
    ranges.
    ``on_error``: called with the OSError of what cannot be examined below ``path``, and the walk goes on. Without it
    the error is raised.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.

    Raises OSError if ``path`` itself cannot be examined, LinkError if there is no connection, ValueError for an unknown
    ``holes``.
    """
    import os

    from .engine.tree.scan import ScanOptions, scan
    from .hosts.pool import is_remote

    options = ScanOptions(one_file_system, every_link, every_file, min_size, prune, follow, holes)
    if is_remote(path):
        return _scan_remote(str(path), options, on_error, rsh, python)
    return scan(os.fspath(path), options, on_error=on_error)


def _scan_remote(
    path: str, options: ScanOptions, on_error: OnError, rsh: str | None, python: str | None
) -> Iterator[Sparse]:
    from .hosts.pool import HostPool

    with HostPool(rsh, python) as hosts:
        host, below, prefix = hosts.locate(path)
        pruned = [name[len(prefix) :] for name in options.prune if name.startswith(prefix)]
        for found in host.scan(below, options._replace(prune=pruned), on_error=on_error):
            yield found.file._replace(path=prefix + found.file.path)


def extents(fd: int, start: int = 0, end: int | None = None, holes: str = "auto") -> Iterator[tuple[int, int]]:
    """Return the data extents of an open file between two offsets, ascending, each (offset, length) in bytes.

    Extents are cut to [``start``, ``end``). The end of the file is read once: appended data is not mapped, and a file
    that shrinks is mapped as far as it goes. Preallocated, unwritten ranges are no data. The file offset of ``fd`` is
    moved.

    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`.

    Raises ValueError for an unknown ``holes``, and OSError if the file has to be read and cannot be.
    """
    from .engine.files import extents as module

    return module.extents(fd, start, end, holes)


def verify(
    a: PathLike,
    b: PathLike,
    *,
    full: bool = False,
    holes: str = "auto",
    tallies: tuple[Tally, Tally] | None = None,
    on_error: OnError = None,
    progress: OnProgress = None,
    rsh: str | None = None,
    python: str | None = None,
) -> Iterator[Difference]:
    """Yield each difference between two files or two trees, by content. Equal ones yield nothing.

    Each of the two may be ``host:path``; then digests are exchanged instead of data. Modes, owners and times are not
    compared.

    ``full``: read the holes too.
    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`. All of a file is read where its map is not
    believed.
    ``tallies``: of ``a`` and of ``b``; the bytes read, and those believed to be holes, are added.
    ``on_error``: called with the OSError, with its ``filename``, of each file or directory that cannot be compared, and
    the walk goes on. Without it the error is raised.
    ``progress``: called with the bytes compared since the last call.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.

    Raises FileNotFoundError, at once, if ``a`` or ``b`` does not exist, and ValueError for an unknown ``holes``. If one
    of the two is on another host, the first step raises the FileNotFoundError, or LinkError if there is no connection.
    """
    from .comparison import direct

    return direct.verify(
        a, b, full=full, holes=holes, tallies=tallies, on_error=on_error, progress=progress, rsh=rsh, python=python
    )


def exclude_patterns(
    sources: Sequence[PathLike],
    *,
    relative: bool = False,
    min_size: int = 0,
    min_ratio: float = 0.0,
    one_file_system: bool = False,
    preset: str | None = None,
    format: str = "rsync",
    null: bool = True,
    on_error: OnError = None,
    rsh: str | None = None,
    python: str | None = None,
) -> list[str]:
    """Return the patterns that exclude the sparse files below ``sources``, one rule each.

    ``sources`` are given as to rsync: "dir" and "dir/" differ. Each may be ``host:path``. If two sources have a file of
    the same name in the transfer, its pattern excludes both. Undecodable bytes in names are surrogate escapes
    (os.fsencode).

    ``relative``: as rsync's ``--relative``.
    ``min_size``: the smallest apparent size, in bytes.
    ``min_ratio``: the smallest share of a file, 0 to 1, that is not data.
    ``one_file_system``: stay on the filesystem of each source.
    ``preset``: also exclude what a copy of such a tree should not have: "docker" or "system".
    ``format``: the program that reads the patterns: "rsync", "tar", "borg" or "restic".
    ``null``: False refuses names that need ``rsync --from0``.
    ``on_error``: called with the OSError of what cannot be examined below a source. Without it the error is raised.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.

    Raises ValueError for a name the format cannot carry and for an unknown preset or format, OSError if a source cannot
    be read, LinkError if there is no connection.
    """
    from . import exclude

    options = exclude.PatternOptions(relative, min_size, min_ratio, one_file_system, preset, format, null)
    return exclude.exclude_patterns(sources, options, on_error=on_error, rsh=rsh, python=python)


def sync(sources: PathLike | Sequence[PathLike], destination: PathLike, options: Sequence[str] = ()) -> SyncResult:
    """Copy ``sources`` to ``destination`` as ``rsync OPTIONS SOURCES DESTINATION`` would, holes staying holes.

    rsync's output goes where the caller's goes. A failure of rsync is not raised, but is in the result's ``status``.

    ``sources``: a path or several. Either they or ``destination`` may be ``host:path``.
    ``options``: rsync's, and the ``--seed-`` options of the command line.

    Raises FileNotFoundError if rsync is not installed, RsyncTooOldError if it is older than 3.1, ValueError for a wrong
    ``--seed-`` option, NoSpaceError before anything is written, LinkError if the other host cannot be logged in to or
    the connection breaks. After a LinkError rsync has not run, and partial files are kept for the next run.
    """
    from .seeding import run

    return run.sync(sources, destination, options)
