"""What is measured on one machine: copies of files, the start of the program, and a list of all else.

A case is made by a function that knows how to make its input and who takes part; :func:`all_cases` lists them all, the
same names in a quick run, on smaller inputs. To add one, write such a function and name it there.

rsync reads the holes, and nbdcopy goes through them in small steps. Where the apparent size makes that minutes they run
once, and on one filesystem; where it makes it hours they are listed as skipped.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import cases_parallel, cases_trees, cases_update, inputs, peers
from .inputs import GIB, MIB, TIB, Layout
from .places import PLACES, Place, filesystem, inodes, needs
from .runner import Case, Contender, Prepared

MANY = 100_000
"""With so many extents some take ten times as long as others, and a filesystem long to forget a file again."""


def _layouts(quick: bool) -> dict[str, Layout]:
    """The files to copy. Each has the name of the full one."""
    if quick:
        return {
            "100G-950M": Layout(10 * GIB, 95 * MIB, 95),
            "1T-64M": Layout(TIB, 64 * MIB, 64),
            "8T-64M": Layout(8 * TIB, 64 * MIB, 64),
            "hole": Layout(10 * GIB, 0, 0),
            "dense": Layout(128 * MIB, 128 * MIB, 1),
            "extents": Layout(GIB, 20_000 * 4096, 20_000),
        }
    return {
        "100G-950M": Layout(100 * GIB, 950 * MIB, 950),
        "1T-64M": Layout(TIB, 64 * MIB, 64),
        "8T-64M": Layout(8 * TIB, 64 * MIB, 64),
        "hole": Layout(100 * GIB, 0, 0),
        "dense": Layout(GIB, GIB, 1),
        "extents": Layout(4 * GIB, 200_000 * 4096, 200_000),
    }


def all_cases(seed: int, quick: bool) -> list[Case]:
    """Every case of this machine, in the order they run."""
    cases = [_start(), _start_of_copy(seed)]
    for place in PLACES:
        for label, layout in _layouts(quick).items():
            patient = place.kind == "ext4" and label != "hole"
            cases.append(_copy(f"copy/{place.name}/{label}", place, layout, seed, patient=patient))
    # With copy/ext4/1T-64M, 8T-64M and extents these are the plots' families.
    for size, label in ((GIB, "1G"), (10 * GIB, "10G")):
        cases.append(_copy(f"apparent/{label}", PLACES[0], Layout(size, 64 * MIB, 64), seed, patient=True))
    cases.append(_flat(seed))
    disk = Layout(10 * GIB, 96 * MIB, 96) if quick else Layout(100 * GIB, GIB, 1024)
    for kind in ("ext4", "xfs", "btrfs"):
        cases += [_reserved(f"reserved/{kind}/{state}", Place(kind, False), disk, seed, state) for state in _CACHES]
    many = _layouts(quick)["extents"]
    for count in (200, 1_000, 5_000) if quick else (200, 2_000, 20_000):
        layout = Layout(many.size, many.data, count)
        # With fewer the calls are those of the start.
        counted = count >= 1_000
        cases.append(_copy(f"extents/{count}", PLACES[0], layout, seed, patient=False, counted=counted))
    big = _layouts(quick)["100G-950M"]
    for kind in ("ext4", "xfs", "btrfs", "tmpfs"):
        cases.append(cases_update.update(f"update/{kind}/1%", Place(kind), big, 0.01, seed))
    some = Layout(2 * GIB, 96 * MIB, 96) if quick else Layout(2 * GIB, 256 * MIB, 256)
    for percent in (0, 1, 10, 50, 100):
        cases.append(cases_update.update(f"changed/{percent}%", PLACES[0], some, percent / 100, seed))
    for kind in ("xfs", "btrfs"):
        for label, layout in cases_update.tracked(quick).items():
            cases.append(cases_update.track(f"track/{kind}/{label}", kind, layout, 160 if quick else 1_600, seed))
    # strace takes minutes for the calls of the larger one.
    for count in (2_000, 20_000) if quick else (20_000, 200_000):
        layout = Layout(4 * GIB, count * 4096, count)
        cases.append(cases_trees.map_extents(f"map/{count}", layout, seed, counted=count < MANY))
    few, more = (30_000, 60_000) if quick else (300_000, 1_000_000)
    cases += [cases_trees.scan(f"scan/{files}", files, seed) for files in (few, more)]
    cases += [cases_trees.sync(f"sync/{few}/{state}", few, seed, state) for state in cases_trees.SYNCS]
    cases.append(cases_trees.sparse_files("files/5000", 1_000 if quick else 5_000, seed))
    cases.append(cases_parallel.jobs(Layout(10 * GIB, (256 if quick else 2048) * MIB, 2048), seed))
    return cases


def _new_copy(copy: Path, contender: str) -> None:
    copy.unlink(missing_ok=True)


def _patiently(name: str, command: list[str], layout: Layout, patient: bool) -> Contender | str:
    """The contender: as often as the others, or once, or not at all, with the reason."""
    holes = {"rsync -S": peers.MINUTES, "nbdcopy": peers.HOURS}.get(name, layout.size + 1)
    hopeless = {"rsync -S": peers.HOURS, "nbdcopy": 2 * TIB}.get(name, layout.size + 1)
    if layout.size >= hopeless:
        return f"goes through {inputs.iec(layout.size)} of hole, for very long"
    many = layout.extents >= MANY and name not in (peers.OURS, "cp", "bsdtar")
    if not patient and (many or layout.size >= holes):
        return f"takes long for {layout}; with as large a file it is measured in another case, on ext4"
    return Contender(name, command, once=layout.size >= holes)


def _copy(name: str, place: Place, layout: Layout, seed: int, *, patient: bool, counted: bool = False) -> Case:
    commands = peers.copies(place.reflink)

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        # XFS allocates ahead, for each of many extents.
        with filesystem(place.kind, work, "8G" if place.kind == "xfs" else "4G") as top:
            source, copy = top / "source" / "file", top / "copy" / "file"
            source.parent.mkdir()
            copy.parent.mkdir()
            inputs.make_file(source, layout, seed)
            contenders, skipped = [], {}
            for peer, command in commands.items():
                found = _patiently(peer, command(source, copy), layout, patient)
                if isinstance(found, str):
                    skipped[peer] = found
                else:
                    contenders.append(found)
            yield Prepared(
                contenders,
                before=partial(_new_copy, copy),
                top=top,
                check=lambda contender, output: inputs.check(source, copy, ahead=place.kind == "xfs"),
                skipped=skipped,
                extents=layout.extents if counted else None,
            )

    shared = {"btrfs": ", extents shared where possible", "xfs": ", which was made without shared extents"}
    axes = {"place": place.name, "apparent": layout.size, "data": layout.data, "extents": layout.extents}
    what = f"copy {layout} on {place.kind}{shared.get(place.kind, '') if place.reflink else ''}"
    return Case(name, what, tuple(commands), opened, axes, needs(place))


def _flat(seed: int) -> Case:
    """The same data in two files, in turn: what both have in common, the start of Python most of all, varies more."""
    large, small = Layout(8 * TIB, 64 * MIB, 64), Layout(GIB, 64 * MIB, 64)
    names = {peers.OURS: large, f"{peers.OURS} of 1 GiB": small}

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "4G") as top:
            copy = top / "copy"
            sources = {}
            for number, (name, layout) in enumerate(names.items()):
                sources[name] = top / f"source-{number}"
                inputs.make_file(sources[name], layout, seed)
            yield Prepared(
                [
                    Contender(name, peers.sparsesync_command("copy", source, copy), baseline=name != peers.OURS)
                    for name, source in sources.items()
                ],
                before=partial(_new_copy, copy),
                top=top,
                check=lambda contender, output: inputs.check(sources[contender], copy),
            )

    return Case("flat", f"copy {large} and {small} on ext4", tuple(names), opened, {}, needs(PLACES[0]))


_CACHES = {
    "cold": "cold: nothing of the source is in the page cache, but its map",
    "warm": "warm: the first 4 GiB of the source have been read, and are in the page cache",
}


def _reserved(name: str, place: Place, layout: Layout, seed: int, state: str) -> Case:
    """A disk that was preallocated as a whole. Ours have to allocate as the data, the others as they like.

    cp does not take part: it takes a file for dense whose st_blocks say so, and writes until the disk is full.
    """
    commands: dict[str, peers.Command] = {
        **{peer: command for peer, command in peers.copies(False).items() if peer in (peers.OURS, "qemu-img")},
        f"{peers.OURS} sync": lambda source, copy: peers.sparsesync_command("sync", "-a", str(source), str(copy)),
    }

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        # As large as the disk: what is reserved is taken from it, but not from the disk below.
        more = inodes(1000) if place.kind == "ext4" else []
        with filesystem(place.kind, work, f"{(layout.size >> 30) + 12}G", *more) as top:
            source, copy = top / "source" / "file", top / "copy" / "file"
            source.parent.mkdir()
            copy.parent.mkdir()
            inputs.reserve(source, layout, seed)

            def before(contender: str) -> None:
                copy.unlink(missing_ok=True)
                with open(source, "rb", buffering=0) as file:
                    if state == "cold":
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    while state == "warm" and file.tell() < min(4 * GIB, layout.size):
                        file.read(MIB)

            def check(contender: str, output: Path) -> int:
                ours = peers.program(contender) == peers.OURS
                ahead = not ours or place.kind == "xfs"
                return inputs.check(source, copy, ahead=ahead, most=layout.data if ours else None)

            contenders = [Contender(peer, command(source, copy)) for peer, command in commands.items()]
            yield Prepared(contenders, before=before, check=check, top=top, cache=_CACHES[state])

    what = f"copy {layout}, preallocated as a whole, on {place.kind}, sharing nothing but by sync; {state}"
    return Case(name, what, tuple(commands), opened, {"place": place.name, "cache": state}, needs(place))


def _start() -> Case:
    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        contenders = [
            Contender("sparsesync --version", peers.sparsesync_command("--version")),
            Contender("python3 -c pass", [sys.executable, "-c", "pass"], baseline=True),
            Contender("rsync --version", ["rsync", "--version"]),
        ]
        yield Prepared(contenders, before=lambda contender: None, check=lambda contender, output: None)

    names = ("sparsesync --version", "python3 -c pass", "rsync --version")
    return Case("start", "start the program", names, opened, runs=21)


def _start_of_copy(seed: int) -> Case:
    """A file that is copied in no time."""
    names = (f"{peers.OURS} copy", "python3 -c pass", "cp")

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        source, copy = work / "source", work / "copy"
        inputs.make_file(source, Layout(MIB, inputs.BLOCK, 1), seed)
        ours, python, cp = names
        yield Prepared(
            [
                Contender(ours, peers.sparsesync_command("copy", source, copy)),
                Contender(python, [sys.executable, "-c", "pass"], baseline=True),
                Contender(cp, ["cp", str(source), str(copy)]),
            ],
            before=partial(_new_copy, copy),
            check=lambda contender, output: None if contender == python else inputs.check(source, copy),
        )

    return Case("start/copy", "copy a file of one block", names, opened, runs=21)
