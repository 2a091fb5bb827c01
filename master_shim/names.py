"""Names that come from outside (meeting ids, addresses, file names), checked and written safely. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv6Address
from urllib.parse import quote

from .protocol import MAX_MEETING_ID, is_meeting_id

_NAME = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9.])?)"
_HOST = re.compile(_NAME, re.ASCII)
_ADDRESS = re.compile(_NAME + r":([0-9]{1,5})", re.ASCII)
_TOKEN_SAFE = re.compile(r"[^A-Za-z0-9._ -]", re.ASCII)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def valid_meeting_id(text: str) -> bool:
    """Tell whether `text` can be a meeting's id, as `is_meeting_id` has it; cheap for one seen lately."""
    return len(text) <= MAX_MEETING_ID and _is_meeting_id(text)


_is_meeting_id = lru_cache(maxsize=4096)(is_meeting_id)


def valid_address(address: str) -> bool:
    """Tell whether `address` is a `host:port` that may go into a URL; no other is ever offered."""
    match = _ADDRESS.fullmatch(address)
    return match is not None and 0 < int(match.group(1)) < 65536 and _is_ipv6_or_name(address.rpartition(":")[0])


def _is_ipv6_or_name(host: str) -> bool:
    if not host.startswith("["):
        return True
    try:
        IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True


def own_address(scheme: str, host_header: str, server: tuple[str, int | None] | None) -> str | None:
    """Return the `host:port` under which a client reached us, or None when nothing trustworthy says.

    A Host header comes from the client, so it is believed only when it has the form of an address.
    """
    default_port = _DEFAULT_PORTS.get(scheme, 80)
    if valid_address(host_header):
        return host_header
    if _HOST.fullmatch(host_header) is not None and _is_ipv6_or_name(host_header):
        return f"{host_header}:{default_port}"
    if server is None or server[1] is None:  # a Unix socket has no port
        return None
    host = f"[{server[0]}]" if ":" in server[0] else server[0]
    address = f"{host}:{server[1]}"
    return address if valid_address(address) else None


def package_url(base: str, meeting_id: str) -> str:
    """Return where `base` (`http://host:port`, perhaps with a prefix) offers the meeting's package."""
    return f"{base}/api/v1/meetings/{quote(meeting_id, safe='')}/download-package"


def attachment(name: str) -> bytes:
    """Return the Content-Disposition value that names a file, in ASCII.

    RFC 6266: what plain `filename` cannot say safely is replaced by `_` there, and said in full by
    `filename*`.
    """
    plain = _TOKEN_SAFE.sub("_", name)
    if plain == name:
        return f'attachment; filename="{name}"'.encode()
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}".encode()
