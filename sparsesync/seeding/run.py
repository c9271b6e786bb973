"""The wrapper: put sparse files in place, then let the user's own rsync run.

rsync reads, hashes and sends the holes of a sparse file as if they were data. But it
leaves a file alone whose size and modification time agree at both ends. So::

    1. understand the command line        nothing certain?  rsync does it all
    2. look for one sparse file           none?             rsync does it all
       (not on a pull); start an agent on the other host, if there is one
    3. ask rsync, by a dry run under exactly the user's filters and options,
       which files it would transfer
    4. seed the sparse ones among them: write the data to a temporary, give it
       the source's modification time, rename it to its place
    5. run the user's command unchanged: for what was seeded, rsync has only the
       attributes left to do

Seeding may never change the result. Where an option, a path or a file makes it uncertain
what rsync would do, that file, or the run, is left to rsync. So every shortcut here has the
form "if in doubt, leave it". What is left loses its holes, which is told (:mod:`losses`), and
with ``-v`` the reason for each file. What the destination refuses is kept from rsync, which
would read all of its holes to find out.

Below source and destination no symlink is followed that rsync would not follow. Memory does not
grow with the tree: what rsync answers in step 3 goes through a temporary file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, TYPE_CHECKING, Callable

from ..console.messages import as_bytes, complain, describe, tell
from ..console.progress import Bar, data_bar
from ..console.units import parse_size
from ..engine.errors import LinkError, LoginError, NoSpaceError, blame
from ..engine.files.claims import HOLES, looks_sparse
from ..engine.text import printable_already
from ..hosts.address import QUOTES_ARGUMENTS, check_python, remote_shell, why_not_plain
from ..hosts.transfer import Local, Settings, Transfer
from ..rsync import command as rsync
from ..rsync.listing import ask, listing_argv
from ..rsync.process import run_rsync, spooled
from . import losses
from .seeder import NOTHING_SPARSE, Seeded, Seeding, SeedOptions

if TYPE_CHECKING:
    from ..hosts.ssh import Agent

_NO_SPARSE_FILES = "there are no sparse files"
_FILE_IO = 11
_PARTIAL = 23
_LISTED = frozenset([0, 23, 24, 25])
_REFUSED = frozenset([1, 2, 3, 4, 5])
_TOO_LONG = 13
_SIGNALLED = 20
_NO_CONNECTION = frozenset([10, 12, 30, 35, 124, 125, 126, 127, 255])
_REQUIRED = 4
"""rsync(1), EXIT VALUES. With 23 to 25 some files could not be transferred, and what was listed still holds."""

OLDEST_RSYNC = (3, 1, 0)
"""The first with the --info and --out-format behaviour that the listing relies on."""


class RsyncTooOldError(RuntimeError):
    """The rsync on this machine is older than what seeding needs."""


@dataclass
class SyncResult:
    """What a run did. ``status`` is rsync's exit status; sizes are bytes."""

    status: int = 0
    seeded: list[Seeded] = field(default_factory=list)
    left: list[tuple[str, str]] = field(default_factory=list)
    """Sparse files that were left to rsync, each with the reason."""
    later: list[str] = field(default_factory=list)
    """Of a live source: sparse files in use that rsync was kept from; another run will bring what they lack."""
    handoff: str | None = None
    """Why nothing at all was seeded, or None."""
    refused: list[str] = field(default_factory=list)
    """Sparse files that the destination does not take; rsync was kept from reading all of their holes in vain."""
    holes: int = 0
    """What is lost with the files that were left: bytes of holes that rsync was to write as data, as far as known."""
    bytes: int = 0
    wire: int = 0
    """What the seeding of files sent and received over the network."""
    seconds: float = 0.0
    command: list[str] = field(default_factory=list)


def split_options(argv: Sequence[str]) -> tuple[SeedOptions, list[str]]:
    """Take the ``--seed-`` options out of a command line. Raises ValueError for one that is wrong."""
    off, min_hole, space_check, python, holes, required = False, 1, True, None, "auto", False
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *words]
        elif not word.startswith("--seed-"):
            rest.append(word)
            if rsync.takes_next(word):
                rest += islice(words, 1)
        elif word == "--seed-off":
            off = True
        elif word == "--seed-no-space-check":
            space_check = False
        elif word == "--seed-required":
            required = True
        elif name == "--seed-min-hole":
            if not equals:
                value = next(words, "")
            try:
                min_hole = max(1, parse_size(value))
            except ValueError as error:
                raise ValueError(f"--seed-min-hole: {error}") from None
        elif name == "--seed-python":
            python = value if equals else next(words, "")
            check_python(python)
        elif name == "--seed-holes":
            holes = value if equals else next(words, "")
            if holes not in HOLES:
                raise ValueError(f"--seed-holes: {holes!r} is none of {', '.join(HOLES)}")
        else:
            known = "--seed-off, --seed-required, --seed-min-hole=SIZE, --seed-holes=WORD, --seed-no-space-check"
            raise ValueError(f"{word}: unknown; there are {known}, --seed-python=PATH")
    if off and required:
        raise ValueError("--seed-off and --seed-required exclude each other")
    return SeedOptions(off, min_hole, space_check, python, holes=holes, required=required), rest


