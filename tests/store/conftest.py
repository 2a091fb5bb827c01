"""Fixtures of the store's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def store(folder: Path):
    with Store.open(folder) as opened:
        yield opened
