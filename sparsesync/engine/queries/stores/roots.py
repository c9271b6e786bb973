"""Where the stores of a tree are.

A store is known by what is in it, or by where it is: by default, or as configured on this machine, or in the tree of
another system that a source holds. What a user says of a store counts for directories of that user alone: else a link
or a setting in a home directory would leave out what belongs to somebody else.
"""

import glob
import json
import os
import re
from typing import Iterator, List, NamedTuple, Optional, Sequence

from ..mounts import is_below
from .table import KINDS, Kind, Setting


class Root(NamedTuple):
    """The root of a store, as spelled from a source on.

    ``top``: where the system begins that the store is of, "" for this machine's, None if that is not known.
    ``home``: the home directory that it is in, or "".
    ``outer``: the root of the store that it is a part of, or "".
    """

    kind: Kind
    path: str
    top: Optional[str]
    home: str = ""
    outer: str = ""


def is_system(path: str) -> bool:
    """Return whether a directory looks like the root of a system."""
    looks = all(os.path.isdir(os.path.join(path, name)) for name in ("etc", "proc", "usr"))
    return looks or os.path.realpath(path) == "/"


def looks_like(path: str, kind: Kind) -> bool:
    """Return whether a directory has the marks of a kind of store."""
    return any(glob.glob(os.path.join(glob.escape(path), mark)) for mark in kind.marks)


def find_roots(source: str, kinds: Sequence[Kind] = KINDS) -> List[Root]:
    """Return the stores at or below ``source``. Raises ValueError for a broken configuration of dockerd."""
    found: List[Root] = []
    first = next((kind for kind in KINDS if looks_like(source, kind)), None)
    if first in kinds and first is not None:
        found.append(_by_its_looks(source, first))
    for kind in kinds:
        for place in places(kind, ""):
            below = spelled(source, place.path)
            if below is not None:
                _add(found, place._replace(path=below))
        if is_system(source):
            for place in places(kind, source):
                _add(found, place)
    for root in found:
        for folder, name in root.kind.inside:
            for kind in kinds:
                if kind.name == name:
                    _add(found, Root(kind, os.path.join(root.path, folder), root.top, root.home, root.path))
    return found


def _add(found: List[Root], root: Root) -> None:
    real = os.path.realpath(root.path)
    for other in found:
        theirs = os.path.realpath(other.path)
        if real == theirs or (root.kind is other.kind and is_below(real, theirs)):
            return
    if os.path.isdir(root.path) and (not root.home or _owner(root.path) == _owner(root.home)):
        found.append(root)


def _owner(path: str) -> Optional[int]:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _by_its_looks(source: str, kind: Kind) -> Root:
    real = os.path.realpath(source)
    for place in places(kind, ""):
        if os.path.realpath(place.path) == real:
            return place._replace(path=source)
    for path in kind.roots:
        below = path.lstrip("~")
        if real.endswith(below):
            top = real[: -len(below)]
            return Root(kind, source, None, top) if path.startswith("~") else Root(kind, source, top)
    return Root(kind, source, None)


def places(kind: Kind, top: str) -> Iterator[Root]:
    """Yield where the system at ``top`` may have stores of a kind. Raises ValueError for a broken configuration."""
    configured = [(path, home) for setting in kind.settings for path, home in read(setting, top)]
    for path, home in configured:
        yield Root(kind, _at(top, path), top, home)
    elsewhere = any(not home for _, home in configured)
    for path in kind.roots:
        if path.startswith("~"):
            for home in homes(top):
                yield Root(kind, home + path[1:], top, home)
        elif not elsewhere or looks_like(_at(top, path), kind):
            yield Root(kind, _at(top, path), top)


def _at(top: str, path: str) -> str:
    return os.path.join(top, path.lstrip("/")) if top else path


def homes(top: str) -> List[str]:
    """Return the home directories of the system at ``top``."""
    found = sorted(glob.glob(_at(glob.escape(top), "/home/*/")))
    return [home.rstrip("/") for home in found] + [_at(top, "/root")]


def read(setting: Setting, top: str) -> "Iterator[tuple[str, str]]":
    """Yield each path that a setting of the system at ``top`` has, with the home directory that the file is in, or "".

    Raises ValueError for a file of JSON that is broken.
    """
    for home in homes(top) if setting.files.startswith("~") else [""]:
        pattern = glob.escape(home or top.rstrip("/")) + setting.files.lstrip("~")
        for file in sorted(glob.glob(pattern)):
            try:
                paths = list(_FORMATS[setting.format](file, setting))
            except (OSError, ValueError):
                if not home:
                    raise
                continue  # a user's own, which must not keep the machine from being moved
            for path in paths:
                path = path.replace("$HOME", home).replace("${HOME}", home)
                if path.startswith("/"):
                    # The machine's own encoding may be another than that of the file.
                    yield os.fsdecode(path.encode("utf-8", "surrogateescape")), home


def _json(file: str, setting: Setting) -> Iterator[str]:
    found = daemon_settings(file)
    path = next((found[key] for key in setting.keys if found.get(key)), None)
    return iter(() if path is None else (str(path),))


def daemon_settings(file: str) -> "dict[str, object]":
    """Return dockerd's configuration, without any if there is no such file. Raises ValueError if it is broken."""
    try:
        with open(file, encoding="utf-8") as opened:
            settings = json.load(opened)
        if not isinstance(settings, dict):
            raise ValueError("it is no object")
        return settings
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError("{}: not a configuration of dockerd: {}".format(file, error)) from None


def _toml(file: str, setting: Setting) -> Iterator[str]:
    """Yield the values of keys whose name is the same in no other table of the file."""
    for key in setting.keys:
        for match in re.finditer(r"^[ \t]*{}[ \t]*=[ \t]*([\"'])(.*?)\1".format(key), _text(file), re.MULTILINE):
            yield match.group(2)
            break


def _xml(file: str, setting: Setting) -> Iterator[str]:
    for key in setting.keys:
        for match in re.finditer(r"<{0}>\s*([^<]*?)\s*</{0}>".format(key), _text(file)):
            yield _unescaped(match.group(1))


def _xml_source(file: str, setting: Setting) -> Iterator[str]:
    for match in re.finditer(r"<source\s[^>]*?\bfile=([\"'])(.*?)\1", _text(file)):
        yield _unescaped(match.group(2))


def _unescaped(text: str) -> str:
    for name, character in (("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&")):
        text = text.replace("&{};".format(name), character)
    return text


def _text(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as opened:
            return opened.read()
    except OSError:
        return ""  # it is another user's, or has gone


_FORMATS = {"json": _json, "toml": _toml, "xml": _xml, "xml-source": _xml_source}


def spelled(source: str, path: str) -> Optional[str]:
    """Return ``path`` spelled from ``source`` on, if it is there or below; else None."""
    top = os.path.realpath(source)
    real = os.path.realpath(path)
    if real == top:
        return source
    prefix = top if top.endswith("/") else top + "/"
    return os.path.join(source, real[len(prefix) :]) if real.startswith(prefix) else None
