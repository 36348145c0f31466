"""What a fresh machine gets: the image's steps, the wheel in an environment of its own, and the tools that people
install programs with. Nothing of a checkout is on the path, and no development package is there.
"""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from cli.up import postgres
from tests import newcomer
from tests.servers import free_port
from tests.tools import debian_tool

ROOT = Path(__file__).resolve().parents[2]
BASE_PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
ROOMS = ("api", "cli", "exporter", "lobservatory", "openclaw", "store")


@contextmanager
def place():
    """A directory that PostgreSQL's user may enter when we are root, gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="lobs-fresh-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(*argv, cwd, status=0, **variables):
    """A program in a shell that has set nothing of ours; what it printed."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        env=newcomer.environment(cwd, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == status, f"{argv}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout


# --- the image --------------------------------------------------------------------------------------------------


def build_stage():
    """The instructions of the Dockerfile's first stage, as (name, rest), continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0].startswith("FROM ")
    end = next(number for number, line in enumerate(lines[1:], 1) if line.startswith("FROM "))
    return [tuple(line.split(maxsplit=1)) for line in lines[1:end]]


def ignored():
    """For `shutil.copytree`: what .dockerignore keeps out of the build."""
    patterns = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()

    def ignore(folder, names):
        at_top = Path(folder) == ROOT
        here = [pattern.removeprefix("**/") for pattern in patterns if at_top or pattern.startswith("**/")]
        return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in here)}

    return ignore


class Image:
    """The Dockerfile's build stage, run outside Docker below `folder` instead of `/`."""

    def __init__(self, folder):
        self.folder = folder
        self.source = folder / "opt/lobservatory"
        self.venv = folder / "opt/venv"
        python = folder / "bin/python"  # the base image's
        python.parent.mkdir()
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(str(BASE_PYTHON))} "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        for name, rest in build_stage():
            getattr(self, f"_{name.lower()}")(self._here(rest))

    def _here(self, text):
        return re.sub(r"(?<![\w/])/opt/", f"{self.folder}/opt/", text)

    def _workdir(self, path):
        self.cwd = Path(path)
        self.cwd.mkdir(parents=True, exist_ok=True)

    def _copy(self, rest):
        source, target = rest.split()
        if source == ".":
            shutil.copytree(ROOT, self.cwd / target, ignore=ignored(), dirs_exist_ok=True)
        else:
            shutil.copy(ROOT / source, self.cwd / target)

    def _run(self, command):
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        run("/bin/sh", "-c", command, cwd=self.cwd, PATH=path)


@pytest.fixture(scope="module")
def image():
    with place() as folder:
        yield Image(folder)


@pytest.mark.req("S1-18")
def test_the_image_is_built_prepares_and_migrates_in_an_empty_volume(image):
    """Real: the Dockerfile's own commands and lock file, and PostgreSQL. Not proved: Docker itself."""
    assert all(list((image.source / room).rglob("*.pyc")) for room in ROOMS)
    program = image.venv / "bin/lobservatory"
    with place() as home:
        data, port = home / "data", free_port()
        run(program, "prepare", "--database-port", port, cwd=home)
        cluster = postgres.prepare(data, port=port, durable=False)  # with the prepared passwords, as the container's
        process = cluster.start()
        try:
            cluster.wait_ready(process)
            run(program, "migrate", "--create-roles-on-port", port, cwd=home)
            with psycopg.connect(cluster.dsn(postgres.READER)) as connection:
                assert connection.execute("SELECT count(*) FROM model_calls").fetchone() == (0,)
        finally:
            postgres.stop(process)


# --- the wheel --------------------------------------------------------------------------------------------------


class Installed:
    """A program in an environment of its own, used from an empty directory."""

    def __init__(self, program, python=None):
        self.program = program
        self.python = python or program.with_name("python")


@pytest.fixture(scope="module")
def wheel(image):
    """The wheel, installed beside what requirements.lock names and nothing else."""
    with place() as folder:
        python = folder / "venv/bin/python"
        shutil.copytree(image.venv, folder / "venv", symlinks=True, copy_function=os.link)
        run(python, "-m", "pip", "uninstall", "--quiet", "--yes", "lobservatory", cwd=folder)
        build = (python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder)
        run(*build, image.source, cwd=folder)
        (made,) = folder.glob("lobservatory-*.whl")
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", made, cwd=folder)
        yield Installed(python.with_name("lobservatory"))


@pytest.fixture
def empty():
    with place() as folder:
        yield folder


LIST_FILES = "import importlib.metadata as m, json; print(json.dumps([str(f) for f in m.files('lobservatory')]))"


