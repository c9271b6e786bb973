"""Compare two files, or two trees, by content, reading only where there is data.

Two trees are walked together, one directory at a time::

    names = those of the directory in A and of the same directory in B, sorted
    only in one of them  -> "missing" or "extra"; what is below is not listed
    of different types   -> "type"
    directories          -> kept for later
    anything else        -> compared now: files by content, links by target, devices by number
    then the directories that were kept, in order

so what is held is the names of one directory and the directories still to enter beside the way
down to it, never the tree. Only the content of regular files is read: a pipe or a socket
equals another without being opened, and two names of one inode are equal as they
stand. Modes, owners and times are not content.

The roots may be symlinks and are followed; below them no symlink is. Each directory is opened from
its root one component at a time (:func:`beneath.open_beneath`), and its entries by way of its
descriptor, so that this holds even while somebody rearranges the tree; and a tree of any
depth takes no more descriptors than a flat one.

A root that is a block device is compared by its content, with another or with an image; below
the roots a device node is compared by the device it stands for.

Where one of the two is on another host, the comparison is another: :mod:`digests`.
"""

import contextlib
import os
import stat
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional

from ..engine.content.compare import Tally, first_difference
from ..engine.errors import OnError, OnProgress, error_path
from ..engine.files.beneath import open_beneath
from ..engine.files.claims import check_holes
from ..engine.tree.left_out import LeftOut, NameRules, left_out
from ..engine.tree.node import Names, Node, has_content
from ..hosts.base import PathLike, Rsh
from ..hosts.pool import is_remote
from .difference import Difference, of_attributes

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ..workers.comparing import Pair, Pairs

_Root = tuple[int, str, LeftOut]
"""A directory that is open, its path, and what is left out of it."""


def verify(
    a: PathLike,
    b: PathLike,
    *,
    full: bool = False,
    holes: str = "auto",
    tallies: Optional[tuple[Tally, Tally]] = None,
    on_error: OnError = None,
    progress: OnProgress = None,
    rsh: Rsh = None,
    python: Optional[str] = None,
    prefix: str = "",
    rules: Optional[NameRules] = None,
    attributes: bool = False,
    on_equal: Callable[[str, bool], object] = lambda path, again: None,
    executor: "Optional[Executor]" = None,
) -> Generator[Difference, None, None]:
    """Yield each difference between two files or two trees, as :func:`sparsesync.api.trees.verify`.

    ``rules``: what is left out of both trees.
    ``attributes``: compare mode, owner and group, too.
    ``on_equal``: called with the path of each entry that is equal, but for directories, and whether it is another name
    of a file in A that was compared before.
    """
    check_holes(holes)
    if is_remote(a) or is_remote(b):
        from . import digests

        if executor is not None:
            raise ValueError("workers see both sides through a shared filesystem; neither can be host:path")
        return digests.verify(
            a, b, full=full, holes=holes, tallies=tallies, on_error=on_error, progress=progress, rsh=rsh, python=python,
            prefix=prefix, rules=rules, attributes=attributes, on_equal=on_equal,
        )  # fmt: skip
    here, there = (Node(None, path, path) for path in (os.fsdecode(a), os.fsdecode(b)))
    compare: Callable[..., Optional[int]] = first_difference
    pairs = None
    if executor is not None:
        from concurrent.futures import ThreadPoolExecutor

        from ..workers.comparing import Comparing, Pairs
        from ..workers.engines import count_workers

        compare = Comparing(executor, count_workers(executor))
        if not isinstance(executor, ThreadPoolExecutor):  # of threads one at a time runs Python's part of a small file
            pairs = Pairs(executor, full, holes, tallies, progress)
    return _Comparison(full, holes, tallies, on_error, progress, rules, attributes, on_equal, compare, pairs).roots(
        here, there
    )


class _Outcome(NamedTuple):
    """What has come of two entries of one name, or is to come: it is told in its turn.

    ``st``: of the one in A, if they were compared and are no directories.
    ``found``, ``more``: in what they differ.
    ``error``: why they could not be compared.
    ``pair``: a worker compares them.
    """

    path: str
    st: Optional[os.stat_result] = None
    found: Optional[Difference] = None
    more: Sequence[Difference] = ()
    error: Optional[OSError] = None
    pair: "Optional[Pair]" = None


