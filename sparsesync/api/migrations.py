"""What moves a machine's data. :mod:`sparsesync.api` says what the parameters of all functions mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Callable, Literal

    from ..console.lines import Output
    from ..hosts.base import PathLike, Rsh
    from ..migration.called.result import MigrationResult
    from ..seeding.embedded import Done


def migrate(
    sources: PathLike | Iterable[PathLike],
    destination: PathLike,
    options: str | Sequence[str] = (),
    *,
    check_only: bool = False,
    dry_run: bool = False,
    final: bool = False,
    before: str | None = None,
    before_dest: str | None = None,
    after: str | None = None,
    after_dest: str | None = None,
    on_failure: str | None = None,
    on_failure_dest: str | None = None,
    allow_live: bool = False,
    track: PathLike | None = None,
    verify: bool | Literal["full"] = False,
    preset: str | None = None,
    exclude_from: PathLike | Iterable[PathLike] = (),
    exclude_sparse: bool = False,
    skip_docker_loop: bool = False,
    remote_prefix: str = "",
    streams: int = 1,
    output: Output | None = None,
    progress: Callable[[Done], object] | None = None,
    timeout: float | None = None,
    cancel: threading.Event | Callable[[], object] | None = None,
    check: bool = False,
    rsh: Rsh = None,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: PathLike | None = None,
) -> MigrationResult:
    """Move a machine's data as the command ``migrate`` does, and say what came of it.

    What fails is not raised, unless ``check`` is set, but is in the result: its ``status``, ``failure`` and
    ``findings``.

    The parameters have the names of the command's options, but ``check_only`` is its ``--check``. ``options`` are
    rsync's, and what stands behind ``--`` there. The six commands are for the final pass, each a line for ``sh -c``.
    ``track``: a directory for clones, on the filesystem of the sources and beside them. A pass reads and sends of a
    sparse file what changed since the last one.
    ``verify``: True compares content by digest, "full" reads the holes too.
    ``preset``: names with commas between them; None takes what suits each source.
    ``exclude_from``: a file with rsync's patterns, or several.
    ``streams``: how many connections carry the content of sparse files, as of :func:`~.copying.copyfile`.
    ``progress``: called with the bytes of data done since the last call, by rsync and in the proof too, as far as it
    tells; ``total`` is an estimate.
    ``timeout``, ``cancel``: as of :func:`~.transfers.sync`. A question to this machine is answered to its end first.
    ``check``: raise MigrationError if ``status`` is not 0.
    ``output``, ``rsh``, ``python``, ``env``, ``cwd``: as of :func:`~.transfers.sync`. ``env`` and ``cwd`` are those of
    the commands on this machine, too.

    **Whatever ends the final pass early, on_failure_dest and on_failure run first**: a deadline, ``cancel``, and what
    ``output``, ``progress`` or a handler of a signal raises. They are waited for, however long they take, and the
    exception is raised after that.

    Raises ValueError for what does not go together, TypeError, FileNotFoundError if rsync is not installed, and
    LinkError if the other host cannot be logged in to. A connection that is lost during the pass is a failure. A
    SyncTimeoutError and a SyncCancelledError have the ``result`` so far, and say what became of on_failure.
    """
    import os

    from ..hosts.transfer import checked_streams
    from ..migration.called import call
    from ..migration.request import Commands, Request

    request = Request(
        (), "", preset=preset, exclude_sparse=exclude_sparse, skip_docker_loop=skip_docker_loop, check=check_only,
        dry_run=dry_run, final=final, verify=bool(verify), verify_full=verify == "full", allow_live=allow_live,
        commands=Commands(before, after, on_failure, before_dest, after_dest, on_failure_dest), python=python,
        remote_prefix=remote_prefix, track=None if track is None else os.fsdecode(track),
        streams=checked_streams(streams),
    )  # fmt: skip
    return call.migrate(
        sources, destination, options, exclude_from, request, output=output, progress=progress, timeout=timeout,
        cancel=cancel, check=check, rsh=rsh, env=env, cwd=cwd,
    )  # fmt: skip
