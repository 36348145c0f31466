from __future__ import annotations

import pytest

from exporter.collectors.thresholds import ThresholdsCollector
from exporter.exposition import Sample
from lobservatory.settings import Settings, SettingsError, load
from lobservatory.thresholds import THRESHOLDS


def samples(settings: Settings) -> list[Sample]:
    return list(ThresholdsCollector("home", settings.alert_thresholds()).render())


def test_every_threshold_is_exported_with_its_default():
    assert samples(Settings()) == sorted(
        (Sample("claw_alert_threshold", ("home", t.alert, t.severity), t.default) for t in THRESHOLDS),
        key=lambda sample: sample.labels,
    )


def test_settings_override_single_thresholds(tmp_path, monkeypatch):
    path = tmp_path / "lobservatory.toml"
    path.write_text("daily_cost_limit = 7\n[thresholds.HostDiskFull]\nwarning = 0.2\n")
    monkeypatch.setenv("LOBS_CONFIG_FILE", str(path))
    values = {sample.labels[1:]: sample.value for sample in samples(load({}))}
    assert values["DailyCostHigh", "warning"] == 7
    assert values["HostDiskFull", "warning"] == 0.2
    assert values["HostDiskFull", "critical"] == 0.05


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("[thresholds.HostDiskful]\nwarning = 0.2", "there is no threshold HostDiskful.warning"),
        ("[thresholds.HostDiskFull]\ninfo = 0.2", "there is no threshold HostDiskFull.info"),
        ("[thresholds.HostDiskFull]\nwarning = 20", r"HostDiskFull.warning = 20: must be from 0 to 1 ratio"),
        ("[thresholds.HostDiskFull]\nwarning = nan", r"HostDiskFull.warning = nan: must be from 0 to 1"),
        ("[thresholds.DailyCostHigh]\nwarning = 20", "LOBS_DAILY_COST_LIMIT"),
    ],
)
def test_wrong_threshold_is_refused_in_one_line(tmp_path, monkeypatch, table, says):
    path = tmp_path / "lobservatory.toml"
    path.write_text(table)
    monkeypatch.setenv("LOBS_CONFIG_FILE", str(path))
    with pytest.raises(SettingsError, match=says) as refused:
        load({})
    assert "\n" not in str(refused.value)
