"""A fill that is going on, as the requests that follow it see it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from ..errors import FillFailed
from ..signals import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from store import Digest, Fill, Readable, StreamFill
    from store.peeking import PeekedFill, PeekedStream

HOLD_BACK_BYTES = 64 << 10
"""The last bytes of a package follow only after the whole was found right: a client can then never take a body that
failed at its end for a finished one. A zip cannot be opened without them."""


class ActiveFill:
    """A fill that is going on, as the requests that follow it see it.

    `digest` and `size` (bytes) are None while nobody knows them: a legacy master says neither.
    """

    def __init__(self, meeting_id: str, digest: Digest | None = None, size: int | None = None) -> None:
        self.meeting_id = meeting_id
        self.digest = digest
        self.size = size
        self.error: Exception | None = None
        self.finished = False
        self._file: _File | None = None
        self._committed: tuple[int, int] | None = None
        self._followers = 0
        self._sending: set[trio.CancelScope] = set()
        self._moved = Signal()
        self._wanted: dict[object, int] = {}

    def fileno(self) -> int:
        """Return the descriptor of the file that is being filled."""
        assert self._file is not None, "a follower reads only what `available` promised"
        return self._file.readable.fileno()

    async def available(self, offset: int) -> int:
        """Wait until bytes from `offset` on may be sent, and return how many; 0 at the end of the package.

        Raises `FillFailed` when the fill has failed; what was sent so far is then the beginning of no package.
        """
        waiter = object()
        try:
            while True:
                if self.error is not None:
                    raise FillFailed(str(self.error)) from self.error
                ready = self._ready(offset)
                if ready > 0 or self.finished:
                    return ready
                self._wanted.setdefault(waiter, offset)
                await self._moved.wait()
        finally:
            self._wanted.pop(waiter, None)

    def wanted(self) -> list[int]:
        """Return the offsets at which somebody waits, who has waited longest first."""
        return list(self._wanted.values())

    @property
    def trusted(self) -> bool:
        """Whether what `available` promised is right: always while it is filled, then if the file has not changed.

        A package that was changed after its fill is repaired for others, under a lease; who follows is cut off.
        """
        return self._committed is None or self._committed == self._state()

    async def ready(self) -> None:
        """Raise `FillFailed` unless the bytes are right."""
        if not self.trusted:
            raise FillFailed("the package was changed on the disk after it was fetched")

    def _state(self) -> tuple[int, int] | None:
        # Not the ctime: unlinking the package, as an eviction does, changes that and none of the bytes.
        if self._file is None:
            return None
        found = os.fstat(self._file.readable.fileno())
        return (found.st_size, found.st_mtime_ns)

    async def begun(self) -> None:
        """Wait until it is known whether this becomes a package: some bytes may be sent, or the fill has ended.

        Raises `FillFailed` like `available`: what can still be answered by an error is.
        """
        await self.available(0)

    async def over(self) -> None:
        """Wait until the fill has ended, well or not."""
        while not self.finished:
            await self._moved.wait()

    def _ready(self, offset: int) -> int:
        if self._file is None:
            return 0
        covered = self._file.covered(offset)
        if self.finished:
            return covered
        return max(0, min(covered, self._file.size() - HOLD_BACK_BYTES - offset))

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep the file open for as long as somebody reads it, also after the fill is over."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self._close_if_unused()

    @contextmanager
    def sending(self) -> Iterator[trio.CancelScope]:
        """Cut off what is done inside once the fill fails, even where it waits for a client that reads nothing."""
        with trio.CancelScope() as scope:
            self._sending.add(scope)
            try:
                yield scope
            finally:
                self._sending.discard(scope)

    def begin_manifest(self, fill: Fill) -> None:
        """Let followers see a fill whose size is known. It is closed when this has ended and nobody follows."""
        self._file = _File(fill, fill.covered, lambda: fill.manifest.size, fill.close)
        self.advance()

    def forget(self, fill: Fill) -> None:
        """Have the file of a fill removed at its end, and not kept to go on from."""
        assert self._file is not None
        self._file = replace(self._file, release=fill.discard)

    def begin_stream(self, stream: StreamFill) -> None:
        """Let followers see a stream. It is given up when this has ended and nobody follows."""
        # After a commit, discarding a stream only closes its descriptor.
        self._file = _File(stream, lambda offset: max(0, stream.size - offset), lambda: stream.size, stream.discard)
        self.advance()

    def begin_elsewhere(self, peeked: PeekedFill | PeekedStream) -> None:
        """Let followers see a fill of another process. It is closed when this has ended and nobody follows."""
        self._file = _File(peeked, peeked.covered, lambda: peeked.size, peeked.close)
        self.advance()
        self._close_if_unused()  # it may have ended while its file was opened

    @property
    def has_file(self) -> bool:
        """Whether the file that is filled is there already."""
        return self._file is not None

    @property
    def followers(self) -> int:
        """How many follow it."""
        return self._followers

    def advance(self) -> None:
        """Wake the followers: bytes were added, or the fill is over."""
        self._moved.give()

    def finish(self, error: Exception | None = None) -> None:
        """End the fill, well or with `error`. Ending twice is no error: the first end counts."""
        if not self.finished:
            self.finished = True
            self.error = error
            self._committed = self._state()
            self.advance()
            if error is not None:
                for scope in self._sending:
                    scope.cancel()
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self.finished and not self._followers and self._file is not None:
            self._file.release()
            self._file = None


@dataclass(frozen=True, slots=True)
class _File:
    """A file being filled, whichever way: how much is there from an offset on, how large it is so far, and its end."""

    readable: Readable
    covered: Callable[[int], int]
    size: Callable[[], int]
    release: Callable[[], None]
