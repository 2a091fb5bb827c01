"""`python -m examples.demo`: demonstrate trionode on this machine, in less than a minute.

Starts a master with the shim and three nodes as separate processes, on free ports of 127.0.0.1 and in a temporary
folder, which is removed at the end. The exit status is 0 only if every download had the right digest. With `--keep`
the servers run on until Ctrl-C.
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
from trionode.cli import prepare_streams

if TYPE_CHECKING:
    from collections.abc import Iterator

OPENING = """\
Sixty tablets download the package of a meeting in the same minute.
Three ordinary machines send it in place of the master: here, three processes.

[dim]Everything runs on 127.0.0.1 and in a temporary folder, which is removed at the end.[/]"""

INTERRUPTED = 130
"""Exit status of a program that was interrupted by Ctrl-C, by convention of the shell."""


async def tell(show: Show, folder: Path, *, keep: bool) -> int:
    """Run the demo and return the exit status. SIGTERM and Ctrl-C cancel it."""
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
    """Yield the errors of a group and of its nested groups."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from flat(error)
        else:
            yield error


def main() -> int:
    """Read the command line, run the demo, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="Demonstrate trionode.")
    parser.add_argument("--keep", action="store_true", help="keep the servers running until Ctrl-C")
    keep = parser.parse_args().keep
    prepare_streams()
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
        show.say("interrupted; all servers have ended")
    return status


if __name__ == "__main__":
    sys.exit(main())
