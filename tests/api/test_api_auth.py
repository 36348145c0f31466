"""Log-in, tokens, tickets, lock-out."""

from __future__ import annotations

import psycopg
import pytest
from pydantic import ValidationError

from api.context import of_app
from api.models.auth import Preferences
from api.security.scopes import Actor, Scope
from lobservatory.password import PasswordError, PasswordFile, check
from lobservatory.settings import Settings
from tests.api.conftest import FAST, PASSWORD, connected, new_token, started


@pytest.mark.req("S2-1")
async def test_the_password_gives_a_token_for_a_day_that_verifies(anonymous, database):
    answer = await anonymous.post("/api/auth/login", json={"password": PASSWORD})
    assert answer.status_code == 200
    token = answer.json()["token"]
    verified = await anonymous.get("/api/auth/verify", headers={"Authorization": f"Bearer {token}"})
    assert verified.json() == {
        "valid": True,
        "name": "login",
        "scopes": ["read", "write", "command", "admin"],
        "gateways": None,
    }
    cursor = await database.execute("SELECT expires_at - created_at FROM lobs.tokens WHERE name = 'login'")
    (lifetime,) = await cursor.fetchone()
    assert abs(lifetime.total_seconds() - 86400) < 5


@pytest.mark.req("S2-1")
async def test_a_token_that_has_expired_is_refused(anonymous, app, database):
    token = await new_token(app, Scope.READ)
    headers = {"Authorization": f"Bearer {token}"}
    assert (await anonymous.get("/api/auth/verify", headers=headers)).status_code == 200
    await database.execute("UPDATE lobs.tokens SET expires_at = now() - interval '1 second'")
    assert (await anonymous.get("/api/auth/verify", headers=headers)).status_code == 401


@pytest.mark.req("S2-1")
@pytest.mark.parametrize(
    "bad", ["", "admin", "changeme", "Password1234", "tiny-pass", "aaaaaaaaaaaaaaaa", "passwordpassword"]
)
def test_a_default_empty_or_short_password_is_refused(tmp_path, bad):
    path = tmp_path / "api_password"
    path.touch(0o600)
    path.write_text(bad + "\n")
    with pytest.raises(PasswordError) as caught:
        PasswordFile(path, FAST).load()
    assert str(path) in str(caught.value)
    assert not bad or bad not in str(caught.value).removeprefix(str(path))


def test_a_password_that_others_can_read_is_refused(tmp_path):
    path = tmp_path / "api_password"
    path.write_text(PASSWORD)
    path.chmod(0o644)
    with pytest.raises(PasswordError, match="chmod 600"):
        PasswordFile(path, FAST).load()


def test_the_file_may_hold_the_hash_and_is_read_again_when_it_changes(tmp_path):
    path = tmp_path / "api_password"
    path.touch(0o600)
    path.write_text(FAST.hash(PASSWORD))
    password = PasswordFile(path, FAST)
    assert password.matches(PASSWORD)
    path.write_text("quite another password\n")
    assert not password.matches(PASSWORD)
    assert password.matches("quite another password")


def test_a_generated_password_is_accepted():
    check("kq0wJ4mYx2nZb1vR8tLp", "test")


async def test_the_database_holds_hashes_only(app, database):
    token = await new_token(app, Scope.READ)
    cursor = await database.execute("SELECT t::text FROM lobs.tokens AS t")
    text = str(await cursor.fetchall())
    assert token not in text
    assert token.removeprefix("lobs_") not in text


async def test_five_wrong_passwords_lock_that_address_out(anonymous):
    for _ in range(5):
        answer = await anonymous.post("/api/auth/login", json={"password": "wrong"})
        assert (answer.status_code, answer.json()["code"]) == (401, "wrong_password")
    answer = await anonymous.post("/api/auth/login", json={"password": PASSWORD})
    assert (answer.status_code, answer.json()["code"]) == (429, "locked_out")
    assert int(answer.headers["retry-after"]) == 900


async def test_a_right_password_forgives_wrong_ones(anonymous):
    for _ in range(4):
        await anonymous.post("/api/auth/login", json={"password": "wrong"})
    assert (await anonymous.post("/api/auth/login", json={"password": PASSWORD})).status_code == 200
    assert (await anonymous.post("/api/auth/login", json={"password": "wrong"})).status_code == 401


async def test_tokens_are_made_listed_and_revoked(client, anonymous):
    made = (
        await client.post("/api/auth/tokens", json={"name": "grafana", "scope": "read", "gateways": ["home"]})
    ).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    verified = (await anonymous.get("/api/auth/verify", headers=headers)).json()
    assert (verified["scopes"], verified["gateways"]) == (["read"], ["home"])
    listed = (await client.get("/api/auth/tokens")).json()
    assert made["id"] in {token["id"] for token in listed}
    assert all("token" not in token for token in listed)
    assert (await client.delete(f"/api/auth/tokens/{made['id']}")).status_code == 204
    assert (await anonymous.get("/api/auth/verify", headers=headers)).status_code == 401
    assert (await client.delete("/api/auth/tokens/nope")).status_code == 404


