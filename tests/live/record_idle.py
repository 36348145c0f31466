"""Records what Prometheus keeps of an idle real gateway, for the replay of the quiet day (tests/alerts).

    python -m tests.live.record_idle MINUTES tests/fixtures/replay/idle.jsonl.gz

A person has said one thing before, and a small job runs every ten minutes, as a personal gateway's does; nobody talks
to it meanwhile. The exporter runs as under `make up`: with a database and its default settings.

The output: a line `{"start": seconds, "step": seconds, "samples": n}`, then one line for each series with its `metric`
and its `values`, run-length encoded as `[value, times]` (null: no sample).
"""

from __future__ import annotations

import asyncio
import gzip
import json
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

from cli.up import postgres
from cli.up.monitoring import prepare_prometheus
from lobservatory.settings import Listen, Settings
from store.migrate import migrate
from tests.live.harness import LiveGateway
from tests.live.stack import our_process
from tests.servers import ServerError, free_port, get, prometheus, wait_for

STEP = 15  # seconds, as Prometheus scrapes


async def begin(gateway: LiveGateway) -> None:
    """What was there before it got quiet."""
    async with gateway.driver() as driver:
        await driver.turn("Say hello")
        await driver.cron("tidy", "Tidy up", schedule={"kind": "cron", "expr": "*/10 * * * *", "tz": "UTC"})


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
        environment = {
            "LOBS_STATE_DIR": str(gateway.state_dir),
            "LOBS_GATEWAY_URL": gateway.url,
            "LOBS_GATEWAY_TOKEN": gateway.token,
            "LOBS_DATABASE_URL": cluster.dsn(postgres.WRITER),
            "LOBS_METRICS_LISTEN": f"127.0.0.1:{port}",
            "LOBS_DATA_DIR": str(folder / "data"),
        }
        stack.enter_context(our_process("exporter", environment, folder))

        def up() -> bool:
            try:
                return 'claw_gateway_up{gateway="default"} 1' in get(f"http://127.0.0.1:{port}/metrics")
            except ServerError:
                return False

        wait_for(up, "the exporter sees the gateway")
        settings = Settings.model_validate({"data_dir": folder})
        config = prepare_prometheus(folder / "prom", settings, {"exporter": Listen(host="127.0.0.1", port=port)})
        server = stack.enter_context(prometheus(folder / "prom", config))
        asyncio.run(begin(gateway))
        wait_for(lambda: server.query("claw_agent_last_human_timestamp_seconds"), "the first scrape with a person")
        start = time.time()
        time.sleep(minutes * 60)
        matrix = server.api(
            "query_range",
            query='{job="lobservatory",__name__!~"scrape_.*|ALERTS.*"}',
            start=f"{start:.3f}",
            end=f"{start + minutes * 60:.3f}",
            step=str(STEP),
        )["result"]
        write(output, start, round(minutes * 60 / STEP) + 1, matrix)


def write(output: Path, start: float, samples: int, matrix: list[dict[str, Any]]) -> None:
    """`matrix`: as Prometheus answers a query of a range."""
    with gzip.open(output, "wt", encoding="utf-8") as lines:
        print(json.dumps({"start": round(start, 3), "step": STEP, "samples": samples}), file=lines)
        for series in sorted(matrix, key=lambda one: sorted(one["metric"].items())):
            dropped = {"instance"} if series["metric"]["__name__"] == "up" else {"instance", "job"}
            metric = {name: value for name, value in series["metric"].items() if name not in dropped}
            found = {round((when - start) / STEP): value for when, value in series["values"]}
            values = [found.get(number) for number in range(samples)]
            encoded = [[value, len(list(same))] for value, same in groupby(values)]
            print(json.dumps({"metric": metric, "values": encoded}), file=lines)


if __name__ == "__main__":
    record(float(sys.argv[1]), Path(sys.argv[2]))
