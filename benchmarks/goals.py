"""The figures to reach, each judged from the results: a ratio of two contenders' times, or a peak of memory.

A goal names the cases by a pattern and compares in each of them; the worst counts. What has not been measured is
said to be so. Who is the :func:`fastest` and what the :func:`ratio` of two is, is the same for the whole suite.
"""

from __future__ import annotations

import fnmatch
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from .inputs import MIB, iec
from .peers import BY_THREADS, OURS, program

Case = dict[str, Any]
Contender = dict[str, Any]


class Verdict(NamedTuple):
    """What a goal says, what was measured, and whether that is enough (None: not measured)."""

    goal: str
    measured: str
    reached: bool | None


_PEERS_OF_JOBS = ["cp", *(f"{name}{count}" for name in BY_THREADS if program(name) != OURS for count in (1, 2, 4))]


def judge(results: dict[str, Any]) -> list[Verdict]:
    """All goals, in the order of the table of figures."""
    cases: list[Case] = results["cases"]
    copies = [case for family in ("copy/*", "apparent/*", "extents/*") for case in _like(cases, family)]
    sparse = [case for case in copies if not case["name"].endswith("/dense")]
    # The smaller one is there for its system calls.
    mapped = _like(cases, "map/*")[-1:]
    found = [
        _worst("local copy of each sparse case: no slower than the fastest peer", sparse, 1.0, _to_best),
        _worst("copy of 100G-950M: 200 times faster than rsync -S", _like(cases, "copy/ext4/100G-950M"), 1 / 200,
               lambda case: _ratio(case, "sparsesync", "rsync -S")),
        _worst("apparent size at the same data: 8 TiB within 1.1 of 1 GiB", _like(cases, "flat"), 1.1,
               lambda case: _ratio(case, "sparsesync", "sparsesync of 1 GiB")),
        _worst("copy of a preallocated disk: no slower than the fastest peer", _like(cases, "reserved/*"), 1.0,
               lambda case: _ratio(case, "sparsesync", "qemu-img")),
        _worst("update of 1 % in place: 0.5 of a full copy by the fastest peer that can",
               [*_like(cases, "update/*"), *_like(cases, "changed/1%")], 0.5,
               lambda case: _ratio(case, "sparsesync", "cp", "qemu-img", "nbdcopy", "bmaptool")),
        _worst("copy again by --track, 1,600 blocks of 2 GiB changed: a third of the time without",
               _like(cases, "track/*/100G-2G"), 1 / 3,
               lambda case: _ratio(case, "sparsesync --track", "sparsesync --inplace")),
        _worst("ssh, first copy: 1.05 of ssh cat of the data", _like(cases, "ssh/*/first"), 1.05,
               lambda case: _ratio(case, "sparsesync copy", "ssh cat of the data")),
        _worst("the same on the loopback, with nothing but Python at the other end: 1.2",
               _like(cases, "ssh/loopback/first"), 1.2,
               lambda case: _ratio(case, "sparsesync copy to a plain Python", "ssh cat of the data")),
        _worst("the same with sync, which runs rsync too", _like(cases, "ssh/*/first"), 1.05,
               lambda case: _ratio(case, "sparsesync sync", "ssh cat of the data")),
        _worst("ssh at 100 Mbit/s with -z: no slower than rsync -z of the data", _like(cases, "ssh/100M/first"), 1.0,
               lambda case: _ratio(case, "sparsesync sync -z", "rsync -z of the data")),
        _worst("copy by 4 streams, where each gets a fifth of the link: 0.35 of ssh cat", _like(cases, "streams"), 0.35,
               lambda case: _ratio(case, "sparsesync copy --streams 4", "ssh cat of the data")),
        # On the slow links the file is a smaller one, so that rsync can be waited for.
        _worst("ssh loopback, 1 % changed: 50 times faster than rsync -S --inplace",
               _like(cases, "ssh/loopback/1%"), 1 / 50, lambda case: _ratio(case, "sparsesync sync", "rsync -S")),
        _worst("a snapshot by --link-dest, 1 % changed: 50 times faster than rsync -S",
               _like(cases, "nightly/*"), 1 / 50, lambda case: _ratio(case, "sparsesync sync", "rsync -S")),
        _worst("scan: no slower than find", _like(cases, "scan/*"), 1.0,
               lambda case: _ratio(case, "sparsesync", "find -printf %S")),
        # Not the table for people, which is short.
        _worst("map of all extents, as JSON: 0.6 of qemu-img map", mapped, 0.6,
               lambda case: _ratio(case, "sparsesync --format qemu", "qemu-img")),
        _worst("the same: 1.5 of xfs_io seek", mapped, 1.5,
               lambda case: _ratio(case, "sparsesync --format qemu", "xfs_io")),
        _worst("sync, none sparse, first: 1.1 of rsync", _like(cases, "sync/*/first"), 1.1,
               lambda case: _ratio(case, "sparsesync", "rsync")),
        _worst("sync, none sparse, nothing to do: 1.4 of rsync + 0.1 s",
               [*_like(cases, "sync/*/again"), *_like(cases, "sync/*/excluding")], 1.0, _again),
        _worst("sync of sparse files with little data: 1.5 of cp -a", _like(cases, "files/5000"), 1.5,
               lambda case: _ratio(case, "sparsesync sync", "cp -a")),
        _worst("the same through ssh, nothing to do: 1.6 of rsync", _like(cases, "files/ssh/again"), 1.6,
               lambda case: _ratio(case, "sparsesync sync", "rsync")),
        _worst("copy of very many extents on tmpfs: no slower than cp", _like(cases, "copy/tmpfs/extents"), 1.0,
               lambda case: _ratio(case, "sparsesync", "cp")),
        _worst("copy by 2 threads: no slower than the fastest peer, with 1, 2 or 4", _like(cases, "jobs"), 1.0,
               lambda case: _ratio(case, "sparsesync --jobs 2", *_PEERS_OF_JOBS)),
        _worst("start: 1.5 of python3 -c pass", _like(cases, "start"), 1.5,
               lambda case: _ratio(case, "sparsesync --version", "python3 -c pass")),
        _worst("start of copy: 2.25 of python3 -c pass", _like(cases, "start/copy"), 2.25,
               lambda case: _ratio(case, "sparsesync copy", "python3 -c pass")),
    ]  # fmt: skip
    return [*found, _memory(cases)]


