"""How much there is in a tree that is to be moved, and what in it asks for care.

One walk, one ``lstat`` for each name. Sizes are bytes. What has several hard links is counted once.
As with rsync's ``--one-file-system``, what is mounted below is told and, with it, not entered. Of names, only those
of one directory are kept at a time, and of them only those that are another name without upper case, which another
filesystem may take for one. The others leave a mark, so that few have to be looked up. Of all that another filesystem
may refuse examples are kept (:mod:`.examples.collect`).
"""

import os
import stat
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..files.claims import allocated
from ..files.mounts import filesystem_type, mount_of
from ..tree.left_out import LeftOut, left_out
from .examples.collect import Collector, Example, folded
from .mounts import Mount, bound_below, images_behind, location_key, mounts
from .presets import ExcludedPath
from .presets import left_out as excluded
from .stores.roots import spelled

_MAX_REPORTED_NAMES = 1000
"""How many names are told at the most."""

SUBVOLUME, BOUND = "btrfs subvolume", "bind mount"
"""What is told for a filesystem's type where nothing is mounted, and the device changes all the same; and where
something is mounted, and the device does not change."""

_MARKS = 1 << 16
"""By how many marks names of a directory are told apart."""


class Survey(NamedTuple):
    """The content of a tree.

    ``kind``: the letter of ls(1) for the type of the source itself, "" if it is missing.
    ``real``: its path without symlinks.
    ``place``: its location (:func:`mounts.location_key`).
    ``device``, ``inode``: its numbers.
    ``whiteouts``: the number of device nodes 0:0 (overlayfs).
    ``foreign``: the number of files of other owners.
    ``unreadable``: the number of entries that could not be examined, with ``example`` one of them.
    ``mounts``: where the device changes or something is mounted: [path, filesystem type or SUBVOLUME or BOUND, of what]
    each. Of what: of a bind mount the path within its filesystem; else the file below the source that it is mounted
    from, or "".
    ``examples``: what another filesystem may refuse.
    """

    real: str
    place: str
    kind: str
    device: int
    inode: int
    files: int
    others: int
    size: int
    allocated: int
    largest: int
    largest_path: str
    devices: int
    whiteouts: int
    foreign: int
    unreadable: int
    example: str
    mounts: List[List[str]]
    examples: List[Example]
    names: List[str]


def survey(
    source: str,
    one_file_system: bool = True,
    places: Sequence[Sequence[str]] = (),
    rules: Optional[Sequence[Any]] = None,
) -> Survey:
    """Examine all of ``source``, except ``places``, each an ExcludedPath as a list.

    ``rules``: what else is excluded, a :class:`..tree.left_out.NameRules` as a list.
    """
    walk = _Walk(source, one_file_system, [ExcludedPath(*place) for place in places], left_out(source, rules))
    slash = source.endswith("/") or os.path.basename(source) in (".", "..")
    try:
        st = os.stat(source) if slash else os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return walk.result(source, None, [])
    names: List[str] = []
    walk.collector.look(source, "" if slash else os.path.basename(source), st)
    walk.count(source, st)
    if stat.S_ISDIR(st.st_mode):
        try:
            names = sorted(os.listdir(source))[:_MAX_REPORTED_NAMES]
        except OSError as error:
            walk.unreadable(source, error)
        walk.run(source, st.st_dev)
        walk.bound(source)
    return walk.result(source, st, names)


def _image_of(directory: str, source: str, table: Dict[str, Mount]) -> str:
    """Return the file below the source that a filesystem is in, "" if it is in none."""
    try:
        mount = table.get(os.fsdecode(_device_and_mount(directory)[1]))
    except OSError:
        return ""
    found = [spelled(source, image) for image in images_behind(mount.source)] if mount else []
    return next((image for image in found if image and os.path.exists(image)), "")


def _kind(directory: str) -> str:
    """Return the type of the filesystem that begins at a directory, or SUBVOLUME."""
    try:
        (device, mount), (_, above) = _device_and_mount(directory), _device_and_mount(os.path.dirname(directory))
    except OSError:
        return "another filesystem"  # it is gone by now
    found = filesystem_type(device, mount)
    return SUBVOLUME if found == "btrfs" and mount == above else found or "another filesystem"


def _device_and_mount(directory: str) -> Tuple[int, bytes]:
    fd = os.open(directory, os.O_PATH | os.O_CLOEXEC)
    try:
        return os.fstat(fd).st_dev, mount_of(fd)
    finally:
        os.close(fd)


