"""Starts and stops the gateway's service by a fixed command line, where its owner has named the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path
from typing import Literal

from api import errors

Verb = Literal["start", "stop"]
_SECONDS = 60.0  # a gateway that ends its runs first takes its time
_PASSED_ON = ("HOME", "USER", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
_LONGEST = 300


def command(service: str, verb: Verb) -> list[str]:
    """The argv for a service of the setting `gateway_service`. Nothing in it is from a request."""
    manager, _, name = service.partition(":")
    if manager == "launchd":
        domain = f"gui/{os.getuid()}"
        if verb == "stop":
            return ["launchctl", "bootout", f"{domain}/{name}"]
        return ["launchctl", "bootstrap", domain, str(Path.home() / "Library" / "LaunchAgents" / f"{name}.plist")]
    user = ["--user"] if manager == "systemd-user" else []
    return ["systemctl", *user, "--no-ask-password", verb, "--", name]


async def run(service: str, verb: Verb) -> None:
    """Raises ServiceNotConfiguredError, ServiceFailedError."""
    if not service:
        raise errors.ServiceNotConfiguredError
    program, *arguments = command(service, verb)
    path = shutil.which(program)
    if path is None:
        raise errors.ServiceFailedError(f"{program} is not on this machine.")
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        path,
        *arguments,
        env={**environment, "PATH": os.defpath, "LC_ALL": "C"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise errors.ServiceFailedError(f"{program} {verb} did not end within {_SECONDS:g} s.") from None
    if process.returncode:
        why = said.decode("utf-8", "replace").strip().splitlines()
        raise errors.ServiceFailedError(f"{program} {verb} failed: {why[-1][:_LONGEST] if why else process.returncode}")
