"""Why a whole run is left to rsync, in words that a person reads with ``-v``.

Each function yields the reasons of one kind, and :func:`command.parse` takes the first of all. What one option says by
itself is in its line of the table (:mod:`options`).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence

from .options import LETTERS, LONGS, Option
from .paths import is_remote

# Without -p the mode of a new file comes from more than the source and the umask; a file that exists keeps its own.
_BASIS = "a new file gets the mode of the one it is made from"
READ = ("files-from", "exclude-from", "include-from")
"""The options that name a file which rsync reads."""

MERGE = re.compile(r"(?:\.|merge(?=[ _,])),?([^\s_]*)[ _](.+)", re.DOTALL)
"""A filter that reads a file: its modifiers, and the path."""

_WITHOUT_PERMS = {
    "chmod": "it would change new files only",
    "acls": "the modes of new files come from both",
    "xattrs": "a file of equal size and time gets its source's mode along with its attributes",
    "executability": "it changes the mode of a file that exists, and not of a new one",
    "fuzzy": _BASIS,
    "compare-dest": _BASIS,
    "copy-dest": _BASIS,
    "link-dest": _BASIS,
}


def of_options(options: Sequence[Option]) -> Iterator[str]:
    """Yield a reason for each option that forbids seeding."""
    for name, value, tokens in options:
        if name == "temp-dir" and value is not None and ".." in value.split("/"):
            yield "--temp-dir has '..' in it, which newer versions of rsync refuse"
        # An option that forbids seeding forbids it even where a later one takes it back: that is rare, and safe.
        spec = LETTERS[name] if name in LETTERS else LONGS[name][0] if name in LONGS else None
        if spec and spec.why_not and name == spec.name:
            yield f"{tokens[0].partition('=')[0]} is given: {spec.why_not}"


def of_files(options: Sequence[Option]) -> Iterator[str]:
    """Yield a reason for each file given to an option that both runs of rsync cannot read alike."""
    for name, value, _ in options:
        if value is None:
            continue
        if name == "files-from" and is_remote(value):
            continue  # the other host is asked what it is
        if name in READ and value != "-" and not (_readable_twice(value) or read_once(value)):
            yield f"--{name} names something that can be read only once"
        elif name == "filter" and value.startswith((".", "merge")):
            rule = MERGE.fullmatch(value)
            if rule is None or "w" in rule[1] or not _merge_is_plain(rule[2]):
                yield "--filter reads rules from something other than one plain file"
        elif name == "filter" and value.startswith((":", "dir-merge")) and re.search("/dev/|/proc/", value):
            yield "--filter names something that can be read only once"


def read_once(path: str) -> bool:
    """Return whether a path must be copied for both runs, and can be: a pipe, or an open file.

    A file open as /dev/fd/N is not open in a child process.
    """
    try:
        st = os.stat(path)
    except (OSError, ValueError):
        return False
    if os.path.abspath(path).startswith(("/dev/", "/proc/")):
        # A device may go on for ever, or be somebody who types.
        return not stat.S_ISCHR(st.st_mode) or os.path.samestat(st, os.stat(os.devnull))
    return stat.S_ISFIFO(st.st_mode)


def _readable_twice(path: str) -> bool:
    try:
        if os.path.abspath(path).startswith(("/dev/", "/proc/")):
            return False
        return stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return True  # the dry run fails on it as the run itself will
    except (OSError, ValueError):
        return False


def _merge_is_plain(path: str) -> bool:
    """Return whether a file of rules reads no other file."""
    try:
        if path == "-" or not _readable_twice(path):
            return False
        with open(path, "rb") as rules:
            return not any(re.search(rb"(?:^|[\0\r])\s*(?:\.|merge)", rule) for rule in rules)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def of_modes(state: Mapping[str, int], partial_dir: str | None) -> Iterator[str]:
    """Yield a reason for each option that gives a new file another mode than the source's."""
    if not state["perms"]:
        yield from (f"--{name} is given without --perms: {why}" for name, why in _WITHOUT_PERMS.items() if state[name])
        if partial_dir:
            yield f"--partial-dir is used without --perms: {_BASIS}"


def of_environment(argv: Sequence[str], environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a reason for each environment variable or word that changes the meaning of the command line."""
    if environ.get("RSYNC_ICONV"):
        yield "RSYNC_ICONV is set: names are to be converted"
    if any("!#:+" in argument for argument in argv):
        yield "an argument holds '!#:+', which has a meaning of its own in option values"
    files = ["/etc/popt", os.path.join(environ.get("HOME") or "/", ".popt")]
    try:
        files += (entry.path for entry in os.scandir("/etc/popt.d"))
    except OSError:
        pass  # not there, or not for us and so not for our rsync either
    for path in files:
        try:
            with open(path, "rb") as lines:
                # The first word is the program; newer versions of popt let it be a pattern.
                if any(re.match(rb"\s*(?:rsync|[^\s#]*[*?\[])", line) for line in lines):
                    yield f"{path} redefines options of rsync"
        except (OSError, ValueError):
            continue
