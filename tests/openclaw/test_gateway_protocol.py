import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openclaw.protocol import (
    DROP_REASONS,
    AuthFailedError,
    CallTimeoutError,
    Connection,
    Dropped,
    Failed,
    Gap,
    GatewayUnavailableError,
    Happening,
    MissingScopeError,
    NotReadyError,
    Phase,
    Pushed,
    Ready,
    Refused,
    RefusedError,
    Reply,
    RpcError,
    Send,
    TooManyRequestsError,
    UnknownMethodError,
    rpc_error,
)

SAMPLES = Path(__file__).parents[1] / "fixtures" / "samples"
CHALLENGE = {"type": "event", "event": "connect.challenge", "payload": {"nonce": "n", "ts": 1}}


def sample(name):
    return json.loads((SAMPLES / name).read_text(encoding="utf-8"))


def connection(**settings):
    numbers = itertools.count(1)
    return Connection(token="s3cret", version="0.1.0", new_id=lambda: f"r{next(numbers)}", **settings)


def feed(core, frame, now=0.0):
    return core.receive(json.dumps(frame), now)


def ready(**settings):
    core = connection(**settings)
    feed(core, CHALLENGE)
    assert isinstance(feed(core, {"type": "res", "id": "r1", "ok": True, "payload": sample("hello-ok.json")})[0], Ready)
    return core


def reasons(happened):
    return [item.reason for item in happened if isinstance(item, Dropped)]


@pytest.mark.req("S4-2")
def test_the_handshake_waits_for_the_challenge_and_calls_wait_for_hello_ok():
    core = connection(capabilities=("tool-events",))
    with pytest.raises(NotReadyError):
        core.request("health", now=0, timeout=1)
    assert reasons(feed(core, {"type": "event", "event": "tick", "payload": {}, "seq": 1})) == ["early"]

    (sent,) = feed(core, CHALLENGE)
    assert isinstance(sent, Send)
    frame = json.loads(sent.text)
    assert frame["method"] == "connect"
    params = frame["params"]
    assert (params["minProtocol"], params["maxProtocol"]) == (3, 4)
    assert (params["client"]["id"], params["client"]["mode"]) == ("gateway-client", "backend")
    assert (params["role"], params["scopes"], params["caps"]) == ("operator", ["operator.read"], ["tool-events"])
    assert params["auth"] == {"token": "s3cret"}
    with pytest.raises(NotReadyError):
        core.request("health", now=0, timeout=1)
    assert reasons(feed(core, CHALLENGE)) == ["early"]

    (arrived,) = feed(core, {"type": "res", "id": "r1", "ok": True, "payload": sample("hello-ok.json")})
    assert isinstance(arrived, Ready)
    assert (arrived.hello.protocol, arrived.hello.version) == (4, "2026.9.6")
    assert arrived.hello.boot_id == "7226b080-a685-4597-a7de-cff75e2ee91e"
    assert core.request("health", now=0, timeout=1)[0] == "r2"


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (
            {"code": "INVALID_REQUEST", "message": "unauthorized", "details": {"code": "AUTH_TOKEN_MISMATCH"}},
            AuthFailedError,
            "AUTH_TOKEN_MISMATCH",
        ),
        (
            {"code": "NOT_PAIRED", "message": "device", "details": {"code": "DEVICE_IDENTITY_REQUIRED"}},
            AuthFailedError,
            "DEVICE_IDENTITY_REQUIRED",
        ),
        (
            {"code": "INVALID_REQUEST", "message": "protocol mismatch", "details": {"code": "PROTOCOL_MISMATCH"}},
            RefusedError,
            "PROTOCOL_MISMATCH",
        ),
        ({"code": "UNAVAILABLE", "message": "starting", "retryAfterMs": 500}, RefusedError, "UNAVAILABLE"),
        ("nonsense", RefusedError, "UNKNOWN"),
    ],
)
def test_a_refusal_of_connect_is_typed_and_names_the_code(error, expected, code):
    core = connection()
    feed(core, CHALLENGE)
    (refused,) = feed(core, {"type": "res", "id": "r1", "ok": False, "error": error})
    assert isinstance(refused, Refused)
    assert type(refused.error) is expected
    assert refused.error.code == code
    assert core.phase is Phase.CLOSED
    assert "s3cret" not in str(refused.error)


