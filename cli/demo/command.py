"""`lobservatory demo`: everything over recorded data, in a folder of its own that is removed at the end.

Nothing of an OpenClaw on this machine is read, nothing of an installation of ours is touched, nothing is sent.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from pydantic import SecretStr

from cli.up import parts
from cli.up.supervision import Program
from cli.up.up import up
from lobservatory.settings import Listen, Settings

TITLE = "Lobservatory DEMO: recorded data, played back as if it happened now. None of it is yours."


def folder(settings: Settings) -> Path:
    """The demo's data directory; it is there while one runs."""
    return settings.data_dir.expanduser().absolute() / "demo"


def demo(settings: Settings) -> int:
    """Run until a signal; the exit status. Raises UserError."""
    data = folder(settings)
    state = data / "openclaw"
    token = secrets.token_urlsafe(24)
    listen = parts.concrete(Listen(host="127.0.0.1", port=0))
    gateway = Program("gateway", [sys.executable, "-P", "-m", "cli.demo", str(state), str(listen.port)])
    settings = settings.model_copy(
        update={
            "data_dir": data,
            "state_dir": state,
            "gateway_name": "demo",
            "gateway_url": f"ws://{listen}",
            "gateway_token": SecretStr(token),
            "api_password_file": None,
            "database_url": SecretStr(""),
            "migrate_url": SecretStr(""),
            "slack_webhook_url": SecretStr(""),
            "prometheus_url": "",
            "alertmanager_url": "",
            "grafana_url": "",
            "alertmanager_config": None,
            "commands": False,
            "chat": False,
        }
    )
    overrides = {
        "LOBS_STATE_DIR": str(state),
        "LOBS_GATEWAY_NAME": "demo",
        "LOBS_GATEWAY_URL": settings.gateway_url,
        # What the environment and lobservatory.toml say of a real installation is not for the demo. An empty variable
        # means "not set", and then the file counts.
        "LOBS_GATEWAY_TOKEN": token,
        "LOBS_API_PASSWORD_FILE": str(data / "secrets" / "api_password"),
        **dict.fromkeys(("LOBS_GATEWAY_TOKEN_FILE", "OPENCLAW_GATEWAY_TOKEN"), ""),
        **dict.fromkeys(("OPENCLAW_GATEWAY_PORT", "OPENCLAW_CONFIG_PATH"), ""),
        **dict.fromkeys(("LOBS_SLACK_WEBHOOK_URL", "LOBS_SLACK_WEBHOOK_URL_FILE"), ""),
        "OTEL_SDK_DISABLED": "true",
        "LOBS_COMMANDS": "false",
        "LOBS_CHAT": "false",
    }
    return up(settings, overrides=overrides, before={gateway: listen}, temporary=True, title=TITLE)
