"""docker-compose.yml: valid for both commands, exact, private, and with no secret in it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
import yaml

from cli.up import postgres
from tests.tools import debian_tool

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"


def command():
    plugin = shutil.which("docker")
    if plugin and subprocess.run([plugin, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [plugin, "compose"]
    return [str(debian_tool("docker-compose"))]


@pytest.fixture(scope="module")
def resolved():
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOBS_")}
    done = subprocess.run(
        [*command(), "-f", str(FILE), "config"],
        env={**clean, "LOBS_UID": "1234", "LOBS_GID": "567", "LOBS_STATE_DIR": "/home/claw/.openclaw"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.mark.req("S1-18")
def test_the_file_is_valid_and_complete(resolved):
    expected = {"prepare", "postgres", "migrate", "exporter", "api", "prometheus", "alertmanager", "grafana"}
    assert set(resolved["services"]) == expected
    assert set(resolved["volumes"]) == {"data", "postgres"}


def test_images_have_exact_tags(resolved):
    images = {name: service["image"] for name, service in resolved["services"].items()}
    assert all(re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-pg1[6-9])?", image) for image in images.values()), images
    assert images["postgres"].startswith("timescale/timescaledb:")
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert version is not None
    assert images["exporter"] == f"lobservatory:{version[1]}"


def test_everything_listens_on_the_loopback_only(resolved):
    text = json.dumps(resolved)
    assert "0.0.0.0" not in text
    assert "ports" not in text
    listening = [service for name, service in resolved["services"].items() if name not in {"prepare", "migrate"}]
    assert all(service["network_mode"] == "host" for service in listening)
    assert "listen_addresses=127.0.0.1" in resolved["services"]["postgres"]["command"]
    assert "--web.listen-address=127.0.0.1:9090" in resolved["services"]["prometheus"]["command"]
    assert "--web.listen-address=127.0.0.1:9093" in resolved["services"]["alertmanager"]["command"]
    assert resolved["services"]["grafana"]["environment"]["LOBS_GRAFANA_HTTP_ADDR"] == "127.0.0.1"


def test_the_state_directory_is_mounted_read_only_as_its_owner(resolved):
    exporter = resolved["services"]["exporter"]
    assert exporter["user"] == "1234:567"
    assert exporter["pid"] == "host"
    binds = [volume for volume in exporter["volumes"] if isinstance(volume, dict) and volume["type"] == "bind"]
    binds += [
        {"source": source, "target": target, "read_only": mode == "ro"}
        for source, target, mode in (v.split(":") for v in exporter["volumes"] if isinstance(v, str))
        if source.startswith("/")
    ]
    assert {(bind["source"], bind["target"], bind["read_only"]) for bind in binds} == {
        ("/home/claw/.openclaw", "/openclaw", True),
        (str(ROOT / "alerts/thresholds.toml"), "/etc/lobservatory/thresholds.toml", True),
    }


def test_what_stays_up_is_checked_and_restarted(resolved):
    for name, service in resolved["services"].items():
        if name in {"prepare", "migrate"}:
            assert "restart" not in service
        else:
            assert service["restart"] == "unless-stopped", name
            assert service["healthcheck"]["test"], name


def test_prometheus_keeps_400_days(resolved):
    assert "--storage.tsdb.retention.time=400d" in resolved["services"]["prometheus"]["command"]


def test_no_secret_is_in_the_file():
    text = FILE.read_text(encoding="utf-8")
    values = re.findall(r"(?i)(?:password|token|secret|webhook_url):\s*(\S+)", text)
    assert [value for value in values if not value.startswith(("$$__file{", "${"))] == []
    assert not re.search(r"postgres(ql)?://", text)


def test_settings_in_the_file_are_known_to_the_program(resolved):
    from lobservatory import settings  # noqa: PLC0415 - keeps the other tests independent of it

    for name in ("exporter", "api", "migrate", "prepare"):
        environment = {key: str(value or "") for key, value in resolved["services"][name]["environment"].items()}
        files = {key for key in environment if key.endswith("_FILE")}
        loaded = settings.load({key: value for key, value in environment.items() if key not in files})
        assert str(loaded.data_dir) == "/var/lib/lobservatory"


@pytest.fixture
def data():
    # Not below pytest's own folder: as root PostgreSQL runs as another user, who cannot enter that.
    folder = Path(tempfile.mkdtemp(prefix="lobs-compose-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def lobservatory(data, *arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LOBS_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name("lobservatory")), *arguments],
        env={**clean, "LOBS_DATA_DIR": str(data), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def paths_of(service):
    words = [*(service.get("entrypoint") or []), *(service.get("command") or []), service.get("working_dir") or ""]
    words += [str(value) for value in (service.get("environment") or {}).values()]
    return set(re.findall(r"/var/lib/lobservatory/([\w./-]+)", " ".join(words)))


@pytest.mark.req("S1-18")
def test_what_the_containers_expect_is_prepared(resolved, data):
    done = lobservatory(data, "prepare", "--database-port", "55432", LOBS_SLACK_WEBHOOK_URL="http://127.0.0.1:1/hook")
    wanted = set().union(*(paths_of(service) for service in resolved["services"].values()))
    assert {"run/prometheus/prometheus.yml", "run/alertmanager/chosen.yml", "run/database_url"} <= wanted
    assert [path for path in wanted if not (data / path).exists()] == []
    url = (data / "run" / "database_url").read_text(encoding="utf-8")
    assert url.startswith("postgresql://lobs_writer:")
    assert url.endswith("@127.0.0.1:55432/lobservatory\n")
    targets = json.loads((data / "run/prometheus/targets/lobservatory.json").read_text(encoding="utf-8"))
    assert targets == [{"targets": ["127.0.0.1:9464"], "labels": {"gateway": "default"}}]
    assert "slack_configs" in (data / "run/alertmanager/chosen.yml").read_text(encoding="utf-8")
    values = [path.read_text(encoding="utf-8").strip() for path in (data / "secrets").iterdir()]
    assert len(values) >= 7
    assert not any(value in done.stdout + done.stderr for value in values)
    for binary, arguments in (("promtool", ["check", "config"]), ("amtool", ["check-config"])):
        name = "prometheus/prometheus.yml" if binary == "promtool" else "alertmanager/chosen.yml"
        subprocess.run(
            [debian_tool(binary), *arguments, name.rpartition("/")[2]],
            cwd=(data / "run" / name).parent,
            check=True,
            capture_output=True,
        )
    # Again changes no secret; without Slack the same file is the configuration without it.
    lobservatory(data, "prepare", "--database-port", "55432")
    assert sorted(path.read_text(encoding="utf-8").strip() for path in (data / "secrets").iterdir()) == sorted(values)
    assert "slack_configs" not in (data / "run/alertmanager/chosen.yml").read_text(encoding="utf-8")


def test_roles_database_and_schema_are_made_with_the_generated_secrets(data):
    lobservatory(data, "prepare", "--database-port", "55432")
    cluster = postgres.prepare(
        data, durable=False
    )  # takes the superuser's password from the secrets, as the image does
    process = cluster.start()
    try:
        cluster.wait_ready(process)
        for _ in range(2):  # `docker compose up` again
            done = lobservatory(data, "migrate", "--create-roles-on-port", str(cluster.port))
            assert done.stdout == "migrate: the schema is up to date\n"
        with psycopg.connect(cluster.dsn(postgres.READER)) as connection:
            assert connection.execute("SELECT count(*) FROM model_calls").fetchone() == (0,)
    finally:
        postgres.stop(process)


def test_the_image_is_locked_and_does_not_run_as_root():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements.lock" in text
    assert re.search(r"^USER \d{3,}", text, re.MULTILINE)
    assert not re.search(r"^FROM \S+:latest|^FROM [^:\s]+( |$)", text, re.MULTILINE)
