"""Alerts: what fires, what fired, and which of them only make noise."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import now, rows, series, sql_rows, sql_series

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
    """What Alertmanager told, and what it kept to itself."""
    return panels.table(
        30,
        "History",
        [
            sql_rows(
                """
SELECT starts_at AS "Started", alert AS "Alert", coalesce(severity, '') AS "Severity", status AS "Status",
       (extract(epoch FROM coalesce(ends_at, now()) - starts_at) * 1000)::bigint AS "Lasted",
       annotations ->> 'summary' AS "Summary", CASE WHEN told THEN 'yes' ELSE 'no' END AS "Told", gateway AS "Gateway"
FROM alert_events
WHERE $__timeFilter(starts_at) AND :gateways_or_none
ORDER BY starts_at DESC
LIMIT 300
"""
            )
        ],
        description="The newest 300 alerts of the time range (view alert_events). Told: Alertmanager told of it; "
        "what another alert inhibits or a silence covers is known from Prometheus only. The same alert again and again "
        "is a cause that nobody removed.",
        no_value="No alert fired in this time range",
        overrides=[
            panels.override("Started", unit="dateTimeFromNow", custom__width=120),
            panels.badge("Severity", SEVERITY_WORDS, width=85),
            panels.badge("Status", STATUS_WORDS, width=80),
            panels.override("Lasted", unit="ms", custom__width=85),
            panels.override("Summary", custom__minWidth=200),
            panels.override("Told", custom__width=60),
            panels.override("Gateway", custom__width=85),
        ],
        width=24,
    )


def time_to_resolve() -> dashboard.Panel:
    """By day."""
    return panels.timeseries(
        32,
        "Time to resolve",
        [
            sql_series(
                """
SELECT day AS "time", alert AS metric, sum(total_seconds) / sum(resolved) AS seconds
FROM alert_resolution
WHERE day >= date_trunc('day', $__timeFrom()::timestamptz, (SELECT name FROM zone)) AND day <= $__timeTo()
  AND :gateways_or_none
GROUP BY 1, 2
ORDER BY 1, 2
"""
            )
        ],
        unit="s",
        description="How long alerts lasted on average, by the day on which they ended (view alert_resolution). A "
        "climb means that problems wait longer for somebody.",
        no_value="No alert ended in this time range",
        interval="1d",
        overrides=[panels.override_all(custom__showPoints="always", custom__spanNulls=True)],
        legend_calcs=("mean",),
        width=12,
        height=9,
    )


def noise() -> dashboard.Panel:
    """Often and short is noise."""
    return panels.table(
        31,
        "Noise, of 30 days",
        [
            sql_rows(
                """
SELECT alert AS "Alert", fired AS "Times", short::float8 / fired AS "Under 5 min",
       (mean_seconds * 1000)::bigint AS "Mean", last_started_at AS "Last",
       gateway AS "Gateway"
FROM alert_noise
WHERE :gateways_or_none
ORDER BY place
LIMIT 50
"""
            )
        ],
        description="Which alerts fired most often in the last 30 days, whatever the time range (view alert_noise). "
        "Often and short (Under 5 min: the share of them) is noise: raise its threshold "
        "(docs/alerts.md) or remove its cause.",
        no_value="Alertmanager told of no alert in 30 days",
        overrides=[
            panels.override("Times", custom__width=65),
            panels.override("Alert", custom__minWidth=150),
            panels.ratio_gauge("Under 5 min", ((None, config.OK), (0.5, config.WARN)), width=110),
            panels.override("Mean", unit="ms", custom__width=80),
            panels.override("Last", unit="dateTimeFromNow", custom__width=115),
            panels.override("Gateway", custom__width=82),
        ],
        width=12,
    )


def rules() -> dashboard.Panel:
    """Also those that never fired."""
    return panels.table(
        33,
        "Rules",
        [
            sql_rows(
                """
SELECT r.alert AS "Alert", r.severity AS "Severity", r.summary AS "What it says",
       coalesce(e.fired, 0) AS "Times", e.last AS "Last"
FROM alert_rules AS r
LEFT JOIN (
  SELECT alert, count(*) AS fired, max(starts_at) AS last
  FROM alert_events
  WHERE :gateways_or_none
  GROUP BY alert
) AS e ON e.alert = r.alert
WHERE r.enabled
ORDER BY e.last DESC NULLS LAST, r.alert
LIMIT 200
"""
            )
        ],
        description="Every alert that this version ships, and how often and when each fired, as far back as the "
        "history goes (views alert_rules and alert_events). One that never fired watches in silence; "
        "lobservatory alert-test shows whether it would be heard.",
        no_value="No rules are known: run lobservatory migrate",
        overrides=[
            panels.override("Alert", custom__width=190),
            panels.badge("Severity", SEVERITY_WORDS, width=90),
            panels.override("Times", custom__width=75),
            panels.override("Last", unit="dateTimeFromNow", noValue="never", custom__width=130),
        ],
        width=24,
        height=9,
    )


def board() -> Board:
    """What needs a human."""
    return Board(
        ref=config.ALERTS,
        time_from="now-7d",
        description="What fires, what fired, and which alerts only make noise.",
        extra_variables=[
            variables.address(config.ALERTMANAGER_VARIABLE, "Address of Alertmanager", config.ALERTMANAGER_URL)
        ],
        extra_links=[
            panels.way_out("Silences", config.ALERTMANAGER_VARIABLE, "/#/silences", "Silence an alert in Alertmanager")
        ],
        rows=[
            Row(100, "", [rules_evaluated(), firing(), pending()]),
            Row(101, "", [firing_now()]),
            Row(102, "", [over_time()]),
            Row(103, "", [time_to_resolve(), noise()]),
            Row(104, "", [history()]),
            Row(105, "", [rules()]),
        ],
    )
