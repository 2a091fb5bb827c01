from __future__ import annotations

import errno

import pytest

from store import (
    NoSpace,
    Store,
)
from tests.store.helpers import (
    half_filled,
    names,
)
from tests.store.samples import (
    package,
)
from tests.support.faulty_filesystem import FaultyFileSystem

PUBLISHING = [
    ("sync", 1),
    ("rename", 1),
    ("write_at", 1),
    ("sync", 2),
    ("rename", 2),
    ("sync_folder", 1),
]


@pytest.mark.parametrize(("call", "number"), PUBLISHING)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_commit_that_fails_leaves_the_fill_as_it_was(folder, call, number, code):
    data = package()
    fs = FaultyFileSystem()
    with Store.open(folder, fs=fs) as store:
        fill, _, rest = half_filled(store, data)
        for chunk in rest:
            fill.write(chunk, data[chunk.offset : chunk.offset + chunk.size])
        fs.fail(call, number, code, once=True)
        with pytest.raises(NoSpace if code == errno.ENOSPC else OSError):
            fill.commit()
        assert not store.holds(fill.manifest.digest)
        assert store.usage().stored == 0
        assert store.usage().filling == len(data)
        assert names(folder, "packages") == []
        fs.clear_faults()
        with Store.open(folder) as other:  # other processes do not see it either
            assert not other.holds(fill.manifest.digest)
        fill.commit()
        fill.close()
        assert store.holds(fill.manifest.digest)
        assert store.usage().stored == len(data)
        assert store.usage().filling == 0
    assert names(folder, "incoming") == []


def test_a_fill_that_is_garbage_collected_releases_its_lock(store):
    fill, _, _ = half_filled(store, package())
    manifest = fill.manifest
    del fill
    store.begin_fill(manifest).discard()
