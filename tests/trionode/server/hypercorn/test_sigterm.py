"""SIGTERM in a worker process of Hypercorn: the node is drained before the process ends. In processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys

PROGRAM = """
import functools, os, signal, sys, trio, trio.testing
from trionode.server.hypercorn.sigterm import SHUTDOWN_SECONDS, delay_sigterm

def say(text):
    print(text, flush=True)

async def drain():
    say(f"drained at {trio.current_time() - began:g}")
    if "slow" in sys.argv:
        await trio.sleep_forever()

async def main():
    global began
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(functools.partial(delay_sigterm, drain, is_worker="alone" not in sys.argv))
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)
        if "orderly" in sys.argv:
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        else:
            await trio.sleep(SHUTDOWN_SECONDS - 0.1)
            say("alive")
            await trio.sleep_forever()
    say("ended")

if "handled" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: say("handled"))
trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.05))
"""


def run(*arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_a_worker_that_is_asked_to_shut_down_after_sigterm_does_so_in_order():
    assert run("orderly") == (0, ["drained at 0", "ended"])


def test_a_worker_that_nobody_shuts_down_is_killed_after_a_while():
    assert run() == (-signal.SIGTERM, ["drained at 0", "alive"])


def test_a_drain_that_does_not_end_delays_the_end_no_longer():
    assert run("slow") == (-signal.SIGTERM, ["drained at 0", "alive"])


def test_a_process_without_a_parent_ends_after_the_drain():
    assert run("alone") == (-signal.SIGTERM, ["drained at 0"])


def test_a_process_that_handles_sigterm_itself_is_left_alone():
    assert run("handled", "orderly") == (0, ["handled", "ended"])
