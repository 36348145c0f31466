"""The servers that other tests rely on, and the way they get on the machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tools
from tests.servers import PATIENCE_SECONDS, ServerError, alertmanager, prometheus


def test_servers_start_answer_and_stop(tmp_path):
    (tmp_path / "prometheus.yml").write_text("scrape_configs: []\n")
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    with (
        prometheus(tmp_path / "p", tmp_path / "prometheus.yml") as metrics,
        alertmanager(tmp_path / "a", tmp_path / "alertmanager.yml") as alerts,
    ):
        assert metrics.query("1 + vector(1)")[0]["value"][1] == "2"
        alerts.send([{"labels": {"alertname": "Tried"}}])
        assert [alert["labels"] for alert in alerts.alerts()] == [{"alertname": "Tried"}]
    assert metrics.process.returncode == alerts.process.returncode == 0


def test_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "bad.yml").write_text("scrape_configs: 3\n")
    with pytest.raises(ServerError, match="cannot unmarshal"), prometheus(tmp_path, tmp_path / "bad.yml"):
        pass


def test_named_binary_wins(tmp_path, monkeypatch):
    for name in ("alertmanager", "amtool"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("LOBS_ALERTMANAGER_BIN", str(tmp_path / "alertmanager"))
    assert tools.find_tool("alertmanager") == tmp_path / "alertmanager"
    assert tools.find_tool("amtool") == tmp_path / "amtool"


def use_only(folder, *programs):
    """Make `folder` a PATH with these programs and no others: the machine's own may have what is looked for."""
    for name in programs:
        (folder / name).symlink_to(shutil.which(name))


def test_two_processes_at_once_unpack_once(tmp_path):
    """apt is replaced by one that notes each use; dpkg by one that unpacks a binary."""
    fake = tmp_path / "bin"
    fake.mkdir()
    uses = tmp_path / "uses"
    (fake / "apt-get").write_text(f'#!/bin/sh\necho "$@" >>{uses}\ncase "$*" in *download*) : >p.deb;; esac\n')
    (fake / "dpkg").write_text('#!/bin/sh\nmkdir -p "$3/usr/bin" && echo x >"$3/usr/bin/promtool"\n'
                               'chmod +x "$3/usr/bin/promtool"\n')  # fmt: skip
    for program in fake.iterdir():
        program.chmod(0o755)
    use_only(fake, "chmod", "mkdir")
    cache = tmp_path / "cache"
    find = f"find_tool('promtool', Path({str(cache)!r}))"
    code = f"from pathlib import Path; from tests.tools import find_tool; print({find})"
    environment = {"PATH": str(fake), "PYTHONPATH": str(tools.REPOSITORY)}
    asked = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    answers = {process.communicate(timeout=PATIENCE_SECONDS)[0].strip() for process in asked}
    assert answers == {str(cache / "prometheus/usr/bin/promtool")}
    assert uses.read_text().count("download prometheus") == 1
    assert {path.name for path in cache.iterdir()} == {"lock", "prometheus"}


def test_failure_names_the_reason(tmp_path, monkeypatch):
    (tmp_path / "dpkg").touch(mode=0o755)
    (tmp_path / "apt-get").write_text("#!/bin/sh\necho 'E: no network today' >&2\nexit 100\n")
    (tmp_path / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LOBS_PROMETHEUS_BIN", raising=False)
    with pytest.raises(tools.ToolUnavailableError, match="no network today"):
        tools.find_tool("prometheus", Path(tmp_path / "cache"))


def test_without_apt_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("LOBS_PROMETHEUS_BIN", raising=False)
    with pytest.raises(tools.ToolUnavailableError, match="no apt-get"):
        tools.find_tool("prometheus", tmp_path / "cache")
