"""What surrounds every request."""

from __future__ import annotations

import pytest

from api.app import create_app
from api.middleware import PUBLIC
from api.security.limits import Rate, RateLimiter
from api.security.scopes import Scope
from lobservatory.settings import Settings
from tests.api.conftest import connected, new_token, started

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
SCOPES = {"read": Scope.READ, "write": Scope.WRITE, "command": Scope.COMMAND, "admin": Scope.ADMIN}


def every_route():
    document = create_app(Settings(), None).openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            allowed = operation["security"][0] if operation["security"] else {}
            needed = "signature" if "signature" in allowed else allowed["bearer"][0] if allowed else None
            yield method.upper(), path, needed


def filled(path):
    return path.replace("{", "").replace("}", "")


@pytest.mark.req("S2-2")
async def test_every_route_and_method_needs_a_token(anonymous):
    """With any method, not only those that exist: a new route or method cannot forget."""
    paths = {path for _, path, _ in every_route()} - PUBLIC
    assert len(paths) > 5
    for path in sorted(paths | {"/api/unknown", "/metrics", "/anything"}):
        for method in METHODS:
            for headers in ({}, {"Authorization": "Bearer lobs_wrong"}, {"Authorization": "Basic YTpi"}):
                answer = await anonymous.request(method, filled(path), headers=headers, content=b"{not json")
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_only_health_pages_and_log_in_are_public(anonymous):
    public = {path for method, path, needed in every_route() if needed is None}
    assert public == {"/health", "/healthz", "/readyz", "/api/health", "/api/auth/login"}


@pytest.mark.req("S2-2")
async def test_every_route_refuses_a_token_of_a_lesser_scope(anonymous, app):
    lesser = {Scope.WRITE: Scope.READ, Scope.COMMAND: Scope.WRITE, Scope.ADMIN: Scope.COMMAND}
    tokens = {scope: await new_token(app, scope) for scope in Scope}
    tried = 0
    for method, path, needed in every_route():
        if needed in {None, "read", "signature"}:
            continue
        token = tokens[lesser[SCOPES[needed]]]
        answer = await anonymous.request(method, filled(path), headers={"Authorization": f"Bearer {token}"}, json={})
        assert (answer.status_code, answer.json()["code"]) == (403, "missing_scope"), (method, path)
        tried += 1
    assert tried > 2


def test_what_changes_something_needs_more_than_read():
    # What concerns nobody but who asks.
    reading_posts = {"/api/auth/ticket", "/api/auth/logout", "/api/auth/preferences"}
    for method, path, needed in every_route():
        if method != "GET" and path not in reading_posts | {"/api/auth/login"}:
            assert needed in {"write", "command", "admin", "signature"}, (method, path)


@pytest.mark.req("S2-12")
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({}, 200),
    ],
)
async def test_pages_of_other_origins_cannot_post(client, headers, status):
    assert (await client.post("/api/auth/ticket", headers=headers)).status_code == status


@pytest.mark.req("S2-12")
async def test_cors_is_for_the_exact_origin_only(settings):
    chosen = settings.model_copy(update={"cors_origins": ("https://board.example",)})
    async with started(chosen) as app, connected(app, await new_token(app, Scope.READ)) as client:
        for origin, allowed in {
            "https://board.example": True,
            "https://board.example.evil.example": False,
            "http://board.example": False,
            "https://evil.example": False,
        }.items():
            answer = await client.options(
                "/api/auth/ticket", headers={"Origin": origin, "Access-Control-Request-Method": "POST"}
            )
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        answer = await client.post("/api/auth/ticket", headers={"Origin": "https://board.example"})
        assert answer.status_code == 200
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.req("S2-12")
async def test_without_configuration_no_origin_is_allowed(anonymous):
    answer = await anonymous.options(
        "/api/auth/ticket", headers={"Origin": "https://x.example", "Access-Control-Request-Method": "POST"}
    )
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.req("S2-12")
@pytest.mark.parametrize("path", ["/", "/docs", "/healthz", "/api/auth/verify", "/static/style.css", "/nothing"])
async def test_every_answer_has_the_security_headers(anonymous, path):
    headers = (await anonymous.get(path)).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


