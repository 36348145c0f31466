"""Alerts: what fires, what fired, and which of them only make noise."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import now, rows, series, sql_rows

REAL: Final = f'alertname!="Watchdog", {config.ALERT_GATEWAY}'
SEVERITY_WORDS: Final = {
    "critical": ("critical", config.BAD),
    "warning": ("warning", config.WARN),
    "info": ("info", config.NEUTRAL),
}
STATUS_WORDS: Final = {"firing": ("firing", config.BAD), "resolved": ("resolved", config.OK)}


def rules_evaluated() -> dashboard.Panel:
    """The dead-man's switch."""
    return panels.stat(
        1,
        "Rules evaluated",
        [now('count(ALERTS{alertname="Watchdog", alertstate="firing"}) > bool 0', "Prometheus")],
        unit="none",
        description="Does Prometheus evaluate our rules? The alert Watchdog always fires; without it nothing would "
        "warn you.",
        no_value="No rules",
        mappings={"1": ("Yes", config.OK)},
        background=True,
        width=6,
    )


def firing() -> dashboard.Panel:
    """By severity; zero only while rules are evaluated."""
    return panels.stat(
        2,
        "Firing",
        [
            now(
                f'count(ALERTS{{alertstate="firing", {REAL}, severity="{severity}"}}) '
                'or 0 * count(ALERTS{alertname="Watchdog", alertstate="firing"})',
                severity,
            )
            for severity in SEVERITY_WORDS
        ],
        unit="none",
        decimals=0,
        description="Alerts that fire now, by severity.",
        no_value="No rules",
        steps=panels.ZERO_IS_GOOD,
        overrides=[
            panels.override("warning", thresholds=panels.thresholds(panels.ZERO_IS_GOOD_WARN)),
            panels.override("info", thresholds=panels.thresholds(((None, config.OK), (1, config.NEUTRAL)))),
        ],
        width=12,
    )


def pending() -> dashboard.Panel:
    """About to fire."""
    return panels.stat(
        3,
        "Pending",
        [
            now(
                f'count(ALERTS{{alertstate="pending", {REAL}}}) '
                'or 0 * count(ALERTS{alertname="Watchdog", alertstate="firing"})',
                "pending",
            )
        ],
        unit="none",
        decimals=0,
        description="Alerts whose condition holds, but not yet for long enough.",
        no_value="No rules",
        steps=panels.ZERO_IS_GOOD_WARN,
        width=6,
    )


def firing_now() -> dashboard.Panel:
    """The list."""
    shown = "alertname, severity, gateway, agent, cron_job, channel, provider, collector, mountpoint"
    return panels.table(
        10,
        "Firing now",
        [
            rows(
                f"max by ({shown}) (ALERTS_FOR_STATE{{{REAL}}} * 1000 "
                f'and ignoring (alertstate) ALERTS{{alertstate="firing", {REAL}}})'
            )
        ],
        description="Alerts that fire now, with the time at which they became active. Silences are made in "
        "Alertmanager: the link is at the top. Each has a runbook in alerts/runbooks.",
        no_value="Nothing fires",
        sort_by="Since",
        transformations=panels.merged(
            {
                "alertname": "Alert",
                "severity": "Severity",
                "Value": "Since",
                "agent": "Agent",
                "cron_job": "Cron job",
                "channel": "Channel",
                "provider": "Provider",
                "collector": "Collector",
                "mountpoint": "Mount point",
                "gateway": "Gateway",
            }
        ),
        overrides=[
            panels.badge("Severity", SEVERITY_WORDS, width=90),
            panels.override("Since", unit="dateTimeFromNow", custom__width=130),
        ],
        width=24,
        height=7,
    )