def _like(cases: list[Case], pattern: str) -> list[Case]:
    return [case for case in cases if fnmatch.fnmatch(case["name"], pattern)]


def ratio(contender: Contender, other: Contender, allowed: Callable[[float], float] = float) -> float:
    """How many times as long as ``other`` it took: the median over the rounds, which ran the one beside the other.

    What slows a machine for some seconds slows both, and does not show, as it does in a ratio of medians. Only one that
    ran once, beside no round, is compared by the medians. ``allowed`` is what is made of the other's seconds before.
    """
    if contender["once"] or other["once"]:
        return float(contender["median"] / allowed(other["median"]))
    # Who is far behind has fewer rounds, the first ones.
    return float(statistics.median(a / allowed(b) for a, b in zip(contender["seconds"], other["seconds"])))


def fastest(contenders: Iterable[Contender]) -> Contender | None:
    """The fastest of them, by their medians; who was wrong or was killed is not."""
    found = [it for it in contenders if "median" in it and not it["over"]]
    return min(found, key=lambda it: float(it["median"]), default=None)


def fastest_peer(contenders: Iterable[Contender]) -> Contender | None:
    """The fastest that is neither ours nor a baseline."""
    return fastest(it for it in contenders if not (it["ours"] or it["baseline"]))


def _fastest(case: Case, *names: str) -> Contender | None:
    return fastest(it for it in case["contenders"] if it["name"] in names)


def _ratio(case: Case, ours: str, *others: str) -> float | None:
    a, b = _fastest(case, ours), _fastest(case, *others)
    return None if a is None or b is None else ratio(a, b)


def _to_best(case: Case) -> float | None:
    return next((it["ratio"] for it in case["contenders"] if it["name"] == "sparsesync"), None)


def _again(case: Case) -> float | None:
    ours, rsync = _fastest(case, "sparsesync"), _fastest(case, "rsync")
    return None if ours is None or rsync is None else ratio(ours, rsync, lambda seconds: 1.4 * seconds + 0.1)


def _worst(goal: str, cases: list[Case], limit: float, compare: Callable[[Case], float | None]) -> Verdict:
    for case in cases:
        for it in case["contenders"]:
            if it["ours"] and it.get("error"):
                return Verdict(goal, f"wrong ({case['name']}: {it['name']})", False)
            if it["ours"] and it.get("over"):
                return Verdict(goal, f"killed after {it['over']:g} s ({case['name']}: {it['name']})", False)
    known = [(value, case["name"]) for case in cases for value in [compare(case)] if value is not None]
    if not known:
        return Verdict(goal, "not measured", None)
    worst, name = max(known)
    good = sum(value <= limit for value, _ in known)
    counted = f"; {good} of {len(known)} cases" if len(known) > 1 else ""
    if limit < 0.1:  # so many times faster
        return Verdict(goal, f"{1 / worst:.0f} times ({name}{counted})", worst <= limit)
    return Verdict(goal, f"{worst:.3g} of {limit:.3g} ({name}{counted})", worst <= limit)


def _memory(cases: list[Case]) -> Verdict:
    goal = "peak memory of each process but rsync: 48 MiB, at both ends"
    peaks = list(_peaks(cases))
    if not peaks:
        return Verdict(goal, "not measured", None)
    peak, name = max(peaks)
    if not any(it.get("far_peak") for case in cases for it in case["contenders"]) and peak <= 48 * MIB:
        return Verdict(goal, f"{iec(peak)} ({name}); the far end was not measured", None)
    return Verdict(goal, f"{iec(peak)} ({name})", peak <= 48 * MIB)


def _peaks(cases: list[Case]) -> Iterator[tuple[float, str]]:
    for case in cases:
        # sync runs rsync, and where rsync alone needs as much, that was it.
        theirs = max((it.get("peak") or 0 for it in case["contenders"] if it["name"].startswith("rsync")), default=0)
        for it in case["contenders"]:
            if it["ours"] and "median" in it:
                if "sync" not in it["command"] or it["peak"] > 1.02 * theirs:
                    yield it["peak"], case["name"]
                if it["far_peak"]:
                    yield it["far_peak"], f"{case['name']}, far end"