def sync(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    destination: str | os.PathLike[str],
    options: Sequence[str] = (),
) -> SyncResult:
    """Copy ``sources`` to ``destination`` as ``rsync OPTIONS SOURCES DESTINATION`` would, holes staying holes.

    ``options`` are rsync's, and the ``--seed-`` options of the command line. rsync's output goes where the
    caller's goes. rsync's failures are not raised: see the result's ``status``.

    Raises FileNotFoundError if there is no rsync, RsyncTooOldError, ValueError for a wrong ``--seed-``
    option, NoSpaceError before anything is written, LinkError if there is no logging in to the other host, or
    the connection breaks: then rsync has not run, and partial files are kept for the next run.
    """
    if isinstance(sources, (str, os.PathLike)):
        sources = [sources]
    seed, rest = split_options(options)
    return run([*rest, "--", *[os.fspath(source) for source in sources], os.fspath(destination)], seed)


def run(
    argv: Sequence[str],
    seed: SeedOptions,
    *,
    replace: bool = False,
    bar: Bar = data_bar,
    output: Callable[[bytes], object] | None = None,
    strict: bool = False,
) -> SyncResult:
    """Seed for the rsync arguments ``argv``, then run rsync with them. Raises as :func:`sync`.

    With ``replace`` a run in which nothing is seeded becomes rsync (it does not return). ``bar`` shows the seeding's
    progress. ``output`` is called with what rsync and we have to tell; without it that goes to standard output.
    ``strict``: a host that cannot be reached is a LinkError, and not left to rsync.
    """
    started = time.monotonic()
    command = rsync.parse(argv)

    def say(message: str) -> None:
        if command.verbose and not command.quiet:
            line = f"sparsesync: {message}"
            if output is not None:
                output(as_bytes(line))
                return
            with contextlib.suppress(OSError):  # rsync has the same standard output, and says what it thinks of it
                tell(line)

    state = _Run(command, seed, say, bar, strict)
    result = state.result
    with contextlib.ExitStack() as stack:
        try:
            result.handoff = state.seed_files(stack)
            if result.handoff:
                state.say(f"everything is left to rsync: {result.handoff}")
            state.tell_losses()
        except _EndedError as ended:
            complain(ended)
            result.status = ended.status
            return result
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        if replace and state.spool is None and state.agent is None and not (result.seeded or result.refused):
            with blame("rsync", instead=True):
                os.execvp("rsync", result.command)
        result.status = run_rsync(*state.shared(result.command), state.spool, output)
        result.status = result.status or state.refusal
        state.tell_filled()
        if result.seeded and state.seeding is not None and not command.times:
            state.seeding.touch()
        if state.agent is not None:
            result.wire = state.agent.link.sent + state.agent.link.received
    result.seconds = time.monotonic() - started
    return result


