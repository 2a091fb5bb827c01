"""Repair of the damage that `trionode verify` found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from store import ChunkMismatch, NoSpace, VersionMissing

from ..errors import OriginError, OriginUnreachable
from ..logs import configure_logs
from ..master.client import Master
from ..upkeep.repair import CannotRepair, Repairer
from .findings import DROPPED, REPAIRED

if TYPE_CHECKING:
    from store import Store

    from ..settings import Settings
    from .findings import Finding


async def repair_all(store: Store, settings: Settings, damaged: list[Finding]) -> None:
    """Repair versions one after the other, and record the result in their findings."""
    configure_logs("warning")
    master = Master(settings.main_server, settings.ca_file)
    repairer = Repairer(store, master)
    try:
        for finding in damaged:
            await _repair(store, repairer, finding)
    finally:
        await master.aclose()


async def _repair(store: Store, repairer: Repairer, finding: Finding) -> None:
    """Repair one version, which a running node may be repairing or removing as well."""
    try:
        await repairer.repair(finding.digest)
    except CannotRepair as error:
        store.remove(finding.digest)
        finding.state, finding.reason = DROPPED, str(error)
    except VersionMissing:
        finding.state, finding.reason = DROPPED, "it was removed meanwhile"
    except (OriginUnreachable, OriginError, ChunkMismatch, NoSpace, OSError) as error:
        finding.reason = str(error)
    else:
        finding.state = REPAIRED
