"""A run in which something may be seeded, step by step: :mod:`run` says which steps there are.

:class:`SeededRun` has the state that they share. What is seeded is decided and done by :mod:`seeder`; here is what
comes before it (the two ends), and what a run is told to say or to end with. It is imported only once the destination
lacks something: a repeat with nothing to do is told so by the other host, and is done without.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from ..console.messages import format_error, print_error, with_hint
from ..console.progress import BarFactory
from ..console.streams import flush_output, write_error
from ..embedding import Embedding, NoAgentError, Write
from ..engine.errors import LinkError, LoginError, NoSpaceError, ProtocolError
from ..engine.host import LocalHost
from ..engine.roles import SourceSettings
from ..engine.text import printable_already
from ..rsync import command as rsync
from ..rsync.listing import LISTED, Hearer, with_options
from ..rsync.process import run_rsync, spooled
from ..rsync.program import LOST, NO_CONNECTION, Status, shown_status
from ..rsync.verbosity import logging
from ..tracking.freezing import FreezeError
from . import losses
from .login import Login
from .options.own import SeedOptions
from .result import SyncResult
from .settled import NOTHING_SPARSE, NOTHING_TO_SEED, Looked, are_settled, open_existing
from .telling import as_rsync_says, ending, hiding, report_of, telling, tries_all

if TYPE_CHECKING:
    from ..engine.tree.scan import Sparse
    from ..hosts.base import Destination, Source
    from ..rsync.report import Report
    from ..tracking.files import Tracking
    from .seeder import Refused, Seeding


class _EndedError(Exception):
    """The run ends before rsync, with this exit status; the message says why, unless rsync has."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SeededRun:
    """One run: what its steps share."""

    def __init__(
        self,
        command: rsync.Command,
        seed: SeedOptions,
        say: Callable[[str], None],
        bar: BarFactory,
        strict: bool,
        login: Login,
        embedding: Embedding | None,
        tracking: Tracking | None,
    ) -> None:
        self.embedding = embedding
        self.warn: Callable[[str], object] = logging(command, embedding.warn if embedding else print_error)
        self.environ: Mapping[str, str] = embedding.environ if embedding else os.environ
        self.check: Callable[[], object] = embedding.check if embedding else lambda: None
        self.command: rsync.Command = command
        self.seed = seed
        self.say = say
        self.bar = bar
        self.strict = strict
        self.argv: list[str] = list(command.argv)
        """The words that rsync is run with, without its own name."""
        self.result: SyncResult = SyncResult(command=("rsync", *self.argv))
        self.spool: IO[bytes] | None = None
        self.seeding: Seeding | None = None
        self.login = login
        self.report: Report | None = None
        """What rsync would have said of what was seeded, if anybody listens."""
        self.hopeless: bool = False
        """rsync refuses the command, and will again."""
        self.doubtful: bool = False
        """Whether rsync will write anything is not known before it has run."""
        self.tracking = tracking
        self.refusal: int = 0
        """The exit status that rsync would have had for what the destination does not take."""

    def note(self, **fields: Any) -> SyncResult:
        """Set fields of the result, and return it."""
        self.result = self.result._replace(command=("rsync", *self.argv), **fields)
        return self.result

    @property
    def lasts(self) -> bool:
        """Whether something is left to be done when rsync has ended."""
        return self.spool is not None or self.report is not None or (self.seeding is not None and self.seeding.has_more)

    def until_rsync(self, looked: Looked, stack: contextlib.ExitStack) -> bool:
        """Run steps 3 to 5. Returns whether rsync is to run; the result is noted.

        ``looked``: what is known already.
        ``stack``: keeps open what is needed until rsync ends.
        """
        try:
            handoff = looked.why_not or self._seed_files(looked.unsettled, stack)
            self.note(handoff=handoff)
            if handoff:
                self.say(f"everything is left to rsync: {handoff}")
            self._tell_losses()
        except _EndedError as ended:
            if str(ended):
                self.warn(str(ended))
            self.note(status=int(ended.status), returncode=int(ended.status), failure=str(ended) or None)
            return False
        except FreezeError as error:
            self.warn(f"{error}; nothing was sent, and rsync was not run")
            self.note(status=int(Status.UNSUPPORTED), returncode=int(Status.UNSUPPORTED), failure=str(error))
            return False
        # What the program has printed comes before what rsync prints.
        flush_output()
        return True

    def run_rsync(self, output: Write | None, told_by_report: bool, stack: contextlib.ExitStack) -> None:
        """Run step 6. Raises LinkError.

        ``output``: gets what rsync prints, unless None.
        ``told_by_report``: ``output`` gets what rsync would have said of what was seeded, too.
        """
        self.report = self.report or hiding(self.command, self.login.words, stack)
        options, environ = self.login.through()
        place = self.seeding.destination if self.seeding else None
        reported = telling(self.report, output, told_by_report)
        done: int | None = None
        try:
            with reported as (reader, added, inherited), self.login.without_agent(place):
                argv = ["rsync", *with_options(self.argv, [*options, *added])]
                done = run_rsync(argv, environ, self.spool, reader, inherited, self.embedding)
                done = done or self._end_refused(environ)
        except LinkError:
            if done is None:
                raise  # else its result stands, and heal() says what is not known
        returncode = int(done or 0)
        status = self.note(status=shown_status(returncode), returncode=returncode).status
        remote = self.command.remote
        if self.embedding is not None and remote is not None and self.result.handoff and status in LOST:
            from ..hosts.stderr_relay import is_refused

            lost = f"rsync could not log in, or lost the connection (status {status})"
            raise LinkError(lost, remote.host, retryable=not is_refused(self.embedding.tail()))

    def after_rsync(self) -> None:
        """Run step 7, and what else is to be done at the end."""
        if self.doubtful and self.result.status in LISTED:
            self.doubtful = False
            self._tell_losses()
        self._heal()
        self._touch()
        if self.tracking is not None and self.seeding is not None:
            self.tracking.keep(self.seeding.destination, self.warn)

    def _seed_files(self, unsettled: Sequence[Sparse], stack: contextlib.ExitStack) -> str | None:
        """Run steps 3 to 5. Returns why nothing was seeded, or None."""
        try:
            source, destination = self._ends(stack)
            if unsettled:
                with self.login.trying_session() as trial:
                    if self._is_settled(destination, unsettled):
                        self.login.end_agent(trial)
                        return NOTHING_SPARSE
        except (LoginError, FileNotFoundError):
            raise
        except OSError as error:
            no_agent = isinstance(error, (NoAgentError, ProtocolError))
            self.note(no_agent=no_agent)
            lost = isinstance(error, LinkError) and not no_agent
            if self.strict or (lost and self.embedding is not None):
                raise
            return format_error(error)
        from ..hosts.transfer import Settings
        from .seeder import Seeding, why_not_list

        if self.command.spool_stdin:
            # Not what a program has in its place: rsync gets the descriptor.
            self.spool = stack.enter_context(spooled(stack.enter_context(open(0, "rb", closefd=False))))
        self.command = self.login.command = rsync.keeping(self.command, stack)
        self.argv = list(self.command.argv)
        handoff = why_not_list(self.command, self.login.host)
        if handoff:
            return handoff
        command = self.command
        compression = rsync.compression(command) if command.compress else None
        seed = self.seed
        settings = Settings(
            command.sparse, command.bwlimit, compression, seed.streams, self.say, seed.jobs, seed.engine, self.check,
            seed.check_other,
            shares=self.embedding is None,
        )  # fmt: skip
        self.seeding = seeding = Seeding(
            command, self.seed, source, destination, self.say, self.bar, settings, self.check
        )
        seeding.tracking, seeding.tells = self.tracking, seed.verbose or self.embedding is not None
        stack.callback(seeding.close)
        handoff = self._ask_and_seed(seeding, stack)
        self.note(
            seeded=tuple(seeding.seeded), left=tuple(seeding.left), bytes=sum(seeded.data for seeded in seeding.seeded)
        )
        if not tries_all(self.command):
            self._keep_from_rsync(seeding.refused, stack)
        later = sorted(seeding.held_back())
        if later:
            from ..exclude import excluding

            self.argv[:0] = excluding(later, stack)
            self.note(later=tuple(later))
        return handoff

    def _is_settled(self, destination: Destination, files: Sequence[Sparse]) -> bool:
        """Return whether sparse files are at the destination of a push already. Raises LinkError."""
        remote = self.command.remote
        assert remote is not None
        if not open_existing(destination, remote.paths[0], self.command):
            return False
        return are_settled(self.command, self.seed, destination, files)

    def _keep_from_rsync(self, refused: dict[str, Refused], stack: contextlib.ExitStack) -> None:
        if not refused:
            return
        from ..exclude import excluding

        # rsync would meet the same, after it has read all of their holes.
        for name, why in refused.items():
            if self.embedding is not None:
                self.embedding.warn(f"{name}: {with_hint(why.reason, why.errno)}")
            else:
                write_error(as_rsync_says(why) + b"\n")
        self.refusal = min(why.status for why in refused.values())
        self.argv[:0] = excluding(list(refused), stack)
        self.note(refused=tuple(refused))

    def _end_refused(self, environ: Mapping[str, str]) -> int:
        """Say how rsync would have ended, which has not met what the destination refuses. Returns that status, or 0."""
        last = ending(Status(self.refusal), self.command, environ) if self.refusal else b""
        if self.report is not None and last:
            self.report.last = last
        if self.embedding is None and last:
            write_error(last)
        return self.refusal

    def _tell_losses(self) -> None:
        """Report the holes that rsync will fill, if any. Raises _EndedError if rsync must not."""
        handoff, seeding, command, seed = self.result.handoff, self.seeding, self.command, self.seed
        if handoff is None or handoff in NOTHING_TO_SEED:
            dense = [name for name, holes in seeding.lost.items() if not holes] if seeding else []
            kept = {*self.result.later, *self.result.refused, *dense}
            left = [(name, reason) for name, reason in seeding.left if name not in kept] if seeding else []
            lost = losses.Losses(len(left), sum(seeding.lost[name] for name, _ in left) if seeding else 0)
            certain, reason = True, f"{left[0][0]}: {left[0][1]}" if left else ""
        elif seeding is not None and seeding.planned.files:
            done = sum(seeded.size - seeded.data for seeded in seeding.seeded)
            left_files = seeding.planned.files - sum(seeded.size > seeded.data for seeded in seeding.seeded)
            lost, certain, reason = losses.Losses(left_files, seeding.planned.holes - done), True, str(handoff)
        else:
            found = losses.of_all(command, seed.holes, seed.min_hole, self.check)
            lost, certain, reason = found, False, str(handoff)
        if lost.files == 0 or seed.off or command.sparse or self.hopeless or self.doubtful:
            return
        self.note(holes=lost.holes)
        if not certain and losses.refuses(command, self.environ):
            return
        line = lost.line(reason, dry_run=command.dry_run, certain=certain)
        if seed.required:
            raise _EndedError(Status.UNSUPPORTED, f"--seed-required is given, and {line}")
        self.warn(line)

    def _touch(self) -> None:
        """Give what was seeded the time that rsync would have given it, without ``--times``."""
        if self.seeding is not None and self.result.seeded and not self.command.times:
            try:
                self.seeding.touch()
            except OSError as error:
                self.warn(f"what was seeded has kept the times of its source: {format_error(error)}")

    def _heal(self) -> None:
        """Restore lost holes, and report those that rsync filled in seeded files and that are not restored."""
        if self.seeding is None:
            return
        try:
            filled, first = self.seeding.filled()
            if self.result.status in LISTED:
                self.note(healed=tuple(self.seeding.heal({*self.result.later, *self.result.refused})))
            if filled.files and self.result.healed:
                filled, first = self.seeding.filled()
        except (OSError, ValueError) as error:
            if self.result.status == 0:  # else rsync has said what is wrong
                self.warn(f"whether what was seeded has kept its holes is not known: {format_error(error)}")
            return
        if filled.files:
            self.note(holes=self.result.holes + filled.holes)
            self.warn(filled.line_after(first))

    def _ends(self, stack: contextlib.ExitStack) -> tuple[Source, Destination]:
        """Return the source and the destination. Raises LinkError if the other host cannot be reached."""
        command, remote = self.command, self.command.remote
        settings = SourceSettings(
            follow=command.links_followed,
            listed=command.relative or command.files_from is not None,
            live=self.seed.source_is_live,
            holes=self.seed.holes,
            reserve=command.preallocate,
            every=self.seed.min_hole == 0,
            modify_window=command.modify_window,
        )
        local = LocalHost()
        source: Source
        destination: Destination
        if remote is None:
            partial = "partial" in command.held or command.partial_dir is not None
            source, destination = local.source(settings), local.destination(partial=partial)
        else:
            host = self.login.connect(self.seed.python, stack)
            if remote.push:
                source, destination = local.source(settings), host.destination()
            else:
                source, destination = host.source(settings), local.destination(resume=True)
        stack.callback(source.close)
        stack.callback(destination.close)
        return source, destination

    def _ask_and_seed(self, seeding: Seeding, stack: contextlib.ExitStack) -> str | None:
        """Run steps 4 and 5. Returns why nothing was seeded, or why not all."""
        try:
            with tempfile.TemporaryFile() as listing, tempfile.TemporaryFile() as kept:
                unchanged = kept if seeding.healing.wanted else None
                status = self._ask(listing, unchanged, seeding.planning if seeding.planning.is_heard else None)
                self.doubtful, self.hopeless = self.login.doubtful, status in losses.HOPELESS
                if status not in LISTED:
                    return f"its dry run ends with status {status}"
                handoff = seeding.run(listing, unchanged)
                self.report = report_of(self.command, listing, seeding, self.login.words, self.environ)
                if self.report is not None:
                    stack.callback(self.report.close)
                return handoff
        except (LinkError, NoSpaceError):
            raise
        except (OSError, ValueError) as error:  # what is wrong with one file is told as that file's
            self.doubtful |= seeding.refused_all and not self.seed.required
            return f"seeding has ended early: {format_error(error)}"

    def _ask(self, listing: IO[bytes], unchanged: IO[bytes] | None, hearer: Hearer | None) -> int:
        """Have rsync list what it would transfer; returns its exit status. Raises _EndedError if it cannot be asked."""
        status, said = self.login.dry_run(listing, unchanged, self.spool, hearer)
        # What it says of troubles is said again by the real run, which meets the same.
        outside = self.strict or self.embedding is not None
        doubtful = not (outside or self.seed.required) and self.login.doubt(status, said)
        if self.command.remote is not None and status in NO_CONNECTION and not doubtful:
            lines = said.decode(errors="surrogateescape").splitlines()
            text = "".join(f"{printable_already(line)}\n" for line in lines)
            ((self.embedding and self.embedding.stderr) or write_error)(text.encode(errors="backslashreplace"))
            if outside:
                raise LinkError(f"rsync cannot tell what it would transfer (status {status})", self.command.remote.host)
            why = "rsync was asked what it would transfer, and could not; nothing was done"
            raise _EndedError(status, "" if b"rsync error:" in said else why)
        if status >= 0 and status != Status.SIGNAL:
            return status
        status = status if status > 0 else 128 - status
        raise _EndedError(status, f"rsync was killed twice when asked what it would transfer (status {status})")
