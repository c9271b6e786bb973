"""The tracked files of one run of ``sync``: ``--seed-track=DIR``.

::

    before anything is sent    clone each file that is to be seeded, one right after the other (:mod:`store`), while
                               writers are held up, if somebody can (:mod:`freezing`)
    seeding                    content comes from the clones; what has not changed since the last clone is left
    before rsync               a file that was written to since it was cloned is kept from rsync
    after rsync                look at each file at the destination: a record of what it is, as rsync leaves it

rsync would copy a file whole that it finds changed. Kept from it, the file is at the destination as it was when it was
cloned, with the time that it had then, so the next run looks at it again. rsync compares whole seconds. So a file that
was written to within this second is waited for, and if it is written to again it gets an earlier time.

Between the seeding and the record rsync sets attributes, which changes a file's change time. So a file is recorded if
its inode, size and modification time still are what the seeding left.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Callable, Protocol

from ..console.messages import format_error
from ..engine.files.status import Identity
from ..engine.roles import LocalSource, Planned
from ..engine.transfer.records import FileResult
from .entry import Entry
from .freezing import Freeze, frozen
from .housekeeping import check_room
from .store import Store

_SECOND = 10**9
_CLOCK_SECONDS = 0.05
"""By how much the clock that files' times are taken from may be behind."""

_MAX_TRACKED_FILES = 200
"""For each a descriptor is open, which holds its lock."""


class Destination(Protocol):
    """What is asked of a destination."""

    def states(self, names: Sequence[str]) -> Iterator[tuple[int, ...] | None]:
        """Yield the allocated bytes, the modification time and the identity of each file, or None if it is gone."""


class Tracking:
    """The tracked files of a run. A context manager.

    ``directory``: of the clones.
    ``destination``: any text that names the destination.
    ``whole_every``: how many runs there are from one that compares everything to the next; 0 for no such runs.
    ``window``: seconds by which rsync lets times differ.
    ``say``: called with what becomes of each file.
    ``freeze``: holds writers up.
    """

    def __init__(
        self,
        directory: str,
        whole_every: int,
        destination: str,
        window: int,
        say: Callable[[str], object],
        freeze: Freeze = Freeze(),  # noqa: B008
    ) -> None:
        self._store = Store(directory)
        self._whole_every, self._freeze = whole_every, freeze
        self._say = say
        self._held = contextlib.ExitStack()
        self._held.callback(self._store.close)
        self._entries: dict[str, Entry] = {}
        self._left: dict[str, FileResult] = {}
        self._files: dict[str, Planned] = {}
        self._destination, self._window = destination, window

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._held.close()

    def clone(self, source: Any, planned: Iterable[Planned]) -> None:
        """Clone the files that are to be seeded. Raises FreezeError, OSError."""
        assert isinstance(source, LocalSource)
        files = list(islice(planned, _MAX_TRACKED_FILES + 1))
        recent = max((file.mtime_ns for file in files if file.recent), default=0)
        # Once: what is written to all the time is not waited for.
        time.sleep(min(max(0, recent // _SECOND + 1 + _CLOCK_SECONDS - time.time()), 1 + _CLOCK_SECONDS))
        begun = list(self._begun(source, files))
        if not begun:
            return
        cloned = []
        with frozen(self._freeze) as pause:
            for file, entry in begun:
                try:
                    if entry.clone():
                        cloned.append((file, entry))
                except OSError as error:
                    self._tell(error)
        if pause.seconds is not None:
            self._say(f"cloned {len(cloned)} files; writers were held up for at most {pause.seconds:.3f} s")
        for file, entry in cloned:
            entry.take(self._whole_every)
            self._entries[file.name], self._files[file.name] = entry, file
            tracked = entry.tracked
            if self._is_hot(entry):
                tracked = tracked._replace(mtime_ns=tracked.mtime_ns - (self._window + 1) * _SECOND)
            source.tracked[file.name] = tracked

    def _begun(self, source: LocalSource, files: Iterable[Planned]) -> Iterator[tuple[Planned, Entry]]:
        """Yield the files that are to be cloned, ready for it, so that it takes no longer than it has to."""
        takes = 0.0
        for count, file in enumerate(files):
            if count == _MAX_TRACKED_FILES:
                self._store.say(f"more than {_MAX_TRACKED_FILES} files: of the others digests are compared")
                return

            def opened(path: str, name: str = file.name) -> int:
                return source.open_file(path, name)

            destination = os.path.join(self._destination, file.name)
            try:
                entry = self._held.enter_context(self._store.entry(file.source, destination, opened))
            except OSError as error:
                self._tell(error)
                continue
            if entry is None:
                continue
            more, most = self._freeze.takes(entry.given), self._freeze.most
            if most is not None and takes + more > most:
                why = f"a clone of its extents, and of those before it, takes more than {most:g} s"
                self._store.say(f"{file.source}: {why} (--seed-freeze-max); digests are compared")
                continue
            takes += more if self._freeze.freeze else 0
            with contextlib.suppress(OSError):  # then the clone meets the same
                os.fdatasync(entry.given)
            yield file, entry

    def _tell(self, error: OSError) -> None:
        if error.filename == self._store.path:  # what cannot be read is told when it is sent
            self._store.say(f"{format_error(error)}; digests are compared")

    def _is_hot(self, entry: Entry) -> bool:
        """Return whether a file that is written to later may get a time that rsync takes for this one."""
        cloned, written = entry.cloned_ns - int(_CLOCK_SECONDS * _SECOND), entry.cloned.mtime_ns
        return cloned // _SECOND - self._window <= written // _SECOND <= entry.cloned_ns // _SECOND

    def seeded(self, result: FileResult) -> str:
        """Note a file that was put in place. Returns what to say of it."""
        entry = self._entries.get(result.name)
        if entry is None:
            return ""
        self._left[result.name] = result
        if result.was_known:
            return ", what changed since the last run"
        return f", all compared: {entry.why_all(result) or 'what is there is not what the last run left'}"

    def changed(self, source: Any) -> list[Planned]:
        """Return the seeded files that were written to since they were cloned, or may have been."""
        assert isinstance(source, LocalSource)
        found = []
        for name in self._left:
            file, entry = self._files[name], self._entries[name]
            with contextlib.suppress(OSError):  # it is gone, and rsync will see
                fd = source.open_file(file.source, name)
                try:
                    st = os.fstat(fd)
                finally:
                    os.close(fd)
                if self._is_hot(entry) or (st.st_ino, st.st_size, st.st_mtime_ns) != entry.cloned[:3]:
                    found.append(file)
                    self._say(f"kept from rsync: {name}: it was written to since it was cloned")
        return found

    def keep(self, destination: Destination, warn: Callable[[str], object]) -> None:
        """Record what the seeded files are now. ``warn``: called if that is not possible."""
        names = [name for name, result in self._left.items() if result.there is not None]
        try:
            for name, now in _now(destination, names):
                there = Identity(*(self._left[name].there or ()))
                if now is None or now[:3] != there[:3]:
                    self._say(f"not recorded: {name}: it was changed since it was seeded")
                    continue
                self._entries[name].keep(now, whole=not self._left[name].was_known)
            check_room(self._store)
        except OSError as error:
            warn(f"what was seeded is not recorded, and is compared the next time: {format_error(error)}")


def _now(destination: Destination, names: Sequence[str]) -> Iterator[tuple[str, Identity | None]]:
    for name, state in zip(names, destination.states(names) if names else ()):
        yield name, None if state is None else Identity(*state[2:])
