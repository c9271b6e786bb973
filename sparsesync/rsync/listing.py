r"""What rsync says it would transfer, and which files those are.

Nobody knows but rsync, with its filters and its quick check. So it is asked (:func:`dry_run`): a dry run
of the user's own options, rebuilt one by one without those that change what is printed, plus a format of our own::

    >f+++++++++ 107374182400 docker/data//var/lib/docker/data
    what (%i)   size (%l)    name (%n)  //  source (%f)

and behind a mark that no name has, where the user's own options make rsync print a line for each file, that line
(:mod:`verbosity`; :mod:`report` needs it).

rsync prints unprintable bytes as ``\#ooo``, in the format as well as in names, so no control character can separate
the two names. But it prints both of them cleaned: neither ever holds ``//``, a file's name does not end with ``/``, and
%f has lost its leading one. A line in which ``//`` is not found exactly once is passed over. Where both names together
pass 5000 bytes rsync gives up, with status 13: then it is asked again without %f.

**What would it leave as it is?** With ``-ii`` rsync lists what is unchanged, too, which takes 0.4 s for 300,000 files.
These lines are kept apart as they come (:func:`_sort`), and only those of files that are large enough: ``.f`` is a file
that is there, ``hf`` and ``cf`` are one that is going to be a link to what ``--link-dest`` has, or a copy of it.

**Which file is that?** %f is the source argument and the path beneath it, less a leading ``/``: ``etc/x`` may be /etc/x
or ./etc/x. ``source_path`` finds the source argument it begins with, and says None where two kinds of them fit. With
--files-from, %f is relative to the one source directory. From another host, or without %f, the name of the transfer has
to say it (:func:`~.paths.pulled_from`).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import os
import re
import select
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, Protocol

from ..embedding import WAIT_SECONDS, Embedding
from .command import Command, end_of_options
from .paths import pulled_from
from .process import attend, end, ends_with_us, run_rsync
from .program import Status, environment, program, shown_status
from .verbosity import shown

LISTED = frozenset([Status.OK, Status.PARTIAL, Status.VANISHED, Status.MAX_DELETE])
"""What a dry run may end with: some files could not be transferred, and what was listed still holds."""


class Listed(NamedTuple):
    """A file or directory in rsync's answer."""

    itemize: bytes
    size: int
    printed: bytes
    """%n, with rsync's escapes; a directory's ends with a slash."""
    source: bytes
    """%f; see source_path()."""
    lines: tuple[bytes, ...]
    """What the user's formats make of it."""

    @property
    def name(self) -> bytes:
        """Beneath the destination: never with a leading slash, though -R may show one."""
        return unescape(self.printed).lstrip(b"/")


class Hearer(Protocol):
    """Somebody who hears what rsync lists while it does."""

    def begin(self) -> None:
        """Forget what was heard: rsync begins, perhaps once more."""

    def hear(self, lines: Iterable[bytes]) -> None:
        """Hear some lines, in their order."""


MARK = f"sparsesync-{os.urandom(6).hex()}:"
"""What stands before a line in the user's format. Names that are transferred were given before it was made up."""

# What the dry run is asked with; parse_all() reads it.
_FORMAT = "--out-format=%i %l %n//%f"
_FORMAT_WITHOUT_SOURCES = "--out-format=%i %l %n//"
_PIECE = 1 << 20
_HEARD_BYTES = 32 * 1024
"""Of lines that are heard at a time: some hundred."""
_PIPE_BYTES = 1 << 20
"""What rsync may have said and is not heard yet, so that it goes on meanwhile."""
_SETPIPE_SZ = 1031
"""F_SETPIPE_SZ: fcntl(2)."""
_MAX_SAID_BYTES = 1 << 20
"""Of more, the end: why rsync ended."""
# The name of a directory ends with a slash.
_LINE = re.compile(rb"([<>ch.][fdLDS].{9}) ([0-9]+) (.+?)//(?!/)(.*)", re.DOTALL)
_LARGE_UNCHANGED = re.compile(rb"[.hc]f.{9} [0-9]{5,} ", re.DOTALL)
"""Of at least 10,000 bytes: a hole in less is hardly one."""
_NOTHING_CHANGED = re.compile(rb"\.[^d] {9} ")
"""Without -ii there is no such line. What is said of directories is kept, since there are few."""
_ESCAPE = re.compile(rb"\\#([0-3][0-7][0-7])")

