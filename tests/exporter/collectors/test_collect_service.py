"""Service managers, through fixtures in place of systemctl and launchctl."""

import pytest

from exporter.collectors.programs import ProgramHangsError
from exporter.collectors.service import ServiceCollector

LAUNCHD = """gui/501/ai.openclaw.gateway = {
\tactive count = 1
\ttype = LaunchAgent
\tstate = STATE

\tprogram = /usr/local/bin/node
\truns = 4
\tpid = 4242
\tlast exit code = CODE

\tspawn type = daemon (3)
\tresource coalition = {
\t\tstate = active
\t}
}
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def write(name, body):
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    return write


def state(shown):
    return {key[2:] for key, value in shown.items() if key[0] == "claw_service_state" and value}


@pytest.mark.req("S1-6")
async def test_a_unit_of_the_user(program, tmp_path, helpers):
    program(
        "systemctl",
        f"""echo "$*" >> {tmp_path}/argv
if [ "$1" = --user ]; then
  printf 'LoadState=loaded\\nActiveState=failed\\nNRestarts=5\\nExecMainStatus=137\\n'
else
  printf 'LoadState=not-found\\nActiveState=inactive\\nNRestarts=0\\nExecMainStatus=0\\n'
fi""",
    )
    collector = ServiceCollector("g")
    await collector.refresh()
    shown = helpers.shown(collector)
    assert state(shown) == {("systemd_user", "failed")}
    assert shown["claw_service_restarts", "g", "systemd_user"] == 5
    assert shown["claw_service_last_exit_status", "g", "systemd_user"] == 137
    properties = "show openclaw-gateway.service --property=LoadState,ActiveState,NRestarts,ExecMainStatus"
    assert (tmp_path / "argv").read_text().splitlines() == [f"--user {properties}", properties]


@pytest.mark.parametrize(
    "case", [("running", "0", "active"), ("not running", "0", "inactive"), ("not running", "1", "failed")]
)
async def test_a_job_of_launchd(program, tmp_path, helpers, case):
    told, code, expected = case
    (tmp_path / "printed").write_text(LAUNCHD.replace("STATE", told).replace("CODE", code))
    program(
        "launchctl",
        f"""[ "$*" = "print gui/501/ai.openclaw.gateway" ] || exit 64
while IFS= read -r line; do printf '%s\\n' "$line"; done < {tmp_path}/printed""",
    )
    collector = ServiceCollector("g", user=501)
    await collector.refresh()
    shown = helpers.shown(collector)
    assert state(shown) == {("launchd", expected)}
    assert shown["claw_service_restarts", "g", "launchd"] == 3
    assert shown["claw_service_last_exit_status", "g", "launchd"] == int(code)


@pytest.mark.parametrize("body", [None, "echo 'System has not been booted with systemd' >&2; exit 1", "echo nonsense"])
async def test_a_host_where_nothing_keeps_the_gateway_is_no_failure(program, helpers, body):
    if body is not None:
        program("systemctl", body)
    collector = ServiceCollector("g")
    await collector.refresh()
    assert helpers.shown(collector) == {}


async def test_a_manager_that_hangs_is_a_failure_that_names_it(program, helpers):
    program("systemctl", "exec /bin/sleep 300")
    collector = ServiceCollector("g", limit=0.3)
    with pytest.raises(ProgramHangsError, match="systemctl"):
        await collector.refresh()
    assert helpers.shown(collector) == {}