def test_the_wheel_has_what_runs_and_its_data_and_nothing_that_only_builds(wheel, empty):
    files = set(json.loads(run(wheel.python, "-P", "-c", LIST_FILES, cwd=empty)))
    wanted = {
        path.relative_to(ROOT).as_posix()
        for pattern in (
            "alerts/rules/*.yml",
            "alerts/runbooks/*.md",
            "alerts/slack.tmpl",
            "alerts/thresholds.toml",
            "api/web/*",
            "dashboards/json/*.json",
            "exporter/accounting/prices.toml",
            "cli/demo/recordings/**/*",
            "provisioning/**/*",
            "store/migrations/**/*.sql",
        )
        for path in ROOT.glob(pattern)
        if path.is_file()
    }
    assert len(wanted) > 100
    assert wanted - files == set()
    extra = {name for name in files if name.partition("/")[0] in {"alerts", "dashboards", "provisioning", "tests"}}
    assert extra - wanted == set()


IMPORT_ALL = """
import importlib, importlib.metadata, sys
for file in importlib.metadata.files("lobservatory"):
    if file.suffix == ".py":
        importlib.import_module(".".join(file.with_suffix("").parts).removesuffix(".__init__"))
        print(file)
print("DEVELOPMENT", sorted({"grafana_foundation_sdk", "pytest", "hypothesis", "dashboards", "tests"} & {*sys.modules}))
"""


def test_every_module_of_the_wheel_is_imported_without_a_development_package(wheel, empty):
    printed = run(wheel.python, "-P", "-c", IMPORT_ALL, cwd=empty).splitlines()
    assert printed[-1] == "DEVELOPMENT []"
    assert {line.partition("/")[0] for line in printed[:-1]} == set(ROOMS)
    modules = {path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    assert modules - set(printed) == set()


LIST_COMMANDS = """
import json, typer
from cli.app import app

def paths(command, before=()):
    yield before
    for name, one in getattr(command, "commands", {}).items():
        yield from paths(one, (*before, name))

print(json.dumps(list(paths(typer.main.get_command(app)))))
"""


def test_every_command_explains_itself(wheel, empty):
    paths = json.loads(run(wheel.python, "-P", "-c", LIST_COMMANDS, cwd=empty))
    assert ["up"] in paths
    assert ["token", "create"] in paths
    for path in paths:
        assert "Usage: lobservatory" in run(wheel.program, *path, "--help", cwd=empty), path


def test_what_needs_no_server_works_from_the_wheel(wheel):
    with newcomer.home() as home:
        totals = json.loads(run(wheel.program, "scan", "--json", cwd=home), parse_float=Decimal)
        cost = totals["cost_usd"]["billed"].quantize(newcomer.NANO)
        assert (totals["calls"], cost) == (newcomer.CALLS, newcomer.COST)
        # The gateway does not answer and nothing runs: that is found, and named.
        findings = run(wheel.program, "doctor", cwd=home, status=1)
        assert "WRONG gateway" in findings
        assert "lobservatory up" in findings
        assert json.loads(run(wheel.program, "openapi", cwd=home))["openapi"].startswith("3.")
        run(wheel.program, "boards", "--export", "boards", cwd=home)
        names = {path.name for path in (ROOT / "dashboards/json").iterdir()}
        assert {path.name for path in (home / "boards").iterdir()} == names | {"playlist.json"}
        assert len(json.loads((home / "boards/lobs-overview.json").read_text(encoding="utf-8"))["__inputs"]) == 2


CAREFUL = ("/bin/sh", "-c", 'umask 077; exec "$0" "$@"')  # a shell that shares nothing with other users


def start(installed, command, shell=()):
    with newcomer.home() as home:
        return newcomer.first_start(
            [*shell, str(installed.program), command],
            home,
            home,
            demo=command == "demo",
            parts=(*newcomer.PARTS, "prometheus", "alertmanager"),
            LOBS_PROMETHEUS_BIN=str(debian_tool("prometheus")),
            LOBS_ALERTMANAGER_BIN=str(debian_tool("alertmanager")),
            # A shell that is set up for other databases.
            PGSERVICE="warehouse",
            PGSSLMODE="verify-full",
            PGHOSTADDR="127.0.0.9",
        )


@pytest.mark.parametrize("command", ["up", "demo"])
def test_everything_starts_is_used_and_stops_from_the_wheel(wheel, command):
    start(wheel, command)


# --- as people install programs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["pipx", "uv"])
def tool(request, image):
    """The program as `pipx install .` and `uv tool install .` leave it: what they resolve today, not our lock file."""
    with place() as folder:
        bins = folder / "bin"
        if request.param == "pipx":
            argv = [Path(sys.executable).with_name("pipx"), "install", "--quiet", "--python", BASE_PYTHON, "."]
            variables = {"PIPX_HOME": folder / "home", "PIPX_BIN_DIR": bins, "PIPX_MAN_DIR": folder / "man"}
        else:
            argv = [Path(sys.executable).with_name("uv"), "tool", "install", "--quiet", "--python", BASE_PYTHON, "."]
            variables = {"UV_TOOL_DIR": folder / "home", "UV_TOOL_BIN_DIR": bins}
        run(*CAREFUL, *argv, cwd=image.source, **{name: str(path) for name, path in variables.items()})
        yield Installed(bins / "lobservatory")


@pytest.mark.parametrize("command", ["up", "demo"])
def test_everything_starts_is_used_and_stops_from_an_installed_tool(tool, command):
    start(tool, command, CAREFUL)
