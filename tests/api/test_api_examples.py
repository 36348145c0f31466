"""The examples of docs/operations-api.md, as they stand there, against a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from api.app import create_app
from lobservatory.password import PasswordFile
from tests.api.conftest import FAST, LOOSE
from tests.api.test_api_contract import SERVICE, serving
from tests.conftest import missing
from tests.servers import PATIENCE_SECONDS

PAGE = Path(__file__).parents[2] / "docs" / "operations-api.md"
SECRET = "w" * 40


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def argv(language, folder):
    if language == "python":
        (folder / "example.py").write_text(blocks("python")[0])
        return [sys.executable, "-P", str(folder / "example.py")]
    node = shutil.which("node")
    if node is None:
        missing("node", "install Node.js 20 or newer")
    # Without its annotations it is JavaScript: neither a compiler nor a newer Node.js is needed to run it.
    stripped = re.sub(r"(\w): (?:string|object)(?=[,)])", r"\1", blocks("typescript")[0])
    assert stripped != blocks("typescript")[0]
    (folder / "example.mjs").write_text(stripped)
    return [node, str(folder / "example.mjs")]


@pytest.fixture
def server(settings):
    password = PasswordFile(settings.data_dir / "secrets" / "api_password", FAST)
    with serving(create_app(settings, password, limits=LOOSE)) as url:
        yield url


def run(arguments, url, **environment):
    done = subprocess.run(
        arguments,
        env={"PATH": os.defpath, "API": url, "TOKEN": "s" * 43, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", ["python", "typescript"])
def test_the_example_shows_an_operation_to_its_end(server, tmp_path, language):
    assert len(blocks(language)[0].strip().splitlines()) <= 11
    run(argv(language, tmp_path), server)
    (operation,) = httpx.get(f"{server}/api/operations", headers=SERVICE, timeout=PATIENCE_SECONDS).json()
    assert (operation["status"], operation["name"]) == ("completed", "Research")
    assert [step["status"] for step in operation["steps"]] == ["completed"]
    assert operation["disposition"]["success"] is True


def test_the_example_of_a_webhook_is_accepted(server, settings, tmp_path):
    folder = settings.data_dir / "secrets" / "webhooks"
    folder.mkdir()
    (folder / "ci").write_text(SECRET)
    (tmp_path / "hook.py").write_text(blocks("python")[1])
    run([sys.executable, "-P", str(tmp_path / "hook.py")], server, SECRET=SECRET)
    (operation,) = httpx.get(f"{server}/api/operations", headers=SERVICE, timeout=PATIENCE_SECONDS).json()
    assert operation["name"] == "ci: deploy.finished"
