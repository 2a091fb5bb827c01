"""Damage on the disk: found, never sent, repaired; and kill -9 in the middle of fills."""

from __future__ import annotations

import errno
import json
import mmap
import os
import random
from collections import Counter
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve as hypercorn_serve

from master_shim import DirectoryPackages, MasterShim
from store import Digest, DiskStore, Manifest, MemoryStore, split_file
from store.filesystem import FileSystem
from tests.store.samples import fill_whole, make_zip
from tests.store.samples import package as make_bytes
from tests.support.nodes import BIN, digest_of
from tests.support.packages import make_documents, make_package
from tests.support.processes import free_port
from tests.support.waiting import eventually
from trionode.errors import OriginUnreachable, VersionGone
from trionode.sync import scrub
from trionode.sync.healing import CannotRepair, Healer
from trionode.sync.scrub import CheckTimes, Scrubber

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from store import Store
    from tests.fakes.running import FakeFactory
    from tests.support.nodes import OurNode
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode

FLIP_DOWNLOADS = int(os.environ.get("TRIONODE_FLIP_DOWNLOADS", "60"))
KILL_ROUNDS = int(os.environ.get("TRIONODE_KILL_ROUNDS", "6"))
SEED = int(os.environ.get("TRIONODE_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)

BLOCK = 4096


# -- what the task decides and does, on a store in memory


class Origin:
    """A master that has some versions' bytes, or is away."""

    def __init__(self, *packages: bytes) -> None:
        self.packages = {digest_of(data): data for data in packages}
        self.away = False
        self.asked: list[tuple[int, int]] = []

    async def fetch_range(self, digest: Digest, start: int, stop: int) -> bytes:
        self.asked.append((start, stop))
        if self.away:
            raise OriginUnreachable("it is away")
        if digest not in self.packages:
            raise VersionGone(digest)
        return self.packages[digest][start:stop]


def damage(store: MemoryStore, digest: Digest, offset: int) -> None:
    """Flip a byte so that no file time shows it, as a disk does."""
    with store.open_package(digest) as lease:
        (byte,) = os.pread(lease.fileno(), 1, offset)
        os.pwrite(lease.fileno(), bytes([byte ^ 1]), offset)


def scrubber_of(store: Store, origin: Origin, tmp_path: Path, **options: Any) -> tuple[Scrubber, list[Digest]]:
    lost: list[Digest] = []
    healer = Healer(store, origin, lost.append)  # type: ignore[arg-type]
    options = {"rate": 1 << 40, "promised": list, "recheck_seconds": 0.0, **options}
    return Scrubber(store, healer, CheckTimes(tmp_path / "scrub.json"), **options), lost


async def test_a_lost_bit_is_found_and_only_its_chunk_fetched(tmp_path: Path):
    data = make_bytes()
    store, origin = MemoryStore(), Origin(data)
    manifest = fill_whole(store, data)
    scrubber, lost = scrubber_of(store, origin, tmp_path)
    assert await scrubber.scrub(manifest.digest)
    chunk = manifest.chunks[2]
    damage(store, manifest.digest, chunk.offset + 5)
    damage(store, manifest.digest, 3)  # in a header, which the manifest itself can mend
    assert await scrubber.scrub(manifest.digest)
    health = scrubber._healer.health
    assert origin.asked == [(chunk.offset, chunk.offset + chunk.size)]
    assert (health.repaired_chunks, health.repaired_bytes > chunk.size, health.unrepairable) == (2, True, 0)
    assert health.scrubbed_bytes >= manifest.size
    assert lost == []
    store.verify(manifest.digest)


async def test_what_the_origin_has_no_more_goes_and_is_said_at_once(tmp_path: Path):
    store, origin = MemoryStore(), Origin()
    manifest = fill_whole(store, make_bytes())
    scrubber, lost = scrubber_of(store, origin, tmp_path)
    damage(store, manifest.digest, manifest.chunks[0].offset)
    assert not await scrubber.scrub(manifest.digest)
    assert (lost, store.versions()) == ([manifest.digest], [])
    assert scrubber._healer.health.unrepairable == 1


async def test_what_cannot_be_asked_for_now_stays_and_is_repaired_later(tmp_path: Path):
    store, origin = MemoryStore(), Origin(make_bytes(1))
    origin.away = True
    bad, good = (fill_whole(store, make_bytes(seed)).digest for seed in (1, 2))
    scrubber, lost = scrubber_of(store, origin, tmp_path, recheck_seconds=3600.0)
    damage(store, bad, store.manifest(bad).chunks[0].offset)
    assert not await scrubber.scrub(bad)
    assert lost == [bad]
    assert not trusted(store, bad)
    assert {version.digest for version in store.versions()} == {bad, good}
    origin.away = False
    assert await scrubber._healer.ensure(bad)
    assert trusted(store, bad)


def trusted(store: MemoryStore, digest: Digest) -> bool:
    with store.open_package(digest) as lease:
        return lease.trusted


async def test_another_versions_bytes_repair_without_asking(tmp_path: Path):
    store, origin = MemoryStore(), Origin()
    origin.away = True
    documents = {f"{number}.pdf": random.Random(number).randbytes(30_000) for number in range(3)}
    one, two = (fill_whole(store, make_zip(documents, minute=minute)) for minute in (1, 2))
    scrubber, lost = scrubber_of(store, origin, tmp_path)
    for manifest in (one, two):
        damage(store, manifest.digest, manifest.chunks[1].offset)
        assert await scrubber.scrub(manifest.digest)
    assert (origin.asked, lost) == ([], [])


async def test_a_version_that_is_bad_again_each_time_is_given_up(tmp_path: Path):
    data = make_bytes()
    store, origin = MemoryStore(), Origin(data)
    manifest = fill_whole(store, data)
    offset = manifest.chunks[0].offset

    class Forgetful(MemoryStore):
        def repair(self, digest: Any, piece: Any, data: Any) -> bool:
            right = store.repair(digest, piece, data)
            damage(store, manifest.digest, offset)
            with suppress(Exception):
                store.verify(digest)
            return right

        def __getattribute__(self, name: str) -> Any:
            return object.__getattribute__(self, name) if name == "repair" else getattr(store, name)

    damage(store, manifest.digest, offset)
    with pytest.raises(CannotRepair, match="not right after"):
        await Healer(Forgetful(), origin).repair(manifest.digest)  # type: ignore[arg-type]


async def test_a_file_the_disk_does_not_give_back_goes(tmp_path: Path):
    class Unreadable(MemoryStore):
        def verify(self, digest: Digest) -> None:
            raise OSError(errno.EIO, "Input/output error")

    store = Unreadable()
    digest = fill_whole(store, make_bytes()).digest
    store._packages[digest].bad = set()
    scrubber, lost = scrubber_of(store, Origin(), tmp_path)
    assert not await scrubber._healer.ensure(digest)
    assert (lost, store.versions()) == ([digest], [])


class BadBlocks(FileSystem):
    """A file system that does not give the bytes at `at` back until they are written anew; or never does."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.for_good = False

    def read_into(self, fd: int, view: memoryview, offset: int) -> int:
        if self.at is not None and offset <= self.at < offset + len(view):
            if offset < self.at:  # what comes before is read, as by a disk
                return super().read_into(fd, view[: self.at - offset], offset)
            raise OSError(errno.EIO, "Input/output error")
        return super().read_into(fd, view, offset)

    def write_at(self, fd: int, data: Any, offset: int) -> None:
        if self.at is not None and offset <= self.at < offset + len(data) and not self.for_good:
            self.at = None
        super().write_at(fd, data, offset)


@pytest.mark.parametrize("how", ["scrubbed", "asked for"])
async def test_a_chunk_the_disk_does_not_give_back_is_fetched_anew_and_no_other(tmp_path: Path, how: str):
    data = make_bytes()
    fs, origin = BadBlocks(), Origin(data)
    with DiskStore.open(tmp_path / "storage", fs=fs) as store:
        manifest = fill_whole(store, data)
    # Opened again, so that nothing is trusted yet.
    with DiskStore.open(tmp_path / "storage", fs=fs) as store:
        chunk = manifest.chunks[1]
        fs.at = chunk.offset + 10
        scrubber, lost = scrubber_of(store, origin, tmp_path)
        assert await (scrubber.scrub if how == "scrubbed" else scrubber._healer.ensure)(manifest.digest)
        assert (origin.asked, lost) == ([(chunk.offset, chunk.offset + chunk.size)], [])
        with store.lease(manifest.digest) as lease:
            assert lease.trusted


async def test_a_version_whose_blocks_stay_bad_goes(tmp_path: Path):
    data = make_bytes()
    fs = BadBlocks()
    with DiskStore.open(tmp_path / "storage", fs=fs) as store:
        manifest = fill_whole(store, data)
        fs.at, fs.for_good = manifest.chunks[1].offset + 10, True
        scrubber, lost = scrubber_of(store, Origin(data), tmp_path)
        assert not await scrubber.scrub(manifest.digest)
        assert (lost, store.versions()) == ([manifest.digest], [])
        assert scrubber._healer.health.unrepairable == 1


async def test_the_oldest_check_comes_first_over_restarts(tmp_path: Path):
    store = MemoryStore()
    digests = [fill_whole(store, make_bytes(seed, count=1)).digest for seed in range(3)]
    checked = {digests[0]: 300.0, digests[1]: 100.0, digests[2]: 200.0}
    store.checked_at = checked.__getitem__  # type: ignore[method-assign,assignment]
    scrubber, _ = scrubber_of(store, Origin(), tmp_path, recheck_seconds=1000.0)
    assert scrubber.next_due(1099.0) is None
    assert scrubber.next_due(1100.0) == digests[1]
    scrubber._times.note(digests[1], 500.0, digests)
    assert scrubber.next_due(1200.0) == digests[2]
    scrubber._times.save()
    store.checked_at = lambda digest: 0.0  # type: ignore[method-assign,assignment]
    again, _ = scrubber_of(store, Origin(), tmp_path, recheck_seconds=1000.0)
    assert again.checked_at(digests[1]) == 500.0
    assert again.next_due(1200.0) in {digests[0], digests[2]}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": "b"}', b"\xff", b'{"\xff": 1}'])
def test_times_that_cannot_be_read_are_begun_anew(tmp_path: Path, content: bytes):
    (tmp_path / "scrub.json").write_bytes(content)
    times = CheckTimes(tmp_path / "scrub.json")
    times.note(Digest("a" * 64), 7.0, [])
    times.save()
    assert json.loads((tmp_path / "scrub.json").read_bytes()) == {"a" * 64: 7.0}


async def test_reading_keeps_to_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = MemoryStore()
    manifest = fill_whole(store, make_bytes(count=6, size=1_000_000))
    began, until = trio.current_time(), []

    async def sleep_until(deadline: float) -> None:
        until.append(deadline)

    monkeypatch.setattr(scrub.trio, "sleep_until", sleep_until)
    scrubber, _ = scrubber_of(store, Origin(), tmp_path, rate=100_000)
    await scrubber.scrub(manifest.digest)
    # Nobody slept, so the deadlines ran ahead of the clock as far as the bytes that were read.
    assert until[-1] - began >= manifest.size / 100_000 - scrub.BURST_SECONDS
    assert until == sorted(until)
    assert len(until) > 2


# -- a node whose files are changed under it


class Master:
    """A master with the shim in this very process: it counts what is asked of it, and can be slow."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.bytes_per_second = 0
        self.ranges: Counter[tuple[str, int, int]] = Counter()
        self._shim = MasterShim(DirectoryPackages(folder))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/api/v1/packages/"):
            digest = scope["path"].rpartition("/")[2]
            asked = dict(scope["headers"]).get(b"range", b"bytes=0-0").decode()
            start, _, last = asked.removeprefix("bytes=").partition("-")
            self.ranges[digest, int(start), int(last) + 1] += 1
            send = self._slowed(send)
        await self._shim(scope, receive, send)

    def _slowed(self, send: Any) -> Any:
        async def send_slowly(message: Any) -> None:
            if self.bytes_per_second and message["type"] == "http.response.body":
                await trio.sleep(len(message.get("body", b"")) / self.bytes_per_second)
            await send(message)

        return send_slowly


@asynccontextmanager
async def running_master(folder: Path, port: int = 0) -> AsyncIterator[Master]:
    port = port or free_port()
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.accesslog = config.errorlog = None
    config.graceful_timeout = 0.1
    master = Master(folder, port)
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: hypercorn_serve(master, config, shutdown_trigger=stop.wait, mode="asgi"))  # type: ignore[arg-type]
        try:
            await eventually(lambda: port_answers(port))
            yield master
        finally:
            stop.set()


async def port_answers(port: int) -> bool:
    async with await trio.open_tcp_stream("127.0.0.1", port):
        return True


def flip(path: Path, offset: int) -> None:
    """Change a byte on the disk.

    Around the page cache where the file system can: what the kernel was already told to send is then still what it
    was, as it would be if the disk itself had lost the bit.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    except FileNotFoundError:  # dropped, or being fetched anew
        return
    except OSError:
        fd = os.open(path, os.O_RDWR)
    try:
        start = offset // BLOCK * BLOCK
        block = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT wants it
        if os.preadv(fd, [block], start) == BLOCK:
            block[offset - start] ^= 0x40
            os.pwritev(fd, [block], start)
    finally:
        os.close(fd)


@pytest.fixture
def big(folder: Path) -> Package:
    """The package of the meeting big: 32 MB, more than all sockets on the way can hold."""
    return make_package(folder / "big.zip", make_documents(32, 1_000_000), level=1)


def stored(node: OurNode, package: Package) -> Path:
    return node.storage / "packages" / f"{package.digest}.zip"


async def verify(node: OurNode) -> tuple[int, str]:
    found = await trio.run_process(
        [BIN / "trionode", "verify", "--storage-path", node.storage], capture_stdout=True, check=False
    )
    return found.returncode, found.stdout.decode()


async def test_flipped_bytes_are_never_seen_and_are_healed(folder: Path, big: Package, start_node: StartNode):
    chance = random.Random(SEED)
    right, refused, flips = 0, 0, 0
    async with running_master(folder) as master:
        node = start_node(master.url)
        await node.until_synced("big")
        async with httpx.AsyncClient(trust_env=False, timeout=60) as client, trio.open_nursery() as nursery:
            left = iter(range(FLIP_DOWNLOADS))

            async def download() -> None:
                nonlocal right, refused
                for _ in left:
                    try:
                        answer = await client.get(node.package_url("big"))
                    except (httpx.RemoteProtocolError, httpx.ReadError):
                        refused += 1
                        continue
                    if answer.status_code == 200:
                        assert digest_of(answer.content) == big.digest, f"a wrong byte was sent; seed {SEED}"
                        right += 1
                    else:
                        assert answer.status_code in {503, 404}
                        refused += 1
                done.release()

            async def flip_on() -> None:
                nonlocal flips
                while True:
                    await trio.sleep(chance.uniform(0.0, 0.4))
                    for _ in range(chance.choice((1, 1, 3))):
                        await trio.to_thread.run_sync(
                            flip, stored(node, big), chance.randrange(big.size // BLOCK * BLOCK)
                        )
                        flips += 1

            done = trio.Semaphore(0)
            nursery.start_soon(flip_on)
            for _ in range(4):
                nursery.start_soon(download)
            for _ in range(4):
                await done.acquire()
            nursery.cancel_scope.cancel()
        # What nobody asks for is found, too: the files of what is promised are looked at every few seconds.
        flip(stored(node, big), big.size // 2)

        async def healed() -> bool:
            return (await verify(node))[0] == 0

        await eventually(healed, within=30)
        health = (await node.status())["health"]
        print(f"{right} right, {refused} refused, {flips} flips, {health}, seed {SEED}")
        assert right + refused == FLIP_DOWNLOADS
        assert right > FLIP_DOWNLOADS // 2
        assert health["repaired_chunks"] > 0
        assert await node.synced() == ["big"]


@pytest.mark.parametrize("how", ["serve", "hypercorn"])
async def test_a_byte_that_is_flipped_ahead_of_a_client_is_repaired_before_it_comes_there(
    folder: Path, big: Package, start_node: StartNode, how: Any
):
    async with running_master(folder) as master:
        node = start_node(master.url, how=how)
        await node.until_synced("big")
        fetched = (await node.status())["bytes_fetched"]
        async with (
            httpx.AsyncClient(trust_env=False, timeout=30) as client,
            client.stream("GET", node.package_url("big")) as answer,
        ):
            parts = answer.aiter_raw()
            received = bytearray(await anext(parts))
            flip(stored(node, big), big.size - 3_000_000)
            async for part in parts:
                received += part
        assert digest_of(received) == big.digest
        status = await node.status()
        assert status["health"]["repaired_chunks"] == 1
        assert 0 < status["bytes_fetched"] - fetched < 4 << 20


async def test_with_no_master_to_ask_the_answer_is_cut_off_and_the_promise_taken_back(
    folder: Path, big: Package, start_node: StartNode
):
    port = free_port()
    async with running_master(folder, port) as master:
        node = start_node(master.url)
        await node.until_synced("big")
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012 - it is while reading that it is cut off
            async with client.stream("GET", node.package_url("big")) as answer:
                parts = answer.aiter_raw()
                await anext(parts)
                flip(stored(node, big), big.size - 3_000_000)
                async for _ in parts:
                    pass
    assert await node.synced() == []
    assert (await node.download("big")).status_code == 503
    assert (await node.status())["health"]["unrepaired"] > 0
    assert stored(node, big).exists()
    async with running_master(folder, port):
        await node.until_synced("big", within=40)
        assert digest_of((await node.download("big")).content) == big.digest
        status = await node.status()
        assert status["health"]["repaired_chunks"] == 1
        assert status["bytes_fetched"] < big.size + (8 << 20)


async def test_a_node_reads_again_what_nobody_asks_for(folder: Path, tmp_path: Path, start_node: StartNode):
    storage = tmp_path / "storage"
    DiskStore.open(storage).close()
    for name in ("good", "bad"):
        path = make_package(tmp_path / f"{name}.zip", make_documents(2, 500_000, seed=name)).path
        command = [BIN / "trionode", "import", path, "--meeting", name, "--pin", "--storage-path", storage, "--json"]
        found = await trio.run_process(command, capture_stdout=True)
        digest = json.loads(found.stdout)["version"]
    flip(storage / "packages" / f"{digest}.zip", 300_000)
    async with running_master(folder) as master:
        node = start_node(master.url, storage=storage)
        await node.until_up()

        async def scrubbed() -> bool:
            health = (await node.status())["health"]
            return health["unrepairable"] == 1 and health["scrubbed_bytes"] >= 1_000_000

        await eventually(scrubbed, within=20)
        assert (await node.download("bad")).status_code == 404
        assert (await node.download("good")).status_code == 200
        assert (await verify(node))[0] == 0


async def test_what_a_deployed_master_sent_is_fetched_anew(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode
):
    master = fakes.master(folder)
    started = master.start("m1")
    node = start_node(master.url)
    await node.until_synced("m1")
    flip(node.storage / "packages" / f"{started['digest']}.zip", package.size // 2 // BLOCK * BLOCK)
    for _ in range(3):
        answer = await node.download("m1")
        assert digest_of(answer.content) == started["digest"]
    assert master.state()["downloads_begun"] >= 2
    await node.until_synced("m1")
    assert (await verify(node))[0] == 0


# -- kill -9


def in_map(storage: Path, manifest: Manifest) -> set[tuple[int, int]] | None:
    """Return the ranges a killed fill had verified, by its map; None when no fill was going on."""
    part = storage / "incoming" / f"{manifest.digest}.part"
    if not part.exists():
        return None
    try:
        flags = part.with_suffix(".map").read_bytes().partition(b"\n")[2]
    except FileNotFoundError:
        return set()
    return {(c.offset, c.offset + c.size) for c, flag in zip(manifest.chunks, flags, strict=False) if flag == ord("1")}


def fetched_again(asked: Counter[tuple[str, int, int]], digest: str, verified: set[tuple[int, int]]) -> list[Any]:
    """Return what was asked for of a version although it had been verified."""
    return [
        (range_, chunk)
        for range_ in asked
        for chunk in verified
        if range_[0] == digest and range_[1] < chunk[1] and chunk[0] < range_[2]
    ]


async def test_killed_at_random_moments_of_fills_nothing_is_lost_nor_fetched_twice(
    folder: Path, start_node: StartNode, tmp_path: Path
):
    chance = random.Random(SEED)
    storage = tmp_path / "storage"
    in_a_fill = versions = 0
    async with running_master(folder) as master:
        master.bytes_per_second = 12_000_000  # to each of two requests at a time: a fill takes most of a second
        package, manifest, verified = next_version(folder, versions)
        for _ in range(KILL_ROUNDS):
            master.ranges.clear()
            node = start_node(master.url, storage=storage)
            await eventually(partial(fill_has_begun, master, stored(node, package), package.digest))
            await trio.sleep(chance.uniform(0.0, 1.0))
            node.process.kill()
            assert fetched_again(master.ranges, package.digest, verified) == [], f"seed {SEED}"
            done = in_map(storage, manifest)
            in_a_fill += done is not None
            verified |= done or set()
            if stored(node, package).exists():
                versions += 1
                package, manifest, verified = next_version(folder, versions)
        master.ranges.clear()
        node = start_node(master.url, storage=storage)
        await node.until_synced("m1", within=40)
        assert fetched_again(master.ranges, package.digest, verified) == [], f"seed {SEED}"
        assert digest_of((await node.download("m1")).content) == package.digest
        status, said = await verify(node)
        assert status == 0, said
        print(f"{KILL_ROUNDS} kills, {in_a_fill} in a fill, {versions + 1} versions, seed {SEED}; {said}")
        assert node.process.stop() == 0
    assert list((storage / "incoming").iterdir()) == []


def fill_has_begun(master: Master, target: Path, digest: str) -> bool:
    return any(range_[0] == digest for range_ in master.ranges) or target.exists()


def next_version(folder: Path, number: int) -> tuple[Package, Manifest, set[tuple[int, int]]]:
    """Put a package of 17 MB at the master that shares nothing with those before; nothing of it is verified."""
    package = make_package(folder / "m1.zip", make_documents(24, 700_000, seed=str(number)), level=1)
    return package, split_file(package.path), set()
