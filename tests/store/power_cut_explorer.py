"""Cut the power after every call of a store, and check every state that may be left."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.store.power_cut_checks import Violation, check
from tests.store.power_cut_disk import PowerCutDisk
from tests.store.power_cut_life import FOLDER, Life, Promises, do_nothing
from tests.store.power_cut_states import cuts


class Explorer:
    """Checks every state that a power cut may leave after every call, also if the process is killed first."""

    def __init__(self, *, skip: str | None = None, extra: int = 4, again: int = 100, kills: bool = True) -> None:
        self.skip = skip
        self.extra = extra  # random states after each call
        self.kills = kills
        self.again = again  # in one of so many states the power is cut again during the recovery
        self.counts: Counter[str] = Counter()
        self.sites: set[str] = set()
        self.sample: Callable[[PowerCutDisk, Promises], None] | None = None
        self._pick = random.Random(20261124)
        self._seen: set[object] = set()
        self.continue_use = False
        self._recovering = False

    def new_disk(self) -> PowerCutDisk:
        disk = PowerCutDisk()
        disk.skip, disk.sites = self.skip, self.sites
        disk.make_folder(FOLDER.parent)
        disk.settle()
        return disk

    @contextmanager
    def watching(self, life: Life) -> Iterator[None]:
        """Check the states after every call in the block."""
        life.watch = life.disk.watch = lambda: self.check_now(life)
        try:
            yield
        finally:
            life.disk.watch = do_nothing

    def run(self, script: Callable[[Life], None], *, continue_use: bool = False) -> None:
        """Check a whole script, starting with an empty disk.

        With `continue_use`, a package is committed after each recovery and the power cut once more: a script that
        creates the folders needs it, since all later names depend on theirs.
        """
        life = Life(self.new_disk())
        self.continue_use = continue_use
        with self.watching(life):
            script(life)
            self.check_now(life)

    def check_now(self, life: Life) -> None:
        self.counts["calls"] += 1
        self.cut_all(life.disk, life.promises, self.extra)
        if self.kills:
            self.kill(life)

    def kill(self, life: Life) -> None:
        """Kill the process, start another that promises what it finds, and cut the power."""
        self.counts["kills"] += 1
        after = Life(life.disk.killed(), life.promises)
        after.open()
        after.adopt()
        self.cut_all(after.disk, after.promises, 0)

    def cut_all(self, disk: PowerCutDisk, promises: Promises, extra: int) -> None:
        for cut in cuts(disk, self._pick, extra):
            key = (cut.key, promises.key())
            self.counts["cuts"] += 1
            if key in self._seen:
                continue
            self._seen.add(key)
            self.counts["states"] += 1
            left = cut.make()
            left.skip = self.skip
            if self.sample is not None:
                self.sample(left, promises)
            if self.counts["states"] % self.again == 0 and not self._recovering:
                self.cut_again(left.killed(), promises)
            try:
                check(left, promises, continue_use=self.continue_use)
            except Exception as error:
                raise Violation(f"{cut.story}: {error}") from error

    def cut_again(self, disk: PowerCutDisk, promises: Promises) -> None:
        """Cut the power after every call of a recovery."""
        self.counts["recoveries cut"] += 1
        disk.skip, disk.sites = self.skip, self.sites
        disk.watch = lambda: self.cut_all(disk, promises, 0)
        self._recovering = True
        try:
            Life(disk, promises).open()
        finally:
            self._recovering = False
