"""Untrusted names (meeting ids, addresses, titles, file names): validated, and encoded for URLs and headers. Pure."""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv6Address
from urllib.parse import quote

MAX_MEETING_ID_BYTES = 255 - len("meeting_") - len("_pdfs.zip")
"""Longest meeting id in UTF-8. Clients save `meeting_<id>_pdfs.zip`, and a file name has at most 255 bytes on Linux."""
MAX_DECOMPOSED_CHARS = 4 * MAX_MEETING_ID_BYTES
"""A longer text is no meeting id in any form. Normalising takes time that grows with the square of the length."""
MAX_TITLE_CHARS = 512
"""Longer titles are cut: they are only displayed."""

_SLASHES = re.compile(r"[/\\\u2044\u2215\u2216\u29f5\u29f8]")
"""Slashes, and what old code pages replace by one."""
_PATH_LIKE = re.compile(r"\.|.*?(?:[/\\]|%[0-9A-Fa-f]{2})", re.DOTALL)
"""A leading dot, a slash, or what becomes another character when it is decoded a second time."""
_INVISIBLE_ALLOWED = str.maketrans(dict.fromkeys("\u00a0\u3000\u200c\u200d", "x"))
"""Wide and no-break spaces, and joiners, which names in Chinese, Persian and Indic scripts and emoji contain."""
_TOO_LONG = f"it is longer than {MAX_MEETING_ID_BYTES} bytes"
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
    """Tell whether `text` is a valid meeting id. Check before any disk or network access."""
    return not why_no_meeting_id(text)


def why_no_meeting_id(text: str) -> str:
    """Return why `text` is not a valid meeting id; "" if it is one.

    Valid: 1 to MAX_MEETING_ID_BYTES bytes of UTF-8 in the normal form NFC; visible characters and spaces; no slash or
    backslash, no `%` before two hexadecimal digits, no dot or space at either end. The compatibility form (NFKC) has no
    slash, `%XX` or leading dot either, so that no look-alike becomes one in a later layer.
    """
    if not text:
        return "it is empty"
    if len(text) > MAX_MEETING_ID_BYTES:
        return _TOO_LONG
    # Servers decode invalid UTF-8 to U+FFFD.
    if "\ufffd" in text or not (text.isprintable() or text.translate(_INVISIBLE_ALLOWED).isprintable()):
        return "it has control, invisible or unknown characters"
    if text[0] == "." or text[-1] == "." or text != text.strip():
        return "it begins or ends with a dot or a space"
    if _SLASHES.search(text) or _PATH_LIKE.match(text):
        return "it has a slash, a backslash, or % before two hexadecimal digits"
    if text.isascii():
        return ""
    if len(text.encode()) > MAX_MEETING_ID_BYTES:
        return _TOO_LONG
    if not unicodedata.is_normalized("NFC", text):
        return "it is not in the normal form NFC of Unicode"
    if _PATH_LIKE.match(unicodedata.normalize("NFKC", text)):
        return "it has a look-alike of a slash, a backslash, a leading dot or %"
    return ""


def meeting_id_of(text: str) -> str:
    """Return the meeting id that a part of a path stands for: in the form NFC. It may be invalid.

    Clients may decompose accents (NFD), as macOS does in names of files.
    """
    if text.isascii() or len(text) > MAX_DECOMPOSED_CHARS:
        return text
    return unicodedata.normalize("NFC", text)


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
