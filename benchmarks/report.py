"""The results for people: Markdown for docs/benchmarks.md, and plots.

``python -m benchmarks report RESULTS.json -o DIRECTORY`` writes ``benchmarks.md`` and the SVG files it shows. First the
machine and the command, then the figures to reach and whether they were, one line for each case with the best peer,
the plots, the system calls, and at last every contender of every case. Two results files give, instead, how far their
ratios are apart: what one run says and the next does not is not a result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from . import goals
from .inputs import iec


def main(argv: Sequence[str]) -> int:
    """The ``report`` command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS.json", help="two: compare their ratios")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks-report"), metavar="DIRECTORY")
    asked = parser.parse_args(argv)
    if len(asked.results) > 2:
        parser.error("two results can be compared, not more")
    loaded = []
    for path in asked.results:
        try:
            loaded.append(json.loads(path.read_text()))
            loaded[-1]["cases"], loaded[-1]["quick"], loaded[-1]["floor"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"benchmarks: {path} has no results of a run: {error}", file=sys.stderr)
            return 2
    if len(loaded) > 1:
        if loaded[0]["quick"] != loaded[1]["quick"]:
            print("benchmarks: only one of the two is of a --quick run, whose inputs are others", file=sys.stderr)
            return 2
        print("\n".join(_repeated(loaded[0], loaded[1])))
        return 0
    asked.output.mkdir(parents=True, exist_ok=True)
    from .plots import draw

    try:
        plots = draw(loaded[0], asked.output)
    except ModuleNotFoundError as error:
        print(f"benchmarks: no plots without {error.name}; install the extra: pip install '.[bench]'", file=sys.stderr)
        plots = []
    text = "\n".join(markdown(loaded[0], plots)) + "\n"
    (asked.output / "benchmarks.md").write_text(text)
    print(asked.output / "benchmarks.md")
    return 0


def markdown(results: dict[str, Any], plots: Iterable[tuple[str, str]] = ()) -> Iterator[str]:
    """The lines of the report; ``plots`` are (file, title)."""
    yield from _head(results)
    yield "\n## The figures to reach\n"
    yield from _table(["figure", "measured", ""], (
        [verdict.goal, verdict.measured, {True: "reached", False: "**not reached**", None: ""}[verdict.reached]]
        for verdict in goals.judge(results)
    ))  # fmt: skip
    yield "\n## Each case\n"
    yield (
        "Medians, and the fastest and the slowest run. The ratio is that of the fastest of ours to the peer with the "
        "smallest median: the median over the rounds, which ran the one beside the other. Below 1 ours is faster. "
        f"Memory is the peak of our largest process; less than {iec(results['floor'])} cannot be told.\n"
    )
    lines = filter(None, map(_line, results["cases"]))
    yield from _table(["case", "sparsesync", "memory", "fastest peer", "ratio", "rsync"], lines)
    for file, title in plots:
        yield f"\n![{title}]({file})"
    yield "\n## System calls per extent\n"
    yield "All of a command, with its start, as `strace -c` counts them, divided by the extents.\n"
    yield from _table(["case", "calls"], filter(None, map(_calls, results["cases"])))
    yield "\n## Every contender\n"
    yield (
        "Ratios are to the fastest peer. Memory is the peak of the largest process of a command; less than "
        f"{iec(results['floor'])} cannot be told. Read and written are the bytes of all its system calls, pipes and "
        "sockets among them, at this end. On the wire is both ways, with all headers."
    )
    for case in results["cases"]:
        yield from _detail(case)


def _head(results: dict[str, Any]) -> Iterator[str]:
    machine = results["machine"]
    yield "# Benchmarks\n"
    yield f"`{results['command']}`, {results['started']}{', on the smaller inputs' if results['quick'] else ''}\n"
    yield (
        f"{machine['processors']} x {machine['processor']}, {iec(machine['memory'])} of memory, "
        f"Linux {machine['kernel']}, {machine['system']}.\n"
    )
    yield "; ".join(f"{name}: {version}" for name, version in results["versions"].items()) + "."
    if results["missing"]:
        yield "\nMissing peers: " + ", ".join(f"{it['program']} (package {it['package']})" for it in results["missing"])


def _line(case: dict[str, Any]) -> list[str] | None:
    known = [it for it in case["contenders"] if "median" in it]
    rivals = [it for it in known if not it["baseline"]]
    ours = min((it for it in rivals if it["ours"]), key=lambda it: float(it["median"]), default=None)
    wrong = "".join(f"; **{it['name']} is wrong**" for it in case["contenders"] if it["error"])
    if ours is None:
        failed = f"**failed: {case['failed']}**" if "failed" in case else wrong[2:]
        return [case["name"], failed, "", "", "", ""] if failed else None
    best = goals.fastest_peer(known)
    rsync = goals.fastest(it for it in rivals if it["name"].startswith("rsync"))
    return [
        case["name"],
        _named(ours, "sparsesync"),
        iec(ours["peak"]),
        (_named(best) if best else "") + wrong,
        f"{ours['ratio']:.2f}" if ours["ratio"] else "",
        _named(rsync, "rsync") if rsync else "",
    ]


