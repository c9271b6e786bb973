"""Seeding: put the content of the sparse files that rsync would transfer in place.

Given what rsync said it would transfer (the listing, see :mod:`rsync.listing`), this finds the sparse
files in it and works out where each will be at the destination::

    plan    ask the source which of the listed files are sparse (:mod:`.planned.planning`);
            what is left of the listing goes through a temporary file, since it may be long
    space   does all of it fit? If not, nothing is written
    run     :func:`~.hosts.transfer.transfer` puts the files in place

How a file is put in place so that rsync could have done it, its
destination does (:mod:`.engine.transfer.place.destination`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import IO, TYPE_CHECKING, Callable, NamedTuple

from ..console.messages import format_error
from ..console.progress import BarFactory, ProgressLines, begin_file, data_bar
from ..console.units import iec
from ..engine.errors import LinkError, NoSpaceError, OnProgress
from ..engine.roles import Opening, Planned, SourceSettings
from ..engine.transfer.place.destination import WRITE_FAILED
from ..engine.transfer.records import FileResult
from ..hosts.base import Destination, Host, Source
from ..hosts.transfer import Settings, check_space, needs, ordered, transfer
from ..rsync import command as rsync
from ..rsync.listing import parse_listing
from ..rsync.paths import is_wild, sent_as_top
from ..rsync.program import Status
from .healing import Healing
from .losses import Losses
from .options.own import SeedOptions
from .planned.planning import Planning
from .result import Seeded
from .settled import NOTHING_SPARSE

if TYPE_CHECKING:
    from ..tracking.files import Tracking

SEEDING = "seeding"
"""What the bar of the files' data is called."""

_OWN_BYTES = 16 * 1024
"""So much a filesystem may allocate for a file's extents, besides its data."""
_SEND_DIRECTORIES = frozenset(["archive", "recursive", "dirs", "old-dirs"])
_SEND_NONE = frozenset(["no-recursive", "no-dirs"])


class Refused(NamedTuple):
    """A file that the destination does not take. ``said``: what fails, in rsync's words."""

    said: str
    errno: int
    reason: str

    @property
    def status(self) -> Status:
        """The status that rsync would have ended with."""
        return Status.FILE_IO if self.said.startswith(WRITE_FAILED) else Status.PARTIAL


