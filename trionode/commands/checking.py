"""`trionode verify`: every byte of the storage read again, and what is bad repaired from the master."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import trio
from cyclopts import Parameter
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from store import ChunkMismatch, Literal, NoSpace, PackageCorrupt, VersionMissing
from store.layout import Layout, parse_name

from ..errors import OriginError, OriginUnreachable
from ..sync.healing import CannotRepair, Healer
from ..sync.sources import Master
from .storage import (
    EXIT_FAILED,
    EXIT_OK,
    EXIT_REPAIRED,
    SHORT,
    AsJson,
    Config,
    StoragePath,
    find,
    open_storage,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from store import Chunk, Digest, DiskStore, Version

    from ..config import Settings

ONE_GO_BYTES = 256 << 20
"""A version up to this size moves the progress bar in one step: two seconds of a slow disk."""

RIGHT, DAMAGED, REPAIRED, DROPPED = "right", "damaged", "repaired", "dropped"


@dataclass(slots=True)
class Finding:
    """What became of one version: `state`, its bad pieces, and why it is as it is, in words."""

    digest: Digest
    size: int
    state: str = RIGHT
    bad: list[Chunk | Literal] = field(default_factory=list)
    reason: str = ""

    def row(self) -> dict[str, object]:
        """Return it for JSON."""
        kinds = ["literal" if isinstance(piece, Literal) else "chunk" for piece in self.bad]
        bad = [{"kind": k, "offset": p.offset, "size": p.size} for k, p in zip(kinds, self.bad, strict=True)]
        return {
            "digest": self.digest,
            "size": self.size,
            "state": self.state,
            "bad": bad,
            "reason": self.reason or None,
        }


def verify(
    *what: str,
    repair: Annotated[bool, Parameter(negative="")] = False,
    main_server: str | None = None,
    storage_path: StoragePath = None,
    config: Config = None,
    as_json: AsJson = False,
) -> int:
    """Read every byte of what is stored and compare it with its digests.

    Status 0: all is right. 1: damage is left, or a version had to be dropped. 4: damage was found, and all of it is
    repaired.

    Parameters
    ----------
    what
        Ids of meetings or versions (the first digits will do); all versions when none is given.
    repair
        Fetch bad chunks again from the master and write them in their place. A version of which neither the master
        nor another version here has the bytes is dropped, for the node to fetch what is current.
    main_server
        URL of the master. [MAIN_SERVER_URL, default http://127.0.0.1:8000]
    """
    settings = settings_of(storage_path, config, main_server=main_server)
    names = _package_names(Layout(settings.storage_path))
    began = time.monotonic()
    with open_storage(settings) as store:
        held = store.versions()
        # Opening hashes a package that has no manifest, and drops it when it is not what its name says.
        gone = sorted(names - {version.digest for version in held})
        findings = [Finding(digest, 0, DROPPED, [], "its bytes are not what its name says") for digest in gone]
        wanted = {find(store, word).digest for word in what}
        findings += _check_all(store, [version for version in held if not what or version.digest in wanted])
        seconds = time.monotonic() - began
        damaged = [finding for finding in findings if finding.state == DAMAGED]
        if repair and damaged:
            trio.run(_repair_all, store, settings, damaged)
    _report(findings, seconds, as_json=as_json)
    if any(finding.state in {DAMAGED, DROPPED} for finding in findings):
        return EXIT_FAILED
    return EXIT_REPAIRED if any(finding.state == REPAIRED for finding in findings) else EXIT_OK


def _package_names(layout: Layout) -> set[Digest]:
    if not layout.packages.is_dir():
        return set()
    parsed = (parse_name(path.name) for path in layout.packages.iterdir())
    return {name[0] for name in parsed if name is not None and name[1] == "zip"}


def _check_all(store: DiskStore, versions: list[Version]) -> list[Finding]:
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


def _check(store: DiskStore, finding: Finding) -> Iterator[int]:
    """Check one version, yielding how many bytes are done; its bad pieces go into `finding`.

    A small one is hashed in one go, at the speed of hashing alone, and looked at piece by piece only when it is
    wrong. Raises `PackageCorrupt`, `VersionMissing`, `OSError`.
    """
    if finding.size <= ONE_GO_BYTES:
        with suppress(PackageCorrupt):
            store.verify(finding.digest)
            return
    for step in store.scan(finding.digest):
        if step.bad is not None:
            finding.bad.append(step.bad)
        yield step.done


async def _repair_all(store: DiskStore, settings: Settings, damaged: list[Finding]) -> None:
    master = Master(settings.main_server)
    healer = Healer(store, master)
    try:
        for finding in damaged:
            await _repair(store, healer, finding)
    finally:
        await master.aclose()


async def _repair(store: DiskStore, healer: Healer, finding: Finding) -> None:
    """Repair one version, which a running node may be repairing or dropping, too."""
    try:
        await healer.repair(finding.digest)
    except CannotRepair as error:
        store.remove(finding.digest)
        finding.state, finding.reason = DROPPED, str(error)
    except VersionMissing:
        finding.state, finding.reason = DROPPED, "it was removed meanwhile"
    except (OriginUnreachable, OriginError, ChunkMismatch, NoSpace, OSError) as error:
        finding.reason = str(error)
    else:
        finding.state = REPAIRED


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
