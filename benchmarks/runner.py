"""One case: its contenders on the same input, in rounds, each result checked.

How a case runs::

    with case.open() as prepared:                   # makes the input
        each contender once, unmeasured             # warms the caches, loads the programs; shows what the far end takes
        so many rounds, in each the contenders in random order, and then more for ours and the peers that are close:
            prepared.before(contender)              # e.g. no copy there
            sync -f                                 # nobody pays for what another has written
            run it; prepared.check(contender)
        those that are declared too slow to repeat, once
        where the case asks for it, each once more under strace, and not timed: its system calls

The state of the caches is therefore the same for everybody: sources and programs are in memory, as far as they fit,
and what is written need not reach the disk within the time that is measured (but see :mod:`peers` for bmaptool).
``prepared.cache`` says it where a case has it otherwise.

A contender may be declared ``once``, where one run takes minutes. And a peer is measured once whose unmeasured run and
first measured one both took more than the runner's patience and RIVAL times as long as the fastest peer. The results
say so.
One that exceeds the limit is killed, and took "more". A wrong result, or a status that is not 0, ends a
contender's part in the case; its times do not count.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import peers
from .goals import fastest_peer, ratio
from .inputs import Wrong

WARM = "warm: one unmeasured pass before, but of what is known to be slow; what is written is not flushed in the time"


RIVAL = 4
"""A peer that takes longer than the fastest one by this factor is not repeated, if it takes long at all."""

CLOSE = 1.5
"""Who takes longer than the fastest peer by this factor is not in question, and has few rounds; the others more."""

MOST_RUNS = 25
"""What takes milliseconds varies most, and is repeated up to this."""

TRACED = 20
"""Seconds for counting system calls. strace takes some 0.1 ms for each; tar makes millions where the holes are long."""


@dataclass
class Contender:
    """One command of a case. ``baseline``: what the others are held against, and no peer."""

    name: str
    argv: list[str]
    once: bool = False
    baseline: bool = False
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return peers.program(self.name) == peers.OURS


@dataclass
class Prepared:
    """A case whose input has been made. ``before`` and ``check`` are called around each run with the contender's name.

    ``check`` also gets the file with the run's standard output; it returns the bytes allocated to the result, if there
    is one, and raises Wrong. ``wire`` counts the bytes on the link so far; ``far`` is a file where the other end's
    accounts appear while it exists. ``skipped``: who does not take part, and why; ``facts`` go into the results.
    ``top`` is on the filesystem that is written to. With ``extents`` the system calls for each of so many are counted.
    """

    contenders: list[Contender]
    before: Callable[[str], None]
    check: Callable[[str, Path], int | None]
    cache: str = WARM
    skipped: dict[str, str] = field(default_factory=dict)
    wire: Callable[[], int] | None = None
    far: Path | None = None
    facts: dict[str, object] = field(default_factory=dict)
    top: Path | None = None
    extents: int | None = None


@dataclass(frozen=True)
class Case:
    """What is measured: a name such as ``copy/ext4/dense``, what that is in words, and the input and contenders.

    ``axes`` has the numbers for the plots. ``names`` are the contenders' names; ``open`` makes the input in
    a directory. ``needs`` are programs without which the case cannot run.
    """

    name: str
    what: str
    names: tuple[str, ...]
    open: Callable[[Path], AbstractContextManager[Prepared]]
    axes: dict[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    runs: int | None = None


class Starter:
    """The small process that starts the contenders; see :mod:`starter`. A context manager."""

    def __init__(self, work: Path) -> None:
        self.output, self._errors = work / "output", work / "errors"
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", Path(__file__).with_name("starter.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        for path in (self.output, self._errors):
            path.unlink(missing_ok=True)

    def run(self, contender: Contender, limit: float) -> dict[str, Any]:
        """Run a command; what it took. Raises Wrong if it failed, with the last line of its errors."""
        request = {
            "argv": contender.argv, "environ": {**os.environ, "LC_ALL": "C", **contender.environ},
            "output": str(self.output), "errors": str(self._errors), "limit": limit,
        }  # fmt: skip
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            said = self._process.stdout.readline()
        except BaseException:
            # What runs has to end before the filesystem is taken away below it.
            self.__exit__()
            raise
        answer: dict[str, Any] = json.loads(said or '{"error": "the starter is gone"}')
        if "error" in answer:
            raise Wrong(answer["error"])
        if answer["status"] and not answer["over"]:
            lines = self._errors.read_text(errors="replace").strip().splitlines()
            raise Wrong(f"status {answer['status']}: {lines[-1] if lines else 'it said nothing'}")
        return answer

    def floor(self) -> int:
        """The smallest peak that can be seen: a program's that needs nothing."""
        return int(self.run(Contender("true", ["true"]), 60)["peak"])


