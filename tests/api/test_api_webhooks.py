"""Webhooks from outside: signed, recent and once, or refused."""

from __future__ import annotations

import json
import time

import pytest

from api.services.webhooks import WINDOW_SECONDS, signature

SECRET = "w" * 40
BODY = json.dumps({"event": "deploy.finished", "version": "1.2.3"}).encode()


@pytest.fixture
def secret(data_dir):
    folder = data_dir / "secrets" / "webhooks"
    folder.mkdir()
    (folder / "ci").write_text(SECRET + "\n")
    (folder / "weak").write_text("short\n")
    return folder / "ci"


def signed(*, body=BODY, at=None, key=SECRET):
    timestamp = str(int(time.time() if at is None else at))
    return {
        "X-Lobservatory-Timestamp": timestamp,
        "X-Lobservatory-Signature": signature(key, timestamp, body),
        "Content-Type": "application/json",
    }


async def test_a_signed_delivery_becomes_an_operation_once(anonymous, client, secret):
    headers = signed()
    first = await anonymous.post("/api/hooks/ci", content=BODY, headers=headers)
    assert first.status_code == 202
    again = await anonymous.post("/api/hooks/ci", content=BODY, headers=headers)
    assert again.json() == first.json()
    (operation,) = (await client.get("/api/operations")).json()
    assert (operation["id"], operation["type"], operation["status"]) == (
        first.json()["operationId"],
        "webhook",
        "completed",
    )
    assert (operation["name"], operation["metadata"]) == ("ci: deploy.finished", json.loads(BODY))
    assert [one["action"] for one in (await client.get("/api/feed")).json()["items"]] == ["received"]


@pytest.mark.parametrize(
    ("name", "headers"),
    [
        ("ci", lambda: signed(key="x" * 40)),
        ("ci", lambda: signed(body=b"{}")),
        ("ci", lambda: signed(at=time.time() - WINDOW_SECONDS - 60)),
        ("ci", lambda: signed(at=time.time() + WINDOW_SECONDS + 600)),
        ("ci", lambda: {**signed(), "X-Lobservatory-Timestamp": "soon"}),
        ("ci", lambda: {"X-Lobservatory-Signature": signed()["X-Lobservatory-Signature"]}),
        ("ci", lambda: {"X-Lobservatory-Timestamp": signed()["X-Lobservatory-Timestamp"]}),
        ("ci", lambda: {**signed(), "X-Lobservatory-Signature": "sha256=nonsense"}),
        ("other", signed),
        ("weak", lambda: signed(key="short")),
        ("..%2Fapi_token", lambda: signed(key="s" * 43)),
    ],
)
async def test_anything_else_is_refused_in_the_same_words(anonymous, client, secret, name, headers):
    answer = await anonymous.post(f"/api/hooks/{name}", content=BODY, headers=headers())
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthenticated"
    assert (await client.get("/api/operations")).json() == []


async def test_a_token_is_no_signature(client, secret):
    answer = await client.post("/api/hooks/ci", content=BODY, headers={"Content-Type": "application/json"})
    assert answer.status_code == 401


async def test_a_signature_opens_nothing_else(anonymous, secret):
    for method, path in (("GET", "/api/hooks/ci"), ("POST", "/api/hooks/ci/x"), ("POST", "/api/tasks")):
        assert (await anonymous.request(method, path, content=BODY, headers=signed())).status_code == 401


async def test_a_changed_secret_holds_at_once(anonymous, secret):
    secret.write_text("n" * 40)
    assert (await anonymous.post("/api/hooks/ci", content=BODY, headers=signed())).status_code == 401
    assert (await anonymous.post("/api/hooks/ci", content=BODY, headers=signed(key="n" * 40))).status_code == 202


async def test_a_signed_body_that_is_no_object_is_named(anonymous, secret):
    answer = await anonymous.post("/api/hooks/ci", content=b"[1]", headers=signed(body=b"[1]"))
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_field")
