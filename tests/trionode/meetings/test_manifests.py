"""How often a master is asked whether it has manifests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trionode.errors import OriginError, OriginUnreachable
from trionode.meetings.manifests import FIRST_ANSWER_SECONDS, Manifests, NoManifests

if TYPE_CHECKING:
    from trio.testing import MockClock


class Master:
    """A master that answers after `seconds`, as a legacy one unless `failure` is another or None."""

    def __init__(self, seconds: float = 0.1) -> None:
        self.protocol = 0
        self.seconds = seconds
        self.asked = 0
        self.failure: Exception | None = OriginError("Not Found", 404)

    async def manifest(self, meeting_id: str, known: str | None) -> None:
        self.asked += 1
        await trio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure


async def ask(manifests: Manifests, outcomes: list[str]) -> None:
    try:
        await manifests.current("m", None)
        outcomes.append("manifest")
    except (NoManifests, OriginUnreachable) as error:
        outcomes.append(type(error).__name__)


async def ask_together(manifests: Manifests, count: int) -> list[str]:
    outcomes: list[str] = []
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(ask, manifests, outcomes)
    return outcomes


async def test_a_legacy_master_is_asked_once_for_all_meetings_and_again_when_it_is_forgotten(autojump_clock: MockClock):
    master = Master()
    manifests = Manifests(master)  # type: ignore[arg-type]
    for asked in (1, 2):
        assert await ask_together(manifests, 300) == ["NoManifests"] * 300
        assert await ask_together(manifests, 3) == ["NoManifests"] * 3
        assert master.asked == asked
        manifests.forget()


async def test_a_master_that_has_got_the_shim_is_asked_for_each_meeting(autojump_clock: MockClock):
    master = Master()
    manifests = Manifests(master)  # type: ignore[arg-type]
    assert await ask_together(manifests, 1) == ["NoManifests"]
    master.protocol, master.failure = 1, None
    assert await ask_together(manifests, 5) == ["manifest"] * 5


async def test_a_slow_or_failed_first_answer_does_not_hold_up_the_others(autojump_clock: MockClock):
    for seconds in (30.0, 0.1):
        master = Master(seconds)
        master.failure = OriginUnreachable("it is away")
        began = trio.current_time()
        assert await ask_together(Manifests(master), 5) == ["OriginUnreachable"] * 5  # type: ignore[arg-type]
        assert trio.current_time() - began <= 2 * seconds + FIRST_ANSWER_SECONDS
        assert master.asked == 5
