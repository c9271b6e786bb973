"""rsync's own server, confined to a directory: its command line as a client sends it, and what is made of that.

rsync's client has the other end's shell start ``rsync --server OPTIONS . PATH...``. No shell sees it here. The words
are taken apart as rsync quotes them, with backslashes, and held against :data:`_TABLE`; an option that is not in it is
refused, whatever it does, so that one which a newer rsync has is refused until somebody has looked at it. Paths are
relative to the root, as ``rrsync`` has it: a leading slash is the root, and ".." is refused.

What is not in the table, and why:

* symlinks are not followed where they are found (``-L``, ``-k``, ``-K``, ``--copy-unsafe-links``);
* no device is read or written (``--copy-devices``, ``--write-devices``), or made: ``--drop-D``;
* nothing else is written (``--log-file``, ``--write-batch``), run (``--rsh``), or listened to (``--daemon``);
* ``-s`` sends the arguments where they are not seen here.

Where only new files are to be made, the temporary files are in a directory of ours, and :mod:`walls` says why.

Rules that a client sends may name files to be read, over the connection: ``--confine-root`` has rsync see to those.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .beneath import Root
from .rules import of_option

_LETTERS = "ACDEHIJNORSUWXbcdglmnopqrtuvxyz"
_LETTERS_CHANGING = "bHX"
"""With -b what is there is renamed, and may replace an older backup. With -X a client can have the attributes of a file
set that rsync has not asked for, and with -H who knows which."""
_CLUSTER = re.compile(r"-([A-Za-z]*?)(?:e[0-9]*\.\w*)?")
_NUMBERED = re.compile(r"-[B@]-?[0-9]+")

# One line is a kind of option: how its names are given, and which.
_TABLE = """
flag     : from0 fsync fuzzy ignore-errors ignore-existing ignore-missing-args ignore-times list-only mkpath
flag     : msgs2stderr new-compress no-W no-implied-dirs no-msgs2stderr no-r no-relative no-specials numeric-ids
flag     : old-compress open-noatime partial preallocate safe-links size-only specials stats super use-qsort existing
flag     : fake-super munge-links
value    : block-size bwlimit checksum-choice checksum-seed compress-choice compress-level compress-threads groupmap
value    : iconv info log-format max-alloc max-delete max-size min-size modify-window skip-compress stderr suffix
value    : timeout usermap
path     : compare-dest link-dest
list     : files-from
changing : append delay-updates delete delete-after delete-before delete-delay delete-during delete-excluded
changing : delete-missing-args force inplace remove-sent-files remove-source-files
changing path : backup-dir copy-dest partial-dir temp-dir
"""


class _Kind(NamedTuple):
    """A long option. ``takes``: None, "value", "path" or "list". ``changing``: it changes or removes what is there."""

    takes: str | None
    changing: bool


def _read(table: str) -> dict[str, _Kind]:
    found: dict[str, _Kind] = {}
    for line in filter(None, table.splitlines()):
        kinds, names = (side.split() for side in line.split(" : "))
        takes = next((kind for kind in kinds if kind in ("value", "path", "list")), None)
        found.update((name, _Kind(takes, "changing" in kinds)) for name in names)
    return found


_LONGS = _read(_TABLE)


class Word(NamedTuple):
    """A word of a command line. ``pattern``: the same for fnmatch, or None if nothing in it is a wildcard."""

    text: str
    pattern: str | None


def split(line: str) -> list[Word]:
    """Return the words of a command line, in which a backslash takes the meaning from the character behind it."""
    words = []
    for found in re.findall(r"(?:\\.|[^\s\\])+", line, re.DOTALL):
        parts = re.findall(r"\\.|[^\\]", found, re.DOTALL)
        text = "".join(part[-1] for part in parts)
        wild = any(part in "*?[" for part in parts)
        pattern = "".join(f"[{part[1]}]" if part[:1] == "\\" and part[1] in "*?[" else part[-1] for part in parts)
        words.append(Word(text, pattern if wild else None))
    return words


def arguments(line: str, root: Root, mode: str, version: tuple[int, ...]) -> list[str]:
    """Return the arguments for rsync's server, confined to the root.

    ``line``: what follows ``rsync --server``.
    ``version``: of the installed rsync.

    Raises ValueError for what is refused, OutsideError, OSError.
    """
    words = split(line)
    dot = next((index for index, word in enumerate(words) if word.text == "." and not _awaited(words, index)), None)
    if dot is None:
        raise ValueError("rsync's arguments do not make sense here; -s (--secluded-args) is not for this key")
    sending = words[:1] == [Word("--sender", None)]
    if mode == "read-only" and not sending:
        raise ValueError("this key is read-only")
    # A symlink that is itself to be sent may lead anywhere; one that rsync begins in may not.
    as_itself = sending and not any(word.text.startswith("--files-from") for word in words[:dot])
    given = [path for word in words[dot + 1 :] for path in (_matching(word, root) if sending else [word.text])]
    paths = [_path(path, root, as_itself) for path in given] or ["."]
    at = "." if sending else paths[0]
    options = [*_options([word.text for word in words[sending:dot]], root, mode, at)]
    confined = []
    if version >= (3, 5):
        confined = [f"--confine-root={root.path}"] + ([] if sending else ["--drop-D"])
    if mode == "append-only":
        confined.append("--ignore-existing")
    return ["--server", *(["--sender"] if sending else []), *options, *confined, "--", ".", *paths]


def _awaited(words: list[Word], index: int) -> bool:
    """Whether a word is the value of the option before it."""
    before = words[index - 1].text if index else ""
    kind = _LONGS.get(before[2:]) if before.startswith("--") else None
    return kind is not None and kind.takes is not None


def _options(words: list[str], root: Root, mode: str, at: str) -> list[str]:
    taken: list[str] = []
    ahead = iter(words)
    for word in ahead:
        name, equals, value = word[2:].partition("=")
        if word.startswith("--"):
            kind = _LONGS.get(name)
            if kind is None or (equals and kind.takes is None):
                raise ValueError(f"rsync's --{name} is not for this key")
            if kind.changing and mode != "read-write":
                raise ValueError(f"rsync's --{name} is not for this key, which is {mode}")
            if kind.takes is not None:
                value = value if equals else next(ahead, "")
                value = _value(kind.takes, value, root, at)
                taken.append(f"--{name}={value}")
                continue
        elif not _NUMBERED.fullmatch(word):
            cluster = _CLUSTER.fullmatch(word)
            if cluster is None or len(word) < 2:
                raise ValueError(f"{word!r} among rsync's options is not for this key")
            for letter in cluster[1]:
                if letter not in _LETTERS:
                    raise ValueError(f"rsync's -{letter} is not for this key")
                if letter in _LETTERS_CHANGING and mode == "append-only":
                    raise ValueError(f"rsync's -{letter} is not for this key, which is append-only")
        taken.append(word)
    return taken


def _value(takes: str, value: str, root: Root, at: str) -> str:
    if takes == "path":
        return of_option(root, value, at, root.path)
    if takes == "list" and value != "-":
        return root.within(value)
    return value


def _matching(word: Word, root: Root) -> list[str]:
    """Return the paths that a word stands for, as the shell would find them, or the word itself if there are none."""
    if word.pattern is None:
        return [word.text]
    slash = "/" if word.pattern.endswith("/") else ""
    return [f"{path}{slash}" for path in root.matching(root.relative(word.pattern))] or [word.text]


def _path(path: str, root: Root, as_itself: bool) -> str:
    """Return a path, relative to the root. ``as_itself``: it may be a symlink that is not followed."""
    below = root.relative(path)
    above, _, last = below.rpartition("/")
    if as_itself and last not in ("", "."):
        root.within(above or ".")
        return below
    return root.within(path)
