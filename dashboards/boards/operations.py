"""Operations and tasks: what is being done, how long it takes, how much gets done."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard

from dashboards import config, panels, variables
from dashboards.board import Board, Row
from dashboards.queries import sql_rows, sql_series

STATUS_WORDS: Final = {
    "pending": ("pending", config.NO_GROUND),
    "in_progress": ("in progress", config.NEUTRAL),
    "completed": ("completed", config.OK),
    "failed": ("failed", config.BAD),
    "cancelled": ("cancelled", config.WARN),
}
TASK_WORDS: Final = {
    "inbox": ("inbox", config.NO_GROUND),
    "todo": ("to do", config.NO_GROUND),
    "assigned": ("assigned", "light-blue"),
    "in_progress": ("in progress", config.NEUTRAL),
    "review": ("review", config.WARN),
    "done": ("done", config.OK),
}
PRIORITY_WORDS: Final = {
    "low": ("low", config.NO_GROUND),
    "medium": ("medium", config.NO_GROUND),
    "high": ("high", config.WARN),
    "urgent": ("urgent", config.BAD),
}


def operations_by_status() -> dashboard.Panel:
    """Of the time range, but for what is open now."""
    return panels.stat(
        1,
        "Operations by status",
        [
            sql_rows(
                """
SELECT count(*) FILTER (WHERE status = 'pending') AS "pending",
       count(*) FILTER (WHERE status = 'in_progress') AS "in progress",
       count(*) FILTER (WHERE status = 'completed') AS "completed",
       count(*) FILTER (WHERE status = 'failed') AS "failed",
       count(*) FILTER (WHERE status = 'cancelled') AS "cancelled"
FROM operations
WHERE $__timeFilter(created_at) AND :gateways_or_none AND :agent_ids_or_none
"""
            )
        ],
        unit="none",
        decimals=0,
        description="Operations created in the time range, by their status now (view operations): runs, cron runs, "
        "webhooks, and what was posted from outside.",
        no_value="No database",
        overrides=[
            panels.override("in progress", color=panels.fixed(config.NEUTRAL)),
            panels.override("completed", color=panels.fixed(config.OK)),
            panels.override("failed", thresholds=panels.thresholds(panels.ZERO_IS_GOOD)),
        ],
        width=12,
    )


def tasks_by_status() -> dashboard.Panel:
    """All tasks."""
    return panels.stat(
        2,
        "Tasks by status",
        [
            sql_rows(
                """
SELECT count(*) FILTER (WHERE status = 'inbox') AS "inbox", count(*) FILTER (WHERE status = 'todo') AS "to do",
       count(*) FILTER (WHERE status = 'assigned') AS "assigned",
       count(*) FILTER (WHERE status = 'in_progress') AS "in progress",
       count(*) FILTER (WHERE status = 'review') AS "review", count(*) FILTER (WHERE status = 'done') AS "done"
FROM tasks
WHERE :gateways_or_none
LIMIT 1
"""
            )
        ],
        unit="none",
        decimals=0,
        description="Tasks of the board by status, all there are (view tasks). A full review column waits for a human.",
        no_value="No database",
        overrides=[
            panels.override(text, color=panels.fixed(colour))
            for text, colour in TASK_WORDS.values()
            if colour != config.NO_GROUND
        ],
        width=12,
    )


def throughput() -> dashboard.Panel:
    """What ended."""
    return panels.timeseries(
        10,
        "Operations ended",
        [
            sql_series(
                """
SELECT $__timeGroupAlias(completed_at, $__interval), status AS metric, count(*) AS ended
FROM operations
WHERE $__timeFilter(completed_at) AND :gateways_or_none AND :agent_ids_or_none
GROUP BY 1, 2
ORDER BY 1, 2
"""
            )
        ],
        unit="short",
        description="Operations that ended in each step of time, by how they ended (view operations). Red bars that "
        "repeat at one hour are a job that fails.",
        no_value="No operation ended in this time range",
        bars=True,
        stacked=True,
        interval="1m",
        points=config.FEW_POINTS,
        colours={"completed": config.OK, "failed": config.BAD, "cancelled": config.WARN},
    )


def cycle_time() -> dashboard.Panel:
    """By type."""
    return panels.table(
        11,
        "Time of operations",
        [
            sql_rows(
                """
SELECT type AS "Type", count(*) AS "Ended", count(*) FILTER (WHERE status = 'failed') AS "Failed",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS "p50",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS "p95", max(duration_ms) AS "Longest",
       sum(cost_usd)::float8 AS "Cost"
FROM operations
WHERE $__timeFilter(completed_at) AND :gateways_or_none AND :agent_ids_or_none
GROUP BY 1
ORDER BY 2 DESC
"""
            )
        ],
        description="How long operations took that ended in the time range, by type: median, 95th percentile and the "
        "longest.",
        no_value="No operation ended in this time range",
        overrides=[
            panels.count_badge("Failed", panels.ZERO_IS_GOOD, width=70),
            panels.override("p50", unit="ms"),
            panels.override("p95", unit="ms"),
            panels.override("Longest", unit="ms"),
            panels.override("Cost", unit="currencyUSD", decimals=4),
        ],
        height=8,
    )


def operations() -> dashboard.Panel:
    """The list."""
    return panels.table(
        20,
        "Operations",
        [
            sql_rows(
                """
