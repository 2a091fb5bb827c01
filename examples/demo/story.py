"""The chapters of the demo: one master, three nodes, sixty tablets."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import trio

from examples.demo.cluster import Cluster, Meeting, Node
from examples.demo.packages import FIRST_BUILD, rebuild
from examples.demo.processes import DemoError
from examples.demo.show import Shares, Show, megabytes
from examples.demo.tablets import Outcome, download_all

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEETINGS = (
    Meeting("budget", "Budget for the coming year", 8, 1_000_000),
    Meeting("planning", "Town planning committee", 6, 1_000_000),
    Meeting("board", "Meeting of the board", 10, 1_000_000),
)

NODES = 3
TABLETS = 60

SLOW_BYTES_PER_SECOND = 3_000_000
"""Rate of a tablet while a node is killed: slow enough to show progress and to be cut off."""

DOWNLOAD_SECONDS = 40.0
"""Time limit of sixty downloads."""


@dataclass(slots=True)
class Result:
    """The results for the summary. `wrong` counts downloads without the right digest."""

    first: list[Outcome] = field(default_factory=list)
    second: list[Outcome] = field(default_factory=list)
    fetched: dict[str, int] = field(default_factory=dict)
    wrong: int = 0

    @property
    def right(self) -> bool:
        """Whether every tablet received the right package."""
        return self.wrong == 0 and len(self.first) == len(self.second) == TABLETS


class Story:
    """The chapters, in the order of `run`."""

    def __init__(self, cluster: Cluster, show: Show) -> None:
        self.cluster = cluster
        self.show = show
        self.result = Result()
        self.killed: Node | None = None

    async def run(self) -> Result:
        """Run all chapters. Raises `DemoError`."""
        await self.start_servers()
        await self.begin_meetings()
        await self.first_downloads()
        await self.update()
        await self.lose_a_node()
        self.summary()
        return self.result

    async def start_servers(self) -> None:
        """Start a master over an empty folder, and the nodes."""
        self.show.chapter("A master and three nodes, each a separate process")
        await self.cluster.make_packages(MEETINGS)
        server = await self.cluster.start_master()
        self.show.command(server.command)
        self.show.outcome(True, f"the master answers at {self.cluster.master}")
        for number in range(1, NODES + 1):
            self.show.command(self.cluster.start_node(f"node-{number}").server.command)
        for node in self.cluster.nodes:
            await self.cluster.wait_ready(node)
            self.show.outcome(True, f"{node.name} is ready at {node.url}")

    async def begin_meetings(self) -> None:
        """Move the packages into the master's folder, wait until each node holds all, and show who sent whom."""
        self.show.chapter("Three meetings begin: one copy from the master for three nodes")
        for meeting in MEETINGS:
            package = self.cluster.packages[meeting.id]
            self.show.say(
                f"{package.path.name:<14} {megabytes(package.size):>9}  "
                f"{meeting.documents:2} documents  [dim]{meeting.title}[/]"
            )
        for meeting in MEETINGS:
            self.cluster.begin(meeting)
        sent: Counter[tuple[str, str]] = Counter()
        for node in self.cluster.nodes:
            for meeting in MEETINGS:
                await self.cluster.wait_holds(node, self.cluster.packages[meeting.id])
                for sender, count in (await self.cluster.fetched(node, meeting.id)).items():
                    sent[sender, node.name] += count
        self._show_senders(sent)
        by_master = sum(count for (sender, _), count in sent.items() if sender == "master")
        total = sum(package.size for package in self.cluster.packages.values())
        self.show.outcome(
            by_master < 2 * total,
            f"each node holds all three packages, {megabytes(total)}; the master sent {by_master / total:.2f} copies",
        )

    def _show_senders(self, sent: Mapping[tuple[str, str], int]) -> None:
        """Print who has sent how much to whom."""
        nodes = [node.name for node in self.cluster.nodes]
        senders = ["master", *nodes]
        rows = [
            [sender, *(megabytes(sent[sender, to]) if sent[sender, to] else "" for to in nodes)] for sender in senders
        ]
        self.show.table("Sent by", ("", *(f"to {name}" for name in nodes)), rows)

    async def first_downloads(self) -> None:
        """Run the downloads without a failure."""
        self.show.chapter("Sixty tablets download at the same moment")
        self.show.say(f"{self.cluster.master}/api/v1/meetings/ID/download-package redirects each to a node.")
        begun = trio.current_time()
        with self.show.shares(self.cluster.names, self._total(), TABLETS) as shares:
            self.result.first = await self._download(1, 0.0, shares)
        seconds = trio.current_time() - begun
        self.show.say(f"{megabytes(shares.bytes.total())} in {seconds:.1f} s, hashed by the tablets.")
        self._judge(self.result.first)

    async def update(self) -> None:
        """Replace one document of a package and measure what the nodes fetch."""
        self.show.chapter("One document changes")
        meeting, old = MEETINGS[-1], self.cluster.packages[MEETINGS[-1].id]
        made_at = FIRST_BUILD + timedelta(hours=1)
        new = await trio.to_thread.run_sync(lambda: rebuild(old, made_at=made_at, replaced=[4], title=meeting.title))
        self.cluster.packages[meeting.id] = new
        self.show.say(
            f"{new.path.name} ({megabytes(new.size)}) is rebuilt: one of its {meeting.documents} documents "
            f"is new ({megabytes(new.new_bytes)}), and so is every time stamp."
        )
        by_master = 0
        for node in self.cluster.nodes:
            await self.cluster.wait_holds(node, new)
            senders = await self.cluster.fetched(node, meeting.id)
            fetched = self.result.fetched[node.name] = sum(senders.values())
            by_master += senders.get("master", 0)
            self.show.outcome(
                fetched < new.size / 2,
                f"{node.name} holds it and fetched {megabytes(fetched)}, {fetched / new.size:.1%} of the package, "
                f"from {', '.join(senders)}",
            )
        self.show.outcome(
            by_master < 2 * new.new_bytes, f"the master sent {by_master / new.new_bytes:.3f} × the new bytes"
        )

    async def lose_a_node(self) -> None:
        """Kill the busiest node while tablets download."""
        self.show.chapter("A node is killed during downloads")
        names = self.cluster.names
        total = self._total()
        with self.show.shares(names, total, TABLETS) as shares:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._strike, shares, total / 3)
                self.result.second = await self._download(2, SLOW_BYTES_PER_SECOND, shares)
        cut = [outcome for outcome in self.result.second if outcome.broken]
        moved = Counter(names.get(outcome.origin, "nobody") for outcome in cut)
        self.show.say(
            f"{len(cut)} tablets were cut off and asked the master again. They were then served by: "
            + ", ".join(f"{name} ({count})" for name, count in sorted(moved.items()))
        )
        self._judge(self.result.second)

    async def _strike(self, shares: Shares, after: float) -> None:
        """Kill the node that has sent most, when all nodes together have sent `after` bytes."""
        while shares.bytes.total() < after:
            await trio.sleep(0.01)
        victim = max(self.cluster.nodes, key=lambda node: shares.bytes[node.address])
        victim.server.kill()
        self.killed = victim
        self.show.say(f"[bold red]kill -9 {victim.server.pid}[/]  {victim.name} is killed after a third of all bytes")

    def summary(self) -> None:
        """Print the figures in one table, and the result."""
        result = self.result
        rows: list[list[str]] = []
        for address, name in self.cluster.names.items():
            row = [name]
            for outcomes in (result.first, result.second):
                sizes = [outcome.size for outcome in outcomes if outcome.origin == address]
                row += [str(len(sizes)), megabytes(sum(sizes))]
            rows.append([*row, megabytes(result.fetched[name]) if name in result.fetched else ""])
        header = ("", "tablets", "sent", "with a kill", "sent", "fetched for the update")
        self.show.table("Senders", header, rows)
        count = len(result.first) + len(result.second)
        self.show.outcome(result.right, f"{count - result.wrong} of {2 * TABLETS} downloads have the right digest")

    async def keep(self) -> None:
        """Print commands to try, and wait until cancelled."""
        self.show.chapter("Commands to try, until Ctrl-C")
        board = self.cluster.packages[MEETINGS[-1].id]
        path = f"/api/v1/meetings/{MEETINGS[-1].id}/download-package"
        lines = [f"curl -s {self.cluster.master}/api/v1/nodes/list"]
        # The master may redirect to the killed node until it drops it after 30 s: retry, as tablets do.
        lines.append(f"curl -L --retry 3 --retry-connrefused -o {board.path.name} {self.cluster.master}{path}")
        for node in self.cluster.nodes:
            if node is not self.killed:
                lines.append(f"curl -s {node.url}/api/status")
                lines.append(f"curl -I {node.url}{path}")
        for line in lines:
            self.show.command((line,))
        self.show.say(f"The packages are in {board.path.parent}: replace one by a rename, and the nodes fetch it.")
        await trio.sleep_forever()

    def _wanted(self) -> list[str]:
        """Return the meeting of each tablet; tablets of one meeting are consecutive."""
        return [MEETINGS[number * len(MEETINGS) // TABLETS].id for number in range(TABLETS)]

    def _total(self) -> int:
        return sum(self.cluster.packages[meeting_id].size for meeting_id in self._wanted())

    async def _download(self, room: int, rate: float, shares: Shares) -> list[Outcome]:
        with trio.move_on_after(DOWNLOAD_SECONDS):
            return await download_all(
                self.cluster.master, self._wanted(), room=room, bytes_per_second=rate, watcher=shares
            )
        raise DemoError(f"{TABLETS} downloads did not end within {DOWNLOAD_SECONDS:.0f} s")

    def _judge(self, outcomes: Sequence[Outcome]) -> None:
        """Compare every digest with that of the package in the master's folder."""
        wrong = [o for o in outcomes if o.digest != self.cluster.packages[o.meeting_id].digest]
        self.result.wrong += len(wrong)
        self.show.outcome(
            not wrong, f"{len(outcomes) - len(wrong)} of {len(outcomes)} tablets received the right bytes"
        )
        for outcome in wrong:
            self.show.say(
                f"[red]{outcome.meeting_id}: {outcome.size} bytes of {outcome.digest or 'nothing'}, "
                f"after {outcome.broken}[/]"
            )