def test_a_protocol_that_we_do_not_speak_is_refused_by_us():
    core = connection()
    feed(core, CHALLENGE)
    hello = {**sample("hello-ok.json"), "protocol": 9}
    (refused,) = feed(core, {"type": "res", "id": "r1", "ok": True, "payload": hello})
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, RefusedError)


@pytest.mark.parametrize("payload", [{"ok": True}, [{"host": "claw"}], None])
def test_a_payload_may_be_an_object_a_list_or_null(payload):
    core = ready()
    request_id, _ = core.request("system-presence", now=10, timeout=5)
    (reply,) = feed(core, {"type": "res", "id": request_id, "ok": True, "payload": payload}, now=10.5)
    assert reply == Reply(request_id, "system-presence", payload, 0.5)


def test_the_agent_call_answers_twice_on_one_id():
    accepted = sample("rpc-2026.9.6/agent.accepted.json")["response"]
    final = sample("rpc-2026.9.6/agent.final.json")["response"]
    core = ready()
    first, _ = core.request("agent", now=0, timeout=60)
    (reply,) = feed(core, {**accepted, "id": first})
    assert isinstance(reply, Reply)
    assert reply.payload["status"] == "accepted"
    assert reasons(feed(core, {**final, "id": first})) == ["duplicate_reply"]

    second, _ = core.request("agent", now=0, timeout=60, final=True)
    assert feed(core, {**accepted, "id": second}) == []
    assert core.pending == 1
    (reply,) = feed(core, {**final, "id": second})
    assert isinstance(reply, Reply)
    assert reply.payload["status"] == "ok"


def test_an_error_may_carry_a_payload_too():
    core = ready()
    request_id, _ = core.request("agent", now=0, timeout=60, final=True)
    (failed,) = feed(core, {**sample("rpc-2026.9.6/agent.error.json")["response"], "id": request_id})
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RpcError)
    assert failed.error.code == "UNAVAILABLE"
    assert failed.error.payload["status"] == "error"


@pytest.mark.req("S4-16")
@pytest.mark.parametrize("version", ["rpc-2026.9.6", "rpc-2026.4.27"])
def test_missing_scopes_and_methods_are_recognised_in_both_versions(version):
    refused = [call for call in sample(f"{version}/_scope-errors.json")["calls"] if "error" in call["response"]]
    found = {}
    for call in refused:
        error = rpc_error(call["method"], call["response"]["error"])
        if isinstance(error, MissingScopeError):
            found[call["method"]] = error.scope
    assert found["agent"] == "operator.write"
    assert found["cron.run"] == "operator.admin"
    unknown = sample(f"{version}/nosuch.method.json")["response"]["error"]
    assert isinstance(rpc_error("nosuch.method", unknown), UnknownMethodError)


def test_late_duplicate_and_unknown_replies_are_dropped_and_told_apart():
    core = ready()
    answered, _ = core.request("health", now=0, timeout=5)
    late, _ = core.request("status", now=0, timeout=5)
    reply = {"type": "res", "ok": True, "payload": {}}
    feed(core, {**reply, "id": answered})
    assert reasons(feed(core, {**reply, "id": answered})) == ["duplicate_reply"]
    assert core.expire(4.9) == []
    (failed,) = core.expire(5.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, CallTimeoutError)
    assert reasons(feed(core, {**reply, "id": late})) == ["late_reply"]
    assert reasons(feed(core, {**reply, "id": "never-asked"})) == ["unknown_reply"]
    assert core.pending == 0


def test_the_table_of_requests_is_bounded():
    core = ready(max_pending=3)
    ids = [core.request("health", now=0, timeout=5)[0] for _ in range(3)]
    with pytest.raises(TooManyRequestsError):
        core.request("health", now=0, timeout=5)
    core.cancel(ids[0])
    core.request("health", now=0, timeout=5)


@pytest.mark.req("S4-4")
def test_a_drop_fails_everything_in_flight_at_once():
    core = ready()
    ids = {core.request(method, now=0, timeout=60)[0] for method in ("health", "status")}
    lost = core.close(1.0)
    assert {item.request_id for item in lost} == ids
    assert all(isinstance(item.error, GatewayUnavailableError) for item in lost)
    assert reasons(feed(core, {"type": "event", "event": "tick", "seq": 2})) == ["after_close"]
    with pytest.raises(NotReadyError):
        core.request("health", now=2, timeout=1)


