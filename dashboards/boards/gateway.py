"""Gateway and channels: does it answer, how fast, since when, and are people still reached?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, now, rows, series, sql_rows, sql_series

# The states of our connection as numbers, for a timeline: the metric has one 0/1 series a state.
STATES = {
    "connected": ("1", "connected", config.OK),
    "connecting": ("2", "connecting", config.NEUTRAL),
    "authenticating": ("3", "authenticating", config.NEUTRAL),
    "reconnecting": ("4", "reconnecting", config.WARN),
    "disconnected": ("5", "disconnected", config.BAD),
}
YES_NO = {"1": ("yes", config.OK), "0": ("no", config.BAD)}
# The states of the gateway's unit as numbers, for a column.
SERVICE_STATES = {
    "active": ("1", "active", config.OK),
    "activating": ("2", "activating", config.NEUTRAL),
    "deactivating": ("3", "deactivating", config.WARN),
    "inactive": ("4", "inactive", config.WARN),
    "failed": ("5", "failed", config.BAD),
    "unknown": ("6", "unknown", config.NO_GROUND),
}
SKILL_COLOURS = {"ready": config.OK, "disabled": config.MUTED, "blocked": config.WARN, "missing": config.BAD}


def up() -> dashboard.Panel:
    """Now."""
    return panels.stat(
        1,
        "Gateway",
        [now(f"min by (gateway) (claw_gateway_up{{{GATEWAY}}})", "{{gateway}}")],
        unit="none",
        description="Does the gateway answer RPC (claw_gateway_up)?",
        no_value="Not heard of yet",
        mappings={"1": ("Up", config.OK), "0": ("Down", config.BAD)},
        background=True,
    )


def uptime() -> dashboard.Panel:
    """Since its start."""
    return panels.stat(
        2,
        "Running for",
        [
            now(
                f"clamp_min(time() - max by (gateway) (claw_gateway_start_timestamp_seconds{{{GATEWAY}}}), 0)",
                "{{gateway}}",
            )
        ],
        unit="s",
        decimals=0,
        description="Time since the start of the gateway's process. Short and unexpected: it crashed or was restarted.",
        no_value="Process not found",
    )


def version() -> dashboard.Panel:
    """As the gateway says."""
    return panels.stat(
        3,
        "Version",
        [now(f"count by (gateway, version) (claw_gateway_info{{{GATEWAY}}})", "{{version}}")],
        unit="none",
        description="Version that each gateway says it has.",
        no_value="Never connected",
        name_only=True,
    )


def restarts() -> dashboard.Panel:
    """Over the range."""
    return panels.stat(
        4,
        "Restarts",
        [now(f"round(sum by (gateway) (increase(claw_gateway_restarts_total{{{GATEWAY}}}[$__range])))", "{{gateway}}")],
        unit="none",
        decimals=0,
        description="Restarts of the gateway seen in the time range shown.",
        no_value="No exporter",
        steps=panels.ZERO_IS_GOOD_WARN,
    )


def approvals() -> dashboard.Panel:
    """What waits for a human."""
    return panels.stat(
        5,
        "Approvals waiting",
        [
            now(f"sum(claw_exec_approvals_pending{{{GATEWAY}}})", "pending"),
            now(f"clamp_min(time() - min(claw_exec_approval_oldest_timestamp_seconds{{{GATEWAY}}} > 0), 0)", "oldest"),
        ],
        unit="none",
        description="Commands that wait for an answer of a human, and for how long the oldest has. They expire "
        "after half an hour and are then denied.",
        no_value="Not readable",
        steps=panels.ZERO_IS_GOOD_WARN,
        overrides=[panels.override("oldest", unit="s")],
    )


def reconnects() -> dashboard.Panel:
    """Over the range."""
    return panels.stat(
        6,
        "Reconnects",
        [now(f"round(sum(increase(claw_gateway_reconnects_total{{{GATEWAY}}}[$__range])))", "reconnects")],
        unit="none",
        decimals=0,
        description="Connections to the gateway that were lost and tried again in the time range shown.",
        no_value="No exporter",
        steps=panels.ZERO_IS_GOOD_WARN,
    )


def connection() -> dashboard.Panel:
    """Our connection, as a timeline."""
    states = " or ".join(
        f'{number} * max by (gateway) (claw_gateway_connection_state{{{GATEWAY}, state="{state}"}} == 1)'
        for state, (number, _, _) in STATES.items()
    )
    return panels.state_timeline(
        10,
        "Connection",
        [series(states, "{{gateway}}")],
        description="The state of our connection to each gateway over time. Anything but connected means that "
        "sessions, cron and channels are not read.",
        no_value="No exporter",
        mappings={number: (text, colour) for number, text, colour in STATES.values()},
    )


def health() -> dashboard.Panel:
    """What its endpoints and its service manager say."""
    unit = " or ".join(
        f'{number} * max by (gateway) (claw_service_state{{{GATEWAY}, state="{state}"}} == 1)'
        for state, (number, _, _) in SERVICE_STATES.items()
    )
    checks = f"sum by (gateway) (claw_gateway_failing_check{{{GATEWAY}}})"
    known = f"max by (gateway) (claw_gateway_http_up{{{GATEWAY}}})"
    return panels.table(
        12,
        "Health and service",
        [
            rows(f'min by (gateway) (claw_gateway_http_up{{{GATEWAY}, endpoint="healthz"}})'),
            rows(f'min by (gateway) (claw_gateway_http_up{{{GATEWAY}, endpoint="readyz"}})'),
            rows(f"max by (gateway) (claw_gateway_http_seconds{{{GATEWAY}}})"),
            rows(f"{checks} or 0 * {known}"),
            rows(unit),
            rows(f"max by (gateway) (claw_service_restarts{{{GATEWAY}}})"),
            rows(f"max by (gateway) (claw_service_last_exit_status{{{GATEWAY}}})"),
            rows(f"max by (gateway) (claw_gateway_last_event_timestamp_seconds{{{GATEWAY}}}) * 1000"),
        ],
        description="What each gateway's own health endpoints say (alive, ready, the slower of the two, checks that "
        "fail), what systemd or launchd says of its unit, and when it last pushed an event. Alive but not ready: look "
        "at the failing checks.",
        no_value="Not asked yet",
        sort_by="Gateway",
        descending=False,
        transformations=panels.merged(
            {
                "gateway": "Gateway",
                "Value #A": "Alive",
                "Value #B": "Ready",
                "Value #C": "Answers in",
                "Value #D": "Failing checks",
                "Value #E": "Service",
                "Value #F": "Restarts",
                "Value #G": "Last exit",
                "Value #H": "Last event",
            }
        ),
        overrides=[
            panels.badge("Alive", YES_NO, width=80),
            panels.badge("Ready", YES_NO, width=80),
            panels.override("Answers in", unit="s"),
            panels.count_badge("Failing checks", panels.ZERO_IS_GOOD, width=130),
            panels.badge("Service", {number: (text, ink) for number, text, ink in SERVICE_STATES.values()}, width=110),
            panels.override("Last event", unit="dateTimeFromNow"),
        ],
        width=24,
        height=5,
    )


def skills() -> dashboard.Panel:
    """By what becomes of them."""
    return panels.stat(
        50,
        "Skills",
        [now(f"sum by (state) (claw_skills{{{GATEWAY}}})", "{{state}}")],
        unit="none",
        named=True,
        decimals=0,
        description="Skills by what becomes of them (claw_skills). Missing: something that the skill needs is not "
        "installed; blocked: an allowlist keeps it away.",
        no_value="Not readable",
        overrides=[panels.override(state, color=panels.fixed(colour)) for state, colour in SKILL_COLOURS.items()],
        width=6,
        height=6,
    )


def models() -> dashboard.Panel:
    """Offered and usable."""
    return panels.table(
        51,
        "Models",
        [
            rows(f"max by (gateway, provider) (claw_models{{{GATEWAY}}})"),
            rows(f"max by (gateway, provider) (claw_models_usable{{{GATEWAY}}})"),
        ],
        description="Models that each gateway offers, and those that can be used now, by provider (claw_models, "
        "claw_models_usable). None usable: the provider's key is missing or wrong.",
        no_value="Not readable",
        sort_by="Offered",
        transformations=panels.merged(
            {"provider": "Provider", "Value #A": "Offered", "Value #B": "Usable", "gateway": "Gateway"}
        ),
        overrides=[
            panels.count_badge("Usable", ((None, config.BAD), (1, config.OK)), width=75),
            panels.override("Offered", custom__width=75),
            panels.override("Gateway", custom__width=80),
        ],
        width=7,
        height=6,
    )


def nodes() -> dashboard.Panel:
    """Devices."""
    return panels.stat(
        52,
        "Nodes",
        [
            now(f"sum(claw_nodes{{{GATEWAY}}})", "known"),
            now(f"sum(claw_nodes_connected{{{GATEWAY}}})", "connected"),
        ],
        unit="none",
        decimals=0,
        description="Paired devices of the chosen gateways, and how many of them are connected (claw_nodes).",
        no_value="Not readable",
        width=4,
        height=6,
    )


def tasks() -> dashboard.Panel:
    """The gateway's own register."""
    return panels.timeseries(
        53,
        "Background tasks in the register",
        [series(f"sum by (status) (claw_tasks{{{GATEWAY}}})", "{{status}}")],
        unit="short",
        description="Background tasks that the gateways keep in their registers, by how they went (claw_tasks). Lost "
        "ones outlived a restart of their gateway.",
        no_value="No background task",
        stacked=True,
        colours={
            "completed": config.OK,
            "failed": config.BAD,
            "timed_out": "dark-red",
            "lost": config.WARN,
            "running": config.NEUTRAL,
        },
        width=7,
        height=6,
    )


