"""Which callables find packages."""

from __future__ import annotations

import functools
import threading
from typing import Any

import pytest

from master_shim import DirectoryPackages, MasterShim
from master_shim.packages.source import finder_of


async def find(meeting_id: str, folder: str = "") -> str:
    return f"{folder}{meeting_id}.zip"


def plain(meeting_id: str) -> str:
    return f"{meeting_id}.zip"


class Plain:
    def __call__(self, meeting_id: str) -> str:
        return plain(meeting_id)


class Async:
    async def __call__(self, meeting_id: str) -> str:
        return plain(meeting_id)


@pytest.mark.parametrize(
    "packages",
    [
        find,
        functools.partial(find, folder=""),
        lambda meeting_id: find(meeting_id),
        plain,
        functools.partial(plain),
        Plain(),
        Plain().__call__,
        Async(),
        Async().__call__,
        "{}.zip".format,
    ],
)
async def test_any_function_of_a_meeting_id_finds_packages(packages: Any) -> None:
    assert await finder_of(packages)("m") == "m.zip"


async def test_a_plain_function_is_called_in_a_worker_thread() -> None:
    threads = []
    await finder_of(lambda meeting_id: threads.append(threading.current_thread()))("m")
    assert threads != [threading.current_thread()]


class PlainMeetings(Async):
    def meetings(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize(
    ("packages", "words"),
    [
        ("packages", "a DirectoryPackages or a function of a meeting id, not 'packages'"),
        (DirectoryPackages, "not <class"),
        (lambda: "m.zip", "is called with a meeting id"),
        (lambda meeting_id, request: "m.zip", "missing a required argument: 'request'"),
        (PlainMeetings(), "must be an async function"),
    ],
)
def test_anything_else_is_refused_at_once(packages: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        MasterShim(packages)
