"""A real hub: in the test's own event loop, or as a process that can be killed.

Both serve on a free loopback port, with SQLite in a temporary directory, the memory backplane and
the scripted model server unless the test says otherwise.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from hub.app import Hub, running
from hub.cli.serving import HubServer
from hub.identity.accounts import account_tokens
from hub.identity.accounts.account_tokens import Purpose
from hub.settings import read_settings
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import User
from tests.parts import sqlite
from tests.parts.ports import free_port
from tests.parts.scripted import ScriptedModel

ROOT: Final = Path(__file__).resolve().parents[2]
PASSWORD: Final = "correct horse battery"
START_S: Final = 60.0


async def sign_up(url: str, email: str, password: str = PASSWORD) -> dict[str, Any]:
    """Register at the hub at ``url`` and sign in; what ``account.login`` answers."""
    async with httpx.AsyncClient(base_url=url) as client:
        account = {"email": email, "password": password}
        (await client.post("/v1/auth/register", json=account)).raise_for_status()
        answer = await client.post("/v1/auth/login", json=account)
        answer.raise_for_status()
        session: dict[str, Any] = answer.json()
        return session


@dataclass
class ServedHub:
    """A hub that serves: its address, and, in process, its rooms and its server."""

    url: str
    data_dir: Path
    hub: Hub
    server: HubServer
    somebody_stays: bool = False
    """Whether it is ended while somebody is on it (``standing``)."""

    @property
    def ws_url(self) -> str:
        return self.url.replace("http", "ws", 1) + "/ws"

    async def sign_up(self, email: str, password: str = PASSWORD) -> dict[str, Any]:
        """Register and sign in; what ``account.login`` answers."""
        return await sign_up(self.url, email, password)

    async def letter(self, user_id: str, purpose: Purpose) -> str:
        """The token of a letter to a user, without the letter."""
        async with self.hub.services.database.write(EVERY_TENANT) as session:
            return account_tokens.make(session, await session.get_one(User, user_id), purpose)


ServeHub = Callable[..., AbstractAsyncContextManager[ServedHub]]
"""``serve_hub(**settings by environment name)``, as an async context manager."""


Server = Callable[[Hub, socket.socket], AbstractAsyncContextManager[Any]]
"""Serves a hub at a socket that listens, and drains it at the end: what serves, if it is ours."""


@asynccontextmanager
async def by_ours(hub: Hub, listening: socket.socket) -> AsyncIterator[HubServer]:
    """The server of ``hub serve``."""
    server = HubServer(hub)
    # Not serve(): the signals of the test run are pytest's.
    task = asyncio.create_task(server._serve([listening]))
    while not server.started:
        await asyncio.sleep(0.001)
        if task.done():
            task.result()
    try:
        yield server
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def serving(
    data_dir: Path, by: Server = by_ours, /, *, worker: bool = True, **environment: str
) -> AsyncIterator[ServedHub]:
    """A hub in this event loop, with these settings."""
    # By its number: asyncio sets TCP_NODELAY on no others, and each answer would take 40 ms more.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind((environment.pop("HUB_HOST", "127.0.0.1"), 0))
    listening.listen(512)
    listening.setblocking(False)
    host, port = listening.getsockname()
    if "HUB_DATABASE_URL" not in environment:
        sqlite.furnish(data_dir)
    environment.setdefault("HUB_DRAIN_SECONDS", "1")
    environment.setdefault("HUB_ENVIRONMENT", "development")  # whatever address it listens on
    settings = read_settings(
        HUB_HOST=host, HUB_PORT=port, HUB_DATA_DIR=data_dir, HUB_BCRYPT_COST="4", **environment
    )
    async with running(settings, worker=worker) as hub:
        async with by(hub, listening) as server:
            yield ServedHub(f"http://{host}:{port}", data_dir, hub, server)
        missing = hub.services.metrics.audit_missing.collect()
        assert not [s.labels for m in missing for s in m.samples], "no entry in the audit trail"


@pytest.fixture
def serve_hub(tmp_path: Path, scripted_model: ScriptedModel) -> ServeHub:
    """Serve hubs with the scripted model; several at once share the data directory."""

    def serve(by: Server = by_ours, /, *, worker: bool = True, **environment: str) -> Any:
        environment.setdefault("OLLAMA_HOST", scripted_model.host)
        return serving(tmp_path / ".hub", by, worker=worker, **environment)

    return serve


@pytest.fixture
async def served_hub(serve_hub: ServeHub) -> AsyncIterator[ServedHub]:
    """A hub with the defaults."""
    async with serve_hub() as hub:
        yield hub


@dataclass
class HubProcess:
    """``hub serve`` as a process of its own. ``log`` is what it wrote to stderr and stdout."""

    data_dir: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    host: str = "127.0.0.1"
    within: tuple[str, ...] = ()  # the command that runs it, in another network namespace
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def log(self) -> str:
        return (self.data_dir / "hub.log").read_text()

    def start(self, *words: str) -> None:
        """Start it (again), and wait until it is ready."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if "HUB_DATABASE_URL" not in self.environment:
            sqlite.furnish(self.data_dir)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "JWT_"))}
        paths = [str(ROOT), str(ROOT / "clients/python")]
        where = ["--host", self.host, "--port", str(self.port)]
        with (self.data_dir / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.within, sys.executable, "-m", "hub", "serve", *where, *words],
                env={
                    **clean,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "HUB_DATA_DIR": str(self.data_dir),
                    "HUB_BCRYPT_COST": "4",
                    "HUB_DRAIN_SECONDS": "1",
                    "HUB_ENVIRONMENT": "development",
                    **self.environment,
                },
                cwd=self.data_dir,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None:
                raise AssertionError(f"the hub ended while starting:\n{self.log}")
            if time.monotonic() > deadline:
                raise AssertionError(f"the hub was not ready in {START_S} s:\n{self.log}")
            time.sleep(0.02)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=1) as answer:
                return bool(json.load(answer)["status"] == "ready")
        except (urllib.error.URLError, OSError):
            return False

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def hub_process(tmp_path: Path, scripted_model: ScriptedModel) -> Iterator[HubProcess]:
    """A hub process, not started yet; ended with the test."""
    process = HubProcess(tmp_path / ".hub", free_port(), {"OLLAMA_HOST": scripted_model.host})
    yield process
    if process.process is not None and process.process.poll() is None:
        process.kill()
