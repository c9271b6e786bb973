"""Which names of a tree rsync would look at under its filter rules: where a walk of our own may go.

Before rsync is asked anything, a scan of the source looks for one sparse file, which is cheaper than a dry run. It must
go nowhere that rsync would not go: what is excluded may be large, somebody else's, or a mount that does not answer.
And it must leave out nothing that rsync transfers. So a rule is either understood exactly, or there is no scan, and the
dry run is the walk (:func:`walk` returns None). Three steps::

    options     --exclude, --include, their -from files, --filter          in the order given
    rules       a sign, a pattern, what it is compared with               (Rule)
    regexes     one of what is excluded of directories, one of all else    (_excluded)

**What a pattern is compared with.** A name is what it will be below the destination: ``a/b`` for the source ``x/a/``
named without its slash. The first rule that matches decides; no rule, and the name is taken. What is not taken is not
looked into. rsync chooses the part of the name by the pattern::

    /p       begins at the top of the transfer             "/" before it here
    **p      is compared with a slash and the whole name   nothing before it; a slash where -R keeps an absolute name
    p, q/p   is compared with the end, or, if it holds     anything and a slash before it
             **, at each beginning of a name

Here every name begins with a slash, and a directory's ends with one, so that each form is one regex. A pattern that
ends with ``***`` is compared with a directory's name with its slash, all others without. In a pattern without
wildcards a backslash is a character like any other.

**What is not understood.** Rules that are read from the directories themselves (``-F``, ``-C``, ``:``, dir-merge),
those of absolute paths, standard input, whatever rsync itself may refuse, and patterns that a regex would take long
for. Rules for the receiving side (protect, risk), and those for names of attributes, have no say in the walk.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator
from typing import Callable, NamedTuple

from ..engine.tree.left_out import NameRules
from .command import Command
from .paths import means_contents

_MAX_FILE_BYTES = 1 << 20
_MAX_PATTERN_BYTES = 1000
_MAX_STARS = {b"*": 4, b"**": 2}
"""How many ``*`` between two slashes, and how many ``**`` in all, a regex is quick with."""
_MAX_TURNS = 32
"""How often includes and excludes may take turns."""
_MAX_DEPTH = 32
"""Of files of rules that read others; as rsync has it."""

_LONG = {
    "exclude": "-", "include": "+", "merge": ".", "hide": "H", "show": "S", "protect": "P", "risk": "R", "clear": "!"
}  # fmt: skip
_RULE = re.compile(
    rb"(?:([-+.HSPR!]),?|(exclude|include|merge|hide|show|protect|risk|clear)(?:,|(?=[ _]|\Z)))([^ _]*)(?:[ _](.*))?",
    re.DOTALL,
)
_CLASSES = {
    b"alnum": rb"[0-9A-Za-z]", b"alpha": rb"[A-Za-z]", b"blank": rb"[\t ]", b"cntrl": rb"[\0-\x1f\x7f]",
    b"digit": rb"[0-9]", b"graph": rb"[!-~]", b"lower": rb"[a-z]", b"print": rb"[ -~]", b"space": rb"[\t-\r ]",
    b"punct": rb"[!-/:-@\[-`{-~]", b"upper": rb"[A-Z]", b"xdigit": rb"[0-9A-Fa-f]",
}  # fmt: skip
_SLASH = ord("/")
_NEVER = b"(?!)"


class _NotUnderstood(Exception):
    """A rule that only rsync understands."""


class Rule(NamedTuple):
    """A rule for the sending side. ``negated``: it matches where the pattern does not."""

    include: bool
    pattern: bytes
    """Without the slash at its end that means directories only."""
    directories: bool = False
    negated: bool = False


class Walk:
    """Where rsync goes below the sources of a command. ``recursive``: it enters directories at all.

    Raises _NotUnderstood for a pattern that only rsync understands.
    """

    def __init__(self, rules: list[Rule], *, relative: bool, recursive: bool) -> None:
        self._relative = relative
        self._recursive = recursive
        self._excludes = not all(rule.include for rule in rules)
        self._regexes = {
            absolute: (_excluded(rules, True, absolute), _excluded(rules, False, absolute))
            for absolute in (False, relative)
        }

    def rules(self, source: str) -> NameRules | None:
        """Return the rules for a source, as the command names it, or None if nothing is excluded."""
        if self._recursive and not self._excludes:
            return None
        shown, absolute = _shown(source, self._relative)
        directories, others = self._regexes[absolute]
        return NameRules(shown.decode("latin-1"), directories, others, self._recursive)


def walk(command: Command) -> Walk | None:
    """Return where rsync goes below the sources, or None if only rsync knows."""
    names = {option.name for option in command.options}
    if command.files_from is not None or command.links_followed:
        return None  # its list is another one than the trees below the sources
    if "old-dirs" in names or ("dirs" in names and not command.recursive):
        return None
    try:
        return Walk(list(_rules(command)), relative=command.relative, recursive=command.recursive)
    except (_NotUnderstood, OSError, ValueError):
        return None


def _shown(source: str, relative: bool) -> tuple[bytes, bool]:
    """Return the name of a source in the transfer, "" for its contents, and whether -R keeps the slash before it."""
    if not relative:
        return b"" if means_contents(source) else os.fsencode(os.path.basename(source)), False
    _head, cut, tail = source.partition("/./")
    parts = [part for part in (tail if cut else source).split("/") if part not in ("", ".")]
    return os.fsencode("/".join(parts)), not cut and source.startswith("/")


# From options to rules.


def _rules(command: Command) -> Iterator[Rule]:
    """Return the rules in their order. Raises _NotUnderstood, OSError, ValueError."""
    rules: list[Rule] = []
    nulls = False
    for name, value, _ in command.options:
        if name in ("F", "cvs-exclude"):
            raise _NotUnderstood
        if name in ("from0", "no-from0"):
            nulls = name == "from0"  # for the files that are named after it
        elif name in ("exclude", "include"):
            _add(rules, [os.fsencode(value or "")], _old, name == "include")
        elif name in ("exclude-from", "include-from"):
            _add(rules, _lines(os.fsencode(value or ""), nulls), _old, name == "include-from")
        elif name == "filter" and value:
            _filter(rules, os.fsencode(value), nulls)
    yield from rules
    yield from _left_by_rsync(command)


def _left_by_rsync(command: Command) -> Iterator[Rule]:
    """Return the rule that rsync adds: the partial files of an earlier run are never transferred."""
    delays = [option.name for option in command.options if option.name.endswith("delay-updates")][-1:]
    partial = command.partial_dir or (".~tmp~" if delays == ["delay-updates"] else "")
    if partial and not partial.startswith("/"):
        parts = [part for part in partial.split("/") if part]
        if "." in parts or ".." in parts:
            raise _NotUnderstood
        yield Rule(False, os.fsencode("/".join(parts)), directories=True)


def _add(rules: list[Rule], lines: Iterable[bytes], read: Callable[[bytes, bool], Rule | None], include: bool) -> None:
    for line in lines:
        rule = read(line, include)
        if rule is None:
            rules.clear()
        elif line:
            rules.append(rule)


def _old(text: bytes, include: bool) -> Rule | None:
    """Return a rule of --exclude and the like, which may have its own sign, or None for one that clears the list."""
    if text == b"!":
        return None
    if text.startswith((b"+ ", b"- ")):
        return _plain(text[2:], text.startswith(b"+"), required=True)
    return _plain(text, include)


def _plain(text: bytes, include: bool, *, required: bool = False, negated: bool = False) -> Rule:
    if len(text) > _MAX_PATTERN_BYTES or (required and not text):
        raise _NotUnderstood
    directories = len(text) > 1 and text.endswith(b"/")
    return Rule(include, text[: len(text) - directories], directories, negated)


def _filter(rules: list[Rule], text: bytes, nulls: bool, depth: int = 0) -> None:
    """Add a rule of --filter, and those of the files that it reads."""
    match = _RULE.fullmatch(text)
    if match is None or depth > _MAX_DEPTH:
        raise _NotUnderstood
    short, long, modifiers, pattern = match.groups(b"")
    sign = short.decode() or _LONG[long.decode()]
    if sign == "!":
        if modifiers or pattern:
            raise _NotUnderstood
        rules.clear()
    elif sign == ".":
        if modifiers not in (b"", b"+", b"-") or not pattern:
            raise _NotUnderstood
        for line in _lines(pattern, nulls):
            if modifiers:
                rules.append(_plain(line, modifiers == b"+"))
            else:
                _filter(rules, line, nulls, depth + 1)
    else:
        if modifiers.strip(b"!srpx") or (sign in "HSPR" and re.search(rb"[sr]", modifiers)):
            raise _NotUnderstood
        rule = _plain(pattern, sign in "+SR", required=True, negated=b"!" in modifiers)
        receiving = sign in "PR" or (b"r" in modifiers and b"s" not in modifiers)
        if not receiving and b"x" not in modifiers:
            rules.append(rule)


def _lines(path: bytes, nulls: bool) -> list[bytes]:
    """Return the lines with rules of a regular file. Anything else may be readable only once."""
    if path == b"-" or b".." in path.split(b"/") or not stat.S_ISREG(os.stat(path).st_mode):
        raise _NotUnderstood
    with open(path, "rb") as file:
        content = file.read(_MAX_FILE_BYTES + 1)
    if len(content) > _MAX_FILE_BYTES or (b"\0" in content and not nulls):
        raise _NotUnderstood
    lines = content.split(b"\0") if nulls else re.split(rb"[\r\n]", content)
    return [line for line in lines if line and line[:1] not in (b"#", b";")]


# From rules to regexes.


def _excluded(rules: list[Rule], directory: bool, absolute: bool) -> str:
    """Return a regex of the names, of directories or of all else, whose first matching rule is an exclude."""
    regex = _NEVER
    for turn, (include, run) in enumerate(itertools.groupby(reversed(rules), key=lambda rule: rule.include)):
        if turn == _MAX_TURNS:
            raise _NotUnderstood
        any_of = b"|".join(_regex(rule, directory, absolute) for rule in run)
        regex = b"(?!%b)%b" % (any_of, regex) if include else b"(?:%b|%b)" % (any_of, regex)
    return regex.decode("latin-1")


def _is_wild(pattern: bytes) -> bool:
    return re.search(rb"[*?\[]", pattern) is not None


def _regex(rule: Rule, directory: bool, absolute: bool) -> bytes:
    """Return a regex of the names that a rule matches, of directories or of all else."""
    pattern = rule.pattern
    if rule.directories and not directory:
        return b"" if rule.negated else _NEVER
    if pattern.startswith(b"/"):
        before, pattern = b"/", pattern[1:]
    elif pattern.startswith(b"**"):
        before = b"/" if absolute else b""
    else:
        before = b".*/"
    body = _body(pattern) if _is_wild(pattern) else re.escape(pattern)
    end = b"/" if directory and not pattern.endswith(b"***") else b""
    regex = before + body + end + rb"\Z"
    return b"(?!%b)" % regex if rule.negated else regex


def _body(pattern: bytes) -> bytes:
    """Return a pattern with wildcards as a regex of the same bytes."""
    parts: list[bytes] = []
    stars = {b"*": 0, b"**": 0}
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        at += 1
        if byte == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            kind = b"*" if end == at else b"**"
            at = end
            stars[kind] += 1
            parts.append(b"[^/]*" if kind == b"*" else b".*")
        elif byte == b"?":
            parts.append(b"[^/]")
        elif byte == b"[":
            part, at = _class(pattern, at)
            parts.append(part)
        elif byte == b"\\" and at == len(pattern):
            parts.append(_NEVER)
        else:
            if byte == b"\\":
                byte = pattern[at : at + 1]
                at += 1
            if byte == b"/":
                stars[b"*"] = 0
            parts.append(re.escape(byte))
        if any(stars[kind] > most for kind, most in _MAX_STARS.items()):
            raise _NotUnderstood
    return b"".join(parts)


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Return the class that begins before ``at`` as a regex, and its end. One without an end never matches.

    A slash is in no class, whatever it says.
    """
    begin = at
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    members: set[int] = set()
    before = 0
    first = True
    while first or pattern[at : at + 1] != b"]":
        first = False
        byte = pattern[at : at + 1]
        if not byte:
            return _NEVER, len(pattern)
        name_end = pattern.find(b"]", at + 2)
        if byte == b"-" and before and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at += 1 + (pattern[at + 1 : at + 2] == b"\\")
            if at == len(pattern):
                return _NEVER, at
            members.update(range(before, pattern[at] + 1))
            before = 0
        elif byte == b"[" and pattern[at + 1 : at + 2] == b":" and name_end < 0:
            return _NEVER, len(pattern)
        elif byte == b"[" and pattern[at + 1 : at + 2] == b":" and name_end > at + 2 and pattern[name_end - 1] == 0x3A:
            name = pattern[at + 2 : name_end - 1]
            if name not in _CLASSES or not _ascii_classes():
                raise _NotUnderstood
            members.update(each for each in range(1, 256) if re.match(_CLASSES[name], bytes([each])))
            at, before = name_end, 0
        else:
            at += byte == b"\\"
            if at == len(pattern):
                return _NEVER, at
            before = pattern[at]
            members.add(before)
        at += 1
    if b"/" in pattern[begin:at]:
        raise _NotUnderstood  # rsync counts it among those that part the elements of the pattern
    chosen = set(range(256)) - members if negated else members
    chosen.discard(_SLASH)
    return b"[%b]" % b"".join(b"\\x%02x" % each for each in sorted(chosen)) if chosen else _NEVER, at + 1


def _ascii_classes() -> bool:
    """Return whether the locale's letters are those of ASCII. A locale of one-byte characters has more."""
    import _locale

    return _locale.nl_langinfo(_locale.CODESET) in ("UTF-8", "ANSI_X3.4-1968")
