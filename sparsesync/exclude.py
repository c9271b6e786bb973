"""Exclude files, from a scan: what leaves out exactly the sparse files that were found.

:data:`FORMATS` has a row for each program that reads such files: how it quotes, how it names files, how it is told.

A pattern has to name a file as the program sees it that reads the pattern. For rsync that is
the name in the transfer: ``/var/lib/docker/`` puts its contents at the top, so a file below it is
``/devicemapper/...``; ``/var/lib/docker`` puts the directory itself there, ``/docker/...``; with
``--relative`` all of the path counts (:func:`~.rsync.paths.transfer_name`). A leading slash anchors the pattern
there, so it matches one file and no other.

Each program quotes in its own way, and each has names that a line of text cannot carry. rsync takes a
backslash for an escape only where the pattern has a wildcard, and ends a line at a carriage return too;
with ``--from0`` it takes any name. borg, kopia and rustic read theirs as UTF-8. What cannot be written is a ValueError,
never a pattern that means something else.

The presets (:mod:`engine.queries.presets`) add patterns of their own, which do hold wildcards.

A source on another host is scanned there (:mod:`hosts.pool`), and what counts for the pattern is the path behind the
colon.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Callable, NamedTuple

from .engine.errors import OnError
from .engine.tree.scan import ScanOptions, Sparse
from .hosts.base import Location, PathLike, Rsh, several
from .hosts.pool import HostPool
from .rsync.paths import transfer_name

if TYPE_CHECKING:
    from .engine.queries.presets import ExcludedPath


class PatternOptions(NamedTuple):
    """What is excluded, and in which format: parameters of :func:`sparsesync.api.trees.exclude_patterns`."""

    relative: bool = False
    min_size: int = 0
    min_ratio: float = 0.0
    one_file_system: bool = False
    preset: str | None = None
    format: str = "rsync"
    null: bool = True


def exclude_patterns(
    sources: PathLike | Iterable[PathLike],
    options: PatternOptions,
    *,
    on_error: OnError = None,
    rsh: Rsh = None,
    python: str | None = None,
) -> list[str]:
    """Return the patterns, as :func:`sparsesync.api.trees.exclude_patterns`."""
    quote = quoter(options.format, options.null)
    with HostPool(rsh, python) as hosts:
        locations = [hosts.locate(source) for source in several(sources)]
        places = preset_places(locations, options)
        patterns = set(place_patterns(places, options.relative, quote))
        patterns.update(quote(name) for name, _ in sparse_names(locations, places, options, on_error))
    return sorted(patterns)


def sparse_names(
    locations: Sequence[Location],
    places: Sequence[ExcludedPath],
    options: PatternOptions,
    on_error: OnError = None,
) -> Iterator[tuple[str, Sparse]]:
    """Yield each sparse file, with its name as seen by the program that reads the pattern."""
    program = FORMATS[options.format]
    if program.one_source and len(locations) > 1:
        raise ValueError(f"{locations[1].path}: an exclude file of {options.format} is for one directory only")
    for host, source, _ in locations:
        # What a preset leaves out with all that is below needs no walk, and no patterns for what is found there.
        prune = [place.path for place in places if place.source == source and place.wildcard in ("", "/*")]
        top = host.directory() if program.absolute([location.path for location in locations]) else ""
        # Every link: rsync with -H transfers a hard-linked file under whichever name is left.
        wanted = ScanOptions(options.one_file_system, every_link=True, min_size=options.min_size, prune=prune)
        for found, data, *_ in host.scan(source, wanted, measured=options.min_ratio > 0, on_error=on_error):
            if not options.min_ratio or found.size - min(data, found.allocated) >= options.min_ratio * found.size:
                yield program.name(top, source, found.path, options.relative), found


def preset_places(locations: Sequence[Location], options: PatternOptions) -> list[ExcludedPath]:
    """Return the paths that a preset excludes. Raises ValueError for a format that cannot carry them."""
    if options.preset is None:
        return []
    if options.format != "rsync":
        raise ValueError(f"the presets are for rsync; they cannot be written for {options.format}")
    return [place for host, given, _ in locations for place in host.preset(options.preset, given)]


def place_patterns(places: Sequence[ExcludedPath], relative: bool, quote: Callable[[str], str]) -> Iterator[str]:
    """Yield the patterns of excluded paths, anchored at the top of the transfer."""
    for source, path, wildcard, _ in places:
        name = transfer_name(source, path, relative)
        if name is not None:
            anchored = "/" + name if name else ""
            quoted = quote(anchored)
            yield _quote_wild(anchored) + wildcard if wildcard else quoted


def _rsync_name(top: str, source: str, path: str, relative: bool) -> str:
    name = transfer_name(source, path, relative)
    assert name is not None  # a scan yields what is below its source
    return "/" + name


def _real_name(top: str, source: str, path: str, relative: bool) -> str:
    return os.path.normpath(os.path.join(top, path))


def _name_inside(top: str, source: str, path: str, relative: bool) -> str:
    inside = path[len(source) :].strip("/")
    if not inside:
        raise ValueError(f"{path}: is a file, and such an exclude file is for a directory")
    return "/" + inside


def _tar_name(top: str, source: str, path: str, relative: bool) -> str:
    # tar names what it walks by the argument less its slashes at the end, and a slash: tar(1).
    first = source.rstrip("/") or "/"
    rest = path[len(source) :].lstrip("/")
    return first if not rest else (first if first == "/" else first + "/") + rest


def excluding(names: Sequence[str], stack: contextlib.ExitStack) -> list[str]:
    """Return the options of rsync that exclude ``names`` of the transfer. Closing ``stack`` removes their files."""
    quote = quoter(null=True)
    patterns = [quote("/" + name) for name in names]
    if len(patterns) < 50:
        return [f"--exclude={pattern}" for pattern in patterns]
    listed = stack.enter_context(tempfile.NamedTemporaryFile(prefix="sparsesync-"))
    listed.writelines(os.fsencode(pattern) + b"\n" for pattern in patterns if "\n" not in pattern)
    listed.flush()
    others = [f"--exclude={pattern}" for pattern in patterns if "\n" in pattern]
    return [*others, f"--exclude-from={listed.name}"]


def quoter(format: str = "rsync", null: bool = False) -> Callable[[str], str]:
    """Return the function that makes a pattern of a name. It raises ValueError if the format cannot carry the name."""
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    return _quote_rsync if null and format == "rsync" else FORMATS[format].quote


def _refusing(characters: str, quote: Callable[[str], str], advice: str) -> Callable[[str], str]:
    def checked(name: str) -> str:
        if any(character in name for character in characters):
            raise ValueError(f"{name}: has a line break in its name: {advice}")
        return quote(name)

    return checked


def _utf_8(name: str, format: str) -> str:
    if re.search("[\udc80-\udcff]", name):
        raise ValueError(f"{name}: is not UTF-8: exclude files of {format} cannot carry such a name")
    return name


def _quote_rsync(name: str) -> str:
    """rsync(1), PATTERN MATCHING RULES: a backslash escapes only in a pattern with a wildcard."""
    return _quote_wild(name) if re.search(r"[*?\[]", name) else name


def _quote_wild(name: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", name)


def _quote_tar(name: str) -> str:
    """GNU tar's manual, "Wildcards Patterns and Matching"; white space at the end of a line is cut off."""
    return _bracket_last_space(_quote_wild(name))


