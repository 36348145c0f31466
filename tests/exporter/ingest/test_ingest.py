"""From session stores to counters: exact, once, over restarts and losses of the ledger."""

import asyncio
import contextlib
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import psycopg
import pytest

from exporter.ingest.scan import scan
from openclaw.state_dir import load_config
from openclaw.stores import SourceError
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.contract import LedgerHeldError, LedgerUnavailableError
from store.ledger.shown import ShownTotals

COST = "claw_cost_usd_total"
CALLS = "claw_model_calls_total"


def compare_with_scan(running, state_dir):
    truth = scan(state_dir)
    assert running.exact(CALLS) == truth.total.calls
    assert running.exact(COST) == truth.total.billed
    assert running.total(COST) == pytest.approx(float(truth.total.billed), abs=1e-12)
    by_type = {}
    for labels, value in running.values("claw_tokens_total").items():
        by_type[labels[-1]] = by_type.get(labels[-1], 0) + value
    assert [by_type.get(name, 0) for name in ("input", "output", "cache_read", "cache_write")] == truth.total.tokens[:4]
    assert running.total("claw_reasoning_tokens_total") == truth.total.tokens[4]
    assert running.total("claw_tool_calls_started_total") == sum(tool.calls for tool in truth.tools.values())
    errors = sum(value for labels, value in running.values("claw_tool_calls_total").items() if labels[-1] == "error")
    assert errors == sum(tool.errors for tool in truth.tools.values())
    assert running.total("claw_duplicate_entries_total") == truth.duplicates
    for agent, group in truth.by_agent.items():
        calls = {labels: value for labels, value in running.values(CALLS).items() if labels[0] == agent}
        assert sum(calls.values()) == group.calls
    entries = running.values("claw_source_entries_total")
    for source, counts in truth.sources.items():
        assert entries.get((source,), 0) == counts.entries
    return truth


@pytest.mark.req("P-1")
async def test_the_samples_give_the_same_totals_as_scan_and_a_restart_changes_nothing(state_dir, make_ledger, life):
    async with life(state_dir, make_ledger()).running() as first:
        truth = compare_with_scan(first, state_dir)
        assert truth.total.calls > 20
        assert first.values("claw_ingest_progress_ratio") == {(): 1.0}
        before = first.registry.render()
    async with life(state_dir, make_ledger()).running() as second:
        compare_with_scan(second, state_dir)
        for metric in (CALLS, COST, "claw_tokens_total", "claw_tool_calls_total", "claw_source_bytes_total"):
            shown = [line for line in before.splitlines() if line.startswith(metric)]
            assert shown
            assert sorted(shown) == sorted(
                line for line in second.registry.render().splitlines() if line.startswith(metric)
            )


@pytest.mark.parametrize("make_ledger", ["postgres"], indirect=True)
async def test_rows_and_metrics_agree_to_the_last_digit(state_dir, make_ledger, life, postgres_owner_dsn):
    async with life(state_dir, make_ledger()).running() as running:
        with psycopg.connect(postgres_owner_dsn) as connection:
            row = connection.execute(
                "SELECT count(*), sum(cost_usd), sum(input_tokens), sum(output_tokens) FROM model_calls"
            ).fetchone()
        assert row[0] == running.exact(CALLS)
        assert row[1] == running.exact(COST)
        tokens = running.values("claw_tokens_total")
        assert row[2] == sum(value for labels, value in tokens.items() if labels[-1] == "input")
        assert row[3] == sum(value for labels, value in tokens.items() if labels[-1] == "output")
        written = running.values("lobservatory_rows_written_total")
        assert written["model_calls",] == row[0]


async def test_an_appended_entry_is_counted_and_a_torn_line_only_when_it_is_whole(
    files_dir, make_ledger, life, transcript, call
):
    session = transcript()
    session.append(call("0.1"))
    async with life(files_dir, make_ledger()).running() as running:
        assert running.exact(COST) == Decimal("0.1")
        line = call("0.02")
        session.append(line[:40])
        session.append(call("0")[:0])
        await running.ingest.look()
        assert running.exact(COST) == Decimal("0.1")
        session.append(line[40:])
        await running.until(lambda: running.exact(COST) == Decimal("0.12"))
        assert running.exact(CALLS) == 2


