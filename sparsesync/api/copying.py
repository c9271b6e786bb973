"""Copies of a file, as shutil has them. :mod:`sparsesync.api` says what the parameters of all functions mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    import os
    from concurrent.futures import Executor
    from typing import TypeVar, Union

    from ..engine.content.copy_file import CopyOptions
    from ..engine.errors import OnProgress
    from ..hosts.base import PathLike, Rsh
    from .choices import Holes, Reflink, Zeros

    _Path = TypeVar("_Path", bound=PathLike)
    _Str = TypeVar("_Str", bound=Union[str, os.PathLike[str]])
    _Bytes = TypeVar("_Bytes", bound=Union[bytes, os.PathLike[bytes]])


def copyfile(
    src: PathLike | int,
    dst: _Path,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: Reflink = "auto",
    sparse: Zeros = "auto",
    holes: Holes = "auto",
    reserve: bool = False,
    fsync: bool = False,
    overlay: bool = False,
    track: PathLike | None = None,
    extents_from: PathLike | None = None,
    progress: OnProgress = None,
    rsh: Rsh = None,
    python: str | None = None,
    streams: int = 1,
    executor: Executor | None = None,
) -> _Path:
    """Copy the content of ``src`` to the file ``dst``, holes as holes, and return ``dst``, as shutil.copyfile.

    One of the two may be ``host:path``. On one machine ``src`` may be a block device, and a file in proc or sysfs is
    read to its end. ``dst`` may be a device: it is written to and keeps its attributes, and on a block device holes
    read as zeros. ``src`` may be a file descriptor: all of its file is copied, and it stays open and where it was.

    ``follow_symlinks``: False copies a symlink as one, on one machine only.
    ``inplace``: write only the blocks that differ into ``dst``, and punch what became a hole. Otherwise ``dst`` is
    replaced atomically.
    ``reflink``: "auto" shares extents where the filesystem can; "always" fails where it cannot; "never" copies.
    ``sparse``: "auto" makes the source's holes, "always" also holes of blocks of zeros.
    ``holes``: "auto", "trust", "check" or "read": see :mod:`sparsesync.api`.
    ``reserve``: reserve in ``dst`` what is preallocated in ``src``.
    ``fsync``: have the content on the disk before ``dst`` is replaced, and the name before the function returns. A
    power cut leaves the old or the new file (with ``inplace`` also a mixture), and after the return the new one.
    ``overlay``: write to ``dst`` in place only what is data in ``src``: what is a hole in ``src`` stays as it is in
    ``dst``, also beyond the end of ``src``. That is for a snapshot of what changed, merged into its base. On a block
    device it leaves what is there. An OSError if holes cannot be told from zeros for certain.
    ``track``: a directory, on the filesystem of ``src``, for a clone of ``src`` and a record of the copy. The content
    is that of the clone, whatever is written to ``src`` meanwhile. The next copy from ``src`` to ``dst`` with the same
    ``track`` reads only what changed, if ``dst`` still is what this one made. Without clones (XFS and btrfs have them)
    a RuntimeWarning says so, and ``dst`` is made as without ``track``.
    ``extents_from``: a file with a list of what changed in ``src`` since ``dst`` was made: QEMU's dirty bitmap, as
    nbdinfo or qemu-img print it, thin_delta's XML, or a JSON list of objects with ``offset`` and ``length``. Only that
    is read and sent, and nobody can check that it is all. Where ``dst`` is missing, or cannot be told to be what it
    was, all of ``src`` is copied. ``src`` is on this machine.
    ``progress``: called with the bytes of data done since the last call: copied, or, with ``inplace``, compared. An
    exception that it raises ends the copy.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.
    ``streams``: how many connections carry the content to or from another host, at most 16: one for each 64 MiB of
    data. That is for a link that is faster than one ssh. Those after the first log in by a key that asks nobody; where
    that fails there are fewer.
    ``executor``: has its workers copy, processes here or on other machines, which see both files by the same absolute
    paths and import the same version of this package. Content does not go through the executor. It is not closed. The
    copy goes on where an earlier one with an executor broke off. Not with ``inplace``, ``overlay``, a file descriptor
    or another host. Anything with the interface of concurrent.futures.Executor will do.

    A new file has the mode that open(2) gives it. A replaced file keeps its owner, mode, extended attributes, flags and
    project. Unlike shutil's, it is a new file without ``inplace``: it has another inode, and its other hard links keep
    the old content.

    Warns with a RuntimeWarning, once, of attributes that the destination does not take, and on one machine if ``src``
    is written to meanwhile. Between two machines, and with ``executor``, the latter is an OSError.

    Raises NoSpaceError before anything is written, TruncatedError if ``src`` is truncated meanwhile, LinkError if the
    other host cannot be reached or is lost, ValueError for an unknown choice, shutil.SameFileError,
    shutil.SpecialFileError for a pipe or a socket, IsADirectoryError, and OSError otherwise. After an error ``dst`` is
    unchanged, unless ``inplace`` or ``overlay`` is set or ``dst`` is a device. Only a lost connection, or what ends a
    copy with ``executor``, leaves a partial file.
    """
    from ..engine.content.copy_file import CopyOptions

    options = CopyOptions("content", follow_symlinks, inplace, reflink, sparse, holes, reserve, fsync, overlay=overlay)
    _copy(src, dst, options, track, extents_from, progress, rsh, python, streams, executor)
    return dst


@overload
def copy(
    src: PathLike, dst: _Str, *, follow_symlinks: bool = ..., inplace: bool = ..., reflink: Reflink = ...,
    sparse: Zeros = ..., holes: Holes = ..., reserve: bool = ..., fsync: bool = ..., overlay: bool = ...,
    track: PathLike | None = ..., extents_from: PathLike | None = ..., progress: OnProgress = ..., rsh: Rsh = ...,
    python: str | None = ..., streams: int = ..., executor: Executor | None = ...,
) -> _Str | str: ...  # fmt: skip


@overload
def copy(
    src: PathLike, dst: _Bytes, *, follow_symlinks: bool = ..., inplace: bool = ..., reflink: Reflink = ...,
    sparse: Zeros = ..., holes: Holes = ..., reserve: bool = ..., fsync: bool = ..., overlay: bool = ...,
    track: PathLike | None = ..., extents_from: PathLike | None = ..., progress: OnProgress = ..., rsh: Rsh = ...,
    python: str | None = ..., streams: int = ..., executor: Executor | None = ...,
) -> _Bytes | bytes: ...  # fmt: skip


def copy(
    src: PathLike,
    dst: PathLike,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: Reflink = "auto",
    sparse: Zeros = "auto",
    holes: Holes = "auto",
    reserve: bool = False,
    fsync: bool = False,
    overlay: bool = False,
    track: PathLike | None = None,
    extents_from: PathLike | None = None,
    progress: OnProgress = None,
    rsh: Rsh = None,
    python: str | None = None,
    streams: int = 1,
    executor: Executor | None = None,
) -> PathLike:
    """Copy content and mode of ``src`` to ``dst``, a file or a directory; return the file made, as shutil.copy.

    Takes and raises what :func:`copyfile` does.
    """
    from ..engine.content.copy_file import CopyOptions

    options = CopyOptions("mode", follow_symlinks, inplace, reflink, sparse, holes, reserve, fsync, overlay=overlay)
    return _copy(src, dst, options, track, extents_from, progress, rsh, python, streams, executor)


@overload
def copy2(
    src: PathLike, dst: _Str, *, follow_symlinks: bool = ..., inplace: bool = ..., reflink: Reflink = ...,
    sparse: Zeros = ..., holes: Holes = ..., reserve: bool = ..., fsync: bool = ..., overlay: bool = ...,
    track: PathLike | None = ..., extents_from: PathLike | None = ..., progress: OnProgress = ..., rsh: Rsh = ...,
    python: str | None = ..., streams: int = ..., executor: Executor | None = ...,
) -> _Str | str: ...  # fmt: skip


@overload
def copy2(
    src: PathLike, dst: _Bytes, *, follow_symlinks: bool = ..., inplace: bool = ..., reflink: Reflink = ...,
    sparse: Zeros = ..., holes: Holes = ..., reserve: bool = ..., fsync: bool = ..., overlay: bool = ...,
    track: PathLike | None = ..., extents_from: PathLike | None = ..., progress: OnProgress = ..., rsh: Rsh = ...,
    python: str | None = ..., streams: int = ..., executor: Executor | None = ...,
) -> _Bytes | bytes: ...  # fmt: skip


def copy2(
    src: PathLike,
    dst: PathLike,
    *,
    follow_symlinks: bool = True,
    inplace: bool = False,
    reflink: Reflink = "auto",
    sparse: Zeros = "auto",
    holes: Holes = "auto",
    reserve: bool = False,
    fsync: bool = False,
    overlay: bool = False,
    track: PathLike | None = None,
    extents_from: PathLike | None = None,
    progress: OnProgress = None,
    rsh: Rsh = None,
    python: str | None = None,
    streams: int = 1,
    executor: Executor | None = None,
) -> PathLike:
    """Copy as :func:`copy`, and also times (in ns), extended attributes, ACLs, and ownership where permitted.

    shutil.copy2 does not copy ownership.

    Takes and raises what :func:`copyfile` does.
    """
    from ..engine.content.copy_file import CopyOptions

    options = CopyOptions("all", follow_symlinks, inplace, reflink, sparse, holes, reserve, fsync, overlay=overlay)
    return _copy(src, dst, options, track, extents_from, progress, rsh, python, streams, executor)


def _copy(
    src: PathLike | int,
    dst: PathLike,
    options: CopyOptions,
    track: PathLike | None,
    extents_from: PathLike | None,
    progress: OnProgress,
    rsh: Rsh,
    python: str | None,
    streams: int,
    executor: Executor | None,
) -> PathLike:
    from ..embedding import Passing
    from ..hosts.copies import Copies, as_given

    copying = Copies(rsh, python, streams=streams, track=track, extents_from=extents_from, executor=executor)
    with Passing() as passing, copying as copies:
        return as_given(copies.copy(src, dst, options, passing.through(progress)).path, dst)
