"""The file of a run: its figures, with the day and the machine they come from."""

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
    """When, where and how much was measured. `date` is the day (UTC) as YYYY-MM-DD, `seconds` the length of a turn.

    A benchmark whose turns last as long as their work takes has no `seconds`.
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
        """Return a run of today on this machine. `cores` are those this process may use."""
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
        """Describe the machine and the measure in one line."""
        cores = f"{self.cores} core{'s' * (self.cores != 1)}"
        rounds = "one round" if self.rounds == 1 else f"medians of {self.rounds} rounds"
        length = "" if self.seconds is None else f" of {self.seconds:g} s"
        return f"{cores} ({self.processor}), {self.kernel}, {self.date}; {rounds}{length}"


def _processor() -> str:
    """Return what the machine calls its processor: a name on x86, elsewhere at least the architecture."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def write(run: Run, rows: Sequence[Row], path: Path) -> None:
    """Write a JSON object: `run` with the keys of `Run`, and `rows`, an array of objects with the keys of `Row`.

    Values have five digits that mean something, so that the file is read and compared easily.
    """
    spelt = [{**asdict(row), "value": float(f"{row.value:.5g}")} for row in rows]
    text = json.dumps({"run": asdict(run), "rows": spelt}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> tuple[Run, list[Row]]:
    """Read what `write` has written. Raises `BenchmarkError` when it is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Run(**found["run"]), [Row(**row) for row in found["rows"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BenchmarkError(f"{path} holds no figures of a run: {error!r}") from error
