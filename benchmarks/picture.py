"""Draw bytes per second and time to first byte against connections: `python -m benchmarks.picture RESULTS.json`.

Reads the file that run_concurrency writes, and writes a PNG and an SVG of the same name beside it, or into `--folder`.
The same file always gives the same SVG, so that a new run changes only the lines that differ. Drawing needs matplotlib,
which `make benchmark` installs; the plan of the panels is made without it.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from benchmarks.common import BenchmarkError, Row
from benchmarks.runs import read
from benchmarks.subjects import BESIDE, DEPLOYED, NGINX, NODE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME = "concurrency"
"""Name of the files, without extension."""

MISSING = (
    "matplotlib is not installed, so no picture is drawn: `make benchmark` installs it, "
    "or `pip install -r requirements/benchmark.txt`"
)

DRAWN_MEGABYTES = 64

_WORK = re.compile(r"(\d+) MB package, (\d+) connections")

STYLES = {
    NODE: ("#0072B2", "o"),
    BESIDE: ("#56B4E9", "s"),
    NGINX: ("#D55E00", "^"),
    DEPLOYED: ("#666666", "D"),
}
"""Colour and marker of each subject, in the order of the legend. The colours are those of Okabe and Ito, for red-green
colour blindness; the markers distinguish the lines without colour."""

FLOOR_MS = 0.01
"""Lower end of a logarithmic axis of milliseconds."""

INCHES = (9.0, 4.4)
DOTS_PER_INCH = 200

COLUMNS = 4
"""Of the legend."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: (connections, value) by rising connections. A `faint` one is thin and not in the legend."""

    subject: str
    points: tuple[tuple[int, float], ...]
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """One diagram. `unit` is that of its values; `logarithmic` refers to the axis of values."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    logarithmic: bool = False

    @property
    def connections(self) -> list[int]:
        """The numbers of connections of all lines, rising."""
        return sorted({count for line in self.lines for count, _ in line.points})

    @property
    def steps(self) -> list[float]:
        """The ticks of a logarithmic axis of values: 1, 2, 5, 10 ... around all values."""
        values = [value for line in self.lines for _, value in line.points]
        lowest, highest = min(values), max(values)
        series = [digit * 10.0**power for power, digit in itertools.product(range(-6, 10), (1, 2, 5))]
        first = max(step for step in series if step <= lowest)
        last = min(step for step in series if step >= highest and step > first)
        return [step for step in series if first <= step <= last]


def layout(rows: Sequence[Row]) -> tuple[Panel, Panel]:
    """Return the panels of throughput (GB/s) and of time to first byte (ms). Raises `BenchmarkError` without figures.

    A subject without figures, such as nginx if it is not installed, has no line.
    """
    rate = [line for name in STYLES if (line := _line(rows, name, "throughput", scale=1e-3))]
    median = [line for name in STYLES if (line := _line(rows, name, "first byte p50", floor=FLOOR_MS))]
    slow = [line for name in STYLES if (line := _line(rows, name, "first byte p99", floor=FLOOR_MS, faint=True))]
    if not rate or not median:
        raise BenchmarkError("nothing to draw: these figures have none of the section `large`")
    return (
        Panel("Throughput", "GB/s", tuple(rate)),
        Panel("Time to first byte: median, and p99 dashed", "ms", (*median, *slow), logarithmic=True),
    )


def _line(
    rows: Sequence[Row], subject: str, metric: str, *, scale: float = 1.0, floor: float = 0.0, faint: bool = False
) -> Line | None:
    points = {}
    for row in rows:
        # Only the plain works: the names of those with TLS or the copying client are longer.
        work = _WORK.fullmatch(row.work)
        if work and int(work[1]) == DRAWN_MEGABYTES and (row.subject, row.metric) == (subject, metric):
            points[int(work[2])] = max(row.value * scale, floor)
    return Line(subject, tuple(sorted(points.items())), faint) if points else None


def fingerprint(results: Path) -> str:
    """Return the text in a picture that names its source file by BLAKE3 digest."""
    return f"drawn from {blake3(results.read_bytes()).hexdigest()}"


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: Path, folder: Path) -> list[Path]:
    """Draw the file `results` into `folder`; return the paths of PNG and SVG.

    Raises `BenchmarkError` if the file has no figures to draw, or without matplotlib.
    """
    run, rows = read(results)
    caption = f"{DRAWN_MEGABYTES} MB package, all in one run on {run}"
    return draw_panels(results, folder, layout(rows), caption)


def draw_panels(
    results: Path,
    folder: Path,
    panels: Sequence[Panel],
    caption: str,
    *,
    styles: Mapping[str, tuple[str, str]] = STYLES,
    axis: str = "connections",
) -> list[Path]:
    """Draw `panels`, which were made of the file `results`, into `folder`; return the paths of PNG and SVG.

    `styles` has colour and marker of each subject, `axis` is the label of the horizontal axis. Raises `BenchmarkError`
    without matplotlib.
    """
    if not can_draw():
        raise BenchmarkError(MISSING)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    origin = fingerprint(results)
    # Without time and program version: the same figures give the same picture.
    metadata: dict[str, dict[str, str | None]] = {
        "png": {"Software": None, "Description": origin},
        "svg": {"Date": None, "Creator": None, "Description": origin},
    }
    made = []
    for kind, about in metadata.items():
        path = folder / f"{results.stem}.{kind}"
        # Ids in an SVG are random unless salted. The fonts are matplotlib's own, the same on every machine.
        with mpl.rc_context({"svg.hashsalt": NAME, "font.family": "DejaVu Sans", "font.size": 10}):
            figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, facecolor="white", layout="constrained")
            for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
                _draw_panel(axes, panel, styles, axis)
            handles, labels = figure.axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), COLUMNS), frameon=False)
            figure.supxlabel(caption, fontsize=7.5, color="#444444")
            figure.savefig(path, metadata=about)
        made.append(path)
    return made


def _draw_panel(axes: Any, panel: Panel, styles: Mapping[str, tuple[str, str]], axis: str) -> None:
    for line in panel.lines:
        colour, marker = styles[line.subject]
        counts, values = zip(*line.points, strict=True)
        if line.faint:
            axes.plot(counts, values, color=colour, linewidth=1, linestyle="--", marker=marker, markersize=3)
        else:
            axes.plot(counts, values, color=colour, linewidth=2, marker=marker, markersize=6, label=line.subject)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(axis)
    axes.set_ylabel(panel.unit)
    axes.set_xscale("log")
    axes.set_xticks(panel.connections, [str(count) for count in panel.connections], minor=False)
    axes.set_xticks([], minor=True)
    if panel.logarithmic:
        axes.set_yscale("log")
        axes.set_yticks(panel.steps, [f"{step:g}" for step in panel.steps], minor=False)
        axes.set_yticks([], minor=True)
        axes.set_ylim(panel.steps[0], panel.steps[-1])
    else:
        axes.set_ylim(bottom=0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> int:
    """Draw; return exit status 1 if that is not possible."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
    parser.add_argument("results", type=Path, metavar="RESULTS.json", help="a file written by run_concurrency")
    parser.add_argument("--folder", type=Path, help="target folder (default: that of RESULTS.json)")
    options = parser.parse_args()
    try:
        made = draw(options.results, options.folder or options.results.parent)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    for path in made:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
