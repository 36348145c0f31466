"""Whatever happens to files and databases between two looks, the totals are those of all calls ever seen, once.

A model of a gateway does to its stores all that gateways do; the observer is the exporter's own ingest, with its books
in the checkpoint and in PostgreSQL, over crashes before, in and after a commit, and over restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
import zstandard
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from exporter.accounting import Accountant, BillingPolicy, PriceBook
from exporter.ingest.ingest import Ingest
from exporter.ingest.scan import scan
from exporter.ingest.watch import Watch
from exporter.metrics.registry import Registry
from openclaw.stores import Stores
from store.ledger.checkpoint import CheckpointLedger
from store.ledger.contract import LedgerUnavailableError
from store.ledger.postgres import PostgresLedger
from tests.openclaw.state_builder import (
    BuiltSession,
    add_event,
    add_session,
    call,
    connect,
    header,
    sessions_folder,
    transcript,
    write_archive,
)

NEVER = 10**9
PICK = st.integers(0, 11)  # which of the sessions that it can happen to


class Unsteady:
    """A ledger that breaks at one of its commits: before it was kept, or after, when only the answer was lost."""

    def __init__(self, ledger):
        self._ledger = ledger
        self.breaks_after = NEVER
        self.kept = False

    def __getattr__(self, name):
        return getattr(self._ledger, name)

    @contextlib.asynccontextmanager
    async def transaction(self):
        self.breaks_after -= 1
        async with self._ledger.transaction() as transaction:
            yield transaction
            if self.breaks_after < 0 and not self.kept:
                raise LedgerUnavailableError("broken before the commit")
        if self.breaks_after < 0:
            raise LedgerUnavailableError("broken after the commit")


class Observer:
    """The exporter's ingest without its thread."""

    def __init__(self, root, ledger):
        self.root, self.ledger = root, Unsteady(ledger)
        self._runner = asyncio.Runner()
        self.shown = {}
        self._runner.run(self.ledger.open())
        self.begin()

    def begin(self):
        """A new life over the same books."""
        self.registry, self.stores = Registry(), Stores(self.root)
        accountant = Accountant("g", PriceBook(), BillingPolicy(), now=lambda: 1_795_300_000)
        self.ingest = Ingest(
            gateway="g",
            stores=self.stores,
            accountant=accountant,
            ledger=self.ledger,
            watch=Watch(self.root),
            registry=self.registry,
        )

    def restart(self):
        self.stores.close()
        self._runner.run(self.ledger.close())
        self._runner.run(self.ledger.open())
        self.begin()

    def look(self, breaks_after=NEVER, *, kept=False):
        """Whether the look came to its end."""
        self.ledger.breaks_after, self.ledger.kept = breaks_after, kept
        try:
            self._runner.run(self.ingest.look())
        except LedgerUnavailableError:
            assert breaks_after < NEVER
            self.ingest.status.stage.doubt()  # as `Ingest` does before it tries again
            return False
        finally:
            self.ledger.breaks_after = NEVER
            self.compare()
        return True

    def compare(self):
        """No counter ever falls, and after each commit memory shows what the books hold."""
        totals = {(one.metric, one.labels): one.value for one in self._runner.run(self.ledger.totals())}
        for series, value in self.shown.items():
            assert totals.get(series, 0) >= value, f"{series} fell"
        self.shown = totals

    def total(self, metric):
        return sum((value for (name, _), value in self.shown.items() if name == metric), start=Decimal(0))

    def close(self):
        self.stores.close()
        self._runner.run(self.ledger.close())
        self._runner.close()


def happens_to(which, **strategies):
    """A rule for one of the sessions that `which` names, when there are any."""

    def decorate(function):
        def step(self, pick, **options):
            there = sorted(which(self))
            function(self, there[pick % len(there)], **options)

        step.__name__ = function.__name__
        return precondition(lambda self: bool(which(self)))(rule(pick=PICK, **strategies)(step))

    return decorate


def files(gateway):
    return gateway.lines.keys()


def torn_files(gateway):
    return gateway.torn.keys()


def whole_files(gateway):
    return gateway.lines.keys() - gateway.torn.keys()


def only_files(gateway):
    return whole_files(gateway) - gateway.rows.keys()


def rows(gateway):
    return gateway.rows.keys()


