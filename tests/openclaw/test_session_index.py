"""Who a session is: kinds and parents from keys, indexes, windows and trajectories."""

from __future__ import annotations

import json

import pytest

from openclaw.stores import Stores
from openclaw.stores.keys import session_kind, thread_parent
from tests.openclaw.state_builder import (
    BuiltSession,
    add_event,
    add_session,
    call,
    connect,
    header,
    insert,
    sessions_folder,
    transcript,
    write_archive,
    write_database,
    write_files,
)


@pytest.mark.req("S1-4")
@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("agent:main:main", "main"),
        ("main", "main"),
        ("agent:main:main:thread:1712.5", "main"),
        ("agent:main:telegram:direct:42", "direct"),
        ("agent:main:telegram:work:direct:42", "direct"),
        ("agent:main:direct:42", "direct"),
        ("agent:main:whatsapp:dm:+49", "direct"),
        ("agent:main:telegram:group:-100", "group"),
        ("agent:main:telegram:group:-100:topic:42", "group"),
        ("agent:main:discord:channel:9:thread:7", "channel"),
        ("agent:main:matrix:room:!abc", "channel"),
        ("agent:main:subagent:1671ae13", "subagent"),
        ("agent:main:subagent:1:subagent:2", "subagent"),
        ("subagent:1671ae13", "subagent"),
        ("cron:job", "cron"),
        ("cron:job:run:1", "cron"),
        ("agent:main:cron:job", "cron"),
        ("agent:main:cron:job:run:1", "cron"),
        ("hook:1671ae13", "hook"),
        ("agent:main:hook:1671ae13", "hook"),
        ("agent:main:dashboard:work", "dashboard"),
        ("agent:main:acp:1671ae13", "acp"),
        ("thread:legacy", "other"),
        ("agent:main:something:else", "other"),
        ("agent:main:", "other"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_kind_of_a_key(key, kind):
    assert session_kind(key) == kind


def test_a_spawned_session_is_a_subagent_and_a_dashboard_with_a_parent_is_not():
    assert session_kind("agent:main:odd:1", created_via="spawn") == "subagent"
    assert session_kind("agent:main:dashboard:x", created_via="operator") == "dashboard"


def test_a_thread_belongs_to_its_conversation():
    assert thread_parent("agent:main:telegram:group:-100:topic:42") == "agent:main:telegram:group:-100"
    assert thread_parent("agent:main:slack:channel:c1:thread:17.5") == "agent:main:slack:channel:c1"
    assert thread_parent("agent:main:main") is None


def infos(root):
    stores = Stores(root)
    stores.discover()
    return stores.sessions()


@pytest.mark.req("S1-5", "S4-15")
def test_the_index_of_files_names_kinds_and_parents(tmp_path):
    built = [
        BuiltSession("s1", [header("s1")], key="agent:main:main", index={"totalTokens": 50, "contextTokens": 200}),
        BuiltSession("s2", [header("s2")], key="agent:main:subagent:u", index={"spawnedBy": "agent:main:main"}),
        BuiltSession("s3", [header("s3")], key="agent:main:cron:j"),
        BuiltSession("s3", [header("s3")], key="agent:main:cron:j:run:s3"),
        BuiltSession("s4", [header("s4")], key="agent:main:dashboard:d", index={"parentSessionKey": "agent:main:main"}),
    ]
    write_files(tmp_path, built)
    found = infos(tmp_path)
    assert found["main", "s1"].kind == "main"
    assert (found["main", "s1"].context_tokens, found["main", "s1"].context_limit) == (50, 200)
    assert (found["main", "s2"].kind, found["main", "s2"].parent_session_key) == ("subagent", "agent:main:main")
    assert (found["main", "s3"].kind, found["main", "s3"].session_key) == ("cron", "agent:main:cron:j")
    assert (found["main", "s4"].kind, found["main", "s4"].parent_session_key) == ("dashboard", "agent:main:main")


def test_a_topic_is_found_by_the_name_of_its_file(tmp_path):
    key = "agent:main:telegram:group:-100:topic:42"
    built = BuiltSession("s1-topic-42", [call("1")], key=key)
    write_files(tmp_path, [built])
    index = {key: {"sessionId": "s1", "sessionFile": "/home/claw/x/sessions/s1-topic-42.jsonl"}}
    (sessions_folder(tmp_path) / "sessions.json").write_text(json.dumps(index))
    found = infos(tmp_path)["main", "s1-topic-42"]
    assert (found.kind, found.parent_session_key) == ("group", "agent:main:telegram:group:-100")


@pytest.mark.parametrize("content", [b"{broken", b"[]", b'{"agent:main:main": 7, "x": {"sessionId": 5}}', b"\xff"])
def test_a_broken_index_hides_no_session(tmp_path, content):
    write_files(tmp_path, [BuiltSession("s1", [call("1")])])
    (sessions_folder(tmp_path) / "sessions.json").write_bytes(content)
    stores = Stores(tmp_path)
    assert len(stores.discover().sources) == 1
    assert stores.sessions() == {}


def test_the_last_good_index_stays_while_a_new_one_is_broken(tmp_path):
    write_files(tmp_path, [BuiltSession("s1", [call("1")], key="agent:main:main")])
    stores = Stores(tmp_path)
    stores.discover()
    assert stores.sessions()["main", "s1"].kind == "main"
    (sessions_folder(tmp_path) / "sessions.json").write_bytes(b"{broken")
    stores.discover()
    assert stores.sessions()["main", "s1"].kind == "main"


def test_a_session_that_the_index_has_forgotten_is_named_by_its_trajectory(tmp_path):
    write_archive(tmp_path, BuiltSession("s1", [call("1")]))
    line = {"traceSchema": "openclaw-trajectory", "sessionKey": "agent:main:dashboard:gone", "data": {}}
    (sessions_folder(tmp_path) / "s1.trajectory.jsonl").write_bytes(transcript([line]))
    write_archive(tmp_path, BuiltSession("s2", [call("2")]))
    found = infos(tmp_path)
    assert found["main", "s1"].kind == "dashboard"
    assert ("main", "s2") not in found


@pytest.mark.req("S1-4")
def test_a_webhook_run_is_known_by_its_window_not_by_its_key(tmp_path):
    key = "agent:main:cron:075ddae0"
    hook = BuiltSession("s1", [call("1")], key=key, window={"hook_external_content_source": "webhook"})
    cron = BuiltSession("s2", [call("2")], key="agent:main:cron:job")
    write_database(tmp_path, [hook, cron])
    found = infos(tmp_path)
    assert found["main", "s1"].kind == "hook"
    assert found["main", "s2"].kind == "cron"


def test_the_database_names_parents_channels_and_earlier_windows(tmp_path):
    writer = connect(tmp_path)
    child = BuiltSession(
        "s1",
        [],
        key="agent:main:subagent:u",
        window={"parent_session_key": "agent:main:main", "channel": "telegram", "model": "m", "status": "done"},
    )
    add_session(writer, child)
    add_session(writer, BuiltSession("old", [], key="agent:main:main"))
    add_session(writer, BuiltSession("new", [], key="agent:main:main"))
    entry = json.dumps({"totalTokens": 9, "contextTokens": 90, "skillsSnapshot": {"prompt": "x" * 10_000}})
    node = {"session_key": "agent:main:main", "current_session_id": "new", "entry_json": entry, "updated_at": 2}
    insert(writer, "session_nodes", node)
    stores = Stores(tmp_path)
    stores.discover()
    found = stores.sessions()
    assert found["main", "s1"].parent_session_key == "agent:main:main"
    assert (found["main", "s1"].channel, found["main", "s1"].status) == ("telegram", "done")
    assert found["main", "old"].kind == "main"
    assert found["main", "old"].context_tokens is None
    assert (found["main", "new"].context_tokens, found["main", "new"].context_limit) == (9, 90)
    node |= {"entry_json": json.dumps({"totalTokens": 10}), "updated_at": 3}
    insert(writer, "session_nodes", node)
    add_event(writer, "new", 0, call("1"))
    stores.discover()
    assert stores.sessions()["main", "new"].context_tokens == 10
    writer.close()


def test_the_database_wins_over_the_files_index(tmp_path):
    write_files(tmp_path, [BuiltSession("s1", [call("1")], key="agent:main:dashboard:old")])
    write_database(tmp_path, [BuiltSession("s1", [call("1")], key="agent:main:main")])
    assert infos(tmp_path)["main", "s1"].session_key == "agent:main:main"
