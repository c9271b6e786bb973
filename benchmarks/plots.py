"""The plots, as SVG: time against apparent size, extents, share changed, and link speed.

A plot shows a family of cases (``apparent/*``) with one line for each contender: the medians, against one of the cases'
``axes``, whose values stand at equal distances. Time is logarithmic: the peers are decades apart. The same results give
the same files.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from .inputs import iec


class Plot(NamedTuple):
    """A plot: the file's name, what it shows, which cases, the axis and how its values are written."""

    file: str
    title: str
    cases: tuple[str, ...]
    axis: str
    label: str
    show: Callable[[Any], str]


PLOTS = [
    Plot("apparent.svg", "copy of 64 MiB of data, ext4", ("apparent/*", "copy/ext4/?T-*"), "apparent",
         "apparent size", iec),
    Plot("extents.svg", "copy of the same data in more extents, ext4", ("extents/*", "copy/ext4/extents"), "extents",
         "extents", str),
    Plot("changed.svg", "update in place, ext4", ("changed/*",), "changed", "share of the data changed",
         "{:.0%}".format),
    Plot("track.svg", "copy again after the same changes, xfs", ("track/xfs/*",), "data", "data", iec),
    Plot("links.svg", "first copy over ssh, 20 ms", ("ssh/1*/first",), "rate", "speed of the link",
         lambda rate: f"{rate * 8 / 1e6:g} Mbit/s"),
]  # fmt: skip


def draw(results: dict[str, Any], directory: Path) -> list[tuple[str, str]]:
    """Draw what there are results for; (file, title) of each plot made."""
    made = []
    for plot in PLOTS:
        cases = [
            case
            for case in results["cases"]
            if any(fnmatch.fnmatch(case["name"], pattern) for pattern in plot.cases) and case["contenders"]
        ]
        if len(cases) > 1:
            cases.sort(key=lambda case: case["axes"][plot.axis])
            _draw(plot, cases, directory / plot.file)
            made.append((plot.file, f"{plot.title}: time against {plot.label}"))
    return made


def _draw(plot: Plot, cases: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    # Without these every run would make another file.
    matplotlib.rcParams["svg.hashsalt"] = "sparsesync"
    # Letters as letters, not as outlines: a quarter of the size.
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    places = [str(plot.show(case["axes"][plot.axis])) for case in cases]
    names = list(dict.fromkeys(it["name"] for case in cases for it in case["contenders"]))
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for name in names:
        points = [
            (number, it["median"])
            for number, case in enumerate(cases)
            for it in case["contenders"]
            if it["name"] == name and "median" in it and not it["over"]
        ]
        ours = name.startswith("sparsesync")
        if points:
            axes.plot(*zip(*points), label=name, marker="o", linewidth=2.5 if ours else 1, zorder=3 if ours else 2)
    axes.set_xticks(range(len(cases)), places)
    axes.set_yscale("log")
    axes.set_xlabel(plot.label)
    axes.set_ylabel("seconds")
    axes.set_title(plot.title)
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
