"""Lines of JSON over a Unix socket that lies in the storage folder."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import trio

from master_shim.protocol import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

FOLDER = "workers"
SOCKET = "leader.sock"

MAX_LINE = 64 << 20
"""Far more than any message: a peer that sends so much without a line's end is none of ours."""

T = TypeVar("T")


class Channel(Generic[T]):
    """One connection. `T` is what the other side says; what cannot be understood ends the connection."""

    def __init__(self, stream: trio.SocketStream, understood: Any) -> None:
        self._stream = stream
        self._decoder: msgspec.json.Decoder[T] = msgspec.json.Decoder(understood)
        # A digest is a str of its own type, which msgspec does not write by itself.
        self._encoder = msgspec.json.Encoder(enc_hook=str)
        self._sending = trio.Lock()

    async def send(self, message: msgspec.Struct) -> None:
        """Send one message. Raises `BrokenResourceError` or `ClosedResourceError` when the other side is gone."""
        line = self._encoder.encode(message) + b"\n"
        async with self._sending:
            await self._stream.send_all(line)

    async def messages(self) -> AsyncIterator[T]:
        """Yield what the other side says, until it is gone."""
        buffer = bytearray()
        while len(buffer) <= MAX_LINE:
            try:
                part = await self._stream.receive_some(65536)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            if not part:
                return
            buffer += part
            *lines, rest = buffer.split(b"\n")
            buffer = bytearray(rest)
            for line in lines:
                try:
                    message = self._decoder.decode(line)
                except UNREADABLE:
                    return
                yield message

    async def aclose(self) -> None:
        """Close the connection."""
        await trio.aclose_forcefully(self._stream)


@contextmanager
def _short(storage: Path) -> Iterator[str]:
    """Give a path of the socket that fits in an address, which has 107 bytes, however deep the storage lies."""
    fd = os.open(storage / FOLDER, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET}"
    finally:
        os.close(fd)


def prepare_folder(storage: Path) -> Path:
    """Return the folder of what only the processes of one node use; made if need be, closed to other users."""
    folder = storage / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    return folder


async def connect(storage: Path) -> trio.SocketStream:
    """Connect to the leader. Raises `OSError`: `FileNotFoundError` or `ConnectionRefusedError` when there is none."""
    socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        with _short(storage) as path:
            await socket.connect(path)
    except BaseException:
        socket.close()
        raise
    return trio.SocketStream(socket)


async def listen(storage: Path) -> trio.SocketListener:
    """Listen as the leader. For who holds the storage's lock alone: what an earlier leader left is removed."""
    folder = prepare_folder(storage)
    (folder / SOCKET).unlink(missing_ok=True)
    socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with _short(storage) as path:
        await socket.bind(path)
    socket.listen(128)
    return trio.SocketListener(socket)
