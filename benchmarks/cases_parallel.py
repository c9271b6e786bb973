"""What is measured of more hands: threads on one machine, and connections to another.

Threads help as far as there are cores, and the results say how many there are. Connections help where each of them is
slower than the link, so there is one between two hosts that gives each a part of what it gives all together.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import inputs, peers
from .inputs import GIB, MIB, Layout
from .links import MBIT, NEEDS, Link, host
from .places import PLACES, filesystem, needs
from .runner import Case, Contender, Prepared

COUNTS = (1, 2, 4)


def _new_copy(copy: Path, contender: str) -> None:
    copy.unlink(missing_ok=True)


def jobs(layout: Layout, seed: int) -> Case:
    """A large sparse file, copied by 1, 2 and 4 threads of each program that can be told how many."""
    names = [f"{name}{count}" for count in COUNTS for name in peers.BY_THREADS]

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "6G") as top:
            source, copy = top / "source", top / "copy"
            inputs.make_file(source, layout, seed)
            contenders = [
                Contender(f"{name}{count}", command(source, copy, count))
                for count in COUNTS
                for name, command in peers.BY_THREADS.items()
            ]
            yield Prepared(
                [*contenders, Contender("cp", ["cp", str(source), str(copy)])],
                before=partial(_new_copy, copy),
                top=top,
                check=lambda contender, output: inputs.check(source, copy),
            )

    what = f"copy {layout} on ext4, by so many threads"
    axes = {"data": layout.data, "apparent": layout.size}
    return Case("jobs", what, (*names, "cp"), opened, axes, needs(PLACES[0]))


def streams(seed: int, quick: bool) -> Case:
    """A link of which each connection gets a fifth, as on a long line where windows end, or packets are lost."""
    link = Link("1G", 1000 * MBIT, 0.020, each=(400 if quick else 200) * MBIT)
    # Another connection is opened for each 64 MiB.
    layout = Layout(2 * GIB, 256 * MIB, 256)
    cat, rsync = "ssh cat of the data", "rsync of the data"
    names = [*(f"{peers.OURS} copy --streams {count}" for count in COUNTS), cat, rsync]

    @contextlib.contextmanager
    def opened(work: Path) -> Iterator[Prepared]:
        with filesystem("ext4", work, "3G") as top, host(link, work / "host") as there:
            source, dense, copy = top / "source", top / "dense", top / "copy"
            inputs.make_file(source, layout, seed)
            inputs.pack(source, dense)
            ours = ["copy", "--python", sys.executable, "-p", "-e", there.rsh, str(source), f"host:{copy}"]
            far_cat = f"cat > {copy}"
            baselines = {
                cat: peers.shell("ssh -F {client} host {cat} < {dense}", client=there.client, cat=far_cat, dense=dense),
                rsync: ["rsync", "-a", "-e", there.rsh, str(dense), f"host:{copy}"],
            }
            yield Prepared(
                [
                    *(
                        Contender(name, peers.sparsesync_command(*ours, f"--streams={count}"))
                        for name, count in zip(names, COUNTS)
                    ),
                    *(Contender(name, argv, baseline=True) for name, argv in baselines.items()),
                ],
                before=partial(_new_copy, copy),
                top=top,
                check=lambda contender, output: inputs.check(dense if contender in baselines else source, copy),
                wire=there.wire,
                far=there.accounts,
                facts={"shaped by": there.shaped_by},
            )

    each = f"{(link.each or 0) / MBIT:g} Mbit/s for each connection"
    what = f"copy {layout} through ssh at {link.name}bit/s, {each}, and {link.round_trip * 1000:g} ms"
    axes = {"data": layout.data, "apparent": layout.size}
    return Case("streams", what, tuple(names), opened, axes, (*NEEDS, "mkfs.ext4", "rsync"), runs=3)
