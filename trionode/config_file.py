"""Reads a TOML file, and names the mistake in one that cannot be read: its encoding, or full-width characters."""

from __future__ import annotations

import codecs
import re
import tomllib
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class InvalidFile(Exception):
    """A file cannot be read as TOML. The message says what is needed instead."""


def read_toml(path: Path) -> dict[str, object]:
    """Return the table of a TOML file. Raises `InvalidFile`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InvalidFile("a TOML file that exists") from None
    except OSError as error:
        raise InvalidFile(f"a readable TOML file ({error})") from error
    try:
        return tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidFile(f"a TOML file in UTF-8; {_why_not_toml(data, error)}") from error


def _why_not_toml(data: bytes, error: ValueError) -> str:
    """Return a sentence about the mistake in a file that `tomllib` or the decoder refuses with `error`."""
    if data.startswith(codecs.BOM_UTF8):
        return "this one begins with a byte order mark (BOM): save it as UTF-8 without BOM"
    if _is_utf16(data):
        return "this one is UTF-16, which some editors call Unicode: save it as UTF-8"
    if b"\0" in data:
        return f"line {_line(data, data.index(0))} of this one has a NUL byte: the file is damaged, write it again"
    if isinstance(error, UnicodeDecodeError):
        line = _line(data, error.start)
        try:
            data.decode("gb18030")
        except UnicodeDecodeError:
            return f"line {line} of this one is in another encoding: save it as UTF-8"
        return f"line {line} of this one is in another encoding, probably GBK: save it as UTF-8"
    lines = data.decode().split("\n")
    place = re.search(r"at line (\d+), column (\d+)", str(error))
    line = int(place[1]) if place else len(lines)
    before = lines[line - 1][: int(place[2]) if place else None]
    # A correct string may contain any character.
    found = lookalike(re.sub(r'"[^"]*"|\'[^\']*\'', "", before), colon="=")
    found = found or _unquoted(lines[line - 1])
    return f"line {line} of this one has {found}" if found else f"this one is wrong: {error}"


def _unquoted(line: str) -> str:
    """Return how to write the text without quotes that a line has as its value; "" if it has none."""
    given = re.fullmatch(r"\s*([\w-]+)\s*=\s*([^\s\"'\[{#][^\"'#]*?)\s*(?:#.*)?", line)
    if given is None:
        return ""
    try:
        tomllib.loads(f"x = {given[2]}")
    except tomllib.TOMLDecodeError:
        quote = "'" if "\\" in given[2] else '"'
        return f"text without quotes: write {given[1]} = {quote}{given[2]}{quote}"
    return ""


_QUOTES = {**dict.fromkeys("\u201c\u201d\u201e\u201f", '"'), **dict.fromkeys("\u2018\u2019\u201a\u201b", "'")}


def lookalike(text: str, colon: str = ":") -> str:
    """Return what to write instead of the first full-width character or Chinese quote of `text`; "" without one."""
    for char in text:
        instead = _QUOTES.get(char) or unicodedata.normalize("NFKC", char)
        if not char.isascii() and len(instead) == 1 and instead.isascii():
            return f"{char!r} ({unicodedata.name(char)}): write {colon if instead == ':' else instead} instead"
    return ""


def _is_utf16(data: bytes) -> bool:
    """Return whether a file is UTF-16, with a byte order mark or without."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return True
    # Names of settings are ASCII, of which every second byte is then NUL. A damaged file has NUL bytes in a row.
    if data.count(0) * 4 < len(data):
        return False
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            if "\0" not in data.decode(encoding):
                return True
        except UnicodeDecodeError:
            continue
    return False


def _line(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1