async def test_new_agents_and_sessions_are_noticed_without_a_restart(files_dir, make_ledger, life, transcript, call):
    async with life(files_dir, make_ledger()).running() as running:
        assert running.total(CALLS) == 0
        transcript("research").append(call("0.5"))
        await running.until(lambda: running.exact(CALLS) == 1)
        transcript("research").append(call("0.25"))
        transcript("ops").append(call("0.25"))
        await running.until(lambda: running.exact(CALLS) == 3)
        agents = {labels[0] for labels in running.values(CALLS)}
        assert agents == {"research", "ops"}


async def test_accounting_is_absent_before_the_first_scan_has_ended(files_dir, make_ledger, life, transcript, call):
    transcript().append(call("0.5"))
    alive = life(files_dir, make_ledger())
    assert alive.values(COST, prometheus=True) == {}
    assert alive.values("claw_ingest_progress_ratio") == {(): 0.0}
    async with alive.running():
        # The all-time total at once: there is no earlier sample to rise from.
        assert list(alive.values(COST, prometheus=True).values()) == [0.5]


async def test_what_was_called_while_we_were_away_is_born_live_after_a_restart(
    files_dir, make_ledger, life, transcript, call
):
    session = transcript()
    session.append(call("0.5"))
    async with life(files_dir, make_ledger()).running():
        pass
    session.append(call("0.25", model="new-model"))
    async with life(files_dir, make_ledger()).running() as second:
        await second.until(lambda: second.exact(COST) == Decimal("0.75"))
        at_first = {labels[2]: value for labels, value in second.values(COST, prometheus=True).items()}
        assert at_first == {"fake-1": 0.5, "new-model": 0.0}
        then = {labels[2]: value for labels, value in second.values(COST, prometheus=True).items()}
        assert then == {"fake-1": 0.5, "new-model": 0.25}


class Flaky:
    """A ledger that is away when told so; `lose` breaks the next commit after it was kept."""

    def __init__(self, ledger):
        self._ledger = ledger
        self.away = False
        self.lose = False

    def __getattr__(self, name):
        if self.away and name in {"open", "positions", "totals"}:
            raise LedgerUnavailableError("away")
        return getattr(self._ledger, name)

    @contextlib.asynccontextmanager
    async def transaction(self):
        if self.away:
            raise LedgerUnavailableError("away")
        async with self._ledger.transaction() as transaction:
            yield transaction
        if self.lose:
            self.lose = False
            raise LedgerUnavailableError("the connection was lost during the commit")


async def test_the_ledger_away_then_back_loses_and_doubles_nothing(files_dir, make_ledger, life, transcript, call):
    ledger = Flaky(make_ledger())
    slept = asyncio.Event()

    async def sleep(seconds):
        slept.set()
        await asyncio.sleep(min(seconds, 0.01))

    session = transcript()
    session.append(call("0.5"))
    async with life(files_dir, ledger, sleep=sleep).running() as running:
        ledger.away = True
        session.append(call("0.25"))
        await running.until(lambda: not running.ingest.status.ledger_up)
        assert running.total(COST) == 0.5  # metrics go on, with what is committed
        assert running.total("lobservatory_commit_failures_total") >= 1
        session.append(call("0.125"))
        ledger.away = False
        await running.until(lambda: running.exact(COST) == Decimal("0.875"))
        assert running.ingest.status.ledger_up
        assert running.exact(CALLS) == 3


async def test_a_commit_whose_answer_was_lost_is_not_counted_twice(files_dir, make_ledger, life, transcript, call):
    ledger = Flaky(make_ledger())

    async def sleep(_seconds):
        await asyncio.sleep(0)

    session = transcript()
    session.append(call("0.5"))
    async with life(files_dir, ledger, sleep=sleep).running() as running:
        ledger.lose = True
        session.append(call("0.25"))
        await running.until(lambda: running.exact(COST) == Decimal("0.75"))
        session.append(call("0.125"))
        await running.until(lambda: running.exact(COST) == Decimal("0.875"))
        assert running.exact(CALLS) == 3


async def test_the_ledger_away_at_the_start_is_waited_for(files_dir, make_ledger, life, transcript, call):
    ledger = Flaky(make_ledger())
    ledger.away = True
    transcript().append(call("0.5"))
    tries = 0

    async def sleep(_seconds):
        nonlocal tries
        tries += 1
        ledger.away = tries < 3
        await asyncio.sleep(0)

    async with life(files_dir, ledger, sleep=sleep).running() as running:
        assert running.exact(COST) == Decimal("0.5")
        assert tries >= 3


