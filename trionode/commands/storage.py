"""What all storage commands share: opening the folder, knowing what a word means, and asking the node that runs.

A command works on the folder itself, beside a node: names appear and vanish by atomic renames and unlinks, opening
tidies up only what no lock holds, and the node looks at the folder every second and takes over what others did there
(`sync.folder`). Whoever may write the folder may run the commands; no key is needed and no port has to be known.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import msgspec
import structlog
from cyclopts import Parameter

from master_shim.protocol import UNREADABLE
from store import DiskStore, VersionMissing
from store.layout import Layout

from ..config import load_settings
from ..errors import STORAGE_SETTING, CommandFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from store import Digest, Ref

    from ..config import Settings

EXIT_OK = 0
EXIT_FAILED = 1
"""Something is wrong, or what was asked for was not done."""
EXIT_USAGE = 2
"""What was asked for cannot be understood, or there is nothing of the kind here."""
EXIT_REPAIRED = 4
"""`verify --repair` found damage, and none is left."""

SHORT = 12
"""Digits of a digest that are shown: enough to tell some millions of versions apart, and to type."""

FEWEST_DIGITS = 4
"""A shorter word is never taken for the beginning of a digest."""

ASK_SECONDS = 2.0
"""How long a node may take to say what it sends; without an answer a command goes on, and does not know."""

HTTP_OK = 200

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
StoragePath = Annotated[
    str | None, Parameter(name="--storage-path", help="The storage folder. [STORAGE_PATH, default ./storage]")
]
Config = Annotated[
    Path | None, Parameter(name="--config", help="TOML file with the node's settings. [TRIONODE_CONFIG]")
]


def settings_of(storage_path: str | None, config: Path | None, **flags: object) -> Settings:
    """Return the settings as `serve` would read them; log lines go to standard error. Raises `SettingError`."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
    return load_settings({"storage_path": storage_path, **flags}, config=config)


def open_storage(settings: Settings) -> DiskStore:
    """Open a storage folder that exists; a mistyped path must not become an empty one.

    Raises `CommandFailed`, and what `DiskStore.open` does.
    """
    path = settings.storage_path
    if not Layout(path).format.is_file():
        raise CommandFailed(
            f"{path.absolute()} is no storage folder of a node (it has no file named format); "
            f"which folder is meant is set by {STORAGE_SETTING}",
            EXIT_USAGE,
        )
    return DiskStore.open(path, max_bytes=settings.max_bytes, min_free_bytes=settings.min_free_bytes)


@dataclass(frozen=True, slots=True)
class Found:
    """What a word on the command line meant: a version, and the refs it was named by or that name it."""

    digest: Digest
    refs: tuple[Ref, ...]
    by_meeting: bool


def find(store: DiskStore, word: str) -> Found:
    """Return what `word` means: a meeting's id, else a digest or the beginning of one. Raises `CommandFailed`."""
    ref = store.ref(word)
    if ref is not None:
        return Found(ref.digest, (ref,), by_meeting=True)
    digest = find_version(store, word)
    return Found(digest, tuple(ref for ref in store.refs() if ref.digest == digest), by_meeting=False)


def find_version(store: DiskStore, word: str) -> Digest:
    """Return the version whose digest begins with `word`. Raises `CommandFailed`."""
    matches: list[Digest] = []
    if len(word) >= FEWEST_DIGITS and re.fullmatch(r"[0-9a-f]+", word):
        matches = [version.digest for version in store.versions() if version.digest.startswith(word)]
    if len(matches) > 1:
        raise CommandFailed(f"{len(matches)} versions begin with {word}; give more digits", EXIT_USAGE)
    if not matches:
        raise CommandFailed(f"no meeting and no version {word!r} is stored here", EXIT_USAGE)
    return matches[0]


def size_of(store: DiskStore, digest: Digest) -> int:
    """Return a version's size in bytes. Raises `VersionMissing`."""
    for version in store.versions():
        if version.digest == digest:
            return version.size
    raise VersionMissing(digest)


class _Holder(msgspec.Struct):
    address: str
    node_id: str


def ask_node(settings: Settings) -> dict[str, Any] | None:
    """Return `/api/status` of the node that runs on this folder, or None when none answers.

    Its address is in `node.lock`; after a crash the address stays there and nothing listens at it, or another node
    does, whose id tells.
    """
    try:
        holder = msgspec.json.decode((settings.storage_path / "node.lock").read_bytes(), type=_Holder)
    except (OSError, *UNREADABLE):
        return None
    for address in dict.fromkeys((holder.address, f"127.0.0.1:{settings.port}")):
        try:
            answer = httpx.get(f"http://{address}/api/status", timeout=ASK_SECONDS, trust_env=False)
            report = answer.json() if answer.status_code == HTTP_OK else None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError):
            continue
        if isinstance(report, dict) and report.get("node_id") == holder.node_id:
            return report
    return None


def print_json(report: Mapping[str, object]) -> None:
    """Print a result for programs."""
    print(json.dumps(report, ensure_ascii=False, indent=2))


def complain(sentence: str) -> None:
    """Say on standard error what went wrong."""
    print(f"trionode: {sentence}", file=sys.stderr)
