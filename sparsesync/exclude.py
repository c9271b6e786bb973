"""Exclude files, from a scan: what leaves out exactly the sparse files that were found.

A pattern has to name a file as the program sees it that reads the pattern. For rsync that is
the name in the transfer: ``/var/lib/docker/`` puts its contents at the top, so a file below it is
``/devicemapper/...``; ``/var/lib/docker`` puts the directory itself there, ``/docker/...``; with
``--relative`` all of the path counts (:func:`transfer_name`). A leading slash anchors the pattern
there, so it matches one file and no other.

Each program quotes in its own way, and each has names that a line of text cannot carry. rsync takes a
backslash for an escape only where the pattern has a wildcard, and ends a line at a carriage return too;
with ``--from0`` it takes any name. borg reads its file as UTF-8. What cannot be written is a ValueError,
never a pattern that means something else.

The presets (:mod:`engine.queries.presets`) add patterns of their own, which do hold wildcards.

A source on another host is scanned there (:mod:`hosts.pool`), and what counts for the pattern is the path behind the
colon.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import BinaryIO, Callable

from .console.sorting import Sorted
from .console.units import iec
from .engine.errors import OnError
from .engine.queries.presets import Place
from .engine.text import printable
from .engine.tree.scan import Sparse
from .hosts.pool import Ends, PathLike, Site

FORMATS = ("rsync", "tar", "borg", "restic")


def exclude_patterns(
    sources: Sequence[PathLike],
    *,
    relative: bool = False,
    min_size: int = 0,
    min_ratio: float = 0.0,
    one_file_system: bool = False,
    preset: str | None = None,
    format: str = "rsync",
    null: bool = True,
    on_error: OnError = None,
    rsh: str | None = None,
    python: str | None = None,
) -> list[str]:
    """The patterns that exclude the sparse files below ``sources``, one rule each.

    ``sources`` are given as to rsync, and ``relative`` is rsync's ``--relative``. ``min_size`` is the smallest
    apparent size in bytes; ``min_ratio`` the smallest share of the file, 0 to 1, that is no data. ``preset`` is
    "docker" or "system"; ``format`` "rsync", "tar", "borg" or "restic". Undecodable bytes in names are surrogate
    escapes (os.fsencode). With ``null`` false, names that need ``rsync --from0`` are refused. A ``str`` may be
    ``host:path``; ``rsh`` is the remote shell's command (by default RSYNC_RSH, else ssh), and ``python`` the Python to
    use there (by default one is looked for).

    Where two sources have a file of the same name in the transfer, a pattern cannot tell them apart.

    Raises ValueError for a name the format cannot carry and for an unknown preset or format, OSError if a source
    cannot be read, LinkError if there is no connection; other errors go to ``on_error`` if that is given.
    """
    quote = quoter(format, null)
    with Ends(rsh, python) as ends:
        sites = [ends.at(source) for source in sources]
        places = _places(sites, preset, format)
        patterns = set(place_patterns(places, relative, quote))
        for name, _ in sparse_names(sites, places, relative, format, min_size, min_ratio, one_file_system, on_error):
            patterns.add(quote(name))
    return sorted(patterns)


def write(
    out: BinaryIO,
    sources: Sequence[str],
    *,
    relative: bool = False,
    min_size: int = 0,
    min_ratio: float = 0.0,
    one_file_system: bool = False,
    preset: str | None = None,
    format: str = "rsync",
    null: bool = False,
    on_error: OnError = None,
    command: str = "sparsesync",
    rsh: str | None = None,
    python: str | None = None,
) -> None:
    """Write an exclude file: a head of comments that says what was found and how, and the patterns.

    ``null`` ends every line with a NUL, for ``rsync --from0``. The other parameters are those of
    :func:`exclude_patterns`; ``command`` is who made it, for the head. A file for tar has no head,
    because tar knows no comments; it is read with ``tar --anchored --exclude-from``.
    """
    if null and format != "rsync":
        raise ValueError("-0 is for rsync's --from0; the other formats are lines of text")
    quote = quoter(format, null)
    end = b"\0" if null else b"\n"
    count = size = allocated = 0
    patterns = Sorted()
    with Ends(rsh, python) as ends:
        sites = [ends.at(source) for source in sources]
        places = _places(sites, preset, format)
        for pattern in place_patterns(places, relative, quote):
            patterns.add(pattern)
        limits = (min_size, min_ratio, one_file_system)
        for name, found in sparse_names(sites, places, relative, format, *limits, on_error):
            patterns.add(quote(name))
            count += 1
            size += found.size
            allocated += found.allocated
    if format != "tar":
        usage = {
            "rsync": "rsync --from0 --exclude-from=FILE" if null else "rsync --exclude-from=FILE",
            "borg": "borg create --exclude-from FILE",
            "restic": "restic backup --exclude-file FILE",
        }[format]
        given = " ".join(map(printable, sources))
        options = " --relative" * relative + f" --preset {preset}" * bool(preset)
        options += f" --min-size {min_size}" * (min_size > 0) + f" --min-ratio {min_ratio}" * (min_ratio > 0)
        for line in (
            f"# {count} sparse files: {iec(size)} apparent, {iec(allocated)} allocated",
            f"# made by {command} exclude{options} {given}",
            f"# use: {usage}",
        ):
            out.write(os.fsencode(line) + end)
    for (pattern,), _ in groupby(patterns):
        out.write(os.fsencode(pattern) + end)


def sparse_names(
    sites: Sequence[Site],
    places: Sequence[Place],
    relative: bool,
    format: str = "rsync",
    min_size: int = 0,
    min_ratio: float = 0.0,
    one_file_system: bool = False,
    on_error: OnError = None,
) -> Iterator[tuple[str, Sparse]]:
    """Each sparse file, with its name as the program sees it that reads the pattern."""
    for end, source, _ in sites:
        # What a preset leaves out with all that is below needs no walk, and no patterns for what is found there.
        prune = [place.path for place in places if place.source == source and place.wild in ("", "/*")]
        top = end.directory() if format == "restic" else ""
        # Every link: rsync with -H transfers a hard-linked file under whichever name is left.
        for found, data, _ in end.scan(
            source,
            one_file_system=one_file_system,
            every_link=True,
            min_size=min_size,
            prune=prune,
            measured=min_ratio > 0,
            on_error=on_error,
        ):
            if not min_ratio or found.size - min(data, found.allocated) >= min_ratio * found.size:
                yield _seen_as(format, top, source, found.path, relative), found


def _places(sites: Sequence[Site], preset: str | None, format: str) -> list[Place]:
    if preset is None:
        return []
    if format != "rsync":
        raise ValueError(f"the presets are for rsync; they cannot be written for {format}")
    return [place for end, given, _ in sites for place in end.preset(preset, given)]


def place_patterns(places: Sequence[Place], relative: bool, quote: Callable[[str], str]) -> Iterator[str]:
    """The patterns of places, anchored where the names of the transfer begin."""
    for source, path, wild, _ in places:
        name = transfer_name(source, path, relative)
        if name is not None:
            anchored = "/" + name if name else ""
            quoted = quote(anchored)
            yield _quote_wild(anchored) + wild if wild else quoted


def transfer_name(source: str, path: str, relative: bool) -> str | None:
    """The name in rsync's transfer of ``path``, which is ``source`` or below it; None if it is neither.

    As rsync(1) tells of a trailing slash and of ``--relative``; "." and ".." at the end of a source mean
    its contents. The name of what has none, a directory whose contents are copied, is "".
    """
    if relative:
        head, cut, tail = source.partition("/./")
        top, shown = _clean(source), _clean(tail if cut else source).lstrip("/")
    else:
        top = _clean(source)
        last = os.path.basename(source)
        shown = "" if last in ("", ".", "..") else last
    path = _clean(path)
    if path == top:
        return "" if shown == "." else shown
    prefix = top if top.endswith("/") else top + "/"
    if top == ".":
        below = path
    elif path.startswith(prefix):
        below = path[len(prefix) :]
    else:
        return None
    return below if shown in ("", ".") else f"{shown}/{below}"


def _clean(path: str) -> str:
    """Without empty and "." components; ".." stays, because behind a symlink it is not what it seems."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts) or "."