async def test_a_body_over_the_limit_is_refused_however_it_comes(client):
    announced = await client.post("/api/auth/tokens", content=b" " * (600 * 1024))
    assert (announced.status_code, announced.json()["code"]) == (413, "payload_too_large")

    async def chunks():
        for _ in range(600):
            yield b" " * 1024

    assert (await client.post("/api/auth/tokens", content=chunks())).status_code == 413


@pytest.mark.req("S2-12")
def test_a_bucket_gives_its_burst_then_its_rate():
    now = 0.0
    limiter = RateLimiter(Rate(2.0, 3), clock=lambda: now)
    assert [limiter.take("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limiter.take("a") == pytest.approx(0.5)
    assert limiter.take("b") == 0.0
    now = 0.5
    assert limiter.take("a") == 0.0
    assert limiter.take("a") > 0


def test_the_number_of_buckets_is_bounded():
    limiter = RateLimiter(Rate(1, 1), clock=lambda: 0.0, most_keys=10)
    for number in range(100):
        limiter.take(str(number))
    assert len(limiter._buckets) == 10


@pytest.mark.req("S2-12")
async def test_too_many_wrong_tokens_are_slowed_down(settings):
    async with started(settings, limits=None) as app, connected(app) as client:
        statuses = [(await client.get("/api/tasks")).status_code for _ in range(60)]
    assert statuses[0] == 401
    assert statuses[-1] == 429


@pytest.mark.req("S2-13")
async def test_health_and_readiness_say_nothing_secret(anonymous, settings):
    for path in ("/health", "/healthz", "/api/health"):
        answer = await anonymous.get(path)
        assert answer.json() == {"ok": True, "status": "live"}
    answer = await anonymous.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "checks": {"database": True}})