class _EndedError(Exception):
    """The run ends before rsync, with this exit status; the message says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Run:
    """One run, until rsync takes over."""

    def __init__(
        self, command: rsync.Command, seed: SeedOptions, say: Callable[[str], None], bar: Bar, strict: bool
    ) -> None:
        self.command = command
        self.seed = seed
        self.say = say
        self.bar = bar
        self.strict = strict
        self.result = SyncResult(command=["rsync", *command.argv])
        self.spool: IO[bytes] | None = None
        self.seeding: Seeding | None = None
        self.agent: Agent | None = None
        self.hopeless = False
        """rsync refuses the command, and will again."""
        self.refusal = 0
        """The exit status that rsync would have had for what the destination does not take."""

    def seed_files(self, stack: contextlib.ExitStack) -> str | None:
        """Steps 1 to 4; returns why nothing was seeded, or None.

        What has to stay open until rsync is done is left to ``stack``.
        """
        try:
            handoff = self._why_not()
            if handoff:
                return handoff
            transfer = self._transfer(stack)
        except (LoginError, FileNotFoundError):
            raise
        except (LinkError, OSError) as error:
            if self.strict:
                raise
            return describe(error)
        if self.command.spool_stdin:
            self.spool = stack.enter_context(spooled(sys.stdin.buffer))
        self.seeding = seeding = Seeding(self.command, self.seed, transfer, self.say, self.bar)
        stack.callback(seeding.close)
        handoff = self._ask_and_seed(seeding)
        result = self.result
        result.seeded, result.left = seeding.seeded, seeding.left
        deletes = any(option.name == "delete-excluded" for option in self.command.options)
        if not (self.command.sparse or deletes or self.command.dry_run):
            self._keep_from_rsync(seeding.refused, stack)
        result.bytes = sum(seeded.data for seeded in seeding.seeded)
        if self.seed.live is not None:
            result.later = sorted(self.seed.live(seeding.changing))
            result.command[1:1] = excluding(result.later, stack)
        return handoff

    def _keep_from_rsync(self, refused: dict[str, tuple[int, str]], stack: contextlib.ExitStack) -> None:
        # rsync would meet the same, after it has read all of their holes.
        for name, (code, reason) in refused.items():
            complain(f"{name}: {reason}")
            full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            self.refusal = _FILE_IO if full or self.refusal == _FILE_IO else _PARTIAL
        self.result.refused = list(refused)
        self.result.command[1:1] = excluding(self.result.refused, stack)

    def tell_losses(self) -> None:
        """Say which holes rsync will fill, if any. Raises _EndedError if it must not."""
        handoff, seeding, command, seed = self.result.handoff, self.seeding, self.command, self.seed
        if handoff in (None, NOTHING_SPARSE, _NO_SPARSE_FILES):
            kept = {*self.result.later, *self.result.refused}
            left = [(name, reason) for name, reason in seeding.left if name not in kept] if seeding else []
            lost = losses.Losses(len(left), sum(seeding.lost[name] for name, _ in left) if seeding else 0)
            certain, reason = True, f"{left[0][0]}: {left[0][1]}" if left else ""
        elif seeding is not None and seeding.planned.files:
            done = sum(seeded.size - seeded.data for seeded in seeding.seeded)
            left_files = seeding.planned.files - len(seeding.seeded)
            lost, certain, reason = losses.Losses(left_files, seeding.planned.holes - done), True, str(handoff)
        else:
            lost, certain, reason = losses.of_all(command, seed.holes, seed.min_hole), False, str(handoff)
        if lost.files == 0 or seed.off or command.sparse or self.hopeless:
            return
        self.result.holes = lost.holes
        line = lost.line(reason, dry_run=command.dry_run, certain=certain)
        if seed.required:
            raise _EndedError(_REQUIRED, f"--seed-required is given, and {line}")
        complain(line)

    def tell_filled(self) -> None:
        """Say which holes rsync has filled in what was seeded, if any."""
        if not self.result.seeded or self.seeding is None:
            return
        try:
            filled, first = self.seeding.filled()
        except LinkError as error:
            if self.result.status == 0:  # else rsync has said what is wrong
                complain(f"whether what was seeded has kept its holes is not known: {describe(error)}")
            return
        if filled.files:
            self.result.holes += filled.holes
            complain(filled.line_after(first))

    def _why_not(self) -> str | None:
        """Why there is nothing to seed, or nothing that may be; None if there may be something."""
        command, far = self.command, self.command.far
        if self.seed.off or command.handoff:
            return command.handoff if not self.seed.off else "--seed-off is given"
        handoff = _nothing_to_seed(command, self.seed) if far is None or far.push else None
        handoff = handoff or _no_temporary_directory()
        if handoff:
            return handoff
        version = _check_version()
        if far is None:
            return None
        return why_not_plain(
            far, _quotes(command, version), secluded=rsync.secludes(command), relative=command.relative
        )

    def _transfer(self, stack: contextlib.ExitStack) -> Transfer:
        """The two ends. Raises LinkError if there is no getting at the other host."""
        command, far = self.command, self.command.far
        settings = Settings(
            follow=command.links_followed,
            listed=command.relative or command.files_from is not None,
            sparse=command.sparse,
            bwlimit=command.bwlimit,
            compress=_compression(command) if command.compress else None,
            live=self.seed.live is not None,
            holes=self.seed.holes,
            preallocate=command.preallocate,
        )
        if far is None:
            transfer: Transfer = Local(settings)
        else:
            from ..hosts.ssh import Shell, connect
            from ..hosts.transfer_remote import Pull, Push

            shell = Shell(far.shell, far.prefix, self.seed.python)
            try:
                agent = stack.enter_context(
                    connect(far.host, shell, user=far.user, timeout=command.timeout, share=True)
                )
            except FileNotFoundError:
                raise LinkError(f"{far.shell[0]}: no such remote shell") from None
            self.agent = agent
            transfer = Push(agent, settings) if far.push else Pull(agent, settings)
        stack.callback(transfer.close)
        return transfer

    def _ask_and_seed(self, seeding: Seeding) -> str | None:
        """Steps 3 and 4. Returns why nothing was seeded, or why not all."""
        try:
            with tempfile.TemporaryFile() as listing:
                status = self._ask(listing)
                self.hopeless = status in _REFUSED
                if status not in _LISTED:
                    return f"its dry run ends with status {status}"
                return seeding.run(listing)
        except NoSpaceError:
            raise
        except (OSError, ValueError) as error:  # what is wrong with one file is told as that file's
            return f"seeding has ended early: {describe(error)}"

    def _ask(self, listing: IO[bytes]) -> int:
        """Have rsync list what it would transfer; returns its exit status. Raises _EndedError if it cannot be asked."""
        command, environ = self.shared(["rsync", *listing_argv(self.command)])
        status = 0
        for _ in range(2):
            # What it says of troubles is said again by the real run, which meets the same.
            status, said = ask(command, listing, self.spool, environ)
            if status == _TOO_LONG:
                short, _ = self.shared(["rsync", *listing_argv(self.command, with_sources=False)])
                status, said = ask(short, listing, self.spool, environ)
            if self.command.far is not None and status in _NO_CONNECTION:
                shown = map(printable_already, said.decode(errors="surrogateescape").splitlines())
                print(*shown, sep="\n", file=sys.stderr)
                raise _EndedError(status, "rsync was asked what it would transfer, and could not; nothing was done")
            if status >= 0 and status != _SIGNALLED:
                return status
        status = status if status > 0 else 128 - status
        raise _EndedError(status, f"rsync was killed twice when asked what it would transfer (status {status})")

    def shared(self, command: list[str]) -> tuple[list[str], dict[str, str]]:
        """The command and its environment, made to share the agent's connection."""
        environ = dict(os.environ)
        if self.agent is None or not self.agent.control:
            return command, environ
        rsh = self.command.value("rsh")
        through = " ".join([remote_shell(rsh), *self.agent.control])
        if rsh is None:
            environ["RSYNC_RSH"] = through
            return command, environ
        # Later options win, and options end at "--".
        end = command.index("--") if "--" in command else len(command)
        return [*command[:end], f"--rsh={through}", *command[end:]], environ