def rpc_latency() -> dashboard.Panel:
    """By method."""
    return panels.timeseries(
        11,
        "RPC latency by method",
        [
            series(
                f"max by (method) (quantile_over_time(0.95, claw_rpc_latency_seconds{{{GATEWAY}}}[$__rate_interval]))",
                "p95 {{method}}",
            ),
            series(
                "max(quantile_over_time(0.5, "
                f'claw_rpc_latency_seconds{{{GATEWAY}, method=~"health|status"}}[$__rate_interval]))',
                "p50 health, status",
            ),
        ],
        unit="s",
        description="Time of RPC calls: 95th percentile of each method over each step of time, and the median of the "
        "cheap ones. All of them high at once is a blocked event loop.",
        points=config.MANY_POINTS,
        colours={"p50 health, status": config.MUTED},
        no_value="No RPC answered yet",
    )


def memory() -> dashboard.Panel:
    """Slope says more than height."""
    return panels.timeseries(
        20,
        "Gateway memory",
        [series(f"max by (gateway) (claw_gateway_resident_memory_bytes{{{GATEWAY}}})", "{{gateway}}")],
        unit="bytes",
        description="Resident memory of the gateway's process. 0.5 to 1.3 GB is normal; a slope over days is a leak.",
        no_value="Process not found",
        width=6,
    )