class Seeding:
    """The seeding of one run.

    ``say``: called with a line for each file, if the user asked for that.
    ``check``: called for each file that is looked at; what it raises ends the seeding.
    """

    def __init__(
        self,
        command: rsync.Command,
        options: SeedOptions,
        source: Source,
        destination: Destination,
        say: Callable[[str], None],
        bar: BarFactory = data_bar,
        settings: Settings = Settings(),  # noqa: B008
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.tracking: Tracking | None = None
        self.tells: bool = True
        """Whether anybody hears what is said of each file that was seeded."""
        self.check = check
        self.command = command
        self.options = options
        self.source = source
        self.destination = destination
        self.settings = settings
        self.say = say
        self.bar = bar
        self.seeded: list[Seeded] = []
        self.left: list[tuple[str, str]] = []
        self.lost: dict[str, int] = {}
        """The bytes of holes of each file that was left."""
        self.refused: dict[str, Refused] = {}
        """Files that the destination does not take: rsync would read all holes to find out."""
        self.planned: Losses = Losses(0)
        """The sparse files that are to be seeded, and their holes."""
        self._under_way: dict[str, int] = {}
        self._filled: set[str] = set()
        self.planning: Planning = Planning(command, options, source, check)
        self._modes: list[Callable[[], int | None]] = []
        """Each gives the mode of a source."""
        self._top_modes: list[Callable[[], int | None]] = []
        """Each gives the mode of a directory that is sent as the transfer's top."""
        self.refused_all: bool = False
        """The destination cannot be opened. rsync meets the same, most likely."""
        self.changing: list[Planned] = []
        """Of a live source: files that rsync would find changed already, and copy whole."""
        # The paths at the two ends, without the name of a host.
        remote = command.remote
        assert command.destination is not None  # parse() hands off a command without one
        self._pulls = remote is not None and not remote.push
        self._sources = remote.paths if remote and not remote.push else command.sources
        self._destination = remote.paths[0] if remote and remote.push else command.destination
        self.healing: Healing = Healing(command, options, source, destination, self._destination, say, bar, check)

    def run(self, listing: IO[bytes], unchanged: IO[bytes] | None = None) -> str | None:
        """Seed the files of a listing, which are planned. Returns why nothing at all was seeded, or None.

        ``unchanged``: the files among which to find those that lost their holes.

        Raises NoSpaceError before anything is written if the data cannot fit, LinkError.
        """
        why_not = self._seed(listing)
        if unchanged is not None:
            try:
                self.healing.find(unchanged)
            except LinkError:
                raise
            except (OSError, ValueError) as error:
                self.say(f"what has lost its holes is not known: {format_error(error)}")
        return why_not

    @property
    def has_more(self) -> bool:
        """Whether work may remain for after rsync."""
        return bool(self.seeded or self.planned.files or self.healing.found)

    def _seed(self, listing: IO[bytes]) -> str | None:
        listing.seek(0)
        if next(parse_listing(listing), None) is None:
            return NOTHING_SPARSE
        self._modes = [self.source.ask_mode(path) for path in self._sources]
        tops = (sent_as_top(path, self.command.relative) for path in self._sources)
        self._top_modes = [self.source.ask_mode(path) for path in tops if path is not None]
        planning = self.planning
        if not planning.is_heard:
            listing.seek(0)
            planning.hear(listing)
        plan = planning.plan
        for each in planning.left:
            self._leave(*each)
        self.planned = Losses(planning.sparse, planning.holes)
        if not planning.files:
            return NOTHING_SPARSE
        if self.command.dry_run:
            reason = self.destination.find(self._destination, self._opening(listing))
            for planned in [] if reason else plan:
                self.say(f"would seed {planned.name}: {_sizes(planned.size, planned.data)}")
            return reason
        # --delete may make room, and how much --sparse leaves is known only once all is read.
        checked = self.options.space_check and not (self.command.delete or self.command.sparse)
        coming = needs(self.source, plan) if checked else iter(())
        self.refused_all = True  # unless it is opened
        reason = self.destination.open(self._destination, self._opening(listing), coming)
        self.refused_all = False
        if reason:
            return reason
        if checked:
            try:
                check_space(self.destination)
            except NoSpaceError:
                # What else rsync will write may make room: a file that becomes shorter.
                self.destination.expect(needs(self.source, self.others(listing, iter(plan))))
                check_space(self.destination)
        if self.tracking is not None:
            self.tracking.clone(self.source, plan)
        with self.bar(planning.data, SEEDING, self.command.quiet > 0) as advance:
            files = self._started(ordered(lambda: iter(plan), self.settings), advance)
            # Who is told which file is worked at is told of one at a time.
            settings = self.settings.sized(planning.data, 1 if isinstance(advance, ProgressLines) else planning.files)
            transfer(self.source, self.destination, files, settings, self._done, advance)
        if self.options.source_is_live:
            self.changing += self._changing(iter(plan))
        return None

    def close(self) -> None:
        """Discard the plan."""
        self.healing.close()
        self.planning.close()

    def _started(self, plan: Iterator[Planned], advance: OnProgress) -> Iterator[Planned]:
        for planned in plan:
            begin_file(advance, planned.name)
            self._under_way[planned.name] = planned.size - planned.data
            yield planned

    def _changing(self, plan: Iterator[Planned]) -> Iterator[Planned]:
        left = {name for name, _ in self.left}
        batch = list(islice(plan, 1000))
        while batch:
            found = self.source.look((planned.source, planned.name) for planned in batch)
            for planned, looked in zip(batch, found):
                still = looked is not None and looked.mtime_ns == planned.mtime_ns and not planned.recent
                if planned.name in left or not still:
                    yield planned
            batch = list(islice(plan, 1000))

    def held_back(self) -> Iterable[str]:
        """Return the files to keep from rsync, which would find them changed, and copy them whole."""
        written = [] if self.tracking is None else self.tracking.changed(self.source)
        if self.options.hold_back is not None:
            return self.options.hold_back([*self.changing, *written])
        return [each.name for each in written]

    def heal(self, kept: Collection[str]) -> list[tuple[str, int]]:
        """Restore holes, once rsync is done, and return the names with the bytes of each.

        Of the planned files, those left to rsync and those found by :meth:`filled` are examined.

        ``kept``: names that were kept from rsync.

        Raises OSError, LinkError.
        """
        more: Iterable[Planned] = ()
        if self._filled or len(self.seeded) < self.planning.files:
            whole = {*kept, *(each.name for each in self.seeded)} - self._filled
            more = (each for each in self.planning.plan if each.name not in whole)
        self.healing.heal(more)
        return self.healing.healed

    def touch(self) -> None:
        """Set the modification time of seeded files to the time of the transfer, as rsync does without ``--times``."""
        self.destination.touch([seeded.name for seeded in self.seeded])

    def filled(self) -> tuple[Losses, str]:
        """Return the seeded files that have lost their holes since, and the name of the first.

        rsync rewrote such a file because it had changed at one end. Raises LinkError.
        """
        files, holes, first = 0, 0, ""
        seeded = {each.name: each for each in self.seeded}
        plan = (planned for planned in self.planning.plan if planned.name in seeded)
        for batch in iter(lambda: list(islice(plan, 1000)), []):
            states = list(self.destination.states([planned.name for planned in batch]))
            # What has another time by now is what the source was when rsync came to it; its holes may be others.
            anew = [each for each, state in zip(batch, states) if state and state[1] != each.mtime_ns]
            looked = dict(zip(anew, self.source.look((each.source, each.name) for each in anew)))
            for planned, state in zip(batch, states):
                was = seeded[planned.name]
                now = looked.get(planned, was)
                if state is None or now is None or not now.size or was.allocated >= was.size:
                    continue  # nobody can tell, or there never was a hole: its filesystem has none
                # Up to so much are the filesystem's own blocks, with the list of the file's extents.
                own = (was.size - was.data) // 2 if now is was else now.data // 8 + _OWN_BYTES
                lost = state[0] - max(now.data, was.allocated if now is was else 0)
                if lost > own:
                    files, holes, first = files + 1, holes + lost, first or planned.name
                    self._filled.add(planned.name)
        return Losses(files, holes), first

    def others(self, listing: IO[bytes], planned: Iterator[Planned]) -> Iterator[Planned]:
        """Yield the listed files that are not planned. ``planned``: in the order of the listing."""
        listing.seek(0)
        known = next(planned, None)
        for entry in parse_listing(listing):
            name = os.fsdecode(entry.name)
            if known is not None and known.name == name:
                known = next(planned, None)
            else:
                yield Planned(name, "", entry.size, entry.size, room=entry.size)

    def _opening(self, listing: IO[bytes]) -> Opening:
        """Return the options of the transfer that decide how its destination is opened."""
        command = self.command
        listing.seek(0)
        many = sum(1 for _ in zip(parse_listing(listing), range(2))) > 1
        names = {option.name for option in command.options}
        certain = True
        if not many and not command.relative and any(stat.S_ISDIR(mode() or 0) for mode in self._modes):
            # Without them rsync skips a directory, and what is left may be one file.
            many = bool(names & _SEND_DIRECTORIES) and not names & _SEND_NONE
            certain = many
        like = self._like()
        return Opening(
            many=many,
            # A wildcard may have become more than what is listed.
            one_source=certain and len(self._sources) == 1 and not (self._pulls and is_wild(self._sources[0])),
            relative=command.relative,
            like=None if like is None else stat.S_IMODE(like),
            mkpath=command.mkpath,
            inplace=command.inplace,
            perms=command.perms,
            group=command.group,
            implied_dirs=command.implied_dirs,
            backup=command.backup,
            fsync=command.fsync,
            partial_dir=command.partial_dir,
            preallocate=command.preallocate,
            temp_dir=command.value("temp-dir"),
            bases=command.bases,
            fuzzy=command.fuzzy,
            modify_window=command.modify_window,
            space_check=self.options.space_check,
        )

    def _like(self) -> int | None:
        """Return the mode that the destination itself gets: that of the first directory sent as the top."""
        if self.command.files_from is not None:
            return None
        return next((mode() for mode in self._top_modes), None)

    def _done(self, result: FileResult) -> None:
        holes = self._under_way.pop(result.name, 0)
        if result.reason is None:
            self.seeded.append(Seeded(*result[:4], result.allocated))
            how = self.tracking.seeded(result) if self.tracking else ""
            if self.tells:
                sent = f", {iec(result.sent)} sent" if self.command.remote else ""
                self.say(f"seeded {result.name}: {_sizes(result.size, result.data)}{sent}{how}")
            return
        if holes and result.refusal is not None and not result.at_source:
            self.refused[result.name] = Refused(result.refusal, result.errno or 0, result.reason)
        self._leave(result.name, result.reason, holes)

    def _leave(self, name: str, reason: str, holes: int) -> None:
        self.left.append((name, reason))
        self.lost[name] = holes
        self.say(f"left to rsync: {name}: {reason}")


def why_not_list(command: rsync.Command, host: Host | None) -> str | None:
    """Return why a second reading of the list on the other host may differ, or None."""
    if command.remote_list is None or host is None:
        return None
    mode = host.source(SourceSettings()).ask_mode(command.remote_list)()
    # Where there is none, the dry run fails on it as the run itself will.
    return None if mode is None or stat.S_ISREG(mode) else "--files-from names something that can be read only once"


def _sizes(size: int, data: int) -> str:
    return f"{iec(data)} of {iec(size)}"
