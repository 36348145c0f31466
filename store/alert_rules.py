"""The alert rules that this version ships, as rows: what else could have fired.

Written by `migrate`. A rule that a newer version dropped stays, not enabled, so that its history keeps its summary.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import yaml

RULES = Path(__file__).resolve().parents[1] / "alerts" / "rules"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """One alert of one severity; `summary` is what its notifications begin with."""

    alert: str
    severity: str
    summary: str


def shipped(folder: Path = RULES) -> list[AlertRule]:
    """Every alert of our rule files (`lobs-*.yml`), by name; the worst severity where one has several."""
    rules: dict[str, AlertRule] = {}
    for path in sorted(folder.glob("lobs-*.yml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    found = AlertRule(rule["alert"], rule["labels"]["severity"], rule["annotations"]["summary"])
                    known = rules.get(found.alert)
                    if known is None or found.severity == "critical":  # the one that matters most
                        rules[found.alert] = found
    return [rules[alert] for alert in sorted(rules)]


def keep(connection: psycopg.Connection[Any], rules: list[AlertRule]) -> None:
    """Write them; the same again changes nothing."""
    with connection.transaction(), connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO lobs.alert_rules AS r (alert, severity, summary) VALUES (%s, %s, %s)"
            " ON CONFLICT (alert) DO UPDATE SET severity = excluded.severity, summary = excluded.summary,"
            " enabled = true, updated_at = now()"
            " WHERE (r.severity, r.summary, r.enabled) IS DISTINCT FROM (excluded.severity, excluded.summary, true)",
            [(rule.alert, rule.severity, rule.summary) for rule in rules],
        )
        cursor.execute(
            "UPDATE lobs.alert_rules SET enabled = false, updated_at = now() WHERE enabled AND NOT alert = ANY(%s)",
            [[rule.alert for rule in rules]],
        )
