"""Where `up` puts each part: beside what others have taken, or at a running server that the settings name."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cli.up import gateway, parts, placement, report
from lobservatory.errors import UserError
from lobservatory.settings import Listen, Settings
from tests.servers import free_port

NOTHING = dict.fromkeys(parts.FOREIGN)
LOOPBACK = "127.0.0.1:0"


def settings(**values):
    listens = dict.fromkeys(("metrics_listen", "api_listen", "prometheus_listen", "alertmanager_listen"), LOOPBACK)
    return Settings.model_validate({**listens, "grafana_listen": LOOPBACK, **values})


@contextlib.contextmanager
def answering(status, body, content_type="application/json"):
    """A server that says the same to everybody."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def held_with_free_neighbours():
    """A port that somebody has, with two free ones behind it."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            first.listen()
            port = first.getsockname()[1]
            with contextlib.suppress(UserError, OverflowError):
                for number in (1, 2):
                    parts.check_free(Listen(host="127.0.0.1", port=port + number), "X")
                yield port
                return
    raise AssertionError("no three ports in a row")


def test_a_taken_port_of_an_optional_part_is_the_next_one_that_no_other_part_wants(tmp_path):
    with held_with_free_neighbours() as port:
        wanted = settings(prometheus_listen=f"127.0.0.1:{port}", alertmanager_listen=f"127.0.0.1:{port + 1}")
        made = placement.place(wanted, dict.fromkeys(parts.FOREIGN, tmp_path))
    assert made.addresses["alertmanager"].port == port + 1
    assert made.addresses["prometheus"].port == made.settings.prometheus_listen.port == port + 2
    (said,) = made.moved.values()
    assert said.startswith(f"127.0.0.1:{port} is taken by process {os.getpid()} (")
    assert "LOBS_PROMETHEUS_LISTEN" in said
    assert made.urls["prometheus"] == f"http://127.0.0.1:{port + 2}"


@pytest.mark.parametrize("name", ["metrics_listen", "api_listen"])
def test_a_taken_port_that_others_were_told_is_refused(name):
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        first.listen()
        with pytest.raises(UserError, match=f"LOBS_{name.upper()}: .* is taken by process {os.getpid()}"):
            placement.place(settings(**{name: f"127.0.0.1:{first.getsockname()[1]}"}), NOTHING)


def test_an_address_that_is_not_of_this_machine_is_refused_and_not_moved(tmp_path):
    with pytest.raises(UserError, match=r"LOBS_GRAFANA_LISTEN: 192\.0\.2\.1:3000: "):
        placement.place(settings(grafana_listen="192.0.2.1:3000"), {**NOTHING, "grafana": tmp_path})


def test_a_server_that_is_named_and_answers_is_used(tmp_path):
    with answering(200, b'{"database": "ok"}') as url:
        made = placement.place(settings(grafana_url=url), {**NOTHING, "grafana": tmp_path})
        assert report.yours("grafana", url).state == "yours"
    assert made.yours == {"grafana": url}
    assert "grafana" not in made.addresses
    assert made.settings.address("grafana") == url
    assert report.yours("grafana", url).state == "away", "it is asked anew"


@pytest.mark.parametrize(
    ("status", "body", "content_type"),
    [
        (502, b"bad gateway", "text/html"),
        (401, b'{"database": "ok"}', "application/json"),
        (200, b"<h1>Log in</h1>", "text/html"),
        (200, b'{"status": "ok"}', "application/json"),
        (200, b"[1]", "application/json"),
    ],
    ids=["proxy of ours", "needs a log-in", "log-in page", "something else", "a list"],
)
def test_an_address_for_messages_keeps_ours_from_nothing(tmp_path, status, body, content_type):
    """A proxy in front of the Grafana that `up` is about to start has nobody behind it yet."""
    with answering(status, body, content_type) as url:
        made = placement.place(settings(grafana_url=url), {**NOTHING, "grafana": tmp_path})
    assert made.yours == {}
    assert "grafana" in made.addresses
    assert made.settings.address("grafana") == url, "links lead where they were said to"


def test_what_is_named_and_away_is_linked_where_there_is_no_program_for_it():
    url = f"http://127.0.0.1:{free_port()}"
    made = placement.place(settings(grafana_url=url), NOTHING)
    assert made.yours == {"grafana": url}
    assert made.missing == ("prometheus", "alertmanager")
    assert made.settings.without == ("prometheus", "alertmanager")


def test_what_is_left_out_is_neither_started_nor_linked(tmp_path):
    made = placement.place(settings(without="grafana"), dict.fromkeys(parts.FOREIGN, tmp_path))
    assert set(made.addresses) == {"exporter", "api", "prometheus", "alertmanager"}
    assert made.settings.address("grafana") == ""
    with pytest.raises(ValueError, match="'grafanna' cannot be left out: one of prometheus, alertmanager, grafana"):
        settings(without="grafanna")


LAN = "198.51.100.7"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", LAN, "lan.example", "::ffff:198.51.100.7"])
@pytest.mark.parametrize("part", ["exporter", "api", "prometheus", "alertmanager", "grafana"])
def test_a_listener_that_others_reach_is_marked(monkeypatch, part, host):
    known = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda name, *a, **k: known({"lan.example": LAN}.get(name, name), *a, **k)
    )
    said = parts.exposure(part, Listen(host=host, port=8787))
    assert said.startswith("open to the network (")
    assert ("without a log-in" in said) == (part not in {"api", "grafana"})
    assert "docs/security.md" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost", "::ffff:127.0.0.1", "no.such.invalid"])
def test_the_loopback_is_not_marked(host):
    assert parts.exposure("api", Listen(host=host, port=8787)) == ""


@pytest.mark.parametrize(
    ("health", "state", "note"),
    [
        ({"gateway_connection": "connected", "gateway_failure": ""}, "connected", ""),
        (
            {"gateway_connection": "reconnecting", "gateway_failure": "unreachable"},
            "not answering",
            "Start the gateway",
        ),
        ({"gateway_connection": "reconnecting", "gateway_failure": "auth"}, "refused", "it refuses the token"),
        ({"gateway_connection": "reconnecting", "gateway_failure": "handshake"}, "no gateway", "LOBS_GATEWAY_URL"),
        ({"gateway_connection": "connecting", "gateway_failure": ""}, "connecting", "lobservatory doctor"),
        ({}, "unknown", "the exporter does not answer"),
    ],
)
def test_the_gateway_is_shown_as_the_exporter_finds_it(health, state, note):
    row = report.gateway(health, Settings.model_validate({"gateway_token": "hush", "state_dir": "/nowhere"}))
    assert row.state == state
    assert note in row.note
    assert "hush" not in row.note


def test_a_missing_token_is_named_as_missing():
    assert gateway.remedy("auth", token=False) == "it wants a token. Set LOBS_GATEWAY_TOKEN"


RUNNING = {"prometheus": "running", "alertmanager": "running"}


@pytest.mark.parametrize(
    ("values", "states", "shown", "said"),
    [
        ({}, RUNNING, "off", "LOBS_SLACK_WEBHOOK_URL turns it on"),
        ({"slack_webhook_url": "https://hooks.example/SECRET"}, RUNNING, "on", "alert-test"),
        (
            {"slack_webhook_url": "https://hooks.example/SECRET"},
            {**RUNNING, "alertmanager": "missing"},
            "off",
            "alerts need Alertmanager",
        ),
        ({}, {**RUNNING, "alertmanager": "yours"}, "yours", "your Alertmanager"),
        ({"alertmanager_config": "/etc/mine.yml"}, RUNNING, "yours", "LOBS_ALERTMANAGER_CONFIG"),
    ],
)
def test_slack_is_on_only_where_alerts_reach_it(values, states, shown, said):
    slack, *_ = report.features(Settings.model_validate(values), states, demo=False)
    assert (slack.part, slack.state) == ("slack", shown)
    assert said in slack.note
    assert "SECRET" not in str(slack)


def test_commands_and_chat_say_how_they_are_switched_on():
    _, *off = report.features(Settings(), RUNNING, demo=False)
    assert [(row.part, row.state) for row in off] == [("commands", "off"), ("chat", "off")]
    assert [row.note.split()[0] for row in off] == ["LOBS_COMMANDS=true", "LOBS_CHAT=true"]
    _, *on = report.features(Settings(commands=True, chat=True), RUNNING, demo=False)
    assert [row.state for row in on] == ["on", "on"]
