"""What is measured of files that have changed since they were copied, on one machine."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from . import inputs, peers
from .inputs import GIB, MIB, Layout
from .places import Place, filesystem, needs
from .runner import Case, Contender, Prepared


def update(name: str, place: Place, layout: Layout, share: float, seed: int) -> Case:
    """The copy is older than the source by a share of the data blocks; the sources' mtimes tell."""

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem(place.kind, work, "5G") as top:
            source, old, copy = top / "source" / "file", top / "old", top / "copy" / "file"
            source.parent.mkdir()
            copy.parent.mkdir()
            inputs.make_file(source, layout, seed)
            subprocess.run(["cp", "-p", "--reflink=never", source, old], check=True)
            changed = inputs.change(source, share, seed)

            def restore(contender: str) -> None:
                copy.unlink(missing_ok=True)
                subprocess.run(["cp", "-p", "--reflink=never", old, copy], check=True)

            contenders = [
                Contender(peer, command(source, copy), once=peer.startswith("rsync") and layout.size >= peers.MINUTES)
                for peer, command in peers.UPDATES.items()
            ]
            reads = f"reads {inputs.iec(layout.size)} of hole: measured in changed/"
            skipped = {it.name: reads for it in contenders if it.once}
            yield Prepared(
                [it for it in contenders if it.name not in skipped],
                before=restore,
                top=top,
                check=lambda contender, output: inputs.check(source, copy, ahead=place.kind == "xfs"),
                skipped=skipped,
                facts={"blocks changed": changed},
            )

    what = f"update a copy of {layout} in place after {share:.0%} of its data changed, on {place.kind}, sharing nothing"
    axes = {"place": place.name, "apparent": layout.size, "data": layout.data, "changed": share}
    return Case(name, what, tuple(peers.UPDATES), opened, axes, needs(place))


def tracked(quick: bool) -> dict[str, Layout]:
    """The files to copy again, with as many changes. Each has the name of the full one."""
    scale = 8 if quick else 1
    return {
        label: Layout(100 * GIB // scale, data // scale, 128)
        for label, data in (("100G-128M", 128 * MIB), ("100G-512M", 512 * MIB), ("100G-2G", 2 * GIB))
    }


def track(name: str, kind: str, layout: Layout, changes: int, seed: int) -> Case:
    """Each has its own copy, on another filesystem, which is brought up to date before the source changes once more."""

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with contextlib.ExitStack() as stack:
            tops = []
            for end in ("from", "to"):
                (work / end).mkdir()
                tops.append(stack.enter_context(filesystem(kind, work / end, "10G", clones=True)))
            source, track = tops[0] / "source", tops[0] / "track"
            inputs.make_file(source, layout, seed)
            copies = {peer: tops[1] / f"copy{number}" for number, peer in enumerate(peers.REPEATS)}
            commands = {peer: make(source, copies[peer], track) for peer, make in peers.REPEATS.items()}
            rounds = itertools.count()

            def before(contender: str) -> None:
                subprocess.run(commands[contender], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                # The same blocks each time: others would be more extents from round to round.
                inputs.change(source, changes * inputs.BLOCK / layout.data, seed, next(rounds))
                for path in (source, copies[contender], *track.rglob("*.snapshot")):
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

            yield Prepared(
                [Contender(peer, command) for peer, command in commands.items()],
                before=before,
                top=tops[1],
                cache="cold: nothing of the source and of the copy is in the page cache",
                check=lambda contender, output: inputs.check(source, copies[contender], ahead=kind == "xfs"),
                facts={"blocks changed": changes},
            )

    what = f"copy {layout} again in place after {changes} of its blocks changed, from {kind} to {kind}; cold"
    axes = {"place": kind, "apparent": layout.size, "data": layout.data, "changes": changes}
    return Case(name, what, tuple(peers.REPEATS), opened, axes, needs(Place(kind)))
