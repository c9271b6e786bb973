"""Bring one target to one source's content, at the cost of the data alone.

:func:`copying` is the whole of it::

    a new file:     clone the source, if both filesystems can; else
                    give the target its size, and write each data extent,
                    less blocks of zeros where the source's holes are not known
    in place:       punch what is a hole in the source,
                    write the blocks that differ;
                    so it is in a clone of a basis, if there is one
    a kernel view:  read on to its end, whatever its size (:func:`files.claims.is_view`)

What is to be written is a stream of ranges, and the writer does not ask where it comes
from: all data extents, those found by looking for zeros as well, or those that differ.

Nor does it ask who copies them: :mod:`hands` has this thread and others that help, and whoever calls may give other
hands: it stops where ranges are to be copied, so that many files can be under way at a time, or goes on at once
(:func:`by_hands`). In the comparing of two files for an update in place threads help in the same way.

Sizes and offsets are bytes. :mod:`copy_file` has the functions for paths.
"""

import contextlib
import errno
import os
import stat
import warnings
from typing import Any, Callable, Generator, Iterable, Iterator, Optional, TypeVar

from ..errors import NoSpaceError, OnProgress, TruncatedError, error_path
from ..files.claims import (
    ZERO_BLOCK_BYTES,
    allocated,
    believes,
    check_holes,
    file_size,
    is_anybodys,
    is_view,
    looks_sparse,
)
from ..files.extents import Extent, extents, has_data, layers, mapped, nonzero
from ..files.fiemap import records
from ..files.syscalls import NO_ORDER, NO_SIZE, UNSUPPORTED, clone, filesystem_at, resize, write_all
from ..files.writing.target import Target
from .differing import MAX_RANGE_BYTES, all_differing
from .hands.writer import Asked, Hands, Threads, Work
from .pieces import read_on, read_ranges, write_in_order

_T = TypeVar("_T")

_MAX_BLOCK_BYTES = 64 * 1024
"""Of a filesystem on Linux."""


def by_hands(steps: Generator[Asked, int, _T]) -> _T:
    """Have each step's ranges copied by its hands, and return what the steps do in the end."""
    try:
        asked = next(steps)
        while True:
            asked = after_hands(steps, asked)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]


def after_hands(steps: Generator[Asked, int, Any], asked: Asked) -> Asked:
    """Have the ranges that steps ask for copied by their hands, and return what is asked for next.

    Raises StopIteration at the end, and what the steps raise.
    """
    try:
        written = asked.hands.write(asked.work, asked.ranges)
    except BaseException as error:
        return steps.throw(error)
    return steps.send(written)


