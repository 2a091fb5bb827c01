"""`trionode verify`: read the whole storage again, and repair damage from the master."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from store import PackageCorrupt, VersionMissing
from store.layout import Layout, parse_name

from . import exits
from .findings import DAMAGED, DROPPED, REPAIRED, RIGHT, Finding
from .output import print_json
from .storage import (
    SHORT,
    AsJson,
    Config,
    StoragePath,
    find,
    open_storage,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store import Digest, Store, Version

    from ..settings import Settings

ONE_GO_BYTES = 256 << 20
"""A version up to this size is one step of the progress bar: two seconds of a slow disk."""


def verify(
    *what: str,
    repair: Annotated[bool, Parameter(negative="")] = False,
    main_server: str | None = None,
    storage_path: StoragePath = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Verify every stored byte against its digests.

    Exit status 0: no damage. 1: damage remains, or a version was dropped. 4: damage was found and all of it repaired.

    Parameters
    ----------
    what
        Ids of meetings, or versions (their first digits suffice); by default all versions.
    repair
        Fetch bad chunks again from the master and write them in place. A version whose bytes neither the master nor
        another stored version has is dropped; the node then fetches the current version.
    main_server
        URL of the master. [MAIN_SERVER_URL, default http://127.0.0.1:8000]
    """
    settings = settings_of(storage_path, config, main_server=main_server)
    hashed = _without_manifest(Layout(settings.storage_path))
    began = time.monotonic()
    with open_storage(settings) as store:
        held = store.versions()
        # Opening hashes a package that has no manifest, and drops it if its digest is not the one in its name.
        gone = sorted(hashed - {version.digest for version in held})
        findings = [Finding(digest, 0, DROPPED, [], "its bytes do not have this digest") for digest in gone]
        wanted = {find(store, word).digest for word in what}
        findings += _check_all(store, [version for version in held if not what or version.digest in wanted])
        seconds = time.monotonic() - began
        damaged = [finding for finding in findings if finding.state == DAMAGED]
        if repair and damaged:
            _repair_all(store, settings, damaged)
    _report(findings, seconds, as_json=as_json)
    if any(finding.state in {DAMAGED, DROPPED} for finding in findings):
        return exits.FAILED
    return exits.REPAIRED if any(finding.state == REPAIRED for finding in findings) else exits.OK


def _without_manifest(layout: Layout) -> set[Digest]:
    """Return the packages that opening will hash, and remove if they do not have the digest in their name."""
    if not layout.packages.is_dir():
        return set()
    names = {name for path in layout.packages.iterdir() if (name := parse_name(path.name)) is not None}
    return {digest for digest, suffix in names if suffix == "zip" and (digest, "json") not in names}


def _check_all(store: Store, versions: list[Version]) -> list[Finding]:
    """Check versions in the order of their digests, with a progress bar on a terminal."""
    findings = []
    columns = (
        TextColumn("[progress.description]{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("verifying", total=sum(version.size for version in versions))
        before = 0
        for version in sorted(versions, key=lambda version: version.digest):
            progress.update(task, description=f"verifying {version.digest[:SHORT]}")
            finding = Finding(version.digest, version.size)
            try:
                for done in _check(store, finding):
                    progress.update(task, completed=before + done)
            except PackageCorrupt as error:
                finding.state = DAMAGED
                finding.reason = "" if finding.bad else str(error)
            except VersionMissing:  # evicted since the list was made
                continue
            except OSError as error:
                finding.state = DAMAGED
                finding.reason = f"it cannot be read: {error.strerror}"
            findings.append(finding)
            before += version.size
            progress.update(task, completed=before)
    return findings


def _check(store: Store, finding: Finding) -> Iterator[int]:
    """Check one version, yielding the number of verified bytes; its bad pieces are added to `finding`.

    A small version is hashed as a whole, at the speed of hashing alone, and scanned piece by piece only if it is
    damaged. Raises `PackageCorrupt`, `VersionMissing`, `OSError`.
    """
    if finding.size <= ONE_GO_BYTES:
        with suppress(PackageCorrupt):
            store.verify(finding.digest)
            return
    for step in store.scan(finding.digest):
        if step.bad is not None:
            finding.bad.append(step.bad)
        yield step.done


def _repair_all(store: Store, settings: Settings, damaged: list[Finding]) -> None:
    # Imported here: without damage the HTTP client is not needed.
    import trio

    from .repair import repair_all

    trio.run(repair_all, store, settings, damaged)


def _report(findings: list[Finding], seconds: float, *, as_json: bool) -> None:
    size = sum(finding.size for finding in findings)
    rate = size / seconds if seconds > 0 else 0.0
    counts = {state: sum(f.state == state for f in findings) for state in (RIGHT, DAMAGED, REPAIRED, DROPPED)}
    if as_json:
        summary = {"versions": len(findings), "bytes": size, "seconds": round(seconds, 3), "bytes_per_second": rate}
        print_json({**summary, **counts, "findings": [f.row() for f in findings if f.state != RIGHT]})
        return
    for finding in findings:
        if finding.state != RIGHT:
            bad = f", {len(finding.bad)} bad pieces of {decimal(sum(piece.size for piece in finding.bad))}"
            reason = f": {finding.reason}" if finding.reason else ""
            print(f"{finding.digest[:SHORT]}  {finding.state}{bad if finding.bad else ''}{reason}")
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "nothing is stored"
    print(f"{said}; {decimal(size)} in {seconds:.1f} s, {decimal(int(rate))}/s")
