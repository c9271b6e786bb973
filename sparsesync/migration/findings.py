"""What stands in the way of a migration, in the words a person reads.

What both machines said of themselves (:mod:`preflight`) is judged, and nobody is asked any more::

    ok        as it should be
    warning   it will go, and something will be different or lost; the line says what
    stop      it will not go, or what came of it would be wrong; the line says what to do
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..console.units import iec
from ..engine.queries.presets import left_out
from ..engine.queries.survey import BOUND, SUBVOLUME
from ..rsync.paths import means_contents
from ..rsync.process import OLDEST
from .preflight import Facts

if TYPE_CHECKING:
    from ..engine.queries.in_use import InUse
    from ..engine.queries.survey import Survey
    from ..engine.queries.system import System
    from ..hosts.base import Location
    from .plan import Plan

OK, WARNING, STOP = "ok", "warning", "stop"

_HOW = {
    "loop": "is behind a loop device that writes: {}",
    "swap": "is {} in use",
    "writing": "is open for writing: {}",
    "overlay": "is the upper layer of {}",
}
_MAX_REPORTED_FINDINGS = 10


class Finding(NamedTuple):
    """A line of the preflight."""

    level: str
    subject: str
    text: str


def stops(count: int) -> str:
    """Return what is said of a number of findings that say stop."""
    return f"{count} of the checks above say{'s' * (count == 1)} stop"


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield the findings about both machines, except for files in use and space: :func:`of_use`, :func:`of_space`.

    What stores of images ask for is in :mod:`stores`.
    """
    yield from _host(facts.source, facts.hosts[0])
    if not facts.one_machine:
        yield from _host(facts.destination, facts.hosts[1])
    yield from _root(facts)
    for source, survey in facts.surveys.items():
        yield from _source(facts, source, survey)
    yield from _destination(facts)
    yield from _refusals(facts)
    yield from _clashes(facts)


def _host(side: Location, host: System) -> Iterator[Finding]:
    if host.rsync is None:
        yield Finding(STOP, side.host.name, "rsync is not installed; install it, for instance: apt install rsync")
    elif tuple(map(int, host.rsync.split(".")[:2])) < OLDEST[:2]:
        yield Finding(STOP, side.host.name, f"rsync {host.rsync} is too old; 3.1 or newer is needed")
    else:
        who = "root" if host.root else "not root"
        yield Finding(OK, side.host.name, f"rsync {host.rsync}, Python {host.python}, {host.system}, {who}")


def _root(facts: Facts) -> Iterator[Finding]:
    source, destination = facts.hosts
    if not source.root:
        lost = "files you may not read, trusted.* attributes and others' open files are not seen"
        yield Finding(WARNING, facts.source.host.name, f"you are not root: {lost}")
    if destination.root or facts.keeps_attributes:
        return
    surveys = facts.surveys.values()
    devices = sum(survey.devices + survey.whiteouts for survey in surveys)
    foreign = sum(survey.foreign for survey in surveys)
    parts = [f"the owners of {count_of(foreign, 'file')}"] * (foreign > 0)
    parts += [count_of(devices, "device node")] * (devices > 0)
    parts.append("trusted.* attributes")
    yield Finding(WARNING, facts.destination.host.name, f"you are not root: lost are {', '.join(parts)}")


def _source(facts: Facts, source: str, survey: Survey) -> Iterator[Finding]:
    name = facts.at_source(source)
    if not survey.kind:
        yield Finding(STOP, name, "there is no such file or directory; correct the path")
        return
    if survey.kind == "l":
        yield Finding(WARNING, name, f"is a symlink, and only the link is copied; for what it leads to write {name}/")
    preset = facts.presets[source]
    if preset == "none" and survey.real == "/":
        what = "the kernel's own files, sockets and scratch space of this system would go along"
        yield Finding(STOP, name, f"{what}; leave --preset out, or give --preset system")
    shown = f"{iec(survey.allocated)} allocated, {iec(survey.size)} apparent, {count_of(survey.files, 'file')}"
    yield Finding(OK, name, f"{shown}, preset {preset}")
    if survey.unreadable:
        example = survey.example
        text = f"{count_of(survey.unreadable, 'name')} cannot be looked at, such as {example}"
        yield Finding(WARNING, name, f"{text}; rsync fails there, too: exclude it, or see to it")
    skip = left_out(facts.places)
    yield from _few(
        Finding(OK, facts.at_source(path), f"is mounted from {facts.at_source(image)}, and goes along in that")
        if image and not skip(image)
        else Finding(WARNING, facts.at_source(path), _not_entered(kind))
        for path, kind, image in survey.mounts
        if facts.asked.command.one_file_system and kind != BOUND and not skip(os.path.join(path, "what is in it"))
    )  # fmt: skip
    yield from _few(
        Finding(WARNING, facts.at_source(path), f"is a bind mount of {within} in the same filesystem, so what is in it "
                "goes along as well; exclude it if it is not to")
        for path, kind, within in survey.mounts
        if kind == BOUND and not skip(os.path.join(path, "what is in it"))
    )  # fmt: skip