# They change what is printed, or write a log. All of them are as good as absent in a dry run.
_SILENCED = frozenset(
    "quiet verbose progress stats itemize-changes out-format log-file log-file-format msgs2stderr".split()
)
# A value of these may be one that rsync refuses (or --info=help, which prints and exits). So they stay, that the dry
# run fails as the run itself would, and are then overruled.
_OVERRULED = {"debug": "--debug=all0", "stderr": "--stderr=errors"}


def listing_argv(command: Command, with_sources: bool = True) -> list[str]:
    """Return the arguments of the dry run that lists what rsync would transfer.

    ``with_sources``: also list where that is.
    """
    told = shown(command)
    asked: list[str] = []
    for option in command.options:
        if option.name == "P":
            asked.append("--partial")
        elif option.name.replace("no-", "", 1) not in _SILENCED:
            asked += option.tokens
    asked += (overruling for name, overruling in _OVERRULED.items() if command.value(name) is not None)
    words = ["name2" if told.unchanged else "name1", *(["stats2"] if told.stats > 1 or told.progress else [])]
    if command.value("info") is not None:
        words.insert(0, "all0")
    if command.value("info") is not None or words != ["name1"]:
        asked.append(f"--info={','.join(words)}")
    how = _FORMAT if with_sources else _FORMAT_WITHOUT_SOURCES
    how += "".join(MARK + form for form in (told.lines, told.logged) if form is not None)
    asked += ["--dry-run", how, "--", *command.sources]
    return asked if command.destination is None else [*asked, command.destination]


def dry_run(
    command: Command,
    listing: IO[bytes],
    unchanged: IO[bytes] | None = None,
    *,
    options: Sequence[str] = (),
    destination: str | None = None,
    stdin: IO[bytes] | None = None,
    environ: Mapping[str, str] | None = None,
    embedding: Embedding | None = None,
    hearer: Hearer | None = None,
) -> tuple[int, bytes]:
    """Have rsync write what it would transfer into ``listing``. Returns its exit status and its error messages.

    ``options``: more of rsync's.
    ``destination``: replaces the command's.
    ``stdin``: read from its start.
    ``unchanged``: gets the files of at least 10,000 bytes whose content rsync would leave as it is.
    ``hearer``: hears the lines of ``listing`` as they come. What it raises ends rsync.

    An rsync that is killed is run once more. A negative status is the signal that killed it, as in subprocess.

    Raises OSError if the listing cannot be written. On a full disk rsync itself would write a part and exit with 0.
    """
    status, said = 0, b""
    for _ in range(2):
        for with_sources in (True, False):
            argv = with_options(
                listing_argv(command, with_sources), options if unchanged is None else [*options, "-ii"]
            )
            if destination is not None:
                argv[-1] = destination
            status, said = _ask(argv, listing, unchanged, stdin, environ, embedding, hearer)
            if status != Status.DIAGNOSTICS:
                break
        if status >= 0 and status != Status.SIGNAL:
            break
    return status, said


