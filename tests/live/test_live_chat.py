"""A question in words to a real gateway's model, which asks for data and answers."""

from __future__ import annotations

import json

import httpx
import pytest

from cli.up import secrets
from tests.live.stack import gateway_settings, our_process, token, wait_ready
from tests.servers import PATIENCE_SECONDS

QUESTION = 'What did it cost? [[say {"query": "spending", "params": {}}]]'


@pytest.mark.live
@pytest.mark.req("S1-9")
def test_a_real_gateways_model_asks_for_data_and_answers(start_gateway, tmp_path, postgres_dsn, postgres_reader_dsn):
    claw = start_gateway()  # of its own: a gateway calls its model later, too, to name a conversation
    folder = secrets.create(tmp_path / "data")
    settings = gateway_settings(
        claw, tmp_path, LOBS_DATABASE_URL=postgres_dsn, LOBS_READER_URL=postgres_reader_dsn, LOBS_CHAT="1"
    )
    before = len(claw.model_requests())
    with our_process("api", settings, tmp_path) as process:
        url = f"http://{settings['LOBS_API_LISTEN']}"
        wait_ready(process, f"{url}/healthz", "the API")
        password = (folder / "api_password").read_text().strip()
        headers = {"Authorization": f"Bearer {token(url, password)}"}
        with httpx.Client(base_url=url, headers=headers, timeout=PATIENCE_SECONDS) as client:
            with client.stream("POST", "/api/chat", json={"message": QUESTION}) as answer:
                assert answer.status_code == 200
                events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
            assert [event["type"] for event in events if event["type"] != "delta"] == [
                "conversation",
                "query",
                "answer",
            ]
            last = events[-1]["payload"]
            assert last["text"].startswith("Reply ")
            assert [figure["query"] for figure in last["figures"]] == ["spending"]
            identifier = events[0]["payload"]["conversationId"]
            kept = client.get(f"/api/chat/conversations/{identifier}").json()["messages"]
            assert [one["content"] for one in kept] == [QUESTION, last["text"]]
    asked = [request for request in claw.model_requests()[before:] if request["kind"] == "turn"]
    assert len(asked) >= 2, "one for the data and one for the answer; the gateway may ask for a title as well"
