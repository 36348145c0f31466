"""Documentation that cannot lag behind: generated pages, links, names and code blocks."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest

from cli.app import app
from cli.commands.docs import PAGES
from lobservatory.settings import FILE_ONLY, SECRETS, UP_VARIABLES, Settings
from tests import requirements
from tests.archives import extract

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SETTINGS = {f"LOBS_{name.upper()}" for name in Settings.model_fields}
VARIABLES = {f"LOBS_{name.upper()}" for name in Settings.model_fields if name not in FILE_ONLY}
ROOMS = ("alerts", "api", "cli", "dashboards", "exporter", "lobservatory", "openclaw", "provisioning", "store")
# Everything that tells people something.
TEXTS = [
    *DOCUMENTS,
    *(ROOT / name for name in ("docker-compose.yml", "Dockerfile", "Makefile")),
    *(
        path
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*"))
        if path.suffix in {".py", ".md", ".yml", ".toml", ".ini", ".service", ".tmpl", ".html", ".js", ".sql", ".json"}
    ),
]


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


@pytest.mark.parametrize("page", PAGES)
def test_generated_pages_are_up_to_date(page):
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == PAGES[page](), "run `make docs` and commit the result"


def test_the_configuration_page_has_every_setting():
    page = PAGES["configuration.md"]()
    missing = [
        name
        for name in SETTINGS | UP_VARIABLES
        if name.removeprefix("LOBS_").lower() not in FILE_ONLY and f"`{name}`" not in page
    ]
    assert missing == []
    assert "| `LOBS_POLL_INTERVAL` | number, ≥ 1, ≤ 3600 | `15` |" in page


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_to_files_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    assert [target for target in targets if not (path.parent / unquote(target)).exists()] == []


def test_files_that_documents_name_exist():
    """`store/ledger/tables.py` in a document is a file of the repository."""
    rooms = "|".join((*ROOMS, "docs", "tests", "benchmarks"))
    wrong = [
        f"{path.name}: {name}"
        for path in DOCUMENTS
        for name in re.findall(rf"`((?:{rooms})/[\w./-]+\.[a-z]+)`", path.read_text(encoding="utf-8"))
        if not (ROOT / name).exists()
    ]
    assert wrong == []


def test_variables_that_any_text_names_exist():
    """Documents, messages, runbooks, units and the compose file: what they tell people to set can be set."""
    known = VARIABLES | UP_VARIABLES | {f"LOBS_{name.upper()}_FILE" for name in SECRETS}
    # What `up` and compose tell Grafana, whose configuration reads it.
    grafana = {name for path in (ROOT / "provisioning" / "grafana").rglob("*.*") for name in _variables(path)}
    assert all(name.startswith("LOBS_GRAFANA_") for name in grafana)
    unknown = {(str(path.relative_to(ROOT)), name) for path in TEXTS for name in _variables(path) - known - grafana}
    assert unknown == set()


def _variables(path):
    return set(re.findall(r"LOBS_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")))


def test_switches_are_written_as_the_table_of_settings_has_them():
    switches = "|".join(name.upper() for name, field in Settings.model_fields.items() if field.annotation is bool)
    written = {
        (str(path.relative_to(ROOT)), value)
        for path in TEXTS
        for value in re.findall(rf"LOBS_(?:{switches})(?:=|: ?)[\"'`]?(\w+)", path.read_text(encoding="utf-8"))
    }
    assert {value for _, value in written} <= {"true", "false"}, written
    assert written


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_make_targets_and_commands_that_documents_name_exist(path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([a-z]+)", text)) | set(re.findall(r"^\$? ?make ([a-z]+)", text, re.MULTILINE))
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=names(DOCUMENTS))
def test_commands_that_documents_name_exist(path):
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    found = set(re.findall(r"(?:`|/bin/)lobservatory ([a-z][a-z-]*)", path.read_text(encoding="utf-8")))
    assert found - known == set()


def test_the_scan_of_the_readme_gives_the_totals_that_are_known(tmp_path):
    """The two commands under "Just the numbers", as they stand there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\.venv/bin/lobservatory ([a-z]+) +#", readme, re.MULTILINE)
    assert commands == ["scan", "doctor"]
    with tarfile.open(ROOT / "tests/fixtures/samples/state-2026.9.6.tar.gz") as archive:
        extract(archive, tmp_path)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LOBS_", "OPENCLAW_"))}
    program = str(Path(sys.executable).with_name("lobservatory"))
    environment = {**clean, "HOME": str(tmp_path), "LOBS_GATEWAY_URL": "ws://127.0.0.1:1"}
    scan = subprocess.run([program, "scan", "--json"], env=environment, capture_output=True, text=True, check=True)
    totals = json.loads(scan.stdout)
    assert totals["calls"] == 32
    assert totals["cost_usd"]["billed"] == pytest.approx(0.2985902, abs=1e-8)
    doctor = subprocess.run([program, "doctor"], env=environment, capture_output=True, text=True, check=False)
    assert doctor.returncode == 1, "its gateway is not there"
    assert "WRONG gateway" in doctor.stdout


def test_the_example_of_the_configuration_page_is_valid(monkeypatch, tmp_path):
    example = re.search(r"```toml\n(.*?)```", PAGES["configuration.md"](), re.DOTALL)
    assert example is not None
    settings = Settings.model_validate(tomllib.loads(example[1]))
    assert settings.billing.equivalent == ("claude-max",)
    assert settings.alert_thresholds()["ContextNearLimit", "warning", ""] == 0.8


def test_requirements_are_counted_from_the_markers():
    assert list(requirements.marks('@pytest.mark.req("S0-9", "P-1")\ndef test_it(): ...\n')) == [
        ("S0-9", "test_it"),
        ("P-1", "test_it"),
    ]
    source = 'pytestmark = pytest.mark.req("P-2")\nclass TestIt:\n    def test_a(self): ...\n'
    assert list(requirements.marks(source)) == [("P-2", "TestIt::test_a")]


def test_every_row_that_a_test_names_exists():
    done = subprocess.run(
        [sys.executable, "-m", "tests.requirements"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-300:]


# Rows that no test proves yet. One that gets a test leaves this list; none may join it.
NOT_PROVED = {
    *("S0-19", "S0-20", "S1-22", "S1-23", "S1-24", "S1-25", "S1-26", "S1-27", "S1-28", "S2-16"),
    *("S3-13", "S3-14", "S3-15", "S4-26", "S4-27", "S4-28"),
    *(f"P-{number}" for number in range(21, 35)),
}


def test_the_rows_that_no_test_proves_are_known():
    wanted = requirements.rows((ROOT / "docs" / "requirements.md").read_text(encoding="utf-8"))
    found = requirements.coverage(ROOT / "tests")
    assert set(wanted) - set(found) == NOT_PROVED, "take the rows that have a test now out of NOT_PROVED"


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    page = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    cells = set(re.findall(r"[a-zA-Z][\w-]+", "\n".join(re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE))))
    assert [name for text in wanted if (name := re.split(r"[^\w-]", text)[0]) not in cells] == []


def test_scripts_are_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
