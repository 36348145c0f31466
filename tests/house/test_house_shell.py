"""Tests do not depend on the shell that they are started from."""

import json
import os
import subprocess
import sys
from pathlib import Path

from lobservatory import settings

ROOT = Path(__file__).resolve().parents[2]
LOOK = """
import json, os
from tests import conftest
from lobservatory import settings
gateway, proxies = settings.load().gateway_name, os.environ["no_proxy"]
print(json.dumps({"variables": sorted(os.environ), "gateway": gateway, "proxies": proxies}))
"""
OF_AN_INSTALLATION = {
    "LOBS_GATEWAY_NAME": "home",
    "LOBS_NO_SETTING": "1",
    "LOBS_DATABASE_URL": "postgresql://lobs_writer:secret@127.0.0.1:1/lobservatory",
    "OPENCLAW_STATE_DIR": "/nowhere",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
    "PGSERVICE": "warehouse",
    "COLUMNS": "40",
    "FORCE_COLOR": "1",
}


def test_what_the_shell_says_of_an_installation_is_forgotten_and_its_programs_are_not(tmp_path):
    (tmp_path / "lobservatory").mkdir()
    (tmp_path / "lobservatory/lobservatory.toml").write_text('gateway_name = "home"\nno_setting = 1\n')
    (tmp_path / "pip").mkdir()
    code = f"{LOOK}print(os.listdir(os.environ['XDG_CONFIG_HOME']))"
    kept = {"LOBS_PROMETHEUS_BIN": "/usr/bin/prometheus", "LOBS_TEST_DSN": "postgresql://127.0.0.1:1/postgres"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            **OF_AN_INSTALLATION,
            **kept,
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(tmp_path),
            "no_proxy": "intranet",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    told, folders = done.stdout.splitlines()
    found = json.loads(told)
    assert set(found["variables"]) & set(OF_AN_INSTALLATION) == set()
    assert set(kept) <= set(found["variables"])
    assert found["gateway"] == "default"
    assert found["proxies"] == "intranet,127.0.0.1,localhost,::1"
    assert folders == "['pip']"


def test_the_checkout_where_somebody_has_a_configuration_is_not_where_tests_run():
    assert not ROOT.samefile(Path.cwd())
    assert settings.config_file() is None
