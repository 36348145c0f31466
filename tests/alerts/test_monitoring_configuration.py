"""What `lobservatory up` makes for Prometheus, in a real one."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import yaml

from cli.up.monitoring import (
    ALERTMANAGER,
    PROMETHEUS,
    alertmanager_arguments,
    prepare_alertmanager,
    prepare_prometheus,
    prometheus_arguments,
)
from lobservatory.errors import SettingsError, UserError
from lobservatory.settings import Listen, Settings, load
from tests.fakes.exporter import fake_exporter
from tests.servers import prometheus, wait_for
from tests.tools import REPOSITORY, debian_tool

ADDRESSES = {
    "exporter": Listen(host="127.0.0.1", port=9464),
    "prometheus": Listen(host="0.0.0.0", port=9090),
    "alertmanager": Listen(host="::1", port=9093),
}


def targets(folder, name):
    return json.loads((folder / "targets" / f"{name}.json").read_text())


def test_targets_are_where_the_parts_listen(tmp_path):
    prepare_prometheus(tmp_path, Settings(gateway_name="home"), ADDRESSES)
    assert targets(tmp_path, "lobservatory") == [{"targets": ["127.0.0.1:9464"], "labels": {"gateway": "home"}}]
    assert targets(tmp_path, "prometheus") == [{"targets": ["127.0.0.1:9090"], "labels": {}}]
    assert targets(tmp_path, "alertmanager") == [{"targets": ["[::1]:9093"], "labels": {}}]
    assert not (tmp_path / "targets" / "openclaw.json").exists()
    prepare_prometheus(tmp_path, Settings(), {})
    assert targets(tmp_path, "alertmanager")[0]["targets"] == [], "a part that is not there is not scraped"


def test_defaults_beside_the_configuration_are_the_settings_defaults(tmp_path):
    settings = Settings()
    addresses = {
        "exporter": settings.metrics_listen,
        "prometheus": settings.prometheus_listen,
        "alertmanager": settings.alertmanager_listen,
    }
    prepare_prometheus(tmp_path, settings, addresses)
    for path in sorted((PROMETHEUS / "targets").iterdir()):
        ours, made = json.loads(path.read_text()), json.loads((tmp_path / "targets" / path.name).read_text())
        assert [{"labels": {}, **group} for group in ours] == made


@pytest.mark.parametrize("official", [False, True])
def test_configuration_is_valid(tmp_path, official):
    settings = Settings.model_validate({"official_metrics": official})
    config = prepare_prometheus(tmp_path, settings, ADDRESSES, "TOKEN")
    checked = subprocess.run(
        [debian_tool("promtool"), "check", "config", config], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert f"{len(list((REPOSITORY / 'alerts/rules').iterdir()))} rule files found" in checked.stdout + checked.stderr


def test_token_is_private_and_only_there_when_it_is_used(tmp_path):
    prepare_prometheus(tmp_path, Settings(), ADDRESSES, "TOKEN")
    token = tmp_path / "secrets" / "openclaw-token"
    assert token.read_text() == ""
    prepare_prometheus(tmp_path, Settings.model_validate({"official_metrics": True}), ADDRESSES, "TOKEN")
    assert token.read_text() == "TOKEN"
    assert token.stat().st_mode & 0o777 == 0o600


def test_rules_that_we_dropped_go_and_rules_of_others_stay(tmp_path):
    prepare_prometheus(tmp_path, Settings(), {})
    (tmp_path / "rules" / "lobs-old.yml").write_text("groups: []")
    (tmp_path / "rules" / "mine.yml").write_text("groups: []")
    prepare_prometheus(tmp_path, Settings(), {})
    here = {path.name for path in (tmp_path / "rules").iterdir()}
    assert here == {path.name for path in (REPOSITORY / "alerts" / "rules").iterdir()} | {"mine.yml"}


@pytest.mark.parametrize(
    ("url", "target", "scheme", "prefix"),
    [
        ("http://127.0.0.1:9193", "127.0.0.1:9193", "http", "/"),
        ("https://am.example.org", "am.example.org:443", "https", "/"),
        ("http://[::1]:9193/am", "[::1]:9193", "http", "/am"),
    ],
)
def test_an_alertmanager_of_yours_gets_our_alerts(tmp_path, url, target, scheme, prefix):
    config = prepare_prometheus(tmp_path, Settings(alertmanager_url=url), {"exporter": ADDRESSES["exporter"]})
    assert targets(tmp_path, "alertmanager")[0]["targets"] == [target]
    with prometheus(tmp_path / "server", config) as server:
        wait_for(lambda: server.api("alertmanagers")["activeAlertmanagers"], "Alertmanager is known")
        (known,) = server.api("alertmanagers")["activeAlertmanagers"]
        assert known["url"] == f"{scheme}://{target}{prefix.rstrip('/')}/api/v2/alerts"

        def scraped():
            return [one["scrapeUrl"] for one in server.targets() if one["labels"]["job"] == "alertmanager"]

        assert wait_for(scraped, "it is a target") == [f"{scheme}://{target}{prefix.rstrip('/')}/metrics"]


def test_our_own_alertmanager_is_asked_directly_and_not_by_its_address_in_messages(tmp_path):
    prepare_prometheus(tmp_path, Settings(alertmanager_url="https://am.example.org"), ADDRESSES)
    assert targets(tmp_path, "alertmanager")[0]["targets"] == ["[::1]:9093"]


@contextmanager
def official_plugin(seen):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.end_headers()
            self.wfile.write(b"openclaw_runs_total 3\n")

        def log_message(self, *args):
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.req("P-15")
def test_labels_of_series_and_the_official_plugin_beside_ours(tmp_path):
    seen = []
    with fake_exporter() as exporter, official_plugin(seen) as port:
        exporter.samples = {'claw_gateway_up{gateway="its own"}': 1, "lobservatory_database_up": 1}
        settings = Settings.model_validate(
            {"gateway_name": "home", "official_metrics": True, "gateway_url": f"ws://127.0.0.1:{port}"}
        )
        config = prepare_prometheus(
            tmp_path / "config", settings, {"exporter": Listen(host="127.0.0.1", port=exporter.port)}, "TOKEN"
        )
        document = yaml.safe_load(config.read_text())
        document["global"]["scrape_interval"] = document["global"]["scrape_timeout"] = "1s"
        config.write_text(yaml.safe_dump(document))
        with prometheus(tmp_path, config) as server:
            wait_for(lambda: len(server.query("up == 1")) == 2, "both scraped")
            assert {one["metric"]["gateway"] for one in server.query("up")} == {"home"}
            assert server.query("claw_gateway_up")[0]["metric"]["gateway"] == "its own"
            assert server.query("lobservatory_database_up")[0]["metric"]["gateway"] == "home"
            assert server.query("openclaw_runs_total")[0]["metric"]["gateway"] == "home"
    assert seen[0] == ("/api/diagnostics/prometheus", "Bearer TOKEN")


def test_arguments_start_a_stack_that_is_ours(tmp_path):
    settings = Settings.model_validate({"alertmanager_url": "https://am.example.org/"})
    listen = Listen(host="127.0.0.1", port=9093)
    assert "--web.external-url=https://am.example.org" in alertmanager_arguments(tmp_path, tmp_path, listen, settings)
    assert "--web.external-url=http://127.0.0.1:9093" in alertmanager_arguments(tmp_path, tmp_path, listen, Settings())
    assert "--storage.tsdb.retention.time=400d" in prometheus_arguments(tmp_path, tmp_path, listen)


@pytest.mark.parametrize(
    "address", ["grafana.example.org", "javascript:alert(1)", "http://a b", "http://a|b", "http://{{x}}", "http://<a>"]
)
def test_addresses_that_would_break_messages_are_refused(address):
    for name in ("LOBS_GRAFANA_URL", "LOBS_ALERTMANAGER_URL", "LOBS_RUNBOOK_URL"):
        with pytest.raises(SettingsError, match=rf"{name}: .* is not an http\(s\) URL"):
            load({name: address})


def test_own_configuration_that_is_not_there_is_named(tmp_path):
    settings = Settings.model_validate({"alertmanager_config": str(tmp_path / "none.yml")})
    with pytest.raises(UserError, match=r"none.yml cannot be read: No such file.*LOBS_ALERTMANAGER_CONFIG"):
        prepare_alertmanager(tmp_path / "am", settings, {})


@pytest.mark.parametrize("webhook", ["", "https://hooks.example/x"])
def test_own_configuration_that_nobody_changed_is_ours(tmp_path, webhook):
    """As compose mounts it."""
    settings = {"slack_webhook_url": webhook, "api_listen": "127.0.0.1:9999"}
    ours = prepare_alertmanager(tmp_path / "ours", Settings.model_validate(settings), {}).read_text()
    named = Settings.model_validate({**settings, "alertmanager_config": ALERTMANAGER / "alertmanager.yml"})
    assert prepare_alertmanager(tmp_path / "named", named, {}).read_text() == ours
    changed = tmp_path / "changed.yml"
    changed.write_text((ALERTMANAGER / "alertmanager.yml").read_text() + "# mine\n")
    own = Settings.model_validate({**settings, "alertmanager_config": changed})
    text = prepare_alertmanager(tmp_path / "changed", own, {}).read_text()
    assert text.endswith("# mine\n")
    assert "http://127.0.0.1:9999/api/webhooks/alertmanager" in text, "our history is told where the API listens"
