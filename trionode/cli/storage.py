"""Common parts of the storage commands: opening the folder, and resolving a meeting or version given as an argument.

A command works on the folder itself, even while a node runs: files are created and removed by atomic renames and
unlinks, opening removes only leftovers that are not locked, and the node checks the folder for changes every second
(`upkeep.folder_watch`). The commands require write access to the folder, nothing else.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from store import Store, VersionMissing
from store.layout import Layout

from ..errors import STORAGE_SETTING, CommandFailed
from ..settings import load_settings
from . import exits
from .node_client import node_of

if TYPE_CHECKING:
    from store import Digest, Ref

    from ..settings import Settings

SHORT = 12
"""Digits of a digest in output: enough to distinguish millions of versions."""

MIN_DIGITS = 4
"""Minimum length of an argument that is the beginning of a digest."""

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
StoragePath = Annotated[
    str | None, Parameter(name="--storage-path", help="The storage folder. [STORAGE_PATH, default ./storage]")
]
Config = Annotated[
    Path | None, Parameter(name="--config", help="TOML file with the node's settings. [TRIONODE_CONFIG]")
]


def settings_of(storage_path: str | None, config: Path | None, **flags: object) -> Settings:
    """Return the settings as `serve` would load them. Raises `SettingError`."""
    return load_settings({"storage_path": storage_path, **flags}, config=config)


def open_storage(settings: Settings) -> Store:
    """Open an existing storage folder; a mistyped path must not create an empty one.

    Raises `CommandFailed`, and what `Store.open` does.
    """
    path = settings.storage_path
    if not Layout(path).format.is_file():
        raise CommandFailed(
            f"{path.absolute()} is not the storage folder of a node (it has no file named format); "
            f"set the folder with {STORAGE_SETTING}",
            exits.USAGE,
        )
    return _open(settings)


def create_storage(settings: Settings) -> Store:
    """Open a storage folder, or create it, for a package that is stored before the node was ever started.

    Raises `CommandFailed`, `PermissionError`, `StoreError`.
    """
    try:
        return _open(settings)
    except PermissionError:
        raise
    except OSError as error:
        raise CommandFailed(f"{settings.storage_path} cannot be used as storage: {error}", exits.USAGE) from error


def _open(settings: Settings) -> Store:
    path = settings.storage_path
    return Store.open(path, max_bytes=settings.max_bytes, min_free_bytes=settings.min_free_bytes)


@dataclass(frozen=True, slots=True)
class ResolvedVersion:
    """The version that an argument names, and its refs."""

    digest: Digest
    refs: tuple[Ref, ...]
    by_meeting: bool


def find(store: Store, word: str) -> ResolvedVersion:
    """Resolve `word`: the id of a meeting, else a digest or the beginning of one. Raises `CommandFailed`."""
    ref = store.ref(word)
    if ref is not None:
        return ResolvedVersion(ref.digest, (ref,), by_meeting=True)
    digest = find_version(store, word)
    return ResolvedVersion(digest, tuple(ref for ref in store.refs() if ref.digest == digest), by_meeting=False)


def find_version(store: Store, word: str) -> Digest:
    """Return the version whose digest begins with `word`. Raises `CommandFailed`."""
    matches: list[Digest] = []
    if len(word) >= MIN_DIGITS and re.fullmatch(r"[0-9a-f]+", word):
        matches = [version.digest for version in store.versions() if version.digest.startswith(word)]
    if len(matches) > 1:
        raise CommandFailed(f"{len(matches)} versions begin with {word}; give more digits", exits.USAGE)
    if not matches:
        raise CommandFailed(f"no meeting and no version {word!r} is stored here", exits.USAGE)
    return matches[0]


def size_of(store: Store, digest: Digest) -> int:
    """Return a version's size in bytes. Raises `VersionMissing`."""
    for version in store.versions():
        if version.digest == digest:
            return version.size
    raise VersionMissing(digest)


def ask_node(settings: Settings) -> dict[str, Any] | None:
    """Return `/api/status` of the node that runs on this folder; None if none answers."""
    try:
        with node_of(settings.storage_path) as node:
            return node.call("GET", "/api/status")
    except CommandFailed:
        return None


def complain(sentence: str) -> None:
    """Print a message to standard error."""
    print(f"trionode: {sentence}", file=sys.stderr)
