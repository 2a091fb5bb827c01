"""`trionode import`, `export` and `diff`: packages in and out, and what an update costs."""

from __future__ import annotations

import os
import sys
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import trio
from blake3 import blake3
from cyclopts import Parameter
from rich.filesize import decimal

from master_shim.protocol import is_meeting_id, one_line
from store import InvalidManifest, PackageChanged, PackageRejected, Ref, split_file

from ..errors import CommandFailed, NodeError
from ..sync.fetch import plan_batches
from ..sync.sources import Master
from .storage import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_USAGE,
    SHORT,
    AsJson,
    Config,
    StoragePath,
    find,
    find_version,
    open_storage,
    print_json,
    settings_of,
    size_of,
)

if TYPE_CHECKING:
    from store import Digest, DiskStore, Lease, Manifest

    from ..config import Settings

WINDOW_BYTES = 1 << 20
"""Read and written at a time."""


def import_package(
    package: Path,
    *,
    meeting: str,
    title: str | None = None,
    pin: Annotated[bool, Parameter(negative="")] = False,
    storage_path: StoragePath = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Store a package from a file, for a meeting: before the network is there, or from a stick.

    A running node serves it at once, unless the meeting is in progress: then it asks the master first, and what
    was imported saves fetching whatever of it is current.

    Parameters
    ----------
    package
        The zip.
    meeting
        The id of the meeting it is for.
    title
        The title of the meeting.
    pin
        Keep it until it is unpinned.
    """
    if not is_meeting_id(meeting):
        raise CommandFailed(f"{meeting[:80]!r} can be no meeting's id", EXIT_USAGE)
    settings = settings_of(storage_path, config)
    with open_storage(settings) as store:
        manifest = _store_file(store, package)

        def switch(before: Ref | None) -> Ref:
            before = before or Ref(meeting, manifest.digest, in_progress=False)
            switched = before.digest != manifest.digest or not before.switched_at
            return replace(
                before,
                digest=manifest.digest,
                title=before.title if title is None else one_line(title),
                pinned=before.pinned or pin,
                switched_at=time.time() if switched else before.switched_at,
            )

        ref = store.change_ref(meeting, switch)
        assert ref is not None, "what is switched is there"
    if as_json:
        print_json({"meeting": meeting, "version": manifest.digest, "size": manifest.size, "pinned": ref.pinned})
    else:
        print(f"meeting {meeting} has version {manifest.digest[:SHORT]} now, {decimal(manifest.size)}")
    return EXIT_OK


def _store_file(store: DiskStore, path: Path) -> Manifest:
    try:
        file = path.open("rb")
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}", EXIT_USAGE) from error
    with file:
        # A name of its own: a node that fills this very meeting is in nobody's way.
        stream = store.begin_stream(f"import {uuid.uuid4().hex}")
        try:
            while data := file.read(WINDOW_BYTES):
                stream.append(data)
            return stream.commit()
        except PackageRejected as error:
            raise CommandFailed(f"{path}: {error}", EXIT_FAILED) from error
        finally:
            stream.close()


def export(
    what: str,
    file: Annotated[Path, Parameter(allow_leading_hyphen=True)],
    *,
    force: Annotated[bool, Parameter(negative="")] = False,
    storage_path: StoragePath = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Copy a package out of the storage, checked on the way: a file that is there afterwards is right.

    Parameters
    ----------
    what
        The id of a meeting, or a version (the first digits will do).
    file
        Where to; `-` for standard output.
    force
        Write over a file that is there.
    """
    with open_storage(settings_of(storage_path, config)) as store:
        digest = find(store, what).digest
        size = size_of(store, digest)
        with store.open_package(digest) as lease:
            if str(file) == "-":
                _copy(lease, size, sys.stdout.buffer)
                return EXIT_OK
            _copy_to(file, lease, size, force=force)
    if as_json:
        print_json({"version": digest, "size": size, "file": str(file)})
    else:
        print(f"version {digest[:SHORT]}, {decimal(size)}, is in {file}")
    return EXIT_OK


def _copy_to(file: Path, lease: Lease, size: int, *, force: bool) -> None:
    if file.exists() and not force:
        raise CommandFailed(f"{file} is there already; with --force it is written over", EXIT_FAILED)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as out:
            _copy(lease, size, out)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", EXIT_FAILED) from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy(lease: Lease, size: int, out: BinaryIO) -> None:
    """Copy a package, and raise `CommandFailed` at its end when its bytes are not what its name says."""
    hasher = blake3()
    done = 0
    while data := os.pread(lease.fileno(), WINDOW_BYTES, done):
        hasher.update(data)
        out.write(data)
        done += len(data)
    if done != size or hasher.hexdigest() != lease.digest:
        raise CommandFailed(f"version {lease.digest[:SHORT]} is damaged; see trionode verify --repair", EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Cost:
    """What an update fetches: chunks and their bytes, the requests they come in, and the manifest's bytes (JSON)."""

    chunks: int
    bytes: int
    requests: int
    manifest: int


def diff(
    meeting: str,
    old: str | None = None,
    new: str | None = None,
    *,
    main_server: str | None = None,
    storage_path: StoragePath = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Say what an update of a meeting from one version to another fetches.

    Parameters
    ----------
    meeting
        The id of the meeting.
    old
        A version stored here (the first digits will do) or a zip file; by default what the meeting has.
    new
        The same; by default what the master has now.
    main_server
        URL of the master. [MAIN_SERVER_URL, default http://127.0.0.1:8000]
    """
    settings = settings_of(storage_path, config, main_server=main_server)
    with open_storage(settings) as store:
        before = _manifest_of(store, old) if old is not None else store.manifest(_current(store, meeting))
        after = _manifest_of(store, new) if new is not None else trio.run(_ask_master, settings, meeting)
        cost = cost_of(before, after)
    if as_json:
        print_json(
            {
                "meeting": meeting,
                "old": before.digest,
                "new": after.digest,
                "size": after.size,
                "chunks": cost.chunks,
                "bytes": cost.bytes,
                "requests": cost.requests,
                "manifest_bytes": cost.manifest,
            }
        )
    else:
        print(f"{before.digest[:SHORT]} -> {after.digest[:SHORT]}, {decimal(after.size)}")
        print(
            f"to fetch: {decimal(cost.bytes)} ({cost.bytes / after.size:.1%} of the package) in {cost.chunks} of "
            f"{len(after.chunks)} chunks; requests: {cost.requests}; manifest: {decimal(cost.manifest)}"
        )
    return EXIT_OK


def cost_of(old: Manifest, new: Manifest) -> Cost:
    """Return what a node that holds `old` fetches for `new`; chunks that come twice are fetched once."""
    have = {chunk.digest for chunk in old.chunks}
    missing = []
    for chunk in new.chunks:
        if chunk.digest not in have:
            have.add(chunk.digest)
            missing.append(chunk)
    manifest = 0 if old.digest == new.digest else len(new.to_json())
    return Cost(len(missing), sum(chunk.size for chunk in missing), sum(1 for _ in plan_batches(missing)), manifest)


def _manifest_of(store: DiskStore, word: str) -> Manifest:
    path = Path(word)
    if not path.is_file():
        return store.manifest(find_version(store, word))
    try:
        return split_file(path)
    except (OSError, InvalidManifest, PackageChanged) as error:
        raise CommandFailed(f"{path} cannot be cut: {error}", EXIT_FAILED) from error


def _current(store: DiskStore, meeting: str) -> Digest:
    ref = store.ref(meeting)
    if ref is None:
        raise CommandFailed(f"meeting {meeting!r} has no version here", EXIT_USAGE)
    return ref.digest


async def _ask_master(settings: Settings, meeting: str) -> Manifest:
    master = Master(settings.main_server)
    try:
        manifest = await master.manifest(meeting, None)
    except NodeError as error:
        raise CommandFailed(f"the master has no manifest of {meeting!r}: {error}", EXIT_FAILED) from error
    finally:
        await master.aclose()
    assert manifest is not None, "only a request that names a version can be answered 304"
    return manifest
