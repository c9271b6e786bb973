"""Where the stores of a tree are.

A store is known by what is in it, or by where it is: by default, or as configured on this machine, or in the tree of
another system that a source holds. What a user says of a store counts for directories of that user alone: else a link
or a setting in a home directory would leave out what belongs to somebody else.
"""

import glob
import os
from typing import Iterator, List, NamedTuple, Optional, Sequence

from ..mounts import is_below
from .settings import at, configured, homes
from .table import BY_NAME, KINDS, Kind


class Root(NamedTuple):
    """The root of a store, as spelled from a source on.

    ``top``: where the system begins that the store is of, "" for this machine's, None if that is not known.
    ``home``: the home directory that it is in, or "".
    ``outer``: the root of the store that it is a part of, or "".
    """

    kind: Kind
    path: str
    top: Optional[str]
    home: str = ""
    outer: str = ""


def is_system(path: str) -> bool:
    """Return whether a directory looks like the root of a system."""
    looks = all(os.path.isdir(os.path.join(path, name)) for name in ("etc", "proc", "usr"))
    return looks or os.path.realpath(path) == "/"


def looks_like(path: str, kind: Kind) -> bool:
    """Return whether a directory has the marks of a kind of store."""
    return any(glob.glob(os.path.join(glob.escape(path), mark)) for mark in kind.marks)


def find_roots(source: str, kinds: Sequence[Kind] = KINDS) -> List[Root]:
    """Return the stores at or below ``source``. Raises ValueError for a broken configuration of dockerd."""
    found: List[Root] = []
    first = next((kind for kind in KINDS if looks_like(source, kind)), None)
    if first in kinds and first is not None:
        found.append(_by_its_looks(source, first))
    for kind in kinds:
        for place in places(kind, ""):
            below = spelled(source, place.path)
            if below is not None:
                _add(found, place._replace(path=below))
        if is_system(source):
            for place in places(kind, source):
                _add(found, place)
    return _with_inside(found, kinds)


def _with_inside(roots: List[Root], kinds: Sequence[Kind]) -> List[Root]:
    """Return roots with those inside of them. What is a part of one is that, also if its daemon says where it is."""
    inside = [each for root in roots for each in _inside(root) if each.kind in kinds]
    if not inside:
        return roots
    parts = {os.path.realpath(each.path) for each in inside}
    around = [root for root in roots if os.path.realpath(root.path) not in parts]
    own = {os.path.dirname(each.path) for each in inside if not each.outer}
    kept = [root for root in around if root.path.rstrip("/") not in own or looks_like(root.path, root.kind)]
    return kept + _with_inside(inside, kinds)


def _inside(root: Root) -> Iterator[Root]:
    for pattern, name in root.kind.inside:
        for path in sorted(glob.glob(os.path.join(glob.escape(root.path), pattern))):
            found = Root(BY_NAME[name], path, root.top, root.home, "" if name == root.kind.name else root.path)
            if _may_be(found):
                yield found


def _add(found: List[Root], root: Root) -> None:
    real = os.path.realpath(root.path)
    for other in found:
        theirs = os.path.realpath(other.path)
        if real == theirs or (root.kind is other.kind and is_below(real, theirs)):
            return
    if _may_be(root):
        found.append(root)


def _may_be(root: Root) -> bool:
    return os.path.isdir(root.path) and (not root.home or _owner(root.path) == _owner(root.home))


def _owner(path: str) -> Optional[int]:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _by_its_looks(source: str, kind: Kind) -> Root:
    real = os.path.realpath(source)
    for place in places(kind, ""):
        if os.path.realpath(place.path) == real:
            return place._replace(path=source)
    for path in kind.roots:
        below = path.lstrip("~")
        if real.endswith(below):
            top = real[: -len(below)]
            return Root(kind, source, None, top) if path.startswith("~") else Root(kind, source, top)
    return Root(kind, source, None)


def places(kind: Kind, top: str) -> Iterator[Root]:
    """Yield where the system at ``top`` may have stores of a kind. Raises ValueError for a broken configuration."""
    elsewhere = False
    for path, home in configured(kind, top):
        yield Root(kind, at(top, path), top, home)
        elsewhere = elsewhere or not home
    for path in kind.roots:
        if path.startswith("~"):
            for home in homes(top):
                yield Root(kind, home + path[1:], top, home)
        elif not elsewhere or looks_like(at(top, path), kind):
            yield Root(kind, at(top, path), top)


def spelled(source: str, path: str) -> Optional[str]:
    """Return ``path`` spelled from ``source`` on, if it is there or below; else None."""
    top = os.path.realpath(source)
    real = os.path.realpath(path)
    if real == top:
        return source
    prefix = top if top.endswith("/") else top + "/"
    return os.path.join(source, real[len(prefix) :]) if real.startswith(prefix) else None
