from __future__ import annotations

import pytest

from store import (
    Digest,
    InvalidDigest,
)


@pytest.mark.parametrize("text", ["", "ab", "AB" * 32, "ab" * 33, "ab" * 32 + "\n", "٠" * 64, None, b"ab" * 32, 1])
def test_an_invalid_digest_is_refused(text):
    with pytest.raises(InvalidDigest):
        Digest(text)


def test_the_digest_of_bytes():
    assert Digest.of(b"") == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert isinstance(Digest.of(b""), Digest)
