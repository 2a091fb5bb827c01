"""Settings: the table, the precedence of their sources, and the errors for wrong values."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from tests.support.nodes import BIN
from trionode.errors import SettingError
from trionode.settings import SPECS, Settings, flag_of, load_settings, unknown_variables

CONTRACT = {
    "main_server": ("MAIN_SERVER_URL", "--main-server", "http://127.0.0.1:8000"),
    "node_address": ("NODE_ADDRESS", "--node-address", ""),
    "storage_path": ("STORAGE_PATH", "--storage-path", Path("./storage")),
    "sync_interval": ("SYNC_INTERVAL", "--sync-interval", 300.0),
    "node_id": ("NODE_ID", "--node-id", ""),
    "host": ("TRIONODE_HOST", "--host", "0.0.0.0"),
    "port": ("TRIONODE_PORT", "--port", 8001),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_names_and_defaults_are_the_deployed_ones(name: str):
    variable, flag, default = CONTRACT[name]
    assert (SPECS[name].variable, flag_of(name), getattr(load_settings(environ={}), name)) == (variable, flag, default)


@pytest.mark.parametrize("name", SPECS)
def test_every_setting_has_a_help_text_and_accepts_its_own_default(name: str):
    spec = SPECS[name]
    default = getattr(Settings(), name)
    assert spec.help
    assert spec.allowed
    assert re.fullmatch("[A-Z][A-Z_]*", spec.variable)
    assert spec.variable in spec.describe()
    if spec.shown_default:
        assert spec.parse(spec.shown_default) == default
        assert f"default {spec.shown_default}]" in spec.describe()
    else:
        assert default in {"", None}
        assert "default" not in spec.describe()


def test_the_table_has_every_setting_once():
    assert [*SPECS] == [field.name for field in fields(Settings)]
    assert len({spec.variable for spec in SPECS.values()}) == len(SPECS)


def test_the_flags_of_serve_are_those_of_the_table():
    shown = subprocess.run(
        [BIN / "trionode", "serve", "--help"], capture_output=True, text=True, check=True, env={"COLUMNS": "1000"}
    ).stdout
    rows = dict(re.findall(r"(?m)^\W*(--\S+) +[A-Z]+ +(.*?)[\s│]*$", shown))
    assert rows.keys() == {*map(flag_of, SPECS), "--config"}
    for name, spec in SPECS.items():
        assert rows[flag_of(name)] == spec.describe()


def test_a_flag_takes_precedence_over_the_environment_and_that_over_the_file(tmp_path: Path):
    file = tmp_path / "node.toml"
    file.write_text('port = 1\nsync_interval = 2\nmax_bytes = "3K"\n')
    environ = {"TRIONODE_CONFIG": str(file), "TRIONODE_PORT": "4", "SYNC_INTERVAL": "5"}
    settings = load_settings({"port": "6", "host": None}, environ)
    assert (settings.port, settings.sync_interval, settings.max_bytes, settings.host) == (6, 5.0, 3072, "0.0.0.0")


def test_an_empty_variable_sets_nothing():
    assert load_settings(environ={"NODE_ADDRESS": "", "TRIONODE_CONFIG": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("main_server", "192.168.1.10:8000"),
        ("main_server", "ftp://master"),
        ("main_server", "http://master:99999"),
        ("main_server", "http://"),
        ("node_address", "just-a-host"),
        ("node_address", "host:0"),
        ("node_address", "host:70000"),
        ("node_address", "ftp://host:1"),
        ("node_address", "https://"),
        ("node_address", "https://host:1/path"),
        ("node_address", "https://user@host:1"),
        ("node_address", "//host:1"),
        ("node_address", "a b:1"),
        ("node_address", "[:::::::]:80"),
        ("node_address", "[1:2]:80"),
        ("node_address", "[1.2.3.4]:80"),
        ("node_address", "-:80"),
        ("node_address", "::1:80"),
        ("storage_path", ""),
        ("sync_interval", "soon"),
        ("sync_interval", "0"),
        ("sync_interval", "nan"),
        ("sync_interval", True),
        ("node_id", "../x"),
        ("port", "eighty"),
        ("port", "65536"),
        ("port", 1.5),
        ("port", True),
        ("max_bytes", "-1"),
        ("max_bytes", "1.5"),
        ("max_bytes", "10 apples"),
        ("max_downloads", "-1"),
        ("log_level", "loud"),
    ],
)
def test_a_wrong_value_names_setting_value_and_what_is_allowed(name: str, value: object):
    with pytest.raises(SettingError) as caught:
        load_settings({name: value}, {})
    error = caught.value
    assert (error.setting, error.value) == (name, value)
    assert name in str(error)
    assert error.allowed in str(error)
    assert flag_of(name) in str(error)


@pytest.mark.parametrize(
    ("given", "certificate", "scheme", "address"),
    [
        ("host:8001", False, "http", "host:8001"),
        ("host:8001", True, "https", "host:8001"),
        ("http://host:8001", True, "http", "host:8001"),
        ("HTTPS://host:8443/", False, "https", "host:8443"),
        ("https://host", False, "https", "host:443"),
        ("http://[::1]", False, "http", "[::1]:80"),
    ],
)
def test_the_scheme_is_that_of_the_address_or_else_of_the_certificate(
    given: str, certificate: bool, scheme: str, address: str
):
    files = {"certfile": "cert.pem", "keyfile": "key.pem"} if certificate else {}
    settings = load_settings({"node_address": given, **files}, {})
    assert (settings.scheme, settings.address) == (scheme, address)


@pytest.mark.parametrize(
    ("content", "named"), [("portt = 1", "portt"), ("port = ", "config"), ('port = "x"', "port"), ("\xff", "config")]
)
def test_a_wrong_file_is_named(tmp_path: Path, content: str, named: str):
    file = tmp_path / "node.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(SettingError) as caught:
        load_settings(environ={}, config=file)
    assert caught.value.setting == named
    assert str(file) in str(caught.value)


def test_full_width_characters_in_a_value_are_named():
    with pytest.raises(SettingError, match=r"has '：' \(FULLWIDTH COLON\): write : instead"):
        load_settings(environ={"NODE_ADDRESS": "192.168.1.21：8001"})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("portt = 1", "did you mean 'port'?"),
        ("max-bytes = 1", "did you mean 'max_bytes'?"),
        ("MAIN_SERVER_URL = 1", "did you mean 'main_server'?"),
        ("TRIONODE_PORT = 1", "did you mean 'port'?"),
        ("[node]\nport = 1", "remove the line [node]"),
        ("zzzz = 1", "one of main_server, "),
    ],
)
def test_an_unknown_key_gets_a_suggestion(tmp_path: Path, content: str, sentence: str):
    file = tmp_path / "node.toml"
    file.write_text(content)
    with pytest.raises(SettingError) as caught:
        load_settings(environ={}, config=file)
    assert sentence in str(caught.value)


def test_the_source_of_a_file_is_named(tmp_path: Path):
    (tmp_path / "wrong.toml").write_text("port = ")
    for file in (tmp_path / "gone.toml", tmp_path / "wrong.toml", tmp_path):
        with pytest.raises(SettingError, match="from --config") as caught:
            load_settings(environ={"TRIONODE_CONFIG": "unused"}, config=file)
        assert caught.value.value == file
        with pytest.raises(SettingError, match="from environment variable TRIONODE_CONFIG") as caught:
            load_settings(environ={"TRIONODE_CONFIG": str(file)})
        assert caught.value.value == file


@pytest.mark.parametrize(
    ("variable", "similar"),
    [
        ("TRIONODE_MAX_BYTE", "TRIONODE_MAX_BYTES"),
        ("TRIONODE_MAIN_SERVER", "MAIN_SERVER_URL"),
        ("TRIONODE_MAIN_SERVER_URL", "MAIN_SERVER_URL"),
        ("TRIONODE_NODE_ADRESS", "NODE_ADDRESS"),
        ("TRIONODE_CONFIG_FILE", "TRIONODE_CONFIG"),
        ("trionode_port", "TRIONODE_PORT"),
        ("TRIONODE_ZZZZZZZZZZZZ", ""),
    ],
)
def test_a_variable_that_sets_nothing_gets_a_suggestion(variable: str, similar: str):
    given = {variable: "1", "TRIONODE_PORT": "1", "TRIONODE_CONFIG": "", "NODE_ADDRES": "1", "HOME": "/"}
    assert unknown_variables(given) == {variable: similar}


@pytest.mark.parametrize("command", [("trionode", "serve"), ("python", "-m", "trionode")])
def test_a_wrong_setting_ends_the_command_with_status_2(command: tuple[str, ...]):
    ended = subprocess.run(
        [BIN / command[0], *command[1:], "--port", "eighty"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert "'port'" in ended.stderr
    assert "eighty" in ended.stderr
    assert "0 to 65535" in ended.stderr
