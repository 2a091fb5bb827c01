from __future__ import annotations

import errno
import os

from store import (
    Store,
)
from tests.store.samples import (
    documents,
    fill_whole,
    make_zip,
    manifest_of,
    package,
    stream_whole,
)


def test_short_writes_of_the_kernel_are_continued(folder, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[: max(1, len(data) // 3)], offset))
    with Store.open(folder) as store:
        store.verify(fill_whole(store, package(count=2, size=5000)).digest)
        store.verify(stream_whole(store, "m", package(3, count=2, size=5000)).digest)


def test_without_kernel_support_bytes_are_copied_by_the_process(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    members = documents(3, 3_000_000)
    with Store.open(folder) as store:
        fill_whole(store, make_zip(members, minute=1))
        fill = store.begin_fill(manifest_of(make_zip(members, minute=2)))
        assert fill.missing() == ()
        fill.commit()
        fill.close()
