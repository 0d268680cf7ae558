"""The hub itself: the application and the server of ``hub serve``, with a publisher beside it.

Reads the settings from the environment as the hub does. ``without-runs``: it drives none.
``near=N``: it hands sign-ins over by this descriptor; ``far=N``: it is the door that takes them in.
``lends=N``: by this one its memory is the backplane of another; ``memory=N``: that is its own.
"""

import asyncio
import gc
import os
import socket
import sys
import threading
from typing import Any

import uvloop
from sqlmodel import col, update

from hub.app import running
from hub.backplane.interface import Backplane
from hub.backplane.memory import MemoryBackplane, MemoryShared
from hub.backplane.memory_server import MemoryServer
from hub.backplane.remote_memory import RemoteMemory
from hub.cli import memory
from hub.cli.serving import DoorServer, HubServer
from hub.ids import new_id
from hub.settings import read_settings
from hub.storage.scope import EVERY_TENANT
from hub.storage.tables import Conversation, User, now
from hub.transports.door import Handover
from tests.bench.child import obey
from tests.bench.servers.appending import Appending
from tests.bench.servers.furnishing import Furnishing
from tests.bench.servers.letting_in import let_in
from tests.bench.servers.listening import loopback, serving
from tests.bench.servers.sampler import Sampler, Stages

PASSWORD = "correct horse battery"


async def main() -> None:
    listening, port = loopback()
    # A few users are all the clients there are: what they may do at most is not what is measured.
    cost = os.environ.get("HUB_BCRYPT_COST", "4")
    unlimited = {"HUB_CONNECTIONS_PER_USER": 0, "HUB_USER_RATE": 0, "HUB_TENANT_RATE": 0}
    settings = read_settings(HUB_HOST="127.0.0.1", HUB_PORT=port, HUB_BCRYPT_COST=cost, **unlimited)
    near, far, lends, lent = map(_end, ("near", "far", "lends", "memory"))
    backplane: Backplane | None = None if lent is None else RemoteMemory(lent, os.abort)
    if lends is not None:
        shared = MemoryShared()
        backplane = MemoryBackplane(shared)
        lending = MemoryServer(shared)
        lending.admit(lends)
    drives = "without-runs" not in sys.argv[1:]
    async with running(settings, worker=drives, backplane=backplane) as hub:
        services = hub.services
        sampler = Sampler()
        appending = Appending(services.backplane)

        async def sign_in(users: int) -> list[dict[str, str]]:
            """Make users; the token, the tenant and the id of each."""
            found = []
            for _ in range(users):
                email = f"{new_id('u').lower()}@hub.example"
                user, tenant = await services.accounts.register(email, PASSWORD)
                pair = await services.accounts.login(email, PASSWORD)
                found.append(
                    {
                        "token": pair.access_token,
                        "refresh": pair.refresh_token,
                        "tenant": tenant.id,
                        "user": user.id,
                        "email": email,
                    }
                )
            return found

        async def disable(users: list[dict[str, str]]) -> None:
            """Let users do nothing any more, in any tenant."""
            ids = [user["user"] for user in users]
            async with services.database.write(EVERY_TENANT) as session:
                theirs = col(User.id).in_(ids)
                await session.exec(update(User).where(theirs).values(disabled_at=now()))

        async def converse(owners: list[dict[str, str]], model: str | None = None) -> list[str]:
            """Make a conversation for each of the owners; their ids."""
            made = [
                Conversation(
                    id=new_id("c"),
                    tenant_id=owner["tenant"],
                    owner_id=owner["user"],
                    model=model,
                )
                for owner in owners
            ]
            ids = [one.id for one in made]
            by_tenant: dict[str, list[Conversation]] = {}
            for one in made:
                by_tenant.setdefault(one.tenant_id, []).append(one)
            for tenant, theirs in by_tenant.items():
                async with services.database.write(tenant) as session:
                    session.add_all(theirs)
            return ids

        async def authorise(
            token: str, method: str, params: dict[str, Any], count: int
        ) -> list[float]:
            """ns of each step that lets a message in."""
            return await let_in(services, token, method, params, count)

        async def sample(seconds: float) -> dict[str, Any]:
            return await sampler.run(seconds)

        async def sample_publishing(
            seconds: float, stages: Stages, **publishing: Any
        ) -> dict[str, Any]:
            return await sampler.beside(appending.publish(**publishing), seconds, stages)

        async def collect() -> int:
            return gc.collect()

        async def figures() -> dict[str, Any]:
            """Open connections, and the hub's closes by code."""
            registry = services.metrics.registry
            closes = {
                sample.labels["code"]: sample.value
                for metric in registry.collect()
                for sample in metric.samples
                if sample.name == "hub_closes_total" and sample.labels["by"] == "hub"
            }
            return {"connections": registry.get_sample_value("hub_connections"), "closes": closes}

        async def census() -> dict[str, int]:
            """What there is of what must not grow."""
            return {
                "tasks": len(asyncio.all_tasks()),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "threads": threading.active_count(),
            }

        server = HubServer(hub) if far is None else DoorServer(hub, far)
        if near is not None:
            handover = server.server_state.handover = Handover(near, services.metrics.door)
            handover.open = True
        # As `hub serve` does.
        async with memory.settled(server.connected), serving(server, listening):
            await obey(
                {"port": port},
                {
                    "sign_in": sign_in,
                    "disable": disable,
                    "converse": converse,
                    **appending.commands(),
                    **Furnishing(services).commands(),
                    "authorise": authorise,
                    "sample": sample,
                    "sample_publishing": sample_publishing,
                    "collect": collect,
                    "figures": figures,
                    "census": census,
                },
            )


def _end(name: str) -> socket.socket | None:
    """The end of a pair that it was given by this name."""
    found = [word for word in sys.argv[1:] if word.startswith(f"{name}=")]
    if not found:
        return None
    end = socket.socket(fileno=int(found[0].partition("=")[2]))
    end.setblocking(False)
    return end


if __name__ == "__main__":
    uvloop.run(main())
