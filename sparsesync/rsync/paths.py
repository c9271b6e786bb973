"""What the paths of an rsync command line mean: names of the transfer, and paths on another host.

The names of the transfer are made from the source arguments by the rules of the trailing slash
(:func:`means_contents`) and of ``--relative`` (:func:`transfer_name`). On a pull rsync lists names without saying
which source they came from; :func:`pulled_from` finds out, where that is certain.

rsync hands the remote paths to the remote login shell, and what arrives there depends on its version and on options. So
only paths that arrive as they are written are seeded (:func:`why_not_plain`): rsync 3.2.4 and newer put a backslash
before what a shell would see in them, but not before wildcards and a tilde, and a line break disappears with it; an
older one, or ``--old-args``, quotes nothing; with ``--secluded-args`` no shell sees the paths, nor does anybody replace
a tilde. Wildcards in the last component of a source are whoever's they are over there: the names that rsync lists tell
what they have become. Elsewhere they are not for us.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

QUOTES_ARGUMENTS = (3, 2, 4)
"""The first rsync that quotes the remote paths; rsync(1), --old-args."""

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")
_WILD = re.compile(r"[*?\[\]]")


def as_argument(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> str:
    """Return a caller's path as an argument of rsync, to which only a ``str`` can name another host."""
    text = os.fsdecode(path)
    return text if isinstance(path, str) or ":" not in text.partition("/")[0] else f"./{text}"


def means_contents(source: str) -> bool:
    """Return whether a source argument means the contents of a directory, not the directory: rsync(1), USAGE.

    That is so if it ends with "/", "." or "..", unless ``--relative`` is given.
    """
    return os.path.basename(source) in ("", ".", "..")


def sent_as_top(source: str, relative: bool) -> str | None:
    """Return the directory that a source argument sends as ``.``, the top of the transfer, or None.

    The destination directory gets its mode. With ``--relative`` it is sent if nothing follows the path's ``/./``, or
    another ``./`` does: rsync(1), --relative.
    """
    if not relative:
        return source if means_contents(source) else None
    above, cut, active = source.partition("/./")
    active = active.lstrip("/") if cut else source
    above = (above or "/") if cut else ""
    if active.startswith("./") and active != "./":
        return above or "."
    return os.path.join(above, active) if not active.strip("./") and not active.startswith("/") else None


def transfer_name(source: str, path: str, relative: bool) -> str | None:
    """Return the name of ``path`` in rsync's transfer of ``source``, or None if it is not ``source`` or below it.

    The name depends on a trailing slash, or "." and "..", and ``--relative``: rsync(1). The name of a directory whose
    contents are copied is "".
    """
    if relative:
        _head, cut, tail = source.partition("/./")
        top, shown = _clean(source), _clean(tail if cut else source).lstrip("/")
    else:
        top = _clean(source)
        shown = "" if means_contents(source) else os.path.basename(source)
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


def pulled_from(sources: Sequence[str], name: str, *, relative: bool, files_from: bool) -> str | None:
    """Return the remote path of a listed name, or None if the source that it comes from is uncertain."""
    if files_from:
        return os.path.join(sources[0], name) if len(sources) == 1 else None
    found = {path for path in (_below(source, name, relative) for source in sources) if path is not None}
    return found.pop() if len(found) == 1 else None


def _below(source: str, name: str, relative: bool) -> str | None:
    """``name``'s path if it can come from ``source``."""
    if not relative:
        if means_contents(source):
            return os.path.join(source, name)
        parent, last = os.path.split(source)
        return os.path.join(parent, name) if _is_at_or_below(name, last) else None
    head, cut, tail = source.partition("/./")
    shown = "/".join(part for part in (tail if cut else source).split("/") if part not in ("", "."))
    if shown and not _is_at_or_below(name, shown):
        return None
    return os.path.join(head or "/", name) if cut else ("/" if source.startswith("/") else "") + name


def _is_at_or_below(name: str, top: str) -> bool:
    if _WILD.search(top):
        parts, patterns = name.split("/"), top.split("/")
        return len(parts) >= len(patterns) and all(map(_may_match, parts, patterns))
    return name == top or name.startswith(top + "/")


def _may_match(part: str, pattern: str) -> bool:
    """Return whether a wildcard may have expanded to a name. Shells differ on classes and backslashes."""
    return part == pattern or bool(re.search(r"[\[\]\\]", pattern)) or fnmatch.fnmatchcase(part, pattern)