def memory_slope() -> dashboard.Panel:
    """A leak in figures."""
    return panels.timeseries(
        23,
        "Memory slope",
        [
            series(
                f"clamp_min(3600 * max by (gateway) (deriv(claw_gateway_resident_memory_bytes{{{GATEWAY}}}[6h])), 0)",
                "{{gateway}} an hour",
            )
        ],
        unit="bytes",
        description="Bytes an hour by which the gateway's memory grows, by a straight line through the last 6 hours; a "
        "restart is not drawn. Falling back to zero is warming up; above zero for a day is a leak "
        "(alert GatewayMemoryGrowing).",
        no_value="Process not found",
        width=6,
    )


def allowances() -> dashboard.Panel:
    """What providers still give."""
    return panels.bar_gauge(
        24,
        "Provider allowances used",
        [
            now(
                f"max by (gateway, provider, quota) (claw_provider_quota_used_ratio{{{GATEWAY}}})",
                "{{provider}} {{quota}} ({{gateway}})",
            )
        ],
        unit="percentunit",
        decimals=0,
        max_val=1,
        description="Used share of each allowance (5 hours, week, ...) of the providers that tell it "
        "(claw_provider_quota_used_ratio). At 100 % the provider refuses until the window ends (alert "
        "ProviderAllowanceLow).",
        no_value="No provider tells its allowance",
        steps=((None, config.OK), (0.8, config.WARN), (0.95, config.BAD)),
        width=12,
    )


