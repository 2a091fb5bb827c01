"""Settings: one table, from which flags, environment variables, TOML keys, `--help` and the README's table are made.

Precedence: flag, environment variable, config file. Nothing is read when this module is imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config_file import InvalidFile, lookalike, read_toml
from .errors import SettingError
from .parsing import (
    ADDRESS,
    BYTES,
    HOST,
    NODE_ID,
    PORT,
    PROGRESS,
    RATE,
    SCRUB_RATE,
    URL,
    Kind,
    choice,
    parse_path,
    path,
    seconds,
    whole_number,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CONFIG_VARIABLE = "TRIONODE_CONFIG"
"""Environment variable with the path of the TOML file, if `--config` is not given."""


@dataclass(frozen=True, slots=True)
class Spec:
    """The metadata of one setting: parser, allowed values, default as a user writes it, help, environment variable.

    A `live` setting changes on a reload; the others need a restart.
    """

    parse: Callable[[object], object]
    allowed: str
    shown_default: str
    help: str
    live: bool
    variable: str

    def describe(self) -> str:
        """Return the help with the environment variable and the default."""
        default = f", default {self.shown_default}" if self.shown_default else ""
        return f"{self.help[0].upper()}{self.help[1:]}. [{self.variable}{default}]"


def _setting(
    default: str, kind: Kind, text: str, *, live: bool = False, variable: str = "", unset: object = None
) -> Any:
    """Return a field of `Settings`. `default` is in a user's notation; without one the value is `unset`."""
    spec = Spec(kind.parse, kind.allowed, default, text, live, variable)
    return field(default=kind.parse(default) if default else unset, metadata={"spec": spec})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a node, with the names and defaults of the deployed node where it has them.

    Sizes are bytes, intervals seconds; 0 means "no limit" where a limit is meant.
    """

    main_server: str = _setting("http://127.0.0.1:8000", URL, "URL of the master", variable="MAIN_SERVER_URL")
    node_address: str = _setting(
        "",
        ADDRESS,
        "host:port by which clients reach this node, https:// before it if a proxy or hypercorn has the certificate; "
        "if not given, the address from which it reaches the master and its port",
        variable="NODE_ADDRESS",
        unset="",
    )
    storage_path: Path = _setting("./storage", path("a folder"), "folder for the packages", variable="STORAGE_PATH")
    sync_interval: float = _setting(
        "300",
        seconds(1, 86400),
        "seconds between full checks; changes are detected within 3 s anyway",
        variable="SYNC_INTERVAL",
    )
    node_id: str = _setting(
        "",
        NODE_ID,
        "name of this node at the master; generated once and kept in the storage folder if not given",
        variable="NODE_ID",
        unset="",
    )
    host: str = _setting("0.0.0.0", HOST, "address to listen on, or a name: then all its addresses")
    port: int = _setting("8001", PORT, "port to listen on")
    max_bytes: int = _setting("0", BYTES, "size limit of the storage, such as 50G; 0: no limit", live=True)
    min_free_bytes: int = _setting("0", BYTES, "space to leave free on the disk, such as 2G", live=True)
    max_downloads: int = _setting(
        "0",
        whole_number(0, 1_000_000, "a number of downloads at once, from 0 (no limit) to 1000000"),
        "downloads at once; 0: no limit",
        live=True,
    )
    # A client then receives its headers, or a refusal, within 5 s.
    queue_seconds: float = _setting(
        "4",
        seconds(0, 20),
        "how long a download above max_downloads waits for a permit before it is refused",
        live=True,
    )
    client_bytes_per_second: int = _setting(
        "0", RATE, "rate limit of each client address, such as 10M; 0: no limit", live=True
    )
    total_bytes_per_second: int = _setting(
        "0", RATE, "rate limit of all downloads together, such as 100M; 0: no limit", live=True
    )
    sync_bytes_per_second: int = _setting(
        "0",
        RATE,
        "rate limit of what this node fetches from the master and other nodes, such as 50M; 0: no limit",
        live=True,
    )
    peers: str = _setting(
        "auto",
        choice("auto", "off"),
        "auto: fetch packages from other nodes too, and send them to other nodes; off: only from the master",
    )
    # A twentieth of a slow disk's rate; 50 GB in two hours, 700 GB in a day.
    scrub_bytes_per_second: int = _setting(
        "8M", SCRUB_RATE, "rate at which stored packages are read again to detect damage; 0: never"
    )
    log_level: str = _setting(
        "info", choice("debug", "info", "warning", "error"), "debug, info, warning or error", live=True
    )
    drain_seconds: float = _setting(
        "30", seconds(0, 86400), "how long active downloads may continue after a request to stop", live=True
    )
    max_connections: int = _setting(
        "0",
        whole_number(0, 1_000_000, "a number of connections at once, from 0 (as many as the system allows)"),
        "connections at once; 0: as many as the limit of open files allows",
        live=True,
    )
    progress_seconds: float = _setting(
        "30",
        seconds(1, 86400),
        "a client that takes less than progress_bytes in this time is disconnected",
        live=True,
    )
    progress_bytes: int = _setting("64K", PROGRESS, "see progress_seconds", live=True)
    ca_file: Path | None = _setting(
        "",
        path("a file with certificates of authorities (PEM)"),
        "certificates (PEM) to trust at an https master, besides those of the system",
    )
    unix_socket: Path | None = _setting(
        "", path("a Unix socket to listen on"), "listen on this Unix socket instead of host and port"
    )
    certfile: Path | None = _setting(
        "",
        path("a file with a certificate and its chain (PEM)"),
        "certificate and chain (PEM), for trionode serve: HTTPS and HTTP/2; requires keyfile",
    )
    keyfile: Path | None = _setting(
        "", path("a file with the certificate's private key (PEM)"), "private key of certfile (PEM)"
    )

    @property
    def address(self) -> str:
        """The `host:port` of `node_address`; "" if it is not given."""
        return self.node_address.rpartition("//")[2]

    @property
    def scheme(self) -> str:
        """The scheme by which clients reach this node: that of `node_address`, else https with a certificate."""
        scheme, found, _ = self.node_address.partition("://")
        if found:
            return scheme
        return "http" if self.certfile is None else "https"


def _variable(name: str, spec: Spec) -> str:
    # The deployed node's names; every other setting `x` is `TRIONODE_X`.
    return spec.variable or f"TRIONODE_{name.upper()}"


SPECS: Mapping[str, Spec] = {
    each.name: replace(each.metadata["spec"], variable=_variable(each.name, each.metadata["spec"]))
    for each in fields(Settings)
}
"""Every setting by its name, which is its TOML key."""


def flag_of(setting: str) -> str:
    """Return the command-line flag of a setting."""
    return "--" + setting.replace("_", "-")


def load_settings(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """Return the settings from `flags` (None: not given), `environ` and the TOML file, in this precedence.

    Raises `SettingError`, which names the setting, the value, where it came from and what is allowed.
    """
    environ = os.environ if environ is None else environ
    found: dict[str, tuple[object, str]] = {}
    if config is not None:
        found = _read_file(config, "--config")
    elif environ.get(CONFIG_VARIABLE):
        found = _read_file(Path(environ[CONFIG_VARIABLE]), f"environment variable {CONFIG_VARIABLE}")
    for name, spec in SPECS.items():
        # An empty variable, as in unit files and compose files, counts as not set.
        if environ.get(spec.variable):
            found[name] = (environ[spec.variable], f"environment variable {spec.variable}")
        if flags is not None and flags.get(name) is not None:
            found[name] = (flags[name], f"flag {flag_of(name)}")
    settings = Settings(**{name: _parse(name, value, source) for name, (value, source) in found.items()})
    for name, other in (("certfile", "keyfile"), ("keyfile", "certfile")):
        if getattr(settings, name) is None and getattr(settings, other) is not None:
            raise SettingError(name, "", f"a file, since {other} is given", found[other][1])
    return settings


def _read_file(path: Path, named_by: str) -> dict[str, tuple[object, str]]:
    """Return the settings of a TOML file with their source."""
    try:
        table = read_toml(path)
    except InvalidFile as error:
        raise SettingError("config", path, str(error), named_by) from error
    for name, value in table.items():
        if name not in SPECS:
            raise SettingError(name, value, _known_setting(name, value), str(path))
        if SPECS[name].parse is parse_path and isinstance(value, str):
            table[name] = os.fsdecode(value.encode())  # UTF-8 as in the file, whatever the locale
    return {name: (value, str(path)) for name, value in table.items()}


def _known_setting(name: str, value: object) -> str:
    """Return what is allowed instead of an unknown key: the setting of a similar name, or all settings."""
    if isinstance(value, dict):
        return f"settings without a table: remove the line [{name}]"
    # Also the names of flags and variables.
    names = {name: name for name in SPECS} | {spec.variable.lower(): name for name, spec in SPECS.items()}
    similar = _most_similar(name.lower().replace("-", "_"), names)
    return f"the name of a setting; did you mean {similar!r}?" if similar else "one of " + ", ".join(SPECS)


def peers_believed(settings: Settings) -> str:
    """Say which other nodes packages are fetched from."""
    return "any node of this project on the master's list" if settings.peers == "auto" else "none"


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables `TRIONODE_*` that set nothing, with the most similar one that does, or ""."""
    names = {CONFIG_VARIABLE: CONFIG_VARIABLE}
    for name, spec in SPECS.items():
        # The deployed node's names have no prefix.
        spellings = (spec.variable, f"TRIONODE_{spec.variable}", f"TRIONODE_{name.upper()}")
        names |= dict.fromkeys(spellings, spec.variable)
    known = {*names.values()}
    given = [name for name in environ if name.upper().startswith("TRIONODE_") and name not in known]
    return {name: _most_similar(name.upper(), names) for name in given}


def _most_similar(name: str, names: Mapping[str, str]) -> str:
    """Return the value of the key of `names` that is most similar to `name`; "" if none is."""
    import difflib

    similar = difflib.get_close_matches(name, names, 1)
    return names[similar[0]] if similar else ""


def _parse(name: str, value: object, source: str) -> Any:
    spec = SPECS[name]
    try:
        return spec.parse(value)
    except (ValueError, TypeError):
        found = lookalike(value) if isinstance(value, str) else ""
        allowed = f"{spec.allowed}; the value has {found}" if found else spec.allowed
        raise SettingError(name, value, allowed, source) from None
