"""The one file with thresholds: complete, right as it is, and refused with a clear line when it is wrong."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lobservatory.errors import SettingsError
from lobservatory.settings import Settings, load
from lobservatory.thresholds import THRESHOLDS, document, read
from tests.tools import REPOSITORY

SHIPPED = REPOSITORY / "alerts" / "thresholds.toml"


def given(tmp_path, text, **environment):
    path = tmp_path / "thresholds.toml"
    path.write_text(text)
    return load({"LOBS_THRESHOLDS_FILE": str(path), **environment})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Where no lobservatory.toml is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.req("S1-7")
def test_shipped_file_has_every_default_and_changes_nothing():
    tables = read(SHIPPED)
    assert {(alert, severity) for alert, table in tables.items() for severity in table} == {
        (one.alert, one.severity) for one in THRESHOLDS
    }
    loaded = load({"LOBS_THRESHOLDS_FILE": str(SHIPPED)})
    assert loaded.alert_thresholds() == Settings().alert_thresholds()


def test_every_line_that_is_commented_out_is_right_too(tmp_path):
    values = given(tmp_path, re.sub(r"^# (\[|\w+ = [\d.])", r"\1", document(), flags=re.MULTILINE)).alert_thresholds()
    assert {key[:2] for key in values if key[2] == "main"} == {
        (one.alert, one.severity) for one in THRESHOLDS if one.per_agent
    }


def test_own_values_and_those_of_agents_are_used(tmp_path):
    text = "[DailyCostHigh]\nwarning = 40\n[BudgetBurn]\ncritical = 200\n[BudgetBurn.agents.main]\ncritical = 50\n"
    values = given(tmp_path, text).alert_thresholds()
    assert values["DailyCostHigh", "warning", ""] == 40
    assert (values["BudgetBurn", "critical", ""], values["BudgetBurn", "critical", "main"]) == (200, 50)
    assert values["HostDiskFull", "warning", ""] == 0.1
    values = given(tmp_path, text, LOBS_DAILY_COST_LIMIT="7").alert_thresholds()
    assert values["DailyCostHigh", "warning", ""] == 7, "the environment wins"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[HostDiskFull]\nwarning = 15\n", r"HostDiskFull.warning = 15: must be a ratio from 0 to 1"),
        ("[HostDiskFull]\nwarning = nan\n", r"HostDiskFull.warning = nan: must be a ratio from 0 to 1"),
        ("[HostDiskFull]\nwarning = '15 %'\n", r"HostDiskFull.warning = '15 %': must be a number"),
        ("[HostDiskFull]\nwarning = true\n", r"HostDiskFull.warning = True: must be a number"),
        ("[HostDiscFull]\nwarning = 0.1\n", r"there is no threshold HostDiscFull.warning"),
        ("[HostDiskFull]\nurgent = 0.1\n", r"there is no threshold HostDiskFull.urgent"),
        ("[HostDiskFull.agents.main]\nwarning = 0.1\n", r"only these have values for single agents"),
        ("[RunawayAgent.agents]\nmain = 3\n", r"RunawayAgent.agents.main must be a table"),
        ("HostDiskFull = 0.1\n", r"HostDiskFull must be a table"),
        ("[HostDiskFull\n", r"not valid TOML"),
    ],
)
def test_wrong_file_is_refused_in_one_line(tmp_path, text, says):
    with pytest.raises(SettingsError, match=says) as refused:
        given(tmp_path, text)
    assert str(refused.value).startswith(f"LOBS_THRESHOLDS_FILE: {tmp_path / 'thresholds.toml'}: ")
    assert "\n" not in str(refused.value)


def test_both_places_at_once_are_refused(tmp_path):
    (tmp_path / "lobservatory.toml").write_text("[thresholds.HostDiskFull]\nwarning = 0.2\n")
    with pytest.raises(SettingsError, match="both set: keep one"):
        given(tmp_path, "[HostDiskFull]\nwarning = 0.3\n")


def test_program_says_it_without_a_stack_trace(tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", "-m", "exporter"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LOBS_THRESHOLDS_FILE": str(tmp_path / "none.toml")},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == f"lobservatory: LOBS_THRESHOLDS_FILE: there is no file {tmp_path}/none.toml"