def cpu() -> dashboard.Panel:
    """Of one processor."""
    return panels.timeseries(
        21,
        "Gateway CPU",
        [
            series(
                f"sum by (gateway) (rate(claw_gateway_cpu_seconds_total{{{GATEWAY}}}[$__rate_interval]))", "{{gateway}}"
            )
        ],
        unit="percentunit",
        description="CPU time a second of the gateway's process; 100 % is one processor.",
        no_value="Process not found",
        width=6,
    )


def event_loop() -> dashboard.Panel:
    """The gateway's own measure."""
    return panels.timeseries(
        22,
        "Event loop delay, p99",
        [series(f"max by (gateway) (claw_gateway_event_loop_delay_p99_seconds{{{GATEWAY}}})", "{{gateway}}")],
        unit="s",
        description="Delay of the gateway's event loop, 99th percentile, as it reports it. Seconds mean that it "
        "answers nobody.",
        no_value="Not reported by this version",
        width=6,
    )


def channels() -> dashboard.Panel:
    """One row a channel and account."""
    return panels.table(
        30,
        "Channels",
        [
            sql_rows(
                """
SELECT channel AS "Channel", account AS "Account", connected AS "Connected", last_inbound_at AS "Last in",
       last_outbound_at AS "Last out", last_error AS "Last error", gateway AS "Gateway"
FROM channels
WHERE :gateways AND channel = ANY (ARRAY[${channel:sqlstring}]::text[]) AND configured IS NOT FALSE
ORDER BY gateway, channel, account
LIMIT 200
"""
            )
        ],
        description="Configured channels of each gateway: connected, and when the last message came and went (view "
        "channels). Connected with an old last message can still be dead.",
        no_value="No channel configured",
        overrides=[
            panels.override("Account", custom__width=75),
            panels.badge("Connected", {"true": ("yes", config.OK), "false": ("no", config.BAD)}, width=95),
            panels.override("Last in", unit="dateTimeFromNow", custom__width=115),
            panels.override("Last out", unit="dateTimeFromNow", custom__width=115),
            panels.override("Channel", custom__width=85),
            panels.override("Gateway", custom__width=80),
        ],
        width=14,
        height=8,
    )


def channel_ages() -> dashboard.Panel:
    """Silence."""
    newest = f'claw_channel_last_message_timestamp_seconds{{{GATEWAY}, channel=~"$channel"}}'
    return panels.timeseries(
        32,
        "Age of the last message",
        [series(f"clamp_min(time() - max by (channel, direction) ({newest}), 0)", "{{channel}} {{direction}}")],
        unit="s",
        description="Time since the last message of each channel by direction "
        "(claw_channel_last_message_timestamp_seconds). A line that climbs past its usual height is a channel that is "
        "dead and looks healthy.",
        no_value="No channel has had a message",
        width=10,
    )


