"""Data quality: can the numbers on the other boards be trusted?"""

from __future__ import annotations

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels
from dashboards.board import Board, Row
from dashboards.queries import GATEWAY, now, rows, series

OUTCOME = {"1": ("ok", config.OK), "0": ("failed", config.BAD), "-1": ("off", config.NO_GROUND)}


def exporter() -> dashboard.Panel:
    """Whether Prometheus reaches us."""
    return panels.stat(
        1,
        "Exporter",
        [now(f'max by (gateway) (up{{job="{config.JOB}", {GATEWAY}}})', "{{gateway}}")],
        unit="none",
        description="Does Prometheus reach the exporter? If not, every other number here is from before.",
        no_value="Not scraped",
        mappings={"1": ("Up", config.OK), "0": ("Down", config.BAD)},
        background=True,
    )


def database() -> dashboard.Panel:
    """Whether rows can be written."""
    return panels.stat(
        2,
        "Database",
        [now(f"min(lobservatory_database_up{{{GATEWAY}}})", "database")],
        unit="none",
        description="Can the exporter write rows? While it cannot, reading waits and nothing is lost.",
        no_value="None configured, or not tried yet",
        mappings={"1": ("Up", config.OK), "0": ("Down", config.BAD)},
        background=True,
        width=3,
    )


def version() -> dashboard.Panel:
    """Ours."""
    return panels.stat(
        7,
        "Our version",
        [now(f"count by (version) (lobservatory_build_info{{{GATEWAY}}})", "{{version}}")],
        unit="none",
        description="Version of the exporters that Prometheus reaches (lobservatory_build_info). Two at once: an "
        "upgrade is not finished.",
        no_value="No exporter",
        name_only=True,
        width=3,
    )


def unpriced() -> dashboard.Panel:
    """Calls that are not in the money."""
    return panels.stat(
        3,
        "Unpriced calls",
        [
            now(
                f"sum(claw_unpriced_calls_total{{{GATEWAY}}}) or 0 * count(claw_model_calls_total{{{GATEWAY}}})",
                "calls",
            )
        ],
        unit="none",
        decimals=0,
        description="Calls with tokens but neither a reported cost nor a known price, ever. They are missing from "
        "every sum of money: give the model a price in OpenClaw's configuration.",
        no_value="No data",
        steps=panels.ZERO_IS_GOOD_WARN,
        width=4,
    )


def drift() -> dashboard.Panel:
    """Against the gateway's own books. The metric is absent while the gateway is asked, every five minutes."""
    return panels.stat(
        4,
        "Drift",
        [
            now(
                f"max(abs(last_over_time(claw_reconcile_drift_ratio{{{GATEWAY}}}[15m]))"
                f" or abs(last_over_time(claw_reconcile_cost_drift_ratio{{{GATEWAY}}}[15m])))",
                "largest",
            )
        ],
        unit="percentunit",
        decimals=2,
        description="Largest difference, over the classes of tokens and the cost, between our totals and the gateway's "
        "own usage, as last compared. More than 2 % is an error of one of the two.",
        no_value="Not reconciled",
        steps=panels.DRIFT,
        width=3,
    )


def lag() -> dashboard.Panel:
    """What is there and not yet read."""
    return panels.stat(
        5,
        "Not yet read",
        [now(f"sum by (source) (claw_source_lag_bytes{{{GATEWAY}}})", "{{source}}")],
        unit="bytes",
        description="Bytes (SQLite: rows) of each source that are present and not yet read. It should be near zero.",
        no_value="No source",
        width=4,
    )


def first_scan() -> dashboard.Panel:
    """Progress."""
    return panels.stat(
        6,
        "First scan",
        [now(f"min(claw_ingest_progress_ratio{{{GATEWAY}}})", "done")],
        unit="percentunit",
        decimals=0,
        description="Share of the first scan that is done. Tokens and money are shown from its end on.",
        no_value="Not started",
        steps=((None, config.WARN), (1, config.OK)),
        width=3,
    )


