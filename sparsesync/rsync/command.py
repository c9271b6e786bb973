"""What an rsync command line means. Nothing is ever written here.

``parse`` reads a command line the way rsync does (with popt: bundles such as ``-avzP``, values attached or in the next
argument, options between and after the paths, ``--``) and gives a ``Command``: the paths, the options in their order,
and the state they leave behind, later ones winning. The options themselves are data, in :mod:`options`; what names
another host is for :mod:`paths`. Seeding is an optimisation, so whatever is not understood for certain, or is
known to need all of rsync, is no error: it becomes ``Command.handoff``, one reason in words, and the whole run is left
to rsync (:mod:`handoff`).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from . import handoff
from .options import LETTERS, LONGS, Option
from .paths import QUOTES_ARGUMENTS, NotForUs, RemoteEnd, is_remote, list_path, remote_end


class Command(NamedTuple):
    """A parsed rsync command line."""

    argv: tuple[str, ...]
    options: tuple[Option, ...]
    sources: tuple[str, ...]
    destination: str | None
    handoff: str | None
    """None: seeding is allowed. Otherwise why everything is left to rsync, in words for a person."""
    remote: RemoteEnd | None
    """The other host, if one is named."""
    spool_stdin: bool
    """An option reads standard input, which both runs of rsync must be given."""

    recursive: bool
    relative: bool
    implied_dirs: bool
    times: bool
    perms: bool
    group: bool
    inplace: bool
    sparse: bool
    preallocate: bool
    fsync: bool
    hard_links: bool
    one_file_system: bool
    links_followed: bool
    dry_run: bool
    backup: bool
    delete: bool
    update: bool
    mkpath: bool
    verbose: int
    quiet: int
    itemize: bool
    progress: bool
    stats: bool
    files_from: str | None
    remote_list: str | None
    """The path of ``files_from`` on the other host, if it is there."""
    compress: bool
    whole_file: bool
    """Whether files are sent without a look at what is there: rsync(1), --whole-file."""
    bwlimit: int | None
    """Bytes per second."""
    timeout: int | None
    """Seconds."""
    partial_dir: str | None
    bases: tuple[str, ...]
    """The directories in which rsync looks for the basis of a new file."""
    fuzzy: int
    modify_window: int | None
    """How near, in seconds, two times are that rsync takes for the same; -1: not at all. None: it compares none."""
    held: frozenset[str]
    """The long names of the options that hold in the end, with those that come with another, as with -a."""

    def value(self, name: str) -> str | None:
        """Return the value that the option was last given, or None."""
        return next((option.value for option in reversed(self.options) if option.name == name), None)


class _NotUnderstood(Exception):
    """The reason is its message."""


_BASES = frozenset(["compare-dest", "copy-dest", "link-dest"])
_IMPLIED = {
    "archive": ("recursive", "links", "perms", "times", "group", "owner", "devices", "specials"),
    "acls": ("perms",),
    "D": ("devices", "specials"),
    "P": ("partial", "progress"),
    "usermap": ("owner",),
    "groupmap": ("group",),
}
_TURNED_OFF = {"no-D": _IMPLIED["D"], "no-append": ("append", "append-verify")}


def parse(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> Command:
    """Parse the arguments that follow ``rsync``. Never fails: what cannot be parsed becomes ``handoff``."""
    why_not: list[str] = []
    options, paths = _split(argv, why_not, environ)
    state, values = _effects(options)

    explicit = [option.name for option in options if option.name in ("relative", "no-relative")]
    files_from = values.get("files-from")
    # -R comes with --files-from unless it is refused.
    relative = explicit[-1] == "relative" if explicit else files_from is not None
    partial_dir = values.get("partial-dir")
    if partial_dir is None and state["partial"] and not state["inplace"]:
        partial_dir = environ.get("RSYNC_PARTIAL_DIR")
    stdin_readers = [o for o in options if o.name in ("files-from", "exclude-from", "include-from") and o.value == "-"]

    why_not += handoff.of_options(options)
    why_not += handoff.of_modes(state, partial_dir)
    if state["update"] and values.get("modify-window", "0").strip("+0"):
        why_not.append("--update is given with --modify-window: rsync passes over files of nearly equal time")
    if len(stdin_readers) > 1:
        why_not.append("more than one option reads standard input")
    why_not += handoff.of_files(options)
    why_not += handoff.of_environment(argv, environ)
    if len(paths) < 2:
        why_not.append("there is no destination: rsync only lists files")
    if "" in paths:
        why_not.append("a source or the destination is empty")
    remote = remote_list = None
    if any(map(is_remote, paths)):
        try:
            remote = _remote_end(paths, options, values, environ)
        except NotForUs as reason:
            why_not.append(str(reason))
    if files_from is not None and is_remote(files_from):
        try:
            remote_list = list_path(files_from, remote)
        except NotForUs as reason:
            why_not.append(str(reason))

    return Command(
        argv=tuple(argv),
        options=tuple(options),
        sources=tuple(paths[:-1] if len(paths) > 1 else paths),
        destination=paths[-1] if len(paths) > 1 else None,
        handoff=why_not[0] if why_not else None,
        remote=remote,
        spool_stdin=bool(stdin_readers),
        recursive=state["recursive"] > 0,
        relative=relative,
        implied_dirs=[o.name for o in options if o.name.endswith("implied-dirs")][-1:] != ["no-implied-dirs"],
        times=state["times"] > 0,
        perms=state["perms"] > 0,
        group=state["group"] > 0,
        inplace=state["inplace"] > 0 or state["append-verify"] > 0,
        sparse=state["sparse"] > 0,
        preallocate=state["preallocate"] > 0,
        fsync=state["fsync"] > 0,
        hard_links=state["hard-links"] > 0,
        one_file_system=state["one-file-system"] > 0,
        links_followed=any(state[name] for name in ("copy-links", "copy-unsafe-links", "copy-dirlinks")),
        dry_run=state["dry-run"] > 0,
        backup=state["backup"] > 0 or "backup-dir" in values,
        delete=any(option.name.startswith("delete") for option in options),
        update=state["update"] > 0,
        mkpath=state["mkpath"] > 0,
        verbose=state["verbose"],
        quiet=state["quiet"],
        itemize=state["itemize-changes"] > 0 or "out-format" in values,
        progress=state["progress"] > 0,
        stats=state["stats"] > 0,
        files_from=files_from,
        remote_list=remote_list,
        compress=_compresses(state, values),
        whole_file=_whole_file(options, remote),
        bwlimit=parse_bwlimit(values.get("bwlimit")),
        timeout=int(values["timeout"]) if values.get("timeout", "").isdecimal() and values["timeout"] != "0" else None,
        partial_dir=partial_dir or None,
        bases=tuple(o.value for o in options if o.name in _BASES and o.value is not None),
        fuzzy=state["fuzzy"],
        modify_window=None if state["size-only"] else _modify_window(values.get("modify-window", "0")),
        held=frozenset(name for name, count in state.items() if count > 0),
    )


def keeping(command: Command, stack: ExitStack) -> Command:
    """Return a command that reads copies of files that can be read only once. ``stack`` removes the copies.

    Raises OSError.
    """
    options: list[Option] = []
    for option in command.options:
        if option.name in handoff.READ and option.value is not None and handoff.read_once(option.value):
            from .process import kept

            copy = stack.enter_context(kept(option.value))
            option = Option(option.name, copy, (f"--{option.name}={copy}",))
        options.append(option)
    if tuple(options) == command.options:
        return command
    argv = [token for option in options for token in option.tokens]
    argv += ["--", *command.sources, *([] if command.destination is None else [command.destination])]
    files_from = command.files_from and next(o.value for o in reversed(options) if o.name == "files-from")
    return command._replace(argv=tuple(argv), options=tuple(options), files_from=files_from)


def _remote_end(
    paths: Sequence[str], options: Sequence[Option], values: Mapping[str, str], environ: Mapping[str, str]
) -> RemoteEnd:
    """Return the other host. Raises NotForUs."""
    if any(map(re.compile(r"rsync://|\[[^]]*\]::|[^/:\[]*::", re.IGNORECASE).match, paths)):
        raise NotForUs("an rsync daemon is at the other end")
    families = [option.name for option in options if option.name in ("ipv4", "ipv6")]
    family = f"-{families[-1][-1]}" if families else None
    return remote_end(paths, values.get("rsh"), values.get("rsync-path"), family, environ)


_NO_TRANSFER = frozenset("help version server sender daemon config dparam detach no-detach list-only".split())


def transfers(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether a command line copies paths, unlike a server process, a listing or a question."""
    options, paths = _split(argv, [], environ)
    return len(paths) > 1 and not any(option.name in _NO_TRANSFER for option in options)


