"""Records what Prometheus keeps of an idle real gateway, for the replay of the quiet day (tests/alerts/replay.py).

    python -m tests.live.record_idle MINUTES OUTPUT.json

The exporter runs as under `make up`: with a database and its default settings. Nobody talks to the gateway meanwhile.
The output is the `result` of a range-vector query: every sample of the job `lobservatory`, with its own time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from lobservatory.runner import postgres
from lobservatory.runner.monitoring import prepare_prometheus
from lobservatory.settings import Listen, Settings
from store.migrate import migrate
from tests.live.harness import LiveGateway
from tests.servers import ServerError, free_port, get, prometheus, wait_for
from tests.tools import REPOSITORY


def record(minutes: float, output: Path) -> None:
    """Takes `minutes` and a little for the start."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="lobs-idle-"))
        folder.chmod(0o755)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        gateway = LiveGateway(folder / "home")
        gateway.home.mkdir()
        stack.enter_context(gateway)
        (folder / "pg").mkdir()
        (folder / "pg").chmod(0o755)
        cluster = postgres.prepare(folder / "pg", durable=False)
        stack.enter_context(cluster.run())
        migrate(cluster.dsn(postgres.OWNER))
        port = free_port()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("LOBS_", "OPENCLAW_"))}
        environment |= {
            "LOBS_STATE_DIR": str(gateway.state_dir),
            "LOBS_GATEWAY_URL": gateway.url,
            "LOBS_GATEWAY_TOKEN": gateway.token,
            "LOBS_DATABASE_URL": cluster.dsn(postgres.WRITER),
            "LOBS_METRICS_LISTEN": f"127.0.0.1:{port}",
            "LOBS_DATA_DIR": str(folder / "data"),
        }
        with (folder / "exporter.log").open("wb") as log:
            exporter = subprocess.Popen(
                [sys.executable, "-P", "-m", "exporter"], env=environment, cwd=REPOSITORY, stdout=log, stderr=log
            )
        stack.callback(exporter.wait)
        stack.callback(exporter.terminate)

        def up() -> bool:
            try:
                return 'claw_gateway_up{gateway="default"} 1' in get(f"http://127.0.0.1:{port}/metrics")
            except ServerError:
                return False

        wait_for(up, "the exporter sees the gateway", 120)
        settings = Settings.model_validate({"data_dir": folder})
        config = prepare_prometheus(folder / "prom", settings, {"exporter": Listen(host="127.0.0.1", port=port)})
        server = stack.enter_context(prometheus(folder / "prom", config))
        time.sleep(minutes * 60)
        whole = server.query(f'{{job="lobservatory",__name__!~"scrape_.*|ALERTS.*"}}[{round(minutes * 60 + 60)}s]')
        output.write_text(json.dumps(whole))


if __name__ == "__main__":
    record(float(sys.argv[1]), Path(sys.argv[2]))
