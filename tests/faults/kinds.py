"""Which faults make sense at which call, and a table of what came of them.

A family is a row of the table: a name, and the faults that it has in a run whose calls were counted.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tests.faults.harness import Call, Fault, Lab, Verdict
from tests.faults.scenarios import Scenario

_TAKES_SPACE = ("write", "copy", "truncate", "fallocate", "create", "mkdir", "rename", "ioctl")
_CHANGES = (*_TAKES_SPACE, "unlink", "chmod", "chown", "utimens")
_OPENS = ("open", "create", "readdir")

ERRORS: dict[str, tuple[int, Sequence[str] | None]] = {
    "EIO": (errno.EIO, None),
    "ENOSPC": (errno.ENOSPC, _TAKES_SPACE),
    "EDQUOT": (errno.EDQUOT, _TAKES_SPACE),
    "EFBIG": (errno.EFBIG, ("write", "copy", "truncate", "fallocate")),
    "EROFS": (errno.EROFS, _CHANGES),
    "EACCES": (errno.EACCES, ("open", "create", "mkdir", "rename", "unlink", "chmod", "stat", "readdir")),
    "EMFILE": (errno.EMFILE, _OPENS),
    "ENOMEM": (errno.ENOMEM, ("open", "create", "read", "write", "stat", "ioctl")),
    "ESTALE": (errno.ESTALE, ("open", "read", "stat", "seek", "readdir")),
    "EINTR": (errno.EINTR, ("read", "write", "copy", "open", "create", "truncate", "fallocate", "fsync", "flock")),
}
"""Each error, and the calls that it may come from; None: any."""

_SPREAD = ",".join(_TAKES_SPACE[:-2])
SIGNALS = {
    "SIGKILL": "kill=9",
    "SIGTERM": "kill=15",
    "SIGINT to the group": "group=2",
    "SIGTERM to the group": "group=15",
    "SIGHUP to the group": "group=1",
    "SIGSTOP, SIGCONT": "pause",
}

_WRITE = "for at in 0 1M 2040K; do head -c 8192 /dev/urandom | dd of=FILES/src/a.img bs=8k oflag=seek_bytes seek=$at"
_WRITE += " conv=notrunc status=none; done"

CHANGES = {
    "source truncated": "truncate -s 700K FILES/src/a.img",
    "source emptied": "truncate -s 0 FILES/src/a.img",
    "source extended": "head -c 65536 /dev/urandom >>FILES/src/a.img",
    "source written to": _WRITE,
    "source rewritten, same size and time": f"{_WRITE}; touch -d @1500000000 FILES/src/a.img",
    "source punched": "for at in 0 1M; do fallocate -p -o $at -l 64K FILES/src/a.img; done",
    "source replaced": "head -c 90000 /dev/urandom >FILES/t && mv FILES/t FILES/src/a.img",
    "source gone": "rm -f FILES/src/a.img",
    "destination written to": "echo theirs >>FILES/dst/a.img",
    "destination replaced": "echo theirs >FILES/t && mv FILES/t FILES/dst/a.img",
    "destination gone": "rm -rf FILES/dst/a.img FILES/dst/sub",
    "destination's directory renamed": "mv FILES/dst/sub FILES/dst/theirs",
}
"""What somebody else does to a file meanwhile. Writing is to several places, so that some of it is missed."""

_ALIKE = 6
"""Of the calls of one kind on one file, so many are tried."""


@dataclass(frozen=True)
class Family:
    """A kind of fault: a row of the table."""

    name: str
    act: str
    kinds: Sequence[str] | None = None
    programs: Sequence[str] = ("python",)

    def of(self, calls: Sequence[Call], side: str, program: str) -> Iterator[Fault]:
        """The faults of this family at the calls of a run: of calls that are the same, the first few and the last."""
        same: dict[tuple[str, str], list[Call]] = {}
        for call in calls:
            if self.kinds is None or call.kind in self.kinds:
                same.setdefault((call.kind, call.path), []).append(call)
        for alike in same.values():
            for call in alike if len(alike) <= _ALIKE else [*alike[: _ALIKE - 1], alike[-1]]:
                yield Fault(self.act, call.number, side, program)


_BOTH = ("python", "rsync")
FAMILIES = [
    *(Family(name, f"errno={number}", kinds) for name, (number, kinds) in ERRORS.items()),
    Family("disk full from then on", f"always={errno.ENOSPC}:{_SPREAD}", _TAKES_SPACE),
    Family("short read", "short", ("read",)),
    Family("short write", "short", ("write", "copy")),
    *(Family(name, act, None, _BOTH) for name, act in SIGNALS.items() if name != "SIGSTOP, SIGCONT"),
    Family("SIGSTOP, SIGCONT", "pause", ("open", "create", "write", "rename", "seek"), _BOTH),
    Family("SIGKILL of the remote shell", "parent=9", None, _BOTH),
    *(Family(name, f"run={command}") for name, command in CHANGES.items()),
]


@dataclass
class Row:
    """What came of a family."""

    injected: int = 0
    problems: dict[str, int] = field(default_factory=dict)
    next: dict[str, int] = field(default_factory=dict)


class Table:
    """What was injected, and what came of it; ``verdicts`` are those that have problems."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.verdicts: list[Verdict] = []

    def add(self, name: str, verdict: Verdict) -> None:
        row = self.rows.setdefault(name, Row())
        row.injected += 1
        row.next[verdict.next] = row.next.get(verdict.next, 0) + 1
        for kind in {kind for kind, _ in verdict.problems}:
            row.problems[kind] = row.problems.get(kind, 0) + 1
        if verdict.problems:
            self.verdicts.append(verdict)

    def markdown(self) -> str:
        head = "| kind of fault | injected | wrong results | left over | holes lost in silence | next run |\n"
        head += "| --- | --- | --- | --- | --- | --- |\n"
        lines = []
        total = Row()
        for name, row in self.rows.items():
            lines.append(self._line(name, row))
            total.injected += row.injected
            for kind, count in row.problems.items():
                total.problems[kind] = total.problems.get(kind, 0) + count
            for status, count in row.next.items():
                total.next[status] = total.next.get(status, 0) + count
        return head + "".join(lines) + self._line("all", total)

    @staticmethod
    def _line(name: str, row: Row) -> str:
        wrong = sum(count for kind, count in row.problems.items() if kind not in ("stray", "silent"))
        again = ", ".join(f"status {status}: {count}" for status, count in sorted(row.next.items()))
        stray, silent = (row.problems.get(kind, 0) for kind in ("stray", "silent"))
        return f"| {name} | {row.injected} | {wrong} | {stray} | {silent} | {again} |\n"


