"""Before a host is migrated: what both machines say of themselves.

They are asked (:func:`gather_facts`) what they are, what there is to be moved, what the destination's filesystem holds,
and what is in use. All that is kept in :class:`Facts`; what is made of it is for :mod:`findings`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..engine.queries.presets import ExcludedPath
from ..hosts.base import Host as Machine
from ..hosts.base import Location
from ..rsync.paths import transfer_name
from ..rsync.program import program
from .request import MigrationCommand

if TYPE_CHECKING:
    from ..engine.queries.examples.collect import Example
    from ..engine.queries.examples.trial import Refused
    from ..engine.queries.in_use import AllInUse
    from ..engine.queries.kernel import Kernel
    from ..engine.queries.probe import Probe
    from ..engine.queries.stores.stores import Store
    from ..engine.queries.survey import Survey
    from ..engine.queries.system import System

_DRIVERS = {
    "overlay2": ("overlay",),
    "overlayfs": ("overlay",),
    "overlay": ("overlay",),
    "fuse-overlayfs": ("fuse",),
    "btrfs": ("btrfs",),
    "aufs": ("aufs",),
    "zfs": ("zfs",),
    "devicemapper": ("loop", "device-mapper", "thin provisioning"),
}
"""What a storage driver asks of a kernel."""


def kernel_features(store: Store) -> tuple[str, ...]:
    """Return what a store asks of a kernel: names in :data:`~.engine.queries.kernel.FEATURES`."""
    driver = store.driver.rpartition(" ")[2]
    return (*_DRIVERS.get(driver, ()), *store.kernel)


class Facts(NamedTuple):
    """The answers of both machines.

    ``hosts``: the source's and the destination's.
    ``presets``: the preset of each source.
    ``kernel``: the destination's, as far as the stores ask for something.
    ``refusals``: examples of what is at the source, and why the destination refuses them.
    """

    source: Location
    destination: Location
    asked: MigrationCommand
    hosts: tuple[System, System]
    presets: dict[str, str]
    places: list[ExcludedPath]
    surveys: dict[str, Survey]
    stores: list[Store]
    kernel: Kernel
    probe: Probe
    refusals: list[tuple[Example, Refused]]
    in_use: AllInUse

    def at_source(self, path: str) -> str:
        """Return a path of the source as the user would give it."""
        return self.source.prefix + path

    @property
    def name(self) -> str:
        """The destination as the user would give it."""
        return self.destination.prefix + self.asked.path

    @property
    def one_machine(self) -> bool:
        """Whether source and destination are on one host, judged by their paths."""
        return self.source.host is self.destination.host

    @property
    def keeps_attributes(self) -> bool:
        """Whether rsync keeps the attributes that only root may set in another way, as with --fake-super."""
        return any("fake-super" in token for option in self.asked.command.options for token in option.tokens)


def gather_facts(at: Location, to: Location, asked: MigrationCommand) -> Facts:
    """Query both machines. Raises OSError, LinkError, ValueError."""
    source, destination, request = at.host, to.host, asked.request
    presets = {each: request.preset or source.query("suggested", source=each).preset for each in asked.sources}
    places = [place for each in asked.sources for place in left_out_places(source, presets[each], each)]
    stores: list[Store] = []
    for each in asked.sources:
        for store in source.query("stores", source=each).found:
            stores.append(store)
            if request.skip_docker_loop:
                places += (ExcludedPath(each, file.path, "", "--skip-docker-loop") for file in store.loop_files)
    options = {"one_file_system": asked.command.one_file_system, "places": [*map(list, places)]}
    surveys = {each: source.query("survey", source=each, rules=asked.rules(each), **options) for each in asked.sources}
    largest = max(survey.largest for survey in surveys.values())
    probe = destination.query("probe", path=asked.path, largest=largest)
    features = dict.fromkeys(name for store in stores for name in kernel_features(store))
    kernel = destination.query("kernel", wanted=[*features])
    there = (asked.command.value("rsync-path") or "rsync").split()[-1]
    here = program(asked.environ)
    programs = [here, there] if asked.command.remote and asked.command.remote.push else [there, here]
    hosts = source.query("host", rsync=programs[0]), destination.query("host", rsync=programs[1])
    in_use = source.query("in_use", sources=asked.sources, places=[*map(list, places)])
    facts = Facts(at, to, asked, hosts, presets, places, surveys, stores, kernel, probe, [], in_use)
    return facts._replace(refusals=list(_refusals(facts)))


def left_out_places(host: Machine, preset: str, source: str) -> Iterator[ExcludedPath]:
    """Yield what a migration leaves out of a source. ``preset``: names with commas between them."""
    for name in preset.split(","):
        if name == "system":
            yield from host.preset("system", source)
        if name != "none":
            # devicemapper's loop files are data.
            yield from host.preset({"system": "views", "docker": "docker-views"}.get(name, name), source)


_Tried = tuple[str, str, str, str, int]
"""The fields of an example that the destination needs."""


def _refusals(facts: Facts) -> Iterator[tuple[Example, Refused]]:
    """Yield what the destination refuses of what the command would have it take, each with its example."""
    if facts.probe.refused is not None or facts.probe.kind == "-":
        return
    told: set[_Tried] = set()
    for source, survey in facts.surveys.items():
        examples: dict[_Tried, Example] = {}
        for example in survey.examples:
            if example[:5] not in told and _is_copied(facts, example):
                examples.setdefault(example[:5], example)
        # Another filesystem may be mounted where one of several sources goes.
        name = transfer_name(source, source, facts.asked.command.relative)
        path = os.path.join(facts.asked.path, name) if name else facts.asked.path
        for part in _parts(examples):
            answer = facts.destination.host.query("trial", path=path, examples=[*map(list, part)])
            for refused in answer.refused:
                told.add(part[refused.number])
                yield examples[part[refused.number]], refused


_PART_CHARACTERS = 256 * 1024


def _parts(examples: Iterable[_Tried]) -> Iterator[list[_Tried]]:
    """Yield the examples by the frameful."""
    part: list[_Tried] = []
    size = 0
    for example in examples:
        part.append(example)
        size += len(ascii(example))
        if size > _PART_CHARACTERS:
            yield part
            part, size = [], 0
    if part:
        yield part


_OPTIONS = {
    "mode": "perms", "owner": "owner", "group": "group", "time": "times", "xattr": "xattrs", "xattr size": "xattrs",
    "acl": "acls",
}  # fmt: skip
"""The option of rsync without which it leaves something alone."""

_TYPES = {"l": "links", "h": "hard-links", "p": "specials", "s": "specials", "c": "devices", "b": "devices"}


def _is_copied(facts: Facts, example: Example) -> bool:
    """Whether rsync at the destination would do what an example is of, with the user's options."""
    command, kind, root = facts.asked.command, example.kind, facts.hosts[1].root
    option = _TYPES[example.type] if kind == "type" else _OPTIONS.get(kind)
    if example.type == "l" and (command.links_followed or "links" not in command.held):
        return False
    if kind == "time" and {"d": "omit-dir-times", "l": "omit-link-times"}.get(example.type) in command.held:
        return False
    given = {each.name for each in command.options}
    if kind == "flag" or (option is not None and option not in command.held):
        return False
    # What stands for an owner or a device is an attribute then, and rsync may choose owners, modes and names itself.
    if facts.keeps_attributes and (option in ("owner", "group", "devices", "specials", "xattrs") or kind == "mode"):
        return False
    if kind in ("owner", "group"):
        return root and "numeric-ids" in command.held and not given & {"usermap", "groupmap", "chown", "copy-as"}
    if kind == "mode":
        return "chmod" not in given and (root or not example.number & 0o7000)
    if kind in ("name", "pair"):
        return "iconv" not in given
    if kind == "type":
        return root or example.type not in "cb"
    if kind == "xattr size":
        return not facts.asked.xattr_rules  # or else some of them are left out
    if kind == "xattr":
        return (root or example.name.startswith("user.")) and not facts.asked.leaves_xattr(example.name)
    return True
