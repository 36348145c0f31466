"""Tokens on the command line."""

from __future__ import annotations

import hashlib
import os
import re

import psycopg
import pytest
from typer.testing import CliRunner

from cli.app import app
from lobservatory.errors import UserError
from lobservatory.settings import load


@pytest.fixture
def run(monkeypatch, postgres_dsn, tmp_path):
    for name in [name for name in os.environ if name.startswith("LOBS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOBS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("LOBS_DATABASE_URL", postgres_dsn)

    def call(*arguments):
        done = CliRunner().invoke(app, ["token", *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.stdout.strip(), done.stderr.strip()

    return call


def test_a_token_is_printed_once_and_its_hash_is_kept(run, postgres_dsn):
    value, told = run("create", "grafana", "--scope", "write", "--gateway", "home", "--days", "0")
    with psycopg.connect(postgres_dsn) as connection:
        row = connection.execute("SELECT id, sha256, scopes, gateways, expires_at FROM lobs.tokens").fetchone()
        audited = connection.execute("SELECT action, actor, detail::text FROM lobs.audit_log").fetchall()
    assert bytes(row[1]) == hashlib.sha256(value.encode()).digest()
    assert row[2:] == (["read", "write"], ["home"], None)
    assert [one[:2] for one in audited] == [("token.create", "command line")]
    assert value not in str(audited)
    assert told == f"token create: {row[0]}, no end; `lobservatory token revoke {row[0]}` ends it"
    listed, _ = run("list")
    assert listed == f"{row[0]}\tgrafana\twrite\thome\tno end\tnever used"
    assert run(*told.split("`")[1].split()[2:]) == (f"{row[0]} is revoked", "")
    assert run("list")[0].split("\t")[4] == "revoked"


def test_mistakes_are_one_clear_line(run, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no token 'token_x'"):
        run("revoke", "token_x")
    with pytest.raises(UserError, match="1 to 200 printable"):
        run("create", "a\nb")
    monkeypatch.setenv("LOBS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/x")
    with pytest.raises(UserError, match="LOBS_DATABASE_URL: connection"):
        run("list")
    monkeypatch.delenv("LOBS_DATABASE_URL")
    with pytest.raises(UserError, match="start `lobservatory up`"):
        run("list")


def test_the_embedded_database_is_found(run, monkeypatch, postgres_dsn):
    monkeypatch.delenv("LOBS_DATABASE_URL")
    folder = load().data_dir / "run"
    folder.mkdir(parents=True)
    (folder / "database_url").write_text(postgres_dsn + "\n")
    value, told = run("create", "script")
    assert re.fullmatch(r"lobs_\S+", value), "a script that captures stdout has the token and nothing else"
    assert re.match(r"token create: token_\w+, until \d{4}-\d\d-\d\d; ", told)
