"""The send buffer of an HTTP/2 stream, with back-pressure.

Hypercorn 0.18 resumes the sender when little was taken out of the buffer, not when little is left in it. So a client
that never opens its window makes it buffer whole packages (measured: 200 MB for one stream).
"""

from __future__ import annotations

from hypercorn.protocol.h2 import BUFFER_LOW_WATER, StreamBuffer


class BoundedStreamBuffer(StreamBuffer):
    """A buffer whose sender is resumed when less than `BUFFER_LOW_WATER` bytes are left."""

    @property
    def ended(self) -> bool:
        """Whether the answer was put into it to its end."""
        return self._complete

    async def pop(self, max_length: int) -> bytes:
        """Take up to `max_length` bytes out of the buffer."""
        length = min(len(self.buffer), max_length)
        data = bytes(self.buffer[:length])
        del self.buffer[:length]
        if len(self.buffer) < BUFFER_LOW_WATER:
            await self._paused.set()
        if not self.buffer:
            await self._is_empty.set()
        return data
