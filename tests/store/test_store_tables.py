"""The tables of the ledger are declared by the classes of their rows; the database is asked whether they are right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import psycopg
import pytest
from psycopg.types.json import Jsonb

from store.ledger import rollups, tables
from store.ledger.tables import Table, ToolCallRow, postgres_types

TABLES = [one for module in (tables, rollups) for one in vars(module).values() if isinstance(one, Table)]


def columns_of(dsn, table):
    """Name and type of each column, in the order of the table."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT attname, atttypid::regtype::text FROM pg_attribute"
            " WHERE attrelid = ('lobs.' || %s)::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            [table],
        ).fetchall()
    return dict(rows)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.name} {len(table.columns)}")
def test_every_declared_column_is_in_the_database_with_its_type(table, postgres_owner_dsn):
    """Binary COPY sends the bytes of the declared type: the server would read another one as nonsense."""
    names = {"int8": "bigint", "int4": "integer", "bool": "boolean", "timestamptz": "timestamp with time zone"}
    declared = {column: names.get(kind, kind) for column, kind in table.columns.items()}
    if "identity" in declared:
        assert declared["identity"] == "bytea"  # the 16 bytes of a uuid
        declared["identity"] = "uuid"
    there = columns_of(postgres_owner_dsn, table.name)
    assert declared == {column: there.get(column) for column in declared}


def test_a_quarter_hour_has_the_columns_of_its_table_in_their_order(postgres_owner_dsn):
    """`lobs.raise_usage` takes whole rows of the table."""
    assert list(rollups.QUARTER_HOURS.columns) == list(columns_of(postgres_owner_dsn, "usage_15m"))


def test_statements_and_records_follow_from_the_class_of_a_row():
    @dataclass
    class Thing:
        name: str
        left_out: str
        size: int | None
        small: Annotated[int, "int4"]
        sort: Literal["a", "b"]
        detail: Mapping[str, Any]

    table = Table("things", Thing, without=["left_out"], names={"size": "bytes"}, identified=True)
    assert list(table.columns.items()) == [
        ("name", "text"), ("bytes", "int8"), ("small", "int4"), ("sort", "text"), ("detail", "jsonb"),
        ("identity", "bytea"),
    ]  # fmt: skip
    assert table.copy == 'COPY "lobs"."things" (name, bytes, small, sort, detail, identity) FROM STDIN (FORMAT binary)'
    assert table.insert == (
        'INSERT INTO "lobs"."things" (name, bytes, small, sort, detail, identity)'
        " VALUES (%s::text, %s::int8, %s::int4, %s::text, %s::jsonb, encode(%s::bytea, 'hex')::uuid)"
    )
    *values, detail, identity = table.record(Thing("n", "x", None, 2, "a", {"k": 1}), b"key")
    assert values == ["n", None, 2, "a"]
    assert isinstance(detail, Jsonb)
    assert detail.obj == {"k": 1}
    assert identity == b"key"


def test_a_type_without_a_column_type_is_an_error():
    @dataclass
    class Thing:
        ratio: complex

    with pytest.raises(KeyError):
        postgres_types(Thing)


def test_a_row_of_a_tool_call_has_the_fields_of_its_table(postgres_owner_dsn):
    there = columns_of(postgres_owner_dsn, "tool_calls")
    assert set(postgres_types(ToolCallRow)) == set(there) - {"identity"}
