"""Logs and errors: what the gateway wrote, and which kinds of it are new."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, now, series, sql_rows

LEVEL_WORDS: Final = {
    "fatal": ("fatal", config.BAD),
    "error": ("error", config.BAD),
    "warn": ("warn", config.WARN),
    "info": ("info", config.NO_GROUND),
    "debug": ("debug", config.NO_GROUND),
    "trace": ("trace", config.NO_GROUND),
}
LEVEL_COLOURS: Final = {"fatal": "dark-red", "error": config.BAD, "warn": config.WARN, "info": config.NEUTRAL}


def newest_line() -> dashboard.Panel:
    """Age."""
    return panels.stat(
        1,
        "Newest line",
        [
            now(
                f"clamp_min(time() - max by (gateway) (claw_log_last_line_timestamp_seconds{{{GATEWAY}}}), 0)",
                "{{gateway}}",
            )
        ],
        unit="s",
        decimals=0,
        description="Time since the gateway wrote its newest line. A gateway that is up and writes nothing for hours "
        "hangs, or writes elsewhere.",
        no_value="No log read",
        width=8,
    )


def new_signatures() -> dashboard.Panel:
    """Never seen before."""
    return panels.stat(
        2,
        "New kinds of warnings and errors",
        [
            now(
                f"round(sum(increase(claw_log_new_signatures_total{{{GATEWAY}}}[$__range]))) "
                f"or 0 * count(claw_log_last_line_timestamp_seconds{{{GATEWAY}}})",
                "new",
            )
        ],
        unit="none",
        decimals=0,
        description="Kinds of warnings and errors that were met for the first time in the time range.",
        no_value="No log read",
        steps=panels.ZERO_IS_GOOD_WARN,
        width=8,
    )


def unreadable() -> dashboard.Panel:
    """What nobody counts."""
    return panels.stat(
        3,
        "Unreadable lines",
        [
            now(
                f"round(sum(increase(claw_log_unreadable_lines_total{{{GATEWAY}}}[$__range]))) "
                f"or 0 * count(claw_log_last_line_timestamp_seconds{{{GATEWAY}}})",
                "unreadable",
            )
        ],
        unit="none",
        decimals=0,
        description="Lines of the log in the time range that were no line of it that we know.",
        no_value="No log read",
        steps=panels.ZERO_IS_GOOD_WARN,
        width=8,
    )


def by_level() -> dashboard.Panel:
    """Bars."""
    return panels.timeseries(
        10,
        "Lines by level",
        [series(f"sum by (level) (increase(claw_log_lines_total{{{GATEWAY}}}[$__rate_interval]))", "{{level}}")],
        unit="short",
        description="Lines of the gateway's log in each step of time, by level (claw_log_lines_total).",
        no_value="No log read",
        bars=True,
        stacked=True,
        points=config.FEW_POINTS,
        colours=LEVEL_COLOURS,
        width=24,
        height=6,
    )


def signatures() -> dashboard.Panel:
    """Grouped; new ones marked."""
    return panels.table(
        20,
        "Errors by kind",
        [
            sql_rows(
                """
SELECT CASE WHEN first_seen_at >= $__timeFrom()::timestamptz THEN 'new' ELSE 'known' END AS "New", level AS "Level",
       count AS "Times", sample AS "An example", first_seen_at AS "First", last_seen_at AS "Last", gateway AS "Gateway"
FROM log_signatures
WHERE $__timeFilter(last_seen_at) AND :gateways
ORDER BY first_seen_at >= $__timeFrom()::timestamptz DESC, last_seen_at DESC
LIMIT 200
"""
            )
        ],
        description="Kinds of warnings and errors last seen in the time range; those that it met for the "
        "first time come first. Times counts all there ever were (view log_signatures). Secrets are cut out.",
        no_value="No warning and no error in this time range",
        overrides=[
            panels.badge("New", {"new": ("new", config.WARN), "known": ("known", config.NO_GROUND)}, width=75),
            panels.coloured("Level", LEVEL_WORDS, width=65),
            panels.override("Times", custom__width=65),
            panels.override("An example", custom__minWidth=300),
            panels.override("First", unit="dateTimeFromNow", custom__width=120),
            panels.override("Last", unit="dateTimeFromNow", custom__width=120),
            panels.override("Gateway", custom__width=85),
        ],
        width=24,
    )


def tail() -> dashboard.Panel:
    """All gateways merged."""
    return panels.table(
        30,
        "Newest lines",
        [
            sql_rows(
                """
SELECT ts AS "When", level AS "Level", subsystem AS "Part", message AS "Message", gateway AS "Gateway"
FROM log_lines
WHERE $__timeFilter(ts) AND :gateways
ORDER BY ts DESC
LIMIT 300
"""
            )
        ],
        description="The newest 300 lines of the logs of the chosen gateways, merged by time (view log_lines, which "
        "keeps the newest only). Secrets are cut out.",
        no_value="No line in this time range",
        overrides=[
            panels.override("When", unit="dateTimeAsIsoNoDateIfToday", custom__width=150),
            panels.coloured("Level", LEVEL_WORDS, width=65),
            panels.override("Part", custom__width=150),
            panels.override("Message", custom__minWidth=400),
            panels.override("Gateway", custom__width=85),
        ],
        width=24,
        height=12,
    )


def board() -> Board:
    """The gateway's own words."""
    return Board(
        ref=config.LOGS,
        description="What the gateways wrote, merged, and which kinds of warnings and errors are new.",
        rows=[
            Row(100, "", [newest_line(), new_signatures(), unreadable()]),
            Row(101, "", [by_level()]),
            Row(102, "", [signatures()]),
            Row(103, "", [tail()]),
        ],
    )
