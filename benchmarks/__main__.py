"""``python -m benchmarks``: what to run, where the results go, and that nothing is left behind.

Everything a run makes is below one new directory in ``--directory`` (by default the system's for temporary files), and
what is mounted, started or configured for it is undone by the context managers that did it; a signal to end becomes
an exception, so that they get to it. The results are written after each case, so that an interrupted run
has those that are done.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import cases, cases_ssh, peers
from .inputs import GIB
from .memory import kept
from .runner import Case, Runner, Starter

ROOM = 10 * GIB
"""Bytes that a run may need of the directory at most."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 if a result was wrong, ours was killed, or a case failed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["report"]:
        from .report import main as report

        return report(argv[1:])
    asked = _parse(argv)
    chosen = [
        case
        for case in [*cases.all_cases(asked.seed, asked.quick), *cases_ssh.all_cases(asked.seed, asked.quick)]
        if not asked.only or any(fnmatch.fnmatch(case.name, f"{pattern}*") for pattern in asked.only)
    ]
    unknown = set(asked.peers or ()) - set(peers.PEERS)
    if unknown:
        print(f"benchmarks: not a peer: {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    if asked.list:
        for case in chosen:
            print(f"{case.name:32} {case.what}")
            print(f"{'':32}   {', '.join(case.names)}")
        return 0
    unmatched = [name for name in asked.only if not any(fnmatch.fnmatch(case.name, f"{name}*") for case in chosen)]
    if unmatched:
        print(f"benchmarks: no case begins with {', '.join(unmatched)}; see --list", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        return _run(asked, chosen, argv)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="smaller inputs and 3 runs")
    only = "cases whose name begins so (fnmatch); may be given several times"
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=only)
    parser.add_argument("--peers", nargs="+", metavar="PROGRAM", help="against these peers only")
    parser.add_argument("--list", action="store_true", help="the cases and who takes part, and nothing else")
    runs = "measured runs of each, at least, but of slow peers one (default: 5, with --quick 3)"
    parser.add_argument("--runs", type=int, help=runs)
    parser.add_argument("--limit", type=float, help="seconds until a run is killed (default: 900, with --quick 40)")
    parser.add_argument("--seed", type=int, default=1, help="for the inputs and the order")
    output = "the results (default: %(default)s)"
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"), metavar="FILE", help=output)
    parser.add_argument("--directory", type=Path, help="where the inputs are made (default: $TMPDIR)")
    parser.epilog = "'python -m benchmarks report RESULTS.json' makes a table and plots"
    asked = parser.parse_args(argv)
    if any(number is not None and number <= 0 for number in (asked.runs, asked.limit)):
        parser.error("--runs and --limit take a number above 0")
    return asked


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _run(asked: argparse.Namespace, chosen: list[Case], argv: Sequence[str]) -> int:
    absent = peers.missing({"strace", *(name for case in chosen for name in (*case.names, *case.needs))})
    for program, package in absent.items():
        print(f"missing: {program}, of the package {package}", file=sys.stderr)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks", *argv]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "quick": asked.quick,
        "seed": asked.seed,
        "machine": _machine(),
        "versions": peers.versions(),
        "missing": [{"program": program, "package": package} for program, package in absent.items()],
        "cases": [],
    }
    wrong = False
    with tempfile.TemporaryDirectory(prefix="sparsesync-bench-", dir=asked.directory) as top:
        # What cannot be written is found now, and what an earlier run left is not taken for this one's.
        _write(asked.output, results)
        if shutil.disk_usage(top).free < ROOM:
            print(f"benchmarks: less than 10 GiB are free in {top}; see --directory", file=sys.stderr)
        with kept(2 * GIB if asked.quick else 10 * GIB), Starter(Path(top)) as starter:
            results["floor"] = starter.floor()
            runner = Runner(
                starter,
                runs=asked.runs or (3 if asked.quick else 5),
                limit=asked.limit or (40 if asked.quick else 900),
                patience=1,
                enough=0 if asked.quick else 20,
                seed=asked.seed,
                chosen=set(asked.peers) if asked.peers else None,
                say=lambda line: print(line, file=sys.stderr),
            )
            for case in chosen:
                print(f"{case.name}: {case.what}", file=sys.stderr)
                with tempfile.TemporaryDirectory(dir=top) as work:
                    entry = runner.run(case, Path(work))
                for name, reason in entry["skipped"].items():
                    print(f"    {name}: skipped: {reason}", file=sys.stderr)
                ours_over = any(it["ours"] and it.get("over") for it in entry["contenders"])
                wrong = wrong or ours_over or "failed" in entry or any(it["error"] for it in entry["contenders"])
                results["cases"].append(entry)
                _write(asked.output, results)
    return int(wrong)


def _write(path: Path, results: dict[str, Any]) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(results, indent=1) + "\n")
    new.replace(path)


def _machine() -> dict[str, Any]:
    def first(path: str, key: str) -> str:
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line[len(key) :].strip(' \t:="')
        return "unknown"

    return {
        "processor": first("/proc/cpuinfo", "model name"),
        "processors": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "system": first("/etc/os-release", "PRETTY_NAME"),
    }


if __name__ == "__main__":
    sys.exit(main())