async def test_a_second_ingest_of_the_same_books_refuses(files_dir, make_ledger, life):
    async def sleep(_seconds):
        await asyncio.sleep(0)

    times = iter(range(0, 10_000, 3))
    async with life(files_dir, make_ledger()).running():
        second = life(files_dir, make_ledger(), sleep=sleep, clock=lambda: next(times))
        with pytest.raises(LedgerHeldError, match="another exporter"):
            await second.ingest.run()


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("exporter.ingest.batch.BATCH_ROWS", 5)


@pytest.mark.usefixtures("small_batches")
async def test_a_first_scan_that_was_stopped_goes_on_where_it_was(files_dir, make_ledger, life, transcript, call):
    for _ in range(4):
        session = transcript()
        for _ in range(6):
            session.append(call("0.01"))
    first = life(files_dir, make_ledger())
    await first.ledger.open()
    transaction, begun = first.ledger.transaction, []

    def stop_after_two():
        if len(begun) == 2:
            raise asyncio.CancelledError
        begun.append(True)
        return transaction()

    first.ledger.transaction = stop_after_two
    with pytest.raises(asyncio.CancelledError):
        await first.ingest.look()
    await first.ledger.close()
    assert 0 < first.exact(CALLS) < 24
    assert first.values(CALLS) == {}  # a part of the truth is not shown
    async with life(files_dir, make_ledger()).running() as second:
        assert second.exact(CALLS) == 24
        assert second.exact(COST) == Decimal("0.24")
        assert second.total("claw_duplicate_entries_total") == 0


async def test_a_source_that_cannot_be_read_costs_only_itself(files_dir, make_ledger, life, transcript, call):
    transcript().append(call("0.5"))
    (files_dir / "agents" / "ops" / "agent").mkdir(parents=True)
    broken = files_dir / "agents" / "ops" / "agent" / "openclaw-agent.sqlite"
    broken.write_bytes(b"this is no database, however long one looks at it" * 100)
    async with life(files_dir, make_ledger()).running() as running:
        assert running.exact(COST) == Decimal("0.5")
        assert running.values("claw_source_up") == {("jsonl",): 1, ("sqlite",): 0, ("archive",): 1}


async def test_sources_tell_files_lag_and_their_newest_entry(files_dir, make_ledger, life, transcript, call):
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    session = transcript()
    session.append(call("0.5", at=at))
    session.append(b'{"type":"mess')
    async with life(files_dir, make_ledger()).running() as running:
        assert running.values("claw_source_files")["jsonl",] == 1
        assert running.values("claw_source_lag_bytes")["jsonl",] == len(b'{"type":"mess')
        assert running.values("claw_source_last_entry_timestamp_seconds") == {("jsonl",): at.timestamp()}
        assert running.values("claw_source_schema_known")["sqlite",] == 1


async def test_models_that_were_called_tell_their_list_prices(state_dir, make_ledger, life):
    listed = {(price.provider, price.model): price for price in load_config(state_dir, environment={}).prices}
    for _ in range(2):  # a restart tells them before anything is read
        async with life(state_dir, make_ledger()).running() as running:
            prices = running.values("claw_model_token_price_usd")
            called = {labels[1:3] for labels in running.values("claw_model_calls_total")}
            assert {labels[:2] for labels in prices} == called & listed.keys() != set()
            for (provider, model, token_type), dollars in prices.items():
                million = getattr(listed[provider, model], token_type)
                assert dollars == pytest.approx(float(million) / 1e6)


async def test_rejected_lines_are_counted_by_reason(files_dir, make_ledger, life, transcript, call):
    session = transcript()
    session.append(b"not json\n[1,2]\n")
    session.append(call("0.5"))
    async with life(files_dir, make_ledger()).running() as running:
        assert running.exact(COST) == Decimal("0.5")
        reasons = {labels[1]: value for labels, value in running.values("claw_rejected_entries_total").items()}
        assert reasons == {"bad_json": 1, "not_object": 1}


