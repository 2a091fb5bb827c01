"""Settings: one table, read from flags, environment and a TOML file, in that order of strength.

Nothing is read when this module is imported; `load_settings` is called by whoever starts a node.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from master_shim.names import valid_address

from .errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONFIG_VARIABLE = "TRIONODE_CONFIG"
"""Names the TOML file when no `--config` flag does."""

LEGACY_VARIABLES = {
    "main_server": "MAIN_SERVER_URL",
    "node_address": "NODE_ADDRESS",
    "storage_path": "STORAGE_PATH",
    "sync_interval": "SYNC_INTERVAL",
    "node_id": "NODE_ID",
}
"""The deployed node's names; every other setting `x` is `TRIONODE_X`."""


SCRUB_BYTES_PER_SECOND = 8 << 20
"""What the scrub reads: a twentieth of what a slow disk gives, and still 50 GB in two hours, 700 GB in a day."""

QUEUE_SECONDS = 4.0
"""How long a download waits for a place: with the rest it has its headers, or a refusal, within 5 s."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set on a node. The deployed node's defaults, where it has the setting.

    Bytes are bytes, intervals seconds; 0 means "no limit" where a limit is meant.
    """

    main_server: str = "http://127.0.0.1:8000"
    node_address: str = "localhost:8001"
    storage_path: Path = Path("./storage")
    sync_interval: float = 300.0
    node_id: str = ""
    host: str = "0.0.0.0"
    port: int = 8001
    max_bytes: int = 0
    min_free_bytes: int = 0
    max_downloads: int = 0
    queue_seconds: float = QUEUE_SECONDS
    client_bytes_per_second: int = 0
    total_bytes_per_second: int = 0
    scrub_bytes_per_second: int = SCRUB_BYTES_PER_SECOND
    log_level: str = "info"
    workers: int = 1
    drain_seconds: float = 30.0
    max_connections: int = 0
    progress_seconds: float = 30.0
    progress_bytes: int = 64 << 10
    unix_socket: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None


LIVE = frozenset(
    {
        "client_bytes_per_second",
        "drain_seconds",
        "log_level",
        "max_bytes",
        "max_connections",
        "max_downloads",
        "min_free_bytes",
        "progress_bytes",
        "progress_seconds",
        "queue_seconds",
        "total_bytes_per_second",
    }
)
"""What `trionode reload` can change while the node runs; anything else needs a restart."""


def variable_of(setting: str) -> str:
    """Return the name of the environment variable of `setting`."""
    return LEGACY_VARIABLES.get(setting, f"TRIONODE_{setting.upper()}")


def flag_of(setting: str) -> str:
    """Return the command-line flag of `setting`."""
    return "--" + setting.replace("_", "-")


