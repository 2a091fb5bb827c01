"""What a package holds decides only whether it is one, and both origins agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.strange_zips import NO_PACKAGES, STRANGE
from tests.support.masters import ShimMaster
from tests.support.nodes import digest_of
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.processes import Spawner
    from tests.trionode.conftest import StartNode


@pytest.fixture(params=["legacy", "shim"])
def master_url(request: pytest.FixtureRequest, spawn: Spawner, fakes: FakeFactory, folder: Path) -> str:
    """The address of a master with all strange packages and files in progress."""
    for meeting_id, content in STRANGE.items():
        (folder / f"{meeting_id}.zip").write_bytes(content)
    for meeting_id, (content, _) in NO_PACKAGES.items():
        (folder / f"{meeting_id}.zip").write_bytes(content)
    if request.param == "shim":
        return ShimMaster(spawn, folder).url
    master = fakes.master(folder)
    for meeting_id in STRANGE | NO_PACKAGES:
        master.start(meeting_id)
    return master.url


async def test_a_file_is_a_package_or_the_node_says_why_not(master_url: str, start_node: StartNode):
    node = start_node(master_url)
    await node.until_synced(*STRANGE)
    for meeting_id, content in STRANGE.items():
        assert digest_of((await node.download(meeting_id)).content) == digest_of(content), meeting_id

    async def explained() -> bool:
        meetings = {meeting["id"]: meeting for meeting in (await node.status())["active_meetings"]}
        for meeting_id, (_, reason) in NO_PACKAGES.items():
            assert "not a package: " in meetings[meeting_id]["reason"], meetings[meeting_id]
            assert reason in meetings[meeting_id]["reason"]
        return True

    await eventually(explained, within=20)
    assert set(await node.synced()) == set(STRANGE)
    assert "Traceback" not in node.process.log()
    assert "crashed" not in node.process.log()
    # Nothing of the others is kept, and the bytes that a shim has named are not fetched again.
    await eventually(lambda: not any((node.storage / "incoming").iterdir()), what="incoming/ is empty")
    assert (await node.status())["storage_usage"] == sum(map(len, STRANGE.values()))
