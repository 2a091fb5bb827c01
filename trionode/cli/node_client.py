"""An HTTP client for a running node, over the control socket of its storage folder or at a URL.

It is the standard library's, which is imported in a tenth of the time of httpx.
"""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import STORAGE_SETTING, CommandFailed
from ..master.tls import reason_of
from ..web.control import short_path
from . import exits

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALL_SECONDS = 5.0
"""Time limit of a call; a node answers within milliseconds."""

MAX_ANSWER_BYTES = 16 << 20
"""Size limit of an answer; the status of a thousand meetings is a fiftieth of it."""


class NodeGone(CommandFailed):
    """Nothing listens where the node should be, or it has closed the connection."""


class NodeClient:
    """The HTTP API of a running node. For messages, `name` is the node, and `absent` that it does not answer."""

    def __init__(self, connection: http.client.HTTPConnection, prefix: str, name: str, absent: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._name = name
        self._absent = absent

    def call(self, method: str, path: str, *, seconds: float = CALL_SECONDS) -> dict[str, Any]:
        """Return the JSON answer. Raises `CommandFailed` if no node answers or the node refuses."""
        self._connection.timeout = seconds
        try:
            self._connection.request(method, self._prefix + path)
            with self._connection.getresponse() as answer:
                body = answer.read(MAX_ANSWER_BYTES)
        except PermissionError:
            raise
        except (ConnectionError, FileNotFoundError) as error:
            raise NodeGone(f"{self._absent} ({reason_of(error)})", exits.NOT_RUNNING) from error
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{self._absent} ({reason_of(error)})", exits.NOT_RUNNING) from error
        except http.client.HTTPException as error:
            raise CommandFailed(
                f"{self._absent} (but a program that does not speak HTTP)", exits.NOT_RUNNING
            ) from error
        finally:
            self._connection.close()
        try:
            report = json.loads(body)
        except ValueError:
            report = None
        if not isinstance(report, dict) or answer.status == http.client.NOT_FOUND:
            raise CommandFailed(f"{self._absent} (but another program; HTTP status {answer.status})", exits.NOT_RUNNING)
        if answer.status != http.client.OK:
            reason = f"the node at {self._name} refuses: {report.get('detail', answer.status)}"
            status = exits.USAGE if answer.status == http.client.BAD_REQUEST else exits.NOT_RUNNING
            raise CommandFailed(reason, status)
        return report


class _UnixConnection(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("node", timeout=CALL_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect. Raises `OSError`."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def node_at(url: str) -> NodeClient:
    """Return a client for the node at a URL, or at `host:port` by HTTP. Raises `CommandFailed` for an invalid URL."""
    absent = f"no node answers at {url}"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        connection = kinds[parts.scheme](parts.hostname or "", parts.port, timeout=CALL_SECONDS)
    except (ValueError, KeyError, http.client.HTTPException) as error:
        raise CommandFailed(f"{absent} (not host:port, and not an http or https URL)", exits.NOT_RUNNING) from error
    return NodeClient(connection, parts.path.rstrip("/"), url, absent)


@contextmanager
def node_of(storage: Path) -> Iterator[NodeClient]:
    """Yield a client for the node that runs on a storage folder. Raises `CommandFailed` without such a folder."""
    absent = f"no node runs on the storage folder {storage}; set the folder with {STORAGE_SETTING}"
    try:
        with short_path(storage) as path:
            yield NodeClient(_UnixConnection(path), "", f"the storage folder {storage}", absent)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NodeGone(f"{absent} ({error.strerror})", exits.NOT_RUNNING) from error