@pytest.mark.req("S4-5")
def test_sequence_gaps_are_seen_and_nothing_is_delivered_twice():
    core = ready()

    def push(seq):
        return feed(core, {"type": "event", "event": "tick", "payload": {}, "seq": seq})

    assert [type(item) for item in push(5)] == [Pushed]  # the first number may be any
    assert [type(item) for item in push(6)] == [Pushed]
    assert reasons(push(6)) == ["duplicate_event"]
    gap, pushed = push(9)
    assert gap == Gap(6, 9)
    assert isinstance(pushed, Pushed)
    gap, _ = push(1)
    assert gap == Gap(9, 1)
    assert [type(item) for item in push(2)] == [Pushed]


def test_events_without_a_number_and_unknown_events_pass():
    core = ready()
    assert feed(core, {"type": "event", "event": "from.the.future", "new": 1}) == [
        Pushed("from.the.future", None, None)
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x00\x01", "binary"),
        ("x" * 100_001, "too_large"),
        ("{", "invalid_json"),
        ('{"a": NaN}', "invalid_json"),
        ('"\ud800"', "invalid_json"),
        ("[" * 900, "invalid_json"),
        ("[]", "invalid_frame"),
        ('{"type":"res","id":7}', "invalid_frame"),
        ('{"type":"event","event":[]}', "invalid_frame"),
        ('{"type":"toString"}', "invalid_frame"),
    ],
)
def test_frames_that_make_no_sense_are_dropped_and_counted(data, reason):
    core = ready(max_frame_bytes=100_000)
    assert core.receive(data, 0.0) == [Dropped(reason)]


def test_every_recorded_event_is_understood():
    core = ready()
    with (SAMPLES / "events.jsonl").open(encoding="utf-8") as lines:
        happened = [item for line in lines for item in core.receive(line, 0.0)]
    assert not [item for item in happened if isinstance(item, Dropped)]
    assert sum(isinstance(item, Pushed) for item in happened) == 184


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
frames = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["res", "event", "req"]) | json_values,
        "event": st.sampled_from(["connect.challenge", "tick", "agent"]) | json_values,
        "id": st.sampled_from([f"r{n}" for n in range(1, 9)]) | json_values,
        "ok": st.booleans() | json_values,
        "seq": st.integers(-3, 10) | json_values,
        "payload": st.fixed_dictionaries({"type": st.just("hello-ok"), "protocol": st.integers(2, 5)}) | json_values,
        "error": json_values,
    },
)
steps = st.lists(
    st.tuples(st.just("frame"), frames)
    | st.tuples(st.just("text"), st.text(max_size=40))
    | st.tuples(st.just("bytes"), st.binary(max_size=20))
    | st.tuples(st.just("call"), st.booleans())
    | st.tuples(st.just("time"), st.floats(0, 20))
    | st.tuples(st.just("close"), st.none()),
    max_size=30,
)


@pytest.mark.req("S4-2", "S4-5")
@given(steps, st.booleans())
def test_no_frame_in_any_order_breaks_the_core(script, start_ready):
    core = ready(max_pending=4) if start_ready else connection(max_pending=4)
    now, asked, settled = 0.0, set(), []
    for kind, value in script:
        happened: list[Happening] = []
        if kind == "frame":
            happened = core.receive(json.dumps(value), now)
        elif kind in ("text", "bytes"):
            happened = core.receive(value, now)
        elif kind == "call":
            if core.phase is Phase.READY and core.pending < 4:
                asked.add(core.request("health", now=now, timeout=5, final=value)[0])
        elif kind == "time":
            now += value
            happened = core.expire(now)
        else:
            happened = core.close(now)
        settled += [item.request_id for item in happened if isinstance(item, Reply | Failed)]
        assert all(item.reason in DROP_REASONS for item in happened if isinstance(item, Dropped))
        if core.phase is not Phase.READY:
            assert not any(isinstance(item, Pushed) for item in happened)
        assert core.pending <= 4
    settled += [item.request_id for item in core.close(now)]
    assert sorted(settled) == sorted(asked)  # each call ends exactly once
