"""Untrusted names (meeting ids, addresses, titles, file names): validated, and encoded for URLs and headers. Pure."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv6Address
from urllib.parse import quote

MAX_MEETING_ID_CHARS = 128
"""Characters in a meeting id. The deployed system's are short; a longer one is hostile or a mistake."""
MAX_TITLE_CHARS = 512
"""Longer titles are cut: they are only displayed."""

_MEETING_ID = re.compile(rf"(?![. ])[\w.:@+=~ -]{{1,{MAX_MEETING_ID_CHARS}}}(?<![. ])")
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")
"""Control characters, line breaks, bidirectional controls and lone surrogates."""
_HOST_PATTERN = r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?)"
_HOST = re.compile(_HOST_PATTERN, re.ASCII)
_ADDRESS = re.compile(_HOST_PATTERN + r":([0-9]{1,5})", re.ASCII)
_NOT_FILENAME = re.compile(r"[^A-Za-z0-9._ -]", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}
SCHEMES = frozenset(_DEFAULT_PORTS)
"""The schemes by which a server can be reached."""


def is_meeting_id(text: str) -> bool:
    """Tell whether `text` is a valid meeting id. Check before any disk or network access.

    Valid: 1 to 128 letters and digits of any script and ``-_.:@+=~`` and spaces, no dot or space at either end, and
    unchanged by Unicode compatibility normalization (NFKC), so that no look-alike of a dot or slash becomes one later.
    """
    return _MEETING_ID.fullmatch(text) is not None and unicodedata.is_normalized("NFKC", text)


def one_line(text: str, limit: int = MAX_TITLE_CHARS) -> str:
    """Return untrusted text as one line of at most `limit` characters, safe for a list, a log or a terminal.

    Control characters, line breaks and bidirectional controls are replaced by spaces.
    """
    return text[:limit] if text.isprintable() else _CONTROLS.sub(" ", text).strip()[:limit]


def is_address(text: str) -> bool:
    """Tell whether `text` is a `host:port` that may be put into a URL."""
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65536 and _is_ipv6_or_name(match[1])


def _is_ipv6_or_name(host: str) -> bool:
    if not host.startswith("["):
        return True
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True


def own_address(scheme: str, host_header: str, server: tuple[str, int | None] | None) -> str | None:
    """Return the `host:port` by which a client reached this server, or None if unknown.

    The Host header is used only if it is a valid address, since clients control it; else `server` from the ASGI scope.
    """
    if is_address(host_header):
        return host_header
    if _HOST.fullmatch(host_header) is not None and _is_ipv6_or_name(host_header):
        return f"{host_header}:{_DEFAULT_PORTS.get(scheme, 80)}"
    if server is None or server[1] is None:  # a Unix socket has no port
        return None
    host = f"[{server[0]}]" if ":" in server[0] else server[0]
    address = f"{host}:{server[1]}"
    return address if is_address(address) else None


def package_url(base: str, meeting_id: str) -> str:
    """Return the URL of a meeting's package at `base` (`http://host:port`, optionally with a path prefix)."""
    return f"{base}/api/v1/meetings/{quote(meeting_id, safe='')}/download-package"


def attachment(name: str) -> bytes:
    """Return a Content-Disposition value that names a file, in ASCII (RFC 6266).

    Characters that are unsafe in `filename` are replaced by `_` there, and `filename*` has the full name.
    """
    plain = _NOT_FILENAME.sub("_", name)
    if plain == name:
        return f'attachment; filename="{name}"'.encode()
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}".encode()
