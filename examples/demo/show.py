"""The output of the demo: chapters, progress of every node, tables. Plain lines without a terminal."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.rule import Rule
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MB = 1_000_000

PLAIN_WIDTH = 110
"""Width of the output without a terminal."""


def megabytes(count: float) -> str:
    """Format a number of bytes."""
    return f"{count / MB:,.2f} MB"


class Show:
    """Prints the demo's output."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=PLAIN_WIDTH)
        self._chapter = 0

    def opening(self, text: str) -> None:
        """Print the introduction."""
        self.console.print(Panel(text, title="[bold]trionode[/]", border_style="cyan", padding=(1, 2)))

    def chapter(self, title: str) -> None:
        """Print a numbered heading."""
        self._chapter += 1
        self.console.print()
        self.console.print(Rule(f"[bold cyan]{self._chapter}. {title}[/]", align="left", style="cyan"))

    def say(self, text: str) -> None:
        """Print a line, with rich's markup."""
        self.console.print(Padding.indent(text, 2))

    def command(self, words: Sequence[str]) -> None:
        """Print a command in a form that can be copied."""
        self.console.print(f"  [dim]$[/] [green]{' '.join(words)}[/]", soft_wrap=True)

    def outcome(self, right: bool, text: str) -> None:
        """Print a result with a mark for success or failure."""
        mark = "[bold green]✔[/]" if right else "[bold red]✘[/]"
        self.console.print(Padding.indent(f"{mark} {text}", 2))

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; every column but the first is right-aligned."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", border_style="dim")
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
        for row in rows:
            table.add_row(*row)
        self.console.print()
        self.console.print(table)

    @contextlib.contextmanager
    def shares(self, names: Mapping[str, str], total: int, tablets: int) -> Iterator[Shares]:
        """Show the bytes of each sender while the block runs.

        `names` maps host:port to a name; `total` is the bytes of `tablets` whole downloads. Without a terminal, one
        line for each sender is printed at the end.
        """
        if self.console.is_terminal:
            with bars(self.console) as progress:
                yield Shares(names, total, tablets, progress)
            return
        shares = Shares(names, total, tablets, None)
        yield shares
        for sender, count in shares.bytes.items():
            share = count / max(shares.bytes.total(), 1)
            self.say(f"{names.get(sender, sender):<8} sent {megabytes(count):>12}  {share:6.1%}")


def bars(console: Console) -> Progress:
    """Return the progress display: a name, a bar, a share, an amount."""
    return Progress(
        TextColumn("  {task.description:<8}"),
        BarColumn(bar_width=40, complete_style="cyan", finished_style="green"),
        TextColumn("{task.percentage:>5.1f} %"),
        TextColumn("{task.fields[amount]:>14}"),
        console=console,
    )


class Shares:
    """Counts the bytes that tablets receive, by sender, and shows them."""

    def __init__(self, names: Mapping[str, str], total: int, tablets: int, progress: Progress | None) -> None:
        self.bytes: Counter[str] = Counter(dict.fromkeys(names, 0))
        self._ended = 0
        self._tablets = tablets
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        if progress is not None:
            self._tasks = {key: progress.add_task(name, total=total, amount="") for key, name in names.items()}
            self._done = progress.add_task("[bold]tablets[/]", total=tablets, amount="")

    def sent(self, sender: str, count: int) -> None:
        """Count `count` bytes from `sender`."""
        self.bytes[sender] += count
        if self._progress is not None and sender in self._tasks:
            self._progress.update(self._tasks[sender], advance=count, amount=megabytes(self.bytes[sender]))

    def done(self) -> None:
        """Count a tablet that has ended."""
        self._ended += 1
        if self._progress is not None:
            self._progress.update(self._done, advance=1, amount=f"{self._ended} of {self._tablets}")
