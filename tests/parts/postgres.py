"""A real PostgreSQL of the tests' own, and databases on it and on SQLite. The hub is an ordinary
role there, no superuser, so that all tests run with the walls between tenants.

``database_url`` and ``database`` run a test twice, once on each; every test gets a fresh database
that is already migrated (a copy of a template). ``sqlite_url``, ``postgres_url`` and the
``unmigrated_…`` ones are there for a test that means one of them.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import make_url

from hub.storage import schema
from hub.storage.database import Database
from tests.parts import sqlite
from tests.parts.ports import free_port

APT = "apt-get install -y postgresql"
SUPERUSER = "postgres"
_ROLE = "CREATE ROLE hub LOGIN\nALTER DATABASE postgres OWNER TO hub\n"


@dataclass(frozen=True)
class PostgresServer:
    """A running server; ``template`` is a database on it that is migrated."""

    port: int
    template: str

    def url(self, name: str) -> str:
        return f"postgresql+asyncpg://hub@127.0.0.1:{self.port}/{name}"

    async def admin(self) -> "asyncpg.Connection":
        """A connection of the superuser, whom no wall holds. The caller closes it."""
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=SUPERUSER, database="postgres"
        )

    async def create(self, template: str) -> str:
        """Make a database; its name."""
        name = f"t_{uuid4().hex}"
        admin = await self.admin()
        try:
            await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER hub")
        finally:
            await admin.close()
        return name

    async def drop(self, name: str) -> None:
        admin = await self.admin()
        try:
            await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        finally:
            await admin.close()


class PostgresCluster:
    """A data directory of PostgreSQL in a temporary place, with its server started and ended."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._user = _unprivileged()
        self.directory = Path(tempfile.mkdtemp(prefix="hub-postgres-", dir=_fast_place()))
        self.port = free_port()
        if self._user is not None:
            entry = pwd.getpwnam(self._user)
            os.chown(self.directory, entry.pw_uid, entry.pw_gid)
        self._run(
            "initdb", "-D", "data", "-U", SUPERUSER, "--auth=trust", "--no-sync",
            "--encoding=UTF8", "--locale=C",
        )  # fmt: skip
        # The hub's role is an ordinary one, as it should be anywhere: the walls hold it.
        self._run("postgres", "--single", "-D", "data", "postgres", said=_ROLE)

    @property
    def running(self) -> bool:
        return (self.directory / "data" / "postmaster.pid").exists()

    @property
    def processes(self) -> list[int]:
        """The process ids of the server and its children."""
        first = (self.directory / "data" / "postmaster.pid").read_text().splitlines()[0]
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [int(first), *map(int, children)]

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' "
            "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200"
        )
        self._run("pg_ctl", "-D", "data", "-l", "log", "-w", "-t", "30", "-o", options, "start")

    def stop(self, mode: str = "immediate") -> None:
        """``fast`` keeps the data; ``immediate`` does not care (fsync is off)."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    def remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _run(self, program: str, *arguments: str, said: str = "") -> None:
        done = subprocess.run(
            [self._programs / program, *arguments],
            cwd=self.directory,
            user=self._user,
            input=said.encode(),
            stdout=(self.directory / "output").open("ab"),
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {(self.directory / 'output').read_text()}")


@pytest.fixture(scope="session")
def postgres_programs() -> Path:
    """The directory of PostgreSQL's programs; skips (with CI=true: fails) without them."""
    on_path = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if on_path is None and not found:
        message = f"PostgreSQL is not installed: {APT}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return Path(on_path).resolve().parent if on_path else found[-1].parent


@pytest.fixture(scope="session")
def postgres(postgres_programs: Path) -> Iterator[PostgresServer]:
    """One server for the whole session."""
    cluster = PostgresCluster(postgres_programs)
    try:
        cluster.start()
        try:
            server = PostgresServer(cluster.port, template="template0")
            schema.upgrade(make_url(server.url("postgres")))
            # The database "postgres" is the template: it exists, and is migrated now.
            yield PostgresServer(cluster.port, template="postgres")
        finally:
            cluster.stop()
    finally:
        cluster.remove()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A fresh migrated SQLite database."""
    sqlite.furnish(tmp_path)
    return f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"


@pytest.fixture
async def postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """A fresh migrated PostgreSQL database."""
    name = await postgres.create(postgres.template)
    yield postgres.url(name)
    await postgres.drop(name)


@pytest.fixture
def unmigrated_sqlite_url(tmp_path: Path) -> str:
    """A SQLite database that does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'new' / 'hub.db'}"


@pytest.fixture
async def unmigrated_postgres_url(postgres: PostgresServer) -> AsyncIterator[str]:
    """An empty PostgreSQL database."""
    name = await postgres.create("template0")
    yield postgres.url(name)
    await postgres.drop(name)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh migrated database, SQLite and PostgreSQL in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def unmigrated_url(request: pytest.FixtureRequest) -> str:
    """An empty database, SQLite and PostgreSQL in turn."""
    url: str = request.getfixturevalue(f"unmigrated_{request.param}_url")
    return url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A started ``Database``, SQLite and PostgreSQL in turn."""
    database = Database(database_url)
    await database.start()
    yield database
    await database.close()


def _unprivileged() -> str | None:
    """Whom to run the server as: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    pytest.fail("no unprivileged user to run PostgreSQL as: neither postgres nor nobody exists")


def _fast_place() -> Path | None:
    """Memory, if there is enough: a database is copied there in 16 ms, and in 400 on a disk."""
    place = Path("/dev/shm")
    if os.access(place, os.W_OK) and shutil.disk_usage(place).free > 1 << 30:
        return place
    return None
