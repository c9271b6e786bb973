"""What walks through trees of files. :mod:`sparsesync.api` says what the parameters of all functions mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from concurrent.futures import Executor

    from ..comparison.difference import Difference
    from ..engine.content.compare import Tally
    from ..engine.errors import OnError, OnProgress
    from ..engine.tree.scan import ScanOptions, Sparse
    from ..hosts.base import PathLike, Rsh
    from .choices import Format, Holes


def scan(
    path: PathLike,
    *,
    one_file_system: bool = False,
    every_link: bool = False,
    every_file: bool = False,
    min_size: int = 0,
    prune: PathLike | Iterable[PathLike] = (),
    follow: bool = False,
    holes: Holes = "auto",
    on_error: OnError = None,
    rsh: Rsh = None,
    python: str | None = None,
    executor: Executor | None = None,
) -> Generator[Sparse, None, None]:
    """Yield each sparse regular file at or below ``path``, with its path, sizes and stat.

    Nothing is examined, and no host connected to, before the first step. Closing the generator ends the walk, and the
    remote shell.

    ``path`` may be ``host:path``. The yielded paths begin with ``path`` as it was given.

    ``one_file_system``: stay on the filesystem of ``path``.
    ``every_link``: yield a file with several hard links once for each link.
    ``every_file``: yield files without holes too.
    ``min_size``: the smallest apparent size, in bytes.
    ``prune``: a path or several that are not entered, spelled as they would be yielded.
    ``follow``: if ``path`` is a symlink, scan what it leads to. What is neither a file nor a directory is then refused.
    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`. A file whose map is not believed is read
    only if its ``st_blocks`` indicate a hole. A file of less than 1 MiB that looks dense is not searched for reserved
    ranges.
    ``on_error``: called with the OSError of what cannot be examined below ``path``, and the walk goes on. Without it
    the error is raised.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.
    ``executor``: has its workers scan a directory, which they see by the same absolute path; not another host's.

    Raises ValueError for an unknown ``holes``, and for ``host:path`` with an executor. The first step raises OSError if
    ``path`` itself cannot be examined, LinkError if there is no connection.
    """
    import os

    from ..embedding import Passing
    from ..engine.files.claims import check_holes
    from ..engine.tree.scan import ScanOptions, scan
    from ..hosts.base import several
    from ..hosts.pool import is_remote

    check_holes(holes)
    pruned = {name.rstrip("/") or "/" for name in map(os.fsdecode, several(prune))}
    options = ScanOptions(one_file_system, every_link, every_file, min_size, pruned, follow, holes)
    passing = Passing()
    on_error = passing.through(on_error)
    if executor is not None:
        if is_remote(path):
            raise ValueError("workers see the path through a shared filesystem; it cannot be host:path")
        from ..workers.scanning import scan_by

        found = scan_by(executor, os.fsdecode(path), options, on_error=on_error)
        return passing.generator(each.file for each in found)
    if is_remote(path):
        return passing.generator(_scan_remote(str(path), options, on_error, rsh, python))
    return passing.generator(scan(os.fsdecode(path), options, on_error=on_error))


def _scan_remote(
    path: str, options: ScanOptions, on_error: OnError, rsh: Rsh, python: str | None
) -> Generator[Sparse, None, None]:
    from ..hosts.pool import HostPool

    with HostPool(rsh, python) as hosts:
        host, below, prefix = hosts.locate(path)
        pruned = [name[len(prefix) :] for name in options.prune if name.startswith(prefix)]
        for found in host.scan(below, options._replace(prune=pruned), on_error=on_error):
            yield found.file._replace(path=prefix + found.file.path)


def verify(
    a: PathLike,
    b: PathLike,
    *,
    full: bool = False,
    holes: Holes = "auto",
    tallies: tuple[Tally, Tally] | None = None,
    on_error: OnError = None,
    progress: OnProgress = None,
    rsh: Rsh = None,
    python: str | None = None,
    executor: Executor | None = None,
) -> Generator[Difference, None, None]:
    """Yield each difference between two files or two trees, by content. Equal ones yield nothing.

    Nothing is examined, and no host connected to, before the first step. Closing the generator ends the comparison, and
    the remote shells.

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
    ``executor``: has its workers compare, as :func:`copyfile` has them copy; not another host's.

    Raises ValueError for an unknown ``holes``. The first step raises OSError if ``a`` or ``b`` itself cannot be
    examined, LinkError if there is no connection.
    """
    from ..comparison import compare
    from ..embedding import Passing

    passing = Passing()
    on_error, progress = passing.through(on_error), passing.through(progress)
    return passing.generator(
        compare.verify(
            a, b, full=full, holes=holes, tallies=tallies, on_error=on_error, progress=progress, rsh=rsh,
            python=python, executor=executor,
        )
    )  # fmt: skip


def equal(
    a: PathLike,
    b: PathLike,
    *,
    full: bool = False,
    holes: Holes = "auto",
    progress: OnProgress = None,
    rsh: Rsh = None,
    python: str | None = None,
) -> bool:
    """Return whether two files or two trees are equal, by content. What that is, and the rest, is as of :func:`verify`.

    Nothing is read behind the first difference.

    Raises what :func:`verify` does, and OSError if a file or directory cannot be compared.
    """
    from contextlib import closing

    differences = verify(a, b, full=full, holes=holes, progress=progress, rsh=rsh, python=python)
    with closing(differences):
        return next(differences, None) is None


def exclude_patterns(
    sources: PathLike | Iterable[PathLike],
    *,
    relative: bool = False,
    min_size: int = 0,
    min_ratio: float = 0.0,
    one_file_system: bool = False,
    preset: str | None = None,
    format: Format = "rsync",
    null: bool = True,
    on_error: OnError = None,
    rsh: Rsh = None,
    python: str | None = None,
) -> list[str]:
    """Return the patterns that exclude the sparse files below ``sources``, one rule each.

    ``sources`` is a path or several, given as to rsync: "dir" and "dir/" differ, and an ``os.PathLike`` has no slash at
    its end. Each may be ``host:path``. If two sources have a file of
    the same name in the transfer, its pattern excludes both. Undecodable bytes in names are surrogate escapes
    (os.fsencode).

    ``relative``: as rsync's ``--relative``.
    ``min_size``: the smallest apparent size, in bytes.
    ``min_ratio``: the smallest share of a file, 0 to 1, that is not data.
    ``one_file_system``: stay on the filesystem of each source.
    ``preset``: also exclude what a copy of such a tree should not have: "docker", "containerd", "podman", "incus",
    "lxd", "libvirt", "kubelet", "system", or several with commas between them.
    ``format``: the program that reads the patterns: "rsync", "tar", "borg", "restic", "kopia" or "rustic".
    ``null``: False refuses names that need ``rsync --from0``.
    ``on_error``: called with the OSError of what cannot be examined below a source. Without it the error is raised.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.

    Raises ValueError for a name the format cannot carry and for an unknown preset or format, OSError if a source cannot
    be read, LinkError if there is no connection.
    """
    from .. import exclude
    from ..embedding import Passing

    options = exclude.PatternOptions(relative, min_size, min_ratio, one_file_system, preset, format, null)
    with Passing() as passing:
        on_error = passing.through(on_error)
        return exclude.exclude_patterns(sources, options, on_error=on_error, rsh=rsh, python=python)