def _not_entered(kind: str) -> str:
    if kind == SUBVOLUME:
        return (f"is a {kind}, and --one-file-system does not enter it: only an empty directory goes along; migrate it "
                "by itself if it is to, or enter all with -- --no-one-file-system")  # fmt: skip
    return (f"is a filesystem of its own ({kind}): only an empty directory goes along; migrate it by itself if it is "
            "to")  # fmt: skip


def _destination(facts: Facts) -> Iterator[Finding]:
    probe, name = facts.probe, facts.name
    if probe.kind == "-":
        yield Finding(STOP, name, "is not a directory; move it away, or name another destination")
        return
    if not probe.kind and not probe.parent and not facts.asked.command.mkpath:
        yield Finding(STOP, name, "its parent directory is not there; make it, or correct the path")
    if probe.refused is not None:
        advice = "make room" if probe.full else "mount it writable, or be root"
        yield Finding(STOP, name, f"nothing can be written there ({probe.refused}); {advice}")
        return
    if probe.busy:
        yield Finding(STOP, name, "another migration is running into it; wait for it, or end it")
    one, other = (host.identity for host in facts.hosts)
    same_machine = facts.one_machine or one == other != ""
    for source, survey in facts.surveys.items():
        if not same_machine or not survey.place or not probe.place:
            continue
        shown = source
        last = os.path.basename(source)
        contents = means_contents(source) or facts.asked.command.relative
        if survey.kind == "d" and not contents and survey.place == f"{probe.place.rstrip('/')}/{last}":
            yield Finding(STOP, name, f"is where the source {shown} lies, which would be copied onto itself; name "
                          "another place")  # fmt: skip
        elif survey.kind == "d" and survey.place == probe.place:
            yield Finding(STOP, name, f"is the source {shown} itself; name another place")
        elif survey.kind == "d" and _is_inside(facts, source, survey):
            text = f"is inside the source {shown} and would be copied into itself; name another place"
            yield Finding(STOP, name, text)
        elif facts.asked.command.delete and _is_below(survey.place, probe.place):
            yield Finding(STOP, name, f"holds the source {shown}, which --delete would remove; name another place")
    able = [
        word
        for word, has in [
            ("holes", probe.holes), ("punching holes", probe.punch), ("clones", probe.clone), ("xattrs", probe.xattrs),
            ("ACLs", probe.acls),
        ]
        if has
    ]  # fmt: skip
    inodes = "" if probe.inodes < 0 else f" and {probe.inodes} inodes"
    yield Finding(OK, name, f"{probe.type}, {iec(probe.free)}{inodes} free, has {', '.join(able) or 'nothing special'}")
    if not probe.nanoseconds:
        text = "times there are coarse: a change within the second of an earlier pass is seen by --verify only"
        yield Finding(WARNING, name, text)
    if not probe.holes:
        yield Finding(WARNING, name, "its filesystem has no holes: every sparse file takes its apparent size there")
    lacks = [word for word, has in [("extended attributes", probe.xattrs), ("ACLs", probe.acls)] if not has]
    if lacks:
        text = f"its filesystem has no {' and no '.join(lacks)}: they are lost, and rsync fails on files that have some"
        yield Finding(WARNING, name, text)
    large = max(facts.surveys.values(), key=lambda survey: survey.largest)
    if not probe.largest:
        path = facts.at_source(large.largest_path)
        level = WARNING if facts.asked.filters or facts.asked.request.exclude_sparse else STOP
        yield Finding(level, name, f"its filesystem cannot hold a file as large as {path} ({iec(large.largest)}); "
                      "use another one, such as XFS")  # fmt: skip