def approvals_decided() -> dashboard.Panel:
    """How they ended."""
    return panels.timeseries(
        33,
        "Approvals by outcome",
        [
            sql_series(
                """
SELECT $__timeGroupAlias(requested_at, $__interval), status AS metric, count(*) AS approvals
FROM exec_approvals
WHERE $__timeFilter(requested_at) AND :gateways
GROUP BY 1, 2
ORDER BY 1, 2
"""
            )
        ],
        unit="short",
        description="Commands that asked for approval, by what became of them (view exec_approvals). Expired: nobody "
        "answered in time, and the agent was refused.",
        no_value="No command asked for approval in this time range",
        bars=True,
        stacked=True,
        interval="1m",
        points=config.FEW_POINTS,
        colours={
            "allowed": config.OK,
            "approved": config.OK,
            "denied": config.BAD,
            "expired": config.WARN,
            "pending": config.NEUTRAL,
        },
    )


def rpc_errors() -> dashboard.Panel:
    """By method and code."""
    return panels.timeseries(
        31,
        "RPC errors",
        [
            series(
                f"60 * sum by (method, code) (rate(claw_rpc_errors_total{{{GATEWAY}}}[$__rate_interval])) > 0",
                "{{method}} {{code}}",
            )
        ],
        unit="cpm",
        description="Failed RPC calls a minute by method and error code. A missing scope or an unknown method "
        "empties one panel, not the rest.",
        no_value="No RPC call failed in this time range",
        width=8,
        bars=True,
        stacked=True,
    )


def events() -> dashboard.Panel:
    """What the gateway tells on its own."""
    return panels.timeseries(
        40,
        "Pushed events",
        [
            series(
                f"60 * sum by (event) (rate(claw_gateway_events_total{{{GATEWAY}}}[$__rate_interval]))",
                "{{event}}",
            )
        ],
        unit="cpm",
        description="Events a minute that the gateway pushed. No tick for a minute: the connection is dead.",
        no_value="No event received",
        width=8,
        stacked=True,
    )


def gaps_and_drops() -> dashboard.Panel:
    """What got lost on the way; it is fetched again."""
    return panels.timeseries(
        41,
        "Gaps, dropped frames, failed connects",
        [
            series(f"60 * sum(rate(claw_gateway_event_gaps_total{{{GATEWAY}}}[$__rate_interval])) > 0", "gaps"),
            series(
                f"60 * sum by (reason) (rate(claw_gateway_frames_dropped_total{{{GATEWAY}}}[$__rate_interval])) > 0",
                "dropped: {{reason}}",
            ),
            series(
                f"60 * sum by (reason) (rate(claw_gateway_connect_failures_total{{{GATEWAY}}}[$__rate_interval])) > 0",
                "connect: {{reason}}",
            ),
        ],
        unit="cpm",
        description="Gaps in the sequence of events (everything is then fetched again), frames that could not be "
        "read, and connects that failed, by reason, a minute.",
        no_value="No gap and no failure in this time range",
        width=8,
        bars=True,
        stacked=True,
    )


def board() -> Board:
    """The gateway as a service."""
    return Board(
        ref=config.GATEWAY,
        description="Does the gateway answer, how fast, since when, and are people still reached?",
        extra_variables=[variables.channel()],
        rows=[
            Row(100, "", [up(), uptime(), version(), restarts(), approvals(), reconnects()]),
            Row(101, "Connection", [connection(), rpc_latency(), health()]),
            Row(102, "Process", [memory(), memory_slope(), cpu(), event_loop()]),
            Row(103, "Channels", [channels(), channel_ages()]),
            Row(104, "Approvals and allowances", [approvals_decided(), allowances()]),
            Row(105, "Events and errors", [events(), gaps_and_drops(), rpc_errors()]),
            Row(106, "What it has", [skills(), models(), nodes(), tasks()], collapsed=True),
        ],
    )