def load_settings(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """Read the settings: `flags` (None values are flags not given) over `environ` over the TOML file.

    Raises `SettingError`, which names the setting, the value, where it came from and what is allowed.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, tuple[object, str]] = {}
    if config is None and environ.get(CONFIG_VARIABLE):
        config = Path(environ[CONFIG_VARIABLE])
    if config is not None:
        found.update({name: (value, str(config)) for name, value in _read_toml(config).items()})
    for name in _PARSERS:
        variable = variable_of(name)
        # An empty variable is one that a unit file or a compose file left blank: it sets nothing.
        if environ.get(variable):
            found[name] = (environ[variable], f"environment variable {variable}")
        if flags is not None and flags.get(name) is not None:
            found[name] = (flags[name], f"flag {flag_of(name)}")
    settings = Settings(**{name: _parse(name, value, source) for name, (value, source) in found.items()})
    for name, other in (("certfile", "keyfile"), ("keyfile", "certfile")):
        if getattr(settings, name) is None and getattr(settings, other) is not None:
            raise SettingError(name, "", f"a file, since {other} is given: both, or neither", found[other][1])
    return settings


def _read_toml(path: Path) -> dict[str, object]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingError("config", path, "a TOML file that exists", "--config") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError("config", path, f"a readable TOML file ({error})", "--config") from error
    for name in table:
        if name not in _PARSERS:
            raise SettingError(name, table[name], "one of " + ", ".join(_PARSERS), str(path))
    return table


def _parse(name: str, value: object, source: str) -> Any:
    parser, allowed = _PARSERS[name]
    try:
        return parser(value)
    except (ValueError, TypeError):
        raise SettingError(name, value, allowed, source) from None


def _url(value: object) -> str:
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    # `parts.port` raises ValueError for a port that is none.
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        raise ValueError
    return text


def _address(value: object) -> str:
    host, colon, port = _text(value).rpartition(":")
    # `int` takes more than a port may be: spaces, signs, underscores, digits of other scripts.
    address = f"{host}:{int(port)}"
    # The shim's own check: an address that it does not take is never offered to a tablet.
    if not colon or not valid_address(address):
        raise ValueError
    return address


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError
    return value.strip()


def _path(value: object) -> Path:
    return Path(value if isinstance(value, Path) else _text(value))


_NODE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


def _node_id(value: object) -> str:
    if not _NODE_ID.fullmatch(text := _text(value)):
        raise ValueError
    return text


def _whole(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError
        return number

    return parse


def _seconds(low: float, high: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise TypeError
        number = float(value)
        if not low <= number <= high:  # also refuses NaN
            raise ValueError
        return number

    return parse


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _bytes(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError
    match = _BYTES.fullmatch(str(value).strip())
    if match is None:
        raise ValueError
    return int(float(match[1]) * _UNITS[match[2].upper()]) if match[2] else int(match[1])


LOWEST_RATE = 64 << 10
"""A slower download is none; and whoever writes 8 means 8M."""

RATES = "bytes per second, at least 64K, or a number with K, M or G (1024 each); 0 for no limit"


def _rate(value: object) -> int:
    if 0 < (rate := _bytes(value)) < LOWEST_RATE:
        raise ValueError
    return rate


def _choice(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if (text := _text(value).lower()) not in choices:
            raise ValueError
        return text

    return parse


_PARSERS: dict[str, tuple[Callable[[object], object], str]] = {
    "main_server": (_url, "an http or https URL such as http://192.168.1.10:8000"),
    "node_address": (_address, "host:port as clients reach this node, such as 192.168.1.21:8001"),
    "storage_path": (_path, "a folder's path"),
    "sync_interval": (_seconds(1, 86400), "seconds, from 1 to 86400"),
    "node_id": (_node_id, "1 to 128 letters, digits, '.', '_', ':' or '-'"),
    "host": (_text, "a host name or address to listen on"),
    "port": (_whole(0, 65535), "a port, from 0 to 65535 (0: any free one)"),
    "max_bytes": (_bytes, "bytes, or a number with K, M, G or T (1024 each); 0 for no limit"),
    "min_free_bytes": (_bytes, "bytes, or a number with K, M, G or T (1024 each); 0 for no limit"),
    "max_downloads": (_whole(0, 1_000_000), "a number of downloads at once, from 0 (no limit) to 1000000"),
    "queue_seconds": (_seconds(0, 60), "seconds, from 0 to 60"),
    "client_bytes_per_second": (_rate, RATES),
    "total_bytes_per_second": (_rate, RATES),
    "scrub_bytes_per_second": (_bytes, "bytes per second, or a number with K, M or G (1024 each); 0 to read nothing"),
    "log_level": (_choice("debug", "info", "warning", "error"), "debug, info, warning or error"),
    "workers": (_whole(1, 256), "a number of processes, from 1 to 256"),
    "drain_seconds": (_seconds(0, 86400), "seconds, from 0 to 86400"),
    "max_connections": (_whole(0, 1_000_000), "a number of connections at once, from 0 (as many as the system allows)"),
    "progress_seconds": (_seconds(1, 86400), "seconds, from 1 to 86400"),
    "progress_bytes": (_bytes, "bytes, or a number with K or M (1024 each)"),
    "unix_socket": (_path, "the path of a Unix socket to listen on"),
    "certfile": (_path, "the path of a file with a certificate and its chain (PEM)"),
    "keyfile": (_path, "the path of a file with the certificate's private key (PEM)"),
}
assert _PARSERS.keys() == {field.name for field in fields(Settings)}
