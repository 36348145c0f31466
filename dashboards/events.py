"""What happened, drawn over what was measured.

Both are drawn at the time that the value says, not at the samples: Grafana asks for only about a hundred samples of an
annotation, and would miss what is shorter and repeat what is longer.
"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config
from dashboards.queries import GATEWAY, PROMETHEUS

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


def alerts() -> dashboard.AnnotationQuery:
    """Where an alert that still fires became active."""
    active = f'ALERTS_FOR_STATE{{alertname!="Watchdog", {config.ALERT_GATEWAY}}} * 1000'
    return _at_value(
        "Alerts",
        config.BAD,
        f'{active} and ignoring (alertstate) ALERTS{{alertstate="firing"}}',
        "{{alertname}}",
        "{{gateway}} {{severity}}",
    )
