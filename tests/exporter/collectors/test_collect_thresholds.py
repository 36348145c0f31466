from __future__ import annotations

import psycopg
import pytest

from exporter.collectors.thresholds import ThresholdsCollector
from exporter.metrics.registry import Registry
from lobservatory.errors import SettingsError
from lobservatory.metrics.exposition import Format, Sample
from lobservatory.settings import Settings, load
from lobservatory.thresholds import THRESHOLDS
from store.alerts import ThresholdOverride


def samples(settings: Settings) -> list[Sample]:
    return list(ThresholdsCollector("home", settings.alert_thresholds()).render())


def values(collector):
    return {sample.labels[1:]: sample.value for sample in collector.render()}


@pytest.fixture
def load_file(tmp_path, monkeypatch):
    def loaded(text):
        path = tmp_path / "lobservatory.toml"
        path.write_text(text)
        monkeypatch.setenv("LOBS_CONFIG_FILE", str(path))
        return load({})

    return loaded


def test_every_threshold_is_exported_with_its_default():
    assert samples(Settings()) == sorted(
        (Sample("claw_alert_threshold", ("home", t.alert, t.severity, ""), t.default) for t in THRESHOLDS),
        key=lambda sample: sample.labels,
    )


def test_settings_override_single_thresholds(load_file):
    settings = load_file(
        "daily_cost_limit = 7\n[thresholds.HostDiskFull]\nwarning = 0.2\n"
        "[thresholds.RunawayAgent]\nwarning = 3\n[thresholds.RunawayAgent.agents.main]\nwarning = 9\n"
    )
    found = {sample.labels[1:]: sample.value for sample in samples(settings)}
    assert found["DailyCostHigh", "warning", ""] == 7
    assert found["HostDiskFull", "warning", ""] == 0.2
    assert found["HostDiskFull", "critical", ""] == 0.05
    assert found["RunawayAgent", "warning", ""] == 3
    assert found["RunawayAgent", "warning", "main"] == 9


def test_a_threshold_of_all_agents_has_an_empty_label():
    registry = Registry()
    registry.register("exporter", lambda: samples(Settings()))
    text = registry.render(Format.TEXT, prometheus=True)
    expected = 'claw_alert_threshold{agent="",alert="HostDiskFull",gateway="home",severity="critical"} 0.05\n'
    assert expected in text


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("[thresholds.HostDiskful]\nwarning = 0.2", "there is no threshold HostDiskful.warning"),
        ("[thresholds.HostDiskFull]\ninfo = 0.2", "there is no threshold HostDiskFull.info"),
        ("[thresholds.HostDiskFull]\nwarning = 20", r"HostDiskFull.warning = 20: must be a ratio from 0 to 1"),
        ("[thresholds.HostDiskFull]\nwarning = nan", r"HostDiskFull.warning = nan: must be a ratio from 0 to 1"),
        ("[thresholds.DailyCostHigh]\nwarning = 20", "LOBS_DAILY_COST_LIMIT"),
        ("[thresholds.HostDiskFull.agents.main]\nwarning = 0.2", "only these have values for single agents: Budget"),
        ("[thresholds.RunawayAgent.agents.main]\nwarning = -1", r"RunawayAgent.agents.main.warning = -1: must be from"),
        ("[thresholds.RunawayAgent.agent.main]\nwarning = 1", r"must be a number, or the table RunawayAgent.agents"),
    ],
)
def test_wrong_threshold_is_refused_in_one_line(load_file, table, says):
    with pytest.raises(SettingsError, match=says) as refused:
        load_file(table)
    assert "\n" not in str(refused.value)


@pytest.mark.req("P-5")
async def test_what_was_set_at_run_time_holds_and_is_kept_while_the_database_is_away():
    rows = [
        ThresholdOverride("HostMemoryLow", "warning", "home", "", 0.2),
        ThresholdOverride("HostMemoryLow", "warning", "", "", 0.1),
        ThresholdOverride("HostCpuSaturated", "warning", "elsewhere", "", 0.5),
        ThresholdOverride("RunawayAgent", "warning", "", "main", 50.0),
        ThresholdOverride("OfAnOlderVersion", "warning", "", "", 1.0),
        ThresholdOverride("HostDiskFull", "warning", "", "", 7.0),
    ]
    away = False

    async def ask():
        if away:
            raise psycopg.OperationalError("away")
        return rows

    collector = ThresholdsCollector("home", Settings().alert_thresholds(), ask)
    before = values(collector)
    assert before["HostMemoryLow", "warning", ""] == 0.05
    await collector.refresh()
    now = values(collector)
    assert now == before | {("HostMemoryLow", "warning", ""): 0.2, ("RunawayAgent", "warning", "main"): 50.0}
    away = True
    await collector.refresh()
    assert values(collector) == now
    away, rows = False, []
    await collector.refresh()
    assert values(collector) == before