@dataclass
class _Record:
    """What is known of one contender so far. ``took``: the seconds of its rounds, checks and all."""

    contender: Contender
    runs: list[dict[str, Any]] = field(default_factory=list)
    far: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None
    once: bool = False
    calls: float | None = None
    took: float = 0


class Runner:
    """Runs cases. ``say`` is told what happens; ``chosen`` are the contenders' programs to run, None for all.

    There are ``runs`` rounds. Ours, the baselines and the peers that are CLOSE to the fastest have more, until all of
    theirs, with what surrounds them, took ``enough`` seconds, or there were MOST_RUNS.
    A peer that takes more than ``patience`` seconds and is no rival is run once, and who takes more than ``limit``
    is killed.
    """

    def __init__(
        self,
        starter: Starter,
        *,
        runs: int,
        limit: float,
        patience: float,
        seed: int,
        enough: float = 0,
        chosen: set[str] | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._starter = starter
        self._runs = runs
        self._limit = limit
        self._patience = patience
        self._enough = enough
        self._order = random.Random(seed)
        self._chosen = chosen
        self._say = say

    def run(self, case: Case, work: Path) -> dict[str, Any]:
        """Run a case in a directory; its entry in the results."""
        entry: dict[str, Any] = {"name": case.name, "what": case.what, "axes": case.axes}
        absent = peers.missing({*case.names, *case.needs})
        needed = [program for program in case.needs if program in absent]
        if needed or (os.geteuid() != 0 and "root" in case.needs):
            why = f"needs {', '.join(needed)}" if needed else "needs root"
            return {**entry, "contenders": [], "skipped": dict.fromkeys(case.names, why)}
        try:
            return {**entry, **self._measure(case, work, absent)}
        except RuntimeError as error:
            # A filesystem or a network that this kernel does not make. The other cases can do without.
            self._say(f"    {error}")
            return {**entry, "contenders": [], "skipped": {name: str(error) for name in case.names}}
        except (OSError, subprocess.CalledProcessError) as error:
            # No room, most likely. The other cases may need less.
            self._say(f"    FAILED: {error}")
            return {**entry, "contenders": [], "skipped": {}, "failed": str(error)}

    def _measure(self, case: Case, work: Path, absent: dict[str, str]) -> dict[str, Any]:
        with case.open(work) as prepared:
            contenders = []
            skipped = dict(prepared.skipped)
            for contender in prepared.contenders:
                program = peers.program(contender.name)
                if program in absent:
                    skipped[contender.name] = f"not installed: the package {absent[program]} has it"
                elif self._chosen is not None and not self._is_chosen(contender):
                    skipped[contender.name] = "left out by --peers"
                else:
                    contenders.append(contender)
            records = {contender.name: _Record(contender) for contender in contenders}
            self._rounds(prepared, records, case.runs or self._runs)
            if prepared.extents and not peers.missing({"strace"}):
                for record in records.values():
                    if record.error is None and not record.once:
                        calls = self._count(prepared, record, work / "calls")
                        record.calls = None if calls is None else calls / prepared.extents
            return {
                "cache": prepared.cache,
                "facts": prepared.facts,
                "skipped": skipped,
                "contenders": _compared([_summary(record, self._limit) for record in records.values()]),
            }

    def _is_chosen(self, contender: Contender) -> bool:
        return contender.ours or contender.baseline or peers.program(contender.name) in (self._chosen or ())

    def _rounds(self, prepared: Prepared, records: dict[str, _Record], runs: int) -> None:
        warmed: list[tuple[_Record, float]] = []
        for record in records.values():
            if not record.contender.once:
                with _accounted(prepared.far, record):
                    warming = self._one(prepared, record)
                if warming and warming["over"]:
                    record.once = True
                    record.runs.append(warming)
                elif warming:
                    warmed.append((record, warming["seconds"]))
        going_on = list(records.values())
        for number in range(max(runs, MOST_RUNS)):
            if number == runs:
                going_on = _close(going_on)
            if number >= runs and sum(record.took for record in going_on) >= self._enough:
                break
            turn = [record for record in going_on if not (record.contender.once or record.once)]
            self._order.shuffle(turn)
            for record in turn:
                if record.error is None:
                    begun = time.monotonic()
                    result = self._one(prepared, record)
                    record.took += time.monotonic() - begun
                    if result:
                        record.runs.append(result)
            if number == 0:
                # Some take ten times as long in one run as in the next.
                best = {record.contender.name: min(seconds, *(run["seconds"] for run in record.runs))
                        for record, seconds in warmed
                        if record.runs and not (record.contender.ours or record.contender.baseline)}  # fmt: skip
                slow = max(self._patience, RIVAL * min(best.values(), default=0.0))
                for record, _ in warmed:
                    record.once = best.get(record.contender.name, 0.0) > slow
        for record in records.values():
            if record.contender.once:
                record.once = True
                with _accounted(prepared.far, record):
                    result = self._one(prepared, record)
                if result:
                    record.runs.append(result)

    def _one(self, prepared: Prepared, record: _Record) -> dict[str, Any] | None:
        name = record.contender.name
        prepared.before(name)
        if prepared.top is not None:
            # Not sync(2): others on this machine may have much to write.
            subprocess.run(["sync", "-f", prepared.top], check=True)
        wire = prepared.wire() if prepared.wire else None
        try:
            result = self._starter.run(record.contender, self._limit)
            if prepared.wire and wire is not None:
                result["wire"] = prepared.wire() - wire
            result["allocated"] = None if result["over"] else prepared.check(name, self._starter.output)
        except Wrong as error:
            record.error = str(error)
            self._say(f"    {name}: WRONG: {error}")
            return None
        self._say(f"    {name}: {result['seconds']:.3f} s{' and killed' if result['over'] else ''}")
        return result

    def _count(self, prepared: Prepared, record: _Record, counts: Path) -> int | None:
        """The system calls of one more run, by all processes and threads of it; None if it cannot be traced."""
        prepared.before(record.contender.name)
        strace = ["strace", "-f", "-c", "-qq", "-o", str(counts)]
        try:
            traced = Contender("strace", [*strace, *record.contender.argv])
            if self._starter.run(traced, min(self._limit, TRACED))["over"]:
                self._say(f"    {record.contender.name}: its system calls are not counted: more than {TRACED} s")
                return None
        except Wrong as error:
            self._say(f"    {record.contender.name}: its system calls are not counted: {error}")
            return None
        # The last line: 100.00, seconds, microseconds per call, calls, perhaps errors, "total".
        return int(counts.read_text().splitlines()[-1].split()[3])


@contextlib.contextmanager
def _accounted(far: Path | None, record: _Record) -> Iterator[None]:
    """While the context lasts the other end writes down what it takes."""
    if far is None:
        yield
        return
    far.write_text("")
    try:
        yield
        record.far = [json.loads(line) for line in far.read_text().splitlines()]
    finally:
        far.unlink()


def _summary(record: _Record, limit: float) -> dict[str, Any]:
    """One contender's entry: medians over its runs, but for the peaks, which are the largest."""
    contender, runs = record.contender, record.runs
    summary: dict[str, Any] = {
        "name": contender.name, "ours": contender.ours, "baseline": contender.baseline, "command": contender.argv,
        "error": record.error,
    }  # fmt: skip
    if record.error is None and runs:
        seconds = [run["seconds"] for run in runs]
        summary.update(
            seconds=seconds, median=statistics.median(seconds), min=min(seconds), max=max(seconds),
            once=record.once, over=limit if any(run["over"] for run in runs) else None,
            peak=max(run["peak"] for run in runs), allocated=runs[-1]["allocated"],
            far_peak=max((run["peak"] for run in record.far), default=None), calls=record.calls,
        )  # fmt: skip
        for what in ("processor", "read", "written", "storage_read", "storage_written", "wire"):
            known = [run[what] for run in runs if run.get(what) is not None]
            summary[what] = statistics.median(known) if known else None
    return summary


def _close(records: list[_Record]) -> list[_Record]:
    """Ours, the baselines, and the peers that are nearly as fast as the fastest of them."""
    times = {
        record.contender.name: statistics.median(run["seconds"] for run in record.runs)
        for record in records
        if record.runs and record.error is None and not (record.contender.ours or record.contender.baseline)
    }
    close = CLOSE * min(times.values(), default=0.0)
    return [record for record in records if times.get(record.contender.name, 0.0) <= close]


def _compared(contenders: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add to each its ratio to the fastest peer, which is neither ours nor a baseline."""
    best = fastest_peer(contenders)
    for contender in contenders:
        contender["ratio"] = ratio(contender, best) if best and "median" in contender else None
    return contenders