async def test_durations_of_live_calls_go_into_histograms(files_dir, make_ledger, life, transcript, call):
    session = transcript()
    session.append(call("0.5"))
    async with life(files_dir, make_ledger()).running() as running:
        now = datetime.now(UTC)
        line = call("0.5", at=now).replace(
            b'"role":"assistant"', b'"role":"assistant","timestamp":%d' % int((now.timestamp() - 3) * 1000)
        )
        session.append(line)
        await running.until(lambda: running.exact(CALLS) == 2)
        counts = running.values("claw_model_call_duration_seconds_count")
        assert counts == {("fake", "fake-1"): 1}
        buckets = running.values("claw_model_call_duration_seconds_bucket")
        assert buckets["fake", "fake-1", "2.5"] == 0
        assert buckets["fake", "fake-1", "5.0"] == 1


async def test_a_lost_checkpoint_begins_a_new_epoch_with_the_full_history(files_dir, tmp_path, life, transcript, call):
    session = transcript()
    session.append(call("0.5"))
    ledger = CheckpointLedger(tmp_path / "data", "g")
    async with life(files_dir, ledger).running():
        pass
    ledger.path.unlink()
    async with life(files_dir, CheckpointLedger(tmp_path / "data", "g")).running() as second:
        assert second.exact(COST) == Decimal("0.5")


@pytest.mark.req("P-2", "S2-14")
async def test_a_restored_backup_shows_no_fall(files_dir, tmp_path, life, transcript, call):
    """Its totals are older than what was shown: they are shown when the stores have told the rest again."""
    mark, session = tmp_path / "counted", transcript()
    session.append(call("0.5"))
    ledger = CheckpointLedger(tmp_path / "data", "g")
    async with life(files_dir, ledger, mark=mark).running():
        pass
    backup = ledger.path.read_bytes()
    session.append(call("0.25"))
    async with life(files_dir, CheckpointLedger(tmp_path / "data", "g"), mark=mark).running() as second:
        await second.until(lambda: second.exact(COST) == Decimal("0.75"))
    ledger.path.write_bytes(backup)
    third = life(files_dir, CheckpointLedger(tmp_path / "data", "g"), mark=mark)
    begin, shown = third.registry.begin, []
    third.registry.begin = lambda: (shown.append(third.exact(COST)), begin())
    async with third.running():
        assert shown == [Decimal("0.75")]
        assert third.values("claw_ingest_progress_ratio") == {(): 1.0}
    # A life later all is as ever: the totals are shown before the first look.
    fourth = life(files_dir, CheckpointLedger(tmp_path / "data", "g"), mark=mark)
    await fourth.ledger.open()
    await fourth.ingest._restoring.take_over()
    assert fourth.ingest.status.first_scan == "done"
    await fourth.ledger.close()


async def test_a_backup_restored_under_a_running_exporter_is_counted_again_but_not_shown_twice(
    files_dir, tmp_path, life, transcript, call
):
    session = transcript()
    session.append(call("0.5"))
    alive = life(files_dir, CheckpointLedger(tmp_path / "a", "g"))
    await alive.ledger.open()
    await alive.ingest.look()
    await alive.ledger.close()
    alive.ledger.path.unlink()  # empty books in the place of full ones
    alive.ingest.status.stage.doubt()
    await alive.ledger.open()
    session.append(call("0.25"))
    await alive.ingest.look()
    assert (alive.exact(COST), alive.exact(CALLS)) == (Decimal("0.75"), 2)
    assert {total.metric: total.value for total in await alive.ledger.totals()}[COST] == Decimal("0.75")
    await alive.ledger.close()


@pytest.fixture
def restored(files_dir, tmp_path, life, transcript, call):
    """Two sessions were counted; the ledger is of a time before the last calls; the one session was pruned since."""

    def alive():
        return life(files_dir, CheckpointLedger(tmp_path / "data", "g"), mark=tmp_path / "shown.sqlite")

    async def make():
        pruned, kept = transcript(), transcript()
        pruned.append(call("0.5"))
        kept.append(call("0.25"))
        one = alive()
        async with one.running():
            assert one.exact(COST) == Decimal("0.75")
        backup = one.ledger.path.read_bytes()
        pruned.append(call("1"))
        kept.append(call("2", model="newborn"))
        two = alive()
        async with two.running():
            await two.until(lambda: two.exact(COST) == Decimal("3.75"))
        two.ledger.path.write_bytes(backup)
        pruned.path.unlink()
        return kept

    return make, alive


