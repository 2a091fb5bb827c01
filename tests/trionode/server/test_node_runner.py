"""`trionode serve` that cannot start: one sentence, and the exit status of wrong usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.nodes import digest_of, run_serve

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.running import FakeFactory
    from tests.support.packages import Package
    from tests.trionode.conftest import StartNode


def test_a_storage_path_that_is_no_folder_is_reported_in_one_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    done = run_serve("--storage-path", tmp_path / "file", "--host", "127.0.0.1", "--port", "0")
    assert done.returncode == 2
    assert f"cannot start: the storage folder {tmp_path / 'file'} cannot be used" in done.stderr
    assert "--storage-path" in done.stderr
    assert len(done.stderr.splitlines()) == 1, "the node has not listened"
    assert done.stdout == ""


async def test_a_second_node_on_the_same_storage_folder_reports_the_first(
    fakes: FakeFactory, folder: Path, package: Package, start_node: StartNode
):
    master = fakes.master(folder, started=("m1",))
    node = start_node(master.url)
    await node.until_synced("m1")
    # With the same address, too: a node is one process.
    for address in (f"127.0.0.1:{node.port}", "127.0.0.1:1"):
        second = start_node(master.url, storage=node.storage, node_address=address)
        assert second.process.wait(within=20) == 2
        log = second.process.log()
        assert f"the storage folder {node.storage} is in use by the node at 127.0.0.1:{node.port}" in log
        assert f"(process {node.process.pid})" in log
        assert "Traceback" not in log
    assert digest_of((await node.download("m1")).content) == package.digest
    assert len(master.state()["nodes"]) == 1
    assert (node.storage / "control.sock").exists()
