"""Backs: the databases and backplanes that a hub stands on, as the environment that names them."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.parts.postgres import PostgresCluster
from tests.parts.redis import RedisProcess

Back = Callable[[], AbstractContextManager[dict[str, str]]]
"""Its settings; it is started and ended with the block."""

EMBEDDED: Final = "SQLite, memory"
OUTGROWN: Final = "PostgreSQL, Redis"


def backs(*, all_of_them: bool = True) -> dict[str, Back]:
    """By name: the embedded one, and PostgreSQL with Redis where they are installed."""
    found: dict[str, Back] = {EMBEDDED: embedded}
    if all_of_them and has_redis() and _postgres_programs():
        found[OUTGROWN] = outgrown
    return found


@contextmanager
def embedded() -> Iterator[dict[str, str]]:
    """SQLite in a directory of its own, and the memory of the process."""
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        yield {"HUB_DATA_DIR": folder}


@contextmanager
def outgrown() -> Iterator[dict[str, str]]:
    """PostgreSQL and Redis."""
    with redis_server() as server, shared(server) as environ:
        yield environ


@contextmanager
def shared(server: RedisProcess) -> Iterator[dict[str, str]]:
    """A Redis, and PostgreSQL if it is installed here; else a file of SQLite."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hub-bench-"))
        environ = {"HUB_DATA_DIR": folder, "HUB_REDIS_URL": server.url}
        programs = _postgres_programs()
        if programs is not None:
            cluster = PostgresCluster(programs)
            stack.callback(cluster.remove)
            cluster.start()
            stack.callback(cluster.stop)
            place = f"127.0.0.1:{cluster.port}/postgres"
            environ["HUB_DATABASE_URL"] = f"postgresql+asyncpg://hub@{place}"
        yield environ


def has_redis() -> bool:
    """Whether a redis-server is installed here."""
    return shutil.which("redis-server") is not None


@contextmanager
def redis_server() -> Iterator[RedisProcess]:
    """A Redis of one's own."""
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as folder:
        server = RedisProcess(Path(folder) / "redis")
        try:
            server.start()
            yield server
        finally:
            server.stop()


def redis_pid(server: RedisProcess) -> int:
    """The process whose CPU is the server's."""
    with server.client() as client:
        return int(client.info("server")["process_id"])


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None