def is_wild(path: str) -> bool:
    """Return whether the remote host expands a path."""
    return _WILD.search(path) is not None


def is_remote(path: str) -> bool:
    """Return whether rsync takes a path for one on another host."""
    return ":" in path.partition("/")[0] or (path.startswith("[") and "]:" in path)


class RemoteEnd(NamedTuple):
    """The other host, and the paths there: the destination on a push, else the sources."""

    user: str | None
    host: str
    push: bool
    paths: tuple[str, ...]
    shell: tuple[str, ...]
    """The remote shell and its arguments."""
    prefix: str
    """What ``--rsync-path`` puts before rsync."""


class NotForUs(Exception):
    """A run that is left to rsync. The message says why."""


def remote_end(
    paths: Sequence[str],
    rsh: str | None,
    rsync_path: str | None,
    family: str | None,
    environ: Mapping[str, str] = os.environ,
) -> RemoteEnd:
    """Return the other host of a command line that names one. Raises NotForUs.

    ``family``: "-4", "-6" or None.
    """
    # Hardly any command line needs it.
    from ..hosts.address import Remote, remote_shell, split_remote, split_shell

    try:
        destination = split_remote(paths[-1])
        # A source may be written ":path": it is on the same host as the one before.
        sources = [Remote(None, "", path[1:]) if _same_host(path) else split_remote(path) for path in paths[:-1]]
        shell = split_shell(remote_shell(rsh, environ))
    except ValueError as error:
        raise NotForUs(str(error)) from None
    if destination is not None and not any(sources):
        ends = [destination]
    elif destination is None and all(sources) and sources:
        ends = [source for source in sources if source is not None]
    else:
        raise NotForUs("the other host cannot be told from the command line")
    user, host = ends[0].user, ends[0].host
    if not host or any(end.host not in ("", host) or (end.host and end.user != user) for end in ends):
        raise NotForUs("more than one other host is named")
    prefix = ""
    if rsync_path is not None:
        match = re.fullmatch(r"(.*?)\s*(?<!\S)(?:[\w./-]*/)?rsync\s*", rsync_path, re.DOTALL)
        if match is None:
            raise NotForUs("--rsync-path runs something other than rsync")
        prefix = match[1]
    if family and os.path.basename(shell[0]) == "ssh":
        shell.insert(1, family)
    return RemoteEnd(user, host, destination is not None, tuple(end.path or "." for end in ends), tuple(shell), prefix)


def _same_host(path: str) -> bool:
    return path.startswith(":") and not path.startswith("::")


def list_path(value: str, remote: RemoteEnd | None) -> str:
    """Return the path of a ``--files-from`` on the other host. Raises NotForUs."""
    named, _, path = value.partition(":")
    same = remote is not None and named in ("", remote.host, f"{remote.user}@{remote.host}")
    if not same or path == "-" or not _PLAIN.fullmatch(path):
        raise NotForUs("--files-from names a file on another host")
    return path


def why_not_plain(
    remote: RemoteEnd, quoted: bool, *, secluded: bool = False, relative: bool = False, wild: bool = False
) -> str | None:
    """Return why a remote path may arrive changed, or None if it does not.

    ``quoted``: rsync quotes paths.
    ``secluded``: the remote rsync reads the paths itself.
    ``relative``: with ``--relative``.
    ``wild``: wildcards are allowed in the last component of a path.
    """
    for path in remote.paths:
        above, last = os.path.split(path)
        # Some shells let ".*" be "..", too.
        if is_wild(above if wild and not last.startswith(".") else path):
            return f"{path}: wildcards are for the remote host's shell"
        if path.startswith("~") and (secluded or relative or not path.startswith("~/")):
            return f"{path}: whose home that is depends on the remote host's shell and on the version of rsync"
        # Some shells have control characters of their own; zsh replaces a leading "=".
        if re.search(r"[\0-\x1f\x7f]", path) or path.endswith("\\") or path.startswith("="):
            return f"{path}: what arrives of it depends on the remote host's shell"
        if secluded and ".." in path.split("/"):
            return f"{path}: rsync leaves out '..' and what is before it, which behind a symlink is another place"
        if not quoted and (path.startswith("-") or not _PLAIN.fullmatch(path.replace("~", "", 1))):
            return f"{path}: what the remote host's shell makes of it depends on the version of rsync"
    return None
