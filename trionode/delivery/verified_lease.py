"""A lease whose bytes are verified before they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from ..errors import FillFailed

if TYPE_CHECKING:
    from types import TracebackType

    from store import Lease

    from ..upkeep.repair import Repairer

ATTEMPTS = 4
"""Repairs of a file that changes again right after each, before the answer is cut off."""


class VerifiedLease:
    """A lease whose bytes the repairer verifies and repairs. A context manager that closes it.

    The sender reads `trusted` before each window (one `fstat`) and awaits `ensure_trusted` when it is false. Bytes read
    into memory are right if `trusted` is true after the read. Bytes already handed to the kernel cannot be recalled.
    """

    def __init__(self, lease: Lease, repairer: Repairer) -> None:
        self._lease = lease
        self._repairer = repairer
        self.digest = lease.digest
        self.size = lease.size

    @property
    def trusted(self) -> bool:
        """Whether the file is unchanged since its bytes were last verified."""
        return self._lease.trusted

    def fileno(self) -> int:
        """Return the descriptor, which all leases of the version share."""
        return self._lease.fileno()

    async def ensure_trusted(self) -> None:
        """Return when the bytes are known to be right, verifying and repairing them if needed.

        Raises `FillFailed` if they cannot be repaired: the answer is then cut off.
        """
        for _ in range(ATTEMPTS):
            if self._lease.trusted:
                return
            if not await self._repairer.ensure(self.digest):
                break
        # Or the version is right and this lease is not: its file was evicted while it was sent, and then changed.
        raise FillFailed("its stored bytes were damaged and could not be repaired")

    def close(self) -> None:
        """Close the lease."""
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
