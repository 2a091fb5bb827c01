"""A process that fills, streams, switches, reads and removes on a shared folder until its input ends.

`python -m tests.store.worker FOLDER WITNESS SEED`. Says in a line each whatever is wrong; killed at any moment by
`test_store_processes`. One fill at a time is witnessed by a lock of the test's own, held within each fill.
"""

from __future__ import annotations

import fcntl
import random
import select
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from store import Digest, DiskStore, FillBusy, Ref, VersionMissing, VersionPresent
from tests.store.helpers import read_all
from tests.store.samples import documents, make_zip, manifest_of

SHARED = documents(3, 30_000, seed=11)
POOL = [make_zip({**SHARED, "own.pdf": random.Random(n).randbytes(200_000)}, minute=n) for n in range(4)]
MANIFESTS = [manifest_of(data) for data in POOL]
DATA = {manifest.digest: data for manifest, data in zip(MANIFESTS, POOL, strict=True)}


@contextmanager
def witnessed(folder: Path, digest: Digest):
    with (folder / digest).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("two fills at a time", flush=True)
        yield


def fill(store: DiskStore, witness: Path, number: int, pick: random.Random) -> None:
    data, manifest = POOL[number], MANIFESTS[number]
    with suppress(FillBusy, VersionPresent):
        begun = store.begin_fill(manifest)
        try:
            with witnessed(witness, manifest.digest):
                for chunk in begun.missing():
                    begun.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
                    if pick.random() < 0.05:
                        return
            begun.commit()
        finally:
            begun.close()
        store.set_ref(Ref(f"m{number}", manifest.digest))


def stream(store: DiskStore, number: int) -> None:
    with suppress(FillBusy):
        begun = store.begin_stream(f"m{number}")
        try:
            for start in range(0, len(POOL[number]), 65_536):
                begun.append(POOL[number][start : start + 65_536])
            if begun.commit() != MANIFESTS[number]:
                print("another manifest", flush=True)
        finally:
            begun.close()


def read(store: DiskStore, digest: Digest) -> None:
    with suppress(VersionMissing), store.lease(digest) as lease:
        if read_all(lease, lease.size) != DATA[digest]:
            print("wrong bytes", flush=True)


def main(folder: Path, witness: Path, seed: int) -> None:
    pick = random.Random(seed)
    store = DiskStore.open(folder)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        number = pick.randrange(len(POOL))
        digest = MANIFESTS[number].digest
        what = pick.random()
        if what < 0.4:
            fill(store, witness, number, pick)
        elif what < 0.6:
            stream(store, number)
        elif what < 0.8:
            read(store, digest)
        elif what < 0.9:
            store.refresh()
        else:
            store.remove(digest)
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
