"""What rsync would have said of the files that were put in place before it ran.

rsync has nothing to transfer for a seeded file, and says nothing of it, or only that its mode has changed. But the dry
run, which was asked before, has told the line that rsync would have printed, in the format of the user's own options
(:mod:`listing`). So :class:`Report` reads what rsync prints, line by line, and passes it on::

    the line of a seeded file, or of a directory above one    dropped: its line is that of the dry run
    the line of another file                                  as it is
    totals (--stats)                                          with the seeded files in them
    progress                                                  with the seeded files in it
    anything else                                             as it is

A line of a file is known by the mark in the format that rsync is run with, and by the name behind the mark. Nothing
else of rsync's output is touched. The log file (``--log-file``) is treated likewise: rsync gets a pipe for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import IO, Callable

from .command import Command
from .listing import MARK, parse_all, unescape
from .verbosity import Shown, has_itemize, open_log, shown

Write = Callable[[bytes], object]

_MARK = MARK.encode()
_PIECE_BYTES = 64 * 1024
_CREATED = re.compile(rb"created (?:directory|[0-9]+ director)")
_FROM_DRY_RUN = (
    b"Number of created files",
    b"Number of regular files transferred",
    b"Total transferred file size",
    b"Number of files",
    b"Total file size",
)
"""Totals that the dry run has told as rsync would have; the last two are rsync's own unless a file was kept from it."""
_TOTALS = re.compile(rb"Number of files: |sent [0-9.,]+[KMGTP]? bytes  received ")
"""How the totals begin."""
_CONTENT = re.compile(
    rb"(Literal data: |Matched data: |(?:sent .* bytes  received .* bytes  )?total size (?:is )?)"
    rb"([0-9.,]+)([KMGTP]?)( bytes|  speedup is .*|)"
)
_PROGRESS = re.compile(
    rb"(\r *)([0-9.,]+)([KMGTP]?) +([0-9]+)%( +[0-9.]+[kMG]B/s +[0-9?:]+ *)(?:\(xfr#([0-9]+), (.*)\)( *))?"
)
_UNITS = b"KMGTP"
_UNLOGGED = re.compile(rb"[\x00-\x08\x0a-\x1f\x80-\x9f]|\\(?=#[0-9]{3})")
"""What is escaped in a log file: rsync's log.c, filtered_fwrite()."""


