"""Whatever happens to files and databases between two looks, the totals are those of all calls ever seen, once."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from exporter.accounting import Accountant, BillingPolicy, PriceBook, increments
from exporter.scan import scan
from openclaw.stores import Stores
from store import identities
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


class Ledger:
    """Rows seen, totals and positions of one chunk are kept together or not at all."""

    def __init__(self):
        self.seen = set()
        self.totals = {}
        self.positions = {}

    def commit(self, facts, position):
        new_calls = self._new(identities.of_model_call, facts.calls)
        raised = increments(
            facts,
            new_calls=new_calls,
            new_tool_calls=self._new(identities.of_tool_call, facts.tool_calls),
            new_results=self._new(identities.of_tool_result, facts.tool_results),
            new_events=self._new(identities.of_session_event, facts.events),
            new_rejects=self._new(identities.of_reject, facts.rejects(new_calls)),
        )
        for series, value in raised.items():
            assert value > 0, series
            self.totals[series] = self.totals.get(series, 0) + value
        self.positions[position.source_key] = position

    def _new(self, identity, rows):
        answers = []
        for row in rows:
            answers.append(identity(row) not in self.seen)
            self.seen.add(identity(row))
        return answers

    def total(self, metric):
        return sum((value for (name, _), value in self.totals.items() if name == metric), start=Decimal(0))


class Gateway(RuleBasedStateMachine):
    sessions = Bundle("sessions")

    @initialize()
    def start(self):
        self.root = Path(tempfile.mkdtemp())
        self.folder = sessions_folder(self.root)
        self.numbers = itertools.count(1)
        self.lines = {}  # complete entries of a session's live file
        self.torn = {}  # the rest of a line whose beginning is written
        self.rows = {}  # entries of a session in the database
        self.archived = []  # entries in archives
        self.ever = {}  # what was billed as far as a look could see it: id -> cost
        self.ledger = Ledger()
        self.stores = Stores(self.root)
        self.writer = None

    def teardown(self):
        if hasattr(self, "root"):
            self.stores.close()
            if self.writer is not None:
                self.writer.close()
            shutil.rmtree(self.root)

    # --- the gateway ---------------------------------------------------------------------------------------

    def path(self, session):
        return self.folder / f"{session}.jsonl"

    def new_entry(self):
        number = next(self.numbers)
        minutes, seconds = divmod(number, 60)
        return call(
            f"{number:08x}",
            cost=number,
            timestamp=f"2026-11-20T{10 + minutes // 60:02}:{minutes % 60:02}:{seconds:02}.000Z",
        )

    def write(self, session):
        """The file as it must be now, in place."""
        torn = self.torn.get(session)
        self.path(session).write_bytes(
            transcript([header(session), *self.lines[session]]) + (torn[0] if torn is not None else b"")
        )

    def append_bytes(self, session, content):
        with self.path(session).open("ab") as file:
            file.write(content)

    @rule(target=sessions)
    def create(self):
        session = f"s{next(self.numbers)}"
        self.lines[session] = []
        self.write(session)
        return session

    @rule(session=sessions, count=st.integers(1, 3))
    def append(self, session, count):
        if session not in self.lines:
            return
        self.finish(session)
        for _ in range(count):
            entry = self.new_entry()
            self.append_bytes(session, transcript([entry]))
            self.lines[session].append(entry)

    @rule(session=sessions, share=st.floats(0.01, 0.99))
    def tear(self, session, share):
        """A flush in the middle of a line."""
        if session not in self.lines or session in self.torn:
            return
        entry = self.new_entry()
        line = transcript([entry])
        cut = max(1, int(len(line) * share))
        self.append_bytes(session, line[:cut])
        self.torn[session] = (line[:cut], line[cut:], entry)

    @rule(session=sessions)
    def finish(self, session):
        if session in self.torn and session in self.lines:
            _, rest, entry = self.torn.pop(session)
            self.append_bytes(session, rest)
            self.lines[session].append(entry)

    @rule(session=sessions, keep=st.integers(0, 3))
    def truncate(self, session, keep):
        """A rewind, or a rewrite in place after a compaction."""
        if session in self.lines:
            self.look()
            self.torn.pop(session, None)
            self.lines[session] = self.lines[session][:keep]
            self.write(session)

    @rule(session=sessions)
    def replace(self, session):
        """Written anew beside and moved over, with the same content."""
        if session in self.lines and session not in self.torn:
            other = self.folder / f"{session}.jsonl.tmp"
            other.write_bytes(self.path(session).read_bytes())
            other.replace(self.path(session))

    @rule(session=sessions)
    def touch(self, session):
        if session in self.lines:
            status = self.path(session).stat()
            os.utime(self.path(session), ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))

    @rule(session=sessions)
    def reset(self, session):
        if session in self.lines and session not in self.torn:
            self.path(session).rename(self.folder / f"{session}.jsonl.reset.{next(self.numbers)}")
            self.archived += self.lines[session]
            self.lines[session] = []
            self.write(session)

    @rule(session=sessions, compressed=st.booleans())
    def delete(self, session, compressed):
        if session in self.lines and session not in self.torn:
            lines = self.lines.pop(session)
            path = write_archive(self.root, BuiltSession(session, [header(session), *lines]), compressed=compressed)
            path.rename(path.with_name(path.name.replace(".2026", f".{next(self.numbers)}-2026")))
            self.path(session).unlink()
            self.archived += lines

    @rule(target=sessions, session=sessions, keep=st.integers(0, 5))
    def fork(self, session, keep):
        if session not in self.lines:
            return multiple()
        other = f"s{next(self.numbers)}"
        self.lines[other] = list(self.lines[session][:keep])
        self.path(other).write_bytes(
            transcript([header(other, parentSession=str(self.path(session))), *self.lines[other]])
        )
        return other

    @rule(session=sessions, keep_file=st.booleans(), compressed=st.booleans())
    def migrate(self, session, keep_file, compressed):
        """To the database, row by row or at once; the file may stay for a while."""
        if session not in self.lines or session in self.torn or session in self.rows:
            return
        if self.writer is None:
            self.writer = connect(self.root)
        self.writer.execute("BEGIN")
        add_session(self.writer, BuiltSession(session, []))
        for seq, line in enumerate([header(session), *self.lines[session]]):
            add_event(self.writer, session, seq, line, compressed=compressed)
        self.writer.execute("COMMIT")
        self.rows[session] = list(self.lines[session])
        if not keep_file:
            self.path(session).unlink()
            del self.lines[session]

    @rule(session=sessions, compressed=st.booleans())
    def append_row(self, session, compressed):
        if session in self.rows:
            entry = self.new_entry()
            self.rows[session].append(entry)
            add_event(self.writer, session, len(self.rows[session]), entry, compressed=compressed)

    @rule(session=sessions, keep=st.integers(0, 2))
    def rewind_rows(self, session, keep):
        if session in self.rows:
            self.look()
            self.rows[session] = self.rows[session][:keep]
            self.writer.execute("BEGIN")
            self.writer.execute("DELETE FROM transcript_events WHERE session_id = ? AND seq > ?", (session, keep))
            self.writer.execute(
                "UPDATE transcript_rewrite_watermarks SET generation = ? WHERE session_id = ?",
                (f"g{next(self.numbers)}", session),
            )
            self.writer.execute("COMMIT")

    @rule()
    def stop_gateway(self):
        """A clean stop: checkpointed, no WAL; the next write starts it again."""
        if self.writer is not None:
            self.writer.close()
            self.writer = connect(self.root)

    # --- the observer --------------------------------------------------------------------------------------

    def visible(self):
        live = itertools.chain(*self.lines.values(), *self.rows.values(), self.archived)
        return {entry["id"]: entry["message"]["usage"]["cost"]["total"] for entry in live}

    @rule(max_bytes=st.sampled_from([1, 600, 8_000_000]), crash_after=st.none() | st.integers(0, 6))
    def look_and_maybe_crash(self, max_bytes, crash_after):
        self.look(max_bytes, crash_after)

    def look(self, max_bytes=8_000_000, crash_after=None):
        accountant = Accountant("g", PriceBook(), BillingPolicy(), now=lambda: 1_795_300_000)
        discovery = self.stores.discover()
        assert discovery.problems == ()
        sessions = self.stores.sessions()
        self.ledger.positions = self.stores.followed(discovery, self.ledger.positions)
        steps = 0
        for source in discovery.sources:
            while self.stores.changed(source, self.ledger.positions.get(source.key)):
                chunk = self.stores.read(source, self.ledger.positions.get(source.key), max_bytes=max_bytes)
                if steps == crash_after:
                    self.restart()
                    return
                steps += 1
                self.ledger.commit(accountant.facts(chunk, sessions), chunk.position)
                if chunk.done:
                    break
        self.ever |= self.visible()
        assert self.ledger.total("claw_model_calls_total") == len(self.ever)
        assert self.ledger.total("claw_cost_usd_total") == sum(self.ever.values())

    @rule()
    def restart(self):
        self.stores.close()
        self.stores = Stores(self.root)

    @rule()
    def scan_agrees(self):
        answer = scan(self.root)
        assert answer.problems == []
        assert (answer.total.calls, answer.total.billed) == (len(self.visible()), sum(self.visible().values()))

    @invariant()
    def nothing_was_refused(self):
        if hasattr(self, "ledger"):
            assert self.ledger.total("claw_rejected_entries_total") == 0


Gateway.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestInterleavings = pytest.mark.req("P-1", "P-2")(Gateway.TestCase)