def _named(contender: dict[str, Any], known: str = "") -> str:
    """The time and whose it is, as far as the column does not say that."""
    words = [_time(contender), contender["name"].replace(known, "", 1).strip() if known else contender["name"]]
    return " ".join(filter(None, words)) + (", once" if contender["once"] else "")


def _calls(case: dict[str, Any]) -> list[str] | None:
    known = [f"{it['name']} {it['calls']:.3g}" for it in case["contenders"] if it.get("calls") is not None]
    return [case["name"], ", ".join(known)] if known else None


def _time(contender: dict[str, Any]) -> str:
    median: float = contender["median"]
    if contender["over"]:
        return f"> {contender['over']:g} s"
    scale, unit = (1000, "ms") if median < 0.1 else (1, "s")
    runs = "" if contender["once"] else f" ({contender['min'] * scale:.3g}-{contender['max'] * scale:.3g})"
    return f"{median * scale:.3g} {unit}{runs}"


def _detail(case: dict[str, Any]) -> Iterator[str]:
    yield f"\n### {case['name']}\n"
    facts = [f"{name}: {value}" for name, value in case.get("facts", {}).items() if value is not None]
    if "failed" in case:
        yield f"{case['what']}. **Failed: {case['failed']}**"
        return
    yield f"{case['what']}. Caches {case.get('cache', 'not used')}.{' ' if facts else ''}{'; '.join(facts)}\n"
    heads = ["", "median", "ratio", "memory", "far end", "read", "written", "allocated", "on the wire",
             "calls per extent"]  # fmt: skip
    yield from _table(heads, map(_row, case["contenders"]))
    for name, reason in case["skipped"].items():
        yield f"\n{name}: skipped, {reason}"


def _row(it: dict[str, Any]) -> list[str]:
    if "median" not in it:
        return [it["name"], f"**wrong**: {it['error']}"] + [""] * 8
    time = _time(it) + (", once" if it["once"] else "")
    sizes = [it.get(name) for name in ("peak", "far_peak", "read", "written", "allocated", "wire")]
    ratio = "" if it["ratio"] is None else f"{it['ratio']:.2f}"
    calls = "" if it.get("calls") is None else f"{it['calls']:.3g}"
    return [it["name"], time, ratio, *("" if size is None else iec(size) for size in sizes), calls]


def _table(heads: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "| " + " | ".join(["---"] * len(heads)) + " |"
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"


def _repeated(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    """How far apart the ratios of ours to the fastest peer, and to what is no peer, are in two runs."""
    for what, compare in _WAYS.items():
        ratios = [dict(_ratios(results, compare)) for results in (first, second)]
        apart = {key: ratios[1][key] / ratios[0][key] - 1 for key in ratios[0] if key in ratios[1]}
        if not apart:
            yield "the two have no case in common"
            return
        within = sum(abs(share) <= 0.15 for share in apart.values())
        middle = statistics.median(abs(share) for share in apart.values())
        yield f"{what}: {within} of {len(apart)} within 15 % of each other; the median is {middle:.1%} apart"
        for (case, name), share in sorted(apart.items(), key=lambda item: -abs(item[1])):
            if abs(share) > 0.15:
                yield f"    {share:+.0%} {case}: {name}"


Compare = Callable[[dict[str, Any], dict[str, Any]], float]

_WAYS: dict[str, Compare] = {
    "ratios, the medians over the rounds": goals.ratio,
    "ratios of medians": lambda it, other: float(it["median"] / other["median"]),
    "ratios of fastest runs": lambda it, other: float(it["min"] / other["min"]),
}
"""The ratio that is reported, and two that say how much of what is apart is the machine's noise."""


def _ratios(results: dict[str, Any], compare: Compare) -> Iterator[tuple[tuple[str, str], float]]:
    """Each of ours against the fastest peer, by its median, and each baseline."""
    for case in results["cases"]:
        known = [it for it in case["contenders"] if "median" in it and not it["over"]]
        others = {it["name"]: it for it in known if it["baseline"]}
        best = goals.fastest_peer(known)
        if best:
            others["the fastest peer"] = best
        for it in known:
            for name, other in others.items() if it["ours"] and not it["baseline"] else ():
                yield (case["name"], f"{it['name']} to {name}"), compare(it, other)
