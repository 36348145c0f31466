"""The state directory is found as OpenClaw finds its own; its configuration is read without its secrets leaking."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

import pytest

from lobservatory.settings import Settings
from openclaw import state_dir
from openclaw.state_dir import (
    NotAStateDirError,
    StateDirMissingError,
    StateDirUnreadableError,
    gateway_token,
    gateway_url,
    load_config,
    parse_json5,
    resolve,
)


def make(path: Path) -> Path:
    (path / "agents").mkdir(parents=True)
    return path


def test_the_first_that_exists_wins(tmp_path):
    make(tmp_path / ".clawdbot")
    assert resolve(environment={}, home=tmp_path) == tmp_path / ".clawdbot"
    make(tmp_path / ".moltbot")
    assert resolve(environment={}, home=tmp_path) == tmp_path / ".moltbot"
    make(tmp_path / ".openclaw")
    assert resolve(environment={}, home=tmp_path) == tmp_path / ".openclaw"
    make(tmp_path / ".openclaw-work")
    assert resolve(environment={"OPENCLAW_PROFILE": "work"}, home=tmp_path) == tmp_path / ".openclaw-work"
    make(tmp_path / "named")
    environment = {"OPENCLAW_PROFILE": "work", "OPENCLAW_STATE_DIR": "~/named"}
    assert resolve(environment=environment, home=tmp_path) == tmp_path / "named"
    make(tmp_path / "explicit")
    assert resolve(tmp_path / "explicit", environment=environment, home=tmp_path) == tmp_path / "explicit"


def test_a_missing_directory_is_named_with_what_to_do(tmp_path):
    with pytest.raises(StateDirMissingError, match=r"\.openclaw does not exist; start OpenClaw once, or name"):
        resolve(environment={}, home=tmp_path)
    with pytest.raises(StateDirMissingError, match=r"OPENCLAW_STATE_DIR: .*/gone does not exist"):
        resolve(environment={"OPENCLAW_STATE_DIR": str(tmp_path / "gone")}, home=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StateDirMissingError, match="is not a directory"):
        resolve(tmp_path / "file")


def test_a_directory_of_something_else_is_refused_and_an_empty_one_is_not(tmp_path):
    assert resolve(tmp_path) == tmp_path
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(NotAStateDirError, match=r"holds neither agents/ nor openclaw\.json"):
        resolve(tmp_path)


def test_an_unreadable_directory_says_whose_permission_is_missing(tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(StateDirUnreadableError, match="Permission denied; run as the user of the gateway"):
        resolve(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, 2.50], "b": "//no comment, }"}',
        '{// a comment\n a: [1, 2.50,], /* another, } */ b: "//no comment, }",\n}',
        "{'a': [1, 2.50], b: '//no comment, }'}",
    ],
)
def test_hand_written_configuration_is_understood(text):
    assert parse_json5(text) == {"a": [1, Decimal("2.50")], "b": "//no comment, }"}


def test_broken_configuration_is_a_problem_and_not_an_end(tmp_path):
    (tmp_path / "openclaw.json").write_text("{ broken")
    config = load_config(tmp_path, environment={})
    assert config.problem is not None
    assert "not valid JSON" in config.problem
    assert config.port == state_dir.DEFAULT_PORT


def test_prices_profiles_port_and_token_are_read(tmp_path):
    (tmp_path / "openclaw.json").write_text(
        """{
        gateway: {port: 4711, auth: {token: "${MY_TOKEN}"}},
        models: {providers: {fake: {models: [
            {id: "one", cost: {input: 3, output: 15.5, cacheRead: 0.3, cacheWrite: -1}}, {id: "free"}]}}},
        auth: {profiles: {"anthropic:me": {mode: "oauth"}, "openai:key": {provider: "openai", mode: "api_key"},
                          "x:1": {provider: "both", mode: "api_key"}, "x:2": {provider: "both", mode: "token"}},
               order: {both: ["x:1", "x:2"]}},
        agents: {list: [{id: "main"}, {id: "helper"}]},
        }"""
    )
    environment = {"MY_TOKEN": "s3cret"}
    config = load_config(tmp_path, environment=environment)
    assert config.problem is None
    assert [(p.provider, p.model, p.input, p.output, p.cache_read, p.cache_write) for p in config.prices] == [
        ("fake", "one", Decimal(3), Decimal("15.5"), Decimal("0.3"), None)
    ]
    assert config.subscription_providers == {"anthropic"}
    assert config.agents == ("main", "helper")
    assert "s3cret" not in repr(config)
    settings = Settings()
    assert gateway_url(settings, config, environment={}) == "ws://127.0.0.1:4711"
    assert gateway_url(settings, config, environment={"OPENCLAW_GATEWAY_PORT": "99"}) == "ws://127.0.0.1:99"
    assert gateway_url(Settings(gateway_url="ws://other:1"), config, environment={}) == "ws://other:1"
    assert gateway_token(settings, config, environment={}).get_secret_value() == "s3cret"
    assert gateway_token(settings, config, environment={"OPENCLAW_GATEWAY_TOKEN": "env"}).get_secret_value() == "env"
    ours = Settings(gateway_token="ours")
    assert gateway_token(ours, config, environment={"OPENCLAW_GATEWAY_TOKEN": "env"}).get_secret_value() == "ours"
