"""Which Redis server holds which partition: one for all, or the masters of a cluster."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import AskError, MovedError, RedisError, ResponseError, TryAgainError

from hub.backplane.redis_keys import PARTITIONS, slot_of
from hub.backplane.redis_server import ANSWER_S, Address, Call, Redirect, Server, away
from hub.faults import Fault

OLDEST = (7, 0)
"""The oldest Redis that will do: scripts with flags, sharded pub/sub."""
REDIRECTS = 20
"""How often a call is sent elsewhere before it fails."""
TRY_AGAIN_S = 0.05
"""A slot that is being moved answers TRYAGAIN until it has arrived."""
FRESH_S = 0.2
"""A map of the cluster that is younger than this is not asked for again."""


class Topology:
    """The servers behind a URL: ``redis://``, ``rediss://``, ``redis+cluster://`` or
    ``rediss+cluster://``. Raises ValueError for any other.
    """

    def __init__(self, url: str, client_name: str) -> None:
        scheme, _, rest = url.partition("://")
        self.clustered = scheme.endswith("+cluster")
        options: dict[str, Any] = dict(parse_url(f"{scheme.removesuffix('+cluster')}://{rest}"))
        self._seed: Address = (options.pop("host", "localhost"), options.pop("port", 6379))
        # A time-out is around a whole pipeline; one around each answer costs as much as the answer.
        options |= {
            "socket_timeout": None,
            "socket_connect_timeout": ANSWER_S,
            "protocol": 2,
            "client_name": client_name,
        }
        self._connection = options.pop("connection_class", Connection)
        if not issubclass(self._connection, Connection):
            raise ValueError(f"not redis:// or redis+cluster://, but {scheme}://")
        self._options = options
        self._servers: dict[Address, Server] = {}
        self._owners: list[Server] = []
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed = 0.0
        self._asked = 0
        self.changed: list[Callable[[], None]] = []

    async def start(self) -> None:
        """Find the servers, and see that they answer and are new enough.

        Raises Fault("backend_unavailable"), which names the setting and the place, for an operator.
        """
        try:
            if self.clustered:
                await self._find()
            else:
                self._owners = [self._server(self._seed)] * PARTITIONS
            link = await self._owners[0].open()
        except (RedisError, OSError) as error:
            host, port = self._seed
            raise Fault(
                "backend_unavailable",
                f"HUB_REDIS_URL: Redis at {host}:{port} cannot be used: "
                f"{str(error) or type(error).__name__}",
            ) from error
        await link.close()
        version = tuple(int(part) for part in link.version.split(".")[:2] if part.isdigit())
        if version and version < OLDEST:
            raise Fault(
                "backend_unavailable", f"Redis {link.version} is too old; 7.0 or newer is needed."
            )

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})
        for server in tuple(self._servers.values()):
            await server.close()
        self._servers.clear()
        self._owners = []

    def owner(self, partition: int) -> Server:
        """The server that holds a partition. Raises Fault("backend_unavailable") before
        ``start`` and after ``close``.
        """
        if not self._owners:
            raise away()
        return self._owners[partition]

    def partitions(self) -> tuple[tuple[int, Server], ...]:
        """One partition of each server, with the server."""
        if not self._owners:
            raise away()
        return tuple({server: (at, server) for at, server in enumerate(self._owners)}.values())

    async def call(self, call: Call) -> Any:
        """Send a call to where it belongs; its answer. Raises Fault("backend_unavailable")."""
        self.owner(call.partition).call(call)
        return await call.future

    async def refresh(self) -> None:
        """Ask a cluster for its map again, unless that was just done. A cluster that does not
        answer leaves the map as it was.
        """
        if not self.clustered or time.monotonic() - self._refreshed < FRESH_S:
            return
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.wait({self._refreshing})

    async def _refresh(self) -> None:
        try:
            await self._find()
            await self._let_go()
        except (RedisError, OSError):
            return  # who needs the map finds out, and says so to who asked
        finally:
            self._refreshing = None
            self._refreshed = time.monotonic()

    async def _find(self) -> None:
        error: Exception | None = None
        known = list(dict.fromkeys((*(server.address for server in self._owners), self._seed)))
        # Another one first each time, and a while for each: some that hang must not use up the time
        # in which others could answer.
        self._asked += 1
        first = self._asked % len(known)
        async with asyncio.timeout(ANSWER_S):
            for address in (*known[first:], *known[:first]):
                try:
                    async with asyncio.timeout(ANSWER_S / 3):
                        self._learn([self._server(at) for at in await self._slots(address)])
                        return
                except (RedisError, OSError) as caught:
                    error = caught
        raise error or ConnectionError("no server of the cluster is known")

    async def _let_go(self) -> None:
        """Close what holds nothing any more: servers that come back at other addresses, each time
        that they fail, would add up.
        """
        for address, server in tuple(self._servers.items()):
            if server.idle and server not in self._owners:
                del self._servers[address]
                await server.close()

    async def _slots(self, address: Address) -> list[Address]:
        """The master of each partition, as the server at ``address`` knows them."""
        link = await self._server(address).open()
        try:
            ranges = await link.ask("CLUSTER", "SLOTS")
        finally:
            await link.close()
        masters: dict[int, Address] = {}
        for start, end, master, *_ in ranges:
            host = master[0].decode() if master[0] else address[0]
            for partition, slot in enumerate(_SLOTS):
                if start <= slot <= end:
                    masters[partition] = (host, master[1])
        if len(masters) < PARTITIONS:
            raise ResponseError("the cluster does not cover all slots")
        return [masters[partition] for partition in range(PARTITIONS)]

    def _learn(self, owners: list[Server]) -> None:
        if owners == self._owners:
            return
        self._owners = owners
        for server in tuple(self._servers.values()):
            calls = tuple(server.waiting)
            server.waiting.clear()
            for call in calls:
                (server if call.asking else owners[call.partition]).call(call)
        for tell in self.changed:
            tell()

    def _server(self, address: Address) -> Server:
        server = self._servers.get(address)
        if server is None:
            server = Server(address, self._connect, self._redirected, self._troubled)
            self._servers[address] = server
        return server

    def _connect(self, address: Address) -> AbstractConnection:
        host, port = address
        connection: AbstractConnection = self._connection(host=host, port=port, **self._options)
        return connection

    def _troubled(self) -> None:
        # The server may have been replaced: learn by whom without letting anyone wait for it.
        if self.clustered and self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())

    async def _redirected(self, server: Server, redirects: list[Redirect]) -> None:
        """Send calls to where they belong now, in front of those that were made since."""
        if any(isinstance(e, TryAgainError) or call.tries > 2 for call, e in redirects):
            await asyncio.sleep(TRY_AGAIN_S)
        owners = list(self._owners)
        for call, error in redirects:
            if isinstance(error, MovedError):
                owners[call.partition] = self._named(error, server)
        if owners != self._owners:
            self._learn(owners)
            self._troubled()  # where one partition has gone, others may have
        targets: dict[Server, list[Call]] = {}
        for call, error in redirects:
            call.tries += 1
            if call.tries > REDIRECTS:
                call.fail(error)
                continue
            target = self._owners[call.partition]
            if isinstance(error, AskError) and not isinstance(error, MovedError):
                call.asking = True
                target = self._named(error, server)
            targets.setdefault(target, []).append(call)
        for target, calls in targets.items():
            target.waiting[:0] = calls
            target.flush()

    def _named(self, error: AskError, server: Server) -> Server:
        # An empty host is the one that answered.
        return self._server((error.host or server.address[0], error.port))


_SLOTS = tuple(slot_of(partition) for partition in range(PARTITIONS))
