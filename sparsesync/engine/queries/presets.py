"""What a kind of tree is not to be copied with: the presets of ``sparsesync exclude``.

A preset is a list of places below a root, each a path and a wildcard behind it. It says nothing
of rsync: ``sparsesync.exclude`` turns the places into patterns, anchored to the transfer. What there is on a
machine, its stores of images and its swap files, is seen only on that machine; so this is part of the engine.

There is a preset for each kind of store (:mod:`.stores.table`), and "system" for a whole one. "views" is for all
stores, and leaves out no data. "docker" leaves out devicemapper's loop files as well, and "docker-views" does not.
"""

import os
import re
from typing import Callable, Iterator, List, NamedTuple, Sequence

from .stores.docker import LOOP_FILES
from .stores.roots import find_roots, is_system, looks_like, spelled
from .stores.table import DOCKER, KINDS, Kind

SWAPS = "/proc/swaps"

PRESETS = tuple(sorted(["system", *(kind.name for kind in KINDS)]))
"""The presets that a person may ask for."""

_POOL = "the devicemapper pool's loop file"
_KERNEL = "the kernel's own"
_SCRATCH = "scratch space, new after every start"
_MOUNTS = "where other filesystems are mounted"

_SYSTEM = (
    ("proc", "/*", _KERNEL),
    ("sys", "/*", _KERNEL),
    ("dev", "/*", _KERNEL),
    ("run", "/*", _SCRATCH),
    ("tmp", "/*", _SCRATCH),
    ("mnt", "/*", _MOUNTS),
    ("media", "/*", _MOUNTS),
    ("lost+found", "", "made by every fsck"),
)


class ExcludedPath(NamedTuple):
    """Everything at ``path`` followed by ``wildcard``, in the transfer of ``source``.

    ``reason``: why it is excluded, for people.
    """

    source: str
    path: str
    wildcard: str
    reason: str


class Suggested(NamedTuple):
    """The presets that suit a source, with commas between them, or "none"."""

    preset: str


def suggested(source: str) -> Suggested:
    """Return the presets that suit the tree at ``source``. Raises ValueError for a broken daemon.json."""
    if is_system(source):
        return Suggested("system")
    return Suggested(",".join(sorted({root.kind.name for root in find_roots(source)})) or "none")


def checked_presets(presets: str) -> List[str]:
    """Return the names of presets that are given with commas between them. Raises ValueError for an unknown one."""
    names = presets.split(",")
    for name in names:
        if name not in PRESETS:
            raise ValueError("unknown preset {!r}; there are {}".format(name, ", ".join(PRESETS)))
    return names


def preset_patterns(presets: str, sources: Sequence[str]) -> Iterator[ExcludedPath]:
    """Yield the paths that some presets exclude, given with commas between their names.

    Raises ValueError for an unknown preset or a broken daemon.json.
    """
    internal = {"views": KINDS, "docker-views": (DOCKER,)}
    for preset in [presets] if presets in internal else checked_presets(presets):
        for source in sources:
            if preset == "system":
                places = _system(source)
            else:
                kinds = internal.get(preset) or [kind for kind in KINDS if kind.name == preset]
                places = _store(source, kinds, preset == "docker")
            for place in places:
                yield place


def left_out(places: Sequence[ExcludedPath]) -> Callable[[str], bool]:
    """Return a function that tells whether a path, as a scan of the sources yields it, is excluded."""
    patterns = []
    for place in places:
        wildcard = re.escape(place.wildcard).replace(re.escape("*"), "[^/]+")
        patterns.append(re.escape(os.path.normpath(place.path)) + wildcard)
    if not patterns:
        return lambda path: False
    matches = re.compile("(?:{})(?:/.*)?".format("|".join(patterns)), re.DOTALL).fullmatch
    return lambda path: matches(os.path.normpath(path)) is not None


def _store(source: str, kinds: Sequence[Kind], pool: bool) -> Iterator[ExcludedPath]:
    for root in find_roots(source, kinds):
        # A folder of disks, which is a store by its configuration alone, may have anything in it.
        for path, wildcard, reason in root.kind.views if looks_like(root.path, root.kind) else ():
            if os.path.lexists(os.path.join(root.path, path.partition("/")[0])):
                yield ExcludedPath(source, os.path.join(root.path, path), wildcard, reason)
        if pool and os.path.isdir(os.path.join(root.path, "devicemapper")):
            for path in LOOP_FILES:
                yield ExcludedPath(source, os.path.join(root.path, path), "", _POOL)


def _system(source: str) -> Iterator[ExcludedPath]:
    # "/*", expanded by the shell, is the root as much as "/" is.
    name = os.path.basename(source.rstrip("/"))
    if os.path.abspath(os.path.dirname(source.rstrip("/")) or ".") == "/" and source.strip("/"):
        for path, wildcard, reason in _SYSTEM:
            if path == name:
                yield ExcludedPath(source, source, wildcard, reason)
    elif os.path.isdir(source):
        for path, wildcard, reason in _SYSTEM:
            yield ExcludedPath(source, os.path.join(source, path), wildcard, reason)
    for swap in swap_files():
        below = spelled(source, swap)
        if below is not None:
            yield ExcludedPath(source, below, "", "swap space in use")


def swap_files(swaps: str = "") -> List[str]:
    """Return the swap files in use, from /proc/swaps (proc_swaps(5)), with its octal escapes decoded."""
    try:
        with open(swaps or SWAPS, "rb") as file:
            rows = [os.fsdecode(line).split() for line in file][1:]
    except FileNotFoundError:
        return []
    return [re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), row[0]) for row in rows if row[1] == "file"]
