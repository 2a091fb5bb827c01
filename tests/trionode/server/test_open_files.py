"""The limit of open files of a running node."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import children

if TYPE_CHECKING:
    from tests.support.nodes import Start
    from tests.trionode.conftest import StartNode


@pytest.mark.parametrize("how", ["serve", "hypercorn", "hypercorn-trio"])
async def test_the_limit_of_open_files_is_raised(start_node: StartNode, how: Start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        node = start_node("http://127.0.0.1:1", how=how)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await node.until_up()
    limits = [
        line.split()[3:5]
        for pid in (node.process.pid, *children(node.process.pid))
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    ]
    assert limits[-1] == [str(hard), str(hard)]
