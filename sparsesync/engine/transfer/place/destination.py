"""The destination of a transfer: its root, and rsync's rules for putting a file below it.

What rsync does after the seeding must come out as if it had made the files itself. So here

* with ``-p`` a file takes its name with mode 0600, and a missing parent with 0700: rsync knows owner, group,
  mode, ACL and extended attributes, and widens them; until then, and if it never comes, nobody may do more than with
  the finished file;
* without ``-p`` rsync leaves the mode as it finds it, so here a new file gets the one rsync gives (the source's less
  the umask) and an updated one keeps its own; where that would be too much for a moment, because the group is still to
  come (``-g``) or a setuid bit is there, the file is left to rsync;
* whatever is not plain is left alone: a symlink in the way, a device, a directory, a
  backup that rsync would have to make.

:meth:`Destination.target` gives the :class:`~.destination_file.DestinationFile` of one name, or raises
:class:`LeftToRsync` with the reason why the file is left to rsync. With ``resume`` the target is a partial file of a
fixed name, ``.NAME.sparsesync-partial`` beside the file or ``NAME`` below ``partial_dir``, that outlives a broken
connection.

No symlink is followed below the root. Sizes are bytes.
"""

import contextlib
import os
import stat
from functools import partial
from typing import Iterable, Iterator, List, Optional, Sequence, Tuple

from ...content.basis import Bases
from ...errors import LeftToRsync
from ...files.attributes import seeded_mode, umask
from ...files.beneath import Temporaries, deepest, make_directory, open_beneath, open_trusted
from ...files.claims import allocated
from ...files.flags import forbids_replacing
from ...files.mounts import hold, let_go
from ...files.status import has_inodes, identity_at, identity_of, open_quietly
from ...files.syscalls import is_ours_alone
from ...text import hidden_name, name_limit
from ..records import FileSpec, Room, Space, SpaceNeed, check_name
from .destination_file import DestinationFile
from .parents import NO_ROOM, REFUSALS, Parents

PARTIAL = ".sparsesync-partial"
"""How the name of a partial file ends that lies beside its target."""

WRITE_FAILED = "write failed on"
"""How it begins what rsync says of what ends its run."""

_UNFINISHED_NS = 7 * 86400 * 10**9
"""How much older than its source a file seems that was written to in place and not finished; nanoseconds."""


