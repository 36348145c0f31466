"""Each collector has a switch, and a collector that is off is seen to be off."""

import pytest

from lobservatory.errors import SettingsError
from lobservatory.metrics.labels import COLLECTORS
from lobservatory.settings import load


async def test_collectors_that_are_off_do_not_run_and_say_so(files_dir, tmp_path, lab):
    configured = lab.settings(files_dir, tmp_path / "data").model_copy(update={"collectors_off": ("host", "probe")})
    async with lab.running(configured) as alive:
        await alive.until("claw_gateway_connection_state", bool)
        enabled = await alive.values("lobservatory_collector_enabled")
        assert {name for (name,), on in enabled.items() if not on} == {"host", "probe"}
        assert {name for (name,), on in enabled.items() if on} >= {"gateway", "logs", "sessions", "storage"}
        assert {name for (name,) in enabled} <= set(COLLECTORS)
        await alive.until("lobservatory_collector_success", lambda shown: ("storage",) in shown)
        assert await alive.values("claw_host_cpus") == {}
        assert not {("host",), ("probe",)} & set(await alive.values("lobservatory_collector_success"))


def test_an_unknown_collector_is_an_error_that_lists_them():
    assert load({"LOBS_COLLECTORS_OFF": "logs, host,"}).collectors_off == ("logs", "host")
    with pytest.raises(SettingsError, match=r"LOBS_COLLECTORS_OFF: there is no collector 'hots': one of gateway, "):
        load({"LOBS_COLLECTORS_OFF": "hots"})
