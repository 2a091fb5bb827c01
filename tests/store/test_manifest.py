from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import (
    Chunk,
    Digest,
    InvalidManifest,
    Literal,
    Manifest,
)
from store.manifest import MAX_CHUNK_BYTES, MAX_MANIFEST_BYTES

D = Digest("ab" * 32)


digests = st.binary(min_size=32, max_size=32).map(lambda raw: Digest(raw.hex()))


@st.composite
def manifests(draw) -> Manifest:
    pieces: list[Chunk | Literal] = []
    at = 0
    for wanted in draw(st.lists(st.one_of(st.integers(1, MAX_CHUNK_BYTES), st.binary(min_size=1)), min_size=1)):
        if isinstance(wanted, int):
            pieces.append(Chunk(at, wanted, draw(digests)))
        else:
            pieces.append(Literal(at, wanted))
        at += pieces[-1].size
    return Manifest(draw(digests), at, tuple(pieces))


@given(manifests())
def test_json_round_trips_and_is_canonical(manifest):
    text = manifest.to_json()
    again = Manifest.from_json(text)
    assert again == manifest
    assert again.to_json() == text
    assert again.chunks == tuple(piece for piece in manifest.pieces if isinstance(piece, Chunk))
    plain = json.loads(text)
    assert text == json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()
    assert Manifest.from_json(json.dumps(plain, indent=2).encode()) == manifest


def test_the_json_of_a_manifest():
    manifest = Manifest(D, 12, (Literal(0, b"PK"), Chunk(2, 10, D)))
    assert manifest.to_json() == b'{"digest":"%s","pieces":["UEs=",[10,"%s"]],"size":12,"version":1}' % (
        D.encode(),
        D.encode(),
    )


def wire(**changes) -> bytes:
    fields = {"digest": D, "pieces": [base64.b64encode(b"PK").decode(), [10, D]], "size": 12, "version": 1}
    return json.dumps({**fields, **changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"{",
        wire()[:-1],
        wire() + b"x",
        b"[" * 100_000,
        b'{"digest":' * 100_000,
        wire(more=1),
        wire(version=2),
        wire(version=True),
        wire(version="1"),
        wire(version=10**400),
        wire(size=11),
        wire(size=13),
        wire(size=12.0),
        wire(size="12"),
        wire(size=True, pieces=["UA=="]),
        wire(size=0, pieces=[]),
        wire(size=-1, pieces=[]),
        wire(size=10**400),
        wire(size=2**63),
        wire(digest="AB" * 32),
        wire(digest="ab" * 31),
        wire(digest=None),
        wire(digest=D + "\n"),
        wire(pieces=None),
        wire(pieces=[]),
        wire(pieces=["UEs=", [10, D], ""]),
        wire(pieces=["UEs", [10, D]]),
        wire(pieces=["!!!!", [10, D]]),
        wire(pieces=["UEs=", [10, "x"]]),
        wire(pieces=["UEs=", [10]]),
        wire(pieces=["UEs=", [10, D, 1]]),
        wire(pieces=["UEs=", [10.0, D]]),
        wire(pieces=["UEs=", [True, D], [9, D]]),
        wire(pieces=["UEs=", [0, D], [10, D]]),
        wire(pieces=["UEs=", [-1, D], [11, D]]),
        wire(pieces=["UEs=", [10**30, D]]),
        wire(pieces=[[MAX_CHUNK_BYTES + 1, D]], size=MAX_CHUNK_BYTES + 1),
        wire(pieces=["UEs=", {"size": 10}]),
        wire(pieces=["UEs=", None]),
        wire(pieces=[["UEs=", [10, D]]]),
    ],
)
def test_invalid_json_is_refused_with_a_reason(data):
    with pytest.raises(InvalidManifest) as caught:
        Manifest.from_json(data)
    assert str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_manifest_too_long_to_parse_is_not_parsed():
    with pytest.raises(InvalidManifest, match="longer"):
        Manifest.from_json(b" " * (MAX_MANIFEST_BYTES + 1))


@given(st.binary())
def test_random_bytes_are_refused(data):
    with pytest.raises(InvalidManifest):
        Manifest.from_json(data)


@pytest.mark.parametrize(
    "pieces",
    [(Chunk(1, 11, D),), (Chunk(0, 6, D), Chunk(5, 7, D)), (Chunk(0, 6, D), Chunk(7, 5, D)), (Chunk(0, 13, D),)],
)
def test_pieces_with_gaps_or_overlaps_are_refused(pieces):
    with pytest.raises(InvalidManifest):
        Manifest(D, 12, pieces)
