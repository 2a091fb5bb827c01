"""What every store does while a package is streamed; see `contract`."""

from __future__ import annotations

import pytest

from store import (
    FillBusy,
    PackageRejected,
)
from tests.store.helpers import HOSTILE_IDS, read_all
from tests.store.samples import (
    documents,
    fill_whole,
    make_zip,
    manifest_of,
    only_error,
    only_readme,
    package,
    stream_whole,
)


class StreamContract:
    @pytest.mark.parametrize(
        "data", [package(), package() + b"\n", only_readme(), make_zip(documents(2, 99), comment=b"a note")]
    )
    def test_a_streamed_package_is_split_and_stored(self, store, data):
        fill = store.begin_stream("meeting")
        assert fill.size == 0
        for start in range(0, len(data), 5000):
            fill.append(data[start : start + 5000])
            assert fill.size == min(len(data), start + 5000)
            assert read_all(fill, fill.size) == data[: fill.size]
            assert [fill.covered(offset) for offset in (0, 1, fill.size, fill.size + 1)] == [
                fill.size,
                fill.size - 1,
                0,
                0,
            ]
        manifest = fill.commit()
        assert read_all(fill, len(data)) == data
        fill.close()
        assert manifest == manifest_of(data)
        assert store.holds(manifest.digest)
        with store.lease(manifest.digest) as lease:
            assert lease.trusted
            assert read_all(lease, len(data)) == data

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"<html>502 Bad Gateway</html>",
            b"PK\5\6" + bytes(18),
            only_error(),
            package()[:-1],
            package()[:60_000],
            package()[1:],
            package()[:50_000] + b"?" + package()[50_001:],
        ],
        ids=["empty", "html", "no members", "ERROR.txt", "end cut", "cut", "start cut", "flipped"],
    )
    def test_an_incomplete_package_is_rejected(self, store, data):
        fill = store.begin_stream("meeting")
        fill.append(data)
        with pytest.raises(PackageRejected) as caught:
            fill.commit()
        assert caught.value.reason
        fill.close()
        assert list(store.versions()) == []
        assert store.usage().filling == 0
        stream_whole(store, "meeting", package())

    def test_a_stream_of_a_stored_version_is_not_stored_again(self, store):
        data = package()
        first = fill_whole(store, data)
        assert stream_whole(store, "meeting", data) == first
        usage = store.usage()
        assert (usage.stored, usage.filling) == (len(data), 0)

    @pytest.mark.parametrize("name", HOSTILE_IDS)
    def test_one_stream_of_a_name_at_a_time(self, store, name):
        fill = store.begin_stream(name)
        with pytest.raises(FillBusy):
            store.begin_stream(name)
        other = store.begin_stream(name + "?")
        other.discard()
        fill.discard()
        with pytest.raises(ValueError):
            fill.append(b"x")
        store.begin_stream(name).close()
        assert store.usage().filling == 0
