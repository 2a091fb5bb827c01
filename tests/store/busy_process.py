"""A process that fills, streams, switches, reads and removes on a shared folder until its input ends.

`python -m tests.store.busy_process FOLDER WITNESS SEED`. Prints `ready`, and then a line for each fault it finds.
`test_processes` kills it at any moment. A second lock, in the folder WITNESS, shows two fills of a version at a time.
"""

from __future__ import annotations

import fcntl
import random
import select
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

from store import Digest, FillBusy, Ref, Store, VersionMissing, VersionPresent
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


def fill(store: Store, witness: Path, number: int, pick: random.Random) -> None:
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


def stream(store: Store, number: int) -> None:
    with suppress(FillBusy):
        begun = store.begin_stream(f"m{number}")
        try:
            for start in range(0, len(POOL[number]), 65_536):
                begun.append(POOL[number][start : start + 65_536])
            if begun.commit() != MANIFESTS[number]:
                print("another manifest", flush=True)
        finally:
            begun.close()


def read(store: Store, digest: Digest) -> None:
    with suppress(VersionMissing), store.lease(digest) as lease:
        if read_all(lease, lease.size) != DATA[digest]:
            print("wrong bytes", flush=True)


def main(folder: Path, witness: Path, seed: int) -> None:
    pick = random.Random(seed)
    store = Store.open(folder)
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
