"""Wrong settings: every one, from the environment and from the file, is a sentence that a stranger can act on."""

import json
import re

import pytest

from lobservatory.errors import SettingsError
from lobservatory.settings import FILE_ONLY, SECRETS, Settings, load

RAW = ("Input should be", "validation error", "errors.pydantic.dev", "[type=", "Value error", "<class", "Traceback")
# For each kind of value some that are wrong for most settings; what a setting takes is no mistake.
TEXTS = (
    "",
    "maybe",
    "-1",
    "99999999",
    "nan",
    "inf",
    "12s",
    "a b",
    "::",
    "ws://[::1",
    "~nobody-of-that-name/x",
    "x" * 300,
)
TABLES: tuple[object, ...] = (
    -1,
    99_999_999_999,
    1.5,
    True,
    "",
    "maybe",
    "a\x00b",
    [],
    [1],
    ["x", 2],
    {"x": 1},
    {"x": {"y": {"z": [1]}}},
)
SETTINGS = sorted(Settings.model_fields)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where no lobservatory.toml is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("LOBS_CONFIG_FILE", raising=False)


def complaints(environment):
    try:
        load(environment)
    except SettingsError as error:
        return str(error)
    return ""


def written(value):
    """As TOML has it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value)


def check(said, name):
    """One line that names the setting, holds nothing of a library and says what would do."""
    assert "\n" not in said
    assert name in said
    assert not [raw for raw in RAW if raw in said], said
    assert len(said) < 500
    assert re.search(
        r"for example |one of |must be|there is no|is set with|begins with a user|shorter than|in quotes|lists all",
        said,
    ), said


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in FILE_ONLY])
def test_a_wrong_variable_is_one_sentence(name):
    variable = f"LOBS_{name.upper()}"
    said = [text for value in TEXTS if (text := complaints({variable: value}))]
    for one in said:
        check(one, variable)
        if name in SECRETS:
            assert not [value for value in TEXTS if len(value) > 2 and value in one], "a secret's value"
    assert said or name == "gateway_token", f"{variable} takes all of {TEXTS}"


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_value_in_the_file_is_one_sentence(tmp_path, name):
    path = tmp_path / "lobservatory.toml"
    wrong = 0
    for value in TABLES:
        path.write_text(f"{name} = {written(value)}\n", encoding="utf-8")
        if said := complaints({}):
            wrong += 1
            for line in said.splitlines():
                check(line, name)
                assert line.startswith("lobservatory.toml: "), line
    assert wrong >= 5, name


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in FILE_ONLY])
def test_the_example_of_a_complaint_is_taken(name):
    said = complaints({f"LOBS_{name.upper()}": "a b"}) or complaints({f"LOBS_{name.upper()}": "x" * 300})
    found = re.search(r", for example (\S+)$", said)
    if found is None:
        assert re.search("one of|shorter than|there is no file", said) or not said
        return
    assert complaints({f"LOBS_{name.upper()}": found[1]}) == ""


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("LOBS_API_LISTEN", "8787", "LOBS_API_LISTEN: '8787' is not host:port, for example 127.0.0.1:8787"),
        ("LOBS_GRAFANA_LISTEN", ":3000", "LOBS_GRAFANA_LISTEN: ':3000' is not host:port, for example 127.0.0.1:3000"),
        (
            "LOBS_API_LISTEN",
            "x:99999",
            "LOBS_API_LISTEN: 'x:99999' is not host:port with a port up to 65535, for example 127.0.0.1:8787",
        ),
        ("LOBS_COMMANDS", "maybe", "LOBS_COMMANDS: 'maybe' is not true or false, for example true"),
        ("LOBS_POLL_INTERVAL", "15s", "LOBS_POLL_INTERVAL: '15s' is not a number from 1 to 3600, for example 15"),
        ("LOBS_RUNS_PER_USER", "1.5", "LOBS_RUNS_PER_USER: '1.5' is not a whole number from 0 to 1000, for example 8"),
        ("LOBS_DAILY_COST_LIMIT", "0", "LOBS_DAILY_COST_LIMIT: '0' is not a number above 0, for example 25"),
        ("LOBS_LOG_LEVEL", "loud", "LOBS_LOG_LEVEL: 'loud' is not one of debug, info, warning, error"),
        (
            "LOBS_PROMETHEUS_URL",
            "prometheus:9090",
            "LOBS_PROMETHEUS_URL: 'prometheus:9090' is not an http(s) URL, for example http://127.0.0.1:9090",
        ),
        (
            "LOBS_GATEWAY_URL",
            "http://me:hunter2@host/?token=hunter3",
            "LOBS_GATEWAY_URL: 'http://…@host/?…' is not a WebSocket URL, for example ws://127.0.0.1:18789",
        ),
        (
            "LOBS_MIGRATE_URL",
            "mysql://me:hunter2@host/x",
            "LOBS_MIGRATE_URL: its value is not a PostgreSQL URL, for example postgresql://lobs_owner@127.0.0.1/lobservatory",
        ),
        ("LOBS_THRESHOLDS", "x", "LOBS_THRESHOLDS is no variable: write the table [thresholds] in lobservatory.toml"),
        (
            "LOBS_TRUSTED_PROXIES",
            "10.0.0.0/8,proxy",
            "LOBS_TRUSTED_PROXIES: 'proxy' is not an address or a network, for example 127.0.0.1,10.0.0.0/8",
        ),
    ],
)
def test_the_sentence_names_what_was_given_and_what_would_do(variable, value, says):
    assert complaints({variable: value}) == says


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("poll_interval = 0", "poll_interval: 0 is not a number from 1 to 3600, for example 15"),
        ('api_listen = "8787"', "api_listen: '8787' is not host:port, for example \"127.0.0.1:8787\""),
        ("gateway_token = 5", "gateway_token: its value is not text in quotes"),
        ("[billing]\nequivalent = 'x'", "billing.equivalent: 'x' is not a list of text, for example [\"claude-max\"]"),
        ("[billing]\nequivalnt = []", "unknown setting billing.equivalnt: did you mean equivalent?"),
        ("gatway_url = 'x'", "unknown setting gatway_url: did you mean gateway_url?"),
        ("LOBS_GATEWAY_URL = 'ws://x'", "unknown setting LOBS_GATEWAY_URL: did you mean gateway_url?"),
        ("fast = true", "unknown setting fast: docs/configuration.md lists all settings"),
        ("thresholds = 5", "thresholds: must be tables: write [thresholds.HostDiskFull] and below it warning = 0.2"),
        ("[thresholds.HostDiskFull]\nwarning = 'x'", "thresholds: HostDiskFull.warning = 'x': must be a number"),
    ],
)
def test_the_file_is_named_and_its_spelling_is_used(tmp_path, text, says):
    path = tmp_path / "lobservatory.toml"
    path.write_text(text, encoding="utf-8")
    assert complaints({}) == f"lobservatory.toml: {says}"


def test_an_empty_variable_of_a_file_is_not_set_either(tmp_path):
    given = {"LOBS_GATEWAY_TOKEN": "a-token", "LOBS_GATEWAY_TOKEN_FILE": ""}
    assert load(given).gateway_token.get_secret_value() == "a-token"
    (tmp_path / "token").write_text("b")
    with pytest.raises(SettingsError, match="LOBS_GATEWAY_TOKEN_FILE and LOBS_GATEWAY_TOKEN are both set: keep one"):
        load({**given, "LOBS_GATEWAY_TOKEN_FILE": str(tmp_path / "token")})


def test_a_value_from_another_file_names_that_file(tmp_path):
    (tmp_path / "url").write_text("mysql://x", encoding="utf-8")
    assert complaints({"LOBS_READER_URL_FILE": str(tmp_path / "url")}).startswith(
        "LOBS_READER_URL_FILE: its value is not"
    )
    (tmp_path / "thresholds.toml").write_text("[DailyCostHigh]\nwarning = 0\n", encoding="utf-8")
    said = complaints({"LOBS_THRESHOLDS_FILE": str(tmp_path / "thresholds.toml")})
    assert said == f"{tmp_path}/thresholds.toml: DailyCostHigh.warning: 0 is not a number above 0, for example 25"
