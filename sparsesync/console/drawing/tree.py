"""Where in a tree something is, as du(1) and dust show it: the folders that have most of it below them.

Rows come in the order of the tree, each file with its numbers. A folder is done when a row comes that is not below it,
and its numbers are the sums by then. Only those with the largest sums are kept, so memory does not grow with the tree.
A folder has at least what each folder in it has, so whatever is kept hangs together. A folder with a single entry is
told by its entry alone: ``a/b/disk.img`` is one line.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Branch(NamedTuple):
    """A file or a folder: the names that lead to it, and its sums."""

    names: tuple[str, ...]
    sums: tuple[int, ...]


def largest(rows: Iterable[tuple[Sequence[str], Sequence[int]]], count: int) -> list[Branch]:
    """Return the branches with the largest sums, in any order.

    ``rows``: the names that lead to each file, in the order of the tree, and its numbers. The first one counts.
    """
    kept: list[tuple[int, int, int, Branch]] = []
    names: list[str] = []
    sums: list[list[int]] = []  # of each name that leads to the last file
    entries: list[int] = []
    done = 0

    def close(depth: int) -> None:
        nonlocal done
        while len(names) > depth:
            if entries.pop() != 1:
                # Of equal ones that nearer to the root goes first; the number keeps branches from being compared.
                done += 1
                whole = tuple(sums[-1])
                item = whole[0], -len(names), -done, Branch(tuple(names), whole)
                heapq.heappush(kept, item) if len(kept) < count else heapq.heappushpop(kept, item)
            names.pop()
            below = sums.pop()
            if sums:
                sums[-1] = [one + more for one, more in zip(sums[-1], below)]

    for path, numbers in rows:
        shared = 0
        while shared < min(len(names), len(path) - 1) and names[shared] == path[shared]:
            shared += 1
        close(shared)
        for name in path[shared:]:
            if entries:
                entries[-1] += 1
            names.append(name)
            sums.append([0] * len(numbers))
            entries.append(0)
        sums[-1] = list(numbers)
    close(0)
    return [item[-1] for item in kept]


def drawn(branches: Iterable[Branch], marks: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield a line for each branch, with its sums: those below another behind it, the largest first.

    ``marks``: what leads to an entry, to the last one, and past them: ``├└│``.
    """
    known = {branch.names: branch for branch in branches}
    below: dict[tuple[str, ...], list[Branch]] = {}
    for branch in known.values():
        above = next((up for up in _ups(branch.names) if up in known), ())
        below.setdefault(above, []).append(branch)

    def draw(above: tuple[str, ...], lead: str) -> Iterator[tuple[str, tuple[int, ...]]]:
        entries = sorted(below.get(above, ()), key=lambda branch: (-branch.sums[0], branch.names))
        for number, branch in enumerate(entries, 1):
            last = number == len(entries)
            yield f"{lead}{marks[last] + ' ' if above else ''}{'/'.join(branch.names[len(above) :])}", branch.sums
            yield from draw(branch.names, lead + (f"{' ' if last else marks[2]} " if above else ""))

    return draw((), "")


def _ups(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (names[:length] for length in range(len(names) - 1, 0, -1))
