"""What the demo shows: chapters, progress of every node, tables. Plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.rule import Rule
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

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
        self.console.print(f"  {text}")

    def command(self, words: Sequence[str]) -> None:
        """Show a command that is run, so that it can be copied."""
        self.console.print(f"  [dim]$[/] [green]{' '.join(words)}[/]", soft_wrap=True)

    def outcome(self, right: bool, text: str) -> None:
        """Say how something came out."""
        mark = "[bold green]✔[/]" if right else "[bold red]✘[/]"
        self.console.print(f"  {mark} {text}")

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table; every column but the first is right-aligned."""
        table = Table(
            title=title, title_justify="left", title_style="bold", header_style="bold", border_style="dim"
        )
        for number, name in enumerate(header):
            table.add_column(name, justify="right" if number else "left", no_wrap=number == 0)
        for row in rows:
            table.add_row(*row)
        self.console.print()
        self.console.print(table)

    @contextlib.contextmanager
    def shares(self, names: Mapping[str, str], total: int) -> Iterator[Callable[[str, int], None]]:
        """Show what each sender has sent while the block runs.

        `names` maps host:port to a name; `total` is the bytes all of them together will send. Yields a
        function that takes note of bytes. Without a terminal each sender is one line at the end.
        """
        sent = dict.fromkeys(names, 0)
        with contextlib.ExitStack() as stack:
            note = self._bars(stack, names, total) if self.console.is_terminal else None

            def on_bytes(sender: str, count: int) -> None:
                sent[sender] = sent.get(sender, 0) + count
                if note is not None:
                    note(sender, count)

            yield on_bytes
        if not self.console.is_terminal:
            for sender, count in sent.items():
                share = count / max(sum(sent.values()), 1)
                self.say(f"{names.get(sender, sender):<8} sent {megabytes(count):>12}  {share:6.1%}")

    def _bars(
        self, stack: contextlib.ExitStack, names: Mapping[str, str], total: int
    ) -> Callable[[str, int], None]:
        progress = stack.enter_context(
            Progress(
                TextColumn("  {task.description:<10}"),
                BarColumn(bar_width=40, complete_style="cyan", finished_style="green"),
                TextColumn("{task.percentage:>5.1f} %"),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=self.console,
            )
        )
        tasks = {sender: progress.add_task(name, total=total) for sender, name in names.items()}
        everyone = progress.add_task("[bold]together[/]", total=total)

        def note(sender: str, count: int) -> None:
            if sender in tasks:
                progress.advance(tasks[sender], count)
            progress.advance(everyone, count)

        return note