@pytest.mark.req("P-2")
async def test_a_restore_after_a_prune_lowers_no_counter(restored, call, tmp_path):
    """What no store can tell again stays in the totals; what it tells again is counted once."""
    make, alive = restored
    kept = await make()
    third = alive()
    begin, shown = third.registry.begin, []
    third.registry.begin = lambda: (shown.append(third.exact(COST)), begin())
    async with third.running():
        assert shown == [Decimal("3.75")]
        assert (third.exact(COST), third.exact(CALLS)) == (Decimal("3.75"), 4)
        kept.append(call("0.125"))
        await third.until(lambda: third.exact(COST) == Decimal("3.875"))
        assert {total.metric: total.value for total in await third.ledger.totals()}[CALLS] > 0
    # The ledger itself has it now, whatever becomes of the file beside it.
    (tmp_path / "shown.sqlite").unlink()
    async with alive().running() as fourth:
        assert (fourth.exact(COST), fourth.exact(CALLS)) == (Decimal("3.875"), 5)


@pytest.mark.req("P-2")
async def test_a_restore_counts_nothing_twice_when_a_store_can_be_read_only_later(restored, call):
    """What a store cannot tell now is not lost yet: nothing is made up for before everything was read."""
    make, alive = restored
    kept = await make()
    third = alive()
    read, locked = third.stores.read, True

    def refuse(source, position, **options):
        if locked and kept.session_id in source.key:
            raise SourceError(f"{source.key}: cannot be read")
        return read(source, position, **options)

    third.stores.read = refuse
    async with third.running():
        assert third.exact(COST) == Decimal("3.75")
        locked = False
        await third.ingest.look()
        assert third.exact(COST) == Decimal("3.75")
        kept.append(call("0.125"))
        await third.until(lambda: third.exact(COST) == Decimal("3.875"))
    async with alive().running() as fourth:
        assert (fourth.exact(COST), fourth.exact(CALLS)) == (Decimal("3.875"), 5)


async def test_empty_books_begin_anew(restored):
    make, alive = restored
    await make()
    alive().ledger.path.unlink()
    for _ in range(2):
        async with alive().running() as one:
            assert one.exact(COST) == Decimal("2.25")  # what the stores hold


@pytest.mark.parametrize("content", [b"", b"no database at all" * 400])
async def test_a_broken_file_of_what_was_shown_stops_nothing(restored, content, call, tmp_path):
    make, alive = restored
    kept = await make()
    path = tmp_path / "shown.sqlite"
    path.write_bytes(content)
    async with alive().running() as one:
        kept.append(call("0.125"))
        await one.until(lambda: one.exact(COST) == Decimal("2.875"))  # 0.5 of the backup, 2.25 and 0.125
    assert ShownTotals(path).load()[COST, ("g", "main", "fake", "fake-1", "unknown")] > 0


@pytest.mark.req("P-2")
async def test_pruned_files_never_lower_a_total(files_dir, make_ledger, life, transcript, call):
    session = transcript()
    session.append(call("0.5"))
    async with life(files_dir, make_ledger()).running() as first:
        session.path.unlink()
        await first.ingest.look()
        assert first.exact(COST) == Decimal("0.5")
    async with life(files_dir, make_ledger()).running() as second:
        assert second.exact(COST) == Decimal("0.5")


async def test_a_write_to_a_known_transcript_is_read_without_looking_at_all_others(
    files_dir, make_ledger, life, transcript, call
):
    session = transcript()
    session.append(call("0.5"))
    async with life(files_dir, make_ledger()).running() as running:
        await running.until(lambda: running.ingest.status.looked)
        running.stores.discover = lambda: pytest.fail("looked at all of them")
        session.append(call("0.25"))
        await running.until(lambda: running.exact(COST) == Decimal("0.75"))


@pytest.mark.req("P-5")
async def test_an_unknown_schema_is_told_and_is_never_a_silent_zero(state_dir, make_ledger, life):
    databases = list(state_dir.glob("agents/*/agent/openclaw-agent.sqlite"))
    for path in databases:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 9999")
    async with life(state_dir, make_ledger()).running() as running:
        known = running.values("claw_source_schema_known")
        assert known["sqlite",] == (0 if databases else 1)
        assert known["jsonl",] == 1
        assert running.total(CALLS) > 0
