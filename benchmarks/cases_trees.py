"""What is measured of maps, and of trees of many files, on one machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from . import inputs, peers
from .inputs import Layout, Wrong
from .places import PLACES, filesystem, inodes, needs
from .runner import Case, Contender, Prepared

_MAPPED: dict[str, Callable[[str], int | None]] = {
    "sparsesync": lambda said: int(said.splitlines()[-1].split(" extents")[0]),
    "sparsesync --format qemu": lambda said: said.count('"data": true'),
    "qemu-img": lambda said: said.count('"data": true'),
    "xfs_io": lambda said: said.count("DATA"),
    "filefrag": lambda said: len(re.findall(r"^ *\d+:", said, re.MULTILINE)),
}


def map_extents(name: str, layout: Layout, seed: int, *, counted: bool) -> Case:
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
    return Case(name, what, tuple(peers.MAPS), opened, {"extents": layout.extents}, needs(PLACES[0]))


def scan(name: str, files: int, seed: int, sparse: int = 1000) -> Case:
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
    return Case(name, what, tuple(peers.SCANS), opened, {"files": files}, needs(PLACES[0]))


_EXCLUDES = ["*.o", "/tmp/*", "cache/", "*~", "/proc/*", ".git"]
SYNCS = {
    "first": "to an empty destination",
    "again": "again, with nothing to do",
    "excluding": f"again, with nothing to do and {len(_EXCLUDES)} patterns to exclude",
}


def sync(name: str, files: int, seed: int, state: str) -> Case:
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

    what = f"sync {files} files, none of them sparse, {SYNCS[state]}, on ext4"
    return Case(name, what, ("sparsesync", "rsync"), opened, {"files": files}, (*needs(PLACES[0]), "rsync"))


def sparse_files(name: str, files: int, seed: int) -> Case:
    """Files of 1 MiB with a block of data each: what a file costs, beside its content."""

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "4G", *inodes(2 * files)) as top:
            source, copy = top / "source", top / "copy"
            inputs.make_tree(source, files, seed, sparse=files)
            yield Prepared(
                [
                    Contender("sparsesync sync", peers.sparsesync_command("sync", "-a", f"{source}/", f"{copy}/")),
                    Contender("rsync -S", ["rsync", "-aS", f"{source}/", f"{copy}/"]),
                    Contender("cp -a", ["cp", "-a", str(source), str(copy)]),
                ],
                before=lambda contender: shutil.rmtree(copy, ignore_errors=True),
                top=top,
                check=lambda contender, output: inputs.check_tree(source, copy),
            )

    what = f"copy {files} sparse files of a block of data each, on ext4"
    return Case(name, what, ("sparsesync sync", "rsync -S", "cp -a"), opened, {"files": files}, needs(PLACES[0]))