class _Comparison:
    """What :func:`verify` was asked to do."""

    def __init__(
        self,
        full: bool,
        holes: str,
        tallies: Optional[tuple[Tally, Tally]],
        on_error: OnError,
        progress: OnProgress,
        rules: Optional[NameRules],
        attributes: bool,
        on_equal: Callable[[str, bool], object],
        compare: Callable[..., Optional[int]],
        pairs: "Optional[Pairs]",
    ) -> None:
        self.attributes = attributes
        self.on_equal = on_equal
        self.compare = compare
        self.pairs = pairs
        self.full = full
        self.holes = holes
        self.tallies = tallies
        self.on_error = on_error
        self.progress = progress
        self.rules = rules
        self.names = Names()

    def roots(self, a: Node, b: Node) -> Generator[Difference, None, None]:
        a_st, b_st = a.stat(), b.stat()
        if _same_file(a_st, b_st):
            self.on_equal("", False)
            return
        if stat.S_ISDIR(a_st.st_mode) and stat.S_ISDIR(b_st.st_mode):
            yield from self._attributes("", a_st, b_st)
            yield from self._trees(a.path, b.path)
            return
        found, more = None, self._attributes("", a_st, b_st)
        with self._reporting():
            if has_content(a_st) and has_content(b_st):
                found = self._content("", a, b, a_st, b_st)
            else:
                found = self._entry("", a, b, a_st, b_st)
            if found is None and not more:
                self.on_equal("", False)
        if found:
            yield found
        yield from more

    def _attributes(self, path: str, a_st: os.stat_result, b_st: os.stat_result) -> list[Difference]:
        """Return what differs in the attributes of two files of one type."""
        if not self.attributes or stat.S_IFMT(a_st.st_mode) != stat.S_IFMT(b_st.st_mode):
            return []
        a, b = ((stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) for st in (a_st, b_st))
        return [*of_attributes(path, a, b)]

    def _trees(self, a: str, b: str) -> Iterator[Difference]:
        with contextlib.ExitStack() as opened:
            roots: list[_Root] = []
            for root in (a, b):
                with self._reporting(), error_path(root, instead=True):
                    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    opened.callback(os.close, fd)
                    roots.append((fd, root, left_out(root, self.rules)))
            if len(roots) < 2:
                return
            if self.pairs is not None:
                opened.callback(self.pairs.close)
            yield from self._in_turn(self._outcomes(roots), roots)

    def _outcomes(self, roots: "list[_Root]") -> Iterator[_Outcome]:
        waiting = [""]
        while waiting:
            below: list[str] = []
            yield from self._directory(waiting.pop(), roots, below)
            waiting += reversed(below)

    def _in_turn(self, outcomes: Iterator[_Outcome], roots: "list[_Root]") -> Iterator[Difference]:
        """Tell of outcomes, one after the other, while others are worked at."""
        ahead = 0 if self.pairs is None else self.pairs.ahead
        held: deque[_Outcome] = deque()
        failed: Optional[OSError] = None
        while True:
            try:
                outcome = next(outcomes, None)
            except OSError as error:
                outcome, failed = None, error
            if outcome is None:
                break
            held.append(outcome)
            while len(held) > ahead:
                yield from self._told(held.popleft(), roots)
        while held:
            yield from self._told(held.popleft(), roots)
        if failed is not None:
            raise failed

    def _told(self, outcome: _Outcome, roots: "list[_Root]") -> Iterator[Difference]:
        """Yield in what two entries differ, once that is known, and tell if they do not."""
        found = outcome.found
        with self._reporting():
            if outcome.error is not None:
                raise outcome.error
            if outcome.pair is not None and self.pairs is not None:
                done, offset = self.pairs.wait(outcome.pair)
                if not done:
                    found = self._again(outcome.path, roots)
                elif offset is not None:
                    found = Difference(outcome.path, "content", offset)
            if outcome.st is not None and found is None and not outcome.more:
                self.on_equal(outcome.path, self.names.again(outcome.st))
        if found:
            yield found
        yield from outcome.more

    def _again(self, path: str, roots: "list[_Root]") -> Optional[Difference]:
        """Compare two files here, which a worker could not."""
        above, name = os.path.split(path)
        with contextlib.ExitStack() as opened:
            nodes = []
            for root, root_path, _ in roots:
                here = os.path.join(root_path, above) if above else root_path
                with error_path(here, instead=True):
                    fd = open_beneath(root, above)
                opened.callback(os.close, fd)
                nodes.append(Node(fd, name, os.path.join(here, name)))
            a, b = nodes
            return self._entry(path, a, b, a.stat(), b.stat())

    def _directory(self, path: str, roots: "list[_Root]", below: list[str]) -> Iterator[_Outcome]:
        """Compare the entries of one directory; those that are directories in both go to ``below``."""
        with contextlib.ExitStack() as opened:
            listings: list[tuple[int, str, set[str]]] = []
            for root, root_path, skip in roots:
                here = os.path.join(root_path, path) if path else root_path
                with self._reporting(), error_path(here, instead=True):
                    fd = open_beneath(root, path)
                    opened.callback(os.close, fd)
                    listings.append((fd, here, _names(fd, here, skip)))
            # Half a pair says nothing about what is missing.
            if len(listings) < 2:
                return
            (a_fd, a_path, a_names), (b_fd, b_path, b_names) = listings
            for name in sorted(a_names | b_names):
                entry = os.path.join(path, name)
                if name not in b_names:
                    yield _Outcome(entry, found=Difference(entry, "missing"))
                elif name not in a_names:
                    yield _Outcome(entry, found=Difference(entry, "extra"))
                else:
                    a = Node(a_fd, name, os.path.join(a_path, name))
                    b = Node(b_fd, name, os.path.join(b_path, name))
                    more: list[Difference] = []
                    try:
                        a_st, b_st = a.stat(), b.stat()
                        more = self._attributes(entry, a_st, b_st)
                        if stat.S_ISDIR(a_st.st_mode) and stat.S_ISDIR(b_st.st_mode):
                            if not _same_file(a_st, b_st):
                                below.append(entry)
                            yield _Outcome(entry, more=more)
                            continue
                        pair = self._pair(a, b, a_st, b_st)
                        found = None if pair else self._entry(entry, a, b, a_st, b_st)
                    except OSError as error:
                        yield _Outcome(entry, more=more, error=error)
                    else:
                        yield _Outcome(entry, a_st, found, more, pair=pair)

    def _pair(self, a: Node, b: Node, a_st: os.stat_result, b_st: os.stat_result) -> "Optional[Pair]":
        """Have workers compare two files, if it is for them."""
        regular = stat.S_ISREG(a_st.st_mode) and stat.S_ISREG(b_st.st_mode) and not _same_file(a_st, b_st)
        return self.pairs.add(a.path, b.path, a_st, b_st) if self.pairs is not None and regular else None

    def _entry(self, path: str, a: Node, b: Node, a_st: os.stat_result, b_st: os.stat_result) -> Optional[Difference]:
        """Compare two files of any type but two directories."""
        kind = stat.S_IFMT(a_st.st_mode)
        if kind != stat.S_IFMT(b_st.st_mode):
            return Difference(path, "type")
        if _same_file(a_st, b_st):
            return None
        if kind == stat.S_IFREG:
            return self._content(path, a, b, a_st, b_st)
        if kind == stat.S_IFLNK and a.target() != b.target():
            return Difference(path, "link")
        if kind in (stat.S_IFBLK, stat.S_IFCHR) and a_st.st_rdev != b_st.st_rdev:
            return Difference(path, "device")
        return None

    def _content(self, path: str, a: Node, b: Node, a_st: os.stat_result, b_st: os.stat_result) -> Optional[Difference]:
        a_fd = a.open(a_st)
        try:
            b_fd = b.open(b_st)
            try:
                offset = self.compare(
                    a_fd, b_fd, self.full, holes=self.holes, tallies=self.tallies, progress=self.progress,
                    a_path=a.path, b_path=b.path,
                )  # fmt: skip
            finally:
                os.close(b_fd)
        finally:
            os.close(a_fd)
        return None if offset is None else Difference(path, "content", offset)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # An error without a name is not of the files: it comes from the caller's own progress.
            if self.on_error is None or error.filename is None:
                raise
            self.on_error(error)


def _names(directory: int, path: str, skip: LeftOut) -> set[str]:
    """Return the names in an open directory that are not left out."""
    names = set(os.listdir(directory))
    if skip is not None:
        for name in list(names):
            # What has gone meanwhile is in trouble when it is compared.
            with contextlib.suppress(OSError):
                st = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if skip(os.path.join(path, name), stat.S_ISDIR(st.st_mode)):
                    names.discard(name)
    return names


def _same_file(a_st: os.stat_result, b_st: os.stat_result) -> bool:
    return (a_st.st_dev, a_st.st_ino) == (b_st.st_dev, b_st.st_ino)
