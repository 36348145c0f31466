"""Fixtures for tests against a real gateway."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live.harness import DEFAULT_VERSION, GatewayNotInstalledError, LiveGateway, install


# Of a file, not of the session: a gateway at rest costs a twentieth of a core.
@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LiveGateway]]:
    """`start_gateway(version=…)` gives a ready gateway of the caller's own, to kill or to break; closed at the end."""
    from tests.conftest import missing  # noqa: PLC0415 - conftest imports this module as a plugin

    with ExitStack() as running:

        def start(version: str = DEFAULT_VERSION, home: Path | None = None) -> LiveGateway:
            try:
                install(version)
            except GatewayNotInstalledError as error:
                missing(f"the OpenClaw gateway {version}", str(error))
            gateway = LiveGateway(home or tmp_path_factory.mktemp("claw"), version)
            started: LiveGateway = running.enter_context(gateway)
            return started

        yield start


@pytest.fixture(scope="module")
def live_gateway(start_gateway: Callable[..., LiveGateway]) -> LiveGateway:
    """One ready gateway for all tests of a file that leave it as healthy as they found it."""
    return start_gateway()
