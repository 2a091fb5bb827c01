"""The file of a run: its figures, date and machine."""

from __future__ import annotations

import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import BenchmarkError, Row

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Run:
    """The date, machine and plan of a run. `date` is the day (UTC) as YYYY-MM-DD, `seconds` the length of a turn.

    `seconds` is absent in a benchmark whose turns have no fixed length.
    """

    date: str
    cores: int
    processor: str
    kernel: str
    python: str
    rounds: int
    seconds: float | None = None

    @classmethod
    def here(cls, rounds: int, seconds: float | None = None) -> Run:
        """Return a run of today on this machine. `cores` are those available to this process."""
        return cls(
            date=datetime.now(UTC).date().isoformat(),
            cores=len(os.sched_getaffinity(0)),
            processor=_processor(),
            kernel=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            rounds=rounds,
            seconds=seconds,
        )

    def __str__(self) -> str:
        """Return the machine and the plan in one line."""
        cores = f"{self.cores} core{'s' * (self.cores != 1)}"
        rounds = "one round" if self.rounds == 1 else f"medians of {self.rounds} rounds"
        length = "" if self.seconds is None else f" of {self.seconds:g} s"
        return f"{cores} ({self.processor}), {self.kernel}, {self.date}; {rounds}{length}"


def _processor() -> str:
    """Return the name of the processor on x86, elsewhere at least the architecture."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


WORK = "run"
"""The work of the rows that describe the run."""


def _rows_of(run: Run) -> list[Row]:
    # The value of a row is a number: date and machine are the subject of these rows.
    subject = f"{run.date}, {run.kernel}, Python {run.python}, {run.processor}"
    values = [("cores", run.cores, "cores"), ("rounds", run.rounds, "rounds"), ("turn", run.seconds, "s")]
    return [Row(WORK, subject, metric, value, unit) for metric, value, unit in values if value is not None]


def _run_of(rows: Sequence[Row]) -> Run:
    date, kernel, python, processor = rows[0].subject.split(", ", 3)
    values = {row.metric: row.value for row in rows}
    cores, rounds = int(values["cores"]), int(values["rounds"])
    return Run(date, cores, processor, kernel, python.removeprefix("Python "), rounds, values.get("turn"))


def write(run: Run, rows: Sequence[Row], path: Path) -> None:
    """Write a JSON array of objects with the keys of `Row`; the first ones describe the run.

    Values have five significant digits, so that files are easy to compare.
    """
    spelt = [{**asdict(row), "value": float(f"{row.value:.5g}")} for row in [*_rows_of(run), *rows]]
    path.write_text(json.dumps(spelt, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[Run, list[Row]]:
    """Read a file of `write`. Raises `BenchmarkError` for any other file."""
    try:
        found = [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
        return _run_of([row for row in found if row.work == WORK]), [row for row in found if row.work != WORK]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise BenchmarkError(f"{path} holds no figures of a run: {error!r}") from error