async def test_an_error_names_the_field_and_never_repeats_the_value(client):
    answer = await client.post("/api/auth/tokens", json={"name": "x", "scope": "hunter2-is-no-scope"})
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (422, "invalid_field", "body.scope")
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"{}", "body.name: is required"),
        (b'{"name": "x", "scope": "root"}', "body.scope: must be 'read', 'write', 'command' or 'admin'"),
        (b'{"name": "", "scope": "read"}', "body.name: must have at least 1 character"),
        (b'{"name": "x", "days": -1}', "body.days: must be greater than or equal to 1"),
        (b'{"name": "x", "root": true}', "body.root: is not known here"),
        (b"[]", "body: must be a JSON object"),
        (b'{"name": ', "body: is not JSON: Expecting value at character 10"),
        (b'{"name": "x', "body: is not JSON: Unterminated string starting at character 10"),
        (b'{"name": 1}', "body.name: must be text"),
        (b'{"name": "\\ud800"}', "body.name: must be text that can be written as UTF-8"),
        (b'{"name": "' + b"x" * 501 + b'"}', "body.name: must have at most 200 characters"),
        (b'{"name": "x", "days": 1.5}', "body.days: must be a whole number"),
        (b'{"name": "x", "days": "soon"}', "body.days: must be a whole number"),
        (b'{"name": "x", "days": 9999}', "body.days: must be less than or equal to 3650"),
        (b'{"name": "x", "gateways": "home"}', "body.gateways: must be a list"),
    ],
)
async def test_an_error_says_of_the_field_what_it_must_be(client, body, says):
    answer = await client.post("/api/auth/tokens", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"]) == (422, says)
    assert answer.json()["field"] == answer.json()["errors"][0]["field"] == says.partition(": ")[0]


INSTANT = "must be an ISO 8601 instant with its zone, for example 2026-01-29T10:00:00Z"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/feed?limit=abc", "query.limit: must be a whole number"),
        ("/api/feed?limit=1.5", "query.limit: must be a whole number"),
        ("/api/feed?limit=0", "query.limit: must be greater than or equal to 1"),
        ("/api/audit?before=abc", "query.before: must be a whole number"),
        (f"/api/audit?before={'9' * 5000}", "query.before: must be a whole number of fewer digits"),
        ("/api/runs?mine=perhaps", "query.mine: must be true or false"),
        ("/api/runs?status=odd", "query.status: must be "),
        ("/api/dispatch/results", "query.operationId: is required"),
        ("/api/tasks/flow?since=yesterday", f"query.since: {INSTANT}"),
        ("/api/tasks/flow?since=2026-01-01", f"query.since: {INSTANT}"),
        ("/api/tasks/flow?since=2026-01-01T10:00:00", f"query.since: {INSTANT}"),
        ("/api/tasks/flow?since=2026-13-01T10:00:00Z", f"query.since: {INSTANT}"),
        ("/api/agents/%00", "path.agent_id: must be a name without spaces, control characters, /, ? and #"),
        ("/api/approval-rules?agentId=a%20b", "query.agentId: must be of the letters A to Z, digits, ., _ and -, "),
    ],
)
async def test_an_error_says_of_a_parameter_what_it_must_be(client, path, says):
    answer = await client.request("DELETE" if "rules" in path else "GET", path)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(says)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"schedule": {"kind": "never"}}, "body.schedule: must have one of 'at', 'every', 'cron' as its 'kind'"),
        ({"schedule": {}}, "body.schedule: must have a 'kind', which tells its kind"),
        ({"schedule": {"kind": "cron", "expr": "at midnight!"}}, "must be a cron expression, for example 0 3 * * *"),
        ({"enabled": "perhaps"}, "body.enabled: must be true or false"),
    ],
)
async def test_an_error_of_a_job_says_what_it_must_be(client, body, says):
    answer = await client.patch("/api/crons/j", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith(says)
    assert "never" not in answer.text


async def test_an_error_of_money_says_what_it_must_be(client):
    for cost, says in (("much", "must be a number"), ("0.1234567890123", "must have at most 12 decimal places")):
        answer = await client.post("/api/agents/main/metrics", json={"cost": cost})
        assert (answer.status_code, answer.json()["detail"]) == (422, f"body.cost: {says}")


async def test_a_body_that_cannot_be_read_at_all_is_said_to_be_so(client):
    headers = {"Content-Type": "application/json"}
    for body in (b'{"name": "\xff"}', b"[" * 100_000):
        answer = await client.post("/api/auth/tokens", content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        assert answer.json()["detail"] == "The body is not JSON in UTF-8, or it is nested too deeply."


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/api/nope", 404, "There is no GET '/api/nope'; /docs and /openapi.json list what there is."),
        ("GET", "/api/nope?x=1", 404, "There is no GET '/api/nope'; /docs and /openapi.json list what there is."),
        ("GET", "/api/a%0Ab%1B[31m", 404, r"There is no GET '/api/a\nb\x1b[31m'; "),
        ("GET", "/api/" + "x" * 5000, 404, f"There is no GET '/api/{'x' * 95}…'; "),
        ("GET", "/ws", 404, "There is no GET '/ws'; "),
        ("PUT", "/api/feed", 405, "There is no PUT '/api/feed', only GET; /docs lists what there is."),
        ("PUT", "/api/tasks", 405, "There is no PUT '/api/tasks', only GET, POST; /docs lists what there is."),
        ("POST", "/api/tasks/t", 405, "There is no POST '/api/tasks/t', only GET, PUT, PATCH, DELETE; "),
        ("X" * 5000, "/api/feed", 405, f"There is no '{'X' * 100}…' '/api/feed', only GET; "),
    ],
)
async def test_what_is_not_there_is_named_with_what_is(client, method, path, status, says):
    answer = await client.request(method, path)
    problem = answer.json()
    assert answer.status_code == status
    assert problem["code"] == {404: "not_found", 405: "method_not_allowed"}[status]
    assert problem["detail"].startswith(says)
    assert len(problem["detail"]) < 300
    if status == 405:
        assert f"only {answer.headers['allow']};" in problem["detail"]


async def test_the_services_own_metrics_need_a_token_and_count_routes_not_paths(client, anonymous):
    await anonymous.get("/api/tasks/secret-name")
    await client.get("/api/auth/verify")
    text = (await client.get("/metrics")).text
    assert 'lobservatory_http_requests_total{method="GET",route="/api/auth/verify",status="200"} 1' in text
    assert "secret-name" not in text
