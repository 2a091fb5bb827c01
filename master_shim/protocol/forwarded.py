"""What a client asked for before a proxy passed its request on: Forwarded (RFC 7239) and X-Forwarded-*. Pure."""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from .names import SCHEMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LOOPBACK = ("127.0.0.0/8", "::1")
"""Proxies on this machine, the ones that are trusted by default."""

_MAX_ADDRESS_CHARS = 64
"""No IP address is longer: more is not kept in the cache."""
# One parameter of Forwarded, and the separator after it. All repeats are possessive: clients can send the field through
# a proxy, and 16 kB of spaces would otherwise take five seconds.
_PARAMETER = re.compile(r'[ \t]*+(?:([\w-]++)=(?:"((?:[^"\\]|\\.)*+)"|([^\s",;]*+)))?+[ \t]*+(?:([,;])|\Z)', re.ASCII)
_ADDRESS_AND_PORT = re.compile(r"\[([^\]]*)\](?::\w+)?|([\d.]+)(?::\w+)?", re.ASCII)


class ProxiesInvalid(ValueError):
    """A trusted proxy is neither an address nor a network."""


class Asked(NamedTuple):
    """Who asked, and for what. `client` is an IP address, None if unknown; `host` is "" if none was given."""

    client: str | None
    scheme: str
    host: str


class TrustedProxies:
    """The proxies whose fields are believed: addresses and networks, also as one string with commas between them.

    Raises `ProxiesInvalid`.
    """

    def __init__(self, proxies: str | Iterable[str]) -> None:
        names = proxies.split(",") if isinstance(proxies, str) else proxies
        try:
            self._networks = [ip_network(name.strip(), strict=False) for name in names if name.strip()]
        except ValueError as error:
            raise ProxiesInvalid(f"trusted proxies: {error}; allowed: such as 192.168.1.5 or 10.0.0.0/8") from error

    def __contains__(self, address: str | None) -> bool:
        """Tell whether `address` is one of them. None, the peer on a Unix socket, is on this machine like 127.0.0.1."""
        parsed = _parse_ip("127.0.0.1" if address is None else address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def asked(self, peer: str | None, scheme: str, host: str, fields: Mapping[str, str]) -> Asked:
        """Return who asked for what. `peer`, `scheme` and `host` are those of the connection to this server.

        Each proxy adds to the right of these fields, so the right-most address that is not a trusted proxy is the
        client's. What is left of it was written by the client, and is ignored.
        """
        if peer not in self:
            return Asked(peer, scheme, host)
        elements = _parse_forwarded(fields.get("forwarded", ""))
        addresses = [element.get("for", "") for element in elements] or _split(fields.get("x-forwarded-for"))
        hops = self._hops(addresses)
        chosen = elements[-hops] if elements else {}
        client = addresses[-hops] if addresses else ""
        proto = (chosen.get("proto") or _of_hop(fields.get("x-forwarded-proto"), hops)).lower()
        name = chosen.get("host") or _of_hop(fields.get("x-forwarded-host"), hops)
        return Asked(_address(client) if client else peer, proto if proto in SCHEMES else scheme, name or host)

    def _hops(self, addresses: list[str]) -> int:
        """Return the position of the client's address, counted from the right and from 1."""
        for hop, address in enumerate(reversed(addresses), 1):
            if (known := _address(address)) is None or known not in self:
                return hop
        return max(len(addresses), 1)


def _split(values: str | None) -> list[str]:
    return [value.strip() for value in (values or "").split(",") if value.strip()]


def _of_hop(values: str | None, hop: int) -> str:
    """Return the value of a hop, "" if none. Proxies that replace a field leave fewer values than there are hops."""
    parts = _split(values)
    return parts[-min(hop, len(parts))] if parts else ""


def _parse_forwarded(text: str) -> list[dict[str, str]]:
    """Return the elements of a Forwarded field, with parameter names in lower case; [] if it cannot be parsed."""
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            return []
        name, quoted, plain, separator = match.groups()
        if name:
            elements[-1][name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        if separator == ",":
            elements.append({})
        position = match.end()
    return [element for element in elements if element]


def _address(text: str) -> str | None:
    """Return the IP address of a node name such as `[2001:db8::1]:80`; None for `unknown` and hidden names."""
    text = text[:_MAX_ADDRESS_CHARS]
    match = _ADDRESS_AND_PORT.fullmatch(text)
    parsed = _parse_ip((match[1] or match[2]) if match is not None else text)
    return None if parsed is None else str(parsed)


@lru_cache(maxsize=1024)
def _parse_ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(text)
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
