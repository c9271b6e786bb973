"""What is measured on one machine: copies, updates, scans, maps, syncs of many files, the start of the program.

A case is made by a function that knows how to make its input and who takes part; :func:`all_cases` lists them all, the
same names in a quick run, on smaller inputs. To add one, write such a function and name it there.

rsync reads the holes, and nbdcopy goes through them in small steps. Where the apparent size makes that minutes they run
once, and on one filesystem; where it makes it hours they are listed as skipped.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import inputs, peers
from .inputs import GIB, MIB, TIB, Layout, Wrong
from .places import MAKE, filesystem
from .runner import Case, Contender, Prepared

MINUTES = 8 * GIB
HOURS = 500 * GIB
"""From these apparent sizes on rsync takes minutes, and hours; nbdcopy takes minutes only from the second on."""
MANY = 100_000
"""With so many extents some take ten times as long as others, and a filesystem long to forget a file again."""


@dataclass(frozen=True)
class Place:
    """A kind of filesystem, and whether extents may be shared where it can share them."""

    kind: str
    reflink: bool = True

    @property
    def name(self) -> str:
        return self.kind if self.reflink else f"{self.kind}-noreflink"


PLACES = [
    Place("ext4"), Place("xfs"), Place("btrfs"), Place("btrfs", False), Place("tmpfs"),
]  # fmt: skip


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
    cases = [_start()]
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
        cases.append(_update(f"update/{kind}/1%", Place(kind), big, 0.01, seed))
    some = Layout(2 * GIB, 96 * MIB, 96) if quick else Layout(2 * GIB, 256 * MIB, 256)
    for percent in (0, 1, 10, 50, 100):
        cases.append(_update(f"changed/{percent}%", PLACES[0], some, percent / 100, seed))
    for kind in ("xfs", "btrfs"):
        for label, layout in _tracked(quick).items():
            cases.append(_track(f"track/{kind}/{label}", kind, layout, 160 if quick else 1_600, seed))
    # strace takes minutes for the calls of the larger one.
    for count in (2_000, 20_000) if quick else (20_000, 200_000):
        layout = Layout(4 * GIB, count * 4096, count)
        cases.append(_map(f"map/{count}", layout, seed, counted=count < MANY))
    few, more = (30_000, 60_000) if quick else (300_000, 1_000_000)
    cases += [_scan(f"scan/{files}", files, seed) for files in (few, more)]
    cases += [_sync(f"sync/{few}/{state}", few, seed, state) for state in _SYNCS]
    return cases


def _new_copy(copy: Path, contender: str) -> None:
    copy.unlink(missing_ok=True)


def _needs(place: Place) -> tuple[str, ...]:
    return ("root", *([f"mkfs.{place.kind}"] if place.kind in MAKE else []))


def _patiently(name: str, command: list[str], layout: Layout, patient: bool) -> Contender | str:
    """The contender: as often as the others, or once, or not at all, with the reason."""
    holes = {"rsync -S": MINUTES, "nbdcopy": HOURS}.get(name, layout.size + 1)
    hopeless = {"rsync -S": HOURS, "nbdcopy": 2 * TIB}.get(name, layout.size + 1)
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
    return Case(name, what, tuple(commands), opened, axes, _needs(place))


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

    return Case("flat", f"copy {large} and {small} on ext4", tuple(names), opened, {}, _needs(PLACES[0]))


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
    return Case(name, what, tuple(commands), opened, {"place": place.name, "cache": state}, _needs(place))


def _update(name: str, place: Place, layout: Layout, share: float, seed: int) -> Case:
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
                Contender(peer, command(source, copy), once=peer.startswith("rsync") and layout.size >= MINUTES)
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
    return Case(name, what, tuple(peers.UPDATES), opened, axes, _needs(place))


def _tracked(quick: bool) -> dict[str, Layout]:
    """The files to copy again, with as many changes. Each has the name of the full one."""
    scale = 8 if quick else 1
    return {
        label: Layout(100 * GIB // scale, data // scale, 128)
        for label, data in (("100G-128M", 128 * MIB), ("100G-512M", 512 * MIB), ("100G-2G", 2 * GIB))
    }


def _track(name: str, kind: str, layout: Layout, changes: int, seed: int) -> Case:
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
    return Case(name, what, tuple(peers.REPEATS), opened, axes, _needs(Place(kind)))


_MAPPED: dict[str, Callable[[str], int | None]] = {
    "sparsesync": lambda said: int(said.splitlines()[-1].split(" extents")[0]),
    "sparsesync --format qemu": lambda said: said.count('"data": true'),
    "qemu-img": lambda said: said.count('"data": true'),
    "xfs_io": lambda said: said.count("DATA"),
    "filefrag": lambda said: len(re.findall(r"^ *\d+:", said, re.MULTILINE)),
}


def _map(name: str, layout: Layout, seed: int, *, counted: bool) -> Case:
    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "4G") as top:
            file = top / "file"
            inputs.make_file(file, layout, seed)

            def check(contender: str, output: Path) -> None:
                found = _MAPPED[contender](output.read_text())
                if found != layout.extents:
                    raise Wrong(f"it found {found} extents")

            contenders = [Contender(peer, command(file)) for peer, command in peers.MAPS.items()]
            extents = layout.extents if counted else None
            yield Prepared(contenders, before=lambda contender: None, check=check, extents=extents)

    what = f"map {layout.extents} extents, on ext4"
    return Case(name, what, tuple(peers.MAPS), opened, {"extents": layout.extents}, _needs(PLACES[0]))


def inodes(files: int) -> list[str]:
    """For mkfs.ext4, with room for as many files."""
    return ["-N", str(files * 11 // 10 + 10_000)]


def _scan(name: str, files: int, seed: int, sparse: int = 1000) -> Case:
    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "7G", *inodes(files)) as top:
            tree = top / "tree"
            inputs.make_tree(tree, files, seed, sparse=sparse)

            def check(contender: str, output: Path) -> None:
                said = output.read_bytes()
                counts = {
                    "sparsesync": (said.count(b"/file-"), sparse),
                    "sparsesync -0": (said.count(b"\0"), sparse),
                    "find -printf %S": (said.count(b"\n"), files),
                }
                found, expected = counts.get(contender, (0, 0))
                if found != expected:
                    raise Wrong(f"it found {found} files, not {expected}")

            contenders = [Contender(peer, command(tree)) for peer, command in peers.SCANS.items()]
            yield Prepared(contenders, before=lambda contender: None, check=check)

    what = f"find the {sparse} sparse ones of {files} files, on ext4"
    return Case(name, what, tuple(peers.SCANS), opened, {"files": files}, _needs(PLACES[0]))


_EXCLUDES = ["*.o", "/tmp/*", "cache/", "*~", "/proc/*", ".git"]
_SYNCS = {
    "first": "to an empty destination",
    "again": "again, with nothing to do",
    "excluding": f"again, with nothing to do and {len(_EXCLUDES)} patterns to exclude",
}


def _sync(name: str, files: int, seed: int, state: str) -> Case:
    again = state != "first"

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "6G", *inodes(2 * files)) as top:
            source, copy = top / "source", top / "copy"
            inputs.make_tree(source, files, seed)
            if again:
                subprocess.run(["rsync", "-a", f"{source}/", f"{copy}/"], check=True)

            def before(contender: str) -> None:
                if not again:
                    shutil.rmtree(copy, ignore_errors=True)

            checked: set[str] = set()

            def check(contender: str, output: Path) -> None:
                # Whole trees are compared once for each: it takes longer than what is measured.
                if contender not in checked:
                    inputs.check_tree(source, copy)
                    checked.add(contender)
                elif sum(len(names) for _, _, names in os.walk(copy)) != files:
                    raise Wrong("some files are missing")

            excludes = [f"--exclude={pattern}" for pattern in _EXCLUDES] if state == "excluding" else []
            work_of_both = ["-a", *excludes, f"{source}/", f"{copy}/"]
            contenders = [
                Contender(peers.OURS, peers.sparsesync_command("sync", *work_of_both)),
                Contender("rsync", ["rsync", *work_of_both]),
            ]
            yield Prepared(contenders, before=before, check=check, top=top)

    what = f"sync {files} files, none of them sparse, {_SYNCS[state]}, on ext4"
    return Case(name, what, ("sparsesync", "rsync"), opened, {"files": files}, (*_needs(PLACES[0]), "rsync"))


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