def _seen_as(format: str, top: str, source: str, path: str, relative: bool) -> str:
    if format == "rsync":
        name = transfer_name(source, path, relative)
        assert name is not None  # a scan yields what is below its source
        return "/" + name
    if format == "tar":
        return _tar_path(source, path)
    return os.path.normpath(os.path.join(top, path))


def _tar_path(source: str, path: str) -> str:
    # tar names what it walks by the argument less its slashes at the end, and a slash: tar(1).
    top = source.rstrip("/") or "/"
    rest = path[len(source) :].lstrip("/")
    return top if not rest else (top if top == "/" else top + "/") + rest


def quoter(format: str = "rsync", null: bool = False) -> Callable[[str], str]:
    """What makes a pattern of a name. It raises ValueError for one that the format cannot carry."""
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    if format == "borg":
        return _quote_borg
    if format == "rsync":
        return _quote_rsync if null else _refusing("\n\r", _quote_rsync, "use -0, and rsync --from0")
    quote = _quote_tar if format == "tar" else _quote_restic
    return _refusing("\n", quote, f"exclude files of {format} cannot carry such a name")


def _refusing(characters: str, quote: Callable[[str], str], advice: str) -> Callable[[str], str]:
    def checked(name: str) -> str:
        if any(character in name for character in characters):
            raise ValueError(f"{name}: has a line break in its name: {advice}")
        return quote(name)

    return checked


def _quote_rsync(name: str) -> str:
    """rsync(1), PATTERN MATCHING RULES: a backslash escapes only in a pattern with a wildcard."""
    return _quote_wild(name) if re.search(r"[*?\[]", name) else name


def _quote_wild(name: str) -> str:
    return re.sub(r"([*?\[\\])", r"\\\1", name)


def _quote_tar(name: str) -> str:
    """GNU tar's manual, "Wildcards Patterns and Matching"; white space at the end of a line is cut off."""
    return _bracket_last_space(_quote_wild(name))


def _quote_restic(name: str) -> str:
    """restic's manual, "Excluding Files": Go's filepath.Match, with ``$`` for the environment."""
    return _bracket_last_space(_quote_wild(name).replace("$", "$$"))


def _bracket_last_space(pattern: str) -> str:
    return f"{pattern[:-1]}[{pattern[-1]}]" if pattern[-1:].isspace() else pattern


def _quote_borg(name: str) -> str:
    """borg help patterns: ``pf:`` is one path as it is; what a line would lose goes through ``re:``, Python's."""
    if re.search("[\udc80-\udcff]", name):
        raise ValueError(f"{name}: is not UTF-8: exclude files of borg cannot carry such a name")
    name = name.lstrip("/")
    if name == name.strip() and name.isprintable():
        return f"pf:{name}"
    quoted = "".join(f"\\U{ord(c):08x}" if c.isspace() or ord(c) < 32 else re.escape(c) for c in name)
    return f"re:^{quoted}\\Z"


__all__ = ["FORMATS", "exclude_patterns", "transfer_name", "write"]