def with_options(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """Return the arguments of rsync with more options, which override the earlier ones."""
    end = end_of_options(argv)
    return [*argv[:end], *options, *argv[end:]]


def run_refused(argv: Sequence[str]) -> int:
    """Run rsync with a remote shell that cannot log in and says so, and return its exit status."""
    # It ends when rsync has begun to speak, as ssh does. Its output ends later, when rsync has got its status.
    shell = f'sh -c "head -c 4 >/dev/null; sleep 0.1 & exit {int(Status.SSH)}"'
    return shown_status(run_rsync(["rsync", *with_options(argv, [f"--rsh={shell}"])], os.environ, None, None))


def _ask(
    argv: list[str],
    listing: IO[bytes],
    unchanged: IO[bytes] | None,
    stdin: IO[bytes] | None,
    environ: Mapping[str, str] | None,
    embedding: Embedding | None,
    hearer: Hearer | None,
) -> tuple[int, bytes]:
    environ = os.environ if environ is None else environ
    for file in filter(None, (listing, unchanged)):
        file.seek(0)
        file.truncate()
    if stdin is not None:
        stdin.seek(0)
    with tempfile.TemporaryFile() as said:
        reads = stdin if stdin is not None else subprocess.DEVNULL
        process = subprocess.Popen(
            [program(environ), *argv],
            env=environment(environ),
            stdin=reads,
            stdout=subprocess.PIPE,
            stderr=said,
            cwd=embedding.directory if embedding else None,
        )
        assert process.stdout is not None
        try:
            with process.stdout as stream:
                if embedding is not None:
                    stream = io.BufferedReader(_Watched(stream.fileno(), embedding))
                cut = not _sort(stream, listing, unchanged, hearer)
            listing.flush()
            status = attend(process, [], None if embedding is None else embedding.check)
            if status in LISTED and cut:
                status = Status.SIGNAL
        except BaseException:
            end(process)
            raise
        said.seek(max(0, said.seek(0, os.SEEK_END) - _MAX_SAID_BYTES))
        listing.seek(0)
        return status, said.read()


class _Watched(io.RawIOBase):
    """A pipe whose reader looks, while it waits, whether anybody still wants what comes out of it."""

    def __init__(self, pipe: int, embedding: Embedding) -> None:
        self._pipe = pipe
        self._check = embedding.check
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._check()
        while not self._poll.poll(1000 * WAIT_SECONDS):
            self._check()
        return os.readv(self._pipe, [buffer])


def _sort(stream: IO[bytes], listing: IO[bytes], unchanged: IO[bytes] | None, hearer: Hearer | None) -> bool:
    """Write rsync's lines to where they belong. False if the last line lacks its end: rsync never got to write it."""
    last = b"\n"
    if hearer is not None:
        ends_with_us()  # of the rsync that is run next
        hearer.begin()
        with contextlib.suppress(OSError):  # a user has so much for all pipes
            fcntl.fcntl(stream.fileno(), _SETPIPE_SZ, _PIPE_BYTES)
    # In large pieces: mostly rsync has ended before one of them cannot be written, and need not be killed.
    piece = _PIECE if hearer is None else _HEARD_BYTES
    for lines in iter(lambda: stream.readlines(piece), []):
        last = lines[-1]
        if unchanged is not None:
            unchanged.writelines(filter(_LARGE_UNCHANGED.match, lines))
            lines = [line for line in lines if not _NOTHING_CHANGED.match(line)]
        listing.writelines(lines)
        if hearer is not None:
            hearer.hear(lines)
    return last.endswith(b"\n")


def parse_listing(stream: Iterable[bytes]) -> Iterator[Listed]:
    """Yield the regular files that rsync would transfer, by its output for ``listing_argv``."""
    return _files(stream, b"<>")


def parse_unchanged(stream: IO[bytes]) -> Iterator[Listed]:
    """Yield the regular files that rsync would leave as they are, from :func:`dry_run`'s ``unchanged``."""
    return _files(stream, b".hc")


def _files(stream: Iterable[bytes], what: bytes) -> Iterator[Listed]:
    for entry in parse_all(stream):
        if isinstance(entry, Listed) and entry.itemize[:1] in what and entry.itemize[1:2] == b"f":
            yield entry


def parse_all(stream: Iterable[bytes]) -> Iterator[Listed | bytes]:
    """Yield each file in rsync's output for ``listing_argv``, and any other line unchanged."""
    mark = MARK.encode()
    for line in stream:
        # A last line cut short, by a dying rsync, has no newline.
        if not line.endswith(b"\n"):
            continue
        head, *lines = line[:-1].split(mark)
        match = _LINE.fullmatch(head)
        if match is None:
            yield line
        elif b"//" not in match[4]:
            yield Listed(match[1], int(match[2]), match[3], unescape(match[4]), tuple(lines))


def unescape(name: bytes) -> bytes:
    """Return rsync's output without its escapes."""
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), name)


def source_path(command: Command, listed: Listed) -> str | None:
    """Return the path of the listed file, or None if that is uncertain.

    The path is absolute or relative: to the current directory, or on a pull to the remote home.
    """
    shown = os.fsdecode(listed.source)
    if not shown or (command.remote is not None and not command.remote.push):
        name, from_list = os.fsdecode(listed.name), command.files_from is not None
        paths = command.remote.paths if command.remote is not None and not command.remote.push else command.sources
        return pulled_from(paths, name, relative=command.relative, files_from=from_list)
    if command.files_from is not None:
        return os.path.join(command.sources[0], shown) if len(command.sources) == 1 else None
    found = set()
    for source in command.sources:
        beginning = _beginning(source)
        if not beginning or shown == beginning or shown.startswith(beginning + "/"):
            found.add("/" + shown if source.startswith("/") else shown)
    return found.pop() if len(found) == 1 else None


@functools.lru_cache  # each file that is listed may be of each source
def _beginning(source: str) -> str:
    return "/".join(part for part in source.split("/") if part not in ("", "."))
