"""Settings in force: who is told of a reload, and what a reload may change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from trionode.errors import SettingError
from trionode.live_settings import LiveSettings
from trionode.settings import SPECS, Settings


class Source:
    """Where settings are read again; raises `error` in place of the settings if there is one."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.error: SettingError | None = None

    def read(self) -> Settings:
        if self.error is not None:
            raise self.error
        return self.settings


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def live(source: Source) -> LiveSettings:
    return LiveSettings(source.settings, source.read)


def test_a_subscriber_is_called_at_once_and_at_each_reload(source: Source, live: LiveSettings):
    seen: list[int] = []
    live.subscribe(lambda settings: seen.append(settings.max_downloads))
    assert seen == [0]
    for number in (3, 5):
        source.settings = replace(source.settings, max_downloads=number)
        live.reload()
    assert seen == [0, 3, 5]


def test_every_subscriber_is_called_in_the_order_of_subscription(source: Source, live: LiveSettings):
    seen: list[tuple[str, int]] = []
    for name in ("first", "second"):
        live.subscribe(lambda settings, name=name: seen.append((name, settings.port)))
    live.reload()
    assert [name for name, _ in seen] == ["first", "second", "first", "second"]


def test_a_subscription_ends_with_its_block(source: Source, live: LiveSettings):
    seen: list[str] = []
    with live.subscribed(lambda settings: seen.append("inside")):
        live.subscribe(lambda settings: seen.append("for good"))
        live.reload()
    assert seen == ["inside", "for good", "inside", "for good"]
    live.reload()
    assert seen[4:] == ["for good"]


def test_a_subscription_ends_with_its_block_when_that_raises(live: LiveSettings):
    seen: list[Settings] = []
    with pytest.raises(LookupError), live.subscribed(seen.append):
        raise LookupError
    live.reload()
    assert len(seen) == 1


OTHER = {
    "main_server": "http://192.168.1.10:8000",
    "node_address": "192.168.1.21:8001",
    "storage_path": Path("/srv/trionode"),
    "node_id": "n1",
    "host": "127.0.0.1",
    "log_level": "debug",
    "peers": "off",
    "ca_file": Path("/etc/ca.pem"),
    "unix_socket": Path("/run/trionode.sock"),
    "certfile": Path("/etc/cert.pem"),
    "keyfile": Path("/etc/key.pem"),
}
"""Another value of each setting that is no number."""


@pytest.mark.parametrize("name", SPECS)
def test_a_reload_changes_live_settings_only(source: Source, live: LiveSettings, name: str):
    before = live.current
    seen: list[Settings] = []
    live.subscribe(seen.append)
    value = OTHER[name] if name in OTHER else getattr(before, name) + 1
    source.settings = replace(before, **{name: value})
    reloaded = live.reload()
    if SPECS[name].live:
        assert (reloaded.changed, reloaded.needs_restart) == ((name,), ())
        assert live.current == replace(before, **{name: value})
    else:
        assert (reloaded.changed, reloaded.needs_restart) == ((), (name,))
        assert live.current == before
    assert seen == [before, live.current]


def test_a_reload_reports_and_logs_every_difference(source: Source, live: LiveSettings):
    source.settings = replace(source.settings, port=9000, max_bytes=5, log_level="debug")
    with capture_logs() as lines:
        reloaded = live.reload()
    assert reloaded.changed == ("max_bytes", "log_level")
    assert reloaded.needs_restart == ("port",)
    assert [(line["event"], line["setting"], line["before"], line["now"]) for line in lines] == [
        ("setting differs and needs a restart", "port", 8001, 9000),
        ("setting changed", "max_bytes", 0, 5),
        ("setting changed", "log_level", "info", "debug"),
    ]


def test_a_setting_that_needs_a_restart_is_reported_at_each_reload(source: Source, live: LiveSettings):
    source.settings = replace(source.settings, port=9000)
    assert live.reload().needs_restart == ("port",)
    assert live.reload().needs_restart == ("port",)


def test_a_wrong_setting_changes_nothing(source: Source, live: LiveSettings):
    before = live.current
    seen: list[Settings] = []
    live.subscribe(seen.append)
    source.settings = replace(before, max_downloads=3)
    source.error = SettingError("port", "eighty", "a port", "flag --port")
    with pytest.raises(SettingError):
        live.reload()
    assert live.current == before
    assert seen == [before]
