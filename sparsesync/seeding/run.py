"""One run of ``sync``: put sparse files in place, then let the user's own rsync run.

rsync reads, hashes and sends the holes of a sparse file as if they were data. But it
leaves a file alone whose size and modification time agree at both ends. So::

    1. understand the command line        nothing certain?  rsync does it all
    2. look for one sparse file to bring  none?             rsync does it all
       (not on a pull); start an agent on the other host, if there is one
    3. ask rsync, by a dry run under exactly the user's filters and options,
       which files it would transfer
    4. seed the sparse ones among them: write the data to a temporary, give it
       the source's modification time, rename it to its place
    5. run the user's command unchanged: for what was seeded, rsync has only the
       attributes left to do
    6. have holes back where they were lost, now or some time ago (:mod:`healing`)

Seeding may never change the result. Where an option, a path or a file makes it uncertain what rsync would do, that
file, or the run, is left to rsync. So every shortcut here has the form "if in doubt, leave it". What is left loses its
holes for a while, which is told (:mod:`losses`), and with ``-v`` the reason for each file. What the destination refuses
is kept from rsync, which would read all of its holes to find out.

Below source and destination no symlink is followed that rsync would not follow. Memory does not
grow with the tree: what rsync answers in step 3 goes through a temporary file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Callable

from ..console.messages import as_bytes, format_error, print_error, with_hint
from ..console.progress import BarFactory, data_bar
from ..console.streams import write_error
from ..embedding import Embedding, NoAgentError
from ..engine.errors import LinkError, LoginError, NoSpaceError, ProtocolError
from ..engine.host import LocalHost
from ..engine.roles import SourceSettings
from ..engine.text import printable_already
from ..hosts.transfer import Settings
from ..rsync import command as rsync
from ..rsync.listing import LISTED, with_options
from ..rsync.process import LOST, NO_CONNECTION, Status, run_rsync, shown_status, spooled
from ..rsync.program import become
from . import losses, own_options
from .login import Login
from .own_options import SeedOptions
from .result import SyncResult
from .seeder import NOTHING_SPARSE, Refused, Seeding, why_not_list
from .settled import NO_SPARSE_FILES, why_not
from .telling import as_rsync_says, ending, hiding, report_of, telling, tries_all

if TYPE_CHECKING:
    from ..hosts.base import Destination, Source
    from ..hosts.pool import Connections, HostPool
    from ..rsync.report import Report
    from ..tracking.files import Tracking


def run(
    argv: Sequence[str],
    seed: SeedOptions,
    *,
    replace: bool = False,
    bar: BarFactory = data_bar,
    output: Callable[[bytes], object] | None = None,
    strict: bool = False,
    hosts: HostPool | None = None,
    embedding: Embedding | None = None,
    logins: Connections | None = None,
) -> SyncResult:
    """Seed for the rsync arguments ``argv``, then run rsync with them. Raises as :func:`~.api.transfers.sync`.

    ``replace``: if nothing is seeded, become rsync, and do not return.
    ``bar``: shows the seeding's progress.
    ``output``: called with the output of rsync and of the seeding, which otherwise go to standard output.
    ``strict``: raise LinkError if a host cannot be reached, instead of leaving the run to rsync.
    ``hosts``: holds a connection to the other host, which ``argv`` shares.
    ``logins``: whose logins are used, of several runs.
    ``embedding``: of the program whose run this is; None: the command's own. Without ``output`` it has that, too.
    """
    started = time.monotonic()
    environ = embedding.environ if embedding else os.environ
    command = rsync.parse(argv, environ)

    def say(message: str) -> None:
        if embedding is not None:
            embedding.inform(message)
        elif seed.verbose and output is not None:
            output(as_bytes(f"sparsesync: {message}"))
        elif seed.verbose:
            print_error(message)

    # What takes it apart wants rsync's own.
    told_by_report = embedding is not None and output is None
    output = embedding.stdout if embedding and output is None else output
    with contextlib.ExitStack() as stack:
        tracking = None
        if seed.track is not None:
            tracking, command = own_options.tracking(seed.track, seed, command, environ, say, stack)
        state = SeededRun(command, seed, say, bar, strict, Login(command, hosts, embedding, logins), embedding)
        state.tracking = tracking
        try:
            if embedding is not None:
                state.check_shell()
            handoff = state.seed_files(stack)
            state.note(handoff=handoff)
            if handoff:
                state.say(f"everything is left to rsync: {handoff}")
            state.tell_losses()
        except _EndedError as ended:
            state.warn(str(ended))
            return state.note(status=int(ended.status), returncode=int(ended.status))
        # What the program has printed comes before what rsync prints; and it may have no such stream, or none like it.
        with contextlib.suppress(OSError, AttributeError, ValueError):
            sys.stdout.flush()
        state.login.hand_over()
        kept = state.spool is not None or state.command is not command  # has to stay until rsync is done
        more = state.report is not None or (state.seeding is not None and state.seeding.has_more)
        if replace and not (kept or more or state.login.lasts):
            become(state.argv)
        state.report = state.report or hiding(state.command, state.login.words, stack)
        options, environ = state.login.through()
        place = state.seeding.destination if state.seeding else None
        reported = telling(state.report, output, told_by_report)
        done: int | None = None
        try:
            with reported as (reader, added, inherited), state.login.without_agent(place):
                argv = ["rsync", *with_options(state.argv, [*options, *added])]
                done = run_rsync(argv, environ, state.spool, reader, inherited, embedding) or state.end_refused(environ)
        except LinkError:
            if done is None:
                raise  # else its result stands, and heal() says what is not known
        returncode = int(done or 0)
        status = state.note(status=shown_status(returncode), returncode=returncode).status
        if embedding is not None and command.remote is not None and handoff and status in LOST:
            from ..hosts.ssh import is_refused

            lost = f"rsync could not log in, or lost the connection (status {status})"
            raise LinkError(lost, command.remote.host, retryable=not is_refused(embedding.tail()))
        if state.login.doubtful and not status:
            state.hopeless = False
            state.tell_losses()
        state.heal()
        state.touch()
        if state.tracking is not None and state.seeding is not None:
            state.tracking.keep(state.seeding.destination, state.warn)
        wire = state.login.wire()
    return state.note(wire=wire, seconds=time.monotonic() - started)


class _EndedError(Exception):
    """The run ends before rsync, with this exit status; the message says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SeededRun:
    """One run, until rsync starts."""

    def __init__(
        self,
        command: rsync.Command,
        seed: SeedOptions,
        say: Callable[[str], None],
        bar: BarFactory,
        strict: bool,
        login: Login,
        embedding: Embedding | None = None,
    ) -> None:
        self.embedding = embedding
        self.warn: Callable[[str], object] = embedding.warn if embedding else print_error
        self.environ = embedding.environ if embedding else os.environ
        self.check: Callable[[], object] = embedding.check if embedding else lambda: None
        self.command = command
        self.seed = seed
        self.say = say
        self.bar = bar
        self.strict = strict
        self.argv = list(command.argv)
        """The words that rsync is run with, without its own name."""
        self.result = SyncResult(command=("rsync", *self.argv))
        self.spool: IO[bytes] | None = None
        self.seeding: Seeding | None = None
        self.login = login
        self.report: Report | None = None
        """What rsync would have said of what was seeded, if anybody listens."""
        self.hopeless = False
        """rsync refuses the command, and will again."""
        self.tracking: Tracking | None = None
        self.refusal = 0
        """The exit status that rsync would have had for what the destination does not take."""

    def note(self, **fields: Any) -> SyncResult:
        """Set fields of the result, and return it."""
        self.result = self.result._replace(command=("rsync", *self.argv), **fields)
        return self.result

    def check_shell(self) -> None:
        """Raise LinkError if the remote shell is missing, of which rsync says no more than "IPC"."""
        remote = self.command.remote
        if remote is not None and shutil.which(remote.shell[0], path=self.environ.get("PATH", os.defpath)) is None:
            raise LinkError(f"{remote.shell[0]}: no such remote shell", remote.host, retryable=False)

    def seed_files(self, stack: contextlib.ExitStack) -> str | None:
        """Run steps 1 to 4. Returns why nothing was seeded, or None.

        ``stack``: keeps open what is needed until rsync ends.
        """
        try:
            handoff = why_not(self.command, self.seed, self.environ, self.check)
            if handoff:
                return handoff
            source, destination = self._ends(stack)
        except (LoginError, FileNotFoundError):
            raise
        except OSError as error:
            no_agent = isinstance(error, (NoAgentError, ProtocolError))
            self.note(no_agent=no_agent)
            lost = isinstance(error, LinkError) and not no_agent
            if self.strict or (lost and self.embedding is not None):
                raise
            return format_error(error)
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
        settings = Settings(command.sparse, command.bwlimit, compression)
        self.seeding = seeding = Seeding(
            command, self.seed, source, destination, self.say, self.bar, settings, self.check
        )
        seeding.tracking = self.tracking
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

    def end_refused(self, environ: Mapping[str, str]) -> int:
        """Say how rsync would have ended, which has not met what the destination refuses. Returns that status, or 0."""
        last = ending(Status(self.refusal), self.command, environ) if self.refusal else b""
        if self.report is not None and last:
            self.report.last = last
        if self.embedding is None and last:
            write_error(last)
        return self.refusal

    def tell_losses(self) -> None:
        """Report the holes that rsync will fill, if any. Raises _EndedError if rsync must not."""
        handoff, seeding, command, seed = self.result.handoff, self.seeding, self.command, self.seed
        if handoff in (None, NOTHING_SPARSE, NO_SPARSE_FILES):
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
        if lost.files == 0 or seed.off or command.sparse or self.hopeless:
            return
        self.note(holes=lost.holes)
        if not certain and losses.refuses(command, self.environ):
            return
        line = lost.line(reason, dry_run=command.dry_run, certain=certain)
        if seed.required:
            raise _EndedError(Status.UNSUPPORTED, f"--seed-required is given, and {line}")
        self.warn(line)

    def touch(self) -> None:
        """Give what was seeded the time that rsync would have given it, without ``--times``."""
        if self.seeding is not None and self.result.seeded and not self.command.times:
            try:
                self.seeding.touch()
            except OSError as error:
                self.warn(f"what was seeded has kept the times of its source: {format_error(error)}")

    def heal(self) -> None:
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
        """Run steps 3 and 4. Returns why nothing was seeded, or why not all."""
        try:
            with tempfile.TemporaryFile() as listing, tempfile.TemporaryFile() as kept:
                unchanged = kept if seeding.healing.wanted else None
                status = self._ask(listing, unchanged)
                self.hopeless = self.login.doubtful or status in losses.HOPELESS
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
            return f"seeding has ended early: {format_error(error)}"

    def _ask(self, listing: IO[bytes], unchanged: IO[bytes] | None) -> int:
        """Have rsync list what it would transfer; returns its exit status. Raises _EndedError if it cannot be asked."""
        status, said = self.login.dry_run(listing, unchanged, self.spool)
        # What it says of troubles is said again by the real run, which meets the same.
        outside = self.strict or self.embedding is not None
        doubtful = not (outside or self.seed.required) and self.login.doubt(status, said)
        if self.command.remote is not None and status in NO_CONNECTION and not doubtful:
            lines = said.decode(errors="surrogateescape").splitlines()
            text = "".join(f"{printable_already(line)}\n" for line in lines)
            ((self.embedding and self.embedding.stderr) or write_error)(text.encode(errors="backslashreplace"))
            if outside:
                raise LinkError(f"rsync cannot tell what it would transfer (status {status})", self.command.remote.host)
            raise _EndedError(status, "rsync was asked what it would transfer, and could not; nothing was done")
        if status >= 0 and status != Status.SIGNAL:
            return status
        status = status if status > 0 else 128 - status
        raise _EndedError(status, f"rsync was killed twice when asked what it would transfer (status {status})")
