"""A service on a database of its own: in process for most tests, as a process for those about processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest
from argon2 import PasswordHasher
from asgi_lifespan import LifespanManager
from fastapi import FastAPI

from api.app import create_app
from api.context import of_app
from api.models.auth import TokenIn
from api.security.limits import Limits, Rate
from api.security.scopes import Actor, Scope
from lobservatory.password import PasswordFile
from lobservatory.settings import Settings
from tests.servers import NO_PROMETHEUS, PATIENCE_SECONDS

PASSWORD = "a password for tests only"
FAST = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
LOOSE = Limits(read=Rate(1e6, 10**6), write=Rate(1e6, 10**6), command=Rate(1e6, 10**6), anonymous=Rate(1e6, 10**6))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    folder.mkdir(mode=0o700)
    for name, value in (("api_password", PASSWORD), ("api_token", "s" * 43)):
        path = folder / name
        path.touch(0o600)
        path.write_text(value + "\n")
    return tmp_path


@pytest.fixture
def settings(postgres_dsn: str, data_dir: Path) -> Settings:
    return Settings.model_validate(
        {
            "database_url": postgres_dsn,
            "data_dir": data_dir,
            "gateway_name": "home",
            "prometheus_url": NO_PROMETHEUS,
        }
    )


@contextlib.asynccontextmanager
async def started(settings: Settings, limits: Limits | None = LOOSE) -> AsyncIterator[FastAPI]:
    """An application that runs for the length of the block."""
    password = PasswordFile(settings.data_dir / "secrets" / "api_password", FAST)
    password.load()
    built = create_app(settings, password, limits=limits)
    async with LifespanManager(built, startup_timeout=PATIENCE_SECONDS, shutdown_timeout=PATIENCE_SECONDS):
        yield built


def connected(app: FastAPI, token: str | None = None) -> httpx.AsyncClient:
    """A client of an application in this process."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, client=("127.0.0.1", 50000)),
        base_url="http://testserver",
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    async with started(settings) as built:
        yield built


async def new_token(app: FastAPI, scope: Scope, gateways: list[str] | None = None) -> str:
    made = await of_app(app).auth.create_token(
        Actor("tests", Scope.ADMIN, "tests"), TokenIn(name=f"test {scope}", scope=scope, gateways=gateways)
    )
    return made.token


@pytest.fixture
async def anonymous(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with connected(app) as made:
        yield made


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a token of all scopes."""
    async with connected(app, await new_token(app, Scope.ADMIN)) as made:
        yield made


@pytest.fixture
async def database(postgres_dsn: str) -> AsyncIterator[psycopg.AsyncConnection]:
    async with await psycopg.AsyncConnection.connect(postgres_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def process_environment(postgres_dsn: str, data_dir: Path) -> dict[str, str]:
    """For `python -P -m api`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LOBS_")}
    return {
        **kept,
        "LOBS_DATABASE_URL": postgres_dsn,
        "LOBS_DATA_DIR": str(data_dir),
        "LOBS_API_LISTEN": "127.0.0.1:0",
        "LOBS_PROMETHEUS_URL": NO_PROMETHEUS,
        "LOBS_GATEWAY_NAME": "home",
        "LOBS_LOG_LEVEL": "debug",
        "LOBS_LOG_FORMAT": "json",
    }
