"""The worker: takes conversations that have work from the queue, and drives their runs.

A worker holds a conversation's lease while it drives its runs, one after the other. The lease is
renewed three times in its life; when it was lost, the run stops. A sweep looks for conversations
that need a worker and have none: their hint was lost, or their worker was.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import orjson

from hub.agents.answers import Answers
from hub.agents.conversations.transcript import Transcript
from hub.agents.orchestrator import RUN_CONTROL, RUN_QUEUE, Orchestrator, queue_item
from hub.agents.permission import Permits
from hub.agents.runner import Runner
from hub.backplane.interface import Backplane, Lease, LeaseLost
from hub.faults import Fault
from hub.ids import is_id
from hub.inference.catalogue import Catalogue
from hub.telemetry.logs import log
from hub.telemetry.metrics import Metrics

LEASE_S: Final = 9.0
"""How long a lease outlives its last renewal: a lost worker's runs are found after this."""
RENEW_S: Final = LEASE_S / 3
SWEEP_S: Final = 3.0
DEQUEUE_S: Final = 2.0
AWAY_S: Final = 0.5
ANNOUNCED_EVERY_S: Final = 1.0


class Worker:
    """Drives up to ``concurrency`` runs at once. ``start``, then ``close``."""

    def __init__(
        self,
        *,
        orchestrator: Orchestrator,
        transcript: Transcript,
        catalogue: Catalogue,
        backplane: Backplane,
        metrics: Metrics,
        permits: Permits,
        answers: Answers,
        concurrency: int,
    ) -> None:
        self._answers = answers
        self._orchestrator = orchestrator
        self._transcript = transcript
        self._catalogue = catalogue
        self._backplane = backplane
        self._metrics = metrics
        self._permits = permits
        self._free = asyncio.Semaphore(concurrency)
        self._driving: dict[str, asyncio.Task[None]] = {}
        self._more: set[str] = set()  # driven items that were hinted at once more
        self._runners: dict[str, Runner] = {}
        self._announced: list[str] = []
        self._draining = False
        self._idle = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to work. Raises Fault("backend_unavailable")."""
        await self._backplane.listen(RUN_CONTROL, self._controlled)
        self._loops = [
            asyncio.create_task(self._forever(self._take, lambda: not self._draining)),
            asyncio.create_task(self._forever(self._sweep)),
            asyncio.create_task(self._forever(self._note_announced)),
        ]

    async def drained(self) -> None:
        """Take no new runs, and return when those under way have ended.

        What waits behind them is handed over: a hint brings another worker to it at once.
        """
        self._draining = True
        while self._driving:
            self._idle.clear()
            await self._idle.wait()

    async def close(self) -> None:
        """Stop. Runs under way are handed over: their leases are released, and a hint brings
        another worker to each at once.
        """
        self._draining = True
        left = list(self._driving)
        for task in (*self._loops, *self._driving.values()):
            task.cancel()
        await asyncio.gather(*self._loops, *self._driving.values(), return_exceptions=True)
        try:
            for item in left:
                await self._backplane.enqueue(RUN_QUEUE, item)
            await self._write_announced()
        except Fault as fault:
            # A sweep of another worker finds the runs, and says again what was announced.
            log.warning("a worker could not hand over all", why=fault.reason)

    def _controlled(self, message: bytes) -> None:
        runner = self._runners.get(orjson.loads(message).get("cancel", ""))
        if runner is not None:
            runner.cancel()

    async def _forever(
        self, step: Callable[[], Awaitable[None]], wanted: Callable[[], bool] = lambda: True
    ) -> None:
        """Repeat a step; a backplane or database that is away is waited for.

        Nothing ends it but a cancel: a loop that was dead would leave lost runs unfound, while the
        node still said that it is ready.
        """
        waiting = ""
        while wanted():
            try:
                await step()
                waiting = ""
            except Fault as fault:
                if waiting != fault.message:  # once, not twice a second for as long as it lasts
                    waiting = fault.message
                    log.warning("a worker waits", why=waiting)
                await asyncio.sleep(AWAY_S)
            except Exception:
                log.exception("a worker's step failed")
                await asyncio.sleep(AWAY_S)

    async def _take(self) -> None:
        await self._free.acquire()
        try:
            item = await self._backplane.dequeue(RUN_QUEUE, DEQUEUE_S)
        except BaseException:
            self._free.release()
            raise
        if self._draining:
            self._free.release()
            if item is not None:  # asked for before, and not for us any more
                await self._backplane.enqueue(RUN_QUEUE, item)
            return
        if item is None or item in self._driving:
            self._free.release()
            if item is not None:
                self._more.add(item)
            return
        task = asyncio.create_task(self._drive(item))
        self._driving[item] = task

    async def _drive(self, item: str) -> None:
        """Drive a conversation's runs until no work is left and no hint came meanwhile."""
        try:
            while True:
                self._more.discard(item)
                await self._drive_conversation(item)
                if self._draining:
                    await self._backplane.enqueue(RUN_QUEUE, item)
                if self._draining or item not in self._more:
                    return
        except Fault as fault:
            log.warning("a conversation waits", why=fault.message)
        except Exception:
            log.exception("driving a conversation failed")
        finally:
            # In the same turn as the last look at the hints, so that none falls between.
            del self._driving[item]
            self._more.discard(item)
            self._free.release()
            self._idle.set()

    async def _sweep(self) -> None:
        driven = [key for key in self._runners if is_id(key, "r")]
        if driven:
            for run_id in await self._orchestrator.cancel_requested(driven):
                if (runner := self._runners.get(run_id)) is not None:
                    runner.cancel()
        after = ""
        while found := await self._orchestrator.unattended(after):
            for tenant_id, conversation_id in found:
                item = queue_item(tenant_id, conversation_id)
                if item not in self._driving:
                    await self._backplane.enqueue(RUN_QUEUE, item)
                after = conversation_id
        await asyncio.sleep(SWEEP_S)

    async def _note_announced(self) -> None:
        await asyncio.sleep(ANNOUNCED_EVERY_S)
        await self._write_announced()

    async def _write_announced(self) -> None:
        run_ids = tuple(self._announced)
        if run_ids:
            await self._orchestrator.announced(run_ids)
            # Not before it is written: until then only this list says that they need no worker.
            del self._announced[: len(run_ids)]

    # --- one conversation ---

    async def _drive_conversation(self, item: str) -> None:
        tenant_id, _, conversation_id = item.partition("/")
        lease = await self._backplane.acquire(f"conversation:{conversation_id}", LEASE_S)
        if lease is None:
            return
        keeper = asyncio.create_task(self._keep(lease, conversation_id))
        done: list[str] = []
        try:
            while True:
                assignment = await self._orchestrator.next_assignment(
                    tenant_id, conversation_id, skip=[*done, *self._announced]
                )
                if assignment is None:
                    break
                if assignment.run.attempt > 1:
                    self._metrics.run_takeovers.inc()
                runner = Runner(
                    assignment,
                    lease,
                    orchestrator=self._orchestrator,
                    transcript=self._transcript,
                    catalogue=self._catalogue,
                    backplane=self._backplane,
                    metrics=self._metrics,
                    permits=self._permits,
                    answers=self._answers,
                )
                done.append(runner.run_id)
                driven = await self._drive_run(runner, conversation_id)
                # What waits behind a run that ended in this node's own log begins when its end
                # is announced, in the shared one.
                if not driven or not runner.shared or self._draining:
                    break
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            await self._release(lease)

    async def _drive_run(self, runner: Runner, conversation_id: str) -> bool:
        self._runners[runner.run_id] = runner
        self._runners[conversation_id] = runner
        self._metrics.runs_active.inc()
        try:
            driven = await runner.drive()
            if driven and runner.shared:
                self._announced.append(runner.run_id)
            return driven
        finally:
            del self._runners[runner.run_id], self._runners[conversation_id]
            self._metrics.runs_active.dec()

    async def _keep(self, lease: Lease, conversation_id: str) -> None:
        """Renew the lease; when it is lost, stop the run."""
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self._backplane.renew(lease, LEASE_S)
                renewed = loop.time()
            except LeaseLost:
                # Whichever run is driven now: it may have begun while we asked.
                if (runner := self._runners.get(conversation_id)) is not None:
                    runner.lose_lease()
                return
            except Fault:
                # With the backplane away nobody else can take the lease either; it is renewed, or
                # found lost, when the backplane is back.
                log.warning("a lease could not be renewed", since_s=round(loop.time() - renewed))

    async def _release(self, lease: Lease) -> None:
        try:
            await self._backplane.release(lease)
        except Fault as fault:
            log.warning("a lease could not be released", why=fault.reason)
