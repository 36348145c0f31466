from datetime import UTC, datetime

import pytest

from openclaw.schedule import describe, next_run, period_seconds

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)  # a Friday


@pytest.mark.req("P-8", "S1-3")
@pytest.mark.parametrize(
    ("schedule", "period", "following", "text"),
    [
        (
            {"kind": "cron", "expr": "0 3 * * *", "tz": "UTC"},
            86_400,
            "2026-11-21T03:00:00+00:00",
            "0 3 * * * (UTC)",
        ),
        ({"kind": "cron", "expr": "*/15 * * * *"}, 900, "2026-11-20T12:15:00+00:00", "*/15 * * * *"),
        ({"kind": "cron", "expr": "0 */15 * * * *"}, 900, "2026-11-20T12:15:00+00:00", "0 */15 * * * *"),
        # Working days only: the longest gap is the weekend, so that Sunday is not "missed".
        ({"kind": "cron", "expr": "0 9 * * 1-5"}, 3 * 86_400, "2026-11-23T09:00:00+00:00", "0 9 * * 1-5"),
        (
            {"kind": "cron", "expr": "30 8 * * *", "tz": "Europe/Berlin"},
            86_400,
            "2026-11-21T07:30:00+00:00",
            "30 8 * * * (Europe/Berlin)",
        ),
        (
            {"kind": "every", "everyMs": 1_800_000, "anchorMs": 900_670},
            1800,
            "2026-11-20T12:15:00.670000+00:00",
            "every 30m",
        ),
        (
            {"kind": "at", "at": "2026-11-21T03:00:00Z"},
            None,
            "2026-11-21T03:00:00+00:00",
            "at 2026-11-21T03:00:00+00:00",
        ),
        ({"kind": "at", "atMs": 1_000}, None, None, "at 1970-01-01T00:00:01+00:00"),
        ({"kind": "cron", "expr": "nonsense"}, None, None, "nonsense"),
        ({"kind": "cron", "expr": "0 0 30 2 *"}, None, None, "0 0 30 2 *"),
        ({"kind": "cron", "expr": 7, "tz": "Mars/Olympus"}, None, None, "7 (Mars/Olympus)"),
        ({"kind": "every", "everyMs": -5}, None, None, "every ?"),
        ({"kind": "every", "everyMs": True}, None, None, "every ?"),
        ({"kind": "lunar"}, None, None, "lunar"),
        ({}, None, None, "unknown"),
    ],
)
def test_a_schedule_has_a_period_a_next_run_and_a_readable_form(schedule, period, following, text):
    assert period_seconds(schedule, NOON) == period
    assert next_run(schedule, NOON) == (datetime.fromisoformat(following) if following else None)
    assert describe(schedule) == text


def test_the_clock_change_does_not_move_the_wall_clock_time():
    before = datetime(2026, 10, 24, 20, 0, tzinfo=UTC)  # Berlin leaves summer time on the 25th
    schedule = {"kind": "cron", "expr": "0 9 * * *", "tz": "Europe/Berlin"}
    assert next_run(schedule, before) == datetime(2026, 10, 25, 8, 0, tzinfo=UTC)
    assert period_seconds(schedule, datetime(2026, 10, 23, 20, 0, tzinfo=UTC)) == 25 * 3600