SELECT name AS "Operation", type AS "Type", status AS "Status",
       CASE status WHEN 'completed' THEN 1 ELSE progress / 100.0 END AS "Progress",
       coalesce(current_step, activity) AS "Now", agent_id AS "Agent", created_at AS "Created",
       coalesce(duration_ms, CASE WHEN status = 'in_progress'
         THEN (extract(epoch FROM now() - started_at) * 1000)::bigint END) AS "Duration",
       cost_usd::float8 AS "Cost", source AS "From", gateway AS "Gateway"
FROM operations
WHERE $__timeFilter(created_at) AND :gateways_or_none AND :agent_ids_or_none
ORDER BY status = 'in_progress' DESC, created_at DESC
LIMIT 300
"""
            )
        ],
        description="The newest 300 operations of the time range, those in progress first (view operations). The live "
        "board moves by itself; its link is at the top.",
        no_value="No operation in this time range",
        overrides=[
            panels.override("Operation", custom__minWidth=205),
            panels.override("Type", custom__width=100),
            panels.badge("Status", STATUS_WORDS, width=95),
            panels.ratio_gauge("Progress", ((None, config.NEUTRAL),), width=110),
            panels.override("Agent", custom__width=160),
            panels.override("From", custom__width=65),
            panels.override("Gateway", custom__width=75),
            panels.override("Created", unit="dateTimeFromNow", custom__width=120),
            panels.override("Duration", unit="ms", custom__width=90),
            panels.override("Cost", unit="currencyUSD", decimals=4, custom__width=80),
        ],
        width=24,
    )


def tasks_done() -> dashboard.Panel:
    """Throughput."""
    return panels.timeseries(
        30,
        "Tasks done by day",
        [
            sql_series(
                """
SELECT $__timeGroupAlias(h.at, '1d'), count(DISTINCT h.task_id) AS done
FROM task_status_history AS h
WHERE $__timeFilter(h.at) AND h.to_status = 'done'
  AND h.task_id NOT IN (SELECT id FROM tasks WHERE NOT :gateways_or_none)
GROUP BY 1
ORDER BY 1
"""
            )
        ],
        unit="short",
        description="Tasks that reached done, by day in UTC (view task_status_history). Deleted tasks still count.",
        no_value="No task was done in this time range",
        bars=True,
        interval="1d",
        colours={"done": config.OK},
        width=5,
    )


def task_cycle_time() -> dashboard.Panel:
    """From the start of work to done."""
    return panels.table(
        31,
        "Cycle time of tasks",
        [
            sql_rows(
                """
SELECT t.priority AS "Priority", count(*) AS "Done",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM h.done - h.begun)) AS "p50",
       percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM h.done - h.begun)) AS "p95",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM h.done - t.created_at)) AS "p50 since made"
FROM (
  SELECT task_id, min(at) FILTER (WHERE to_status = 'in_progress') AS begun,
         max(at) FILTER (WHERE to_status = 'done') AS done
  FROM task_status_history
  GROUP BY 1
) AS h
JOIN (SELECT id, priority, created_at FROM tasks WHERE :gateways_or_none) AS t ON t.id = h.task_id
WHERE $__timeFilter(h.done)
GROUP BY 1
ORDER BY 2 DESC
"""
            )
        ],
        description="From the start of work to done, of tasks done in the time range: median and 95th percentile by "
        "priority, and the median since they were made. A p95 far above the "
        "median is work that got stuck.",
        no_value="No task was done in this time range",
        overrides=[
            panels.badge("Priority", PRIORITY_WORDS, width=80),
            panels.override("Done", custom__width=50),
            panels.override("p50", unit="s"),
            panels.override("p95", unit="s"),
            panels.override("p50 since made", unit="s"),
        ],
        width=8,
        height=8,
    )


def oldest_tasks() -> dashboard.Panel:
    """What is not done."""
    return panels.table(
        32,
        "Open tasks",
        [
            sql_rows(
                """
SELECT title AS "Task", status AS "Status", priority AS "Priority", assigned_agent AS "Agent", due_date AS "Due",
       created_at AS "Created"
FROM tasks
WHERE status <> 'done' AND :gateways_or_none
ORDER BY due_date NULLS LAST, created_at
LIMIT 100
"""
            )
        ],
        description="100 tasks that are not done: those that are due first, then the oldest (view tasks).",
        no_value="No open task",
        overrides=[
            panels.override("Task", custom__minWidth=110),
            panels.badge("Status", TASK_WORDS, width=90),
            panels.badge("Priority", PRIORITY_WORDS, width=80),
            panels.override("Agent", custom__width=70),
            panels.override("Due", unit="dateTimeFromNow", custom__width=90),
            panels.override("Created", unit="dateTimeFromNow", custom__width=105),
        ],
        width=11,
        height=8,
    )


def board() -> Board:
    """Work."""
    return Board(
        ref=config.OPERATIONS,
        description="What is being done, how long it takes, and how much gets done.",
        extra_variables=[
            variables.agent(),
            variables.address(config.PAGES_VARIABLE, "Address of our pages", config.PAGES_URL),
        ],
        extra_links=[panels.way_out("Live pages", config.PAGES_VARIABLE, "/", "Operations as they move")],
        rows=[
            Row(100, "", [operations_by_status(), tasks_by_status()]),
            Row(101, "", [throughput(), cycle_time()]),
            Row(102, "", [operations()]),
            Row(103, "Tasks", [tasks_done(), task_cycle_time(), oldest_tasks()]),
        ],
    )
