"""Receiving what is published: one connection, and one task that drains it, per server."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from hub.backplane.redis_server import ANSWER_S, Link, Server, away, pack
from hub.backplane.redis_topology import Topology

SUBSCRIBE_S = 4.0
"""A subscription that Redis has not confirmed by then has failed."""
QUIET_S = 5.0
"""A connection that was quiet for so long is asked whether it is still there."""
STABLE_S = 5.0
"""A connection that lasted for so long did not fail by being made."""
BACKOFF_S = (0.05, 2.0)
"""The first and the longest pause before a connection is made again, before jitter."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Subscription:
    """One pub/sub channel by its ``name``. ``deliver`` is given each message; ``repaired`` is
    called when messages may have been missed. ``sharded``: of Redis Cluster's sharded pub/sub.
    """

    name: bytes
    partition: int
    sharded: bool
    deliver: Callable[[bytes], None]
    repaired: Callable[[], None]
    known: bool = False  # it was confirmed once
    waiting: int = 0  # callers of ``subscribe`` that wait for that
    confirmed: asyncio.Event = field(default_factory=asyncio.Event)


class Subscriber:
    """All subscriptions of a node, each at the server that holds its partition."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._subscriptions: dict[bytes, Subscription] = {}
        self._receivers: dict[Server, Receiver] = {}
        topology.changed.append(self._rebalance)

    async def close(self) -> None:
        """Stop receiving."""
        receivers = tuple(self._receivers.values())
        self._receivers.clear()
        self._subscriptions.clear()
        for receiver in receivers:
            await receiver.close()

    async def subscribe(self, wanted: Subscription) -> None:
        """Receive from now on; returns when Redis has confirmed it. Takes the place of another
        subscription of this name. Raises Fault("backend_unavailable") within ``SUBSCRIBE_S``.
        """
        held = self._subscriptions.get(wanted.name)
        if held is None:
            receiver = self._receiver(self._topology.owner(wanted.partition))
            held = self._subscriptions[wanted.name] = wanted
            receiver.add((held,))
        else:
            held.deliver, held.repaired = wanted.deliver, wanted.repaired
        if held.known:
            return
        held.waiting += 1
        try:
            async with asyncio.timeout(SUBSCRIBE_S):
                await held.confirmed.wait()
        except TimeoutError as error:
            raise away(error) from error
        finally:
            held.waiting -= 1
            if not held.known and not held.waiting:
                self.unsubscribe(held.name, held)

    def unsubscribe(self, name: bytes, only: Subscription | None = None) -> None:
        """Receive no more of this name (or only if it is still this subscription's)."""
        held = self._subscriptions.get(name)
        if held is None or (only is not None and held is not only):
            return
        del self._subscriptions[name]
        for receiver in self._receivers.values():
            receiver.drop(held)

    def _receiver(self, server: Server) -> "Receiver":
        receiver = self._receivers.get(server)
        if receiver is None:
            receiver = self._receivers[server] = Receiver(server, self._topology)
        return receiver

    def _rebalance(self) -> None:
        """Follow the partitions to where they are now."""
        for receiver in tuple(self._receivers.values()):
            moved: dict[Server, list[Subscription]] = {}
            for held in receiver.held():
                owner = self._topology.owner(held.partition)
                if owner is not receiver.server:
                    moved.setdefault(owner, []).append(held)
            for owner, subscriptions in moved.items():
                for held in subscriptions:
                    receiver.drop(held)
                self._receiver(owner).add(subscriptions)
        for server, receiver in tuple(self._receivers.items()):
            if not receiver.held():
                del self._receivers[server]
                receiver.end()


def _pause_s(failures: int) -> float:
    """How long to wait after so many failures: full jitter, so that a thousand nodes do not come
    back in step.
    """
    first, longest = BACKOFF_S
    doubled = min(failures, 32)  # a Redis that is away for an hour is no number of 2,000 bits
    return random.uniform(0, min(longest, first * 2**doubled))  # noqa: S311


class Receiver:
    """What is received from one server. Its task lives until ``close`` whatever happens."""

    def __init__(self, server: Server, topology: Topology) -> None:
        self.server = server
        self._topology = topology
        self._held: dict[bytes, Subscription] = {}
        self._outgoing: list[bytes] = []
        self._wake = asyncio.Event()
        self._heard = asyncio.Event()
        self._connected = False
        # Confirmations of this connection that are still to come, by name.
        self._begun: Counter[bytes] = Counter()
        self._ended: Counter[bytes] = Counter()
        self._task: asyncio.Task[None] | None = None

    def held(self) -> Iterable[Subscription]:
        """The subscriptions at this server."""
        return tuple(self._held.values())

    def add(self, subscriptions: Iterable[Subscription]) -> None:
        """Subscribe at this server, now or as soon as it can be reached."""
        for wanted in subscriptions:
            self._held[wanted.name] = wanted
            if self._connected:
                self._begin(wanted)
        if self._task is None:
            self._task = asyncio.create_task(self._receive())

    def drop(self, unwanted: Subscription) -> None:
        """Subscribe no more."""
        if self._held.pop(unwanted.name, None) is not None and self._connected:
            self._ended[unwanted.name] += 1
            self._send("SUNSUBSCRIBE" if unwanted.sharded else "UNSUBSCRIBE", unwanted.name)

    async def close(self) -> None:
        """End the task and its connection, and return when they have ended."""
        self.end()
        if self._task is not None:
            await asyncio.wait({self._task})

    def end(self) -> None:
        """End the task and its connection."""
        if self._task is not None:
            self._task.cancel()

    def _begin(self, wanted: Subscription) -> None:
        self._begun[wanted.name] += 1
        self._send("SSUBSCRIBE" if wanted.sharded else "SUBSCRIBE", wanted.name)

    def _send(self, *args: str | bytes) -> None:
        self._outgoing.append(pack(*args))
        self._wake.set()

    async def _receive(self) -> None:
        clock = asyncio.get_running_loop().time
        failures = 0
        while self._held:
            since = clock()
            try:
                link = await self.server.open()
                if failures:
                    log.info("Receiving from Redis at %s:%d again", *self.server.address)
                await self._serve(link)
            except (RedisError, OSError) as error:
                if clock() - since > STABLE_S:
                    failures = 0
                if not failures:
                    log.warning(
                        "Not receiving from Redis at %s:%d: %s", *self.server.address, error
                    )
            except Exception:  # a message that is none of ours, say: the log has what was missed
                log.exception("Receiving from Redis at %s:%d failed", *self.server.address)
            failures += 1
            await asyncio.sleep(_pause_s(failures))
            await self._topology.refresh()
        self._task = None  # nothing to receive here; ``add`` begins again

    async def _serve(self, link: Link) -> None:
        """Subscribe to everything and deliver until the connection breaks."""
        self._outgoing.clear()
        self._begun.clear()
        self._ended.clear()
        self._connected = True
        for held in self._held.values():
            self._begin(held)
        tasks = {asyncio.create_task(self._read(link)), asyncio.create_task(self._write(link))}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._connected = False
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await link.close()

    async def _write(self, link: Link) -> None:
        """Send what is to be sent, and ask a quiet server whether it is there. Raises TimeoutError
        when it does not answer.
        """
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    await self._wake.wait()
            except TimeoutError:
                self._outgoing.append(pack("PING"))
            self._wake.clear()
            packed = b"".join(self._outgoing)
            self._outgoing.clear()
            self._heard.clear()
            async with asyncio.timeout(ANSWER_S):
                await link.connection.send_packed_command(packed, check_health=False)
                await self._heard.wait()

    async def _read(self, link: Link) -> None:
        connection, held, heard = link.connection, self._held, self._heard
        while True:
            message = await connection.read_response(disable_decoding=True)
            heard.set()
            if not isinstance(message, list):
                continue  # the PONG of a connection without subscriptions
            kind, name = message[0], message[1]
            if kind in (b"message", b"smessage"):
                subscription = held.get(name)
                if subscription is not None:
                    subscription.deliver(message[2])
            elif kind in (b"subscribe", b"ssubscribe"):
                self._confirm(name)
            elif kind in (b"unsubscribe", b"sunsubscribe"):
                self._end(name)

    def _confirm(self, name: bytes) -> None:
        self._begun[name] -= 1
        if self._begun[name] > 0:  # confirmed, but we left and came back since
            return
        del self._begun[name]
        held = self._held.get(name)
        if held is None:
            return
        if held.known:
            held.repaired()
        held.known = True
        held.confirmed.set()

    def _end(self, name: bytes) -> None:
        if self._ended[name]:
            self._ended[name] -= 1
            if not self._ended[name]:
                del self._ended[name]
        elif name in self._held:
            # The server gave the slot away. Begin again, wherever it is now.
            raise ConnectionError("Redis ended a subscription")
