"""`trionode import`, `export` and `diff`: packages in and out, and the cost of an update."""

from __future__ import annotations

import os
import sys
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from blake3 import blake3
from cyclopts import Parameter
from rich.filesize import decimal

from master_shim.protocol import one_line, why_no_meeting_id
from store import InvalidManifest, PackageChanged, PackageRejected, Ref, split_file

from ..errors import CommandFailed, NodeError
from ..fetch.scheduler import plan_batches
from . import exits
from .output import print_json
from .storage import (
    SHORT,
    AsJson,
    Config,
    StoragePath,
    create_storage,
    find,
    find_version,
    open_storage,
    settings_of,
    size_of,
)

if TYPE_CHECKING:
    from store import Digest, Lease, Manifest, Store

    from ..settings import Settings

WINDOW_BYTES = 1 << 20
"""Size of one read and write."""


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
    """Store a package from a file for a meeting, for example before the network is up.

    Creates the storage folder if needed. A running node serves the package at once; if the meeting is in progress, it
    first asks the master for the current version, and fetches only the chunks that the imported package does not have.

    Parameters
    ----------
    package
        The zip file.
    meeting
        Id of the meeting.
    title
        Title of the meeting.
    pin
        Keep the version until it is unpinned.
    """
    if reason := why_no_meeting_id(meeting):
        raise CommandFailed(f"{meeting[:80]!r} is not a valid meeting id: {reason}", exits.USAGE)
    settings = settings_of(storage_path, config)
    with _opened(package) as file, create_storage(settings) as store:
        manifest = _store_file(store, package, file)

        def switch(before: Ref | None) -> Ref:
            before = before or Ref(meeting, manifest.digest, in_progress=False)
            if before.digest != manifest.digest or not before.switched_at:
                # No check has found this version to be the master's.
                before = replace(before, digest=manifest.digest, switched_at=time.time(), token="")
            return replace(
                before,
                title=before.title if title is None else one_line(title),
                pinned=before.pinned or pin,
            )

        ref = store.change_ref(meeting, switch)
        assert ref is not None, "`switch` returns a ref"
    if as_json:
        print_json({"meeting": meeting, "version": manifest.digest, "size": manifest.size, "pinned": ref.pinned})
    else:
        print(f"meeting {meeting} has version {manifest.digest[:SHORT]} now, {decimal(manifest.size)}")
    return exits.OK


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise CommandFailed(f"{path} cannot be read: {error.strerror}", exits.USAGE) from error


def _store_file(store: Store, path: Path, file: BinaryIO) -> Manifest:
    # A unique name, so that a node may fill the same meeting meanwhile.
    stream = store.begin_stream(f"import {uuid.uuid4().hex}")
    try:
        while data := file.read(WINDOW_BYTES):
            stream.append(data)
        return stream.commit()
    except PackageRejected as error:
        raise CommandFailed(f"{path}: {error}", exits.FAILED) from error
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
    """Copy a package from the storage to a file, which is created only if all bytes are verified.

    Parameters
    ----------
    what
        Id of a meeting, or a version (its first digits suffice).
    file
        Target file; `-`: standard output.
    force
        Overwrite an existing file.
    """
    with open_storage(settings_of(storage_path, config)) as store:
        digest = find(store, what).digest
        size = size_of(store, digest)
        with store.open_package(digest) as lease:
            if str(file) == "-":
                _copy(lease, size, sys.stdout.buffer)
                return exits.OK
            _copy_to(file, lease, size, force=force)
    if as_json:
        print_json({"version": digest, "size": size, "file": str(file)})
    else:
        print(f"version {digest[:SHORT]}, {decimal(size)}, is in {file}")
    return exits.OK


def _copy_to(file: Path, lease: Lease, size: int, *, force: bool) -> None:
    if file.exists() and not force:
        raise CommandFailed(f"{file} exists; use --force to overwrite it", exits.FAILED)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as out:
            _copy(lease, size, out)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}", exits.FAILED) from error
    finally:
        temporary.unlink(missing_ok=True)


def _copy(lease: Lease, size: int, out: BinaryIO) -> None:
    """Copy a package. Raises `CommandFailed` at its end if the bytes do not have its digest."""
    hasher = blake3()
    done = 0
    while data := os.pread(lease.fileno(), WINDOW_BYTES, done):
        hasher.update(data)
        out.write(data)
        done += len(data)
    if done != size or hasher.hexdigest() != lease.digest:
        raise CommandFailed(f"version {lease.digest[:SHORT]} is damaged; see trionode verify --repair", exits.FAILED)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of an update: chunks, their bytes, requests, and the bytes of the manifest (JSON)."""

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
    """Print how much an update of a meeting from one version to another fetches.

    Parameters
    ----------
    meeting
        Id of the meeting.
    old
        A stored version (its first digits suffice) or a zip file; by default the meeting's version.
    new
        The same; by default the master's current version.
    main_server
        URL of the master. [MAIN_SERVER_URL, default http://127.0.0.1:8000]
    """
    settings = settings_of(storage_path, config, main_server=main_server)
    with open_storage(settings) as store:
        before = _manifest_of(store, old) if old is not None else store.manifest(_current(store, meeting))
        after = _manifest_of(store, new) if new is not None else _ask_master(settings, meeting)
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
    return exits.OK


def cost_of(old: Manifest, new: Manifest) -> Cost:
    """Return the cost of `new` for a node that holds `old`; a chunk that occurs twice is fetched once."""
    have = {chunk.digest for chunk in old.chunks}
    missing = []
    for chunk in new.chunks:
        if chunk.digest not in have:
            have.add(chunk.digest)
            missing.append(chunk)
    manifest = 0 if old.digest == new.digest else len(new.to_json())
    return Cost(len(missing), sum(chunk.size for chunk in missing), sum(1 for _ in plan_batches(missing)), manifest)


def _manifest_of(store: Store, word: str) -> Manifest:
    path = Path(word)
    if not path.is_file():
        return store.manifest(find_version(store, word))
    try:
        return split_file(path)
    except (OSError, InvalidManifest, PackageChanged) as error:
        raise CommandFailed(f"{path} cannot be split: {error}", exits.FAILED) from error


def _current(store: Store, meeting: str) -> Digest:
    ref = store.ref(meeting)
    if ref is None:
        raise CommandFailed(f"meeting {meeting!r} has no version here", exits.USAGE)
    return ref.digest


def _ask_master(settings: Settings, meeting: str) -> Manifest:
    # Imported here: without it `import` and `export` start faster.
    import trio

    from ..master.client import Master

    master = Master(settings.main_server, settings.ca_file)

    async def ask() -> Manifest | None:
        try:
            return await master.manifest(meeting, None)
        finally:
            await master.aclose()

    try:
        manifest = trio.run(ask)
    except NodeError as error:
        raise CommandFailed(f"the master has no manifest of {meeting!r}: {error}", exits.FAILED) from error
    assert manifest is not None, "only a request that names a version can be answered 304"
    return manifest
