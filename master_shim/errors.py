"""What can go wrong in the shim, typed and with fields. Pure; `app.py` maps these to HTTP answers."""

from __future__ import annotations


class ShimError(Exception):
    """Base of every error the shim raises on purpose. Its text is what a caller of the API reads."""


class FolderMissing(ShimError, NotADirectoryError):
    """The packages folder does not exist, or is no folder."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"the packages folder {folder} does not exist or is not a folder")
        self.folder = folder


class FolderUnreadable(ShimError):
    """The packages folder could not be listed."""

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__("The list of meetings cannot be read")
        self.folder = folder
        self.reason = reason


class RouteMissing(ShimError, LookupError):
    """No route of the shim has this path."""

    def __init__(self) -> None:
        super().__init__("Not Found")


class MethodRefused(ShimError):
    """The route is there, but not for this method. `allowed` is what an `Allow` header says."""

    def __init__(self, allowed: str) -> None:
        super().__init__("Method Not Allowed")
        self.allowed = allowed


class MeetingMissing(ShimError, LookupError):
    """No meeting in progress has this id, or the id is none that a meeting can have."""

    def __init__(self, meeting_id: str) -> None:
        super().__init__("Meeting not found or not in progress")
        self.meeting_id = meeting_id


class VersionMissing(ShimError, LookupError):
    """No package has this digest now: never had, or the file behind it is another by now."""

    def __init__(self, digest: str) -> None:
        super().__init__("No package has this digest now")
        self.digest = digest


class PackageMissing(ShimError, LookupError):
    """There is no file at `path`."""

    def __init__(self, path: str) -> None:
        super().__init__("Meeting package not found")
        self.path = path


class PackageUnreadable(ShimError):
    """The package at `path` is there but cannot be read or cut into pieces.

    `reason` names no path: whoever asks is told it. `said` is set once it stands in the log.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"The meeting's package cannot be read: {reason}")
        self.path = path
        self.reason = reason
        self.said = False


class PackageChanging(ShimError):
    """Not now: the package at `path` kept changing while it was being read."""

    def __init__(self, path: str) -> None:
        super().__init__("The meeting's package is being replaced; try again")
        self.path = path


class PackageReplaced(ShimError):
    """The file at `path` is no longer the version it was opened as."""

    def __init__(self, path: str) -> None:
        super().__init__("The meeting's package was replaced")
        self.path = path


class NodeMissing(ShimError, LookupError):
    """No node of this id is known."""

    def __init__(self, node_id: str) -> None:
        super().__init__("Node not found")
        self.node_id = node_id


class RegistryFull(ShimError):
    """Not now: as many nodes, or as much about them, as the registry may hold."""

    def __init__(self) -> None:
        super().__init__("The registry of nodes is full")


class FieldEmpty(ShimError, ValueError):
    """A field that must say something is empty."""

    def __init__(self, field: str) -> None:
        super().__init__(f"{field} must not be empty")
        self.field = field


class MessageInvalid(ShimError, ValueError):
    """A body that is no JSON, or not the message this route takes.

    `field` is empty when no one field is to blame; `missing` says that it is not there.
    """

    def __init__(self, reason: str, field: str = "", *, missing: bool = False) -> None:
        super().__init__(reason)
        self.field = field
        self.missing = missing


class BodyTooLarge(ShimError):
    """A request body of more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes")
        self.limit = limit


class BodyTooSlow(ShimError):
    """A request body that did not arrive in time, or whose sender left."""

    def __init__(self) -> None:
        super().__init__("The body did not arrive in time")