def copying(
    source: int,
    target: Target,
    *,
    sparse: str = "auto",
    reflink: str = "auto",
    holes: str = "auto",
    progress: OnProgress = None,
    pace: OnProgress = None,
    source_path: str = "source",
    basis: Optional[int] = None,
    hands: Hands = Threads(),  # noqa: B008
    before: Optional[os.stat_result] = None,
    check: Callable[[os.stat_result], object] = lambda st: None,
) -> Generator[Asked, int, int]:
    """Make ``target`` hold what the open file ``source`` holds, and return the bytes of data written.

    Yields what is to be copied. Whoever takes that sends the bytes written, or throws what went wrong.

    The target still has to be committed. If ``target`` is reserving, it gets the source's reservations.

    ``sparse``: "auto" makes holes where the source has them; "always" also where the data is blocks of zeros.
    ``reflink``: "auto" shares extents if possible; "always" fails if that is not possible; "never" copies.
    ``holes``: whether the source's map is believed (:func:`files.claims.believes`).
    ``progress``: called with the bytes done since the last call: copied, or compared with what is there.
    ``pace``: called with the bytes copied since the last call.
    ``basis``: an open file. A new file shares extents with it where they are equal, if it can with no other.
    ``hands``: who copies the ranges.
    ``before``: the source's stat, if it was just taken.
    ``check``: called with the source's stat at the end; raises what makes the copy a failure.

    Raises TruncatedError if the source is truncated meanwhile, NoSpaceError before anything is written if the data
    cannot fit, OSError as the system calls do.
    """
    check_choices(sparse, reflink, target.inplace, holes)
    told = None if progress is None else _Told(progress)
    progress = told
    before = os.fstat(source) if before is None else before
    size = file_size(source, before)
    if not target.inplace and sparse == "auto" and reflink != "never" and stat.S_ISREG(before.st_mode):
        with error_path(target.path):
            known = target.known
            if not target.continued and clone(source, target.fd, before, None if known is None else known.st):
                if target.reserving:
                    _reserve_like(source, target, size)
                else:
                    target.release()
                data = allocated(os.fstat(target.fd))
                _tell(progress, data)
                check(os.fstat(source))
                return data
    if basis is not None and not target.inplace and stat.S_ISREG(before.st_mode) and not is_view(source, before):
        target.clone(basis)
    if reflink == "always":
        raise OSError(errno.EOPNOTSUPP, "the filesystems cannot share extents (reflink)", target.path)
    with error_path(source_path):
        view = is_view(source, before)
        believed = view or believes(source, holes, before)
        if target.merging and (view or not believed):
            raise not_to_be_merged(source_path)
    block = 0 if believed and sparse == "auto" else zero_block(target)
    at_most = _data_at_most(before, size, sparse, believed)
    with error_path(target.path):
        if target.overlay and not view:
            _begin_over(source, target, size, at_most, believed)
        elif target.overlay:
            target.give_up_unusable()
        written, held = None, None  # type: Optional[int], Optional[_Counted]
        if view:
            written = _copy_view(source, target, size, _both(progress, pace), source_path)
        elif target.overlay:
            held = _Counted(data_ranges(source, size, block, believed))
            work = Work(source, source_path, target, believed and reflink != "never", 0, pace)
            with contextlib.closing(_update(source, target, held, size, source_path, progress, hands.jobs)) as changed:
                written = yield from _write(hands, work, changed)
            if written is not None:
                # Only now: until here another thread may have had something to write. Blocks of a map are no data.
                target.trim(min(allocated(os.fstat(source)), held.total + held.total // 64 + 64 * 1024))
        else:
            if target.continued or _make_room(target, size, at_most, source, believed):
                kernel, tell = not block and reflink != "never", _both(progress, pace)
                work = Work(source, source_path, target, kernel, block, tell, believed, before)
                written = yield from _write(hands, work, _all_data(source, size, believed, before))
        if written is None:
            ranges = _Counted(_all_data(source, size, believed, before))
            data = _write_in_order(source, target, size, ranges, source_path)
            _tell(pace, data)
            # It is begun anew, and what was told of is done again. The zeros of holes are written, and no data.
            _tell(progress, ranges.total - (told.count if told is not None else 0))
        else:
            data = written if held is None or target.inplace else held.total  # what it shares is its own, too
        if target.reserving and believed and not view:
            _reserve_like(source, target, size)
    after = os.fstat(source)
    if file_size(source, after) < size:
        raise TruncatedError(source_path)
    check(after)
    return data


def not_to_be_merged(path: str) -> OSError:
    """Return the error of a source whose holes nobody knows from zeros."""
    text = "what is a hole in it, and what is zeros, is not known for certain (--holes=trust believes its filesystem)"
    return OSError(errno.EOPNOTSUPP, text, path)


def _copy_view(source: int, target: Target, size: int, progress: OnProgress, source_path: str) -> int:
    # Whoever claims terabytes is refused here, and not when the disk is full.
    target.reserve(size, size)
    end = 0
    for offset, data in read_on(source, source_path):
        write_all(target.fd, data, offset)
        end = offset + len(data)
        _tell(progress, len(data))
    resize(target.fd, end)
    return end


def zero_block(target: Target) -> int:
    """Return the bytes in which zeros are looked for, to be holes of the target."""
    # A server's own block is what it likes to be sent at a time.
    return min(filesystem_at(target.fd).f_bsize, _MAX_BLOCK_BYTES)


def check_choices(sparse: str, reflink: str, inplace: bool, holes: str, overlay: bool = False) -> None:
    """Raise ValueError for an unknown ``sparse``, ``reflink`` or ``holes``, or for two that exclude each other."""
    check_holes(holes)
    if sparse not in ("auto", "always"):
        raise ValueError("sparse must be 'auto' or 'always', not {!r}".format(sparse))
    if reflink not in ("auto", "always", "never"):
        raise ValueError("reflink must be 'auto', 'always' or 'never', not {!r}".format(reflink))
    if overlay and sparse == "always":
        raise ValueError("overlay takes zeros for content; it cannot be combined with sparse='always'")
    if reflink == "always" and (inplace or sparse == "always"):
        raise ValueError("reflink='always' shares whole files; it cannot be combined with inplace or sparse='always'")


def _tell(progress: OnProgress, count: int) -> None:
    if progress is not None and count > 0:
        progress(count)


def _both(progress: OnProgress, pace: OnProgress) -> OnProgress:
    if progress is None or pace is None:
        return progress or pace

    def tell(count: int) -> None:
        for each in (pace, progress):
            _tell(each, count)

    return tell


def data_ranges(source: int, size: int, zero_block: int, believed: bool) -> Iterator[Extent]:
    """Yield the data extents of an open file, without its blocks of zeros if ``zero_block`` is given.

    If the map is not ``believed``, the file is read, and all blocks but those of zeros are yielded.

    ``zero_block``: bytes; 0 keeps the zeros of a believed map, and stands for ZERO_BLOCK_BYTES otherwise.
    """
    for offset, length in extents(source, 0, size, "trust") if believed else iter([(0, size)]):
        if zero_block or not believed:
            for run in nonzero(source, offset, length, zero_block or ZERO_BLOCK_BYTES, MAX_RANGE_BYTES):
                yield run
        else:
            yield offset, length


def reserved_ranges(source: int, size: int) -> Iterator[Extent]:
    """Yield the reserved ranges of an open file whose map is believed.

    Warns if the filesystem does not report them.
    """
    try:
        records(source, 0, max(size, 1))  # of no bytes at all there is no map
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        what = "what the source has reserved cannot be known: its filesystem has no FIEMAP"
        warnings.warn(what, RuntimeWarning, stacklevel=1)
    for offset, length, is_data in layers(source, 0, size, "trust"):
        if not is_data:
            yield offset, length


def _reserve_like(source: int, target: Target, size: int) -> None:
    for offset, length in reserved_ranges(source, size):
        target.preallocate(offset, length)


def _make_room(target: Target, size: int, at_most: int, source: int, believed: bool) -> bool:
    """Give the new file its size. Returns False if its mount takes bytes only one after the other."""
    try:
        target.reserve(size, at_most)
    except NoSpaceError:
        # What is preallocated is not data. To know how much that is costs a walk, so only now.
        data = _count(source, size, believed)
        if data >= at_most or target.reserving:
            raise
        target.reserve(size, data)
    except OSError as error:
        if error.errno not in NO_SIZE:
            raise
        return False
    return True


def _all_data(source: int, size: int, believed: bool, st: os.stat_result) -> Iterator[Extent]:
    return mapped(source, 0, size, st) if believed else iter([(0, size)])


def _write(hands: Hands, work: Work, ranges: Iterable[Extent]) -> Generator[Asked, int, Optional[int]]:
    """Have the ranges copied, and return the bytes written; None if the target's mount takes them in order only."""
    try:
        return (yield Asked(hands, work, ranges))
    except OSError as error:
        target = work.target
        kept = target.continued or target.merging or (target.seeds and target.inplace) or not is_anybodys(target.fd)
        if kept or error.filename == work.source_path or error.errno not in NO_ORDER:
            raise
        target.empty()
    return None


def _write_in_order(source: int, target: Target, size: int, ranges: Iterable[Extent], source_path: str) -> int:
    """Write an empty target from its begin to its end, and return the bytes written. Raises NoSpaceError."""
    target.check_room(size)
    what = "{}: its mount takes bytes in order only: {} bytes will be written, holes too"
    warnings.warn(what.format(target.path, size), RuntimeWarning, stacklevel=4)
    pieces = read_ranges(source, ranges, source_path)
    written = write_in_order(target.fd, pieces, size)
    if file_size(source) < size:
        raise TruncatedError(source_path)
    return written


def _begin_over(source: int, target: Target, size: int, at_most: int, believed: bool) -> None:
    """Give what there is to be written over its new size (:meth:`Target.begin_over`). Raises NoSpaceError before."""
    try:
        target.begin_over(size, at_most)
    except NoSpaceError:
        if target.reserving:
            raise
        target.begin_over(size, _count(source, size, believed))


def _count(source: int, size: int, believed: bool) -> int:
    return sum(length for _, length in extents(source, 0, size, "trust" if believed else "read"))


def _data_at_most(st: os.stat_result, size: int, sparse: str, believed: bool) -> int:
    """Return the most bytes of storage that a copy takes, judged by stat; all of ``size`` if nothing is believed."""
    if sparse == "always":
        return 0  # known only once all is read
    return allocated(st) if believed and looks_sparse(st) else size


def _update(
    source: int,
    target: Target,
    ranges: Iterable[Extent],
    size: int,
    source_path: str,
    progress: OnProgress,
    jobs: Optional[int],
) -> Generator[Extent, None, None]:
    """Yield the ranges to write for an update in place, and punch the holes on the way. What is compared, is done."""
    end = 0

    def punched() -> Iterator[Extent]:
        nonlocal end
        for offset, length in ranges:
            target.punch(end, offset - end)
            end = offset + length
            yield offset, length

    if target.is_readable:
        yield from all_differing(source, target.fd, punched(), source_path, target.path, progress, jobs)
    else:
        for offset, length in punched():
            yield offset, length
            _tell(progress, length)
    if target.reserving or has_data(target.fd, end, size - end):
        target.cut(end, size)


class _Told:
    """Tells of progress. ``count``: bytes."""

    def __init__(self, tell: Callable[[int], object]) -> None:
        self._tell = tell
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count
        self._tell(count)


class _Counted:
    """Ranges, and in ``total`` the bytes of those that were taken."""

    def __init__(self, ranges: Iterable[Extent]) -> None:
        self._ranges = ranges
        self.total = 0

    def __iter__(self) -> Iterator[Extent]:
        for offset, length in self._ranges:
            self.total += length
            yield offset, length