class Gateway(RuleBasedStateMachine):
    def __init__(self, make_ledger, check_rows=lambda calls, cost: None):
        super().__init__()
        self.make_ledger = make_ledger
        self.check_rows = check_rows

    @initialize()
    def start(self):
        self.root = Path(tempfile.mkdtemp())
        self.folder = sessions_folder(self.root)
        self.numbers = itertools.count(1)
        self.lines = {}  # complete entries of a session's live file
        self.torn = {}  # the rest of a line whose beginning is written
        self.rows = {}  # entries of a session in the database
        self.archived = []  # (session, entry) in archives
        self.ever = {}  # what was billed when a look first saw it: id -> cost
        self.writer = None
        self.observer = Observer(self.root, self.make_ledger(self.root))
        for session in ("sa", "sb"):
            self.lines[session] = [self.new_entry() for _ in range(5)]
            self.write(session)

    def teardown(self):
        if hasattr(self, "root"):
            self.observer.close()
            if self.writer is not None:
                self.writer.close()
            shutil.rmtree(self.root)

    # --- the gateway ---------------------------------------------------------------------------------------

    def path(self, session):
        return self.folder / f"{session}.jsonl"

    def new_entry(self, *, bare=False):
        """Entries have one length, so that one can take the place of another. `bare`: no time is written."""
        number = next(self.numbers)
        minutes, seconds = divmod(number, 60)
        at = f"2026-11-20T{10 + minutes // 60:02}:{minutes % 60:02}:{seconds:02}.000Z"
        entry = call(f"{number:08x}", cost=1000 + number, timestamp=None if bare else at)
        if bare:
            del entry["message"]["timestamp"]
        return entry

    def write(self, session):
        """The file as it must be now, in place."""
        torn = self.torn.get(session)
        self.path(session).write_bytes(
            transcript([header(session), *self.lines[session]]) + (torn[0] if torn is not None else b"")
        )

    def append_bytes(self, session, content):
        with self.path(session).open("ab") as file:
            file.write(content)

    def database(self):
        if self.writer is None:
            self.writer = connect(self.root)
        return self.writer

    def archive(self, session, entries, *, compressed):
        path = write_archive(self.root, BuiltSession(session, [header(session), *entries]), compressed=compressed)
        path.rename(path.with_name(path.name.replace(".2026", f".{next(self.numbers)}-2026")))
        self.archived += [(session, entry) for entry in entries]

    @precondition(lambda self: len(self.lines) < 4)
    @rule()
    def create(self):
        session = f"s{next(self.numbers)}"
        self.lines[session] = []
        self.write(session)

    @happens_to(files, count=st.integers(1, 5), bare=st.booleans())
    def append(self, session, count, bare):
        self.complete(session)
        for _ in range(count):
            entry = self.new_entry(bare=bare)
            self.append_bytes(session, transcript([entry]))
            self.lines[session].append(entry)

    @happens_to(whole_files, share=st.floats(0.01, 0.99))
    def tear(self, session, share):
        """A flush in the middle of a line."""
        entry = self.new_entry()
        line = transcript([entry])
        cut = max(1, int(len(line) * share))
        self.append_bytes(session, line[:cut])
        self.torn[session] = (line[:cut], line[cut:], entry)

    @happens_to(torn_files)
    def finish(self, session):
        self.complete(session)

    def complete(self, session):
        if session in self.torn:
            _, rest, entry = self.torn.pop(session)
            self.append_bytes(session, rest)
            self.lines[session].append(entry)

    @happens_to(files, keep=st.integers(0, 3))
    def truncate(self, session, keep):
        """A rewind, or a rewrite in place after a compaction."""
        self.look()
        self.torn.pop(session, None)
        self.lines[session] = self.lines[session][:keep]
        self.write(session)

    @happens_to(whole_files, place=st.integers(0, 5))
    def rewrite_and_append(self, session, place):
        """Another entry in the place of one, and one more at the end: head and tail are as they were."""
        if place < len(self.lines[session]):
            self.look()
            self.lines[session][place] = self.new_entry()
            self.lines[session].append(self.new_entry())
            self.write(session)

    @happens_to(whole_files)
    def replace(self, session):
        """Written anew beside and moved over, with the same content."""
        other = self.folder / f"{session}.jsonl.tmp"
        other.write_bytes(self.path(session).read_bytes())
        other.replace(self.path(session))

    @happens_to(files)
    def touch(self, session):
        status = self.path(session).stat()
        os.utime(self.path(session), ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))

    @happens_to(whole_files)
    def reset(self, session):
        self.path(session).rename(self.folder / f"{session}.jsonl.reset.{next(self.numbers)}")
        self.archived += [(session, entry) for entry in self.lines[session]]
        self.lines[session] = []
        self.write(session)

    @happens_to(whole_files, compressed=st.booleans())
    def delete(self, session, compressed):
        self.archive(session, self.lines.pop(session), compressed=compressed)
        self.path(session).unlink()

    @happens_to(whole_files)
    def freeze(self, session):
        """To a cold archive, whose name is only a hash."""
        content = transcript([header(session), *self.lines[session]])
        cold = self.folder / "cold"
        cold.mkdir(exist_ok=True)
        name = hashlib.sha256(content + str(next(self.numbers)).encode()).hexdigest()
        (cold / f"{name}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(content))
        self.path(session).unlink()
        self.archived += [(session, entry) for entry in self.lines.pop(session)]

    @happens_to(files)
    def copy_aside(self, session):
        """Checkpoints, backups and trajectories lie beside the transcripts and never count."""
        content = transcript([header(session), self.new_entry()])
        for name in ("checkpoint.d8a59938-2c37-42cb-af78-7b7870c8aecb.jsonl", "trajectory.jsonl", "jsonl.bak"):
            (self.folder / f"{session}.{name}").write_bytes(content)

    @happens_to(files, keep=st.integers(0, 5))
    def fork(self, session, keep):
        other = f"s{next(self.numbers)}"
        self.lines[other] = list(self.lines[session][:keep])
        self.path(other).write_bytes(
            transcript([header(other, parentSession=str(self.path(session))), *self.lines[other]])
        )

    def insert_rows(self, session, entries, *, compressed, **head):
        self.database().execute("BEGIN")
        add_session(self.writer, BuiltSession(session, []))
        for seq, line in enumerate([header(session, **head), *entries]):
            add_event(self.writer, session, seq, line, compressed=compressed)
        self.writer.execute("COMMIT")
        self.rows[session] = list(entries)

    @happens_to(only_files, keep_file=st.booleans(), compressed=st.booleans(), changed=st.booleans())
    def migrate(self, session, keep_file, compressed, changed):
        """To the database, as it is or with another usage; the file may stay for a while."""
        entries = self.lines[session]
        if changed:
            self.look()
            entries = [
                {**entry, "message": {**entry["message"], "usage": {"input": 1, "output": 1, "cost": {"total": 5}}}}
                for entry in entries
            ]
        self.insert_rows(session, entries, compressed=compressed)
        if not keep_file:
            self.path(session).unlink()
            del self.lines[session]

    @happens_to(rows, compressed=st.booleans(), bare=st.booleans())
    def append_row(self, session, compressed, bare):
        entry = self.new_entry(bare=bare)
        self.rows[session].append(entry)
        add_event(self.writer, session, len(self.rows[session]), entry, compressed=compressed)

    @happens_to(rows, keep=st.integers(0, 5), compressed=st.booleans())
    def fork_rows(self, session, keep, compressed):
        self.look()  # of a session that the same look finds with another usage, nobody could tell which was first
        other = f"s{next(self.numbers)}"
        self.insert_rows(other, self.rows[session][:keep], compressed=compressed, parentSession=session)

    @happens_to(rows, keep=st.integers(0, 2))
    def rewind_rows(self, session, keep):
        self.look()
        self.rows[session] = self.rows[session][:keep]
        self.writer.execute("BEGIN")
        self.writer.execute("DELETE FROM transcript_events WHERE session_id = ? AND seq > ?", (session, keep))
        self.new_generation(session)
        self.writer.execute("COMMIT")

    @happens_to(rows)
    def rewrite_rows(self, session):
        """All rows anew under other numbers, as after a compaction."""
        self.writer.execute("BEGIN")
        self.writer.execute("DELETE FROM transcript_events WHERE session_id = ?", (session,))
        for seq, line in enumerate([header(session), *self.rows[session]]):
            add_event(self.writer, session, seq, line)
        self.new_generation(session)
        self.writer.execute("COMMIT")

    def new_generation(self, session):
        self.writer.execute(
            "UPDATE transcript_rewrite_watermarks SET generation = ? WHERE session_id = ?",
            (f"g{next(self.numbers)}", session),
        )

    @happens_to(rows, compressed=st.booleans())
    def delete_rows(self, session, compressed):
        self.writer.execute("BEGIN")
        for table in ("transcript_events", "session_windows", "session_nodes", "transcript_rewrite_watermarks"):
            column = "current_session_id" if table == "session_nodes" else "session_id"
            self.writer.execute(f"DELETE FROM {table} WHERE {column} = ?", (session,))
        self.writer.execute("COMMIT")
        self.archive(session, self.rows.pop(session), compressed=compressed)

    @rule()
    def stop_gateway(self):
        """A clean stop: checkpointed, no WAL; the next write starts it again."""
        if self.writer is not None:
            self.writer.close()
            self.writer = connect(self.root)

    # --- the observer --------------------------------------------------------------------------------------

    def visible(self):
        """(id, cost) of every call that is there. Of a session in the database, a file's entries with the same ids
        are not."""
        for session, entries in (*self.lines.items(), *((one, [entry]) for one, entry in self.archived)):
            known = {entry["id"] for entry in self.rows.get(session, ())}
            yield from (of_call(entry) for entry in entries if entry["id"] not in known)
        for entries in self.rows.values():
            yield from map(of_call, entries)

    @rule(commits=st.integers(0, 4), kept=st.booleans(), dies=st.booleans())
    def break_and_look(self, commits, kept, dies):
        """The commit fails, or only its answer is lost; then it is tried again, or the exporter was killed."""
        if self.observer.look(commits, kept=kept):
            self.settle()
        elif dies:
            self.observer.restart()

    @rule()
    def look(self):
        assert self.observer.look()
        self.settle()

    def settle(self):
        self.ever = dict(self.visible()) | self.ever
        calls, cost = len(self.ever), sum(self.ever.values())
        assert self.observer.total("claw_model_calls_total") == calls
        assert self.observer.total("claw_cost_usd_total") == cost
        assert self.observer.total("claw_rejected_entries_total") == 0
        self.check_rows(calls, cost)

    @rule()
    def restart(self):
        self.observer.restart()

    @rule()
    def scan_agrees(self):
        answer, there = scan(self.root), set(self.visible())
        assert answer.problems == []
        assert (answer.total.calls, answer.total.billed) == (len(there), sum(cost for _, cost in there))

    @invariant()
    def nothing_is_left_open(self):
        if hasattr(self, "observer"):
            assert self.observer.ledger.breaks_after == NEVER


def of_call(entry):
    return entry["id"], entry["message"]["usage"]["cost"]["total"]


def run(machine, examples):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),  # each step is slow: the first failure is told
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Several commits in a look."""
    monkeypatch.setattr("exporter.ingest.batch.BATCH_ROWS", 2)


@pytest.mark.req("P-1", "P-2")
def test_any_interleaving_with_the_books_in_a_checkpoint():
    run(lambda: Gateway(lambda root: CheckpointLedger(root / "data", "g")), 40)


@pytest.mark.req("P-1", "P-2")
def test_any_interleaving_with_the_books_in_postgres(postgres_dsn, postgres_owner_dsn):
    def begin(_root):
        with psycopg.connect(postgres_owner_dsn) as owner:
            tables = owner.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'lobs'").fetchall()
            names = {name for (name,) in tables} & BOOKS
            owner.execute("TRUNCATE " + ", ".join(f"lobs.{name}" for name in sorted(names)))
        return PostgresLedger(postgres_dsn, "g")

    def check_rows(calls, cost):
        with psycopg.connect(postgres_dsn) as connection:
            for view in (
                "SELECT count(*), coalesce(sum(cost_usd), 0) FROM model_calls",
                "SELECT coalesce(sum(calls), 0), coalesce(sum(cost_usd), 0) FROM sessions",
                "SELECT coalesce(sum(calls), 0), coalesce(sum(cost_usd), 0) FROM cost_daily",
            ):
                assert connection.execute(view).fetchone() == (calls, cost), view

    run(lambda: Gateway(begin, check_rows), 12)


BOOKS = {
    "identities",
    "model_calls",
    "tool_calls",
    "session_events",
    "sessions",
    "rejects",
    "totals",
    "positions",
    "usage_15m",
    "agents",
    "events",
}
