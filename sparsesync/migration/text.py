"""What a person reads of a migration: the table of the preflight, the plan, the summary for a ticket.

:func:`print_event` prints what :mod:`run` has to tell, on standard output; with ``--json`` nothing but the report
goes there, and this is not used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Callable

from ..console.messages import print_line
from ..console.units import iec
from .findings import Finding
from .plan import Plan

_MAX_REPORTED_NAMES = 20


def lines_of(kind: str, value: Any) -> Iterator[str]:
    """Yield the lines of a part of the report: "findings", "plan", "names", "command" or "differences"."""
    return _LINES[kind](value)


def print_event(kind: str, value: Any) -> None:
    """Print a part of the report, as :func:`lines_of`."""
    for line in lines_of(kind, value):
        print_line(line)
    sys.stdout.flush()  # a command's own output comes next


def _findings(found: Sequence[Finding]) -> Iterator[str]:
    for finding in found:
        yield f"{finding.level:<8} {finding.subject}: {finding.text}"


def _plan(value: tuple[Plan, Sequence[dict[str, Any]], Sequence[str]]) -> Iterator[str]:
    plan, excluded, files = value
    seeds, others = plan.seeds, plan.others
    yield ""
    yield f"by extents   {_files(seeds.count)}: {iec(seeds.data)} of {iec(seeds.size)}"
    if plan.handoff:
        yield f"             all is left to rsync: {plan.handoff}"
    yield f"by rsync     {_files(others.count)}: {iec(others.size)}"
    by_reason: dict[str, list[str]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for each in excluded:
        by_reason.setdefault(each["why"], []).append(each["pattern"])
        apparent, allocated = sizes.get(each["why"], (0, 0))
        size = each["sizes"] or (0, 0)
        sizes[each["why"]] = apparent + size[0], allocated + size[1]
    lines = [f"{_listed(patterns)} ({why}{_sizes(*sizes[why])})" for why, patterns in by_reason.items()]
    lines += [f"what {path} says" for path in files]
    for count, line in enumerate(lines):
        yield f"{'' if count else 'left out':<12} {line}"
    yield ""


def _names(rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    for what, name, *sizes in rows:
        data, size = map(iec, sizes or (0, 0))
        yield f"{what:<12} {name}" + (f": {data}{f' of {size}' * (data != size)}" if sizes else "")


def _sizes(apparent: int, allocated: int) -> str:
    return f": {iec(allocated)} of {iec(apparent)}" if apparent else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_REPORTED_NAMES} more" if len(names) > _MAX_REPORTED_NAMES else ""
    return ", ".join(names[:_MAX_REPORTED_NAMES]) + more


def _command(value: tuple[str, str, str]) -> Iterator[str]:
    what, host, command = value
    yield f"--{what} on {host}: {command}"


def _differences(differences: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield from (f"{name}: {what}" for name, what in differences[:_MAX_REPORTED_NAMES])
    if len(differences) > _MAX_REPORTED_NAMES:
        yield f"and {len(differences) - _MAX_REPORTED_NAMES} more"


_LINES: dict[str, Callable[[Any], Iterator[str]]] = {
    "findings": _findings,
    "plan": _plan,
    "names": _names,
    "command": _command,
    "differences": _differences,
}


def summary(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a summary."""
    sources = " ".join(report["sources"])
    status = "done" if report["status"] == 0 else "FAILED"
    yield f"{report['pass']} pass {status}: {sources} to {report['destination']}"
    yield f"apparent     {iec(report['apparent'])}"
    yield f"allocated    {iec(report['allocated'])}"
    sync = report.get("sync")
    if sync:
        rest = " and what rsync sent, which it did not say" if sync["sent_by_rsync"] is None else ""
        yield f"sent         {iec(sync['sent'])}{rest}, {_files(len(sync['seeded']))} by extents"
        yield f"saved        {iec(sync['saved'])}"
        if sync["later"]:
            yield f"in use       or just written: {_files(len(sync['later']))}; the final pass brings the rest of it"
    yield f"time         {duration(report['seconds'])}"
    if report.get("commands"):
        ran = ", ".join(f"--{each['what']} {duration(each['seconds'])}" for each in report["commands"])
        yield f"downtime     {duration(report['downtime'])}, of it {ran}"
    verified = report.get("verified")
    if verified:
        digests = ""
        if verified["by_digest"]:
            digests = f"; {_files(verified['files'])}, {iec(verified['data'])} by digest"
            believed = max(verified["believed"].values())
            digests += f", {iec(believed)} of holes believed" if believed else ""
        found = len(verified["differences"])
        what = f"{found} difference{'s' * (found > 1)}" if found else "rsync finds nothing to do"
        yield f"verified     {what}{digests}"


def duration(seconds: float) -> str:
    """Return seconds as text for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"
