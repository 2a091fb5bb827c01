"""What the storage commands share: which folder is a storage folder, and what an argument means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trionode.cli.exits import USAGE
from trionode.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.packages import Package
    from tests.trionode.cli.conftest import Run


def test_a_folder_that_is_no_storage_folder_is_refused_and_not_created(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    nowhere = tmp_path / "nowhere"
    for command in (["ls"], ["verify"], ["gc"], ["pin", "m"], ["evict", "m"], ["export", "m", "f"], ["diff", "m"]):
        assert main([*command, "--storage-path", str(nowhere)]) == USAGE
        error = capfd.readouterr().err
        assert f"trionode: {nowhere} is not the storage folder of a node" in error
        assert "--storage-path, STORAGE_PATH" in error
    assert not nowhere.exists()


@pytest.mark.parametrize("command", [["pin"], ["unpin"], ["evict"], ["export"]])
def test_an_argument_that_names_nothing_stored_is_quoted(run: Run, tmp_path: Path, command: list[str]):
    more = [tmp_path / "out.zip"] if command == ["export"] else []
    for word in ("m-unknown", "abcd", "ab", "", "../m1"):
        status, report = run(*command, word, *more)
        assert status == USAGE
        assert repr(word) in report["error"]
    assert not (tmp_path / "out.zip").exists()


def test_a_version_is_found_by_its_first_digits_and_a_meeting_by_its_id(run: Run, package: Package, rebuilt: Package):
    run("import", package.path, "--meeting", "m1")
    run("import", rebuilt.path, "--meeting", package.digest[:8])  # an id that looks like digits is an id
    assert run("pin", package.digest[:8])[1]["version"] == rebuilt.digest
    assert run("pin", package.digest[:9])[1]["meetings"] == ["m1"]
