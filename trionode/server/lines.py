"""What the parent of several workers and each of them say to each other, a byte each, on a pair of sockets.

Not by signals: one that the whole group of processes gets, as from a terminal or from systemd, would count twice. And
the end of the line says that the other side has ended, however it has.
"""

from __future__ import annotations

import enum
import socket
from contextlib import suppress


class Word(enum.Enum):
    """`END` is said again to end at once; a worker says it to have all of them end."""

    END = b"e"
    RELOAD = b"r"


class Line:
    """One end of the line. Neither side ever waits for the other."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Line, Line]:
        """Return both ends of a new line."""
        one, other = socket.socketpair()
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Return the descriptor, readable when something was said."""
        return self._end.fileno()

    def say(self, word: Word) -> None:
        """Say a word; to one that has ended it is said in vain."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._end.send(word.value)

    def hear(self) -> list[Word] | None:
        """Return what was said and not yet heard; None when the other side has ended."""
        try:
            said = self._end.recv(4096)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        return [Word(bytes([byte])) for byte in said] if said else None

    def close(self) -> None:
        """Close this end."""
        self._end.close()
