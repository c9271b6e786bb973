"""Seeding: put the content of the sparse files that rsync would transfer in place.

Given what rsync said it would transfer (the listing, see :mod:`rsync`), this finds the sparse
files in it, works out where each will be at the destination, and makes it there with the engine:
a temporary beside it, the data extents, the source's modification time, a rename. What rsync does
next must come out as if it had made the file itself, so

* a new file gets the mode rsync gives one (the source's less the umask), an updated one keeps
  its own; with ``-p`` and the like rsync then sets the rest;
* missing parents get the mode that rsync gives them;
* whatever is not plain is left alone: a symlink in the way, a device, a directory, an
  earlier partial file, a backup that rsync would have to make.

The listing is read several times (to add up, to check the space, to seed) rather than kept.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Callable, NamedTuple

from . import rsync
from .engine.copy import copy_content
from .engine.extents import allocated, is_sparse, looks_sparse
from .engine.fileio import NoSpaceError, Target, open_beneath
from .engine.scan import open_quietly
from .progress import Advance, data_bar
from .units import iec


@dataclass(frozen=True)
class SeedOptions:
    """The wrapper's own options. ``min_hole``: bytes of hole from which a file is worth seeding."""

    off: bool = False
    min_hole: int = 1
    space_check: bool = True


class Seeded(NamedTuple):
    """A file that was put in place: its name in the transfer, its apparent size and its data in bytes."""

    name: str
    size: int
    data: int


class _Planned(NamedTuple):
    name: str
    source: str
    st: os.stat_result


class _Leave(Exception):
    """This file is left to rsync; the message says why."""


def printable(name: str) -> str:
    """A file name for people: control characters escaped as rsync does, the rest as it is."""
    return "".join(f"\\#{ord(char):03o}" if ord(char) < 32 or ord(char) == 127 else char for char in name)


