"""The output of the benchmarks: the file of a run, its picture, the READMEs' tables.

Nothing is measured here, since speed depends on the machine. The plan of the picture is tested without matplotlib,
which is too large to install for a test.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from benchmarks import picture, runs, summary, sync_picture
from benchmarks.common import BenchmarkError, Row
from benchmarks.picture import NAME, STYLES, fingerprint, layout
from benchmarks.run_concurrency import RESULTS
from benchmarks.runs import Run
from benchmarks.subjects import BESIDE, DEPLOYED, NGINX, NODE
from benchmarks.throughput import Load, Rounds
from tests.support.markdown import links, read, table
from tests.support.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

COMMITTED = RESULTS / f"{NAME}.json"
RUN = Run("2026-11-24", 2, "a processor", "Linux 6.1", "3.12.1", rounds=5, seconds=3.0)


def measured(load: Load, subject: str, rate: float, waits: list[float]) -> list[Row]:
    """Return the rows of run_concurrency for one round of a subject."""
    rounds = Rounds()
    rounds.add({"bytes": rate, "seconds": 1.0, "server_cpu": 0.1, "client_cpu": 0.1, "first_byte": waits})
    return [figure.row for figure in rounds.figures(str(load), subject, 64_000_000)]


def some_rows() -> list[Row]:
    rows = []
    for count in (200, 32):
        for factor, subject in enumerate(STYLES, 1):
            rows += measured(Load(64, count), subject, factor * 1e9, [0.001] * 98 + [0.03] * 2)
    rows += measured(Load(64, 64, copy=True), NODE, 7e9, [1.0])
    rows += measured(Load(64, 64, tls=True), NODE, 7e9, [])
    rows += measured(Load(1, 64), NODE, 7e9, [1.0])
    return [*rows, Row(str(Load(64, 32)), f"{NODE} / {NGINX}", "throughput", 2.5, "times")]


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    rows = [Row("a work", "a subject", "a metric", 1.25, "MB/s")]
    runs.write(RUN, rows, file)
    assert runs.read(file) == (RUN, rows)
    written = json.loads(file.read_text())
    assert all(row.keys() == {"work", "subject", "metric", "value", "unit"} for row in written)
    assert written[-1] == asdict(rows[0])
    assert str(RUN) == "2 cores (a processor), Linux 6.1, 2026-11-24; medians of 5 rounds of 3 s"


@pytest.mark.parametrize("text", ["", "[]", "{}", '[{"work": "run"}]', '{"run": {}, "rows": []}'])
def test_a_file_of_something_else_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(BenchmarkError, match=r"run\.json"):
        runs.read(tmp_path / "run.json")


def test_this_machine_describes_itself() -> None:
    here = Run.here(1)
    assert here.cores >= 1
    assert here.processor
    assert str(here).endswith("; one round")


def test_the_picture_shows_every_subject_against_rising_connections_and_no_other_work() -> None:
    rate, wait = layout(some_rows())
    assert [line.subject for line in rate.lines] == [NODE, BESIDE, NGINX, DEPLOYED]
    assert [line.points for line in rate.lines] == [((32, n), (200, n)) for n in (1.0, 2.0, 3.0, 4.0)]
    assert rate.connections == wait.connections == [32, 200]
    medians, slow = ([line for line in wait.lines if line.faint is faint] for faint in (False, True))
    assert [line.points for line in medians] == [((32, 1.0), (200, 1.0))] * 4
    assert [line.points for line in slow] == [((32, 30.0), (200, 30.0))] * 4


def test_an_axis_of_waits_reaches_around_all_of_them() -> None:
    _, wait = layout(some_rows())
    assert wait.steps == [1, 2, 5, 10, 20, 50]
    _, alone = layout(measured(Load(64, 64), NODE, 1e9, [0.0]))
    assert alone.steps == [0.01, 0.02], "of one value too, and of none"


def test_who_was_not_there_is_not_drawn_and_nothing_is_no_picture() -> None:
    rate, _ = layout([row for row in some_rows() if NGINX not in row.subject])
    assert NGINX not in [line.subject for line in rate.lines]
    with pytest.raises(BenchmarkError, match="large"):
        layout([row for row in some_rows() if "TLS" in row.work])


def test_without_matplotlib_one_line_says_what_to_do(tmp_path: Path) -> None:
    runs.write(RUN, some_rows(), tmp_path / "run.json")
    code = (
        "import runpy, sys; sys.modules['matplotlib'] = None; "
        "runpy.run_module('benchmarks.picture', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run.json")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", f"{picture.MISSING}\n")
    assert (ROOT / "requirements" / "benchmark.txt").is_file()


@pytest.mark.parametrize("kept", sorted(RESULTS.glob("*.json")), ids=lambda kept: kept.stem)
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_picture_that_is_kept_shows_the_figures_that_are_kept(kept: Path, kind: str) -> None:
    drawing, plan = (picture, layout) if kept == COMMITTED else (sync_picture, sync_picture.layout)
    plan(runs.read(kept)[1])
    said = fingerprint(kept).encode()
    assert said in kept.with_suffix(f".{kind}").read_bytes(), f"python -m {drawing.__name__} {kept}"


@pytest.mark.parametrize("path", summary.LANGUAGES)
def test_the_readmes_show_the_figures_that_are_kept(path: str) -> None:
    assert {f"benchmarks/results/{kept}.png" for kept in (NAME, sync_picture.NAME)} <= set(links(path))
    _, rows = runs.read(COMMITTED)
    for name, (_, *lines) in summary.tables(rows, summary.LANGUAGES[path]).items():
        assert table(path, name) == lines, "python -m benchmarks.summary"
    assert summary.written(read(path), summary.tables(rows, summary.LANGUAGES[path])) == read(path)


def test_a_table_is_not_made_of_half_a_run() -> None:
    with pytest.raises(BenchmarkError, match="64 MB package, 32 connections"):
        summary.tables(some_rows()[:3], 0)