def _is_inside(facts: Facts, source: str, survey: Survey) -> bool:
    """Whether the walk of a source would come to the destination."""
    if not _is_below(facts.probe.place, survey.place):
        return False
    if facts.asked.command.one_file_system and facts.probe.device != survey.device:
        return False
    spelled = os.path.join(source, facts.probe.place[len(survey.place) :].lstrip("/"))
    skip = left_out(facts.places)
    parts = spelled.split("/")
    return not any(skip("/".join(parts[:count])) for count in range(1, len(parts) + 1))


def _is_below(place: str, top: str) -> bool:
    return place.startswith(top.rstrip("/") + "/")


_REFUSALS = {
    "name": ("the name of {path}", "rename it, or exclude it"),
    "pair": ("both {path} and {value} beside it", "rename one, or use a filesystem that tells them apart"),
    "mode": ("the mode {number:04o} of {path}", "give --no-perms after --, and set modes by the mount's options"),
    "owner": ("the owner {number} of {path}", "give --no-owner after --, or {fake} to keep it as an attribute"),
    "group": ("the group {number} of {path}", "give --no-group after --, or {fake} to keep it as an attribute"),
    "time": ("the time of {path}", "touch it, or exclude it"),
    "time d": ("times of directories such as {path}", "give --omit-dir-times after --"),
    "time l": ("times of symlinks such as {path}", "give --omit-link-times after --"),
    "xattr": ("the attribute {name} of {path}", "give --filter='-x {name}' --filter='-x system.*' after --"),
    "xattr size": ("{number} bytes of attributes of {path}", "use XFS, or ext4 made with -O ea_inode, or give "
                   "--no-xattrs after --"),
    "acl": ("the ACL of {path}", "mount it with ACLs, or give --no-acls after --"),
    "l": ("symlinks such as {path}", "give --no-links after --, or --copy-links to copy what they lead to"),
    "h": ("hard links such as {path}", "give --no-hard-links after --: each name becomes a file"),
    "p": ("the pipe {path}", "exclude it, or give --no-specials after --"),
    "s": ("the socket {path}", "exclude it, or give --no-specials after --"),
    "w": ("the whiteout {path}", "use another filesystem: what layers of images have deleted would come back"),
    "c": ("the device {path}", "exclude it, or give --no-devices after --"),
    "b": ("the device {path}", "exclude it, or give --no-devices after --"),
}  # fmt: skip
"""What a destination refuses by the kind of an example, or by its type, and what to do."""


def _refusals(facts: Facts) -> Iterator[Finding]:
    """Yield what rsync would fail at, or never have done with, and the flags that it does not copy."""
    level = STOP if facts.asked.certain else WARNING
    remote = facts.asked.command.remote
    fake = "--fake-super" if remote and not remote.push else "-M--fake-super"
    found: dict[str, list[Finding]] = {}
    by_name = {example.path for example, _ in facts.refusals if example.kind == "xattr"}
    for example, refused in facts.refusals:
        if example.kind == "xattr size" and example.path in by_name:
            continue
        kind = example.type if example.kind == "type" else example.kind
        kind = "w" if kind == "c" and not example.number else kind
        coarse = 0 < refused.seconds <= _MAX_COARSE_SECONDS
        kind = f"time {example.type}" if kind == "time" and example.type in "dl" and not coarse else kind
        what, advice = _REFUSALS[kind]
        values = {**example._asdict(), "path": facts.at_source(example.path), "fake": fake}
        if coarse:
            window = facts.asked.command.modify_window
            if window is not None and window >= refused.seconds:
                continue
            advice = f"give --modify-window={max(refused.seconds, 1)} after --"
        if refused.attribute:
            there = any(each.name == refused.attribute for survey in facts.surveys.values() for each in survey.examples)
            if there or "xattrs" not in facts.asked.command.held or facts.asked.leaves_xattr(refused.attribute):
                continue
            advice = f"give --filter='-x {refused.attribute}' --filter='-x system.*' after --"
        text = f"cannot hold {what.format(**values)} ({refused.why}); {advice.format(**values)}"
        found.setdefault(kind, []).append(Finding(level, facts.name, text))
    for alike in found.values():
        yield from _few(alike, shown=3)
    for survey in facts.surveys.values():
        for kind, _, flag, _, count, path in survey.examples:
            if kind == "flag":
                text = f"rsync does not copy this flag of {count_of(count, 'name')}, such as {facts.at_source(path)}"
                yield Finding(WARNING, flag, f"{text}; where it is needed set it at the destination by chattr")


