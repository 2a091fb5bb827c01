"""Who asked for what, according to trusted proxies."""

from __future__ import annotations

import pytest

from master_shim.protocol.forwarded import LOOPBACK, ProxiesInvalid, TrustedProxies

PROXIES = TrustedProxies("127.0.0.1, 10.0.0.0/8, ::1, 2001:db8::/32")


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ("127.0.0.1", "http", "m:80")),
        ({"x-forwarded-proto": "https"}, ("127.0.0.1", "https", "m:80")),
        ({"x-forwarded-proto": " HTTPS "}, ("127.0.0.1", "https", "m:80")),
        ({"x-forwarded-proto": "gopher"}, ("127.0.0.1", "http", "m:80")),
        ({"x-forwarded-host": "x"}, ("127.0.0.1", "http", "x")),
        ({"x-forwarded-for": "192.0.2.7"}, ("192.0.2.7", "http", "m:80")),
        # What is left of the first address that is not a proxy was written by the client.
        ({"x-forwarded-for": "198.51.100.1, 192.0.2.7, 10.0.0.2"}, ("192.0.2.7", "http", "m:80")),
        ({"x-forwarded-for": "10.0.0.3,10.0.0.2"}, ("10.0.0.3", "http", "m:80")),
        ({"x-forwarded-for": "192.0.2.7:1234"}, ("192.0.2.7", "http", "m:80")),
        ({"x-forwarded-for": "[fd00::1]:1234"}, ("fd00::1", "http", "m:80")),
        ({"x-forwarded-for": "::ffff:192.0.2.7, ::ffff:10.0.0.2"}, ("192.0.2.7", "http", "m:80")),
        ({"x-forwarded-for": "192.0.2.7, unknown"}, (None, "http", "m:80")),
        ({"x-forwarded-for": "9" * 5000}, (None, "http", "m:80")),
        ({"x-forwarded-for": " , "}, ("127.0.0.1", "http", "m:80")),
        # A list has a value for each proxy; a proxy that replaces the field leaves one.
        (
            {"x-forwarded-for": "192.0.2.7, 10.0.0.2", "x-forwarded-proto": "https, http"},
            ("192.0.2.7", "https", "m:80"),
        ),
        ({"x-forwarded-for": "192.0.2.7, 10.0.0.2", "x-forwarded-proto": "https"}, ("192.0.2.7", "https", "m:80")),
        ({"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https, http"}, ("192.0.2.7", "http", "m:80")),
        ({"forwarded": "for=192.0.2.7;proto=https;host=x"}, ("192.0.2.7", "https", "x")),
        ({"forwarded": 'For="[fd00::1]:80" ; Proto="https"; host="x:8443";by=_a'}, ("fd00::1", "https", "x:8443")),
        ({"forwarded": "for=6.6.6.6;proto=http, for=192.0.2.7;proto=https,,"}, ("192.0.2.7", "https", "m:80")),
        (
            {"forwarded": "for=192.0.2.7;proto=https;host=x, for=10.0.0.2;proto=http;host=y"},
            ("192.0.2.7", "https", "x"),
        ),
        ({"forwarded": "for=_hidden;proto=https"}, (None, "https", "m:80")),
        ({"forwarded": "proto=https"}, ("127.0.0.1", "https", "m:80")),
        ({"forwarded": "for=192.0.2.7", "x-forwarded-proto": "https"}, ("192.0.2.7", "https", "m:80")),
        ({"forwarded": 'for="192.0.2.7', "x-forwarded-for": "192.0.2.8"}, ("192.0.2.8", "http", "m:80")),
        ({"forwarded": "nonsense; for=192.0.2.7"}, ("127.0.0.1", "http", "m:80")),
        ({"forwarded": r'for=192.0.2.7;host="\x\""'}, ("192.0.2.7", "http", 'x"')),
    ],
)
def test_the_fields_of_a_trusted_proxy(fields: dict[str, str], wanted: tuple[str | None, str, str]) -> None:
    assert PROXIES.asked("127.0.0.1", "http", "m:80", fields) == wanted


@pytest.mark.parametrize("begin", ["", "for=", 'for="', "for", "for=1 ", ",", 'for="\\'])
@pytest.mark.parametrize("repeated", [" ", "-", "\\\\", "a=", ",", "; "])
def test_a_long_field_is_read_in_linear_time(begin: str, repeated: str) -> None:
    # In quadratic time this would take half an hour.
    field = f"{begin}{repeated * 300_000}\n"
    assert PROXIES.asked("127.0.0.1", "http", "m:80", {"forwarded": field}).host == "m:80"


@pytest.mark.parametrize(
    ("peer", "trusted"),
    [
        ("127.0.0.1", True),
        ("10.200.0.1", True),
        ("::ffff:10.0.0.1", True),
        ("2001:db8::7", True),
        (None, True),  # a Unix socket
        ("192.0.2.1", False),
        ("127.0.0.2", False),
        ("2001:db9::7", False),
        ("testclient", False),
        ("", False),
    ],
)
def test_which_proxies_are_trusted(peer: str | None, trusted: bool) -> None:
    fields = {"forwarded": "for=192.0.2.7;proto=https;host=x"}
    wanted = ("192.0.2.7", "https", "x") if trusted else (peer, "http", "m")
    assert PROXIES.asked(peer, "http", "m", fields) == wanted


def test_the_default_is_this_machine_and_none_are_trusted_without_any() -> None:
    assert [peer in TrustedProxies(LOOPBACK) for peer in ("127.3.2.1", "::1", "10.0.0.1")] == [True, True, False]
    assert None in TrustedProxies(LOOPBACK)
    assert [peer in TrustedProxies("") for peer in ("127.0.0.1", None)] == [False, False]


@pytest.mark.parametrize("proxies", ["proxy.lan", "10.0.0.0/33", ["10.0.0.1", "*"], "10.0.0.1 10.0.0.2"])
def test_other_names_are_refused(proxies: str | list[str]) -> None:
    with pytest.raises(ProxiesInvalid, match=r"trusted proxies: .*10\.0\.0\.0/8"):
        TrustedProxies(proxies)