def places(scenario: Scenario, family: Family) -> Iterator[tuple[str, str]]:
    """The sides and programs that a fault can be in."""
    for side in ("client", "agent") if scenario.remote else ("client",):
        if family.act.startswith("parent=") and side == "client":
            continue  # its parent is the test
        for program in family.programs:
            if program == "python" or scenario.kind == "sync":
                yield side, program


def every_fault(lab: Lab, scenario: Scenario, family: Family) -> list[Fault]:
    """All faults of a family in a scenario."""
    found: list[Fault] = []
    for side, program in places(scenario, family):
        found += family.of(lab.calls(scenario, side, program), side, program)
    return found


def some_faults(lab: Lab, scenario: Scenario, family: Family, most: int, seed: str) -> list[Fault]:
    """All faults, or ``most`` of them, by a seed."""
    found = every_fault(lab, scenario, family)
    return found if len(found) <= most else sorted(random.Random(seed).sample(found, most))


def count(lab: Lab, scenarios: Sequence[Scenario], at_once: int = 2) -> None:
    """Count the calls of scenarios at both sides, ``at_once`` of them at a time."""
    families = [family for family in FAMILIES if "rsync" in family.programs]
    wanted = {(scenario, *place) for scenario in scenarios for family in families for place in places(scenario, family)}
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(lambda each: lab.calls(*each), sorted(wanted, key=str)))


def inject(lab: Lab, jobs: Sequence[tuple[Family, Scenario, Fault]], table: Table, at_once: int = 2) -> list[Verdict]:
    """Run the scenarios with their faults, ``at_once`` at a time. Returns the verdicts that have problems."""
    with ThreadPoolExecutor(at_once) as pool:
        verdicts = list(pool.map(lambda job: lab.run(job[1], job[2]), jobs))
    for (family, _, _), verdict in zip(jobs, verdicts):
        table.add(family.name, verdict)
    return [verdict for verdict in verdicts if verdict.problems]