_MAX_COARSE_SECONDS = 2
"""FAT keeps times to two seconds."""


def _clashes(facts: Facts) -> Iterator[Finding]:
    name = facts.name
    if facts.asked.command.relative:
        return
    tops: dict[str, str] = {}
    for source, survey in facts.surveys.items():
        contents = survey.kind == "d" and means_contents(source)
        for top in survey.names if contents else [os.path.basename(source)]:
            other = tops.setdefault(top, source)
            if other != source:
                yield Finding(WARNING, name, f"{other} and {source} both bring {top}; "
                              "of two files of one name rsync takes the first")  # fmt: skip


def of_use(facts: Facts, used: Iterable[InUse], more: int, level: str) -> Iterator[Finding]:
    """Yield a line for each file in use, or for a few of them. ``level``: their level in this pass."""
    advice = {
        WARNING: "",
        STOP: "; stop that first (--before), or give --allow-live",
    }[level]

    def finding(each: InUse) -> Finding:
        text = _HOW.get(each.how, "is in use: {}").format(each.holder) + advice
        return Finding(level, facts.at_source(each.path), text)

    yield from _few(map(finding, used), more)


def of_space(facts: Facts, plan: Plan) -> Iterator[Finding]:
    """Yield whether there is room for what will be written."""
    name = facts.name
    holes = facts.probe.holes
    apparent = plan.seeds.size + plan.others.size
    for needed, free, path in plan.space:
        needed = needed if holes else max(needed, apparent)
        shown = name if path == facts.asked.path or len(plan.space) == 1 else path
        plain = f"plain rsync would ask for {iec(apparent)}" if plan.seeds.count else ""
        if needed > free:
            text = f"{iec(needed)} are needed, {iec(free)} are free; make room, or exclude something"
            yield Finding(STOP, shown, f"{text} ({plain})" if plain else text)
        elif not facts.probe.clone and needed + plan.replaced > free:
            text = f"{iec(needed + plan.replaced)} are needed while a file is replaced, {iec(free)} are free"
            yield Finding(STOP, shown, f"{text}; make room, or update in place by --inplace after --")
        else:
            text = f"{iec(max(needed, 0))} are needed, {iec(free)} are free"
            yield Finding(OK, shown, f"{text} ({plain})" if plain else text)
    if 0 <= facts.probe.inodes < plan.created:
        text = f"{plan.created} inodes are needed, {facts.probe.inodes} are free; make the filesystem with more"
        yield Finding(STOP, name, text)
    yield from _few(
        (
            Finding(STOP, facts.destination.prefix + path, f"rsync cannot replace it: {why}")
            for path, why in plan.forbidden
        ),
        shown=3,
    )
    if plan.handoff:
        yield Finding(WARNING, name, f"rsync does all of it and reads every hole: {plan.handoff}")
    if plan.deleted:
        shown = ", ".join(plan.examples)
        yield Finding(WARNING, name, f"--delete removes {count_of(plan.deleted, 'name')}, such as {shown}")
    if facts.asked.request.skip_docker_loop and not any(store.loop_files for store in facts.stores):
        yield Finding(WARNING, name, "--skip-docker-loop: no devicemapper loop file was found at the source")
    if plan.extra:
        shown = ", ".join(plan.examples)
        text = f"not at the source, and kept: {count_of(plan.extra, 'name')}, such as {shown}"
        yield Finding(WARNING, name, f"{text}; to remove that give --delete after --")


def _few(found: Iterable[Finding], more: int = 0, shown: int = _MAX_REPORTED_FINDINGS) -> Iterator[Finding]:
    """Yield the first of some similar findings, and then the number of the others."""
    last = None
    for count, finding in enumerate(found):
        if count < shown:
            yield finding
        else:
            more += 1
            last = finding
    if more:
        level = last.level if last else WARNING
        yield Finding(level, "and", f"{count_of(more, 'more')} like the last" if last else f"{more} more files in use")


def count_of(number: int, what: str) -> str:
    """Return a number of things in words."""
    return f"{number} {what}{'' if number == 1 or what == 'more' else 's'}"
