"""Places that several processes share: exact, and free again when their process ends."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from trionode.delivery.admission import Downloads
from trionode.workers.slots import Slots

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from trionode.workers.slots import Slots
slots = Slots(Path(sys.argv[1]))
print(*(slots.take(5) for _ in range(3)), flush=True)
sys.stdin.read()
"""


def test_no_more_than_the_limit_over_all_processes_and_those_of_a_killed_one_are_free(tmp_path: Path):
    path = tmp_path / "slots"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = set(map(int, other.stdout.readline().split()))
        slots = Slots(path)
        ours = [slots.take(5) for _ in range(3)]
        assert ours[2] is None
        assert theirs | set(ours[:2]) == set(range(5))
        other.kill()
        other.wait()
        assert {slots.take(5) for _ in range(3)} == theirs
        assert slots.take(5) is None
        slots.close()


def test_who_waits_goes_on_when_a_place_is_given_back_elsewhere(tmp_path: Path):
    class Elsewhere:
        """One place, which another process has."""

        free = False

        def take(self, limit: int) -> int | None:
            return 0 if self.free else None

        def give_back(self, place: int) -> None:
            self.free = True

    downloads, places, woken = Downloads(1), Elsewhere(), []
    downloads.slots = places
    place = downloads.arrive(None, lambda: woken.append(True))
    assert (place.admitted, downloads.queued) == (False, 1)
    downloads.move_up()
    assert not woken
    places.free = True
    downloads.move_up()
    assert (woken, place.admitted, downloads.active) == ([True], True, 1)
    places.free = False
    downloads.release(place)
    assert places.free
