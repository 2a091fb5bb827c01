"""Figures with goals, and a table of the goals met and missed."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks.common import Row, spell

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a figure: at least or at most `bound`, in the unit of its row."""

    bound: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Return whether `value` meets the goal."""
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def at_least(bound: float) -> Goal:
    """Return the goal of a figure that should be large."""
    return Goal(bound, at_least=True)


def at_most(bound: float) -> Goal:
    """Return the goal of a figure that should be small."""
    return Goal(bound)


@dataclass(frozen=True, slots=True)
class Figure:
    """A row, and its goal if it has one."""

    row: Row
    goal: Goal | None = None


def show_figures(title: str, figures: Sequence[Figure]) -> None:
    """Print figures one per line, grouped by work, each with its goal and whether it is met."""
    console = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=130)
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name, justify in (("work", "left"), ("subject", "left"), ("figure", "right"), ("", "left"), ("goal", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # rich's own list of words
    table.add_column("", justify="left")
    work = ""
    for figure in figures:
        row = figure.row
        if work and row.work != work:
            table.add_section()
        verdict = "" if figure.goal is None else "[green]met[/]" if figure.goal.met(row.value) else "[red]short[/]"
        goal = "" if figure.goal is None else str(figure.goal)
        table.add_row(
            row.work if row.work != work else "",
            row.subject,
            spell(row.value),
            f"{row.unit}, {row.metric}",
            goal,
            verdict,
        )
        work = row.work
    console.print(table)
    console.print()
