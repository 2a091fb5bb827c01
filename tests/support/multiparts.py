"""Parse a multipart/byteranges body as a client does."""

from __future__ import annotations

import re


def parse_multipart(content_type: str, body: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Return each part's header fields (names in lower case) and bytes, by the grammar of RFC 2046.

    The length of a part is taken from its Content-Range; the boundary must follow there, and is not searched for.
    """
    match = re.fullmatch(r'multipart/byteranges; boundary="?([A-Za-z0-9-]{1,70})"?', content_type)
    assert match is not None, content_type
    dashes = b"--" + match[1].encode()
    parts = []
    assert body.startswith(dashes)
    at = len(dashes)
    while body[at : at + 2] != b"--":
        head, blank, _ = body[at:].partition(b"\r\n\r\n")
        assert head.startswith(b"\r\n")
        lines = head.decode("ascii").split("\r\n")[1:]
        fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        span = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", fields["content-range"])
        assert span is not None
        begin = at + len(head) + len(blank)
        end = begin + int(span[2]) - int(span[1]) + 1
        parts.append((fields, body[begin:end]))
        assert body[end : end + 2 + len(dashes)] == b"\r\n" + dashes
        at = end + 2 + len(dashes)
    assert body[at:] == b"--\r\n"
    return parts
