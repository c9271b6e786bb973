"""What a migration was asked for, and the rsync command that comes of it.

The command is ``rsync -aHAX --numeric-ids --one-file-system``, then what the presets leave out, the user's exclude
files, the user's own options, the sources and the destination. :class:`MigrationCommand` knows all of it but the
presets' patterns, which come once the sources have been looked at, and the way to share a connection, once there is
one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Callable

from ..engine.wire.fields import MAX_REGEX_CHARS
from ..hosts.address import remote_shell, with_words
from ..rsync import command as rsync
from ..rsync import filters
from ..rsync.paths import means_contents, why_not_plain

if TYPE_CHECKING:
    from ..embedding import Embedding
    from ..engine.tree.left_out import NameRules

BASE = ("-aHAX", "--numeric-ids", "--one-file-system")

_FILTERS = ("exclude", "exclude-from", "filter", "F", "cvs-exclude", "max-size", "min-size")
_XATTR_RULE = re.compile(r"(?:-|exclude),?[srp]*x[srp]*[ _](.+)")
_FORBIDDEN = {
    "dry-run": "give -n to migrate itself",
    "remove-source-files": "a migration leaves its source alone",
    "delete-excluded": "what is left out at the source stays at the destination",
    "files-from": "name the sources themselves",
    "itemize-changes": "give -v",
    "out-format": "give -v",
    "list-only": "give -n to migrate itself",
    "ignore-times": "the passes tell by times and sizes what has changed",
    "no-times": "the passes tell by times and sizes what has changed",
}


@dataclass(frozen=True)
class Commands:
    """The shell commands of a final pass, at the source, and those with ``_dest`` at the destination."""

    before: str | None = None
    after: str | None = None
    on_failure: str | None = None
    before_dest: str | None = None
    after_dest: str | None = None
    on_failure_dest: str | None = None


@dataclass(frozen=True)
class Request:
    """The user's request.

    ``options``: more of rsync's.
    ``preset``: None for the one that suits each source.
    ``track``: the directory of clones from which the passes tell what has changed, or None.
    ``streams``: how many connections carry the content of sparse files, at most.
    """

    sources: tuple[str, ...]
    destination: str
    options: tuple[str, ...] = ()
    preset: str | None = None
    exclude_from: tuple[str, ...] = ()
    exclude_sparse: bool = False
    skip_docker_loop: bool = False
    check: bool = False
    dry_run: bool = False
    final: bool = False
    verify: bool = False
    verify_full: bool = False
    allow_live: bool = False
    track: str | None = None
    commands: Commands = field(default_factory=Commands)
    rsh: str | None = None
    python: str | None = None
    remote_prefix: str = ""
    streams: int = 1


class MigrationCommand:
    """A validated request, and the rsync command built from it.

    ``sources``, ``path``: the paths of the sources and the destination at their hosts.
    ``patterns``: options of rsync that exclude something.
    ``fine_times``: both hosts and their rsyncs keep nanoseconds, so that a change within the second of the last pass is
    noticed.
    ``environ``, ``directory``: of every process.
    ``check``: called while something is waited for; may raise Stopped.

    Raises ValueError for an invalid request.
    """

    def __init__(self, request: Request, embedding: Embedding | None = None) -> None:
        self.request = request
        self.embedding = embedding
        self.environ: Mapping[str, str] = embedding.environ if embedding else os.environ
        self.directory: str | None = embedding.directory if embedding else None
        self.check: Callable[[], object] = embedding.check if embedding else lambda: None
        self.patterns: list[str] = []
        self.fine_times = False
        self._rsh = request.rsh
        self.command: rsync.Command = self._parse()
        remote = self.command.remote
        self.sources: list[str] = (
            [_at_home(path) for path in remote.paths] if remote and not remote.push else [*request.sources]
        )
        self.path: str = _at_home(remote.paths[0]) if remote and remote.push else request.destination

    def _parse(self) -> rsync.Command:
        """Raise ValueError for a command line that is no migration. Returns the parsed rsync command otherwise."""
        request = self.request
        if not request.sources:
            raise ValueError(f"{request.destination}: a destination is missing")
        command = rsync.parse(self.argv(), self.environ)
        if command.sources != request.sources or command.destination != request.destination:
            raise ValueError("only rsync's options may follow --; put paths before it")
        for option in command.options:
            if option.name in _FORBIDDEN:
                raise ValueError(f"{option.tokens[0]}: {_FORBIDDEN[option.name]}")
        remote = command.remote
        if remote is None and any(map(_is_remote, (*request.sources, request.destination))):
            if _is_remote(request.destination) and any(map(_is_remote, request.sources)):
                raise ValueError("the source or the destination must be on this host")
            raise ValueError(command.handoff or "the host is not clear from the paths")
        secluded, relative = rsync.secludes(command, self.environ), command.relative
        unclear = why_not_plain(remote, True, secluded=secluded, relative=relative) if remote else None
        if remote and any("\n" in path for path in remote.paths):
            raise ValueError("a path on another host must not have a line break")
        if unclear:
            raise ValueError(f"{unclear}; name the path itself")
        if any(option.value == "-" for option in command.options if option.name.endswith("-from")):
            raise ValueError("standard input cannot be read several times; name a file")
        contents = [path for path in request.sources if means_contents(path)]
        if request.verify and remote and not remote.push and len(request.sources) > 1 and contents:
            raise ValueError(f"{contents[0]}: with --verify, pull one source at a time, or name it without the slash")
        if request.track is not None:
            _check_track(request.track, request.sources, remote is not None and not remote.push)
        if request.streams != 1 and remote is None:
            raise ValueError("--streams is for a migration to or from another host")
        if request.verify and not request.final:
            raise ValueError("--verify needs a source that no longer changes; give it with --final")
        if any(asdict(request.commands).values()) and not request.final:
            raise ValueError("--before, --after and --on-failure are for the final pass: give them with --final")
        return command

    @property
    def filters(self) -> bool:
        """Whether the user excludes something by patterns."""
        return any(option.name in _FILTERS for option in self.command.options)

    @property
    def certain(self) -> bool:
        """Whether the walks of the sources leave out all that the user excludes."""
        return not self.filters or all(self.rules(source) is not None for source in self.sources)

    @property
    def xattr_rules(self) -> list[str]:
        """The patterns by which the user excludes extended attributes, as with ``--filter='-x btrfs.*'``."""
        rules = [_XATTR_RULE.fullmatch(each.value or "") for each in self.command.options if each.name == "filter"]
        return [rule[1] for rule in rules if rule]

    def leaves_xattr(self, name: str) -> bool:
        """Return whether the user excludes an extended attribute."""
        return any(fnmatchcase(name, rule) for rule in self.xattr_rules)

    def rules(self, source: str) -> NameRules | None:
        """Return the rules for a walk of a source on its host; None: none, too many, or only rsync knows them."""
        walk = filters.walk(self.command)
        rules = walk.rules(source) if walk is not None else None
        travels = rules is not None and max(len(rules.directories), len(rules.others)) <= MAX_REGEX_CHARS
        return rules if travels else None

    def argv(self, *more: str) -> list[str]:
        """Return the arguments of rsync, with ``more`` options."""
        request = self.request
        extra = [option.name for option in rsync.parse([*request.options, "--", "a", "b"], self.environ).options]
        # Given twice, it means more: rsync(1), --one-file-system.
        base = [option for option in BASE if option.lstrip("-") not in extra]
        base += ["--modify-window=-1"] * (self.fine_times and "modify-window" not in extra)
        rsh = [f"--rsh={self._rsh}"] if self._rsh else []
        # An option of the same name behind -- counts.
        base += [f"--rsync-path={request.remote_prefix} rsync"] if request.remote_prefix else []
        excludes = [f"--exclude-from={path}" for path in request.exclude_from]
        options = [*base, *more, *self.patterns, *excludes, *request.options, *rsh]
        return [*options, "--", *request.sources, request.destination]

    def share(self, control: list[str]) -> None:
        """Make rsync use a shared connection. ``control``: options of ssh. The last ``--rsh`` counts."""
        self._rsh = with_words(remote_shell(self.command.value("rsh"), self.environ), control)

    def shown(self, command: Sequence[str]) -> list[str]:
        """Return a command as the user can run it, with the requested remote shell instead of the shared connection."""
        given = [] if self.request.rsh is None else [f"--rsh={self.request.rsh}"]
        return [word for each in command for word in (given if each == f"--rsh={self._rsh}" else [each])]


def _check_track(directory: str, sources: Sequence[str], pulls: bool) -> None:
    """Raise ValueError if sources cannot be tracked there."""
    if pulls:
        raise ValueError("--track is for sources on this host")
    real = os.path.join(os.path.realpath(directory), "")
    for source in sources:
        if real.startswith(os.path.join(os.path.realpath(source), "")):
            raise ValueError(f"{directory}: is below {source}; --track needs a directory beside the sources")


def _at_home(path: str) -> str:
    return path[2:] or "." if path.startswith("~/") else "." if path == "~" else path


def _is_remote(path: str) -> bool:
    return ":" in path.partition("/")[0]
