"""The names of other hosts: ``user@host:path``, and what an rsync command line means that has one.

rsync hands the far paths to the far login shell, and what arrives there depends on its version and on options. So only
paths that arrive as they are written are seeded (:func:`why_not_plain`): rsync 3.2.4 and newer put a backslash before
what a shell would see in them, but not before wildcards and a tilde, and a line break disappears with it; an
older one, or ``--old-args``, quotes nothing; with ``--secluded-args`` no shell sees the paths, nor does anybody
replace a tilde. Wildcards are never for us.

On a pull rsync lists names without saying which source they came from (:func:`pulled_from` finds out, where that
is certain): the names of the transfer are made from the source arguments by the rules of the
trailing slash and of ``--relative``.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import NamedTuple

QUOTES_ARGUMENTS = (3, 2, 4)
"""The first rsync that quotes the far paths; rsync(1), --old-args."""

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")
_PYTHON = re.compile(r"[A-Za-z0-9_@%+=:,./][A-Za-z0-9_@%+=:,./ -]*")
_NO_NAME = re.compile(
    r"[\s\0-\x20\x7f-\x9f'\"`$\\;&<>|(){}*?!\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


class Remote(NamedTuple):
    """``user@host:path``, taken apart."""

    user: str | None
    host: str
    path: str


def split_remote(path: str) -> Remote | None:
    """What ``path`` names on another host by rsync's rule, a colon before the first slash; None if it is local.

    Raises ValueError for an rsync daemon (``host::module``), which is not reached through a shell, and for no host.
    """
    match = re.match(r"(?:([^/:\[]*)@)?(?:\[([^]/]*)\]|([^/:\[]*)):", path)
    if match is None:
        return None
    rest = path[match.end() :]
    host = match[2] if match[2] is not None else match[3]
    if rest.startswith(":") or host == "rsync" and rest.startswith("//"):
        raise ValueError(f"{path}: an rsync daemon is not reached through a remote shell")
    if not host or host.startswith("-") or match[1] == "" or (match[1] or "").startswith("-"):
        raise ValueError(f"{path}: there is no host before the colon; a local file can be written ./{path}")
    # ssh puts both into commands where its configuration says so, ssh_config(5), TOKENS. In a user's name a
    # backslash may follow a domain.
    odd = _NO_NAME.search(host) or _NO_NAME.search((match[1] or "").replace("\\", ""))
    if odd:
        what = f"the name of a host or a user cannot hold {_shown(odd[0])}"
        raise ValueError(f"{path}: {what}; a local file can be written ./{path}")
    return Remote(match[1], host, rest)


def _shown(character: str) -> str:
    return "white space" if character.isspace() else character


def check_python(name: str) -> None:
    """Raise ValueError for the name of a Python on another host that a shell might take for more than a path."""
    if not _PYTHON.fullmatch(name):
        allowed = "letters, digits, spaces and _@%+=:,./-, and does not begin with - or a space"
        raise ValueError(f"{name or repr('')}: is no path of a Python on the other host; it has {allowed}")


def split_shell(text: str) -> list[str]:
    """The words of a remote shell's command as rsync splits it: quotes count, backslashes do not."""
    words = shlex.shlex(text, posix=True, punctuation_chars=False)
    words.whitespace_split = True
    words.escape = ""
    words.whitespace = " "
    words.commenters = ""
    found = list(words)
    if not found:
        raise ValueError("the remote shell's command is empty")
    return found


def remote_shell(given: str | None, environ: Mapping[str, str] = os.environ) -> str:
    """The command of the remote shell: the one that is given, else RSYNC_RSH, else ssh."""
    return given or environ.get("RSYNC_RSH") or "ssh"


class Far(NamedTuple):
    """The other host: of the destination on a push, else of the sources; and the paths there."""

    user: str | None
    host: str
    push: bool
    paths: tuple[str, ...]
    shell: tuple[str, ...]
    """The remote shell and its arguments."""
    prefix: str
    """What ``--rsync-path`` puts before rsync."""


class NotForUs(Exception):
    """The run is left to rsync; the message says why."""


def far_end(
    paths: Sequence[str],
    rsh: str | None,
    rsync_path: str | None,
    family: str | None,
    environ: Mapping[str, str] = os.environ,
) -> Far:
    """The other host of a command line that names one. ``family`` is "-4" or "-6". Raises NotForUs."""
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
        raise NotForUs("which host is the other one is for rsync to say")
    user, host = ends[0].user, ends[0].host
    if not host or any(end.host not in ("", host) or end.host and end.user != user for end in ends):
        raise NotForUs("more than one other host is named")
    prefix = ""
    if rsync_path is not None:
        match = re.fullmatch(r"(.*?)\s*(?<!\S)(?:[\w./-]*/)?rsync\s*", rsync_path, re.DOTALL)
        if match is None:
            raise NotForUs("--rsync-path runs something other than rsync")
        prefix = match[1]
    if family and os.path.basename(shell[0]) == "ssh":
        shell.insert(1, family)
    return Far(user, host, destination is not None, tuple(end.path or "." for end in ends), tuple(shell), prefix)


def _same_host(path: str) -> bool:
    return path.startswith(":") and not path.startswith("::")


def why_not_plain(far: Far, quoted: bool, *, secluded: bool = False, relative: bool = False) -> str | None:
    """Why a far path may arrive as something else; None if it does not.

    ``quoted``: rsync quotes them; ``secluded``: the far rsync reads them itself; ``relative``: with ``--relative``.
    """
    for path in far.paths:
        if re.search(r"[*?\[\]]", path):
            return f"{path}: wildcards are for the far shell"
        if path.startswith("~") and (secluded or relative or not path.startswith("~/")):
            return f"{path}: whether that is a home, and whose, is for the far shell and the version of rsync to say"
        # Some shells have control characters of their own; zsh replaces a leading "=".
        if re.search(r"[\0-\x1f\x7f]", path) or path.endswith("\\") or path.startswith("="):
            return f"{path}: what arrives of it depends on the far shell"
        if secluded and ".." in path.split("/"):
            return f"{path}: rsync leaves out '..' and what is before it, which behind a symlink is another place"
        if not quoted and (path.startswith("-") or not _PLAIN.fullmatch(path.replace("~", "", 1))):
            return f"{path}: what the far shell makes of it depends on the version of rsync"
    return None


def pulled_from(sources: Sequence[str], name: str, *, relative: bool, files_from: bool) -> str | None:
    """The far path of a listed name; None if it is not certain which of the sources it came from."""
    if files_from:
        return os.path.join(sources[0], name) if len(sources) == 1 else None
    found = [path for path in (_below(source, name, relative) for source in sources) if path is not None]
    return found[0] if len(found) == 1 else None


def _below(source: str, name: str, relative: bool) -> str | None:
    """``name``'s path if it can come from ``source``."""
    if not relative:
        parent, last = os.path.split(source)
        if last in ("", ".", ".."):
            return os.path.join(source, name)
        return os.path.join(parent, name) if _is_at_or_below(name, last) else None
    head, cut, tail = source.partition("/./")
    shown = "/".join(part for part in (tail if cut else source).split("/") if part not in ("", "."))
    if shown and not _is_at_or_below(name, shown):
        return None
    return os.path.join(head or "/", name) if cut else ("/" if source.startswith("/") else "") + name


def _is_at_or_below(name: str, top: str) -> bool:
    return name == top or name.startswith(top + "/")
