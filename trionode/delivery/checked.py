"""A lease that is sent from only while its bytes are known to be right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ..errors import FillFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from store import Digest, Lease

ATTEMPTS = 4
"""A file that is changed again right after it was repaired is looked at again, so many times."""


class CheckedLease:
    """A lease, and `ensure`, which makes its version whole and tells whether it is. A context manager that closes.

    Whoever sends looks at `trusted` before each window (one `fstat`) and awaits `ready` when it is false. What was
    read into memory is right if `trusted` is true after the reading. What the kernel was told to send is out of reach.
    """

    def __init__(self, lease: Lease, ensure: Callable[[Digest], Awaitable[bool]]) -> None:
        self._lease = lease
        self._ensure = ensure
        self.digest = lease.digest
        self.size = lease.size

    @property
    def trusted(self) -> bool:
        """Whether the file is as it was when its bytes were last found right."""
        return self._lease.trusted

    def fileno(self) -> int:
        """Return the descriptor, which all leases of the version share."""
        return self._lease.fileno()

    async def ready(self) -> None:
        """Return once the bytes are right: verified anew and repaired, if need be.

        Raises `FillFailed` when they cannot be made so: the answer is then cut off.
        """
        for _ in range(ATTEMPTS):
            if self._lease.trusted:
                return
            if not await self._ensure(self.digest):
                break
        # Whole, and this lease is not: its version was evicted while it was sent, and its file was changed.
        raise FillFailed("its stored bytes were damaged and could not be repaired")

    def close(self) -> None:
        """Give the lease back."""
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