async def test_the_generated_service_token_may_write_and_no_more(anonymous):
    verified = await anonymous.get("/api/auth/verify", headers={"Authorization": "Bearer " + "s" * 43})
    assert verified.json()["scopes"] == ["read", "write"]


async def test_a_ticket_is_good_once(client, app):
    ticket = (await client.post("/api/auth/ticket")).json()
    assert ticket["expiresIn"] == 30
    auth = of_app(app).auth
    assert (await auth.redeem(ticket["ticket"])).scope is Scope.ADMIN
    assert await auth.redeem(ticket["ticket"]) is None


async def test_a_ticket_expires(client, app, database):
    ticket = (await client.post("/api/auth/ticket")).json()
    await database.execute("UPDATE lobs.tickets SET expires_at = now() - interval '1 second'")
    assert await of_app(app).auth.redeem(ticket["ticket"]) is None


async def test_the_audit_log_cannot_be_changed(client, anonymous, database):
    await anonymous.post("/api/auth/login", json={"password": "wrong"})
    cursor = await database.execute("SELECT phase, actor, action FROM lobs.audit_log")
    assert ("refused", "anonymous", "login") in await cursor.fetchall()
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await database.execute("DELETE FROM lobs.audit_log")


@pytest.mark.req("S1-14")
async def test_a_theme_is_kept_for_its_user_on_every_device(app):
    anna, again, ben = (
        Actor(name, Scope.READ, f"token {number}") for number, name in enumerate(("anna", "anna", "ben"))
    )
    auth = of_app(app).auth
    await auth.choose(anna, Preferences(theme="ocean"))
    assert [(await auth.preferences(one)).theme for one in (anna, again, ben)] == ["ocean", "ocean", None]
    await auth.choose(again, Preferences(theme=None))
    assert (await auth.preferences(anna)).theme is None
    async with connected(app, await new_token(app, Scope.READ)) as client:
        assert (await client.put("/api/auth/preferences", json={"theme": "lobster"})).json() == {"theme": "lobster"}
        assert (await client.get("/api/auth/preferences")).json() == {"theme": "lobster"}
        assert (await client.put("/api/auth/preferences", json={"theme": "plaid"})).status_code == 422


@pytest.mark.parametrize(
    ("trusted", "forwarded", "counted"),
    [
        ((), "203.0.113.9", "127.0.0.1"),
        (("10.0.0.0/8",), "203.0.113.9", "127.0.0.1"),  # the peer is no proxy of ours: what it says is its own affair
        (("127.0.0.1",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.1",), "198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the first was written by the client
        (("127.0.0.0/8", "10.0.0.0/8"), "203.0.113.9, 10.1.2.3", "203.0.113.9"),
        (("127.0.0.1",), "2001:DB8:0::7", "2001:db8::7"),
        (("127.0.0.1",), "::ffff:203.0.113.9", "203.0.113.9"),
        (("127.0.0.1",), "a new one for each attempt", "unknown"),
        (("127.0.0.1",), "", "127.0.0.1"),
    ],
)
async def test_only_a_trusted_proxy_says_who_the_client_is(settings, database, trusted, forwarded, counted):
    async with started(settings.model_copy(update={"trusted_proxies": trusted})) as app, connected(app) as client:
        headers = {"X-Forwarded-For": forwarded} if forwarded else {}
        assert (await client.post("/api/auth/login", json={"password": "wrong"}, headers=headers)).status_code == 401
    cursor = await database.execute("SELECT source FROM lobs.login_failures")
    assert [row[0] for row in await cursor.fetchall()] == [counted]


@pytest.mark.parametrize("wrong", ["*", "proxy.example", "10.0.0.1/8", "10.0.0.0/40"])
def test_a_proxy_is_an_address_or_a_network(wrong):
    with pytest.raises(ValidationError, match="not an address or a network"):
        Settings.model_validate({"trusted_proxies": wrong})


@pytest.mark.req("S2-1")
async def test_logging_out_ends_the_token_of_a_log_in_and_no_other(app, anonymous, database):
    token = (await anonymous.post("/api/auth/login", json={"password": PASSWORD})).json()["token"]
    async with connected(app, token) as there, connected(app, await new_token(app, Scope.READ)) as program:
        assert (await there.post("/api/auth/logout")).status_code == 204
        assert (await there.get("/api/auth/verify")).status_code == 401
        assert (await there.post("/api/auth/logout")).status_code == 401
        assert (await program.post("/api/auth/logout")).status_code == 204
        assert (await program.get("/api/auth/verify")).status_code == 200, "a program's token goes on"
    cursor = await database.execute("SELECT count(*) FROM lobs.audit_log WHERE action = 'logout'")
    assert (await cursor.fetchone())[0] == 1
