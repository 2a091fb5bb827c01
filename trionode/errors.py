"""The errors of the node. `answers` maps them to HTTP answers, `cli.explain` to exit statuses."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

STORAGE_SETTING = "--storage-path, STORAGE_PATH or storage_path in the TOML file"
"""Where the storage folder is set, for messages."""


class NodeError(Exception):
    """Base of every error the node raises on purpose."""


class SettingError(NodeError):
    """A setting has a value that is not allowed.

    `setting` is its name, `source` where the value came from, `allowed` the values that are allowed.
    """

    def __init__(self, setting: str, value: object, allowed: str, source: str) -> None:
        super().__init__(f"setting {setting!r} (from {source}) is {str(value)[:200]!r}; allowed: {allowed}")
        self.setting = setting
        self.value = value
        self.allowed = allowed
        self.source = source


class StorageUnusable(NodeError, OSError):
    """The storage folder cannot be used: it is not a folder, cannot be written, or its disk fails."""

    def __init__(self, path: Path, error: OSError) -> None:
        where = "" if error.filename in {None, str(path)} else f", {error.filename}"
        super().__init__(
            f"the storage folder {path.absolute()} cannot be used ({error.strerror or error}{where}); "
            f"choose another with {STORAGE_SETTING}"
        )
        self.path = path


class MethodRefused(NodeError):
    """The route does not support this method; `allowed` are the supported ones."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__("The method is not allowed for the requested URL.")
        self.allowed = allowed


class MeetingUnknown(NodeError):
    """The master does not have this meeting in progress, and nothing is stored for it."""

    def __init__(self, meeting_id: str) -> None:
        super().__init__(f"no meeting {meeting_id[:80]!r} is in progress")
        self.meeting_id = meeting_id


class VersionGone(NodeError):
    """The requested version is not stored, and it is no longer current at the master."""

    def __init__(self, version: str) -> None:
        super().__init__(f"version {version} is no longer available")
        self.version = version


class OriginUnreachable(NodeError):
    """The master did not answer: it refused or cut the connection, or took too long."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the master cannot be reached: {what}")
        self.what = what


class OriginError(NodeError):
    """The master answered, and the answer cannot be used. `status` is its HTTP status."""

    def __init__(self, what: str, status: int = 0) -> None:
        super().__init__(f"the master's answer cannot be used: {what}")
        self.what = what
        self.status = status


class PeerFailure(Enum):
    """Why another node is passed over as a source."""

    UNREACHABLE = "unreachable"
    SLOW = "slow"
    BUSY = "busy"
    REFUSED = "refused"
    LIED = "wrong bytes"


class PeerFailed(NodeError):
    """Another node could not be fetched from."""

    def __init__(self, node_id: str, failure: PeerFailure, what: str) -> None:
        super().__init__(f"node {node_id} ({failure.value}): {what}")
        self.node_id = node_id
        self.failure = failure
        self.what = what


class PeersOff(NodeError):
    """This node sends nothing to other nodes, since `peers` is off."""

    def __init__(self) -> None:
        super().__init__("this node sends nothing to other nodes: its setting peers is off")


class NotBehind(NodeError):
    """A node that is before this one in the order of a version must not wait for it."""

    def __init__(self, asker: str) -> None:
        super().__init__(f"this node does not have the version yet, and the node {asker} is before it in the order")


class PeersBusy(NodeError):
    """As many nodes as allowed fetch from this one."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} other nodes fetch from this one, which is its limit")
        self.limit = limit


class FillFailed(NodeError):
    """The fill that a download followed has failed."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the package could not be fetched: {reason}")
        self.reason = reason


class AtCapacity(NodeError):
    """`max_downloads` is reached, and the queue is full."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} downloads are active, which is the limit of this node")
        self.limit = limit


class NodeStopped(NodeError):
    """The node is starting, stopping or has failed, and serves no packages."""

    def __init__(self, why: str) -> None:
        super().__init__(f"this node is not serving: {why}")
        self.why = why


class KeyRequired(NodeError):
    """The route changes or shows the node's configuration, and no key protects it."""

    def __init__(self) -> None:
        super().__init__("this route needs a key, and none is configured; change settings on the machine itself")


class CommandFailed(NodeError):
    """A command cannot do what was requested; `status` is its exit status."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
