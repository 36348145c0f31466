"""What happened, drawn over what was measured."""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config
from dashboards.queries import GATEWAY, PROMETHEUS


def _prometheus(
    name: str, colour: str, expr: str, title: str, text: str, *, at_value: bool = False
) -> dashboard.AnnotationQuery:
    return dashboard.AnnotationQuery(
        name=name,
        datasource=PROMETHEUS,
        enable=True,
        icon_color=colour,
        expr=expr,
        title_format=title,
        text_format=text,
        step="60s",
        use_value_for_time=at_value,
    )


def gateway_restarts() -> dashboard.AnnotationQuery:
    """A line where a gateway started: its start time is the metric's value (Grafana wants milliseconds)."""
    return _prometheus(
        "Gateway starts",
        config.WARN,
        f"claw_gateway_start_timestamp_seconds{{{GATEWAY}}} * 1000",
        "Gateway started",
        "{{gateway}}",
        at_value=True,
    )


def versions() -> dashboard.AnnotationQuery:
    """Five minutes from the first sight of a version on a gateway that ran another before."""
    return _prometheus(
        "Gateway versions",
        config.NEUTRAL,
        f"(count by (gateway, version) (claw_gateway_info{{{GATEWAY}}}) "
        f"unless count by (gateway, version) (claw_gateway_info{{{GATEWAY}}} offset 5m)) "
        f"and on (gateway) claw_gateway_info{{{GATEWAY}}} offset 5m",
        "Version {{version}}",
        "{{gateway}}",
    )


def alerts() -> dashboard.AnnotationQuery:
    """Regions while an alert fires."""
    return _prometheus(
        "Alerts",
        config.BAD,
        f'ALERTS{{alertstate="firing", alertname!="Watchdog", {config.ALERT_GATEWAY}}}',
        "{{alertname}}",
        "{{gateway}} {{severity}}",
    )
