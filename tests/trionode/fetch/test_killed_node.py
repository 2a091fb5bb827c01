"""Nodes killed during a fill: what was verified is neither lost nor fetched again."""

from __future__ import annotations

import os
import random
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from store import Digest, Manifest, split_file
from tests.support.local_master import local_master, verify
from tests.support.nodes import digest_of
from tests.support.packages import make_documents, make_package
from tests.support.stored import path_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from tests.support.local_master import LocalMaster
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode

KILL_ROUNDS = int(os.environ.get("TRIONODE_KILL_ROUNDS", "6"))
SEED = int(os.environ.get("TRIONODE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)


def verified_by(storage: Path, manifest: Manifest) -> set[tuple[int, int]] | None:
    """Return the ranges of the chunks that a killed fill has written; None if no fill was in progress."""
    try:
        data = (storage / "incoming" / f"{manifest.digest}.part").read_bytes()
    except FileNotFoundError:
        return None
    spans = [(chunk, (chunk.offset, chunk.offset + chunk.size)) for chunk in manifest.chunks]
    return {(start, stop) for chunk, (start, stop) in spans if Digest.of(data[start:stop]) == chunk.digest}


def fetched_again(requested: Counter[tuple[str, int, int]], digest: str, verified: set[tuple[int, int]]) -> list[Any]:
    """Return the requested ranges of a version that had been verified."""
    return [
        (range_, chunk)
        for range_ in requested
        for chunk in verified
        if range_[0] == digest and range_[1] < chunk[1] and chunk[0] < range_[2]
    ]


async def test_a_node_killed_at_random_moments_of_fills_loses_nothing_and_fetches_nothing_twice(
    folder: Path, start_node: StartNode, tmp_path: Path
):
    rng = random.Random(SEED)
    storage = tmp_path / "storage"
    in_a_fill = versions = 0
    async with local_master(folder) as master:
        master.bytes_per_second = 12_000_000  # for each of two requests at a time: a fill takes most of a second
        package, manifest, verified = next_version(folder, versions)
        for _ in range(KILL_ROUNDS):
            master.ranges.clear()
            node = start_node(master.url, storage=storage)
            await eventually(partial(fill_has_begun, master, path_of(node.storage, package), package.digest))
            await trio.sleep(rng.uniform(0.0, 1.0))
            node.process.kill()
            assert fetched_again(master.ranges, package.digest, verified) == [], f"seed {SEED}"
            done = verified_by(storage, manifest)
            in_a_fill += done is not None
            verified |= done or set()
            if path_of(node.storage, package).exists():
                versions += 1
                package, manifest, verified = next_version(folder, versions)
        master.ranges.clear()
        node = start_node(master.url, storage=storage)
        await node.until_synced("m1", within=40)
        assert fetched_again(master.ranges, package.digest, verified) == [], f"seed {SEED}"
        assert digest_of((await node.download("m1")).content) == package.digest
        status, output = await verify(node)
        assert status == 0, output
        print(f"{KILL_ROUNDS} kills, {in_a_fill} in a fill, {versions + 1} versions, seed {SEED}; {output}")
        assert node.process.stop() == 0
    assert list((storage / "incoming").iterdir()) == []


def fill_has_begun(master: LocalMaster, target: Path, digest: str) -> bool:
    return any(range_[0] == digest for range_ in master.ranges) or target.exists()


def next_version(folder: Path, number: int) -> tuple[Package, Manifest, set[tuple[int, int]]]:
    """Give the master a package of 17 MB that shares nothing with those before; nothing of it is verified."""
    package = make_package(folder / "m1.zip", make_documents(24, 700_000, seed=str(number)), level=1)
    return package, split_file(package.path), set()
