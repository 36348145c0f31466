"""The units of systemd: valid, for both processes, and as docs/operation.md says."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import missing

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "provisioning" / "systemd").glob("*.service"))


def test_there_is_one_for_each_process():
    started = []
    for unit in UNITS:
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.optionxform = str
        parser.read_string(unit.read_text(encoding="utf-8"))
        service = parser["Service"]
        started.append(service["ExecStart"].rpartition(" -m ")[2])
        assert service["Restart"] == "always"
        assert service["NoNewPrivileges"] == "yes"
        assert service["User"] == "lobservatory"
        settings = set(re.findall(r"LOBS_[A-Z_]+", unit.read_text(encoding="utf-8")))
        assert settings == {"LOBS_CONFIG_FILE", "LOBS_DATA_DIR"}
    assert started == ["api", "exporter"]


@pytest.mark.req("S2-14")
@pytest.mark.parametrize("unit", UNITS, ids=[unit.stem for unit in UNITS])
def test_systemd_finds_nothing_wrong(unit, tmp_path):
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        missing("systemd-analyze", "install systemd")
    # Programs that are not installed here would be the one thing that is wrong; everything else stays as it is.
    text = re.sub(r"(?m)^(ExecStart(?:Pre)?=)\S+", rf"\g<1>{sys.executable}", unit.read_text(encoding="utf-8"))
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert ours == []
    copy.write_text(text.replace("Restart=always", "Restart=sometimes"))
    wrong = subprocess.run([analyze, "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False)
    assert "sometimes" in wrong.stdout + wrong.stderr, "it does not look at all"
