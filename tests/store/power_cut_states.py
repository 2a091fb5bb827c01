"""Everything that a power cut may leave of a `PowerCutDisk`.

A file system promises no more than this: bytes are on the disk once their file was synced, names once their folder was
synced. Before that each name, by itself, is at any point of its own history (a rename is two of these, and may be half
visible), and bytes are lost, present or torn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.store.power_cut_disk import PowerCutDisk
from tests.store.power_cut_files import File, Folder, comparable


@dataclass
class Cut:
    """One possible state: what was lost, in words; equal keys mean equal states."""

    story: str
    key: object
    make: Callable[[], PowerCutDisk]


def cuts(disk: PowerCutDisk, pick: random.Random, extra: int = 4):
    """Yield what a power cut may leave of a disk: all lost, all there, each single change, some at random."""
    return _States(disk).all(pick, extra)


class _States:
    def __init__(self, disk: PowerCutDisk) -> None:
        self._disk = disk
        self._variants: dict[int, list[bytes]] = {}
        self._folder_at: dict[Path, Folder] = {}

    def all(self, pick: random.Random, extra: int):
        """Yield the states: all lost, all there, each single change lost or there, and `extra` random ones."""
        choices = list(self._choices(pick))
        lost = [0] * len(choices)
        there = [1 if kind == "bytes" else n - 1 for _, kind, n in choices]
        picks = {tuple(lost): "all lost", tuple(there): "all there"}
        for index, (name, kind, count) in enumerate(choices):
            for other in range(count):
                for base, word in ((lost, "lost"), (there, "there")):
                    picked = [*base[:index], other, *base[index + 1 :]]
                    picks.setdefault(tuple(picked), f"{kind} of {name}: {other} of {count}, all else {word}")
        for _ in range(extra if len(choices) > 1 else 0):
            picks.setdefault(tuple(pick.randrange(count) for _, _, count in choices), "at random")
        always = self._always()
        for choice, story in picks.items():
            what = dict(zip([c[:2] for c in choices], choice, strict=True))
            key = (always, tuple(self._key(name, kind, index) for (name, kind), index in what.items()))
            yield Cut(story, key, partial(self._cut, what))

    def _always(self) -> object:
        """Return what is the same in all states, in short."""
        return frozenset(
            (comparable(path / name), *self._short(past[0]))
            for path, folder in self._disk.folders()
            for name, past in folder.names.items()
            if len(past) == 1
        )

    def _key(self, name: str, kind: str, index: int) -> object:
        if kind == "bytes":
            number = int(name.split()[1])
            return (number, hash(self._variants[number][index]))
        path = Path(name)
        return (comparable(path), *self._short(self._folder_at[path.parent].names[path.name][index]))

    def _short(self, entry: File | Folder | None) -> tuple[object, ...]:
        if isinstance(entry, File):
            return (entry.number, None if entry.pending else hash(entry.durable))
        return ("folder" if entry else None,)

    def _choices(self, pick: random.Random):
        seen = set()
        for path, folder in self._disk.folders():
            self._folder_at[path] = folder
            for name, past in folder.names.items():
                if len(past) > 1:
                    yield str(path / name), "name", len(past)
                for entry in past:
                    if isinstance(entry, File) and entry.pending and entry.number not in seen:
                        seen.add(entry.number)
                        self._variants[entry.number] = entry.versions(pick)
                        yield f"file {entry.number} ({name[-20:]})", "bytes", len(self._variants[entry.number])

    def _cut(self, picked: dict[tuple[str, str], int]) -> PowerCutDisk:
        disk = PowerCutDisk()
        disk._files, disk._now = self._disk._files, self._disk._now + 10**9
        chosen = {name.split()[1]: index for (name, kind), index in picked.items() if kind == "bytes"}
        copies: dict[int, File] = {}

        def copy(path: Path, folder: Folder) -> Folder:
            made = Folder()
            for name, past in folder.names.items():
                entry = past[picked.get((str(path / name), "name"), -1)]
                if isinstance(entry, Folder):
                    made.names[name] = [copy(path / name, entry)]
                elif entry is not None:
                    left = copies.get(entry.number)
                    if left is None:
                        variants = self._variants.get(entry.number)
                        data = variants[chosen[str(entry.number)]] if variants else entry.durable
                        left = copies[entry.number] = File(entry.number, data, entry.mtime)
                    left.links += 1
                    made.names[name] = [left]
            return made

        disk.root = copy(Path("/"), self._disk.root)
        return disk
