"""Write the figures of a run into the tables of both READMEs: `python -m benchmarks.summary`.

Reads benchmarks/results/concurrency.json, which a whole run of run_concurrency writes, and replaces the tables below
`<!-- figures -->` and `<!-- waits -->`. A test compares the READMEs with the file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.common import ROOT, BenchmarkError, Row
from benchmarks.herd import NGINX_CACHE
from benchmarks.runs import read
from benchmarks.subjects import DEPLOYED, NGINX, NODE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

RESULTS = ROOT / "benchmarks" / "results" / "concurrency.json"
LANGUAGES = {"README.md": 0, "README.zh-CN.md": 1}
"""Index of a README's language in `Text`."""

NOTHING = "–"
"""Cell of a figure that was not measured."""

Text = tuple[str, str]
"""A text in English and in Chinese."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A row of the first table: the node relative to the other subjects."""

    label: Text
    work: str
    metric: str


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the second table: each subject's own metrics of one work."""

    label: Text
    work: str
    metrics: tuple[str, ...]
    unit: str = ""


RATIO_HEAD: tuple[Text, ...] = (
    ("trionode against", "trionode 与之相比"),
    ("the deployed node's design", "现有节点的做法"),
    ("nginx", "nginx"),
)
RATIOS = (
    *(
        Ratio(
            (f"bytes/s of a 64 MB package, {count} connections", f"64 MB 的包、{count} 个连接，每秒字节数"),
            f"64 MB package, {count} connections",
            "throughput",
        )
        for count in (32, 64, 200)
    ),
    Ratio(
        (
            "the same with a client that copies what it reads, 64 connections",
            "同上，客户端会复制所读内容，64 个连接",
        ),
        "64 MB package, 64 connections, copying client",
        "throughput",
    ),
    Ratio(
        ("bytes/s of a 1 MB package, 32 connections", "1 MB 的包、32 个连接，每秒字节数"),
        "1 MB package, 32 connections",
        "throughput",
    ),
    Ratio(
        (
            "processor time for a byte of the 64 MB package, 64 connections",
            "发 64 MB 的包、64 个连接，每字节所用的处理器时间",
        ),
        "64 MB package, 64 connections",
        "server CPU",
    ),
)

MEASURE_HEAD: tuple[Text, ...] = (
    ("what clients and the machine notice", "客户端和机器的感受"),
    ("trionode", "trionode"),
    ("deployed design", "现有节点的做法"),
    ("nginx", "nginx"),
)
MEASURES = (
    Measure(
        ("a small request during 64 downloads: median, p99", "64 个下载进行时，一个小请求要等多久：中位数、p99"),
        "a small request during 64 downloads",
        ("wait p50", "wait p99"),
        "ms",
    ),
    Measure(
        ("the same during 16 downloads from disk", "同上，16 个下载都要从磁盘读"),
        "a small request during 16 downloads from disk, 500 MB package",
        ("wait p50", "wait p99"),
        "ms",
    ),
    Measure(
        (
            "500 clients start together: the 99th over the median to finish",
            "500 个客户端同时开始：完成时间的 p99 与中位数之比",
        ),
        "500 clients start together, 16 MB each",
        ("finish p99/p50",),
    ),
    Measure(
        ("peak memory, 500 downloads of 1 MB, of 500 MB", "500 个下载时的内存峰值：1 MB 的包、500 MB 的包"),
        "memory with 500 downloads",
        ("peak, 1 MB package", "peak, 500 MB package"),
        "MB",
    ),
    Measure(
        (
            "200 clients, an empty node, a master at 100 Mbit/s: time of the last, over that of one at the master",
            "200 个客户端、空节点、主服务器限 100 Mbit/s：最后一个完成所用时间，是单个客户端直接从主服务器下载的多少倍",
        ),
        "cold herd: 200 clients, 20 MB at 100 Mbit/s",
        ("last client done / origin's own time",),
    ),
    Measure(
        ("copies the master sent for it", "其间主服务器发出的份数"),
        "cold herd: 200 clients, 20 MB at 100 Mbit/s",
        ("copies the origin sent",),
    ),
)


def tables(rows: Sequence[Row], language: int) -> dict[str, list[list[str]]]:
    """Return the tables of the READMEs by name, heads included, as cells. `language` is an index of `Text`.

    Raises `BenchmarkError` if the rows are not those of a whole run.
    """
    values = {(row.work, row.subject, row.metric): row.value for row in rows}
    times = (" times", " 倍")[language]
    figures = [[text[language] for text in RATIO_HEAD]]
    for line in RATIOS:
        cells = [_cell(values, line.work, f"{NODE} / {other}", (line.metric,), times) for other in (DEPLOYED, NGINX)]
        figures.append([line.label[language], *_known(cells, line.work)])
    waits = [[text[language] for text in MEASURE_HEAD]]
    for measure in MEASURES:
        unit = f" {measure.unit}" if measure.unit else ""
        cells = [
            _cell(values, measure.work, subject, measure.metrics, unit)
            for subject in (NODE, DEPLOYED, NGINX_CACHE if "herd" in measure.work else NGINX)
        ]
        waits.append([measure.label[language], *_known(cells, measure.work)])
    return {"figures": figures, "waits": waits}


def _cell(
    values: Mapping[tuple[str, str, str], float], work: str, subject: str, metrics: tuple[str, ...], unit: str
) -> str:
    found = [values.get((work, subject, metric)) for metric in metrics]
    known = [_spell(value, 1 if unit else 2) for value in found if value is not None]
    return ", ".join(known) + unit if len(known) == len(metrics) else NOTHING


def _known(cells: list[str], work: str) -> list[str]:
    if cells[0] == NOTHING:
        raise BenchmarkError(f"these figures have none of: {work}")
    return cells


def _spell(value: float, decimals: int) -> str:
    """Format with `decimals`; with two below one, and as a whole number from ten on."""
    return f"{value:.0f}" if value >= 10 else f"{value:.{decimals if value >= 1 else 2}f}"


def written(text: str, found: dict[str, list[list[str]]]) -> str:
    """Return a README's text with the lines below each table's name replaced."""
    for name, (head, *lines) in found.items():
        before, mark, after = text.partition(f"<!-- {name} -->\n")
        if not mark:
            raise BenchmarkError(f"there is no table <!-- {name} -->")
        rest = after.splitlines(keepends=True)
        while rest and rest[0].startswith("|"):
            rest.pop(0)
        drawn = [f"| {' | '.join(cells)} |\n" for cells in (head, *lines)]
        drawn.insert(1, "|" + "---|" * len(head) + "\n")
        text = before + mark + "".join(drawn + rest)
    return text


def update(results: Path, folder: Path) -> None:
    """Write the figures of `results` into the READMEs in `folder`."""
    _, rows = read(results)
    for name, language in LANGUAGES.items():
        path = folder / name
        path.write_text(written(path.read_text(encoding="utf-8"), tables(rows, language)), encoding="utf-8")


if __name__ == "__main__":
    try:
        update(RESULTS, ROOT)
    except BenchmarkError as error:
        sys.exit(str(error))
