"""Grafana's provisioning: what it names exists, whoever starts Grafana sets all it reads, and it holds no secret."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

from cli.up.foreign import bundled_plugins
from dashboards import config
from tests.dashboards.grafana_macros import SCRAPE_INTERVAL, boards

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "provisioning" / "grafana"
DATASOURCES = GRAFANA / "datasources" / "lobservatory.yaml"
FILES = sorted(path for path in GRAFANA.rglob("*") if path.suffix in {".yaml", ".ini"})


def variables_read():
    """The variables that Grafana expands; comments do not count."""
    found = set()
    for path in FILES:
        lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
        found |= set(re.findall(r"\$__env\{(\w+)\}", "\n".join(lines)))
    return found


@pytest.fixture
def datasources():
    return {item["uid"]: item for item in yaml.safe_load(DATASOURCES.read_text())["datasources"]}


def test_the_data_sources_are_those_that_the_boards_default_to(datasources):
    assert {uid: item["type"] for uid, item in datasources.items()} == {
        config.PROMETHEUS_UID: config.PROMETHEUS_TYPE,
        config.POSTGRES_UID: config.POSTGRES_TYPE,
    }
    for board in boards().values():
        current = {item["name"]: item["current"] for item in board["templating"]["list"][:2]}
        assert current[config.PROMETHEUS_VARIABLE]["value"] == config.PROMETHEUS_UID
        assert current[config.PROMETHEUS_VARIABLE]["text"] == datasources[config.PROMETHEUS_UID]["name"]
        assert current[config.POSTGRES_VARIABLE]["value"] == config.POSTGRES_UID
        assert current[config.POSTGRES_VARIABLE]["text"] == datasources[config.POSTGRES_UID]["name"]


def test_postgresql_is_read_as_the_reader_only(datasources):
    assert datasources[config.POSTGRES_UID]["user"] == "lobs_reader"
    assert datasources[config.POSTGRES_UID]["jsonData"]["timescaledb"] is False


def test_the_scrape_interval_is_the_one_of_prometheus(datasources):
    prometheus = yaml.safe_load((ROOT / "provisioning" / "prometheus" / "prometheus.yml").read_text())
    interval = prometheus["global"]["scrape_interval"]
    assert datasources[config.PROMETHEUS_UID]["jsonData"]["timeInterval"] == interval == f"{SCRAPE_INTERVAL}s"
    assert config.JOB in {job["job_name"] for job in prometheus["scrape_configs"]}


def test_secrets_come_from_outside(datasources):
    password = datasources[config.POSTGRES_UID]["secureJsonData"]["password"]
    assert password == "$__env{LOBS_GRAFANA_POSTGRES_PASSWORD}"
    ini = configparser.RawConfigParser()
    ini.read(GRAFANA / "grafana.ini")
    assert ini["security"]["admin_password"] == "$__env{LOBS_GRAFANA_ADMIN_PASSWORD}"
    assert not ini["auth.anonymous"].getboolean("enabled")
    assert not ini["analytics"].getboolean("reporting_enabled")


def test_the_contract_names_every_variable():
    text = DATASOURCES.read_text()
    contract = text[: text.index("apiVersion")]
    assert set(re.findall(r"LOBS_GRAFANA_[A-Z_]+", contract)) == variables_read()


def test_compose_and_make_up_set_every_variable():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    assert variables_read() <= set(compose["services"]["grafana"]["environment"])
    runner = (ROOT / "cli" / "up" / "foreign.py").read_text()
    assert {name for name in variables_read() if f"{name}=" not in runner} == set()


def test_the_home_board_and_the_folder_exist():
    ini = configparser.RawConfigParser()
    ini.read(GRAFANA / "grafana.ini")
    home = ini["dashboards"]["default_home_dashboard_path"].rpartition("/")[2]
    assert home.removesuffix(".json") in boards()
    provider = yaml.safe_load((GRAFANA / "dashboards" / "lobservatory.yaml").read_text())["providers"][0]
    assert provider["folder"] == config.FOLDER
    assert provider["folder"] not in {board["title"] for board in boards().values()}
    assert provider["options"]["path"] == "$__env{LOBS_GRAFANA_DASHBOARDS_DIR}"


def test_make_up_finds_the_data_sources_of_every_grafana(tmp_path):
    packaged = tmp_path / "packaged"
    home = tmp_path / "home"
    home.mkdir()
    assert bundled_plugins(home, packaged) == {"GF_PLUGINS_PREINSTALL_DISABLED": "false"}, "Grafana fetches them"
    packaged.mkdir()
    assert bundled_plugins(home, packaged) == {"GF_PATHS_BUNDLED_PLUGINS": str(packaged)}, "13.2 of a package"
    (home / "data" / "plugins-bundled").mkdir(parents=True)
    assert bundled_plugins(home, packaged) == {}, "13.2 of an archive or image"
    old = tmp_path / "old"
    (old / "public" / "app" / "plugins" / "datasource" / "prometheus").mkdir(parents=True)
    assert bundled_plugins(old, packaged) == {}, "before 13.2"


def test_grafana_does_not_replace_its_plugins_at_the_start():
    ini = configparser.RawConfigParser()
    ini.read(GRAFANA / "grafana.ini")
    assert ini["plugins"].getboolean("preinstall_disabled")
    assert not ini["plugins"].getboolean("preinstall_auto_update")