class Destination:
    """The destination directory ``path``. A single file in it is named ``single``, whatever its name was.

    ``make``: the mode to make a missing directory with. ``mkpath``: make missing parents too. ``like``: the mode that
    rsync gives it. ``resume``: use partial files, without a ``temp_dir``. ``partial``: :meth:`interrupted` keeps what
    it can. ``bases``, ``fuzzy``: as :class:`~.content.basis.Bases`. ``modify_window``: None if rsync does not compare
    times. ``space_check``: a file must seem to fit. ``merging``: as :class:`~.writing.target.Target`. Others are as
    rsync's options.

    Raises OSError if it cannot be opened or made.
    """

    carries: bool = False  # whether attributes are taken over with the content
    only_new: bool = False  # whether a file that is there is left as it is
    seeds = True
    """Whether rsync comes after, to which a file can be left."""

    def __init__(
        self,
        path: str,
        single: Optional[str] = None,
        *,
        make: Optional[int] = None,
        like: Optional[int] = None,
        mkpath: bool = False,
        inplace: bool = False,
        perms: bool = True,
        group: bool = True,
        implied_dirs: bool = True,
        backup: bool = False,
        fsync: bool = False,
        partial_dir: Optional[str] = None,
        resume: bool = False,
        partial: bool = False,
        preallocate: bool = False,
        temp_dir: Optional[str] = None,
        bases: Sequence[str] = (),
        fuzzy: int = 0,
        modify_window: Optional[int] = None,
        space_check: bool = True,
        merging: bool = False,
    ) -> None:
        self.path = path
        self.single = single
        self.inplace = inplace
        self.perms = perms
        self.group = group
        self.backup = backup
        self.fsync = fsync
        self.partial_dir = partial_dir
        self.resume: bool = resume and temp_dir is None
        self.partial = partial
        self.preallocate = preallocate
        self._temporaries = Temporaries(None if temp_dir is None else os.path.join(path, temp_dir))
        self.modify_window = modify_window
        self.space_check = space_check
        self.merging = merging
        self._fuzzy = fuzzy > 0
        self._umask = umask()
        self._room = Room()
        try:
            self._root = open_trusted(path)
        except FileNotFoundError:
            # rsync makes the last component only, so a missing parent is an error it has to report.
            if make is None:
                raise
            make_directory(path, make & 0o777, mkpath, fsync)
            self._root = open_trusted(path)
        self._device = hold(self._root)
        self._bases = Bases(self._root, bases, fuzzy)
        self._parents = Parents(
            self._root, like=like, perms=perms, group=group, implied_dirs=implied_dirs, fsync=fsync, mask=self._umask
        )

    def close(self) -> None:
        """Close the directory."""
        self._parents.close()
        self._bases.close()
        let_go(self._device)
        os.close(self._root)
        self._temporaries.close()

    def _split(self, name: str) -> Tuple[str, str]:
        """Return the directory of a file, below the root, and its name there."""
        parent, _, base = (self.single or name).rpartition("/")
        return parent, base

    def expect(self, needs: Iterable[SpaceNeed]) -> None:
        """Add ``needs`` to what :meth:`space` counts."""
        last, there, holder, device = None, "", "", 0  # type: Optional[str], str, str, int
        for need in needs:
            parent, base = self._split(need.name)
            if parent != last:
                check_name(need.name)
                last, there = parent, deepest(self._root, parent)
                holder = os.path.join(self.path, there) if there else self.path
                device = os.stat(holder or ".").st_dev
            if device == need.device:
                continue  # extents may be shared; the target itself checks once it knows
            check_name(need.name)
            held = 0
            for name in (base, self._partial_name(self._root, base)) if there == parent else ():
                with contextlib.suppress(OSError):
                    held += allocated(os.lstat(os.path.join(holder, name)))
            self._room.take(holder or ".", need.data, held or self._bases.shares(self.single or need.name))

    def space(self) -> List["Space"]:
        """Return the space needed for everything expected, by filesystem."""
        return self._room.space()

    def has_basis(self, name: str) -> bool:
        """Return whether there may be a basis for a file: an earlier file, a partial one, or one elsewhere."""
        check_name(name)
        parent, base = self._split(name)
        # If its directory is not there yet, or cannot be opened, target() will say what is wrong.
        with contextlib.suppress(OSError):
            directory = open_beneath(self._root, parent)
            try:
                names = [base, self._partial_name(directory, base)]
                if any(os.access(name, os.F_OK, dir_fd=directory, follow_symlinks=False) for name in names):
                    return True
            finally:
                os.close(directory)
        return self._bases.may_have(self.single or name)

    def knows(self, name: str, known: Sequence[int]) -> bool:
        """Return whether the file that is there is the one with the identity ``known``."""
        return any(at is not None and identity_at(base, at) == tuple(known) for at, base in self.each([name]))

    def target(self, spec: FileSpec) -> DestinationFile:
        """Return the target for a file, not yet open. Raises LeftToRsync if rsync must make it, ValueError, OSError."""
        name = spec.name
        parent, base = self._split(name)
        check_name(name)
        found = self._parents.find(parent, spec.parents)
        directory = os.dup(found.fd)
        try:
            old = self._existing(directory, base)
            inplace = self.inplace and old is not None
            if found.has_acl:
                raise LeftToRsync("the directory's default ACL decides its mode")
            mode = (
                None if inplace else seeded_mode(spec.mode, old, perms=self.perms, group=self.group, mask=self._umask)
            )
            kept = self._partial(directory, base) if self.resume and not inplace else None
            # rsync(1), --partial-dir: a relative one is gone when it is no longer needed.
            emptied = self.partial_dir if kept and self.partial_dir and self.partial_dir[0] != "/" else None
            target = DestinationFile(
                directory,
                base,
                name,
                partial=kept,
                emptied=emptied,
                old=old,
                inplace=inplace,
                named=self.inplace,
                made=self._made_mode(directory, spec, old),
                mode=mode,
                mtime_ns=spec.mtime_ns,
                window=self.modify_window,
            )
            if not inplace:
                target.temporary_directory = self._temporaries.directory(directory)
                if kept is None and target.temporary_directory == directory:
                    target.known = found.known
            target.reserving, target.checks_room = self.preallocate, self.space_check
            target.merging, target.tells, target.seeds = self.merging, spec.known is not None, self.seeds
            target.only_new = self.only_new
            target.find_basis = partial(self._bases.open, self.single or name, spec.size, spec.mtime_ns)
            target.unfinished_ns = spec.mtime_ns + (-1 if spec.mtime_ns >= _UNFINISHED_NS else 1) * _UNFINISHED_NS
            return target
        except BaseException:
            os.close(directory)
            raise

    @property
    def is_apart(self) -> bool:
        """Whether no file that is put in place has to do with another one."""
        return not self.inplace and not self._fuzzy

    def prepare(self, spec: FileSpec) -> None:
        """Make the directory of a file, if it is missing. Raises LeftToRsync if rsync must make it, OSError."""
        check_name(spec.name)
        self._parents.find(self._split(spec.name)[0], spec.parents)

    def _made_mode(self, directory: int, spec: FileSpec, old: Optional[os.stat_result]) -> int:
        """Return the mode to make a temporary file with."""
        return 0o600

    def finish(self, target: DestinationFile, spec: FileSpec) -> None:
        """Commit a file with the source's modification time, and the mode that suits it until rsync runs."""
        target.finish(self.fsync)

    def refusal(self, name: str, error: Exception, opened: bool) -> Optional[str]:
        """Return what rsync would say of a file that the destination refuses; None for an ``error`` of another kind.

        rsync says it after it has read all of the file, holes too. The end of a temporary file's name is made up. What
        is not permitted once the file is ``opened``, to set its size for instance, rsync may do without.
        """
        if not isinstance(error, OSError) or error.errno not in (NO_ROOM if opened else REFUSALS):
            return None
        path = os.path.join(self.path, self.single or name)
        with contextlib.suppress(FileNotFoundError):  # the current directory may have been removed
            path = os.path.abspath(path)
        above, base = os.path.split(path)
        if error.errno in NO_ROOM and has_inodes(above):
            return '{} "{}"'.format(WRITE_FAILED, path)
        if self.inplace:
            return 'open "{}" failed'.format(path)
        temporary = os.path.join(above, ".{}.XXXXXX".format(base))
        if self._is_kept(name):
            return 'rename "{}" -> "{}"'.format(temporary, self.single or name)
        return 'mkstemp "{}" failed'.format(temporary)

    def settle(self) -> None:
        """Set the final mode of the directories that were made with more permissions, as rsync does."""
        self._parents.settle()

    def _is_kept(self, name: str) -> bool:
        """Whether the file that is there can never be replaced."""
        for directory, base in self.each([name]):
            with contextlib.suppress(OSError):
                if directory is None:
                    return False
                fd = open_quietly(base, os.O_NOFOLLOW, directory)
                try:
                    return forbids_replacing(fd) is not None
                finally:
                    os.close(fd)
        return False

    def _existing(self, directory: int, base: str) -> Optional[os.stat_result]:
        """Return the stat of the existing file, or None for a new one. Raises LeftToRsync unless it is plain."""
        try:
            old = os.stat(base, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if self.backup:
            raise LeftToRsync("the backup is rsync's to make")
        if not stat.S_ISREG(old.st_mode):
            raise LeftToRsync("what is at its place is not a regular file")
        if self.seeds and not os.access(base, os.R_OK, dir_fd=directory, effective_ids=True):
            raise LeftToRsync("what is at its place cannot be read")  # rsync takes it for missing
        return old

    def _partial_name(self, directory: int, base: str) -> str:
        """Return the path of the partial file of ``base``, absolute or relative to its directory."""
        if self.partial_dir:
            return os.path.join(self.partial_dir, base)
        return hidden_name(base, PARTIAL, name_limit(directory))

    def _partial(self, directory: int, base: str) -> Optional[Tuple[int, str]]:
        """Where the partial file goes: the descriptor of the directory, to be closed, and its name there.

        None if others may write in that directory: they could put another file in its place.
        """
        if not self.partial_dir:
            return os.dup(directory), self._partial_name(directory, base)
        # rsync(1), --partial-dir: made with mode 0700, relative to the file's own directory unless absolute.
        if self.partial_dir.startswith("/"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.partial_dir, 0o700)
            found = open_trusted(self.partial_dir)
        else:
            above, last = os.path.split(self.partial_dir.rstrip("/"))
            holder = open_beneath(directory, above)
            try:
                found = open_beneath(holder, last, lambda path: 0o700)
            finally:
                os.close(holder)
        if is_ours_alone(os.fstat(found)):
            return found, base
        os.close(found)
        return None

    def interrupted(self, target: DestinationFile) -> None:
        """Keep what is complete of a file where rsync's ``--partial`` and ``--partial-dir`` keep it, if they are given.

        What cannot be kept is lost, and that is not told: what has interrupted it is.
        """
        if not self.partial or self.resume:
            return
        with contextlib.suppress(OSError):
            kept = self._partial(target.directory, target.name) if self.partial_dir else None
            try:
                if kept is not None or not self.partial_dir:
                    target.keep_reached(kept)
            finally:
                if kept is not None:
                    os.close(kept[0])

    def touch(self, names: Iterable[str]) -> None:
        """Set the modification time of files to the time of the transfer, as rsync does without ``--times``."""
        for directory, base in self.each(names):
            if directory is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.utime(base, dir_fd=directory, follow_symlinks=False)

    def states(self, names: Iterable[str]) -> Iterator[Optional[Tuple[int, ...]]]:
        """Yield what each regular file is: allocated bytes, modification time, and identity; None if it is none."""
        for directory, base in self.each(names):
            try:
                st = None if directory is None else os.stat(base, dir_fd=directory, follow_symlinks=False)
            except OSError:
                st = None
            is_file = st is not None and stat.S_ISREG(st.st_mode)
            yield (allocated(st), st.st_mtime_ns, *identity_of(st)) if st and is_file else None

    def each(self, names: Iterable[str]) -> Iterator[Tuple[Optional[int], str]]:
        """Yield each file as the descriptor of its directory, open until the next, and its name there.

        The directory is None if rsync had a reason to replace it.
        """
        last, directory = None, None  # type: Optional[str], Optional[int]
        try:
            for name in names:
                check_name(name)
                parent, base = self._split(name)
                if parent != last:
                    if directory is not None:
                        os.close(directory)
                    last, directory = parent, None
                    with contextlib.suppress(OSError):
                        directory = open_beneath(self._root, parent)
                yield directory, base
        finally:
            if directory is not None:
                os.close(directory)
