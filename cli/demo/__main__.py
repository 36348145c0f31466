"""`python -P -m cli.demo STATE_DIR PORT`: plays the demo until SIGINT or SIGTERM.

The token of the replay gateway is that of `LOBS_GATEWAY_TOKEN`, else a new one; it is written into
`STATE_DIR/openclaw.json`, where the exporter finds it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from pathlib import Path

from cli.demo.playback import play

_ARGUMENTS = 3


async def _main(state_dir: Path, port: int) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = state_dir / "openclaw.json"
    token = os.environ.get("LOBS_GATEWAY_TOKEN") or secrets.token_urlsafe(24)
    if config.exists():
        token = json.loads(config.read_text(encoding="utf-8"))["gateway"]["auth"]["token"]
    playing = asyncio.create_task(play(state_dir, port, stop, token=token))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({playing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    try:
        async with asyncio.timeout(5):  # a turn may be in the middle of a pause
            await playing
    except TimeoutError:
        playing.cancel()


if __name__ == "__main__":
    if len(sys.argv) != _ARGUMENTS or not sys.argv[2].isdecimal():
        sys.exit(__doc__)
    try:
        asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
    except OSError as error:
        sys.exit(f"lobservatory demo: {error}")
