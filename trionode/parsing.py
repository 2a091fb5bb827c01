"""Parsers of settings, from a flag, environment variable or TOML value. Pure."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from master_shim.protocol import SCHEMES, is_address, own_address

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(NamedTuple):
    """A parser, which raises `ValueError` or `TypeError`, and a description of the allowed values."""

    parse: Callable[[object], object]
    allowed: str


def _url(value: object) -> str:
    """Return an http or https URL without a trailing slash."""
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    # `parts.port` raises ValueError for an invalid port.
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment or parts.port == 0:
        raise ValueError
    return text


def _address(value: object) -> str:
    """Return `host:port`, after `http://` or `https://` if that is given, in a form that is valid in a URL."""
    text = _text(value)
    scheme, found, rest = text.partition("://")
    if found:
        scheme = scheme.lower()
        if scheme not in SCHEMES:
            raise ValueError
        # With a scheme the port may be left out, as in any URL.
        text = own_address(scheme, rest.removesuffix("/"), None) or ""
    host, colon, port = text.rpartition(":")
    # `int` accepts more than a port may be (spaces, signs, underscores, digits of other scripts): rebuild the text.
    address = f"{host}:{int(port)}"
    # The shim's own check: it never redirects a tablet to an address that fails it.
    if not colon or not is_address(address):
        raise ValueError
    return f"{scheme}://{address}" if found else address


def _text(value: object) -> str:
    """Return a non-empty printable text."""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError
    return value.strip()


def parse_path(value: object) -> Path:
    """Return a path. Text is as Python decodes arguments and variables: by the encoding of the file system."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str):
        raise TypeError
    _text(os.fsencode(value).decode("utf-8", "replace"))
    return Path(value.strip())


_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)


def _node_id(value: object) -> str:
    """Return a node id of 1 to 128 safe characters."""
    if not _ID.fullmatch(text := _text(value)):
        raise ValueError
    return text


def whole_number(low: int, high: int, allowed: str) -> Kind:
    """Return the kind of whole numbers from `low` to `high`."""

    def parse(value: object) -> int:
        number = int(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not low <= number <= high:
            raise ValueError
        return number

    return Kind(parse, allowed)


def seconds(low: float, high: float) -> Kind:
    """Return the kind of seconds from `low` to `high`."""

    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise TypeError
        number = float(value)
        if not low <= number <= high:  # also refuses NaN
            raise ValueError
        return number

    return Kind(parse, f"seconds, from {low:g} to {high:g}")


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def _bytes(value: object) -> int:
    """Return a number of bytes; K, M, G and T are powers of 1024."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise TypeError
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise ValueError
    return int(float(match[1]) * _UNITS[match[2].upper()]) if match[2] else int(match[1])


LOWEST_RATE = 64 << 10
"""Lowest rate limit: a slower download is useless, and a smaller number usually lacks its unit (8 for 8M)."""


def _rate(value: object) -> int:
    """Return bytes per second: 0, or at least `LOWEST_RATE`."""
    if 0 < (rate := _bytes(value)) < LOWEST_RATE:
        raise ValueError
    return rate


def choice(*choices: str) -> Kind:
    """Return the kind of a choice of words, case-insensitive."""

    def parse(value: object) -> str:
        if (text := _text(value).lower()) not in choices:
            raise ValueError
        return text

    return Kind(parse, f"{', '.join(choices[:-1])} or {choices[-1]}")


def path(of: str) -> Kind:
    """Return the kind of a path; `of` describes it."""
    return Kind(parse_path, f"the path of {of}")


URL = Kind(_url, "an http or https URL such as http://192.168.1.10:8000")
ADDRESS = Kind(_address, "host:port as clients reach this node, such as 192.168.1.21:8001 or https://192.168.1.21:8001")
HOST = Kind(_text, "a host name or address to listen on")
PORT = whole_number(0, 65535, "a port, from 0 to 65535 (0: any free one)")
NODE_ID = Kind(_node_id, "1 to 128 letters, digits, '.', '_', ':' or '-'")
BYTES = Kind(_bytes, "bytes, or a number with K, M, G or T (1024 each); 0 for no limit")
SCRUB_RATE = Kind(_bytes, "bytes per second, or a number with K, M or G (1024 each); 0 to read nothing")
PROGRESS = Kind(_bytes, "bytes, or a number with K or M (1024 each)")
RATE = Kind(_rate, "bytes per second, at least 64K, or a number with K, M or G (1024 each); 0 for no limit")
