"""Official plugin: what OpenClaw's own diagnostics-prometheus tells, beside ours and never mixed with it."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, now, series

ABSENT: Final = "The plugin is not scraped"
WHENCE: Final = "From the plugin diagnostics-prometheus only."


def scraped() -> dashboard.Panel:
    """Or why not."""
    return panels.stat(
        1,
        "The plugin diagnostics-prometheus",
        [now(f'min by (gateway) (up{{job="openclaw", {GATEWAY}}})', "{{gateway}}")],
        unit="none",
        description="Does Prometheus scrape OpenClaw's own plugin? It is optional: every other board works without "
        "it. Enable the plugin in OpenClaw and set LOBS_OFFICIAL_METRICS=true.",
        no_value="Not scraped. Optional: enable the plugin in OpenClaw and set LOBS_OFFICIAL_METRICS=true",
        mappings={"1": ("Scraped", config.OK), "0": ("Does not answer", config.BAD)},
        background=True,
        width=24,
        height=3,
    )


def _rate(id_: int, title: str, metric: str, by: str, description: str) -> dashboard.Panel:
    return panels.timeseries(
        id_,
        title,
        [series(f"60 * sum by ({by}) (rate({metric}{{{GATEWAY}}}[$__rate_interval]))", f"{{{{{by}}}}}")],
        unit="cpm",
        description=f"{description} a minute ({metric}). {WHENCE}",
        no_value=ABSENT,
        stacked=True,
        width=8,
        colours={"completed": config.OK, "success": config.OK, "error": config.BAD},
    )


def _quantiles(id_: int, title: str, metric: str, description: str) -> dashboard.Panel:
    bucket = f"sum by (le) (rate({metric}_bucket{{{GATEWAY}}}[$__rate_interval]))"
    return panels.timeseries(
        id_,
        title,
        [
            series(f"histogram_quantile(0.5, {bucket}) >= 0", "p50"),
            series(f"histogram_quantile(0.95, {bucket}) >= 0", "p95"),
        ],
        unit="s",
        description=f"{description}, median and 95th percentile ({metric}). {WHENCE}",
        no_value=ABSENT,
        width=8,
    )


def runs() -> dashboard.Panel:
    """By outcome."""
    return _rate(10, "Runs", "openclaw_run_completed_total", "outcome", "Runs by outcome")


def model_calls() -> dashboard.Panel:
    """By outcome."""
    return _rate(11, "Model calls", "openclaw_model_call_total", "outcome", "Model calls by outcome")


def tools() -> dashboard.Panel:
    """By outcome."""
    return _rate(12, "Tools", "openclaw_tool_execution_total", "outcome", "Tools by outcome")


def run_time() -> dashboard.Panel:
    """p50 and p95."""
    return _quantiles(20, "Time of runs", "openclaw_run_duration_seconds", "Time of runs")


def model_time() -> dashboard.Panel:
    """p50 and p95."""
    return _quantiles(21, "Time of model calls", "openclaw_model_call_duration_seconds", "Time of model calls")


def lane_wait() -> dashboard.Panel:
    """The queue."""
    return _quantiles(22, "Wait in the queue", "openclaw_queue_lane_wait_seconds", "Wait of work in a lane")


def tokens() -> dashboard.Panel:
    """By class, since the start of the gateway; its sums of classes would count them twice."""
    only = f'{GATEWAY}, token_type!~"prompt|total"'
    return panels.timeseries(
        30,
        "Tokens",
        [
            series(
                f"60 * sum by (token_type) (rate(openclaw_model_tokens_total{{{only}}}[$__rate_interval]))",
                "{{token_type}}",
            )
        ],
        unit="short",
        description="Tokens a minute by class (openclaw_model_tokens_total, without its sums prompt and total). Far "
        f"from Cost and tokens over the same time: one of the two counts wrongly. {WHENCE}",
        no_value=ABSENT,
        stacked=True,
        colours=config.TOKEN_COLOURS,
        width=8,
    )


def cost() -> dashboard.Panel:
    """Its own idea of it."""
    return panels.timeseries(
        31,
        "Cost per hour",
        [
            series(
                f"3600 * sum by (model) (rate(openclaw_model_cost_usd_total{{{GATEWAY}}}[$__rate_interval]))",
                "{{model}}",
            )
        ],
        unit="currencyUSD",
        description="Cost an hour by model as the plugin counts it: since the gateway's start only, and without "
        f"history. The books are on Cost and tokens. {WHENCE}",
        no_value=ABSENT,
        stacked=True,
        width=8,
    )


def failovers() -> dashboard.Panel:
    """Seen here only."""
    return _rate(32, "Model failovers", "openclaw_model_failover_total", "reason", "Changes to another model by reason")


def lanes() -> dashboard.Panel:
    """Depth."""
    return panels.timeseries(
        40,
        "Queue by lane",
        [series(f"sum by (lane) (openclaw_queue_lane_size{{{GATEWAY}}})", "{{lane}}")],
        unit="short",
        description=f"Work that waits in each lane. One that grows is not drained. {WHENCE}",
        no_value=ABSENT,
        width=8,
    )


def event_loop() -> dashboard.Panel:
    """Node's."""
    return panels.timeseries(
        41,
        "Event loop delay",
        [
            series(
                "histogram_quantile(0.95, sum by (le) "
                f"(rate(openclaw_liveness_event_loop_delay_p99_seconds_bucket{{{GATEWAY}}}[$__rate_interval]))) >= 0",
                "p95 of the p99",
            )
        ],
        unit="s",
        description=f"How late the gateway's event loop was when it warned about it. {WHENCE}",
        no_value="No liveness warning, or the plugin is not scraped",
        width=8,
    )


def memory() -> dashboard.Panel:
    """By kind."""
    return panels.timeseries(
        42,
        "Memory by kind",
        [series(f"sum by (kind) (openclaw_memory_bytes{{{GATEWAY}}})", "{{kind}}")],
        unit="bytes",
        description=f"Memory of the gateway's process by kind. {WHENCE}",
        no_value=ABSENT,
        width=8,
    )


def board() -> Board:
    """Somebody else's metrics."""
    return Board(
        ref=config.OFFICIAL,
        description="What OpenClaw's own plugin diagnostics-prometheus tells, beside ours and never mixed with it. "
        "Without the plugin this board stays empty, and every other board works.",
        rows=[
            Row(100, "", [scraped()]),
            Row(101, "", [runs(), model_calls(), tools()]),
            Row(102, "", [run_time(), model_time(), lane_wait()]),
            Row(103, "", [tokens(), cost(), failovers()]),
            Row(104, "", [lanes(), event_loop(), memory()]),
        ],
    )
