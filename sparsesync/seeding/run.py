"""One run of ``sync``: put sparse files in place, then let the user's own rsync run.

rsync reads, hashes and sends the holes of a sparse file as if they were data. But it
leaves a file alone whose size and modification time agree at both ends. So::

    1. understand the command line        nothing certain?  rsync does it all
    2. look for one sparse file to bring  none?             rsync does it all
       (not on a pull)
    3. start an agent on the other host, if there is one; the login begins when
       the first sparse file is found
    4. ask rsync, by a dry run under exactly the user's filters and options,
       which files it would transfer
    5. seed the sparse ones among them: write the data to a temporary, give it
       the source's modification time, rename it to its place
    6. run the user's command unchanged: for what was seeded, rsync has only the
       attributes left to do
    7. have holes back where they were lost, now or some time ago (:mod:`healing`)

Most runs end with the second step, so what the others need (:mod:`steps`) is imported after it.

Seeding may never change the result. Where an option, a path or a file makes it uncertain what rsync would do, that
file, or the run, is left to rsync. So every shortcut here has the form "if in doubt, leave it". What is left loses its
holes for a while, which is told (:mod:`losses`), and with ``-v`` the reason for each file. What the destination refuses
is kept from rsync, which would read all of its holes to find out.

Below source and destination no symlink is followed that rsync would not follow. Memory does not
grow with the tree: what rsync answers in step 4 goes through a temporary file.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from ..console.messages import as_bytes, format_error, print_error
from ..console.progress import BarFactory, data_bar
from ..console.streams import flush_output
from ..engine.errors import LinkError
from ..rsync import command as rsync
from ..rsync.program import become
from ..rsync.verbosity import logging
from .options.own import SeedOptions
from .settled import NOTHING_TO_SEED, Looked, look

if TYPE_CHECKING:
    from ..embedding import Embedding
    from ..hosts.pool import Connections, HostPool
    from .login import Login
    from .result import SyncResult


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

    def speak(message: str) -> None:
        if embedding is not None:
            embedding.inform(message)
        elif seed.verbose and output is not None:
            output(as_bytes(f"sparsesync: {message}"))
        elif seed.verbose:
            print_error(message)

    say = logging(command, speak) if seed.verbose else speak
    # What takes it apart wants rsync's own.
    told_by_report = embedding is not None and output is None
    output = embedding.stdout if embedding and output is None else output
    if seed.engine is not None and command.remote is not None:
        raise ValueError("workers see both ends through a shared filesystem; neither can be host:path")
    if seed.check_other and seed.engine is None:
        raise ValueError("--seed-check=other is for --seed-workers")
    with contextlib.ExitStack() as stack:
        tracking = None
        if seed.track is not None:
            from .options.tracked import tracking as tracking_of

            tracking, command = tracking_of(seed.track, seed, command, environ, say, stack)
        if embedding is not None:
            _check_shell(command, environ)
        login: Login | None = None

        def dial() -> None:
            nonlocal login
            from .login import Login

            login = login or Login(command, hosts, embedding, logins)
            login.dial(seed.python, stack)

        try:
            looked = look(command, seed, environ, embedding.check if embedding else None, dial, _load_steps)
        except FileNotFoundError:
            raise
        except OSError as error:
            if strict:
                raise
            looked = Looked(format_error(error))
        if replace and seed.track is None and looked.why_not in NOTHING_TO_SEED:
            say(f"everything is left to rsync: {looked.why_not}")
            _become(command.argv)
        from .login import Login
        from .steps import SeededRun

        login = login or Login(command, hosts, embedding, logins)
        state = SeededRun(command, seed, say, bar, strict, login, embedding, tracking)
        if not state.until_rsync(looked, stack):
            return state.result
        login.hand_over()
        if replace and not (state.lasts or login.lasts or state.command is not command):
            _become(state.argv)
        state.run_rsync(output, told_by_report, stack)
        state.after_rsync()
        wire = login.wire()
    return state.note(wire=wire, seconds=time.monotonic() - started)


def _load_steps() -> None:
    from ..hosts import pool, sharing  # noqa: F401
    from . import login, seeder, steps  # noqa: F401


def _check_shell(command: rsync.Command, environ: Mapping[str, str]) -> None:
    """Raise LinkError if the remote shell is missing, of which rsync says no more than "IPC"."""
    import shutil

    remote = command.remote
    if remote is not None and shutil.which(remote.shell[0], path=environ.get("PATH", os.defpath)) is None:
        raise LinkError(f"{remote.shell[0]}: no such remote shell", remote.host, retryable=False)


def _become(argv: Sequence[str]) -> NoReturn:
    flush_output()
    become(argv)