def _quote_restic(name: str) -> str:
    """Quote as in restic's manual, "Excluding Files": Go's filepath.Match, with ``$`` for the environment."""
    return _bracket_last_space(_quote_wild(name).replace("$", "$$"))


def _quote_kopia(name: str) -> str:
    """Quote as in the file .kopiaignore: as in .gitignore, but for kopia all that is not UTF-8 is one character."""
    if "\ufffd" in _utf_8(name, "kopia"):
        raise ValueError(f"{name}: has U+FFFD in its name: exclude files of kopia cannot carry such a name")
    return _bracket_last_space(_quote_wild(name))


def _quote_rustic(name: str) -> str:
    """Quote as for the Rust crate ``ignore``, "overrides": as in .gitignore, with braces, and ``!`` excludes."""
    pattern = "!/" + re.sub(r"([*?\[\]{}\\])", r"\\\1", _utf_8(name, "rustic").lstrip("/"))
    # In brackets it takes bytes, not characters.
    return f"{pattern[:-1]}{{{pattern[-1]}}}" if pattern[-1].isspace() else pattern


def _bracket_last_space(pattern: str) -> str:
    return f"{pattern[:-1]}[{pattern[-1]}]" if pattern[-1:].isspace() else pattern


def _quote_borg(name: str) -> str:
    """Quote as in "borg help patterns": ``pf:`` is a literal path; what a line would lose needs ``re:``, Python's."""
    name = _utf_8(name, "borg").lstrip("/")
    if name == name.strip() and name.isprintable():
        return f"pf:{name}"
    quoted = "".join(f"\\U{ord(c):08x}" if c.isspace() or ord(c) < 32 else re.escape(c) for c in name)
    return f"re:^{quoted}\\Z"


class Format(NamedTuple):
    """A program that reads exclude files.

    ``quote``: makes a pattern of a name; raises ValueError if the program's file cannot carry it.
    ``name``: what the program calls a file: by the directory where it runs or "", the source, its path, ``--relative``.
    ``usage``: how the program is given the file; "" where it knows no comments.
    ``absolute``: whether it sees whole paths, if it is given these sources.
    ``one_source``: whether its file is for one directory only, and lies in it.
    """

    quote: Callable[[str], str]
    name: Callable[[str, str, str, bool], str]
    usage: str
    absolute: Callable[[Sequence[str]], bool] = lambda sources: False
    one_source: bool = False


def _lines(format: str, quote: Callable[[str], str]) -> Callable[[str], str]:
    return _refusing("\n", quote, f"exclude files of {format} cannot carry such a name")


FORMATS = {
    "rsync": Format(
        _refusing("\n\r", _quote_rsync, "use -0, and rsync --from0"), _rsync_name, "rsync --exclude-from=FILE"
    ),
    "tar": Format(_lines("tar", _quote_tar), _tar_name, ""),
    "borg": Format(_quote_borg, _real_name, "borg create --exclude-from FILE"),
    "restic": Format(
        _lines("restic", _quote_restic), _real_name, "restic backup --exclude-file FILE", lambda sources: True
    ),
    "kopia": Format(_lines("kopia", _quote_kopia), _name_inside, "the file .kopiaignore in SRC", one_source=True),
    "rustic": Format(
        _lines("rustic", _quote_rustic),
        _real_name,
        "rustic backup --glob-file FILE",
        lambda sources: any(source.startswith("/") for source in sources),
    ),
}
"""Each program that exclude files can be written for."""


__all__ = ["FORMATS", "exclude_patterns"]
