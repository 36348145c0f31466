"""Our Prometheus and Alertmanager as `make up` configures them, only faster, for tests of the whole chain."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from cli.up.monitoring import prepare_alertmanager, prepare_prometheus
from lobservatory.settings import Listen, Settings
from tests.servers import Alertmanager, Prometheus, alertmanager, prometheus, wait_for

WAITS = {"group_wait": "2s", "group_interval": "3s"}
RULE_SECONDS = 2  # instead of `for:`
ALL: tuple[str, ...] = ("every alert",)


def listen(address: str) -> Listen:
    """`host:port` or an URL of this machine."""
    return Listen.parse(address.removeprefix("http://"))


@contextmanager
def fast_alertmanager(directory: Path, slack_url: str, **settings: Any) -> Iterator[Alertmanager]:
    """Our Alertmanager with short waits; repeats are unchanged."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {"slack_webhook_url": slack_url, "data_dir": directory, **settings}
    config = prepare_alertmanager(directory / "config", Settings.model_validate(values), {})
    _edit(config, lambda document: _hasten(document["route"]))
    with alertmanager(
        directory, config, f"--web.external-url={values.get('alertmanager_url', 'http://am.example')}"
    ) as am:
        yield am


@contextmanager
def fast_prometheus(
    directory: Path,
    exporter: Listen,
    alerts: Alertmanager,
    gateway: str = "default",
    hasten: Collection[str] = ALL,
) -> Iterator[Prometheus]:
    """Our Prometheus, which scrapes and evaluates every second; the alerts in `hasten` are pending for 2 s only
    and end at once. With all of them hastened it has scraped the exporter once."""
    directory.mkdir(parents=True, exist_ok=True)
    settings = Settings.model_validate({"gateway_name": gateway, "data_dir": directory})
    addresses = {"exporter": exporter, "alertmanager": listen(alerts.url)}
    config = prepare_prometheus(directory / "config", settings, addresses)

    def interval(document: dict[str, Any]) -> None:
        document["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}

    rules = sorted((directory / "config" / "rules").glob("*.yml"))

    def shorten(skip: str) -> None:
        for path in rules:
            _edit(path, lambda document: _shorten(document, hasten, skip))

    _edit(config, interval)
    # Nothing is scraped until the targets are known, which takes Prometheus 3 five seconds: that is not ExporterDown.
    shorten(skip="ExporterDown")
    # What is sent before Alertmanager is discovered (5 s) comes again after this, not after a minute.
    with prometheus(directory, config, "--rules.alert.resend-delay=5s") as server:
        if hasten is ALL:
            wait_for(lambda: server.query('up{job="lobservatory"} == 1'), "the first scrape")
            shorten(skip="")
            server.reload()
        yield server


def _shorten(document: dict[str, Any], hasten: Collection[str], skip: str) -> None:
    for group in document["groups"]:
        for rule in group["rules"]:
            if "for" in rule and rule["alert"] != skip and (hasten is ALL or rule["alert"] in hasten):
                rule["for"] = f"{RULE_SECONDS}s"
                rule.pop("keep_firing_for", None)


def _hasten(route: dict[str, Any]) -> None:
    route.update(WAITS)
    for child in route.get("routes", []):
        _hasten(child)


def _edit(path: Path, change: Any) -> None:
    document = yaml.safe_load(path.read_text())
    change(document)
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