def excluding(names: Sequence[str], stack: contextlib.ExitStack) -> list[str]:
    """Options of rsync that leave out names of the transfer; a file that they need is gone with ``stack``."""
    from ..exclude import quoter

    quote = quoter(null=True)
    patterns = [quote("/" + name) for name in names]
    if len(patterns) < 50:
        return [f"--exclude={pattern}" for pattern in patterns]
    listed = stack.enter_context(tempfile.NamedTemporaryFile(prefix="sparsesync-"))
    listed.writelines(os.fsencode(pattern) + b"\n" for pattern in patterns if "\n" not in pattern)
    listed.flush()
    others = [f"--exclude={pattern}" for pattern in patterns if "\n" in pattern]
    return [*others, f"--exclude-from={listed.name}"]


def _no_temporary_directory() -> str | None:
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        return str(error.strerror)
    return None


def _quotes(command: rsync.Command, version: tuple[int, int, int]) -> bool:
    """Does rsync hand far paths on as they are?"""
    old = [option.name for option in command.options if option.name.endswith("old-args")][-1:] == ["old-args"]
    return version >= QUOTES_ARGUMENTS and not old and "RSYNC_OLD_ARGS" not in os.environ


def _compression(command: rsync.Command) -> tuple[str | None, int | None]:
    """(algorithm, level) as rsync was told them."""
    choice, level = command.value("compress-choice"), command.value("compress-level")
    known = {"zlib": "zlib", "zlibx": "zlib", "zstd": "zstd"}
    number = int(level) if level is not None and level.lstrip("+-").isdecimal() else None
    return (known.get(choice) if choice else None), number


def _check_version() -> tuple[int, int, int]:
    version = rsync.version()
    if version < OLDEST_RSYNC:
        found = ".".join(map(str, version))
        raise RsyncTooOldError(
            f"rsync {found} is too old, seeding needs 3.1 or newer: upgrade it, or run without seeding by --seed-off"
        )
    return version


def _nothing_to_seed(command: rsync.Command, seed: SeedOptions) -> str | None:
    """One scan, ended by the first sparse file."""
    if command.files_from or command.links_followed:
        return None  # rsync's answer is another one than the tree below the source
    troubles: list[OSError] = []
    for found in losses.below(command, seed.holes, troubles.append):
        # How much of a file is reserved is not known yet.
        if found.size - found.allocated >= seed.min_hole or not looks_sparse(found.st):
            return None
    return None if troubles else _NO_SPARSE_FILES