class _Walk:
    def __init__(self, source: str, one_file_system: bool, places: Sequence[ExcludedPath], skip: LeftOut) -> None:
        self.source = source
        self.table = mounts()
        self.one_file_system = one_file_system
        self.excluded = excluded(places)
        self.skip = skip
        self.sums = dict.fromkeys(("files", "others", "size", "allocated", "devices", "whiteouts", "foreign"), 0)
        self.largest = (0, "")
        self.troubles = (0, "")
        self.mounts: List[List[str]] = []
        self.collector = Collector()
        self._seen: Set[Tuple[int, int]] = set()
        self._us = os.geteuid()

    def result(self, source: str, st: Optional[os.stat_result], names: List[str]) -> Survey:
        return Survey(
            real=os.path.realpath(source), place=location_key(source), kind=stat.filemode(st.st_mode)[0] if st else "",
            device=st.st_dev if st else 0, inode=st.st_ino if st else 0,
            names=names, mounts=self.mounts, examples=self.collector.result(),
            largest=self.largest[0], largest_path=self.largest[1],
            unreadable=self.troubles[0], example=self.troubles[1], **self.sums
        )  # fmt: skip

    def bound(self, source: str) -> None:
        """Note what is mounted below the source from its own filesystem, and so is walked."""
        for mount in bound_below(os.path.realpath(source), self.table):
            path = spelled(source, mount.point)
            if path and not (self.skip and self.skip(path, True)) and len(self.mounts) < _MAX_REPORTED_NAMES:
                self.mounts.append([path, BOUND, mount.root])

    def unreadable(self, path: str, error: OSError) -> None:
        self.troubles = (self.troubles[0] + 1, self.troubles[1] or "{}: {}".format(path, error.strerror))

    def run(self, top: str, device: int) -> None:
        waiting = [(top, device)]
        while waiting:
            directory, device = waiting.pop()
            try:
                with os.scandir(directory) as entries:
                    self._directory(directory, entries, device, waiting)
            except OSError as error:
                self.unreadable(directory, error)

    def _directory(
        self, top: str, entries: "Iterator[os.DirEntry[str]]", device: int, waiting: List[Tuple[str, int]]
    ) -> None:
        variants: Dict[str, str] = {}
        marks = bytearray(_MARKS)
        for entry in entries:
            if self.excluded(entry.path):
                continue
            try:
                if self.skip and self.skip(entry.path, entry.is_dir(follow_symlinks=False)):
                    continue
                st = entry.stat(follow_symlinks=False)
            except OSError as error:
                self.unreadable(entry.path, error)
                continue
            plain = folded(entry.name)
            if plain == entry.name:
                marks[hash(plain) % _MARKS] = 1
            elif variants.setdefault(plain, entry.path) != entry.path:
                self.collector.pair(variants[plain], entry.path)
            self.collector.look(entry.path, entry.name, st)
            self.count(entry.path, st)
            if not stat.S_ISDIR(st.st_mode):
                continue
            if st.st_dev == device or not self.one_file_system:
                waiting.append((entry.path, st.st_dev))
            if st.st_dev != device and len(self.mounts) < _MAX_REPORTED_NAMES:
                image = _image_of(entry.path, self.source, self.table)
                self.mounts.append([entry.path, _kind(entry.path), image])
        for plain, path in variants.items():
            if marks[hash(plain) % _MARKS]:
                beside = os.path.join(top, plain)
                if self._is_another(beside, path):
                    self.collector.pair(beside, path)

    def _is_another(self, path: str, beside: str) -> bool:
        """Whether there is a path, and is not what is ``beside``: this filesystem may take their names for one, too."""
        try:
            other, st = os.lstat(path), os.lstat(beside)
        except OSError:
            return False
        directory = stat.S_ISDIR(other.st_mode)
        if self.excluded(path) or (self.skip and self.skip(path, directory)):
            return False
        same = os.path.samestat(other, st)
        return not same or (other.st_nlink > 1 and not directory)

    def count(self, path: str, st: os.stat_result) -> None:
        sums = self.sums
        sums["foreign"] += st.st_uid != self._us
        if not stat.S_ISDIR(st.st_mode) and st.st_nlink > 1:
            inode = (st.st_dev, st.st_ino)
            if inode in self._seen:
                return
            self._seen.add(inode)
        sums["allocated"] += allocated(st)
        if stat.S_ISREG(st.st_mode):
            sums["files"] += 1
            sums["size"] += st.st_size
            if st.st_size > self.largest[0]:
                self.largest = (st.st_size, path)
            return
        sums["others"] += 1
        if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
            sums["whiteouts"] += 1
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            sums["devices"] += 1
