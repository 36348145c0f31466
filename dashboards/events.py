"""What happened, drawn over what was measured.

Those of Prometheus are drawn at the time that the value says, not at the samples: Grafana asks for only about a
hundred samples of an annotation, and would miss what is shorter and repeat what is longer.
"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config
from dashboards.queries import GATEWAY, POSTGRES, PROMETHEUS, sql_rows

START = f"claw_gateway_start_timestamp_seconds{{{GATEWAY}}}"
INFO = f"claw_gateway_info{{{GATEWAY}}}"


def _at_value(name: str, colour: str, milliseconds: str, title: str, text: str) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery(
        name=name,
        datasource=PROMETHEUS,
        enable=True,
        icon_color=colour,
        expr=f"({milliseconds}) >= $__from",  # an older one would be drawn at the left edge
        title_format=title,
        text_format=text,
        use_value_for_time=True,
    )


def gateway_starts() -> dashboard.AnnotationQuery:
    """Where a gateway started, with the version that it then had."""
    started = f"{START} * on (gateway) group_right () {INFO} or on (gateway) {START}"
    return _at_value("Gateway starts", config.WARN, f"({started}) * 1000", "Gateway started {{version}}", "{{gateway}}")


def _sql_events(name: str, colour: str, raw_sql: str, *, shown: bool) -> dashboard.AnnotationQuery:
    query = sql_rows(raw_sql)
    query.ref_id = "Anno"
    return dashboard.AnnotationQuery(
        name=name,
        datasource=POSTGRES,
        enable=shown,
        icon_color=colour,
        target=query,
    )


def alerts() -> dashboard.AnnotationQuery:
    """From when to when alerts fired, those that are over as well."""
    return _sql_events(
        "Alerts",
        config.BAD,
        """
SELECT starts_at AS time, ends_at AS timeend, alert AS title, concat_ws(' ', gateway, severity) AS text
FROM alert_events
WHERE starts_at <= $__timeTo() AND coalesce(ends_at, now()) >= $__timeFrom() AND :gateways_or_none
  AND alert <> 'Watchdog'
ORDER BY starts_at DESC
LIMIT 200
""",
        shown=True,
    )


def first_ingest() -> dashboard.AnnotationQuery:
    """Where the first scan had ended: what is older came as history, and no curve of Prometheus knows it."""
    return _sql_events(
        "First ingest",
        config.OK,
        """
SELECT ts AS time, 'History read' AS title, gateway AS text
FROM first_ingest
WHERE $__timeFilter(ts) AND :gateways
ORDER BY ts
LIMIT 50
""",
        shown=True,
    )


def watching_began() -> dashboard.AnnotationQuery:
    """Where the exporter started: before the first of them there are sums, but no curves."""
    began = f"min by (gateway) (lobservatory_start_timestamp_seconds{{{GATEWAY}}}) * 1000"
    return _at_value("Watching began", config.NEUTRAL, began, "Lobservatory started to watch", "{{gateway}}")


def resets() -> dashboard.AnnotationQuery:
    """Where sessions were reset; hidden until asked for, because people reset often."""
    return _sql_events(
        "Session resets",
        config.EQUIVALENT,
        """
SELECT ts AS time, 'Session reset' AS title, agent || ' (' || gateway || ')' AS text
FROM session_events
WHERE $__timeFilter(ts) AND :gateways AND event = 'reset'
ORDER BY ts DESC
LIMIT 200
""",
        shown=False,
    )
