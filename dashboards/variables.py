"""Variables of the boards."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config
from dashboards.queries import POSTGRES, PROMETHEUS, filtered

ALL: Final = "$__all"


def _data_source(name: str, label: str, type_: str, uid: str, title: str) -> dashboard.VariableModel:
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.DATASOURCE,
        name=name,
        label=label,
        query=type_,
        current=dashboard.VariableOption(text=title, value=uid),
        # Chosen once, at import; a menu in the head of every board would only be in the way.
        hide=dashboard.VariableHide.HIDE_VARIABLE,
        allow_custom_value=False,
    )


def prometheus_data_source() -> dashboard.VariableModel:
    """Which Prometheus."""
    return _data_source(
        config.PROMETHEUS_VARIABLE,
        "Prometheus data source",
        config.PROMETHEUS_TYPE,
        config.PROMETHEUS_UID,
        "Lobservatory Prometheus",
    )


def postgres_data_source() -> dashboard.VariableModel:
    """Which PostgreSQL."""
    return _data_source(
        config.POSTGRES_VARIABLE,
        "PostgreSQL data source",
        config.POSTGRES_TYPE,
        config.POSTGRES_UID,
        "Lobservatory PostgreSQL",
    )


def _label(name: str, label: str, metric: str, description: str) -> dashboard.VariableModel:
    """All by default. There is no `allValue`: Grafana would put `.*` into SQL as well."""
    query = f"label_values({metric}, {name})"
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=label,
        description=description,
        datasource=PROMETHEUS,
        definition=query,
        query={"qryType": 1, "query": query, "refId": f"variable-{name}"},
        current=dashboard.VariableOption(selected=True, text=["All"], value=[ALL]),
        multi=True,
        include_all=True,
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.NATURAL_ASC,
    )


def gateway() -> dashboard.VariableModel:
    """Which gateways."""
    return _label("gateway", "Gateway", "claw_gateway_up", "One OpenClaw gateway, some, or the whole fleet.")


def agent() -> dashboard.VariableModel:
    """Which agents of the chosen gateways."""
    metric = 'claw_model_calls_total{gateway=~"$gateway"}'
    return _label("agent", "Agent", metric, "Agents of the chosen gateways.")


def model() -> dashboard.VariableModel:
    """Which models of the chosen gateways."""
    metric = 'claw_model_calls_total{gateway=~"$gateway"}'
    return _label("model", "Model", metric, "Models of the chosen gateways.")


def _sql(name: str, label: str, description: str, query: str, *, many: bool) -> dashboard.VariableModel:
    query = filtered(query)
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.QUERY,
        name=name,
        label=label,
        description=description,
        datasource=POSTGRES,
        definition=query,
        query=query,
        current=dashboard.VariableOption(selected=True, text=["All"], value=[ALL])
        if many
        else dashboard.VariableOption(),
        multi=many,
        include_all=many,
        refresh=dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED,
        sort=dashboard.VariableSort.DISABLED,
    )


def channel() -> dashboard.VariableModel:
    """Which channels; what came by none is one of them. From the database: counters of calls have no channel."""
    return _sql(
        "channel",
        "Channel",
        "Channels of the chosen gateways; none is what came by no channel.",
        """
SELECT channel FROM (
  SELECT 'none' AS channel
  UNION SELECT channel FROM sessions WHERE :gateways AND channel <> ''
  UNION SELECT channel FROM channels WHERE :gateways AND configured IS NOT FALSE
) AS known
ORDER BY channel = 'none', channel
LIMIT 200
""",
        many=True,
    )


def session() -> dashboard.VariableModel:
    """Which session: the 500 last active ones by name; a link may bring any other."""
    return _sql(
        "session",
        "Session",
        "One session, the last active one first.",
        """
SELECT session_id AS __value,
       agent || ': ' || coalesce(label, regexp_replace(session_key, '^agent:[^:]*:', ''), session_id) AS __text
FROM sessions
WHERE :gateways
ORDER BY updated_at DESC NULLS LAST
LIMIT 500
""",
        many=False,
    )


def address(name: str, label: str, url: str) -> dashboard.VariableModel:
    """A hidden text: an address that links lead to."""
    option = dashboard.VariableOption(selected=True, text=url, value=url)
    return dashboard.VariableModel(
        type_val=dashboard.VariableType.TEXTBOX,
        name=name,
        label=label,
        query=url,
        current=option,
        options=[option],
        hide=dashboard.VariableHide.HIDE_VARIABLE,
    )
