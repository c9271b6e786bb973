"""A migration in somebody else's program. What is the caller's stays the caller's: :mod:`~...seeding.embedded`.

The worst end of a final pass is a host whose services are stopped. So whatever ends it early, a deadline or an
exception in the caller's thread too, ``on_failure`` runs before that is raised, over a new connection if need be, and
nothing interrupts it. What became of it is in the exception, if that is ours, and is told otherwise.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Callable

from ...console.lines import Output, recipient
from ...console.messages import as_bytes
from ...console.streams import write_output
from ...engine.queries.presets import checked_presets
from ...hosts.address import check_python, split_shell
from ...hosts.base import PathLike, Rsh, several
from ...rsync import command as rsync
from ...rsync.program import program
from ...seeding.embedded import Caller, Done, asks
from ...seeding.options.call import as_word, option_words, read_from
from ..request import Request
from ..run import Migration
from ..text import lines_of
from .result import MigrationCancelledError, MigrationError, MigrationResult, MigrationTimeoutError, clauses

if TYPE_CHECKING:
    import threading


def migrate(
    sources: PathLike | Iterable[PathLike],
    destination: PathLike,
    options: str | Sequence[str],
    exclude_from: PathLike | Iterable[PathLike],
    request: Request,
    *,
    output: Output | None,
    progress: Callable[[Done], object] | None,
    timeout: float | None,
    cancel: threading.Event | Callable[[], object] | None,
    check: bool,
    rsh: Rsh,
    env: Mapping[str, str] | None,
    cwd: PathLike | None,
) -> MigrationResult:
    """Migrate, as :func:`sparsesync.api.migrations.migrate`. ``request``: all else that is asked for."""
    deadline = None if timeout is None else time.monotonic() + timeout
    environ = dict(os.environ if env is None else env)
    directory = None if cwd is None else os.path.abspath(os.fsdecode(cwd))
    request = _completed(request, sources, destination, options, exclude_from, rsh, directory)
    program(environ)
    lines = None if output is None else recipient(output)
    caller: Caller[None] = Caller(lines, progress, asks(cancel), deadline, keeps_tail=True)
    verbose = rsync.parse([*request.options, "--", "a", "b"], environ).verbose > 0
    embedding = caller.embedding(environ, directory, verbose)

    def say(kind: str, value: object) -> None:
        for line in lines_of(kind, value):
            if embedding.stdout is not None:
                embedding.stdout(as_bytes(line))
            elif line:
                embedding.inform(line)

    migration = Migration(request, say, embedding.stdout or write_output, caller.whole, True, embedding)
    failure: MigrationError | None = None
    try:
        caller.attend(
            migration.run,
            lambda: MigrationTimeoutError(["sparsesync", "migrate"], timeout or 0.0, None, caller.tail()),
            lambda: MigrationCancelledError(""),
        )
    except MigrationError as error:
        failure = error
    except (MigrationTimeoutError, MigrationCancelledError) as error:
        error.result, error.told = _result(migration), clauses(migration.told)
        raise
    except BaseException:
        if migration.told:
            caller.say_last(f"the final pass was ended early{clauses(migration.told)}")
        raise
    result = _result(migration)
    if failure is not None and check:
        raise MigrationError(failure.status, str(failure), result)
    return result


def _completed(
    request: Request,
    sources: PathLike | Iterable[PathLike],
    destination: PathLike,
    options: str | Sequence[str],
    exclude_from: PathLike | Iterable[PathLike],
    rsh: Rsh,
    directory: str | None,
) -> Request:
    """Return a request with paths and options as the command would have them. Raises ValueError, TypeError."""
    paths, words = several(sources), option_words(options)
    if not paths:
        raise ValueError("there is no source")
    if request.python is not None:
        check_python(request.python)
    if request.preset not in (None, "none"):
        checked_presets(str(request.preset))
    shell = rsh if rsh is None or isinstance(rsh, str) else shlex.join(rsh)
    if shell is not None:
        split_shell(shell)
    return replace(
        request,
        sources=tuple(as_word(path, directory) for path in paths),
        destination=as_word(destination, directory),
        options=tuple(words if directory is None else read_from(words, directory)),
        exclude_from=tuple(os.path.join(directory or "", os.fsdecode(path)) for path in several(exclude_from)),
        rsh=shell,
        track=None if request.track is None else os.path.join(directory or "", request.track),
    )


def _result(migration: Migration) -> MigrationResult:
    report = migration.report
    return MigrationResult(
        int(report["status"] or 0),
        report["failure"],
        tuple((each["level"], each["subject"], each["text"]) for each in report.get("findings", ())),
        migration.synced,
        tuple((name, what) for name, what in report.get("verified", {}).get("differences", ())),
        report.get("downtime"),
        report["seconds"],
        json.dumps(report),
    )