def paths(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the paths of a command line, as they are given."""
    return _split(argv, [], environ)[1]


def end_of_options(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """Return where another option can be inserted: before ``--``, or with POSIXLY_CORRECT before the first path."""
    index = 0
    while index < len(argv):
        if argv[index] == "--" or (_is_path(argv[index]) and "POSIXLY_CORRECT" in environ):
            return index
        index += 2 if takes_next(argv[index]) else 1
    return len(argv)


def _is_path(argument: str) -> bool:
    return argument == "-" or not argument.startswith("-")


def _split(argv: Sequence[str], why_not: list[str], environ: Mapping[str, str]) -> tuple[list[Option], list[str]]:
    options: list[Option] = []
    paths: list[str] = []
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            paths += rest
        elif _is_path(argument):
            paths.append(argument)
            if "POSIXLY_CORRECT" in environ:
                paths += rest
        else:
            try:
                options += _long(argument, rest) if argument.startswith("--") else _bundle(argument, rest)
            except _NotUnderstood as error:
                why_not.append(str(error))
    return options, paths


def _long(argument: str, rest: Iterator[str]) -> Iterator[Option]:
    given, equals, value = argument[2:].partition("=")
    if given not in LONGS:
        raise _NotUnderstood(f"the option --{given} is not known")
    spec, negated = LONGS[given]
    name = f"no-{spec.name}" if negated else spec.name
    if not spec.takes_argument or negated:
        if equals:
            raise _NotUnderstood(f"the option --{given} takes no value")
        yield Option(name, None, (argument,))
    else:
        value = value if equals else _next(rest, f"--{given}")
        yield Option(name, value, (f"--{given}={value}",))


def _bundle(argument: str, rest: Iterator[str]) -> Iterator[Option]:
    for index, letter in enumerate(argument[1:], 2):
        if letter not in LETTERS:
            raise _NotUnderstood(f"the option -{letter} is not known")
        spec = LETTERS[letter]
        if not spec.takes_argument:
            yield Option(spec.name, None, (f"-{letter}",))
            continue
        attached = argument[index:]
        # popt takes one '=' between a letter and its value as punctuation: -B=800 is -B800.
        value = attached[attached.startswith("=") :] if attached else _next(rest, f"-{letter}")
        yield Option(spec.name, value, (f"--{spec.name}={value}",))
        return


def takes_next(word: str) -> bool:
    """Return whether a word of a command line is an option whose value is the next word."""
    if word.startswith("--"):
        given, equals, _ = word[2:].partition("=")
        return given in LONGS and LONGS[given][0].takes_argument and not LONGS[given][1] and not equals
    if not word.startswith("-"):
        return False
    for index, letter in enumerate(word[1:], 2):
        if letter not in LETTERS:
            return False
        if LETTERS[letter].takes_argument:
            return index == len(word)
    return False


def _next(rest: Iterator[str], shown: str) -> str:
    # Whatever comes next is the value, be it '--' or another option.
    for value in rest:
        return value
    raise _NotUnderstood(f"the option {shown} lacks its value")


def _effects(options: Sequence[Option]) -> tuple[Counter[str], dict[str, str]]:
    """How often each option holds in the end, and the last value of each that has one."""
    state: Counter[str] = Counter()
    values: dict[str, str] = {}
    for name, value, _ in options:
        if name in LONGS and LONGS[name][1]:
            for each in _TURNED_OFF.get(name, (name[3:],)):
                state[each] = 0
                values.pop(each, None)
            continue
        state[name] += 1
        if value is not None:
            values[name] = value
        for implied in _IMPLIED.get(name, ()):
            state[implied] = max(1, state[implied])
        if name == "chown" and value is not None and value.partition(":")[2]:
            state["group"] = max(1, state["group"])
    return state, values


def _whole_file(options: Sequence[Option], remote: RemoteEnd | None) -> bool:
    given = [option.name for option in options if option.name in ("whole-file", "no-whole-file")]
    return given[-1] == "whole-file" if given else remote is None


def _modify_window(text: str) -> int:
    # What is not understood is the strictest, which holds for all others.
    return int(text) if re.fullmatch("0|[1-9][0-9]{0,8}", text) else -1


def _compresses(state: Counter[str], values: Mapping[str, str]) -> bool:
    # A level or an algorithm asks for compression by itself, and "none" or 0 takes it back: rsync(1), --compress.
    options = ("compress", "old-compress", "new-compress", "compress-choice", "compress-level")
    asked = any(state[name] for name in options)
    return asked and values.get("compress-choice") != "none" and values.get("compress-level") != "0"


def parse_bwlimit(text: str | None) -> int | None:
    """Return the bytes per second of a ``--bwlimit``, or None for no limit or one that rsync will refuse.

    By rsync(1), units are 1024 bytes. A suffix K, M, G (or KiB) is a power of 1024, and KB is 1000.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([bkmgtp]?)(b|ib)?([+-]1)?", text or "0", re.IGNORECASE)
    if match is None:
        return None
    power = "bkmgtp".index(match[2].lower() or "k")
    limit = float(match[1]) * (1000 if (match[3] or "").lower() == "b" else 1024) ** power + int(match[4] or 0)
    return max(int(limit), 512) if limit else None


def secludes(command: Command, environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether remote paths bypass the remote shell: rsync(1), --secluded-args, or the default of a build."""
    names = ("secluded-args", "protect-args", "no-secluded-args", "no-protect-args", "no-s")
    given = [option.name for option in command.options if option.name in names]
    if given:
        return not given[-1].startswith("no-")
    if environ.get("RSYNC_PROTECT_ARGS", "") not in ("", "0"):
        return True
    tilde_or_dots = command.remote is not None and any("~" in path or ".." in path for path in command.remote.paths)
    if not tilde_or_dots:
        return False  # only then does it matter, and to ask takes a moment
    from .process import about

    return re.search(rb"default (?:secluded|protect)-args", about(environ)) is not None


def quotes(command: Command, version: tuple[int, int, int], environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether an rsync of a version passes remote paths on literally."""
    old = [option.name for option in command.options if option.name.endswith("old-args")][-1:] == ["old-args"]
    return version >= QUOTES_ARGUMENTS and not old and "RSYNC_OLD_ARGS" not in environ


def compression(command: Command) -> tuple[str | None, int | None]:
    """Return the requested algorithm and level, None for each that rsync chooses."""
    choice, level = command.value("compress-choice"), command.value("compress-level")
    known = {"zlib": "zlib", "zlibx": "zlib", "zstd": "zstd"}
    number = int(level) if level is not None and level.lstrip("+-").isdecimal() else None
    return (known.get(choice) if choice else None), number
