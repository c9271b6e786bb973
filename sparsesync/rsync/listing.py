"""What rsync says it would transfer, and which files those are.

Nobody knows but rsync, with its filters and its quick check. So it is asked (:func:`dry_run`): a dry run
of the user's own options, rebuilt one by one without those that change what is printed, plus a format of our own::

    >f+++++++++ 107374182400 docker/data//var/lib/docker/data
    what (%i)   size (%l)    name (%n)  //  source (%f)

rsync prints unprintable bytes as ``\\#ooo``, in the format as well as in names, so no control character can separate
the two names. But it prints both of them cleaned: neither ever holds ``//``, a file's name does not end with ``/``, and
%f has lost its leading one. A line in which ``//`` is not found exactly once is passed over. Where both names together
pass 5000 bytes rsync gives up, with status 13: then it is asked again without %f.

**Which file is that?** %f is the source argument and the path beneath it, less a leading ``/``: ``etc/x`` may be /etc/x
or ./etc/x. ``source_path`` finds the source argument it begins with, and says None where two kinds of them fit. With
--files-from, %f is relative to the one source directory. From another host, or without %f, the name of the transfer has
to say it (:func:`~.paths.pulled_from`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple

from .command import Command, end_of_options
from .paths import pulled_from
from .process import LISTED, Status, run_rsync
from .program import environment, program


class Listed(NamedTuple):
    """A regular file that rsync would transfer."""

    itemize: bytes
    size: int
    name: bytes
    """Beneath the destination (%n): never with a leading slash, though -R may show one."""
    source: bytes
    """%f; see source_path()."""


# What the dry run is asked with; parse_listing() reads it.
_FORMAT = "--out-format=%i %l %n//%f"
_FORMAT_WITHOUT_SOURCES = "--out-format=%i %l %n//"
_PIECE = 1 << 20
_LONGEST_SAID = 8192
_LINE = re.compile(rb"([<>]f.{9}) ([0-9]+) (.+)", re.DOTALL)
_ESCAPE = re.compile(rb"\\#([0-3][0-7][0-7])")

# They change what is printed, or write a log. All of them are as good as absent in a dry run.
_SILENCED = frozenset(
    "quiet verbose progress stats itemize-changes human-readable out-format log-file".split()
    + ["log-file-format", "msgs2stderr"]
)
# A value of these may be one that rsync refuses (or --info=help, which prints and exits). So they stay, that the dry
# run fails as the run itself would, and are then overruled.
_OVERRULED = {"info": "--info=all0,name1", "debug": "--debug=all0", "stderr": "--stderr=errors"}


def listing_argv(command: Command, with_sources: bool = True) -> list[str]:
    """The arguments of the dry run that asks rsync what it would transfer; ``with_sources``: and where that is."""
    asked: list[str] = []
    for option in command.options:
        if option.name == "P":
            asked.append("--partial")
        elif option.name.replace("no-", "", 1) not in _SILENCED:
            asked += option.tokens
    asked += (overruling for name, overruling in _OVERRULED.items() if command.value(name) is not None)
    how = _FORMAT if with_sources else _FORMAT_WITHOUT_SOURCES
    asked += ["--dry-run", how, "--", *command.sources]
    return asked if command.destination is None else [*asked, command.destination]


def dry_run(
    command: Command,
    listing: IO[bytes],
    *,
    options: Sequence[str] = (),
    destination: str | None = None,
    stdin: IO[bytes] | None = None,
    environ: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Have rsync list, into ``listing``, what it would transfer; return its exit status and what it says of troubles.

    ``options`` are more of rsync's, ``destination`` another than the command's. ``stdin`` is read from its start. An
    rsync that is killed is asked once more. A negative status is the signal that killed it, as subprocess has it.

    Raises OSError if the listing cannot be written: rsync itself, on a full disk, writes what fits and ends well.
    """
    status, said = 0, b""
    for _ in range(2):
        for with_sources in (True, False):
            argv = with_options(listing_argv(command, with_sources), options)
            if destination is not None:
                argv[-1] = destination
            status, said = _ask(argv, listing, stdin, environ)
            if status != Status.DIAGNOSTICS:
                break
        if status >= 0 and status != Status.SIGNAL:
            break
    return status, said


def with_options(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the arguments of rsync with more options, which win over the earlier ones."""
    end = end_of_options(argv)
    return [*argv[:end], *options, *argv[end:]]


def run_refused(argv: Sequence[str]) -> int:
    """Have rsync meet a remote shell that cannot log in, and say so; returns its exit status."""
    # It ends when rsync has begun to speak, as ssh does. Its output ends later, when rsync has got its status.
    shell = f'sh -c "head -c 4 >/dev/null; sleep 0.1 & exit {int(Status.SSH)}"'
    return run_rsync(["rsync", *with_options(argv, [f"--rsh={shell}"])], dict(os.environ), None, None)


def _ask(
    argv: list[str], listing: IO[bytes], stdin: IO[bytes] | None, environ: Mapping[str, str] | None
) -> tuple[int, bytes]:
    listing.seek(0)
    listing.truncate()
    if stdin is not None:
        stdin.seek(0)
    with tempfile.TemporaryFile() as said:
        reads = stdin if stdin is not None else subprocess.DEVNULL
        process = subprocess.Popen(
            [program(), *argv],
            env=environment(os.environ if environ is None else environ),
            stdin=reads,
            stdout=subprocess.PIPE,
            stderr=said,
        )
        assert process.stdout is not None
        try:
            with process.stdout:
                shutil.copyfileobj(process.stdout, listing, _PIECE)
            listing.flush()
            status = process.wait()
            if status in LISTED and _is_cut(listing):
                status = Status.SIGNAL
        except BaseException:
            process.kill()
            process.wait()
            raise
        said.seek(0)
        listing.seek(0)
        return status, said.read(_LONGEST_SAID)


def _is_cut(listing: IO[bytes]) -> bool:
    """Whether the last line lacks its end: rsync never got to write it."""
    size = listing.tell()
    if not size:
        return False
    listing.seek(size - 1)
    return listing.read(1) != b"\n"


def parse_listing(stream: IO[bytes]) -> Iterator[Listed]:
    """The regular files that rsync's answer to ``listing_argv`` names, one at a time."""
    for line in stream:
        # A last line cut short, by a dying rsync, has no newline.
        match = _LINE.fullmatch(line[:-1]) if line.endswith(b"\n") else None
        if match and match[3].count(b"//") == 1:
            name, source = match[3].split(b"//")
            yield Listed(match[1], int(match[2]), unescape(name).lstrip(b"/"), unescape(source))


def unescape(name: bytes) -> bytes:
    """Return what rsync printed without its escapes."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), name)


def source_path(command: Command, listed: Listed) -> str | None:
    """Where the listed file is: absolute, or relative to the current directory, on a pull to the remote home.

    None if that is not certain.
    """
    shown = os.fsdecode(listed.source)
    if not shown or (command.far is not None and not command.far.push):
        name, from_list = os.fsdecode(listed.name), command.files_from is not None
        paths = command.far.paths if command.far is not None and not command.far.push else command.sources
        return pulled_from(paths, name, relative=command.relative, files_from=from_list)
    if command.files_from is not None:
        return os.path.join(command.sources[0], shown) if len(command.sources) == 1 else None
    found = set()
    for source in command.sources:
        beginning = "/".join(part for part in source.split("/") if part not in ("", "."))
        if not beginning or shown == beginning or shown.startswith(beginning + "/"):
            found.add("/" + shown if source.startswith("/") else shown)
    return found.pop() if len(found) == 1 else None