class Seeding:
    """One run's seeding. ``say`` gets a line for each file when the user wants to hear."""

    def __init__(self, command: rsync.Command, options: SeedOptions, say: Callable[[str], None]) -> None:
        self.command = command
        self.options = options
        self.say = say
        self.seeded: list[Seeded] = []
        self.left: list[tuple[str, str]] = []
        self._root = -1
        self._root_path = ""
        self._single: str | None = None
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def run(self, listing: IO[bytes]) -> str | None:
        """Seed what the listing names. Returns why nothing at all was seeded, or None.

        Raises NoSpaceError, before anything is written, when the data cannot fit.
        """
        total = count = 0
        for planned in self._planned(listing):
            total += allocated(planned.st)
            count += 1
        if not count:
            return "it would transfer no sparse file"
        reason = self._find_destination(listing)
        if reason:
            return reason
        if self.command.dry_run:
            for planned in self._planned(listing):
                print(f"would seed {printable(planned.name)}: {_sizes(planned.st.st_size, allocated(planned.st))}")
            return None
        try:
            self._root = self._open_root()
        except OSError as error:
            return f"{self._root_path}: {error.strerror}"
        try:
            if self.options.space_check and not self.command.delete:
                self._check_space(listing)
            with data_bar(total, "seeding", quiet=self.command.quiet > 0) as advance:
                for planned in self._planned(listing):
                    try:
                        self._seed(planned, advance)
                    except _Leave as reason_to_leave:
                        self._leave(planned.name, str(reason_to_leave))
                    except NoSpaceError:
                        if self.options.space_check and not self.command.delete:
                            raise
                        self._leave(planned.name, "no space")
                    except OSError as error:
                        self._leave(planned.name, f"{error.filename or planned.name}: {error.strerror}")
        finally:
            os.close(self._root)
        return None

    def touch(self) -> None:
        """Give what was seeded the time of the transfer, as rsync does without ``--times``."""
        for seeded in self.seeded:
            path = os.path.join(self._root_path, self._single or seeded.name)
            try:
                os.utime(path, follow_symlinks=False)
            except FileNotFoundError:
                continue  # rsync had a reason to remove it

    def _leave(self, name: str, reason: str) -> None:
        self.left.append((name, reason))
        self.say(f"left to rsync: {printable(name)}: {reason}")

    def _planned(self, listing: IO[bytes]) -> Iterator[_Planned]:
        listing.seek(0)
        for entry in rsync.parse_listing(listing):
            source = rsync.source_path(self.command, entry)
            if source is None:
                continue
            try:
                st = os.stat(source, follow_symlinks=self.command.links_followed)
            except OSError:
                continue  # gone or out of reach, as rsync will say
            if looks_sparse(st) and st.st_size == entry.size and st.st_size - allocated(st) >= self.options.min_hole:
                yield _Planned(os.fsdecode(entry.name), source, st)

    def _find_destination(self, listing: IO[bytes]) -> str | None:
        """Is the destination a directory to be filled, or the name of the one file? A reason if that is not certain."""
        assert self.command.destination is not None  # parse() hands off a command without one
        path = self.command.destination
        if os.path.isdir(path):
            self._root_path = path
            return None
        # As rsync decides it: one file that is not a directory, and no slash, names the file itself.
        listing.seek(0)
        names = sum(1 for _ in zip(rsync.parse_listing(listing), range(2)))
        from_directory = not self.command.relative and any(map(os.path.isdir, self.command.sources))
        if not os.path.lexists(path):
            if path.endswith("/") or names > 1 or from_directory:
                self._root_path = path
                return None
            if self.command.relative or len(self.command.sources) != 1:
                return "whether the destination will be a file or a directory is for rsync to decide"
        elif path.endswith("/") or names > 1 or from_directory or self.command.relative:
            return f"{path} is not a directory"
        self._root_path, self._single = os.path.split(path)
        self._root_path = self._root_path or "."
        return None

    def _open_root(self) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(self._root_path, flags)
        except FileNotFoundError:
            if self._single is not None:
                raise
        # rsync makes the last component only, so a missing parent is an error it has to report.
        contents = [path for path in self.command.sources if os.path.basename(path) in ("", ".", "..")]
        like = os.stat(contents[0]).st_mode if contents and not self.command.relative else 0o777
        os.mkdir(self._root_path, like & 0o777)
        return os.open(self._root_path, flags)

    def _check_space(self, listing: IO[bytes]) -> None:
        """Each filesystem at the destination must have room for what grows on it."""
        growth: dict[int, int] = {}
        example: dict[int, str] = {}
        for planned in self._planned(listing):
            target = os.path.join(self._root_path, self._single or planned.name)
            holder = os.path.dirname(target)
            while holder != self._root_path and not os.path.isdir(holder):
                holder = os.path.dirname(holder)
            device = os.stat(holder or ".").st_dev
            if device == planned.st.st_dev:
                continue  # extents may be shared; the target itself checks once it knows
            try:
                old = allocated(os.lstat(target))
            except OSError:
                old = 0
            growth[device] = growth.get(device, 0) + allocated(planned.st) - old
            example[device] = holder or "."
        for device, needed in growth.items():
            filesystem = os.statvfs(example[device])
            free = (filesystem.f_bfree if os.geteuid() == 0 else filesystem.f_bavail) * filesystem.f_frsize
            if needed > free and filesystem.f_blocks:
                raise NoSpaceError(needed, free, example[device])

    def _seed(self, planned: _Planned, advance: Advance) -> None:
        name = self._single or planned.name
        parent, base = os.path.split(name)
        source = open_quietly(planned.source, 0 if self.command.links_followed else os.O_NOFOLLOW)
        try:
            before = os.fstat(source)
            if not os.path.samestat(before, planned.st) or not stat.S_ISREG(before.st_mode):
                raise _Leave("it was replaced meanwhile")
            if not is_sparse(source):
                return
            if self.command.backup and self.command.hard_links and before.st_nlink > 1:
                raise _Leave("rsync would back up some of its hard links")
            directory = self._open_parent(planned, parent)
            try:
                data = self._make(planned, source, before, directory, base, advance)
            finally:
                os.close(directory)
        finally:
            os.close(source)
        self.seeded.append(Seeded(planned.name, before.st_size, data))
        self.say(f"seeded {printable(planned.name)}: {_sizes(before.st_size, data)}")

    def _open_parent(self, planned: _Planned, parent: str) -> int:
        above = planned.source[: len(planned.source) - len(planned.name)]

        def mode(directory: str) -> int:
            return stat.S_IMODE(os.stat(os.path.join(above, directory)).st_mode) & 0o777 | stat.S_IRWXU

        try:
            return open_beneath(self._root, parent, mode)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _Leave(f"{error.filename} at the destination is not a directory") from None
            raise

    def _make(
        self, planned: _Planned, source: int, before: os.stat_result, directory: int, base: str, advance: Advance
    ) -> int:
        old = self._existing(directory, base)
        inplace = self.command.inplace and old is not None
        if not self.command.perms and _has_default_acl(directory):
            raise _Leave("the directory's default ACL decides its mode")
        with Target(directory, base, planned.name, inplace=inplace) as target:
            data = copy_content(
                source,
                target,
                sparse="always" if self.command.sparse else "auto",
                progress=advance,
                source_path=planned.source,
            )
            after = os.fstat(source)
            if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                raise _Leave("it changed while it was copied")
            if not inplace:
                mode = before.st_mode & 0o777 & ~self._umask if old is None else stat.S_IMODE(old.st_mode)
                os.fchmod(target.fd, mode)
            target.commit(mtime_ns=before.st_mtime_ns, fsync=self.command.fsync)
        return data

    def _existing(self, directory: int, base: str) -> os.stat_result | None:
        """What is at the destination; None if the file will be new. Raises _Leave unless it is plain."""
        partial = self.command.partial_dir
        if partial and os.access(os.path.join(partial, base), os.F_OK, dir_fd=directory, follow_symlinks=False):
            raise _Leave("a partial file of an earlier run is there")
        try:
            old = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if self.command.backup:
            raise _Leave("the backup is rsync's to make")
        if not stat.S_ISREG(old.st_mode):
            raise _Leave("what is at its place is not a regular file")
        return old


def _sizes(size: int, data: int) -> str:
    return f"{iec(data)} of {iec(size)}"


def _has_default_acl(directory: int) -> bool:
    try:
        return bool(os.getxattr(directory, "system.posix_acl_default"))
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise

