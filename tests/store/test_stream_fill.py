from __future__ import annotations

import pytest

from store import (
    Digest,
    NoSpace,
    Store,
)
from tests.store.samples import (
    manifest_of,
    package,
    stream_whole,
)
from tests.support.faulty_filesystem import FaultyFileSystem


def test_a_stream_overwrites_what_a_killed_process_left(store, folder):
    data = package()
    left = folder / "incoming" / f"{Digest.of(b'm')}.stream"
    left.write_bytes(b"x" * (len(data) + 1000))
    assert stream_whole(store, "m", data) == manifest_of(data)
    assert (folder / "packages" / f"{manifest_of(data).digest}.zip").read_bytes() == data


def test_a_full_disk_does_not_change_what_was_appended(folder):
    data = package()
    fs = FaultyFileSystem()
    with Store.open(folder, fs=fs) as store:
        fill = store.begin_stream("m")
        fill.append(data[:50_000])
        fs.fail("write_at")
        with pytest.raises(NoSpace):
            fill.append(data[50_000:])
        assert fill.size == 50_000
        fs.clear_faults()
        fill.append(data[50_000:])
        assert fill.commit() == manifest_of(data)
        fill.close()
