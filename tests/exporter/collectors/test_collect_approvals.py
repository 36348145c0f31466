import sqlite3
from contextlib import closing
from datetime import UTC, datetime

import pytest

from exporter.collectors.approvals import ApprovalsCollector
from openclaw.state_records import StateRecords, StateRecordsError


@pytest.mark.req("S4-9")
async def test_settled_approvals_are_rows_and_expiry_is_told_apart(newer_state_dir, helpers):
    saved = []

    async def save(rows):
        saved.extend(rows)

    collector = ApprovalsCollector("home", StateRecords(newer_state_dir), save=save)
    await collector.refresh()
    assert helpers.shown(collector)["claw_exec_approvals_pending", "home"] == 0
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