def over_time() -> dashboard.Panel:
    """One band an alert."""
    return panels.state_timeline(
        20,
        "Over time",
        [
            series(
                f'2 * max by (alertname, gateway) (ALERTS{{alertstate="firing", {REAL}}}) '
                f'or 1 * max by (alertname, gateway) (ALERTS{{alertstate="pending", {REAL}}})',
                "{{alertname}} {{gateway}}",
            )
        ],
        description="When alerts were pending and when they fired, as Prometheus saw it.",
        no_value="Nothing was pending or fired in this time range",
        mappings={"1": ("pending", "light-orange"), "2": ("firing", config.BAD)},
        width=24,
    )


def history() -> dashboard.Panel:
    """As Alertmanager told us."""
    return panels.table(
        30,
        "History",
        [
            sql_rows(
                """
SELECT starts_at AS "Started", alert AS "Alert", coalesce(severity, '') AS "Severity", status AS "Status",
       (extract(epoch FROM coalesce(ends_at, now()) - starts_at) * 1000)::bigint AS "Lasted",
       annotations ->> 'summary' AS "Summary", gateway AS "Gateway"
FROM alert_events
WHERE $__timeFilter(starts_at) AND :gateways_or_none
ORDER BY starts_at DESC
LIMIT 300
"""
            )
        ],
        description="The newest 300 alerts of the time range, as Alertmanager told us (view alert_events).",
        no_value="Alertmanager told of no alert in this time range",
        overrides=[
            panels.override("Started", unit="dateTimeFromNow", custom__width=120),
            panels.badge("Severity", SEVERITY_WORDS, width=85),
            panels.badge("Status", STATUS_WORDS, width=80),
            panels.override("Lasted", unit="ms", custom__width=85),
            panels.override("Summary", custom__minWidth=200),
            panels.override("Gateway", custom__width=85),
        ],
        width=14,
    )


def noise() -> dashboard.Panel:
    """Often and short is noise."""
    return panels.table(
        31,
        "Noise",
        [
            sql_rows(
                """
SELECT alert AS "Alert", count(*) AS "Times",
       count(*) FILTER (WHERE ends_at - starts_at < interval '5 minutes') AS "Under 5 min",
       (percentile_cont(0.5) WITHIN GROUP (
          ORDER BY extract(epoch FROM coalesce(ends_at, now()) - starts_at)) * 1000)::bigint AS "Median",
       (sum(extract(epoch FROM coalesce(ends_at, now()) - starts_at)) * 1000)::bigint AS "Together",
       max(starts_at) AS "Last"
FROM alert_events
WHERE $__timeFilter(starts_at) AND :gateways_or_none
GROUP BY 1
ORDER BY 2 DESC, 3 DESC
LIMIT 50
"""
            )
        ],
        description="Which alerts fired most often in the time range. Often and short is noise: raise its threshold "
        "(docs/alerts.md) or its cause.",
        no_value="Alertmanager told of no alert in this time range",
        overrides=[
            panels.override("Times", custom__width=65),
            panels.count_badge("Under 5 min", panels.ZERO_IS_GOOD_WARN, width=95),
            panels.override("Median", unit="ms", custom__width=80),
            panels.override("Together", unit="ms", custom__width=85),
            panels.override("Last", unit="dateTimeFromNow", custom__width=115),
        ],
        width=10,
    )


def board() -> Board:
    """What needs a human."""
    return Board(
        ref=config.ALERTS,
        description="What fires, what fired, and which alerts only make noise.",
        extra_variables=[
            variables.address(config.ALERTMANAGER_VARIABLE, "Address of Alertmanager", config.ALERTMANAGER_URL)
        ],
        extra_links=[
            dashboard.DashboardLink(
                title="Silences",
                type_val=dashboard.DashboardLinkType.LINK,
                icon="external link",
                tooltip="Silence an alert in Alertmanager",
                url=f"${{{config.ALERTMANAGER_VARIABLE}}}/#/silences",
                target_blank=True,
            )
        ],
        rows=[
            Row(100, "", [rules_evaluated(), firing(), pending()]),
            Row(101, "", [firing_now()]),
            Row(102, "", [over_time()]),
            Row(103, "", [history(), noise()]),
        ],
    )