class Report:
    """The report of one run. ``dry`` is the dry run's answer, ``seeded`` the bytes sent of each file, by name.

    ``tried`` are the names of files that could not be seeded; directories may have been made for them.
    ``escapes_log`` says whether this rsync escapes control characters in its log, as it does since 3.5.0.
    ``hidden`` are words of ours in the remote shell's command, which rsync prints with ``-vv``.
    ``refused`` are the names of files that were kept from rsync, since it would have failed.
    ``whole`` says whether rsync would have taken the files as a whole, without looking for what is there already.
    ``alias`` is another name that rsync may have for the seeded file, if there is only one.
    """

    def __init__(
        self,
        command: Command,
        dry: IO[bytes],
        seeded: Mapping[str, int],
        tried: Collection[str],
        whole: bool,
        hidden: str = "",
        escapes_log: bool = True,
        refused: Collection[str] = (),
        alias: str = "",
    ) -> None:
        self.shown: Shown = shown(command)
        self.command = command
        self._hidden = f" {hidden}".encode() if hidden else b""
        self._names: set[bytes] = {os.fsencode(alias)} if alias else set()
        """The names of seeded files, and of the directories above them, with a slash at the end."""
        self._log_escapes = escapes_log
        self._totals: dict[bytes, bytes] = {}
        self.files: int = 0
        self.bytes: int = 0
        self._literal = self._matched = 0
        self._created: list[bytes] = []
        self._refused = 0
        """The bytes of files that were kept from rsync. They take part in totals of which it does not see them."""
        self.last = b""
        """What the log file has at its end, which rsync did not say."""
        with contextlib.ExitStack() as stack:
            self._told = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            """The lines for standard output and for the log file."""
            if seeded or tried:
                self._names.add(b"./")
                seeded = {**seeded, **dict.fromkeys(refused, 0)}
                above = {directory for name in (*seeded, *tried) for directory in _above(name)}
                self._read(dry, seeded, refused, above, whole)
            self._files = stack.pop_all()

    def _read(
        self,
        dry: IO[bytes],
        seeded: Mapping[str, int],
        refused: Collection[str],
        above: Collection[str],
        whole: bool,
    ) -> None:
        told = self.shown
        dry.seek(0)
        for entry in parse_all(dry):
            if isinstance(entry, bytes):
                self._raw(entry)
                continue
            name = os.fsdecode(entry.name)
            if name in above:
                changes = bool(entry.itemize[2:].strip())
            elif name in seeded and entry.itemize[:2] in (b">f", b"<f"):
                changes = True
                self.files += 1
                self.bytes += entry.size
                whole_one = whole or entry.itemize[2:3] == b"+" or name in refused
                self._refused += entry.size if name in refused else 0
                sent = entry.size if whole_one else min(seeded[name], entry.size)
                self._literal += sent
                self._matched += entry.size - sent
            else:
                continue
            named = unescape(entry.printed)
            self._names.add(named)
            if entry.itemize[1:2] == b"f":
                self._names.update(named[: slash.end()] for slash in re.finditer(b"/", named))
            lines = iter(entry.lines)
            size = entry.size if entry.itemize[1:2] == b"f" else -1
            for out, form in zip(self._told, (told.lines, told.logged)):
                line = next(lines, b"") if form is not None else b""
                if out is self._told[1]:
                    line = self._as_logged(line)
                if changes or (told.unchanged and has_itemize(form or "")):
                    out.write(b"%d\t%s\n" % (size, line))

    def lines(self, log: bool) -> Iterator[bytes]:
        """Yield the lines of seeded files, and of the directories above them, for standard output or the log file."""
        told, human = self._told[log], self.shown.human
        told.seek(0)
        count = done = 0
        for line in told:
            size, _, text = line.partition(b"\t")
            if log or self.shown.lines is not None:
                yield text
            if self.shown.progress and not log and size != b"-1":
                count += 1
                done = done + int(size) if self.shown.progress > 1 else int(size)
                if self.shown.lines is not None or count == self.files:
                    total = max(self._total(b"Number of files", 1), count)
                    step = b"    0.00kB/s    0:00:00 (xfr#%d, to-chk=%d/%d)" % (count, total - count, total)
                    percent = self._percent(done) if self.shown.progress > 1 else 100
                    end = b"" if self.shown.progress > 1 else b"\n"
                    yield b"\r%15s %3d%%%s%s" % (_number(done, human), percent, step, end)

    def _as_logged(self, line: bytes) -> bytes:
        """Return a line of the dry run's output as rsync logs it: whatever the locale cannot print is not escaped."""
        text = unescape(line)
        if self._log_escapes:
            text = _UNLOGGED.sub(lambda found: b"\\#%03o" % found[0][0], text)
        # One that rsync does not escape would end the line for whoever reads what we keep.
        return text.replace(b"\n", b"\\#012")

    def _total(self, key: bytes, human: int) -> int:
        """Return a number of the dry run's totals, 0 if it is missing."""
        found = re.search(rb": ([0-9.,]+)([KMGTP]?)", self._totals.get(key, b""))
        return _parsed(found[1], found[2], human) if found else 0

    def _percent(self, done: int) -> int:
        size = self._total(b"Total file size", self.shown.human)
        return min(100, 100 * done // size) if size else 100

    def _raw(self, line: bytes) -> None:
        if _CREATED.match(line) and (self.shown.names or self.shown.itemized) and not self._created:
            # The first is the one: a dry run with --mkpath finds the directory missing again.
            self._created.append(line)
        key, colon, _ = line.partition(b":")
        if colon:
            self._totals[key] = line

    def close(self) -> None:
        """Forget the lines."""
        self._files.close()

    @contextlib.contextmanager
    def open(self, write: Write) -> Iterator[tuple[Write, list[str], list[int]]]:
        """Give the reader of rsync's output, the options that rsync needs for it, and the descriptors to inherit.

        ``write``: called with what is to be shown. After the context all is written.
        """
        told = self.shown
        options: list[str] = []
        if told.lines is not None:
            options.append(f"--out-format={MARK}%n{MARK}{told.lines}")
            if self.command.progress and told.names:
                options.append(f"--info=name{told.names}")
        if os.isatty(1) and self.command.value("outbuf") is None:
            options.append("--outbuf=L")  # as rsync does by itself on a terminal
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._log()) if told.logged is not None else None
            if log is not None:
                options += [f"--log-file=/dev/fd/{log}", f"--log-file-format={MARK}%n{MARK}{told.logged}"]
            lines = _Lines(self, write, self._created, log=False)
            yield lines.feed, options, [] if log is None else [log]
            lines.end()

    @contextlib.contextmanager
    def _log(self) -> Iterator[int | None]:
        """Give the end of a pipe that rsync is to log to; None if rsync has to say what is wrong with the log file."""
        path = self.command.value("log-file") or ""
        try:
            log = open_log(path)
        except OSError:
            yield None
            return
        ours, theirs = os.pipe()
        reader = threading.Thread(target=self._copy_log, args=(ours, log))
        reader.start()
        try:
            yield theirs
        finally:
            os.close(theirs)
            reader.join()
            os.close(ours)
            os.close(log)

    def _copy_log(self, ours: int, log: int) -> None:
        def write(data: bytes) -> None:
            while data:
                data = data[os.write(log, data) :]

        lines = _Lines(self, write, self._created, log=True)
        said = os.read(ours, _PIECE_BYTES)
        while said:
            with contextlib.suppress(OSError):  # a full disk: rsync, too, goes on without its log
                lines.feed(said)
            said = os.read(ours, _PIECE_BYTES)
        with contextlib.suppress(OSError):
            lines.end()
            if self.last:
                write(lines.stamp + self.last)

    def drops(self, name: bytes) -> bool:
        """Return whether a name is one that has its line from the dry run."""
        return name in self._names or unescape(name) in self._names

    def total(self, text: bytes) -> bytes:
        """Return a line of totals with the seeded files in it."""
        key = text.partition(b":")[0]
        if key in _FROM_DRY_RUN[: None if self._refused else -2] and key in self._totals:
            return self._totals[key].rstrip(b"\n")
        match = _CONTENT.fullmatch(text)
        if match is None:
            return text
        more = {b"L": self._literal, b"M": self._matched}.get(match[1][:1], self._refused)
        human = self.shown.human if match[4] else 0  # the log's own line has plain digits
        return match[1] + _number(_parsed(match[2], match[3], human) + more, human) + match[4]

    def own_work(self, text: bytes) -> bytes:
        """Return a line on how rsync does it (-vv), with the seeded files in it and without words of ours."""
        if self._hidden and text.startswith(b"opening connection using: ") and self._hidden in text:
            text = text.replace(self._hidden, b"", 1)
            count = len(self._hidden.split())
            return re.sub(rb"\(([0-9]+) args\)$", lambda found: b"(%d args)" % (int(found[1]) - count), text)
        match = re.fullmatch(rb"(total: matches=.* data=)([0-9]+)", text)
        return text if match is None else match[1] + b"%d" % (int(match[2]) + self._literal)

    def progress(self, piece: bytes) -> bytes:
        """Return a piece of progress with the seeded files in it."""
        match = _PROGRESS.fullmatch(piece) if self.shown.progress else None
        if match is None:
            return piece
        done, percent, human = match[2] + match[3], int(match[4]), self.shown.human
        if self.shown.progress > 1:
            bytes_done = _parsed(match[2], match[3], human) + self.bytes
            done, percent = _number(bytes_done, human), self._percent(bytes_done)
        counted = b"(xfr#%d, %s)" % (int(match[6]) + self.files, match[7]) if match[6] else b""
        return b"\r%15s %3d%%" % (done, percent) + match[5] + counted + (match[8] or b"")


