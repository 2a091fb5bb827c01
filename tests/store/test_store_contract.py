from __future__ import annotations

import itertools

import pytest

from store import DiskStore, MemoryStore
from tests.store.contract import StoreContract


class TestDiskStore(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path):
        numbers = itertools.count()
        stores = []

        def make(max_bytes: int = 0):
            stores.append(DiskStore.open(tmp_path / str(next(numbers)), max_bytes=max_bytes))
            return stores[-1]

        yield make
        for store in stores:
            store.close()


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def make_store(self):
        stores = []

        def make(max_bytes: int = 0):
            stores.append(MemoryStore(max_bytes=max_bytes))
            return stores[-1]

        yield make
        for store in stores:
            store.close()
