import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from exporter.collectors.approvals import ApprovalsCollector
from lobservatory.metrics.labels import APPROVAL_DECISIONS
from openclaw.state_records import ApprovalRecord, StateRecords, StateRecordsError
from store.gateway import approval_decisions, save_approvals
from store.pool import open_pool


def decided(counts):
    metric = "claw_exec_approval_decisions_total"
    return {(metric, "home", decision): counts.get(decision, 0) for decision in APPROVAL_DECISIONS}


def decisions(helpers, collector):
    return {key: value for key, value in helpers.shown(collector).items() if "decisions" in key[0]}


class Records:
    """The records of a gateway whose operator decides."""

    def __init__(self):
        self.settled = []

    def decide(self, status, decision):
        number = len(self.settled)
        at = 1_795_000_000_000 + number
        self.settled.append(ApprovalRecord(f"a{number}", status, "main", None, at, at, at, None, None, decision))

    def approvals(self):
        return list(reversed(self.settled))


@pytest.mark.req("S4-9", "P-12")
async def test_decisions_count_once_over_restarts(postgres_dsn, helpers):
    """Decided while nobody watched, counted by one exporter, met again by the next: each is one."""
    records = Records()
    records.decide("allowed", "allow-once")
    records.decide("denied", "deny")
    for expected, decision in (
        ({"allowed_once": 1, "denied": 1}, ("allowed", "allow-always")),
        ({"allowed_once": 1, "denied": 1, "allowed_always": 1}, ("expired", "deny")),
        ({"allowed_once": 1, "denied": 1, "allowed_always": 1, "expired": 1}, ("cancelled", "deny")),
    ):
        async with open_pool(postgres_dsn, name="approvals") as pool:

            async def save(rows, pool=pool):
                async with pool.connection() as connection:
                    await save_approvals(connection, rows)

            async def count(pool=pool):
                async with pool.connection() as connection:
                    return await approval_decisions(connection, "home")

            collector = ApprovalsCollector("home", records, save=save, decisions=count)
            await collector.refresh()
            await collector.refresh()
        assert decisions(helpers, collector) == decided(expected)
        records.decide(*decision)


@pytest.mark.req("S4-9")
async def test_decisions_stay_while_the_database_is_away(helpers):
    records, answers = Records(), [{"denied": 3}, None]

    async def count():
        return answers.pop(0)

    collector = ApprovalsCollector("home", records, decisions=count)
    assert not decisions(helpers, collector), "nothing is claimed before the rows were asked"
    for _ in range(2):
        await collector.refresh()
        assert decisions(helpers, collector) == decided({"denied": 3})


@pytest.mark.req("S4-9")
async def test_without_a_database_decisions_count_from_the_start(helpers):
    records = Records()
    records.decide("denied", "deny")
    collector = ApprovalsCollector("home", records)
    await collector.refresh()
    assert decisions(helpers, collector) == decided({})
    records.decide("allowed", "allow-always")
    for _ in range(2):
        await collector.refresh()
        assert decisions(helpers, collector) == decided({"allowed_always": 1})
    records.decide("expired", "deny")
    await collector.refresh()
    assert decisions(helpers, collector) == decided({"allowed_always": 1, "expired": 1})


@pytest.mark.req("S4-9")
async def test_settled_approvals_are_rows_and_expiry_is_told_apart(newer_state_dir, helpers):
    saved = []

    async def save(rows):
        saved.extend(rows)

    collector = ApprovalsCollector("home", StateRecords(newer_state_dir), save=save)
    await collector.refresh()
    assert helpers.shown(collector)["claw_exec_approvals_pending", "home"] == 0
    assert {row.status: row.decision for row in saved} == {
        "allowed": "allow-once",
        "denied": "deny",
        "expired": "deny",
    }
    assert sorted((row.status, row.terminal_reason) for row in saved) == [
        ("allowed", "user"),
        ("denied", "user"),
        ("expired", "timeout"),
    ]
    assert all(row.command is None and row.agent == "guarded" for row in saved)


@pytest.mark.req("S4-9")
async def test_a_pending_approval_has_an_age_and_an_expiry(newer_state_dir, helpers):
    with closing(sqlite3.connect(newer_state_dir / "state" / "openclaw.sqlite")) as connection:
        connection.create_function("octet_length", 1, lambda text: len(str(text).encode()), deterministic=True)
        connection.execute("PRAGMA ignore_check_constraints = 1")
        for number, created in enumerate((1795224000000, 1795223000000)):
            connection.execute(
                "INSERT INTO operator_approvals (approval_id, resolution_ref, kind, status, presentation_json,"
                " reviewer_device_ids_json, audience_session_keys_json, runtime_epoch, created_at_ms, expires_at_ms,"
                " updated_at_ms) VALUES (?, ?, 'exec', 'pending', '{}', '[]', '[]', 'e', ?, ?, ?)",
                [f"p{number}", f"{number:043d}", created, created + 1_800_000, created],
            )
        connection.commit()
    collector = ApprovalsCollector("home", StateRecords(newer_state_dir), now=lambda: datetime(2027, 1, 1, tzinfo=UTC))
    await collector.refresh()
    assert helpers.shown(collector) == {
        ("claw_exec_approvals_pending", "home"): 2,
        ("claw_exec_approvals_expired", "home"): 0,
        **decided({}),
        ("claw_exec_approval_oldest_timestamp_seconds", "home"): 1795223000,
        ("claw_exec_approval_next_expiry_timestamp_seconds", "home"): 1795224800,
    }


async def test_a_version_without_approvals_is_no_failure(tmp_path, helpers):
    collector = ApprovalsCollector("home", StateRecords(tmp_path))
    await collector.refresh()
    assert not helpers.shown(collector)


async def test_a_broken_database_is_a_failure_and_shows_nothing(newer_state_dir, helpers):
    (newer_state_dir / "state" / "openclaw.sqlite").write_bytes(b"not a database at all" * 100)
    collector = ApprovalsCollector("home", StateRecords(newer_state_dir), now=lambda: datetime(2027, 1, 1, tzinfo=UTC))
    with pytest.raises(StateRecordsError, match="not a database"):
        await collector.refresh()
    assert not helpers.shown(collector)
