"""Draw copies and times against the number of nodes: `python -m benchmarks.sync_picture RESULTS.json`.

Reads the file that sync writes, and writes a PNG and an SVG of the same name beside it, as `benchmarks.picture` does.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import BenchmarkError, Row
from benchmarks.picture import Line, Panel, draw_panels
from benchmarks.runs import read
from benchmarks.subjects import NODE
from benchmarks.sync_bench import ALONE, LINE_COPIES, RELATIVE
from benchmarks.sync_cluster import LEGACY, SHIM
from benchmarks.sync_others import ARIA2C, RSYNC

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "sync"
"""Name of the files, without extension."""

_WORK = re.compile(rf"(\d+) nodes, (\d+) MB, ({SHIM}|{LEGACY})")

STYLES = {
    f"{NODE}, {SHIM}": ("#0072B2", "o"),
    f"{NODE}, {LEGACY}": ("#56B4E9", "s"),
    ALONE: ("#666666", "D"),
    ARIA2C: ("#D55E00", "^"),
    RSYNC: ("#E69F00", "v"),
}
"""Colour and marker of each line. Without each other, nodes do the same at both masters; drawn is the shim."""


def layout(rows: Sequence[Row]) -> tuple[Panel, Panel]:
    """Return the panels of copies and of times. Raises `BenchmarkError` without figures."""
    copies = tuple(line for name in STYLES if (line := _line(rows, name, LINE_COPIES)))
    times = tuple(line for name in STYLES if (line := _line(rows, name, RELATIVE)))
    if not copies or not times:
        raise BenchmarkError("nothing to draw: these figures have none of the work `together`")
    return (
        Panel("Copies that the master sends", "copies", copies),
        Panel("Time until all nodes have it", "times that of one transfer", times),
    )


def _line(rows: Sequence[Row], name: str, metric: str) -> Line | None:
    points = {}
    for row in rows:
        work = _WORK.fullmatch(row.work)
        if work is None or row.metric != metric:
            continue
        master = work[3]
        if name in {f"{row.subject}, {master}", row.subject if master == SHIM else None}:
            points[int(work[1])] = row.value
    return Line(name, tuple(sorted(points.items()))) if points else None


def draw(results: Path, folder: Path) -> list[Path]:
    """Draw the file `results` into `folder`; return the paths of PNG and SVG. Raises `BenchmarkError`."""
    run, rows = read(results)
    panels = layout(rows)
    sizes = sorted({match[2] for row in rows if (match := _WORK.fullmatch(row.work))})
    caption = f"{', '.join(sizes)} MB package, lines of 40 Mbit/s, all in one run on {run}"
    return draw_panels(results, folder, panels, caption, styles=STYLES, axis="nodes that start together")


if __name__ == "__main__":
    try:
        for path in draw(Path(sys.argv[1]), Path(sys.argv[1]).parent):
            print(path)
    except BenchmarkError as error:
        sys.exit(str(error))
