"""The errors of the shim. Pure; `app.STATUS_OF` maps them to HTTP statuses."""

from __future__ import annotations

from typing import ClassVar


class ShimError(Exception):
    """Base of the errors. The text is the `detail` that clients read; `subject` is the id, digest or path at fault."""

    detail: ClassVar[str]

    def __init__(self, subject: str = "", detail: str = "") -> None:
        super().__init__(detail or self.detail)
        self.subject = subject


class FolderMissing(ShimError, NotADirectoryError):
    """The packages folder does not exist or is not a folder."""

    def __init__(self, folder: str) -> None:
        super().__init__(folder, f"the packages folder {folder} does not exist or is not a folder")


class FolderUnreadable(ShimError):
    """The packages folder could not be listed. Temporary."""

    detail = "The list of meetings cannot be read"

    def __init__(self, folder: str, reason: str) -> None:
        super().__init__(folder)
        self.reason = reason


class FolderInDoubt(ShimError):
    """The packages folder is empty or missing although it had packages a moment ago. Temporary.

    `subject` is the path of the requested meeting's package if the meeting was in progress.
    """

    detail = "The master's packages are not there at the moment; try again"


class RouteMissing(ShimError, LookupError):
    """There is no such route."""

    detail = "Not Found"


class MethodRefused(ShimError):
    """The route does not have this method. `subject` is the value of the Allow header."""

    detail = "Method Not Allowed"


class MeetingMissing(ShimError, LookupError):
    """No meeting in progress has this id, or the id is invalid."""

    detail = "Meeting not found or not in progress"


class VersionMissing(ShimError, LookupError):
    """No package has this digest now: it never had, or its file was replaced."""

    detail = "No package has this digest now"


class PackageMissing(ShimError, LookupError):
    """There is no file at this path."""

    detail = "Meeting package not found"


class PackageUnreadable(ShimError):
    """The file at this path exists but cannot be read or split. `reason` contains no path, since clients read it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, f"The meeting's package cannot be read: {reason}")
        self.reason = reason


class PackageChanging(ShimError):
    """The file at this path kept changing while it was read. Temporary."""

    detail = "The meeting's package is being replaced; try again"


class PackageReplaced(ShimError):
    """The file at this path is no longer the version it was opened as."""

    detail = "The meeting's package was replaced"


class NodeMissing(ShimError, LookupError):
    """No node has this id."""

    detail = "Node not found"


class RegistryFull(ShimError):
    """The registry's limit of nodes, or of what is kept about them, is reached. Temporary."""

    detail = "The registry of nodes is full"


class FieldEmpty(ShimError, ValueError):
    """A required field is empty."""

    def __init__(self, field: str) -> None:
        super().__init__(field, f"{field} must not be empty")


class MessageInvalid(ShimError, ValueError):
    """A body that is not JSON or not the expected message. `subject` is the field at fault or missing, if known."""

    def __init__(self, reason: str, field: str = "", *, missing: bool = False) -> None:
        super().__init__(field, reason)
        self.missing = missing


class BodyTooLarge(ShimError):
    """A request body of more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(detail=f"The body is larger than {limit} bytes")


class BodyTooSlow(ShimError):
    """A request body that did not arrive in time, or whose client disconnected."""

    detail = "The body did not arrive in time"
