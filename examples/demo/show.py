"""What the demo shows: chapters, progress of every node, tables. Plain lines where there is no terminal."""

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
"""Without a terminal there is no width to ask for."""


def megabytes(count: float) -> str:
    """Spell a number of bytes."""
    return f"{count / MB:,.2f} MB"


class Show:
    """The one who talks to the person in front of the screen."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=PLAIN_WIDTH)
        self._chapter = 0

    def opening(self, text: str) -> None:
        """Say what is going to happen."""
        self.console.print(Panel(text, title="[bold]trionode[/]", border_style="cyan", padding=(1, 2)))

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self._chapter += 1
        self.console.print()
        self.console.print(Rule(f"[bold cyan]{self._chapter}. {title}[/]", align="left", style="cyan"))

    def say(self, text: str) -> None:
        """Say one thing. rich's markup may be used."""
        self.console.print(Padding.indent(text, 2))

    def command(self, words: Sequence[str]) -> None:
        """Show a command that is run, so that it can be copied."""
        self.console.print(f"  [dim]$[/] [green]{' '.join(words)}[/]", soft_wrap=True)

    def outcome(self, right: bool, text: str) -> None:
        """Say how something came out."""
        mark = "[bold green]✔[/]" if right else "[bold red]✘[/]"
        self.console.print(Padding.indent(f"{mark} {text}", 2))

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table; every column but the first is right-aligned."""
        table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", border_style="dim")
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
        for row in rows:
            table.add_row(*row)
        self.console.print()
        self.console.print(table)

    @contextlib.contextmanager
    def shares(self, names: Mapping[str, str], total: int, tablets: int) -> Iterator[Shares]:
        """Show what each sender has sent while the block runs.

        `names` maps host:port to a name; `total` is the bytes that `tablets` whole downloads have. Without a
        terminal each sender is one line at the end.
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
    """Takes note of what the tablets receive and shows it. `bytes` counts by sender."""

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
        """Take note of `count` bytes from `sender`."""
        self.bytes[sender] += count
        if self._progress is not None and sender in self._tasks:
            self._progress.update(self._tasks[sender], advance=count, amount=megabytes(self.bytes[sender]))

    def done(self) -> None:
        """Take note of a tablet that has ended."""
        self._ended += 1
        if self._progress is not None:
            self._progress.update(self._done, advance=1, amount=f"{self._ended} of {self._tablets}")
