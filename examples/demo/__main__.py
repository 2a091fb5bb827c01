"""`python -m examples.demo`: see trionode at work, on this machine alone and in under a minute.

Starts a master with the shim and three nodes as processes of their own, on free ports of 127.0.0.1 and in a
temporary folder; leaves nothing behind. Ends with status 0 only if every download had the right digest. With
`--keep` it stays up afterwards, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import functools
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import trio

from examples.demo.cluster import Cluster
from examples.demo.processes import DemoError, Servers
from examples.demo.show import Show
from examples.demo.story import Story

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENING = """\
A meeting starts, and sixty tablets want its package in the same minute.
Instead of one master sending it sixty times, three ordinary machines do: here, three processes.

[dim]Everything runs on 127.0.0.1 and in a temporary folder, and is gone at the end.[/]"""

INTERRUPTED = 130
"""What a shell expects of a program that was ended by Ctrl-C."""


async def tell(show: Show, folder: Path, *, keep: bool) -> int:
    """Run the demo and return the exit status; SIGTERM and Ctrl-C end it in order."""
    status = INTERRUPTED
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            async with Servers(folder) as servers, httpx.AsyncClient(trust_env=False, timeout=5) as client:
                story = Story(Cluster(folder, servers, client), show)
                status = 0 if (await story.run()).right else 1
                if keep:
                    await story.keep()
            nursery.cancel_scope.cancel()
    return status


def flat(errors: BaseExceptionGroup[DemoError]) -> Iterator[BaseException]:
    """Return the errors of a group, and of the groups in it."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from flat(error)
        else:
            yield error


def main() -> int:
    """Read the command line, run the demo, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="See trionode at work.")
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, until Ctrl-C")
    keep = parser.parse_args().keep
    show = Show()
    show.opening(OPENING)
    with tempfile.TemporaryDirectory(prefix="trionode-demo-") as folder:
        try:
            status = trio.run(functools.partial(tell, show, Path(folder), keep=keep))
        except* DemoError as errors:
            for error in flat(errors):
                show.console.print(str(error), style="red", markup=False)
            status = 1
    if status == INTERRUPTED:
        show.say("interrupted; everything is stopped")
    return status


if __name__ == "__main__":
    sys.exit(main())
