"""What a Prometheus or an Alertmanager that `up` did not start does of what ours would, read from its own API."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from cli.up import parts
from lobservatory.settings import Part, Settings

HOW = "docs/operation.md#servers-of-your-own"
HISTORY = "the receiver that keeps our history"
RULES = "our alert rules"
_JOB = "the scrape job lobservatory"
_WATCHDOG = "Watchdog"  # a rule of ours that others may have too; without one of this name none of ours is there
_WEBHOOK = "/api/webhooks/alertmanager"


def lacking(part: Part, url: str) -> list[str]:
    """What it lacks, in words that stand behind "it lacks"; empty for Grafana, which does not say. Never raises."""
    if part == "prometheus":
        return list(_lacking_prometheus(url))
    if part == "alertmanager" and not keeps_history(configuration(url)):
        return [HISTORY]
    return []


def _lacking_prometheus(url: str) -> Iterator[str]:
    targets = _found(parts.ask(f"{url}/api/v1/targets?state=active"), "data", "activeTargets")
    if not any(_found(one, "labels", "job") == ["lobservatory"] for one in targets):
        yield _JOB
    groups = _found(parts.ask(f"{url}/api/v1/rules?type=alert"), "data", "groups")
    if not any(_found(rule, "name") == [_WATCHDOG] for group in groups for rule in _found(group, "rules")):
        yield RULES


def works_for_us(part: Part, url: str) -> bool:
    """Whether it does anything of what ours would. Of Grafana that cannot be seen without a log-in. Never raises."""
    everything = {"prometheus": [_JOB, RULES], "alertmanager": [HISTORY], "grafana": []}
    return lacking(part, url) != everything[part]


def configuration(url: str) -> str:
    """The text of an Alertmanager's configuration, without its secrets; empty when it does not say. Never raises."""
    return "\n".join(str(text) for text in _found(parts.ask(f"{url}/api/v2/status"), "config", "original"))


def keeps_history(config: str) -> bool:
    """Whether an Alertmanager of this configuration reports every alert to our API."""
    return _WEBHOOK in config


def receivers(config: str) -> set[str]:
    """The kinds of receivers in a configuration of Alertmanager, as its metrics call them: `slack`, `webhook` …"""
    return set(re.findall(r"\b(\w+)_configs:", config))


def without_slack(settings: Settings, config: str) -> str:
    """Why an Alertmanager of this configuration has no receiver for Slack, and what to do."""
    if settings.alertmanager_config is not None:
        return "LOBS_ALERTMANAGER_CONFIG, which decides who is told, has none"
    if not keeps_history(config):
        return f"your Alertmanager decides who is told ({HOW})"
    if settings.slack_webhook_url.get_secret_value():
        return "LOBS_SLACK_WEBHOOK_URL was set after it had started: start it again"
    return "set LOBS_SLACK_WEBHOOK_URL or LOBS_SLACK_WEBHOOK_URL_FILE (docs/alerts.md)"


def _found(document: Any, *path: str) -> list[Any]:
    """What lies there in an answer of others: a list as it is, anything else as a list of one, nothing as none."""
    for name in path:
        document = document.get(name) if isinstance(document, dict) else None
    if document is None:
        return []
    return document if isinstance(document, list) else [document]