class _Lines:
    """A reader of what rsync prints, or logs. ``created`` are the lines on directories that rsync finds made."""

    def __init__(self, report: Report, write: Write, created: Sequence[bytes], log: bool) -> None:
        self._report = report
        self._write = write
        self._created = created
        self._log = log
        self._added = False
        self._unended = False
        self._in_totals = False
        self._rest = b""
        self.stamp = b""
        """What stands before each line of a log file: time and process."""

    def feed(self, said: bytes) -> None:
        """Read some output, and pass on what is certain of it."""
        *lines, self._rest = re.split(rb"(?<=[\n])", self._rest + said)
        for line in lines:
            self._line(line[:-1])
        if self._rest.startswith(b"\r"):  # progress: it is there to be seen at once
            whole, _, self._rest = self._rest.rpartition(b"\r")
            if _PROGRESS.fullmatch(b"\r" + self._rest):
                whole, self._rest = whole + b"\r" + self._rest, b""
            else:
                self._rest = b"\r" + self._rest
            self._add()
            self._put(self._with_progress(whole))

    def end(self) -> None:
        """End the output."""
        if self._rest:
            self._put(self._with_progress(self._rest))
        self._add()
        if self._unended:
            self._write(b"\n")

    def _line(self, text: bytes) -> None:
        match = _STAMP.match(text) if self._log else None
        stamp = match[0] if match else b""
        self.stamp = stamp or self.stamp
        text = text[len(stamp) :]
        if text.startswith(_MARK):
            self._add()
            name, _, line = text[len(_MARK) :].partition(_MARK)
            if not self._report.drops(name):
                self._put(stamp + line + b"\n")
            return
        if not text or text.startswith(b"\r") or _TOTALS.match(text):
            self._add()
        elif self._report.drops(text.removesuffix(b" is uptodate")) and self._report.shown.names > 1:
            return
        elif text + b"\n" in self._created:
            self._created = [line for line in self._created if line != text + b"\n"]
        # Before the totals begin, a line like one of theirs may be a name.
        self._in_totals = self._in_totals or _TOTALS.match(text) is not None
        text = self._report.total(text) if self._in_totals else self._report.own_work(self._with_progress(text))
        self._put(stamp + text + b"\n")

    def _with_progress(self, text: bytes) -> bytes:
        if b"\r" not in text:
            return text
        head, *pieces = text.split(b"\r")
        return head + b"".join(self._report.progress(b"\r" + piece) for piece in pieces)

    def _add(self) -> None:
        """Write the lines that rsync does not say any more."""
        if self._added:
            return
        self._added = True
        for line in [*self._created, *self._report.lines(self._log)]:
            self._put(self.stamp + line)
            self._unended = not line.endswith(b"\n")

    def _put(self, data: bytes) -> None:
        """Write some output, after the end of a line that progress of ours has left open."""
        if data:
            self._write(b"\n" + data if self._unended and not data.startswith(b"\r") else data)
            self._unended = False


_STAMP = re.compile(rb"[0-9]{4}/[0-9]{2}/[0-9]{2} [0-9:]{8} \[[0-9]+\] ")


def _above(name: str) -> Iterator[str]:
    """Return the directories above a name, as rsync prints them, with the top of the transfer."""
    yield "./"
    for index, letter in enumerate(name):
        if letter == "/":
            yield name[: index + 1]


def _parsed(digits: bytes, unit: bytes, human: int) -> int:
    number = float(digits.replace(b",", b"")) if human > 1 else int(re.sub(rb"[.,]", b"", digits))
    return int(number * (1000 if human == 2 else 1024) ** (_UNITS.index(unit) + 1)) if unit else int(number)


def _number(value: int, human: int) -> bytes:
    """Return a number as rsync prints it: rsync(1), --human-readable."""
    base = {2: 1000, 3: 1024}.get(human)
    if base and value >= base:
        scaled, unit = value / base, 0
        while scaled >= base and unit < len(_UNITS) - 1:
            scaled, unit = scaled / base, unit + 1
        return b"%.2f%c" % (scaled, _UNITS[unit])
    return (f"{value:,}" if human else str(value)).encode()
