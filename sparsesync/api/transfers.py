"""What runs rsync."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Mapping, Sequence
    from concurrent.futures import Executor
    from typing import Callable

    from ..console.lines import Output
    from ..hosts.base import PathLike, Rsh
    from ..seeding.embedded import Done
    from ..seeding.result import SyncResult


def sync(
    sources: PathLike | Iterable[PathLike],
    destination: PathLike,
    options: str | Sequence[str] = (),
    *,
    output: Output | None = None,
    progress: Callable[[Done], object] | None = None,
    timeout: float | None = None,
    cancel: threading.Event | Callable[[], object] | None = None,
    check: bool = False,
    rsh: Rsh = None,
    python: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: PathLike | None = None,
    executor: Executor | None = None,
) -> SyncResult:
    """Copy ``sources`` to ``destination`` as ``rsync OPTIONS SOURCES DESTINATION`` would, holes staying holes.

    A failure of rsync is not raised, unless ``check`` is set, but is in the result's ``status``. No handler of a signal
    is installed. Whatever is raised, also by a handler of the caller's, rsync and the remote shells have ended then.

    ``sources``: a path or several. Either they or ``destination`` may be ``host:path``. To rsync "dir" and "dir/"
    differ. An ``os.PathLike`` has no slash at its end: give a ``str`` to copy the contents of a directory.
    ``options``: rsync's, and the ``--seed-`` options of the command line. A str is one option.
    ``output``: called with "stdout" or "stderr" and each line, without its end; or a file, of text or bytes, which gets
    the lines of both. By default rsync's lines go to descriptors 1 and 2, and what sparsesync has to say goes to the
    logger "sparsesync": warnings, and at level INFO what becomes of each file. With ``output`` all lines go there.
    ``progress``: called with the bytes of data of sparse files that were put in place since the last call, an int with
    an attribute ``total``, which is how many there are in all.
    ``timeout``: seconds for all of it.
    ``cancel``: an Event, or a function that returns whether to end. It is asked ten times a second.
    ``check``: raise RsyncError if rsync's status is not 0.
    ``rsh``, ``python``: see :mod:`sparsesync.api`.
    ``env``: the environment of rsync and the remote shell, by default os.environ.
    ``cwd``: the directory where relative paths start, by default the current one.
    ``executor``: has its workers copy the content of sparse files, as :func:`copyfile` has them copy; on one machine.

    ``output``, ``progress`` and ``cancel`` are called in the calling thread. What they raise ends the run, too.

    Raises FileNotFoundError if rsync is not installed, RsyncTooOldError if it is older than 3.1, NoSpaceError before
    anything is written, ValueError for a wrong ``--seed-`` option or without a source, TypeError, LinkError if the
    other host cannot be logged in to, its shell is missing, or the connection breaks, and if the workers are gone.
    After a LinkError rsync has copied nothing, and partial files are kept for the next run. SyncTimeoutError, a
    subprocess.TimeoutExpired, and SyncCancelledError are raised once all that was started has ended. What was received
    for a sparse file is kept then, too. RsyncError is a subprocess.CalledProcessError.
    """
    from ..seeding import embedded

    return embedded.sync(
        sources, destination, options, output=output, progress=progress, timeout=timeout, cancel=cancel, check=check,
        rsh=rsh, python=python, env=env, cwd=cwd, executor=executor,
    )  # fmt: skip
