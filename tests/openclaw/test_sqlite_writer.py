"""The gateway's writer is never in our way, and we are never in its."""

from __future__ import annotations

import threading

from openclaw.stores import Stores
from tests.openclaw.state_builder import BuiltSession, add_event, call, connect, header, write_database
from tests.servers import PATIENCE_SECONDS


def test_a_writer_that_never_waits_is_never_refused_while_we_read(tmp_path):
    """`busy_timeout = 0`: the first lock of ours in its way would be an error (SQLITE_BUSY)."""
    lines = [header("s0"), *(call(f"{number:08x}", timestamp=None) for number in range(200))]
    write_database(tmp_path, [BuiltSession("s0", lines)])
    writer = connect(tmp_path)
    writer.execute("PRAGMA busy_timeout = 0")
    stop, reads, failures = threading.Event(), [], []

    def read():
        stores = Stores(tmp_path)
        positions = {}
        try:
            while not stop.is_set():
                stores.sessions()
                for source in stores.discover().sources:
                    # Sometimes from where we were, sometimes all of it.
                    position = positions.get(source.key) if len(reads) % 3 else None
                    positions[source.key] = stores.read(source, position, max_bytes=4096).position
                    reads.append(source.key)
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            stores.close()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        number = len(lines)
        while len(reads) < 100 and not failures:
            writer.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                add_event(writer, "s0", number, call(f"{number:08x}", timestamp=None), compressed=number % 2 == 0)
                number += 1
            writer.execute("COMMIT")
            if number % 10 == 0:
                busy, _, _ = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                assert not busy
    finally:
        stop.set()
        reader.join(PATIENCE_SECONDS)
        writer.close()
    assert not failures
    assert len(reads) >= 100