def collectors() -> dashboard.Panel:
    """One row a collector."""
    return panels.table(
        10,
        "Collectors",
        [
            rows(
                f"min by (gateway, collector) (lobservatory_collector_success{{{GATEWAY}}})"
                f" or min by (gateway, collector) (lobservatory_collector_enabled{{{GATEWAY}}} == 0) - 1"
            ),
            rows(
                "max by (gateway, collector) "
                f"(lobservatory_collector_last_success_timestamp_seconds{{{GATEWAY}}}) * 1000"
            ),
            rows(f"max by (gateway, collector) (lobservatory_collector_duration_seconds{{{GATEWAY}}})"),
            rows(f"max by (gateway, collector) (lobservatory_collector_failures_total{{{GATEWAY}}})"),
        ],
        description="Each collector: did its last refresh work (or is it off), when was the last that did, how long "
        "did it take, how many ever failed. One broken collector empties its own panels only.",
        no_value="No exporter",
        sort_by="Collector",
        descending=False,
        transformations=panels.merged(
            {
                "collector": "Collector",
                "Value #A": "State",
                "Value #B": "Last success",
                "Value #C": "Took",
                "Value #D": "Failures",
                "gateway": "Gateway",
            }
        ),
        overrides=[
            panels.badge("State", OUTCOME, width=60),
            panels.override("Last success", unit="dateTimeFromNow", custom__width=125),
            panels.override("Took", unit="s", custom__width=65),
            panels.count_badge("Failures", panels.ZERO_IS_GOOD_WARN, width=75),
            panels.override("Gateway", custom__width=80),
        ],
        width=10,
        height=12,
    )


def sources() -> dashboard.Panel:
    """One row a source."""
    return panels.table(
        11,
        "Sources",
        [
            rows(f"min by (gateway, source) (claw_source_up{{{GATEWAY}}})"),
            rows(f"min by (gateway, source) (claw_source_schema_known{{{GATEWAY}}})"),
            rows(f"sum by (gateway, source) (claw_source_files{{{GATEWAY}}})"),
            rows(f"sum by (gateway, source) (claw_source_entries_total{{{GATEWAY}}})"),
            rows(f"max by (gateway, source) (claw_source_last_entry_timestamp_seconds{{{GATEWAY}}}) * 1000"),
            rows(f"sum by (gateway, source) (claw_duplicate_entries_total{{{GATEWAY}}})"),
            rows(f"sum by (gateway, source) (claw_rejected_entries_total{{{GATEWAY}}})"),
        ],
        description="Each kind of session store: can it be read, is its schema known, how much was read, the newest "
        "entry, what was met twice (and counted once) and what was refused. An unknown schema is an alert, never $0.",
        no_value="No source",
        sort_by="Source",
        descending=False,
        transformations=panels.merged(
            {
                "source": "Source",
                "Value #A": "Readable",
                "Value #B": "Schema",
                "Value #C": "Files",
                "Value #D": "Entries",
                "Value #E": "Newest entry",
                "Value #F": "Twice",
                "Value #G": "Rejected",
                "gateway": "Gateway",
            }
        ),
        overrides=[
            panels.override("Gateway", custom__width=72),
            panels.badge("Readable", {"1": ("yes", config.OK), "0": ("no", config.BAD)}, width=80),
            panels.badge("Schema", {"1": ("known", config.OK), "0": ("unknown", config.BAD)}, width=80),
            panels.override("Files", custom__width=55),
            panels.override("Entries", custom__width=70),
            panels.override("Newest entry", unit="dateTimeFromNow", custom__width=122),
            panels.override("Twice", custom__width=58, decimals=0),
            panels.count_badge("Rejected", panels.ZERO_IS_GOOD_WARN, width=75),
        ],
        width=14,
        height=12,
    )


def entries_read() -> dashboard.Panel:
    """By source."""
    return panels.timeseries(
        20,
        "Entries read",
        [
            series(
                f"60 * sum by (source) (rate(claw_source_entries_total{{{GATEWAY}}}[$__rate_interval]))", "{{source}}"
            )
        ],
        unit="cpm",
        description="Entries read a minute by kind of store.",
        no_value="Nothing read yet",
        stacked=True,
        width=5,
    )


def rejected() -> dashboard.Panel:
    """By reason."""
    return panels.timeseries(
        21,
        "Rejected, by reason",
        [
            series(
                f"60 * sum by (source, reason) (rate(claw_rejected_entries_total{{{GATEWAY}}}[$__rate_interval])) > 0",
                "{{source}} {{reason}}",
            )
        ],
        unit="cpm",
        description="Entries or fields a minute that were refused, by reason. Each is a line that nobody counts.",
        no_value="Nothing was rejected in this time range",
        bars=True,
        stacked=True,
        points=config.FEW_POINTS,
        width=5,
    )


