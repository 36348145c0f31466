"""docs/database.md names every view, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg

DOCS = Path(__file__).parents[2] / "docs" / "database.md"


def test_the_page_and_the_database_name_the_same_views(postgres_reader_dsn):
    table = DOCS.read_text(encoding="utf-8").split("## Views", 1)[1].split("Money by window", 1)[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    with psycopg.connect(postgres_reader_dsn) as connection:
        views = {row[0] for row in connection.execute("SELECT viewname FROM pg_views WHERE schemaname = 'public'")}
    assert named == views


def test_its_statements_run(postgres_reader_dsn):
    (block,) = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    with psycopg.connect(postgres_reader_dsn) as connection:
        for statement in block.strip().splitlines():
            connection.execute(statement.split("--")[0])
