"""What is told of the stores among what is moved: Docker's data root, and where others keep images and machines.

A store is half of what it takes if another one, or its configuration, is left behind. It needs a filesystem that holds
its layers, a kernel, and often the path that it had. And it must not run while the final pass copies it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from shlex import quote
from typing import TYPE_CHECKING

from ..console.units import iec
from ..engine.queries.mounts import is_below
from ..engine.queries.presets import left_out
from ..engine.queries.stores.table import BY_NAME
from ..rsync.paths import transfer_name
from .findings import OK, STOP, WARNING, Finding, count_of
from .preflight import Facts, kernel_features

if TYPE_CHECKING:
    from ..engine.queries.stores.stores import Needed, Store

_MAX_SHOWN = 5


def of_stores(facts: Facts) -> Iterator[Finding]:
    """Yield the findings about the stores that are moved."""
    told: set[str] = set()
    for store in facts.stores:
        yield from _itself(facts, store)
        yield from _layers(facts, store)
        yield from _companions(facts, store)
        yield from _place(facts, store)
        yield from _running(facts, store)
        yield from _kernel(facts, store, told)


def _itself(facts: Facts, store: Store) -> Iterator[Finding]:
    name, kind = facts.at_source(store.root), BY_NAME[store.kind]
    others = [each for each in store.drivers if each != store.driver]
    driver = f", storage driver {store.driver}" if store.driver else ""
    there_is = f" (there is also {', '.join(others)})" if others else ""
    stop = f"a part of {facts.at_source(store.outer)}, and stops with it" if store.outer else f"to stop it: {kind.stop}"
    yield Finding(OK, name, f"is {kind.title}{driver}{there_is}; {stop}")
    for path, size, allocated in store.loop_files:
        shown = f"{iec(allocated)} allocated, {iec(size)} apparent"
        yield Finding(OK, facts.at_source(path), f"is a devicemapper loop file: {shown}")
    skip = left_out([place for place in facts.places if place.path != store.root])
    parents = store.root.split("/")
    if any(skip("/".join(parents[:count])) for count in range(1, len(parents) + 1)):
        text = "the preset leaves it out, with all images and containers; migrate it by itself, or give --preset none"
        yield Finding(WARNING, name, text)


def _layers(facts: Facts, store: Store) -> Iterator[Finding]:
    name = facts.at_source(store.root)
    whiteouts = sum(survey.whiteouts for survey in facts.surveys.values())
    what = f"its layers have {count_of(whiteouts, 'whiteout')} and trusted.overlay.opaque attributes"
    lost = "files deleted in images would come back"
    # Who is not root has layers of user.overlay.* attributes, in a home directory.
    if store.layers and (facts.hosts[0].root or whiteouts) and not facts.keeps_attributes:
        both = zip((facts.source, facts.destination), facts.hosts)
        not_root = [side.host.name for side, host in both if not host.root]
        if not_root:
            yield Finding(STOP, name, f"{what}, which only root can copy: {lost}; be root on {not_root[0]}")
        elif not facts.probe.trusted and facts.probe.refused is None:
            yield Finding(STOP, name, f"{what}, which {facts.name} cannot hold: {lost}; use another filesystem")
    if store.subvolumes:
        program = BY_NAME[store.kind].program
        count = count_of(store.subvolumes, "btrfs subvolume")
        move = "move images by docker save, or " if store.kind == "docker" else ""
        yield Finding(WARNING, name, f"{count} become directories, which {program}'s btrfs driver cannot use: {move}"
                      "send the subvolumes by btrfs send")  # fmt: skip


def _companions(facts: Facts, store: Store) -> Iterator[Finding]:
    """Yield what belongs to a store and is in none of the sources."""
    sources = [survey.real for survey in facts.surveys.values() if survey.kind]
    missing = [each for each in store.companions if not any(is_below(each.path, real) for real in sources)]
    above = {each.path for each in missing if each.path}
    missing = [each for each in missing if not any(each.path != top and is_below(each.path, top) for top in above)]
    name = facts.at_source(store.root)
    content = [each for each in missing if each.content]
    if content:
        yield Finding(
            WARNING, name, f"is not all: not among the sources {_are(content)}; {_how(facts, store, content)}"
        )
    others = [each for each in missing if not each.content]
    if others:
        yield Finding(WARNING, name, f"not among the sources {_are(others)}; copy it too unless the destination has it")


def _are(missing: list[Needed]) -> str:
    shown = [f"{each.path} ({each.what})" if each.path else each.what for each in missing[:_MAX_SHOWN]]
    more = [f"{len(missing) - _MAX_SHOWN} more"] * (len(missing) > _MAX_SHOWN)
    return f"{'is' if len(missing) == 1 else 'are'} {', '.join([*shown, *more])}"


def _how(facts: Facts, store: Store, missing: list[Needed]) -> str:
    """Return how several roots are moved in one migration, or in several."""
    # A block device is not for rsync.
    known = [each.path for each in missing if each.path and not is_below(each.path, "/dev")]
    top, last = os.path.split(os.path.normpath(store.root))
    above, there = os.path.split(os.path.normpath(facts.asked.path))
    together = known and last == there and {os.path.dirname(path) for path in known} == {os.path.realpath(top)}
    if together and all(os.path.isabs(path) for path in (store.root, facts.asked.path)):
        paths = [os.path.join(top, os.path.basename(path)) for path in known]
        words = [*map(facts.at_source, (f"{top}/{last}", *paths)), f"{facts.destination.prefix}{above.rstrip('/')}/"]
        return f"move all at once: sparsesync migrate {_line(words)}"
    there = facts.destination.prefix
    if known and there and os.path.normpath(facts.asked.path) == os.path.normpath(store.root):
        words = [*map(facts.at_source, (os.path.normpath(store.root), *known)), f"{there}/", "--", "--relative"]
        return f"move all at once: sparsesync migrate {_line(words)}"
    above = os.path.dirname(known[0]).rstrip("/") if known else ""
    words = [facts.at_source(known[0]), f"{there}{above}/"] if known and there else []
    command = f" (sparsesync migrate {_line(words)})" if words else ""
    return f"migrate it as well{command}, and start services only after the last final pass"


def _line(words: Sequence[str]) -> str:
    """Return words as a shell takes them."""
    return " ".join(map(quote, words))


def _place(facts: Facts, store: Store) -> Iterator[Finding]:
    bound = BY_NAME[store.kind].bound
    if not bound or not store.place:
        return
    sources = [source for source in facts.asked.sources if is_below(store.root, os.path.normpath(source))]
    relative = facts.asked.command.relative
    names = [transfer_name(source, store.root, relative) for source in sources]
    moved = [os.path.normpath(os.path.join(facts.asked.path, name or "")) for name in names if name is not None]
    if moved and os.path.isabs(facts.asked.path) and store.place not in moved:
        text = f"is {moved[0]} at the destination: mount or bind it at {store.place} there, since {bound}"
        yield Finding(WARNING, facts.at_source(store.root), text)


def _running(facts: Facts, store: Store) -> Iterator[Finding]:
    commands = facts.asked.request.commands
    if store.running and not (commands.before or commands.before_dest):
        more = f" and {len(store.running) - _MAX_SHOWN} more" if len(store.running) > _MAX_SHOWN else ""
        shown = ", ".join(store.running[:_MAX_SHOWN]) + more
        text = f"in use by {shown}; before the final pass (--before): {BY_NAME[store.kind].stop}"
        yield Finding(WARNING, facts.at_source(store.root), text)
    if store.goes_on:
        text = f'its containers go on when {BY_NAME[store.kind].program} is stopped ("live-restore")'
        yield Finding(WARNING, facts.at_source(store.root), f"{text}: set that to false, and reload it, before")


def _kernel(facts: Facts, store: Store, told: set[str]) -> Iterator[Finding]:
    """Yield what the destination's kernel lacks, except for what was ``told`` for another store."""
    name, kind, release = facts.destination.host.name, BY_NAME[store.kind], facts.kernel.release
    wanted = kernel_features(store)
    by_driver = wanted[: len(wanted) - len(store.kernel)]
    others = [each for each in store.kernel if each not in told]
    told.update(others)
    then = "containers or their networks will fail" if "namespaces" in others else "what is moved will not run"
    for features, needs, what in (
        (by_driver, f"the storage driver {store.driver}", f"{kind.program} will not start on what is moved"),
        (others, kind.program, then),
    ):
        lacks = [f"{each.name} ({each.needs})" for each in facts.kernel.lacks if each.name in features]
        if lacks:
            text = f"its kernel has no {' and no '.join(lacks)}, which {needs} needs: {what}"
            yield Finding(WARNING, name, text)
        unknown = [each for each in facts.kernel.unknown if each in features]
        if unknown:
            files = f"/proc/config.gz, /boot/config-{release} or /lib/modules/{release}"
            text = f"whether its kernel has {', '.join(unknown)}, which {needs} needs, cannot be told without {files}"
            yield Finding(WARNING, name, text)