def drift_by_class() -> dashboard.Panel:
    """Over time."""
    return panels.timeseries(
        22,
        "Drift by class",
        [
            series(f"max by (token_type) (claw_reconcile_drift_ratio{{{GATEWAY}}})", "{{token_type}}"),
            series(f"max(claw_reconcile_cost_drift_ratio{{{GATEWAY}}})", "cost"),
        ],
        unit="percentunit",
        description="Our totals against the gateway's own usage, by class of tokens and in cost; 0 is agreement.",
        no_value="Not reconciled",
        colours=config.TOKEN_COLOURS,
        min_val=None,
        steps=((None, config.MUTED), (0.02, config.BAD)),
        show_steps=True,
        width=6,
    )


def drift_by_agent() -> dashboard.Panel:
    """Whose numbers disagree."""
    newest = f"last_over_time({{}}{{{{{GATEWAY}}}}}[15m])"
    tokens, cost = (newest.format(f"claw_reconcile_agent_{name}_ratio") for name in ("drift", "cost_drift"))
    return panels.table(
        23,
        "Drift by agent",
        [
            rows(f"max by (gateway, agent) (abs({tokens}))"),
            rows(f"max by (gateway, agent) (abs({cost}))"),
        ],
        unit="percentunit",
        description="Largest difference, over the classes of tokens, and that of the cost, between our totals of each "
        "agent and what the gateway says of its sessions, as last compared (claw_reconcile_agent_drift_ratio). It "
        "names the agent behind a drift.",
        no_value="Not reconciled by agent",
        sort_by="Tokens",
        transformations=panels.merged(
            {"agent": "Agent", "Value #A": "Tokens", "Value #B": "Cost", "gateway": "Gateway"}
        ),
        overrides=[
            panels.drift_badge("Tokens"),
            panels.drift_badge("Cost"),
            panels.override("Gateway", custom__width=75),
        ],
        width=8,
        height=8,
    )


def rows_written() -> dashboard.Panel:
    """By table."""
    return panels.timeseries(
        30,
        "Rows written",
        [
            series(
                f"60 * sum by (table) (rate(lobservatory_rows_written_total{{{GATEWAY}}}[$__rate_interval]))",
                "{{table}}",
            )
        ],
        unit="cpm",
        description="Rows committed a minute by table.",
        no_value="No database",
        stacked=True,
        width=8,
    )


def commit_failures() -> dashboard.Panel:
    """By reason."""
    return panels.timeseries(
        31,
        "Failures and overflows",
        [
            series(
                f"60 * sum by (reason) (rate(lobservatory_commit_failures_total{{{GATEWAY}}}[$__rate_interval])) > 0",
                "commit: {{reason}}",
            ),
            series(
                f"60 * sum by (metric) (rate(lobservatory_label_overflow_total{{{GATEWAY}}}[$__rate_interval])) > 0",
                "overflow: {{metric}}",
            ),
            series(
                f"60 * sum(rate(lobservatory_poison_rows_total{{{GATEWAY}}}[$__rate_interval])) > 0", "rows kept aside"
            ),
            series(
                f"60 * sum by (reason) (rate(lobservatory_spans_dropped_total{{{GATEWAY}}}[$__rate_interval])) > 0",
                "traces: {{reason}}",
            ),
        ],
        unit="cpm",
        description="A minute: commits that failed (they are retried), label values replaced by 'other', rows that the "
        "database refused and that were kept aside, and traces that were given up.",
        no_value="Nothing failed or overflowed in this time range",
        bars=True,
        stacked=True,
        points=config.FEW_POINTS,
        width=8,
    )


def ourselves() -> dashboard.Panel:
    """What watching costs."""
    return panels.timeseries(
        32,
        "What watching costs",
        [
            series(f"sum(rate(lobservatory_cpu_seconds_total{{{GATEWAY}}}[$__rate_interval]))", "CPU (processors)"),
            series(f"max(lobservatory_scrape_duration_seconds{{{GATEWAY}}})", "rendering a scrape (s)"),
            series(f"sum(lobservatory_resident_memory_bytes{{{GATEWAY}}})", "memory"),
        ],
        unit="none",
        description="Our own CPU, memory and time to render a scrape.",
        no_value="No exporter",
        overrides=[panels.override("memory", unit="bytes", custom__axisPlacement="right")],
        width=8,
    )


def board() -> Board:
    """Trust."""
    return Board(
        ref=config.QUALITY,
        description="Can the numbers on the other boards be trusted? What was read, refused, met twice, and whether it "
        "agrees with the gateway's own books.",
        rows=[
            Row(100, "", [exporter(), database(), version(), unpriced(), drift(), lag(), first_scan()]),
            Row(101, "", [collectors(), sources()]),
            Row(102, "", [entries_read(), rejected(), drift_by_class(), drift_by_agent()]),
            Row(103, "", [rows_written(), commit_failures(), ourselves()]),
        ],
    )
